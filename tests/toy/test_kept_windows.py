"""What is kept is counted by what truly happens in a window."""

import numpy as np
import pytest
import torch

from stts_cli.config.presets import presets_folder
from stts_cli.engine.model import load_checkpoint
from stts_cli.toy import kept_windows
from tests.families.tiny_qwen3_vl import save_qwen3_vl


def test_a_window_is_what_its_labels_say():
    labels = np.zeros((3, 4, 2))
    labels[:, 0] = 1  # stands
    labels[1:, 1, 0] = 1  # comes in the second frame, and stays
    labels[:2, 2, 1] = 1  # goes in the third
    assert kept_windows.kinds_of(labels).tolist() == [[1, 0, 1, 2], [1, 1, 0, 2]]


@pytest.mark.parametrize("name", ["nano", "qwen3_vl"])
def test_shares_are_those_of_the_masks(tmp_path, monkeypatch, name):
    """Of a trained model, and of a random one whose frames' size follows the video, units of two frames."""
    folder = presets_folder() / "nano" if name == "nano" else save_qwen3_vl(tmp_path / name, scorer=True)
    family = load_checkpoint(str(folder), device="cpu", dtype="float32")
    monkeypatch.setattr(kept_windows, "KEEP_RATIOS", (1.0, 0.5))
    monkeypatch.setattr(kept_windows, "NUM_FRAMES", 6)
    masks = []
    real = family.encode

    def encode(*arguments, **settings):
        encoded = real(*arguments, **settings)
        masks.append(encoded.keep_mask[1:])
        return encoded

    monkeypatch.setattr(family, "encode", encode)
    shares, sizes = kept_windows.kept_shares(family, ["learned", "random"], long=False, num_videos=2, folder=tmp_path)
    assert sum(sizes) == pytest.approx(1)
    assert shares["learned", 1.0] == shares["random", 1.0] == [1, 1, 1]
    half = torch.cat(masks[1::4]).float().mean()
    assert np.dot(shares["learned", 0.5], sizes) == pytest.approx(float(half))
    if name == "nano":
        changes, _, background = shares["learned", 0.5]
        assert changes > background, "the scorer was trained to tell them apart"


def test_it_is_run_by_its_name(capsys, monkeypatch):
    monkeypatch.setattr(
        kept_windows, "kept_shares", lambda *a, **k: ({("learned", 0.5): [1.0, 0.5, 0.0]}, [0.1, 0.2, 0.7])
    )
    kept_windows.main([str(presets_folder() / "nano")])
    assert "| learned, keep 0.5 | 100% | 50% | 0% |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="usage"):
        kept_windows.main([])
