"""The method: score windows inside the ViT, keep the best, run the remaining blocks on what was kept.

Source: arXiv 2603.18004. Everything here is a function of tensors: no transformers, no files, no command line. Shape
letters: T frames (the videos of a batch one after the other), N patches a frame, W windows a frame, P patches a window,
M packed patches, V visual tokens, D width, H heads, K head dim.
"""

from stts_cli.pruning.attention import current_attention
from stts_cli.pruning.losses import temporal_loss
from stts_cli.pruning.placeholders import shrink_placeholders
from stts_cli.pruning.plan import Plan
from stts_cli.pruning.pruned_vit import Vit, VitOutput, prune_and_encode
from stts_cli.pruning.scorer import TokenScorer
from stts_cli.pruning.scorer_weights import SCORER_PART, is_scorer_weight, scorer_from_state_dict
from stts_cli.pruning.windows import gather_windows, window_index

__all__ = [
    "SCORER_PART",
    "Plan",
    "TokenScorer",
    "Vit",
    "VitOutput",
    "current_attention",
    "gather_windows",
    "is_scorer_weight",
    "prune_and_encode",
    "scorer_from_state_dict",
    "shrink_placeholders",
    "temporal_loss",
    "window_index",
]
