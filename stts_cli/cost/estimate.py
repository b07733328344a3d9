"""What a video will cost, counted before anything runs: tokens, FLOPs and memory of an architecture. No torch.

`stts profile --analytic` prints this and nothing else; a measured profile checks with it that the run makes sense and
fits in memory. The plan of kept windows here spreads the budget evenly over the frames that may drop any; a real scorer
spreads it unevenly, which costs a little more attention, and a measured run counts its real windows instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stts_cli import __version__, settings
from stts_cli.config.shapes import Architecture
from stts_cli.cost import savings
from stts_cli.cost.savings import CONVENTION, DECODE, TRAINING_CONVENTION, Savings
from stts_cli.errors import InputError
from stts_cli.settings import Arm, PruneLayer, Pruning, check_prune_layer, lone_frames, num_dense_blocks, num_dropped

QUESTION = "What happens in this video?"
ANSWER = "A red square moves to the right and then stops."  # what a profiled training step learns to say
SECONDS_APART = 0.5  # times of frames that come from no video of the user's: two a second
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_VIT_PATCHES_AT_ONCE = 16_384  # patches that go through the ViT together, as families/base.py does


@dataclass(frozen=True)
class Plan:
    """One point of a profile, before it is measured."""

    num_frames: int  # T
    keep_ratio: float  # fraction of windows asked to be kept
    scorer: str  # "none" where nothing will be dropped
    savings: Savings
    memory: dict[str, dict[str, int]]  # bytes by use of the arms "dense" and "pruned", see `estimate_memory`

    def to_dict(self) -> dict[str, Any]:
        """Return the point as plain data."""
        return {
            "num_frames": self.num_frames,
            "keep_ratio": self.keep_ratio,
            "scorer": self.scorer,
            **counts(self.savings),
            "memory_estimate_bytes": self.memory,
        }


def counts(saved: Savings) -> dict[str, Any]:
    """Return `Savings.to_dict` of a pass that decodes nothing, without what a document says once."""
    document = saved.to_dict()
    document["flops"].pop(DECODE, None)
    del document["convention"]
    return document


def plan(
    architecture: Architecture,
    *,
    frames: Sequence[int],
    keep_ratios: Sequence[float],
    scorer: str,
    prune_layer: PruneLayer | None,
    dtype: str,
    on_gpu: bool,
    train: bool = False,
) -> list[Plan]:
    """Plan every point of a profile, and refuse what cannot be run.

    Args:
        architecture: the sizes.
        frames: frame counts, each >= 1.
        keep_ratios: fractions of windows kept, each in (0, 1].
        scorer: one of `settings.SCORERS`.
        prune_layer: 0-based ViT block after which windows are scored; None for the architecture's own.
        dtype: of the weights.
        on_gpu: whether it would run on a GPU, whose attention holds less.
        train: plan a training step instead of an answer.

    Returns:
        One plan for each frame count and keep ratio, in that order.

    Raises:
        InputError: a setting out of range, with the first point that it hits.
    """
    layer = architecture.prune_layer if prune_layer is None else prune_layer
    check_prune_layer(layer, architecture.sizes().vit_blocks)
    architecture = dataclasses.replace(architecture, prune_layer=layer)
    plans = []
    for num_frames in frames:
        if num_frames < 1:
            raise InputError(f"--frames {num_frames}: must be at least 1.")
        architecture = architecture.at(num_frames)
        for keep_ratio in keep_ratios:
            ratio = 1.0 if scorer == "none" else keep_ratio
            windows = kept_windows(architecture, num_frames, ratio, merges=scorer == "tome")
            saved = count(architecture, windows, layer, scorer, train=train)
            longest, limit = saved.tokens["LLM prompt"][0], architecture.shape.text_config.max_position_embeddings
            if longest > limit:
                dense = f"makes a dense prompt of {longest} tokens"
                raise InputError(f"--frames {num_frames}: {dense}; {architecture.name} takes {limit}.")
            need = estimate_training_memory if train else estimate_memory
            memory = {
                arm: need(architecture, num_frames, packed, saved.tokens["LLM prompt"][i], dtype=dtype, on_gpu=on_gpu)
                for i, (arm, packed) in enumerate((("dense", None), ("pruned", saved.tokens["ViT patches"][1])))
            }
            plans.append(Plan(num_frames, ratio, "none" if saved.changes_nothing else scorer, saved, memory))
    return plans


def plan_arms(
    architecture: Architecture, keep_ratios: Sequence[float], scorer: str, compare: Sequence[Arm], **how: Any
) -> tuple[list[Plan], list[str]]:
    """Plan a scorer at every keep ratio and more arms beside it, each point once, by frame count.

    Args:
        architecture: the sizes.
        keep_ratios: fractions of windows kept; empty for the architecture's own.
        scorer: "auto", or one of `settings.SCORERS`.
        compare: more arms, of which the scorer and keep ratio count.
        **how: the other arguments of `plan`.

    Returns:
        The plans, and notes for the user.

    Raises:
        InputError: a setting that cannot be honoured.
    """
    cases = [(scorer, keep_ratios), *((arm.scorer, [arm.keep_ratio] if arm.keep_ratio else []) for arm in compare)]
    plans: dict[tuple[int, float, str], Plan] = {}
    notes: list[str] = []
    for name, ratios in cases:
        found, more = resolve_scorer(architecture, name, ratios)
        notes += [note for note in more if note not in notes]
        for each in plan(architecture, keep_ratios=ratios or [architecture.keep_ratio], scorer=found, **how):
            plans.setdefault((each.num_frames, each.keep_ratio, each.scorer), each)
    order = list(how["frames"])
    return sorted(plans.values(), key=lambda each: order.index(each.num_frames)), notes


def resolve_scorer(architecture: Architecture, scorer: str, keep_ratios: Sequence[float] = ()) -> tuple[str, list[str]]:
    """Decide who scores the windows, as every command does (see `resolve_scorer`); where settings come from."""
    scorer, notes = settings.resolve_scorer(
        scorer,
        model=architecture.name,
        trained_with=architecture.scorer,
        has_learned=architecture.scorer == "learned",
        keep_ratios=keep_ratios,
    )
    return scorer, [*architecture.notes, *notes]


def clamp_notes(architecture: Architecture, plans: Sequence[Plan]) -> list[str]:
    """Return a line for every planned point that keeps more than was asked; see `Pruning.clamp_note`."""
    first = architecture.prune_from_frame
    asked = [Pruning(keep_ratio=p.keep_ratio, scorer=p.scorer, prune_from_frame=first) for p in plans]
    layouts = [architecture.at(p.num_frames).layout for p in plans]
    notes = [
        pruning.clamp_note(layout.num_units(p.num_frames), layout.num_windows)
        for pruning, layout, p in zip(asked, layouts, plans, strict=True)
    ]
    return [note for note in notes if note]


def size_notes(architecture: Architecture, frames: Sequence[int]) -> list[str]:
    """Return a line for every frame count of a family whose frames are the smaller the more there are."""
    layouts = {number: architecture.at(number).layout for number in frames}
    if all(layout == architecture.at(1).layout for layout in layouts.values()):
        return []
    return [
        f"{number} frames: {layout.frame_size[1]}x{layout.frame_size[0]} px each, {layout.num_windows} tokens "
        f"a unit of {layout.frames_per_unit} frames"
        for number, layout in layouts.items()
    ]


def kept_windows(architecture: Architecture, num_frames: int, keep_ratio: float, *, merges: bool = False) -> list[int]:
    """Return the windows kept of each unit, spread evenly over those after the first; their sum is the budget's.

    Raises:
        InputError: keep_ratio is outside (0, 1].
    """
    windows, units = architecture.layout.num_windows, architecture.layout.num_units(num_frames)
    dropped = num_dropped(units, windows, keep_ratio, architecture.prune_from_frame, merges=merges)
    return spread(units, windows, dropped)


def spread(units: int, windows: int, dropped: int) -> list[int]:
    """Return the windows that each unit keeps where those after the first drop so many between them, evenly."""
    each, rest = divmod(dropped, max(1, units - 1))
    return [windows] + [windows - each - (i < rest) for i in range(units - 1)]


def count(
    architecture: Architecture, windows: Sequence[int], prune_layer: PruneLayer, scorer: str, *, train: bool = False
) -> Savings:
    """Count one question, or one training step, on frames half a second apart.

    Args:
        architecture: the sizes.
        windows: windows kept of each unit.
        prune_layer: 0-based ViT block after which they were scored.
        scorer: one of `settings.SCORERS`.
        train: count a training step on `ANSWER`.

    Returns:
        Tokens and FLOPs. The prompt's text counts a token a byte, frame markers one each.
    """
    sizes = architecture.sizes()
    packed = [n * sizes.num_patches // sizes.num_windows for n in windows]
    if architecture.refill_lone_frames and scorer != "tome":
        for frame in lone_frames(packed, sizes.num_patches):
            packed[frame] = sizes.num_patches
    times = [SECONDS_APART * index for index in range(len(windows) * architecture.layout.frames_per_unit)]
    length = architecture.shape.prompt_length(times, QUESTION) + (len(ANSWER) if train else 0)  # its end is never read
    lengths = (length, length - len(windows) * sizes.num_windows + sum(windows))
    options: dict[str, Any] = {"scorer": scorer, "packed_patches": packed}
    if train:
        return savings.count_training(sizes, windows, lengths, prune_layer, answer_tokens=len(ANSWER) + 1, **options)
    return savings.count(sizes, windows, lengths, prune_layer, **options)


def estimate_memory(
    architecture: Architecture, num_frames: int, num_packed: int | None, prompt_tokens: int, *, dtype: str, on_gpu: bool
) -> dict[str, int]:
    """Estimate the memory of one arm.

    Args:
        architecture: the sizes.
        num_frames: T.
        num_packed: patches that the ViT's packed blocks run on in all, or None for dense.
        prompt_tokens: L of this arm.
        dtype: of the weights.
        on_gpu: whether it runs on a GPU.

    Returns:
        Bytes: "weights", "frames" as decoded, "vit" and "llm" (the activations' peaks, which do not add up), and
        "total" = weights + frames + the larger peak.
    """
    s, number = architecture.sizes(), BYTES[dtype]
    units = architecture.layout.num_units(num_frames)
    patches = units * s.num_patches
    # The ViT holds the pixels, what was scored (pruned), the features of what is kept that the connector reads, of one
    # block as its chunks and joined, and a chunk.
    layers = max(2.0, s.vit_taps)
    copies = layers if num_packed is None else 1.0 + layers * num_packed / patches
    chunk = min(patches, _VIT_PATCHES_AT_ONCE) * (4 * s.vit_width + s.vit_mlp_products * s.vit_mlp)
    vit = int(number * (patches * s.patch_dim + copies * patches * s.vit_width + chunk))
    queries, keys = s.llm_heads * s.llm_head_dim, s.llm_kv_heads * s.llm_head_dim
    growing = s.llm_layers - sum(group.layers for group in s.llm_groups if group.chunk)  # not linear attention's
    cache, hidden = number * prompt_tokens * 2 * growing * keys, number * prompt_tokens * 4 * s.llm_width
    # A mask is the prompt's square: made of booleans, and inside the attention once more of numbers. Causal attention
    # needs none.
    square = prompt_tokens**2 if architecture.shape.two_way else 0
    attention = square * (2 + (number if on_gpu else 4)) + number * prompt_tokens * 2 * queries
    mlp = square + number * prompt_tokens * 3 * s.llm_mlp
    llm = cache + hidden + max(attention, mlp)
    held = {"weights": number * architecture.num_parameters(), "frames": _frame_bytes(architecture, num_frames)}
    return {**held, "vit": vit, "llm": llm, "total": sum(held.values()) + max(vit, llm)}


def estimate_training_memory(
    architecture: Architecture, num_frames: int, num_packed: int | None, row_tokens: int, *, dtype: str, on_gpu: bool
) -> dict[str, int]:
    """Estimate the memory of one arm's training step: float32 weights, gradients and AdamW's two moments, activations.

    What autograd keeps of a block and of a layer was counted tensor by tensor. The attention mask is the row's square:
    as it is given, and a copy that each layer's attention keeps where it needs another dtype (autocast) or rows of a
    multiple of 16 (on a GPU).

    Args: as for `estimate_memory`; `row_tokens` are those that the language model reads, `dtype` is the activations'.

    Returns:
        As `estimate_memory`; here the activations of "vit" and "llm" are held together, and "weights" are all four,
        and autocast's copy.
    """
    s, number = architecture.sizes(), BYTES[dtype]
    half = number < 4
    units = architecture.layout.num_units(num_frames)
    patches = units * s.num_patches
    packed = patches if num_packed is None else num_packed
    num_dense = s.vit_blocks if num_packed is None else num_dense_blocks(architecture.prune_layer, s.vit_blocks)
    inner, queries, keys = (n * d for n, d in (
        (s.vit_heads, s.vit_head_dim), (s.llm_heads, s.llm_head_dim), (s.llm_kv_heads, s.llm_head_dim)
    ))  # fmt: skip
    # norms read float32; inputs of products, queries, keys, values, what attention returns, and two widths of the MLP
    block = number * (2 * s.vit_width + 4 * inner + s.vit_mlp_products * s.vit_mlp) + 4 * 2 * s.vit_width
    vit = (patches * num_dense + packed * (s.vit_blocks - num_dense)) * block
    if num_packed is not None and not on_gpu:  # attention with a bias that learns keeps its square
        vit += number * 3 * units * s.vit_heads * s.num_patches**2
    inputs = (5 if half else 2) * s.llm_width  # queries, keys and values are each given a copy by autocast
    layer = number * (inputs + 5 * queries + keys + 4 * s.llm_mlp) + 4 * (4 * s.llm_width + queries + keys)
    mask = row_tokens**2 * (4 + (number * s.llm_layers if half or on_gpu else 0))
    llm = row_tokens * s.llm_layers * layer + mask
    held = {
        "weights": (16 + (number if half else 0)) * architecture.num_parameters(),
        "frames": _frame_bytes(architecture, num_frames),
    }
    return {**held, "vit": vit, "llm": llm, "total": sum(held.values()) + vit + llm}


def _frame_bytes(architecture: Architecture, num_frames: int) -> int:
    height, width = architecture.layout.frame_size
    return num_frames * height * width * 3


def analytic(
    *,
    architecture: Architecture,
    frames: Sequence[int],
    keep_ratios: Sequence[float],
    scorer: str = "auto",
    prune_layer: PruneLayer | None = None,
    dtype: str = "auto",
    train: bool = False,
    compare: Sequence[Arm] = (),
) -> dict[str, Any]:
    """Count a profile without running it.

    Args: as for `plan_arms` and `plan`; no keep ratio means the architecture's own, "auto" dtype counts bfloat16.

    Returns:
        The document that report/profile.py prints: "mode" is "analytic", "points" are the plans.

    Raises:
        InputError: a setting that cannot be honoured.
    """
    dtype = "bfloat16" if dtype == "auto" else dtype
    layer = architecture.prune_layer if prune_layer is None else prune_layer
    how: dict[str, Any] = {"frames": frames, "prune_layer": layer, "dtype": dtype, "on_gpu": True, "train": train}
    plans, notes = plan_arms(architecture, keep_ratios, scorer, compare, **how)
    return {
        "stts": __version__,
        "command": "profile",
        "mode": "analytic",
        "model": describe(architecture, random_weights=False, is_demonstration=False),
        "settings": {"prune_layer": layer, "dtype": dtype, "question": QUESTION, "train": train},
        "notes": [
            *notes,
            *clamp_notes(architecture, plans),
            *size_notes(architecture, frames),
            "counted, nothing was run: windows spread evenly over the frames, text a token a byte",
        ],
        "convention": TRAINING_CONVENTION if train else CONVENTION,
        "points": [point.to_dict() for point in plans],
    }


def describe(architecture: Architecture, *, random_weights: bool, is_demonstration: bool) -> dict[str, Any]:
    """Return the model's part of a profile's document."""
    return {
        "name": architecture.name,
        "description": architecture.shape.description,
        "num_parameters": architecture.num_parameters(),
        "random_weights": random_weights,
        "is_demonstration": is_demonstration,
    }
