import math

import pytest
import torch
from torch.nn import functional

from stts_cli.pruning.losses import temporal_target
from stts_cli.pruning.scorer import TokenScorer, random_scores, reference_scores
from stts_cli.pruning.selection import select_windows
from stts_cli.pruning.windows import window_index
from stts_cli.settings import num_dropped


def naive_pool(scorer, x, index, t, w):
    pool, patches = scorer.pool, x[t, [i for i in index[w].tolist() if i >= 0]]
    q, k, v = pool.q_proj(patches.mean(0)), pool.k_proj(patches), pool.v_proj(patches)
    heads = []
    for h in range(pool.num_heads):
        part = slice(h * pool.head_dim, (h + 1) * pool.head_dim)
        weights = (k[:, part] @ q[part] / math.sqrt(pool.head_dim)).softmax(0)
        heads.append(weights @ v[:, part])
    return pool.o_proj(torch.cat(heads))


@pytest.mark.parametrize("head_dim", [None, 5])
@pytest.mark.parametrize("sizes", [(4, 4, 2, 2), (5, 4, 3, 3)])
def test_learned_scores_equal_a_loop(sizes, head_dim):
    torch.manual_seed(0)
    index, lengths = window_index(*sizes), [3, 1, 2]
    scorer, x = TokenScorer(12, 3, 20, head_dim), torch.randn(6, sizes[0] * sizes[1], 12)
    for p in scorer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    scores = scorer(x, index, lengths)
    assert scores.shape == (6, len(index))
    for t in range(6):
        for w in range(len(index)):
            previous = torch.zeros(12) if t in (0, 3, 4) else naive_pool(scorer, x, index, t - 1, w)
            hidden = torch.cat([previous, naive_pool(scorer, x, index, t, w)])
            mlp = scorer.mlp
            logit = mlp.fc3(functional.silu(mlp.fc2(functional.silu(mlp.fc1(hidden)))))
            assert scores[t, w].item() == pytest.approx(logit.sigmoid().item(), abs=1e-5)
    assert scores.std() > 1e-3
    assert scorer.pool.q_proj.weight.shape == ((12, 12) if head_dim is None else (15, 12))


def test_learned_scorer_is_float32_out_and_differentiable():
    scorer = TokenScorer(12, 3, 20).to(torch.bfloat16)
    scores = scorer(torch.randn(4, 16, 12, dtype=torch.bfloat16), window_index(4, 4, 2, 2), [4])
    assert scores.dtype == torch.float32
    scores.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in scorer.parameters())


def test_init_is_the_published_one():
    torch.manual_seed(0)
    scorer = TokenScorer(64, 4, 256)
    assert scorer.mlp.fc1.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert scorer.mlp.fc2.weight.std().item() == pytest.approx(256**-0.5, rel=0.05)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        assert getattr(scorer.pool, name).weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert all(p.eq(0).all() for name, p in scorer.named_parameters() if name.endswith("bias"))


def test_names_of_the_checkpoint():
    names = {n.rsplit(".", 1)[0] for n in TokenScorer(8, 2, 8).state_dict()}
    assert names == {"pool.q_proj", "pool.k_proj", "pool.v_proj", "pool.o_proj", "mlp.fc1", "mlp.fc2", "mlp.fc3"}


def test_random_is_seeded():
    x, index = torch.zeros(4, 16, 2), window_index(4, 4, 2, 2)
    drawn = [random_scores(x, index, [4], seed=seed) for seed in (0, 3, 4)]
    assert torch.equal(drawn[0], torch.rand(4, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(drawn[1], random_scores(x, index, [1, 3], seed=3))
    assert not torch.equal(drawn[1], drawn[2])


def test_temporal_finds_the_window_that_moved():
    x = torch.randn(1, 16, 8).repeat(4, 1, 1)
    x[2, 10] = torch.randn(8)  # patch 10 is in window 3
    scores = temporal_target(x, window_index(4, 4, 2, 2), [4])
    assert scores[2].argmax() == 3
    assert scores[1].max() < 1e-5


def naive_reference(x, index, keep_total, threshold=0.85):
    vectors = [[x[t, w_patches].flatten() for w_patches in index.tolist()] for t in range(len(x))]
    while True:
        changed, change = {}, {}
        for w in range(len(index)):
            reference = vectors[0][w]
            changed[0, w], change[0, w] = True, 1.0
            for t in range(1, len(x)):
                cosine = functional.cosine_similarity(vectors[t][w], reference, dim=0).item()
                changed[t, w], change[t, w] = cosine < threshold, 1 - cosine
                if changed[t, w]:
                    reference = vectors[t][w]
        if sum(changed.values()) <= keep_total:
            return changed, change
        threshold -= 0.05


@pytest.mark.parametrize(("keep_ratio", "prune_from_frame"), [(0.9, 0), (0.5, 0), (0.25, 0), (0.25, 4)])
def test_reference_equals_a_loop(keep_ratio, prune_from_frame):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 16, 8, generator=generator) + 0.7 * torch.randn(6, 16, 8, generator=generator)
    index = window_index(4, 4, 2, 2)
    total = 24 - int(torch.tensor(4 * (1 - keep_ratio)) * (6 - prune_from_frame))
    changed, change = naive_reference(x, index, total)
    dropped = [num_dropped(6, 4, keep_ratio, prune_from_frame)]
    scores = reference_scores(x, index, [6], dropped=dropped)
    for (t, w), moved in changed.items():
        assert scores[t, w].item() == pytest.approx(change[t, w] / 2 + moved, abs=1e-5)
    keep = select_windows(scores, dropped, [6])
    assert int(keep.sum()) == total
    assert all(bool(keep[place]) for place, moved in changed.items() if moved)


def turning(*cosines):
    """Frames of one window of one patch, each with the given cosine to the first."""
    return torch.tensor([[[c, (1 - c * c) ** 0.5]] for c in (1.0, *cosines)])


def test_reference_counts_as_changed_below_085_and_stops_at_the_budget(monkeypatch):
    index = window_index(1, 1, 1, 1)
    assert (reference_scores(turning(0.84, 1.0), index, [3], dropped=[0]) > 1).tolist() == [[True], [True], [True]]
    assert (reference_scores(turning(0.86, 1.0), index, [3], dropped=[0]) > 1).tolist() == [[True], [False], [False]]
    # two of four may stay and two have changed: the threshold has no reason to fall
    assert (reference_scores(turning(1.0, 0.8, 0.8), index, [4], dropped=[2]) > 1).tolist() == [
        [True],
        [False],
        [True],
        [False],
    ]
    # one of two may stay: the threshold falls to below 0.78
    assert (reference_scores(turning(0.78), index, [2], dropped=[1]) > 1).tolist() == [[True], [False]]
    monkeypatch.setattr("stts_cli.pruning.scorer._CHANGED_BELOW", 0.0)
    assert (reference_scores(turning(0.0), index, [2], dropped=[0]) > 1).tolist() == [[True], [False]]


def test_a_budget_for_each_video():
    with pytest.raises(ValueError, match="zip"):
        reference_scores(turning(0.0, 0.0), window_index(1, 1, 1, 1), [2, 1], dropped=[1])


def test_the_reference_of_each_video_is_its_own():
    index, parts = window_index(1, 1, 1, 1), [turning(0.78), turning(0.84, 1.0), turning(0.5)]
    alone = [reference_scores(part, index, [len(part)], dropped=[1]) for part in parts]
    assert torch.equal(reference_scores(torch.cat(parts), index, [2, 3, 2], dropped=[1, 1, 1]), torch.cat(alone))


def test_the_reference_stays_within_0_and_2():
    """Also where rounding puts a cosine beyond 1."""
    x = torch.randn(1, 2500, 6, generator=torch.Generator().manual_seed(0)).repeat(3, 1, 1)
    x *= torch.tensor([1, 1.3, -5.3])[:, None, None]
    index = window_index(50, 50, 1, 1)
    scores = reference_scores(x, index, [3], dropped=[0])
    assert scores[1].min() == 0
    assert scores[2].max() == 2
    assert reference_scores(x, index, [3], dropped=[5000])[2].max() == 1


def test_reference_keeps_drift_that_temporal_misses():
    # one window turns slowly: each step is small, the sum is not
    angles = torch.linspace(0, math.pi / 2, 10)
    x = torch.ones(10, 4, 2)
    x[:, 0] = torch.stack([angles.cos(), angles.sin()], -1)
    index = window_index(2, 2, 1, 1)
    assert (reference_scores(x, index, [10], dropped=[20])[1:, 0] > 1).any()
    assert temporal_target(x, index, [10])[1:].max() < 0.05
