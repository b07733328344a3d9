import pytest
import torch
from torch.nn import functional

from stts_cli.pruning import losses
from stts_cli.pruning.losses import temporal_loss, temporal_target
from stts_cli.pruning.windows import window_index


def naive_target(x, index, t, w):
    patches = [i for i in index[w].tolist() if i >= 0]
    now, before = x[t, patches].flatten(), x[t - 1, patches].flatten()
    return 1 - functional.cosine_similarity(now, before, dim=0).item()


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("frames_at_once", [64, 3])
@pytest.mark.parametrize("sizes", [(4, 4, 2, 2), (5, 4, 3, 3)])
def test_target_and_loss_equal_loops(sizes, frames_at_once, scale, monkeypatch):
    monkeypatch.setattr(losses, "_FRAMES_AT_ONCE", frames_at_once)
    index = window_index(*sizes)
    lengths = [4, 1, 3]
    x = scale * torch.randn(8, sizes[0] * sizes[1], 6, generator=torch.Generator().manual_seed(0))
    scores = torch.rand(8, len(index), generator=torch.Generator().manual_seed(1), requires_grad=True)
    target = temporal_target(x, index, lengths)
    errors = []
    for t in (1, 2, 3, 6, 7):
        for w in range(len(index)):
            expected = naive_target(x, index, t, w)
            assert target[t, w].item() == pytest.approx(expected, abs=1e-5)
            errors.append((scores[t, w].item() - expected) ** 2)
    assert target[[0, 4, 5]].eq(1).all()
    loss = temporal_loss(scores, x, index, lengths)
    assert loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    loss.backward()
    assert scores.grad[[0, 4, 5]].eq(0).all()
    assert scores.grad[[1, 2, 3, 6, 7]].ne(0).all()


def test_the_target_is_within_0_and_2():
    """Also where rounding puts a cosine beyond 1: a still frame, then one turned to its opposite."""
    x = torch.randn(1, 2500, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 1, -5.3])[:, None, None]
    target = temporal_target(x, window_index(50, 50, 1, 1), [3])
    assert target[1].min() == 0
    assert target[1].max() < 1e-6
    assert target[2].min() > 2 - 1e-6
    assert target[2].max() == 2


def test_the_mean_over_a_single_window():
    x = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert temporal_loss(torch.tensor([[0.9], [0.5]]), x, window_index(1, 1, 1, 1), [2]) == 0.25


def test_nothing_to_compare_is_zero_and_differentiable():
    scores = torch.rand(2, 4, requires_grad=True)
    loss = temporal_loss(scores, torch.randn(2, 16, 6), window_index(4, 4, 2, 2), [1, 1])
    loss.backward()
    assert loss.item() == 0


def test_the_targets_gradient_reaches_the_features_where_asked_for():
    """Against autograd through the formula, a window at a time; an all-zero window has none, and no nan."""
    index, lengths = window_index(5, 4, 3, 3), [3, 2]
    x = torch.randn(5, 20, 6, generator=torch.Generator().manual_seed(0))
    x[2, index[1][index[1] >= 0]] = 0.0
    scores = torch.rand(5, len(index), generator=torch.Generator().manual_seed(1))
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    temporal_loss(scores, ours, index, lengths, target_gradient=True).backward()
    errors = []
    for t in (1, 2, 4):
        for w in range(len(index)):
            patches = [i for i in index[w].tolist() if i >= 0]
            now, before = (functional.normalize(theirs[k, patches].flatten(), dim=0) for k in (t, t - 1))
            errors.append((scores[t, w] - (1 - now @ before)) ** 2)
    torch.stack(errors).mean().backward()
    quiet = torch.ones(5, 20, dtype=torch.bool)
    quiet[2, index[1][index[1] >= 0]] = False
    torch.testing.assert_close(ours.grad[quiet], theirs.grad[quiet], rtol=1e-4, atol=1e-7)
    assert ours.grad[quiet].abs().sum() > 0.1
    assert ours.grad.isfinite().all()


def test_no_gradient_into_features():
    x = torch.randn(3, 16, 6, requires_grad=True)
    temporal_loss(torch.rand(3, 4, requires_grad=True), x, window_index(4, 4, 2, 2), [3]).backward()
    assert x.grad is None
    assert not temporal_target(x, window_index(4, 4, 2, 2), [3]).requires_grad
    with torch.no_grad():
        assert not temporal_target(x, window_index(4, 4, 2, 2), [3], gradient=True).requires_grad


def test_the_target_does_not_depend_on_the_features_size():
    x = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(0))
    index = window_index(4, 4, 2, 2)
    torch.testing.assert_close(temporal_target(1e-3 * x, index, [3]), temporal_target(x, index, [3]))
