"""Evaluation for `stts eval`: `benchmarks/` says where questions come from; `runner` asks and scores them.

`scoring` is how a reply is read (`--scoring strict`, `relaxed`), `published` how other evaluators read it; `metrics`
and `statistics` make accuracies and intervals of it.
"""
