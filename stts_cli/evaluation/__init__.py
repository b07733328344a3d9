"""Benchmarks for `stts eval`: one file each says where the questions come from; `runner` asks and scores them."""
