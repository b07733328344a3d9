"""What a run costs, from numbers alone: tokens, FLOPs and bytes. No torch.

`savings` holds the formulas and counts a run by the windows it kept; `estimate` counts one that has not happened. The
sizes they count with are a family's (`ModelShape`) or an architecture's of presets/shapes.
"""
