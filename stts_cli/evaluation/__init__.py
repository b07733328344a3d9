"""Evaluation for `stts eval`: `benchmarks/` says where questions come from; `runner` asks and scores them.

`scoring` is how a reply is read (`--scoring strict`, `relaxed`): `strict` takes the one option that `read_option` there
finds in it. `published` is how other evaluators read it (`molmo2`, `official`); `metrics` and `statistics` make
accuracies and intervals of it.
"""
