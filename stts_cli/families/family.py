"""What a model family is to the rest of the program: frames and a question in, visual tokens and a prompt out.

A family stands between the stock transformers model and the method: it gives `pruning` the ViT's blocks, runs the
connector, and words the prompt as the model was trained. It changes no module of the stock model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from stts_cli.budget import clamp_note as _clamp_note
from stts_cli.cost.savings import ModelShape
from stts_cli.families.checkpoints import Checkpoint
from stts_cli.families.settings import PruneSettings


@dataclass
class EncodedVideo:
    """The visual tokens of one or more videos.

    Attributes:
        visual_tokens: (V, D of the language model), frame after frame.
        keep_mask: bool (T, W), True = kept.
        seconds: by stage: "vit_dense" (patch embedding included), "score_select_pack", "vit_packed", "connector".
        scorer: who scored, "none" where nothing was dropped.
        kernel: attention kernel of the packed blocks, "dense" where nothing was dropped.
        kernel_reason: why that one.
        packed_patches: patches of each frame that the ViT's packed blocks ran on; all where nothing was dropped.
        scores: float32 (T, W), or None where nothing was scored.
        scored_hidden: (T, N, D) what was scored; only if asked for.
    """

    visual_tokens: Tensor
    keep_mask: Tensor
    seconds: dict[str, float]
    scorer: str
    kernel: str = "dense"
    kernel_reason: str = ""
    packed_patches: list[int] = field(default_factory=list)
    scores: Tensor | None = None
    scored_hidden: Tensor | None = None


@dataclass
class Prompt:
    """A prompt for the language model, without the placeholders of dropped windows.

    Attributes:
        input_ids: int64 (1, L).
        mm_token_type_ids: int64 (1, L), 1 for the tokens of the video.
        num_prefix: tokens before the user's turn; the same for every question about the video in the same context.
        dense_length: L before anything was deleted.
    """

    input_ids: Tensor
    mm_token_type_ids: Tensor
    num_prefix: int
    dense_length: int


class Family(Protocol):
    """A loaded video VLM with the method built in."""

    model: Any
    tokenizer: Any
    scorer: Any
    settings: PruneSettings
    model_name: str
    is_demonstration: bool
    window_index: Tensor
    notes: list[str]  # what a user should know about how it was loaded
    chain: Sequence[Checkpoint]  # what it was loaded from, the whole model last; empty for one made here

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""

    @property
    def resample(self) -> str:
        """Filter that frames are resized with: "bilinear" or "bicubic"."""

    @property
    def vit_blocks(self) -> list[Any]:
        """Blocks of the ViT in order, up to the deepest that runs."""

    @property
    def grid(self) -> tuple[int, int]:
        """Patch rows and columns of a frame."""

    @property
    def idle_vit_blocks(self) -> list[Any]:
        """Blocks of the ViT that nothing reads."""

    @property
    def scorer_sizes(self) -> dict[str, int]:
        """Arguments of a `TokenScorer` for this ViT."""

    @property
    def eos_token_ids(self) -> list[int]:
        """Tokens that end an answer."""

    def preprocess(self, frames: Tensor) -> Tensor:
        """Turn uint8 (T, H, W, 3) frames into patches (T, N, patch_dim)."""

    def encode_video(
        self,
        patches: Tensor,
        *,
        keep_ratio: float,
        scorer: str,
        prune_layer: int | None = None,
        seed: int = 0,
        video_lengths: list[int] | None = None,
        kernel: str = "auto",
        return_hidden: bool = False,
        checkpoint_blocks: bool = False,
    ) -> EncodedVideo:
        """Turn patches into the visual tokens of kept windows."""

    def build_prompt(self, timestamps_s: list[float], question: str, keep_mask: Tensor, *, context: str = "") -> Prompt:
        """Word the prompt and delete the placeholders of dropped windows; `context` stands behind the video."""

    def video_prefix(self, timestamps_s: list[float], keep_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return ids and is_visual (both (L,)) of a prompt up to the end of its video, for training."""

    def conversation_ids(self, turns: Sequence[tuple[str, str]], context: str = "") -> tuple[list[int], list[bool]]:
        """Return the ids of what follows the video, and which of them the model has to say, for training."""

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, nothing added, quoted words as characters."""

    def quote(self, text: str, name: str = "question") -> str:
        """Mark what looks like a special token in a person's words."""

    def shape(self) -> ModelShape:
        """Return the sizes that FLOPs depend on."""


def clamp_note(family: Family, num_frames: int, keep_ratio: float, scorer: str) -> str:
    """Say that a video keeps more than was asked.

    Args:
        family: the model.
        num_frames: T of the video.
        keep_ratio: fraction of windows kept.
        scorer: one of `pruning.SCORERS`.

    Returns:
        A line for the user, empty where the budget is met.
    """
    windows, first = family.shape().num_windows, family.settings.prune_from_frame
    return _clamp_note(num_frames, windows, keep_ratio, first, merges=scorer == "tome")
