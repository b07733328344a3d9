"""Count what a video costs: tokens and FLOPs by part, dense beside pruned. Arithmetic only, no torch.

Comes after everything else: the shape of a model, the windows each frame kept and the prompt's lengths in, `Savings`
out. Attention inside the ViT is quadratic in each frame's own kept patches, so the real counts are used, not their
mean. Source: arXiv 2603.18004, efficiency. Time and memory are measured elsewhere; this is what the arithmetic alone
would save.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stts_cli.settings import PruneLayer, num_dense_blocks

DECODE = "decode"
CONVENTION = (
    "a multiply-add counts 2; matrix products and attention only, no norms, activations or softmax; attention counts "
    "query-key pairs: within each frame's own patches in the ViT, the prompt's whole square in the prefill, causal or "
    "not, and in linear attention within chunks of 64 tokens; the output head counts once in the prefill, as "
    "do layers that read no token but a prompt's last"
)
TRAINING_CONVENTION = (
    "a multiply-add counts 2; matrix products and attention only; everything is trained: the backward pass counts 2 x "
    "the forward pass, once for the inputs' gradients and once for the weights' (in attention: for both factors), only "
    "the patch embedding once, whose inputs are pixels; nothing that a kernel computes anew counts; the output head "
    "counts for the answers' tokens; clipping and the optimizer are memory traffic, not FLOPs, and count nothing"
)


@dataclass(frozen=True)
class LayerGroup:
    """Layers of a language model that are alike, where not all of it are."""

    layers: int
    weights: int  # of each, in the linear layers that a token goes through
    pair_width: int = 0  # query heads times their width; 0 of layers that compare no tokens
    window: int = 0  # the most keys that a decoded token sees; 0 for all before it
    last_only: bool = False  # of a prompt the last token alone goes through: keys are those of other layers
    chunk: int = 0  # tokens of a prompt that linear attention reads together, the last ones filled up; 0 of others
    chunk_flops: int = 0  # of its products for each chunk
    step_flops: int = 0  # of its products for a decoded token


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a video VLM that its FLOPs depend on."""

    patch_dim: int  # numbers in a patch's pixels
    num_patches: int  # N a frame
    num_windows: int  # W a frame
    window_size: int  # P, slots of a window
    vit_blocks: int  # blocks that run, up to the deepest feature layer
    vit_width: int  # D of the ViT
    vit_heads: int  # heads of the ViT
    vit_head_dim: int  # width of one of them
    vit_mlp: int  # width of the ViT's MLP
    connector_flops: int  # of a visual token
    llm_layers: int  # layers of the language model
    llm_width: int  # its width
    llm_heads: int  # query heads
    llm_kv_heads: int  # key and value heads
    llm_head_dim: int  # width of a head
    llm_mlp: int  # width of its gated MLP; with experts, of those together that a token goes through
    vocab_size: int  # outputs of the language-model head
    llm_experts: int = 0  # experts that a router chooses from in each layer
    class_tokens: int = 0  # of a frame, in the ViT's blocks beside its patches
    vit_taps: int = 1  # blocks whose outputs the connector reads
    vit_mlp_products: int = 2  # matrix products of the ViT's MLP, 3 of a gated one
    vit_parts: tuple[int, ...] = ()  # patches of each part of a frame that some blocks attend within; none for whole
    vit_part_blocks: tuple[int, ...] = ()  # these blocks
    llm_groups: tuple[LayerGroup, ...] = ()  # of a language model whose layers differ; the sizes above are the first's


@dataclass(frozen=True)
class Savings:
    """Tokens and FLOPs of one question, each (dense, pruned)."""

    tokens: dict[str, tuple[int, int]]  # by name
    flops: dict[str, tuple[int, int]]  # by part, without the total
    decode_per_token: tuple[int, int] | None  # FLOPs of the first decoded token; None in training

    @property
    def total(self) -> tuple[int, int]:
        """FLOPs of all parts, (dense, pruned)."""
        return _total(self.flops)

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
            "decode_flops_per_token": self.decode_per_token and _pair(self.decode_per_token),
            "ideal_speedup": self.total[0] / self.total[1],
            "changes_nothing": self.changes_nothing,
            "convention": CONVENTION,
        }


def _pair(row: tuple[int, int]) -> dict[str, int]:
    return {"dense": row[0], "pruned": row[1]}


def count(
    shape: ModelShape,
    kept_per_frame: Sequence[int],
    prompt_tokens: tuple[int, int],
    prune_layer: PruneLayer,
    *,
    new_tokens: int = 1,
    option_tokens: Sequence[int] = (),
    scorer: str = "learned",
    packed_patches: Sequence[int] | None = None,
) -> Savings:
    """Count one question about one video.

    Args:
        shape: the model's sizes.
        kept_per_frame: windows kept of each frame.
        prompt_tokens: length of the prompt with every placeholder, and as it was run.
        prune_layer: l: blocks 0..l + 1 are dense, the others packed; with "last" all are dense.
        new_tokens: tokens decoded; the first comes with the prefill.
        option_tokens: tokens of each option that is scored behind the prompt, instead of decoding.
        scorer: only "learned" costs matrix products.
        packed_patches: patches of each frame that the packed blocks run on, or of each of its parts, needed where
            windows at the border hold fewer, lone frames are refilled or parts count; otherwise every window counts
            `num_patches / num_windows`, and parts keep alike.

    Returns:
        The counts. In the dense column, "ViT dense blocks" and "ViT packed blocks" are those same blocks on all
        patches.

    Raises:
        ValueError: a frame keeps more windows than it has.

    Source: arXiv 2603.18004, efficiency; the convention is `CONVENTION`.
    """
    if not kept_per_frame or not all(0 <= n <= shape.num_windows for n in kept_per_frame):
        raise ValueError(f"kept windows {list(kept_per_frame)}: must be 0 to {shape.num_windows} of each frame.")
    num_frames = len(kept_per_frame)
    packed = packed_patches or [n * shape.num_patches // shape.num_windows for n in kept_per_frame]
    full = [shape.num_patches] * num_frames
    visual = (num_frames * shape.num_windows, sum(kept_per_frame))
    num_dense = num_dense_blocks(prune_layer, shape.vit_blocks)
    packed = packed if num_dense < shape.vit_blocks else full
    embedding = 2 * num_frames * shape.num_patches * shape.patch_dim * shape.vit_width
    early, late = range(num_dense), range(num_dense, shape.vit_blocks)
    dense_blocks = _vit_blocks(shape, early, full, num_frames)
    scores = visual[1] < visual[0] and scorer == "learned"
    decoded = option_tokens or [max(new_tokens - 1, 0)]
    flops = {
        "patch embedding": (embedding, embedding),
        "ViT dense blocks": (dense_blocks, dense_blocks),
        "ViT packed blocks": (_vit_blocks(shape, late, full, num_frames), _vit_blocks(shape, late, packed, num_frames)),
        "scorer": (0, num_frames * _scorer_frame(shape) if scores else 0),
        "connector": _both(lambda tokens: tokens * shape.connector_flops, visual),
        "LLM prefill": _both(lambda length: _prefill(shape, length), prompt_tokens),
        DECODE: _both(lambda length: sum(_decode(shape, length, steps) for steps in decoded), prompt_tokens),
    }
    tokens = {
        "ViT patches": (num_frames * shape.num_patches, sum(packed)),
        "visual tokens": visual,
        "LLM prompt": prompt_tokens,
    }
    return Savings(tokens, flops, _both(lambda length: _decode(shape, length, 1), prompt_tokens))


def count_training(
    shape: ModelShape,
    kept_per_frame: Sequence[int],
    row_tokens: tuple[int, int],
    prune_layer: PruneLayer,
    *,
    answer_tokens: int,
    scorer: str = "learned",
    packed_patches: Sequence[int] | None = None,
) -> Savings:
    """Count one training step on one video, everything trained.

    Args:
        shape: the model's sizes.
        kept_per_frame: windows kept of each frame.
        row_tokens: tokens that the language model reads, in one row, with every placeholder and as it was run.
        prune_layer: as for `count`.
        answer_tokens: tokens that a loss is taken on, for the output head.
        scorer: as for `count`.
        packed_patches: as for `count`.

    Returns:
        The forward pass by part, and "backward" for all of them. Nothing is decoded; "LLM prompt" is the row of tokens
        that is read, the answer's among them.

    Raises:
        ValueError: as for `count`.

    Source: arXiv 2603.18004, training; the convention is `TRAINING_CONVENTION`.
    """
    groups = tuple(dataclasses.replace(group, last_only=False) for group in shape.llm_groups)
    shape = dataclasses.replace(shape, llm_groups=groups)
    saved = count(shape, kept_per_frame, row_tokens, prune_layer, scorer=scorer, packed_patches=packed_patches)
    forward = {name: row for name, row in saved.flops.items() if name not in ("LLM prefill", DECODE)}
    forward["LLM"] = _both(lambda flops: flops + (answer_tokens - 1) * _head(shape), saved.flops["LLM prefill"])
    pixels = forward["patch embedding"][0]
    dense, pruned = _total(forward)
    return Savings(saved.tokens, {**forward, "backward": (2 * dense - pixels, 2 * pruned - pixels)}, None)


def _both(formula: Callable[[int], int], arms: tuple[int, int]) -> tuple[int, int]:
    return formula(arms[0]), formula(arms[1])


def _total(parts: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    return sum(dense for dense, _ in parts.values()), sum(pruned for _, pruned in parts.values())


def _vit_blocks(shape: ModelShape, blocks: Sequence[int], patches: Sequence[int], num_frames: int) -> int:
    """Count blocks on the patches of each frame, or of each of its parts."""
    inner, each = shape.vit_heads * shape.vit_head_dim, len(patches) // num_frames
    linear = 2 * (4 * shape.vit_width * inner + shape.vit_mlp_products * shape.vit_width * shape.vit_mlp)
    frames = [sum(patches[start : start + each]) for start in range(0, len(patches), each)]
    tokens = [n + shape.class_tokens for n in frames if n]
    whole = sum(n * n for n in tokens)
    if each == len(shape.vit_parts):
        narrow = sum(n * n for n in patches)
    else:
        narrow = whole * sum(n * n for n in shape.vit_parts) // shape.num_patches**2
    num_narrow = len(set(blocks) & set(shape.vit_part_blocks))
    pairs = (len(blocks) - num_narrow) * whole + num_narrow * narrow
    return len(blocks) * sum(tokens) * linear + 4 * inner * pairs


def _scorer_frame(shape: ModelShape) -> int:
    width, inner, mlp = shape.vit_width, shape.vit_heads * shape.vit_head_dim, shape.vit_mlp
    attention = 2 * 4 * width * inner + 4 * shape.window_size * shape.vit_heads * width
    return shape.num_windows * (attention + 2 * (2 * width * mlp + mlp * mlp + mlp))


def _groups(shape: ModelShape) -> tuple[LayerGroup, ...]:
    if shape.llm_groups:
        return shape.llm_groups
    queries, keys = shape.llm_heads * shape.llm_head_dim, shape.llm_kv_heads * shape.llm_head_dim
    weights = shape.llm_width * (2 * queries + 2 * keys + 3 * shape.llm_mlp + shape.llm_experts)
    return (LayerGroup(shape.llm_layers, weights, queries),)


def _head(shape: ModelShape) -> int:
    return 2 * shape.llm_width * shape.vocab_size


def _prefill(shape: ModelShape, length: int) -> int:
    flops = _head(shape)
    for group in _groups(shape):
        tokens = 1 if group.last_only else length
        flops += group.layers * tokens * (2 * group.weights + 4 * group.pair_width * length)
        if group.chunk:
            flops += group.layers * -(-length // group.chunk) * group.chunk_flops
    return flops


def _decode(shape: ModelShape, length: int, steps: int) -> int:
    flops = steps * _head(shape)
    for group in _groups(shape):
        contexts = sum(min(group.window or length + steps, length + step) for step in range(1, steps + 1))
        each = 2 * group.weights + group.step_flops
        flops += group.layers * (steps * each + 4 * group.pair_width * contexts)
    return flops
