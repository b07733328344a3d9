import pytest
import torch

from stts_cli.pruning.packing import pack
from stts_cli.settings import first_fit_descending
from tests.pruning.bins import pack_bins, unpack


@pytest.fixture
def ragged():
    torch.manual_seed(0)
    hidden, keep = torch.randn(5, 6, 3), torch.rand(5, 6) < 0.5
    keep[0], keep[3] = True, False
    return hidden, keep


def test_pack_equals_a_loop(ragged):
    hidden, keep = ragged
    packed = pack(hidden, keep)
    rows = [(t, n) for t in range(5) for n in range(6) if keep[t, n]]
    assert packed.index.tolist() == [t * 6 + n for t, n in rows]
    assert torch.equal(packed.tokens, torch.stack([hidden[t, n] for t, n in rows]))
    lengths = [sum(1 for f, _ in rows if f == t) for t in range(5)]
    assert packed.lengths == tuple(n for n in lengths if n)
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.cu_seqlens.diff().tolist() == list(packed.lengths)
    assert packed.max_seqlen == 6
    nothing = pack(hidden, torch.zeros_like(keep))
    assert (nothing.cu_seqlens.tolist(), nothing.max_seqlen, nothing.lengths) == ([0], 0, ())


def test_unpack_undoes_pack(ragged):
    hidden, keep = ragged
    back = unpack(pack(hidden, keep), 5, 6)
    assert torch.equal(back, hidden * keep[..., None])
    full = torch.ones_like(keep)
    assert torch.equal(unpack(pack(hidden, full), 5, 6), hidden)


def test_gradient_reaches_kept_patches_only(ragged):
    hidden, keep = ragged
    hidden.requires_grad_()
    pack(hidden, keep).tokens.sum().backward()
    assert torch.equal(hidden.grad, keep[..., None].expand_as(hidden).float())


def test_shape_mismatch():
    with pytest.raises(ValueError, match=r"\(5, 4\).*\(5, 6\)"):
        pack(torch.randn(5, 6, 3), torch.ones(5, 4, dtype=torch.bool))


def test_first_fit_descending():
    assert first_fit_descending([3, 6, 0, 3, 2, 4], 6) == [[1], [5, 4], [0, 3]]
    assert first_fit_descending([], 0) == []
    with pytest.raises(ValueError, match="keeps 7 patches, a bin holds 6"):
        first_fit_descending([1, 7], 6)


def test_bins_hold_every_kept_patch_once(ragged):
    hidden, keep = ragged
    binned = pack_bins(hidden, keep)
    assert torch.equal(binned.tokens.flatten(0, 1)[binned.kept_slot], pack(hidden, keep).tokens)
    assert binned.index.tolist() == pack(hidden, keep).index.tolist()
    assert int((binned.segment >= 0).sum()) == int(keep.sum())
    assert binned.segment[binned.segment < 0].eq(-1).all()
    assert binned.tokens[binned.segment < 0].eq(0).all()
    assert binned.segment.flatten()[binned.kept_slot].tolist() == (binned.index // 6).tolist()
    assert len(binned.tokens) < 4  # four frames keep something, some share a bin


def test_refill_gives_a_lone_frame_all_its_patches():
    hidden = torch.randn(2, 6, 3)
    keep = torch.tensor([[True] * 6, [True, False, True, False, True, True]])
    binned = pack_bins(hidden, keep, refill_lone_frames=True)
    assert torch.equal(binned.tokens[1], hidden[1])
    assert binned.segment[1].tolist() == [1] * 6
    assert torch.equal(binned.tokens.flatten(0, 1)[binned.kept_slot], pack(hidden, keep).tokens)
    assert binned.kept_slot.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 10, 11]
    assert int((pack_bins(hidden, keep).segment >= 0).sum()) == 10
