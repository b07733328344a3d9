"""Evaluation for `stts eval`: `benchmarks/` says where questions come from; `runner` asks and scores them."""
