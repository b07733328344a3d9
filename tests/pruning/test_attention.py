import itertools
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.pruning.attention import (
    Attention,
    attention_over,
    batched_attention,
    choose_kernel,
    current_attention,
    group_frames,
    log_score_bias,
)
from stts_cli.pruning.packing import pack, segments
from stts_cli.pruning.windows import window_index
from stts_cli.settings import Layout

LENGTHS = (16, 3, 9, 9, 1, 12, 4, 16, 8)


def qkv(lengths, dtype=torch.float32, grad=False):
    generator = torch.Generator().manual_seed(0)
    shape = (sum(lengths), 2, 8)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad) for _ in range(3)]


def borders(lengths):
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)


def attend(q, k, v, lengths, kernel):
    """Attention over packed frames as a block calls it: a batch of one, heads before patches."""
    packed = segments(lengths, torch.arange(sum(lengths), device=q.device))
    out = Attention(kernel, packed)(*(x.transpose(0, 1)[None] for x in (q, k, v)), 0.3)
    assert out.shape == (1, *q.shape)
    return out[0]


def block_diagonal(q, k, v, lengths, scale):
    """Dense attention over all packed patches under a block-diagonal mask."""
    frame = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    logits = torch.einsum("mhk,nhk->hmn", q.float(), k.float()) * scale
    logits = logits.masked_fill(frame[:, None] != frame, -math.inf)
    return torch.einsum("hmn,nhk->mhk", logits.softmax(-1), v.float())


@pytest.mark.parametrize("overhead", [0, 300, 10**9])  # 7 groups, 2 and 1
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_varlen_equals_block_diagonal(kernel, dtype, tolerance, overhead, monkeypatch):
    monkeypatch.setattr("stts_cli.pruning.attention._GROUP_OVERHEAD", overhead)
    calls, sdpa = [], functional.scaled_dot_product_attention
    monkeypatch.setattr(functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or sdpa(*a, **k))
    q, k, v = qkv(LENGTHS, dtype, grad=True)
    out = attend(q, k, v, LENGTHS, kernel)
    assert bool(calls) == (kernel == "sdpa")
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad((out.float() * weight).sum(), (q, k, v))
    expected = block_diagonal(q, k, v, LENGTHS, 0.3)
    expected_grads = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, atol=tolerance, rtol=tolerance)
    for grad, reference in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, reference, atol=2 * tolerance, rtol=2 * tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["torch_varlen", "flash_attn", "sdpa"])
def test_gpu_kernels_equal_block_diagonal(kernel):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    if kernel == "flash_attn":
        pytest.importorskip("flash_attn")
    q, k, v = (x.cuda() for x in qkv(LENGTHS, torch.bfloat16))
    out = attend(q, k, v, LENGTHS, kernel)
    torch.testing.assert_close(
        out.float().cpu(), block_diagonal(q.cpu(), k.cpu(), v.cpu(), LENGTHS, 0.3), atol=3e-2, rtol=3e-2
    )


def bias_gradient(device, dtype):
    """Of a bias on keys, where nothing else wants a gradient: a scorer that learns on a frozen model."""
    q, k, v, weight = (x.to(device).unflatten(0, (3, -1)).transpose(1, 2) for x in [*qkv((27,), dtype), qkv((27,))[0]])
    bias = torch.linspace(-2, 0, 27).view(3, 1, 1, 9).to(device).requires_grad_()
    (batched_attention(q, k, v, 0.3, bias, explicit=False).float() * weight).sum().backward()
    return bias.grad.cpu()


def test_a_bias_has_its_gradient_where_nothing_else_wants_one(monkeypatch):
    asked, sdpa = [], functional.scaled_dot_product_attention
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention", lambda q, *a, **k: asked.append(q.requires_grad) or sdpa(q, *a, **k)
    )
    assert bias_gradient("cpu", torch.float32).abs().min() > 0
    assert asked == [True], "on CUDA the backward pass fails without"


def test_a_bias_takes_no_gradient_from_queries_beside_frozen_keys():
    q, k, v = (x[:, None] for x in qkv((9,)))
    bias = torch.linspace(-2, 0, 2).requires_grad_()
    batched_attention(q.requires_grad_(), k, v, 0.3, bias, explicit=False).square().sum().backward()
    assert q.grad.abs().max() > 0


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_a_bias_has_its_gradient_on_a_gpu(dtype, tolerance):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    expected = bias_gradient("cpu", torch.float32)
    torch.testing.assert_close(bias_gradient("cuda", dtype).float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("lengths", [LENGTHS, (4, 4, 4), (16, 15, 14, 13, 2, 2, 1), (7,)])
@pytest.mark.parametrize("overhead", [0, 50, 200, 10**9])
def test_groups_hold_each_frame_once_and_cost_the_least(lengths, overhead, monkeypatch):
    """Against every way to cut the frames, sorted by length, into runs."""
    monkeypatch.setattr("stts_cli.pruning.attention._GROUP_OVERHEAD", overhead)
    groups = group_frames(lengths)
    assert sorted(t for g in groups for t in g.token.tolist()) == list(range(sum(lengths)))
    assert sum(g.num_frames for g in groups) == len(lengths)
    assert all((g.slot is None) == (g.key_mask is None) == (len(g.token) == g.num_frames * g.length) for g in groups)
    ordered, num = sorted(lengths, reverse=True), len(lengths)
    costs = []
    for cuts in itertools.product([False, True], repeat=num - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), num]
        costs.append(sum((end - start) * ordered[start] ** 2 + overhead for start, end in itertools.pairwise(edges)))
    assert sum(g.num_frames * g.length**2 + overhead for g in groups) == min(costs)
    expected = {0: len(set(lengths)), 10**9: 1}
    if overhead in expected:
        assert len(groups) == expected[overhead]


def test_a_group_more_has_to_spare_16384_pairs():
    assert len(group_frames((129, 16))) == 2  # spares 129^2 - 16^2 = 16385
    assert len(group_frames((160, 96))) == 1  # 16384, no gain


def test_packing_order_changes_nothing():
    q, k, v = qkv(LENGTHS)
    out = attend(q, k, v, LENGTHS, "sdpa")
    order = [4, 0, 8, 2, 7, 1, 3, 6, 5]
    starts = borders(LENGTHS).tolist()
    rows = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in order])
    moved = tuple(LENGTHS[i] for i in order)
    out_moved = attend(q[rows], k[rows], v[rows], moved, "sdpa")
    torch.testing.assert_close(out_moved, out[rows], atol=1e-6, rtol=1e-6)


NEEDS = "varlen kernels need CUDA and half precision, not {} torch.{}"


@pytest.mark.parametrize(
    ("kernel", "device", "dtype", "needs_grad", "has_flash", "chosen"),
    [
        ("auto", "cpu", "bfloat16", True, True, ("eager", "SDPA's bfloat16 backward is slow on the CPU")),
        ("auto", "cpu", "bfloat16", False, True, ("sdpa", NEEDS.format("cpu", "bfloat16"))),
        ("auto", "cpu", "float16", True, True, ("sdpa", NEEDS.format("cpu", "float16"))),
        ("auto", "cpu", "float32", True, True, ("sdpa", NEEDS.format("cpu", "float32"))),
        ("auto", "mps", "bfloat16", True, True, ("sdpa", NEEDS.format("mps", "bfloat16"))),
        ("auto", "cuda", "float32", True, True, ("sdpa", NEEDS.format("cuda", "float32"))),
        ("auto", "cuda", "bfloat16", True, True, ("flash_attn", "")),
        ("auto", "cuda", "float16", False, False, ("torch_varlen", "flash-attn is not installed")),
        ("flash_attn", "cuda", "float16", False, True, ("flash_attn", "")),
        ("torch_varlen", "cuda", "bfloat16", True, False, ("torch_varlen", "")),
        ("sdpa", "cuda", "bfloat16", True, True, ("sdpa", "")),
        ("eager", "cpu", "float32", False, False, ("eager", "")),
    ],
)
def test_choice_of_kernel(kernel, device, dtype, needs_grad, has_flash, chosen, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "found" if has_flash else None)
    assert choose_kernel(kernel, torch.device(device), getattr(torch, dtype), needs_grad) == chosen


def test_kernels_that_cannot_run_are_refused(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^--kernel fast: must be auto, flash_attn, torch_varlen, sdpa or eager\.$"):
        choose_kernel("fast", cpu, torch.float32, False)
    with pytest.raises(InputError, match="needs CUDA and half precision, not cpu"):
        choose_kernel("torch_varlen", cpu, torch.bfloat16, False)
    with pytest.raises(InputError, match=r"needs CUDA and half precision, not cuda torch\.float32"):
        choose_kernel("torch_varlen", cuda, torch.float32, False)
    with pytest.raises(EnvironmentFailure, match=r"pip install '\.\[flash\]'"):
        choose_kernel("flash_attn", cuda, torch.bfloat16, False)


@pytest.mark.parametrize(
    ("name", "returns_tuple"), [("flash_attn", False), ("torch_varlen", False), ("torch_varlen", True)]
)
def test_what_the_gpu_kernels_are_asked_for(name, returns_tuple, monkeypatch):
    """Stand-ins in the kernels' places: frame borders for queries and keys, the scale, not causal."""

    def flash(q, k, v, cu_q, cu_k, max_q, max_k, *, softmax_scale, causal):
        assert causal is False
        return varlen(q, k, v, cu_q, cu_k, max_q, max_k, scale=softmax_scale)

    def varlen(q, k, v, cu_q, cu_k, max_q, max_k, *, scale):
        assert torch.equal(cu_q, cu_k)
        assert max_q == max_k == max(LENGTHS)
        out = block_diagonal(q, k, v, cu_q.diff().tolist(), scale)
        return (out, None) if returns_tuple else out

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=flash))
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", SimpleNamespace(varlen_attn=varlen))
    q, k, v = qkv(LENGTHS)
    out = attend(q, k, v, LENGTHS, name)
    assert torch.equal(out, block_diagonal(q, k, v, LENGTHS, 0.3))


def test_a_context_says_what_a_block_attends_over():
    outer, inner = Attention("sdpa"), Attention("eager")
    assert current_attention() is None
    with attention_over(outer):
        with attention_over(inner):
            assert current_attention() is inner
        with attention_over(None):
            assert current_attention() is None
        with pytest.raises(KeyError), attention_over(inner):
            raise KeyError
        assert current_attention() is outer
    assert current_attention() is None


@pytest.mark.parametrize("explicit", [False, True])
def test_a_bias_is_added_and_a_mask_hides(explicit, monkeypatch):
    """And only without `explicit` is it SDPA's work."""
    q, k, v = (x.view(2, 4, 2, 8).transpose(1, 2) for x in qkv((8,)))
    bias = torch.randn(2, 1, 1, 4, generator=torch.Generator().manual_seed(2))
    seen = torch.tensor([[True, True, False, True], [True, True, True, True]])[:, None, None]
    calls, sdpa = [], functional.scaled_dot_product_attention
    monkeypatch.setattr(functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or sdpa(*a, **k))
    logits = q @ k.transpose(2, 3) * 0.3
    unseen = logits.masked_fill(~seen, -math.inf)
    for given, expected in ((None, logits), (bias.double(), logits + bias), (seen, unseen)):
        out = batched_attention(q, k, v, 0.3, given, explicit)
        torch.testing.assert_close(out, expected.softmax(-1) @ v)
    assert len(calls) == (0 if explicit else 3)


@pytest.mark.parametrize("rescale", ["row", "frame"])
@pytest.mark.parametrize("sizes", [(4, 4, 2, 2), (5, 4, 3, 3)])
def test_bias_equals_a_loop(rescale, sizes):
    index = window_index(*sizes)
    grid = sizes[:2]
    scores = torch.rand(5, len(index), generator=torch.Generator().manual_seed(0))
    bias = log_score_bias(scores, index, Layout((1, 1), grid, sizes[2:]), [3, 2], rescale)
    window_of = {p: w for w, patches in enumerate(index.tolist()) for p in patches if p >= 0}
    for t in range(5):
        frame = [[scores[t, window_of[r * grid[1] + c]].item() for c in range(grid[1])] for r in range(grid[0])]
        for r in range(grid[0]):
            pool = frame[r] if rescale == "row" else [s for row in frame for s in row]
            for c in range(grid[1]):
                scaled = math.exp(-2) + (1 - math.exp(-2)) * (frame[r][c] - min(pool)) / (max(pool) - min(pool) + 1e-6)
                expected = 0.0 if t in (0, 3) else math.log(scaled)
                assert bias[t, r * grid[1] + c].item() == pytest.approx(expected, abs=1e-5)
    assert bias.min() == pytest.approx(-2, abs=1e-5)
    assert bias.max() < 1e-6


@pytest.mark.parametrize(
    ("spread", "floor", "expected"),
    [
        (0.25, math.exp(-2), math.log(math.exp(-2) + (1 - math.exp(-2)) * 0.25 / 0.250001)),
        (1e-6, math.exp(-2), math.log(0.5 + 0.5 * math.exp(-2))),  # the eps is as large as the range
        (0.25, 0.5, math.log(0.5 + 0.5 * 0.25 / 0.250001)),
    ],
)
def test_bias_divides_by_the_range_plus_1e_6(spread, floor, expected):
    scores = torch.tensor([[0.0, 0.0], [0.0, spread]])
    bias = log_score_bias(scores, window_index(1, 2, 1, 1), Layout((1, 1), (1, 2), (1, 1)), [2], floor=floor)
    assert bias[0].tolist() == [0, 0]
    assert bias[1].tolist() == pytest.approx([math.log(floor), expected], rel=1e-5, abs=1e-7)


def test_bias_of_equal_scores_is_finite():
    scores = torch.full((2, 4), 0.5, requires_grad=True)
    bias = log_score_bias(scores, window_index(4, 4, 2, 2), Layout((1, 1), (4, 4), (2, 2)), [2])
    bias.sum().backward()
    assert bias[1].eq(-2).all()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("how", ["dense", "biased", "packed"])
def test_parts_of_a_frame_attend_within_themselves(kernel, how):
    """Against one masked attention over all patches; the second frame keeps nothing, a part of the third neither."""
    parts, num_frames = (3, 1, 4), 3
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(num_frames, sum(parts), 16)
    frame = torch.arange(num_frames).repeat_interleave(sum(parts))
    part = torch.arange(3).repeat_interleave(torch.tensor(parts)).repeat(num_frames)
    bias = torch.randn(x.shape[:2], generator=generator).requires_grad_() if how == "biased" else None
    keep = torch.ones(x.shape[:2], dtype=torch.bool)
    if how == "packed":
        keep[0, [1, 7]] = keep[1] = keep[2, 4:] = False
    attention = Attention(kernel, pack(x, keep) if how == "packed" else None, bias).within(parts, x)
    assert attention.packed.lengths == ((2, 1, 3, 3, 1) if how == "packed" else parts * num_frames)
    place = keep.flatten().nonzero()[:, 0]
    q, k, v = torch.randn(3, len(place), 2, 8, generator=generator)
    owner = frame[place] * len(parts) + part[place]
    logits = torch.einsum("mhk,nhk->hmn", q, k) * 0.3
    if bias is not None:
        logits = logits + bias.flatten()
    logits = logits.masked_fill(owner[:, None] != owner, -math.inf)
    expected = torch.einsum("hmn,nhk->mhk", logits.softmax(-1), v)
    found = attention(*(each.transpose(0, 1)[None] for each in (q, k, v)), 0.3)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if bias is not None:
        wanted, got = (torch.autograd.grad(each.square().sum(), bias)[0] for each in (expected, found))
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
