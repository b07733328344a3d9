"""Attention over packed frames, (M, H, K) -> (M, H, K), and the bias that scores put on keys.

The stock ViT blocks run everything, packed patches too: their attention is dispatched to a registered function, which
asks `current_attention` what to attend over. Packed patches have several kernels: `flash_attn` is the flash-attn
package's varlen function, `torch_varlen` is torch.nn.attention.varlen; both need CUDA and half precision. `sdpa` and
`eager` run anywhere: frames of like length are grouped into a few padded batches, so the Python loop is over groups,
never over frames. Linear layers never see that padding. `log_score_bias` is the paper's soft bias (arXiv 2603.18004,
spatial learning), used in the one dense block between scoring and dropping: it is how the language-model loss reaches
the scorer.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from stts_cli.errors import EnvironmentFailure, InputError, install_hint
from stts_cli.pruning.packing import Segments, segments
from stts_cli.pruning.windows import first_frames, patch_window
from stts_cli.settings import BIAS_FLOOR, KERNELS, Layout

_RANGE_EPS = 1e-6
_GROUP_OVERHEAD = 16_384  # a group costs about as much as this many query-key pairs of one head


@dataclass(frozen=True)
class Attention:
    """What a ViT block's attention is over; without one a block attends as its model would.

    Attributes:
        kernel: one of `KERNELS` but "auto".
        packed: the patches that go through the block in one row, each of which sees its own segment; None where a row
            is a frame, all of which is seen.
        key_bias: (T, N) added to the logits of each key, or None; (M,) where patches are packed.
    """

    kernel: str
    packed: Segments | None = None
    key_bias: Tensor | None = None

    def within(self, parts: Sequence[int], x_TND: Tensor) -> Attention:
        """Return the same where a patch sees its own part of its frame alone.

        Args:
            parts: patches of each part, in the order of a frame's patches; they add up to N.
            x_TND: what goes through the block, where no patches are packed.
        """
        packed, (num_frames, number) = self.packed, x_TND.shape[:2]
        if packed is None:
            packed = segments([number] * num_frames, torch.arange(num_frames * number, device=x_TND.device))
        return Attention(self.kernel, packed.within(parts), None if self.key_bias is None else self.key_bias.flatten())

    def __call__(self, q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, scale: float) -> Tensor:
        """Attend, (B, H, S, K) each to (B, S, H, K), logits times `scale`; B is 1 and S is M for packed patches."""
        packed, explicit = self.packed, self.kernel == "eager"
        out: Tensor
        if packed is None:
            if self.key_bias is None:
                return batched_attention(q_BHSK, k_BHSK, v_BHSK, scale, None, explicit).transpose(1, 2)
            q, k, v = (_apart(x, len(self.key_bias)) for x in (q_BHSK, k_BHSK, v_BHSK))
            out = batched_attention(q, k, v, scale, self.key_bias[:, None, None], explicit).transpose(1, 2)
            return out.reshape(len(q_BHSK), -1, *out.shape[2:])
        q, k, v = (x[0].transpose(0, 1) for x in (q_BHSK, k_BHSK, v_BHSK))
        borders = (packed.cu_seqlens, packed.cu_seqlens, packed.max_seqlen, packed.max_seqlen)
        if self.kernel == "flash_attn":
            from flash_attn import flash_attn_varlen_func

            out = flash_attn_varlen_func(q, k, v, *borders, softmax_scale=scale, causal=False)
        elif self.kernel == "torch_varlen":
            from torch.nn.attention.varlen import varlen_attn

            found = varlen_attn(q, k, v, *borders, scale=scale)
            out = found[0] if isinstance(found, tuple) else found
        else:
            out = _grouped_attention(q, k, v, self._groups, scale, explicit, self.key_bias)
        return out[None]

    @cached_property
    def _groups(self) -> list[FrameGroup]:
        assert self.packed is not None
        return group_frames(self.packed.lengths, self.packed.index.device)


def _apart(x_BHSK: Tensor, rows: int) -> Tensor:
    """Put each frame into a row of its own, of models that give all of them in one."""
    if len(x_BHSK) == rows:
        return x_BHSK
    return x_BHSK.transpose(1, 2).reshape(rows, -1, *x_BHSK.shape[1::2]).transpose(1, 2)


_CURRENT: ContextVar[Attention | None] = ContextVar("attention", default=None)


@contextmanager
def attention_over(attention: Attention | None) -> Iterator[None]:
    """Let the ViT blocks that run inside attend so; None as their model would."""
    token = _CURRENT.set(attention)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_attention() -> Attention | None:
    """Return what the block that runs now is to attend over; None as its model would."""
    return _CURRENT.get()


@dataclass(frozen=True)
class FrameGroup:
    """Frames of like length as one padded batch."""

    num_frames: int  # F, rows of the batch
    length: int  # S, the longest of them
    token: Tensor  # int64 (m,) packed positions of the group's patches
    slot: Tensor | None  # int64 (m,) their slots among the F * S of the batch; None when every frame is full
    key_mask: Tensor | None  # bool (F, 1, 1, S), True = a patch; None when every frame is full


def group_frames(lengths: tuple[int, ...], device: torch.device | str = "cpu") -> list[FrameGroup]:
    """Group frames of like length, `lengths` > 0: of the least padded query-key pairs plus a fixed cost a group."""
    sizes = torch.tensor(lengths)
    starts = sizes.cumsum(0) - sizes
    order = sizes.argsort(descending=True)
    groups = []
    for frames in torch.split(order, _best_split(sizes[order].tolist())):
        frames = frames.sort().values
        longest = int(sizes[frames].max())
        place = torch.arange(longest)
        filled = place < sizes[frames][:, None]
        token = (starts[frames][:, None] + place)[filled].to(device)
        slot = key_mask = None
        if not bool(filled.all()):
            slot = filled.reshape(-1).nonzero().squeeze(1).to(device)
            key_mask = filled[:, None, None].to(device)
        groups.append(FrameGroup(len(frames), longest, token, slot, key_mask))
    return groups


def _best_split(descending: list[int]) -> list[int]:
    """Cut a descending list into runs of least size * longest^2 + overhead, by a dynamic programme over its values."""
    edges = [i for i, n in enumerate(descending) if i == 0 or n != descending[i - 1]] + [len(descending)]
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(edges)):
        best.append(
            min(
                (best[start][0] + (edges[end] - edges[start]) * descending[edges[start]] ** 2 + _GROUP_OVERHEAD, start)
                for start in range(end)
            )
        )
    sizes, end = [], len(edges) - 1
    while end > 0:
        start = best[end][1]
        sizes.append(edges[end] - edges[start])
        end = start
    return sizes[::-1]


def choose_kernel(kernel: str, device: torch.device, dtype: torch.dtype, needs_grad: bool) -> tuple[str, str]:
    """Settle which of `KERNELS` runs on tokens of this device and dtype.

    Returns:
        (a kernel's name other than "auto", one clause of reason, empty when it is what was asked for).

    Raises:
        InputError: unknown kernel, or one that cannot run on this device or dtype.
        EnvironmentFailure: flash-attn was asked for by name and is not installed.
    """
    if kernel not in KERNELS:
        raise InputError(f"--kernel {kernel}: must be {', '.join(KERNELS[:-1])} or {KERNELS[-1]}.")
    on_gpu = device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)
    has_flash = importlib.util.find_spec("flash_attn") is not None
    if kernel == "flash_attn" and not has_flash:
        raise EnvironmentFailure(f"--kernel flash_attn: flash-attn is not installed; {install_hint('flash')}.")
    if kernel in ("flash_attn", "torch_varlen") and not on_gpu:
        raise InputError(f"--kernel {kernel}: needs CUDA and half precision, not {device.type} {dtype}; use auto.")
    if kernel != "auto":
        return kernel, ""
    if on_gpu:
        return ("flash_attn", "") if has_flash else ("torch_varlen", "flash-attn is not installed")
    if device.type == "cpu" and dtype == torch.bfloat16 and needs_grad:
        return "eager", "SDPA's bfloat16 backward is slow on the CPU"
    return "sdpa", f"varlen kernels need CUDA and half precision, not {device.type} {dtype}"


def describe_kernels() -> list[str]:
    """Return which kernel "auto" is on every kind of device here, and why."""
    on = [(torch.device("cpu"), torch.float32)] + [(torch.device("cuda"), torch.bfloat16)] * torch.cuda.is_available()
    chosen = [(device.type, *choose_kernel("auto", device, dtype, needs_grad=False)) for device, dtype in on]
    return [f"{device}: {name}" + (f" ({why})" if why else "") for device, name, why in chosen]


def _grouped_attention(
    q: Tensor, k: Tensor, v: Tensor, groups: list[FrameGroup], scale: float, explicit: bool, key_bias: Tensor | None
) -> Tensor:
    outputs = []
    for group in groups:
        batch = (_to_batch(q, group), _to_batch(k, group), _to_batch(v, group))
        seen = group.key_mask if key_bias is None else _to_batch_bias(key_bias, group)
        out = batched_attention(*batch, scale, seen, explicit).transpose(1, 2)
        flat = out.reshape(group.num_frames * group.length, *q.shape[1:])
        outputs.append(flat if group.slot is None else flat.index_select(0, group.slot))
    if len(groups) == 1:
        return outputs[0]
    return torch.empty_like(q).index_copy(0, torch.cat([group.token for group in groups]), torch.cat(outputs))


def _to_batch(x_MHK: Tensor, group: FrameGroup) -> Tensor:
    """Gather a group's tokens to (F, H, S, K), zeros in padded slots."""
    rows = x_MHK if len(group.token) == len(x_MHK) else x_MHK.index_select(0, group.token)
    if group.slot is not None:
        rows = x_MHK.new_zeros(group.num_frames * group.length, *x_MHK.shape[1:]).index_copy(0, group.slot, rows)
    return rows.view(group.num_frames, group.length, *x_MHK.shape[1:]).transpose(1, 2)


def _to_batch_bias(bias_M: Tensor, group: FrameGroup) -> Tensor:
    """Gather the bias on a group's keys to (F, 1, 1, S), -inf in padded slots."""
    rows = bias_M.index_select(0, group.token)
    if group.slot is not None:
        padded = rows.new_full((group.num_frames * group.length,), float("-inf"))
        rows = padded.index_copy(0, group.slot, rows)
    return rows.view(group.num_frames, 1, 1, group.length)


def batched_attention(
    q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, scale: float, key_bias: Tensor | None, explicit: bool
) -> Tensor:
    """Attend within each row of a batch, (B, H, S, K) each to (B, H, S, K) of the same dtype, logits times `scale`.

    `key_bias` is added to the logits (float), or True where a key may be seen (bool); it broadcasts to (B, H, S, S).
    `explicit` is two matrix products and a softmax instead of SDPA.
    """
    if key_bias is not None and key_bias.is_floating_point():
        key_bias = key_bias.to(q_BHSK.dtype)
    if key_bias is not None and key_bias.requires_grad and not any(x.requires_grad for x in (q_BHSK, k_BHSK, v_BHSK)):
        # SDPA on CUDA keeps what the bias's gradient needs only where queries, keys or values ask for one too
        q_BHSK = q_BHSK.detach().requires_grad_()
    if not explicit:
        return functional.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK, attn_mask=key_bias, scale=scale)
    logits = torch.matmul(q_BHSK * scale, k_BHSK.transpose(2, 3))
    if key_bias is not None:
        if key_bias.dtype == torch.bool:
            key_bias = torch.zeros_like(key_bias, dtype=logits.dtype).masked_fill(~key_bias, float("-inf"))
        logits = logits + key_bias
    return torch.matmul(logits.softmax(-1), v_BHSK)


def log_score_bias(
    scores_TW: Tensor,
    window_index: Tensor,
    layout: Layout,
    video_lengths: list[int],
    rescale: str = "row",
    floor: float = BIAS_FLOOR,
) -> Tensor:
    """Turn window scores into an additive bias on attention keys.

    Scores are stretched by min-max to [floor, 1] and the logarithm is taken: 0 for the most important patch, by default
    -2 for the least. Differentiable: this is where the language-model loss reaches the scorer.

    Args:
        scores_TW: (T, W) scores, with gradient.
        window_index: int64 (W, P) window table.
        layout: how frames are cut.
        video_lengths: frames of each video; they add up to T. First frames get 0.
        rescale: "row" takes minimum and maximum over each row of windows, "frame" over each frame.
        floor: what the lowest score is stretched to, in (0, 1].

    Returns:
        float32 (T, N) in [log(floor), 0]. Where all scores are equal, log(floor).

    Source: arXiv 2603.18004, spatial learning. The published code rescales by patch row, which is the same, the text
    reads as by frame; the code divides by the range + 1e-6.
    """
    num_frames = scores_TW.shape[0]
    owner = patch_window(window_index, layout.num_patches)
    over = scores_TW.float().view(num_frames, *layout.window_grid)
    dims = (2,) if rescale == "row" else (1, 2)
    low, high = over.amin(dims, keepdim=True), over.amax(dims, keepdim=True)
    bias_TW = (floor + (1 - floor) * (over - low) / (high - low + _RANGE_EPS)).log().flatten(1)
    later = ~first_frames(video_lengths, num_frames, scores_TW.device)
    return bias_TW.index_select(1, owner) * later[:, None]
