"""What a run costs, from numbers alone: tokens, FLOPs and bytes. No torch.

FLOPs come from `savings.count`, which has the formulas and takes the windows that a run kept: `Video.count` of
engine/results.py calls it for a run, `count` of `estimate` for one that has not happened (`stts profile --analytic`,
the cost of a suite). A training step's come from `savings.count_training`. The sizes counted with are a family's
(`ModelShape`) or an architecture's of presets/shapes.
"""
