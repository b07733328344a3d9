"""The method: score windows inside the ViT, keep the best, run the remaining blocks on what was kept.

Source: arXiv 2603.18004. Everything here is a function of tensors: no transformers, no files, no command line. Shape
letters: T frames (the videos of a batch one after the other), N patches a frame, W windows a frame, P patches a window,
M packed patches, V visual tokens, D width, H heads, K head dim.
"""

from stts_cli.budget import num_dropped
from stts_cli.pruning.attention import BIAS_FLOOR, KERNELS, log_score_bias, varlen_attention
from stts_cli.pruning.losses import temporal_loss, temporal_target
from stts_cli.pruning.packing import PackedPatches, pack, unpack
from stts_cli.pruning.placeholders import shrink_placeholders
from stts_cli.pruning.pruned_vit import VitOutput, prune_and_encode
from stts_cli.pruning.scorer import TokenScorer, random_scores, reference_scores, temporal_scores
from stts_cli.pruning.scorer_weights import SCORER_PART, is_scorer_weight, scorer_from_state_dict
from stts_cli.pruning.selection import select_windows
from stts_cli.pruning.windows import window_index
from stts_cli.scorers import SCORERS

__all__ = [
    "BIAS_FLOOR",
    "KERNELS",
    "SCORERS",
    "SCORER_PART",
    "PackedPatches",
    "TokenScorer",
    "VitOutput",
    "is_scorer_weight",
    "log_score_bias",
    "num_dropped",
    "pack",
    "prune_and_encode",
    "random_scores",
    "reference_scores",
    "scorer_from_state_dict",
    "select_windows",
    "shrink_placeholders",
    "temporal_loss",
    "temporal_scores",
    "temporal_target",
    "unpack",
    "varlen_attention",
    "window_index",
]
