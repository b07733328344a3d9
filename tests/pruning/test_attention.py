import math

import pytest
import torch

from stts_cli.errors import EnvironmentFailure
from stts_cli.pruning.attention import choose_kernel, group_frames, log_score_bias, varlen_attention
from stts_cli.pruning.windows import window_index

LENGTHS = (16, 3, 9, 9, 1, 12, 4, 16, 8)


def qkv(lengths, dtype=torch.float32, grad=False):
    generator = torch.Generator().manual_seed(0)
    shape = (sum(lengths), 2, 8)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad) for _ in range(3)]


def borders(lengths):
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)


def block_diagonal(q, k, v, lengths, scale):
    """Dense attention over all packed patches under a block-diagonal mask."""
    frame = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    logits = torch.einsum("mhk,nhk->hmn", q.float(), k.float()) * scale
    logits = logits.masked_fill(frame[:, None] != frame, -math.inf)
    return torch.einsum("hmn,nhk->mhk", logits.softmax(-1), v.float())


@pytest.mark.parametrize("overhead", [0, 100, 10**9])
@pytest.mark.parametrize("kernel", ["sdpa", "eager", "auto"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_varlen_equals_block_diagonal(kernel, dtype, tolerance, overhead, monkeypatch):
    monkeypatch.setattr("stts_cli.pruning.attention._GROUP_OVERHEAD", overhead)
    q, k, v = qkv(LENGTHS, dtype, grad=True)
    out = varlen_attention(q, k, v, borders(LENGTHS), max(LENGTHS), 0.3, kernel)
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
    out = varlen_attention(q, k, v, borders(LENGTHS).cuda(), max(LENGTHS), 0.3, kernel)
    torch.testing.assert_close(
        out.float().cpu(), block_diagonal(q.cpu(), k.cpu(), v.cpu(), LENGTHS, 0.3), atol=3e-2, rtol=3e-2
    )


@pytest.mark.parametrize("overhead", [0, 50, 10**9])
def test_groups_hold_each_frame_once(overhead, monkeypatch):
    monkeypatch.setattr("stts_cli.pruning.attention._GROUP_OVERHEAD", overhead)
    groups = group_frames(LENGTHS)
    assert sorted(t for g in groups for t in g.token.tolist()) == list(range(sum(LENGTHS)))
    assert sum(g.num_frames for g in groups) == len(LENGTHS)
    expected = {0: len(set(LENGTHS)), 10**9: 1}
    if overhead in expected:
        assert len(groups) == expected[overhead]


def test_packing_order_changes_nothing():
    q, k, v = qkv(LENGTHS)
    out = varlen_attention(q, k, v, borders(LENGTHS), max(LENGTHS), 0.3)
    order = [4, 0, 8, 2, 7, 1, 3, 6, 5]
    starts = borders(LENGTHS).tolist()
    rows = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in order])
    moved = tuple(LENGTHS[i] for i in order)
    out_moved = varlen_attention(q[rows], k[rows], v[rows], borders(moved), max(moved), 0.3)
    torch.testing.assert_close(out_moved, out[rows], atol=1e-6, rtol=1e-6)


def test_choice_of_kernel():
    cpu = torch.device("cpu")
    assert choose_kernel("auto", cpu, torch.bfloat16, True)[0] == "eager"
    assert choose_kernel("auto", cpu, torch.float32, True)[0] == "sdpa"
    assert choose_kernel("eager", cpu, torch.float32, False) == ("eager", "")
    with pytest.raises(ValueError, match="'fast' is unknown -> known: auto, flash_attn"):
        choose_kernel("fast", cpu, torch.float32, False)
    with pytest.raises(ValueError, match="needs CUDA"):
        choose_kernel("torch_varlen", cpu, torch.float32, False)


def test_missing_flash_attention(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFailure, match=r"pip install '\.\[flash\]'"):
        choose_kernel("flash_attn", torch.device("cuda"), torch.bfloat16, False)


@pytest.mark.parametrize("rescale", ["row", "frame"])
@pytest.mark.parametrize("sizes", [(4, 4, 2, 2), (5, 4, 3, 3)])
def test_bias_equals_a_loop(rescale, sizes):
    index = window_index(*sizes)
    grid = sizes[:2]
    scores = torch.rand(5, len(index), generator=torch.Generator().manual_seed(0))
    bias = log_score_bias(scores, index, grid, [3, 2], rescale)
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
    bias = log_score_bias(scores, window_index(1, 2, 1, 1), (1, 2), [2], floor=floor)
    assert bias[0].tolist() == [0, 0]
    assert bias[1].tolist() == pytest.approx([math.log(floor), expected], rel=1e-5, abs=1e-7)


def test_bias_of_equal_scores_is_finite():
    scores = torch.full((2, 4), 0.5, requires_grad=True)
    bias = log_score_bias(scores, window_index(4, 4, 2, 2), (4, 4), [2])
    bias.sum().backward()
    assert bias[1].eq(-2).all()
    assert scores.grad.isfinite().all()


def test_unknown_rescale():
    with pytest.raises(ValueError, match="known: row, frame"):
        log_score_bias(torch.rand(2, 4), window_index(4, 4, 2, 2), (4, 4), [2], "clip")
