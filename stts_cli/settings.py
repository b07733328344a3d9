"""What travels through the whole program: how windows are pruned, how frames are cut, how it runs, and the budget.

Frozen and without torch, so that every room may import it. Source of the method: arXiv 2603.18004.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from stts_cli.errors import InputError, suggest

SCORERS = {
    "learned": "the paper's scorer, trained with the model",
    "temporal": "training-free: change since the previous frame",
    "reference": "training-free: change since the frame in which that position last changed",
    "random": "seeded noise",
    "tome": "no scores: merges similar windows of a frame instead of dropping any",
    "none": "dense: nothing is dropped",
}
DTYPES = ("auto", "float32", "bfloat16", "float16")
FOUR_BIT = "4bit"  # how weights can be quantized
KERNELS = ("auto", "flash_attn", "torch_varlen", "sdpa", "eager")
BIAS_RESCALES = ("row", "frame", "off")
BIAS_FLOOR = math.exp(-2)
LAST = "last"  # as a prune layer: behind the whole vision encoder
PruneLayer = int | Literal["last"]


@dataclass(frozen=True)
class Pruning:
    """How windows are chosen. A checkpoint carries one, the one it was trained with; what a user gives overrides it.

    Attributes:
        prune_layer: 0-based ViT block after which windows are scored; "last" to run the whole ViT on every patch, score
            its last block's output and spare the connector and the language model alone.
        keep_ratio: fraction of windows kept, in (0, 1].
        bias_rescale: "row" or "frame" for the soft bias on attention keys, "off" for none.
        bias_floor: what a row's or frame's lowest score is stretched to, in (0, 1]; its logarithm is the lowest bias.
        prune_from_frame: frames that the budget leaves out; a video of no more frames is not pruned.
        refill_lone_frames: a frame that packing into bins would leave alone runs whole; only its kept windows go on.
        scorer: one of `SCORERS`, or "module:function", the user's own.
        seed: for the random scorer.

    Raises:
        InputError: a value that means nothing.
    """

    prune_layer: PruneLayer = 3
    keep_ratio: float = 0.5
    bias_rescale: str = "row"
    bias_floor: float = BIAS_FLOOR
    prune_from_frame: int = 0
    refill_lone_frames: bool = False
    scorer: str = "temporal"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if allowed := what_is_allowed(name, value):
                raise InputError(f"--{name.replace('_', '-')} {value}: must be {allowed}.")

    def to_dict(self) -> dict[str, object]:
        """Return what a checkpoint stores: everything but the seed, which belongs to a run."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "seed"}

    @property
    def merges(self) -> bool:
        """Whether windows are merged into others of their frame, so that at least one of each frame stays."""
        return self.scorer == "tome"

    def override(self, **given: object) -> Pruning:
        """Return a copy with the values that were given; None means not given."""
        return dataclasses.replace(self, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]

    def num_dropped(self, num_units: int, num_windows: int) -> int:
        """Count the windows that one video drops; 0 where nothing is scored. See `num_dropped`."""
        if self.scorer == "none":
            return 0
        return num_dropped(num_units, num_windows, self.keep_ratio, self.prune_from_frame, merges=self.merges)

    def clamp_note(self, num_units: int, num_windows: int) -> str:
        """Say that a video keeps more windows than was asked; empty where the budget is met."""
        asked = num_asked(num_units, num_windows, self.keep_ratio, self.prune_from_frame)
        dropped = self.num_dropped(num_units, num_windows)
        if dropped == asked or self.scorer == "none":
            return ""
        total = num_units * num_windows
        frames = "1 frame" if num_units == 1 else f"{num_units} frames"
        stays = "the first frame always stays" + (", and a window of every other" if self.merges else "")
        kept = f"{total - dropped} of {total} windows were kept instead of {total - asked}"
        return f"keep ratio {self.keep_ratio:g} of {frames}: {stays}, so {kept}"


@dataclass(frozen=True)
class Layout:
    """How a video is cut. A unit is what the ViT attends within, and one row of the keep mask.

    Attributes:
        frame_size: height and width of a frame in pixels.
        grid: patch rows and columns of a unit.
        window: patch rows and columns of a window.
        frames_per_unit: frames that patches run through; a last unit of fewer is filled up by the family.
        num_class_tokens: tokens that the ViT puts before the patches of a unit, in no window and in no visual token.
    """

    frame_size: tuple[int, int]
    grid: tuple[int, int]
    window: tuple[int, int]
    frames_per_unit: int = 1
    num_class_tokens: int = 0

    @property
    def num_patches(self) -> int:
        """N, patches of a unit."""
        return self.grid[0] * self.grid[1]

    @property
    def window_grid(self) -> tuple[int, int]:
        """Window rows and columns of a unit; windows at the border may be cut."""
        return -(-self.grid[0] // self.window[0]), -(-self.grid[1] // self.window[1])

    @property
    def num_windows(self) -> int:
        """W, windows of a unit."""
        return self.window_grid[0] * self.window_grid[1]

    def num_units(self, num_frames: int) -> int:
        """Return U, the units of so many frames."""
        return -(-num_frames // self.frames_per_unit)


class LayoutRule(Protocol):
    """Decides how a video is cut before a frame of it is decoded; small and picklable, for processes without torch."""

    def __call__(self, height: int, width: int, num_frames: int) -> Layout:
        """Return the layout of a video of such frames."""


@dataclass(frozen=True)
class FixedLayout:
    """The rule of a family that cuts all videos alike."""

    layout: Layout

    def __call__(self, height: int, width: int, num_frames: int) -> Layout:
        """Return the one layout."""
        return self.layout


@dataclass(frozen=True)
class HeldLayout:
    """The rule under which frames that are added leave the size of the first so many."""

    rule: LayoutRule
    num_frames: int

    def __call__(self, height: int, width: int, num_frames: int) -> Layout:
        """Return the layout of a video of no more frames than are held."""
        return self.rule(height, width, min(num_frames, self.num_frames))


@dataclass(frozen=True)
class Arm:
    """One way to look at a video: what runs that are compared differ by.

    Attributes:
        name: for tables.
        model: a checkpoint folder or a hub id.
        revision: commit, branch or tag of a hub id; None for the newest.
        frames: the most frames of a video.
        max_fps: the most frames a second.
        keep_ratio: fraction of windows kept, in (0, 1]; None for the checkpoint's own.
        scorer: "auto", one of `SCORERS`, or "module:function".
        prune_layer: 0-based ViT block after which windows are scored; None for the checkpoint's own.
        dtype: "auto", "float32", "bfloat16" or "float16".
        device_map: "auto" or a file that says on which device each module is; None for all on one.
        quantize: "4bit" for the language model's weights in 4 bits; None for all in `dtype`.
        resize: who resizes frames, one of `resize.RESIZES`.
        spend_savings: take more frames instead, as many as cost about as much as `frames` dense ones.
        spend_by: what is held equal then: "tokens" of the video, which makes frames / keep_ratio, or "flops".
        spend_pixels: of a model whose frames are the smaller the more there are, what is held then: the pixels of each
            "frame", as large as those of `frames`, or the "total", as the model's own rule does.
        seed: of the random scorer; None for the run's.

    Raises:
        InputError: a number out of range.
    """

    name: str
    model: str
    frames: int = 64
    max_fps: float = 2.0
    keep_ratio: float | None = None
    scorer: str = "auto"
    prune_layer: PruneLayer | None = None
    dtype: str = "auto"
    resize: str = "model"
    spend_savings: bool = False
    spend_by: str = "tokens"
    spend_pixels: str = "frame"
    seed: int | None = None
    revision: str | None = None
    quantize: str | None = None
    device_map: str | None = None

    def __post_init__(self) -> None:
        must = {
            "frames": "" if type(self.frames) is int and self.frames >= 1 else "a whole number, at least 1",
            "max_fps": "" if type(self.max_fps) in (int, float) and 0 < self.max_fps < math.inf else "greater than 0",
            "scorer": "" if isinstance(self.scorer, str) else "text",
            "budget_by": "" if self.spend_by in ("tokens", "flops") else "tokens or flops",
            "budget_pixels": "" if self.spend_pixels in ("frame", "total") else "frame or total",
            "quantize": "" if self.quantize in (None, FOUR_BIT) else FOUR_BIT,
            "dtype": "" if self.dtype in DTYPES else f"{', '.join(DTYPES[:-1])} or {DTYPES[-1]}",
            **{
                name: what_is_allowed(name, getattr(self, name))
                for name in ("keep_ratio", "prune_layer", "seed")
                if getattr(self, name) is not None
            },
        }
        for name, allowed in must.items():
            if allowed:
                given = getattr(self, name.replace("budget", "spend"))
                raise InputError(f"--{name.replace('_', '-')} {given!r}: must be {allowed}.")

    def override(self, **given: object) -> Arm:
        """Return a copy with the values that were given; None means not given."""
        return dataclasses.replace(self, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]

    @property
    def is_dense(self) -> bool:
        """Whether nothing is dropped, as far as the settings say."""
        return self.scorer == "none" or self.keep_ratio == 1


@dataclass(frozen=True)
class Answering:
    """What a model is told before the video, and how it words answers: greedily, unless there is a temperature.

    Attributes:
        system: the system prompt; empty for what the chat template says without one.
        temperature: next tokens are drawn by their probabilities, logits divided by this; 0 takes the likeliest.
        top_p: draw among the likeliest tokens alone, as few as have this probability together; in (0, 1].
        stop: texts that end an answer, which does not hold them.
        think: let a model think before it answers, whose chat template leaves the choice; what it thinks is no part of
            the answer.

    Raises:
        InputError: a value that means nothing.
    """

    system: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    think: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.system, str) or (self.system and not self.system.strip()):
            raise InputError(f"--system {self.system!r}: must be a text.")
        if type(self.temperature) not in (int, float) or not 0 <= self.temperature < math.inf:
            raise InputError(f"--temperature {self.temperature!r}: must be a number, at least 0.")
        if type(self.top_p) not in (int, float) or not 0 < self.top_p <= 1:
            raise InputError(f"--top-p {self.top_p!r}: must be greater than 0 and at most 1.")
        if self.top_p < 1 and not self.temperature:
            raise InputError(f"--top-p {self.top_p:g}: has no effect on greedy answers; give a --temperature too.")
        if not isinstance(self.stop, (list, tuple)) or not all(isinstance(text, str) and text for text in self.stop):
            raise InputError(f"--stop {self.stop!r}: must be texts, none of them empty.")
        if type(self.think) is not bool:
            raise InputError(f"--think {self.think!r}: must be True or False.")
        object.__setattr__(self, "stop", tuple(self.stop))

    def to_dict(self) -> dict[str, object]:
        """Return what is not as by default, as plain data."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items() if v != getattr(GREEDY, k)}


GREEDY = Answering()
THINKING_TOKENS = 4096  # the most of an answer with --think, where no limit is given


@dataclass(frozen=True)
class Execution:
    """How the pruned ViT runs; changes memory and time, never what comes out.

    Attributes:
        kernel: attention of the packed blocks, one of `KERNELS`; "eager" for the dense blocks too.
        chunk_frames: frames that go through the blocks at once; None to choose: all with gradient, else bounded.
        checkpoint: keep no activations of a block; run it again in the backward pass.
        keep_scored: also return what was scored, for the temporal loss.
    """

    kernel: str = "auto"
    chunk_frames: int | None = None
    checkpoint: bool = False
    keep_scored: bool = False


def is_scorer(name: str) -> bool:
    """Return whether a name is one of `SCORERS` or "module:function", a function of the user's own."""
    module, colon, function = name.partition(":")
    return name in SCORERS or (bool(colon) and all(map(str.isidentifier, [*module.split("."), function])))


def what_is_allowed(name: str, value: object) -> str:
    """Return what a field of `Pruning` must be, in words, where a value is not; empty where it is."""
    is_number, is_whole = type(value) in (int, float), type(value) is int
    fits, allowed = {
        "prune_layer": (value == LAST or (is_whole and value >= 0), "a whole number, at least 0, or last"),  # type: ignore[operator]
        "keep_ratio": (is_number and 0 < value <= 1, "greater than 0 and at most 1"),  # type: ignore[operator]
        "bias_rescale": (value in BIAS_RESCALES, "row, frame or off"),
        "bias_floor": (is_number and 0 < value <= 1, "greater than 0 and at most 1"),  # type: ignore[operator]
        "prune_from_frame": (is_whole and value >= 0, "a whole number, at least 0"),  # type: ignore[operator]
        "refill_lone_frames": (type(value) is bool, "true or false"),
        "scorer": (isinstance(value, str) and is_scorer(value), f"one of {', '.join(SCORERS)}, or module:function"),
        "seed": (is_whole, "a whole number"),
    }[name]
    return "" if fits else allowed


def check_keep_ratio(keep_ratio: float) -> None:
    """Refuse a keep ratio that means nothing.

    Args:
        keep_ratio: fraction of windows kept.

    Raises:
        InputError: it is not in (0, 1].
    """
    if allowed := what_is_allowed("keep_ratio", keep_ratio):
        shown = f"{keep_ratio:g}" if isinstance(keep_ratio, float) else repr(keep_ratio)
        raise InputError(f"--keep-ratio {shown}: must be {allowed}.")


def check_prune_layer(prune_layer: PruneLayer, num_blocks: int) -> None:
    """Refuse a prune layer that leaves no block to run on fewer windows.

    Args:
        prune_layer: 0-based ViT block after which windows are scored, or "last".
        num_blocks: ViT blocks that run, up to the deepest that the connector reads.

    Raises:
        InputError: it is neither "last" nor in [0, num_blocks - 3].
    """
    if prune_layer != LAST and not (isinstance(prune_layer, int) and 0 <= prune_layer <= num_blocks - 3):
        raise InputError(
            f"--prune-layer {prune_layer}: must be 0 to {num_blocks - 3}; {num_blocks} ViT blocks run, the next one on "
            "all windows and at least one more on the kept ones; or last, behind all of them."
        )


def read_prune_layer(text: str) -> PruneLayer:
    """Read a prune layer as it is typed; InputError where it is neither "last" nor a whole number."""
    try:
        return "last" if text == LAST else int(text)
    except ValueError:
        raise InputError(f"--prune-layer {text}: must be {what_is_allowed('prune_layer', text)}.") from None


def default_prune_layer(num_blocks: int) -> int:
    """Return the block to score after where a checkpoint does not say: after 4 of 25, as in the paper; at least 1."""
    return max(1, round(num_blocks * 4 / 25) - 1)


def scored_block(prune_layer: PruneLayer, num_blocks: int) -> int:
    """Return the 0-based ViT block whose output is scored, of so many that run."""
    return prune_layer if isinstance(prune_layer, int) else num_blocks - 1


def num_dense_blocks(prune_layer: PruneLayer, num_blocks: int) -> int:
    """Count the ViT blocks that run on every patch, of so many: up to the scored one, and the one with the bias."""
    return min(scored_block(prune_layer, num_blocks) + 2, num_blocks)


def num_asked(num_frames: int, num_windows: int, keep_ratio: float, prune_from_frame: int) -> int:
    """Count the windows that a keep ratio asks one video to drop.

    Args:
        num_frames: T of this video, >= 1.
        num_windows: W a frame.
        keep_ratio: fraction of windows kept, in (0, 1].
        prune_from_frame: frames that the budget leaves out, >= 0; a video of no more frames drops nothing.

    Returns:
        int(W * (1 - keep_ratio) * max(0, T - prune_from_frame)).

    Raises:
        InputError: keep_ratio is outside (0, 1].

    Source: arXiv 2603.18004, token selection. The published code multiplies in float32 and truncates.
    """
    check_keep_ratio(keep_ratio)
    return int(_float32(_float32(num_windows * (1.0 - keep_ratio)) * max(0, num_frames - prune_from_frame)))


def num_dropped(
    num_frames: int, num_windows: int, keep_ratio: float, prune_from_frame: int = 0, *, merges: bool = False
) -> int:
    """Count the windows that one video drops: as many as asked, but never one of the first frame.

    Args:
        num_frames: as for `num_asked`.
        num_windows: as for `num_asked`.
        keep_ratio: as for `num_asked`.
        prune_from_frame: as for `num_asked`.
        merges: windows of a frame are merged into each other, so that at least one of each frame stays.

    Returns:
        Windows to drop, 0 for a single frame.

    Raises:
        InputError: keep_ratio is outside (0, 1].
    """
    asked = num_asked(num_frames, num_windows, keep_ratio, prune_from_frame)
    return min(asked, (num_windows - merges) * (num_frames - 1))


def first_fit_descending(lengths: list[int], capacity: int) -> list[list[int]]:
    """Put items into as few bins as first-fit-descending finds.

    Args:
        lengths: size of each item, 0 to skip it.
        capacity: size of a bin.

    Returns:
        The items' positions, one list a bin; equal sizes keep their order.

    Raises:
        ValueError: an item is larger than a bin.

    Source: arXiv 2603.18004, packing.
    """
    if max(lengths, default=0) > capacity:
        raise ValueError(f"a frame keeps {max(lengths)} patches, a bin holds {capacity}: bins must hold a whole frame")
    bins: list[list[int]] = []
    free: list[int] = []
    for item in sorted((i for i, n in enumerate(lengths) if n), key=lambda i: -lengths[i]):
        place = next((b for b, room in enumerate(free) if room >= lengths[item]), len(bins))
        if place == len(bins):
            bins.append([])
            free.append(capacity)
        bins[place].append(item)
        free[place] -= lengths[item]
    return bins


def lone_frames(lengths: list[int], capacity: int) -> list[int]:
    """Return the frames that first-fit-descending leaves alone in their bins; see `first_fit_descending`."""
    return [frames[0] for frames in first_fit_descending(lengths, capacity) if len(frames) == 1]


def _float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def resolve_scorer(
    scorer: str, *, model: str, trained_with: str, has_learned: bool, keep_ratios: Sequence[float] = ()
) -> tuple[str, list[str]]:
    """Decide who scores the windows.

    Args:
        scorer: "auto", one of `SCORERS`, or "module:function".
        model: what to call the checkpoint.
        trained_with: the scorer of its settings.
        has_learned: whether it carries a learned scorer.
        keep_ratios: fractions of windows kept that the user gave.

    Returns:
        One of `SCORERS` ("auto" is the learned one where there is one, else what the checkpoint was trained with, else
        temporal), and notes for the user.

    Raises:
        InputError: an unknown scorer, or the learned one of a checkpoint that has none.
    """
    notes = []
    if scorer == "auto":
        scorer = "learned" if has_learned else "temporal" if trained_with == "learned" else trained_with
        if scorer == "temporal":
            notes.append("this checkpoint has no learned scorer: the training-free temporal scorer is used")
    if not is_scorer(scorer):
        known = ["auto", *SCORERS, "module:function"]
        hint = suggest(scorer, known)
        raise InputError(
            f"--scorer {scorer}: must be {', '.join(known[:-1])} or {known[-1]}"
            f"{hint if 'did you mean' in hint else '.'}"
        )
    if scorer == "learned" and not has_learned:
        others = [name for name in SCORERS if name != "learned"]
        raise InputError(
            f"--scorer learned: {model} has no learned scorer; must be {', '.join(others[:-1])} or {others[-1]}."
        )
    if scorer == "none":
        notes += [
            f"scorer none keeps every window: keep ratio {ratio:g} has no effect" for ratio in keep_ratios if ratio < 1
        ]
    return scorer, notes
