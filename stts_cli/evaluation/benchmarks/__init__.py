"""The benchmarks of `stts eval`: one file each says where the questions come from."""
