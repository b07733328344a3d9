"""Count what a video costs: tokens and FLOPs by part, dense beside pruned. Arithmetic only, no torch.

Comes after everything else: the shape of a model, the windows each frame kept and the prompt's lengths in, `Savings`
out. Attention inside the ViT is quadratic in each frame's own kept patches, so the real counts are used, not their
mean. Source: arXiv 2603.18004, efficiency. Time and memory are measured elsewhere; this is what the arithmetic alone
would save.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CONVENTION = (
    "a multiply-add counts 2; matrix products and attention only, no norms, activations or softmax; attention counts "
    "query-key pairs: within each frame's own patches in the ViT, the prompt's whole square in the prefill, whose mask "
    "is not causal; the output head counts once in the prefill"
)
TRAINING_CONVENTION = (
    "a multiply-add counts 2; matrix products and attention only; everything is trained: the backward pass counts 2 x "
    "the forward pass, once for the inputs' gradients and once for the weights' (in attention: for both factors), only "
    "the patch embedding once, whose inputs are pixels; nothing that a kernel computes anew counts; the output head "
    "counts for the answers' tokens; clipping and the optimizer are memory traffic, not FLOPs, and count nothing"
)


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a video VLM that its FLOPs depend on, all integers.

    Attributes:
        patch_dim: numbers in a patch's pixels.
        num_patches: N a frame.
        num_windows: W a frame.
        window_size: P, slots of a window.
        vit_blocks: blocks that run, up to the deepest feature layer.
        vit_width: D of the ViT.
        vit_heads: heads of the ViT.
        vit_head_dim: width of one of them.
        vit_mlp: width of the ViT's MLP.
        num_feature_layers: layers concatenated for the connector.
        connector_width: width after the connector's attention.
        connector_heads: heads of the connector.
        connector_head_dim: width of one of them.
        connector_mlp: width of its gated MLP.
        llm_layers: layers of the language model.
        llm_width: its width.
        llm_heads: query heads.
        llm_kv_heads: key and value heads.
        llm_head_dim: width of a head.
        llm_mlp: width of its gated MLP.
        vocab_size: outputs of the language-model head.
    """

    patch_dim: int
    num_patches: int
    num_windows: int
    window_size: int
    vit_blocks: int
    vit_width: int
    vit_heads: int
    vit_head_dim: int
    vit_mlp: int
    num_feature_layers: int
    connector_width: int
    connector_heads: int
    connector_head_dim: int
    connector_mlp: int
    llm_layers: int
    llm_width: int
    llm_heads: int
    llm_kv_heads: int
    llm_head_dim: int
    llm_mlp: int
    vocab_size: int


@dataclass(frozen=True)
class Savings:
    """Tokens and FLOPs of one question, dense and pruned.

    Attributes:
        tokens: name -> (dense, pruned).
        flops: part -> (dense, pruned), without the total.
        decode_per_token: FLOPs of the first decoded token, (dense, pruned).
    """

    tokens: dict[str, tuple[int, int]]
    flops: dict[str, tuple[int, int]]
    decode_per_token: tuple[int, int]

    @property
    def total(self) -> tuple[int, int]:
        """FLOPs of all parts, (dense, pruned)."""
        return sum(dense for dense, _ in self.flops.values()), sum(pruned for _, pruned in self.flops.values())

    @property
    def changes_nothing(self) -> bool:
        """True when every window was kept, so that nothing was saved."""
        return all(dense == pruned for dense, pruned in self.tokens.values())

    def __str__(self) -> str:
        """Say in a line what is left of the visual tokens, the prompt and the FLOPs."""
        parts = [f"{name} {pruned:,} of {dense:,}" for name, (dense, pruned) in self.tokens.items()]
        dense, pruned = self.total
        return ", ".join([*parts, f"FLOPs {pruned:.3g} of {dense:.3g} ({1 - pruned / dense:.1%} saved)"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: tokens and flops by name, each with dense and pruned; flops end with the total."""
        flops = {**self.flops, "total": self.total}
        return {
            "tokens": {name: _pair(row) for name, row in self.tokens.items()},
            "flops": {name: _pair(row) for name, row in flops.items()},
            "decode_flops_per_token": _pair(self.decode_per_token),
            "ideal_speedup": self.total[0] / self.total[1],
            "changes_nothing": self.changes_nothing,
            "convention": CONVENTION,
        }


def _pair(row: tuple[int, int]) -> dict[str, int]:
    return {"dense": row[0], "pruned": row[1]}


def count(
    shape: ModelShape,
    num_frames: int,
    kept_per_frame: Sequence[int],
    prompt_tokens_dense: int,
    prompt_tokens_pruned: int,
    prune_layer: int,
    new_tokens: int,
    *,
    scorer: str = "learned",
    packed_patches_per_frame: Sequence[int] | None = None,
) -> Savings:
    """Count one question about one video.

    Args:
        shape: the model's sizes.
        num_frames: T.
        kept_per_frame: windows kept of each frame; T of them.
        prompt_tokens_dense: prompt length with every placeholder.
        prompt_tokens_pruned: prompt length as it was run.
        prune_layer: l: blocks 0..l + 1 are dense, the others packed.
        new_tokens: tokens decoded; the first comes with the prefill.
        scorer: only "learned" costs matrix products.
        packed_patches_per_frame: patches of each frame that the packed blocks run on, needed where windows at the
            border hold fewer or lone frames are refilled; otherwise every window counts `num_patches / num_windows`.

    Returns:
        The counts. In the dense column, "ViT dense blocks" and "ViT packed blocks" are those same blocks on all
        patches.

    Raises:
        ValueError: `kept_per_frame` does not have T entries, or a frame keeps more windows than it has.

    Source: arXiv 2603.18004, efficiency; the convention is `CONVENTION`.
    """
    windows = list(kept_per_frame)
    if len(windows) != num_frames or not all(0 <= n <= shape.num_windows for n in windows):
        raise ValueError(
            f"kept windows of {len(windows)} frames, at most {max(windows, default=0)} -> "
            f"{num_frames} frames of at most {shape.num_windows} windows"
        )
    packed = packed_patches_per_frame or [n * shape.num_patches // shape.num_windows for n in windows]
    full = [shape.num_patches] * num_frames
    num_visual, all_visual = sum(windows), num_frames * shape.num_windows
    pruned = num_visual < all_visual
    num_dense = min(prune_layer + 2, shape.vit_blocks)
    num_packed = shape.vit_blocks - num_dense
    embedding = 2 * num_frames * shape.num_patches * shape.patch_dim * shape.vit_width
    dense_blocks = num_dense * _vit_block(shape, full)
    steps = max(new_tokens - 1, 0)
    lengths = (prompt_tokens_dense, prompt_tokens_pruned)
    flops = {
        "patch embedding": (embedding, embedding),
        "ViT dense blocks": (dense_blocks, dense_blocks),
        "ViT packed blocks": (num_packed * _vit_block(shape, full), num_packed * _vit_block(shape, packed)),
        "scorer": (0, num_frames * _scorer_frame(shape) if pruned and scorer == "learned" else 0),
        "connector": (all_visual * _connector_token(shape), num_visual * _connector_token(shape)),
        "LLM prefill": (_prefill(shape, lengths[0]), _prefill(shape, lengths[1])),
        "decode": (_decode(shape, lengths[0], steps), _decode(shape, lengths[1], steps)),
    }
    tokens = {
        "ViT patches": (num_frames * shape.num_patches, sum(packed)),
        "visual tokens": (all_visual, num_visual),
        "LLM prompt": lengths,
    }
    return Savings(tokens, flops, (_decode(shape, lengths[0], 1), _decode(shape, lengths[1], 1)))


def count_training(
    shape: ModelShape,
    num_frames: int,
    kept_per_frame: Sequence[int],
    row_tokens_dense: int,
    row_tokens_pruned: int,
    answer_tokens: int,
    prune_layer: int,
    *,
    scorer: str = "learned",
    packed_patches_per_frame: Sequence[int] | None = None,
) -> Savings:
    """Count one training step on one video, everything trained.

    Args:
        shape: the model's sizes.
        num_frames: T.
        kept_per_frame: windows kept of each frame; T of them.
        row_tokens_dense: tokens that the language model reads, with every placeholder; one row.
        row_tokens_pruned: the same as it was run.
        answer_tokens: tokens that a loss is taken on, for the output head.
        prune_layer: as for `count`.
        scorer: as for `count`.
        packed_patches_per_frame: as for `count`.

    Returns:
        The forward pass by part, and "backward" for all of them. Nothing is decoded; "LLM prompt" is the row of tokens
        that is read, the answer's among them.

    Raises:
        ValueError: as for `count`.

    Source: arXiv 2603.18004, training; the convention is `TRAINING_CONVENTION`.
    """
    saved = count(
        shape,
        num_frames,
        kept_per_frame,
        row_tokens_dense,
        row_tokens_pruned,
        prune_layer,
        new_tokens=1,
        scorer=scorer,
        packed_patches_per_frame=packed_patches_per_frame,
    )
    forward = {name: row for name, row in saved.flops.items() if name not in ("LLM prefill", "decode")}
    head = (answer_tokens - 1) * _head(shape)
    dense, pruned = saved.flops["LLM prefill"]
    forward["LLM"] = (dense + head, pruned + head)
    pixels = forward["patch embedding"]
    totals = (sum(row[arm] for row in forward.values()) for arm in (0, 1))
    backward = tuple(2 * total - pixels[arm] for arm, total in enumerate(totals))
    return Savings(saved.tokens, {**forward, "backward": (backward[0], backward[1])}, (0, 0))


def _vit_block(shape: ModelShape, patches: Sequence[int]) -> int:
    inner = shape.vit_heads * shape.vit_head_dim
    linear = 2 * (4 * shape.vit_width * inner + 2 * shape.vit_width * shape.vit_mlp)
    return sum(patches) * linear + 4 * inner * sum(n * n for n in patches)


def _scorer_frame(shape: ModelShape) -> int:
    width, inner, mlp = shape.vit_width, shape.vit_heads * shape.vit_head_dim, shape.vit_mlp
    attention = 2 * 4 * width * inner + 4 * shape.window_size * shape.vit_heads * width
    return shape.num_windows * (attention + 2 * (2 * width * mlp + mlp * mlp + mlp))


def _connector_token(shape: ModelShape) -> int:
    inner, features = shape.connector_heads * shape.connector_head_dim, shape.num_feature_layers * shape.vit_width
    attention = 2 * features * inner * (1 + 2 * shape.window_size) + 4 * shape.window_size * inner
    mlp = 2 * (2 * shape.connector_width * shape.connector_mlp + shape.connector_mlp * shape.llm_width)
    return attention + 2 * inner * shape.connector_width + mlp


def _llm_token(shape: ModelShape) -> int:
    """Linear layers of one token in all layers."""
    queries, keys = shape.llm_heads * shape.llm_head_dim, shape.llm_kv_heads * shape.llm_head_dim
    return shape.llm_layers * 2 * shape.llm_width * (2 * queries + 2 * keys + 3 * shape.llm_mlp)


def _llm_attention(shape: ModelShape, pairs: int) -> int:
    return shape.llm_layers * 4 * pairs * shape.llm_heads * shape.llm_head_dim


def _head(shape: ModelShape) -> int:
    return 2 * shape.llm_width * shape.vocab_size


def _prefill(shape: ModelShape, length: int) -> int:
    return length * _llm_token(shape) + _llm_attention(shape, length * length) + _head(shape)


def _decode(shape: ModelShape, length: int, steps: int) -> int:
    contexts = steps * length + steps * (steps + 1) // 2
    return steps * (_llm_token(shape) + _head(shape)) + _llm_attention(shape, contexts)
