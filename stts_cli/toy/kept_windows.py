"""What a scorer keeps, held against what truly happens: the built-in world knows where things are.

`python -m stts_cli.toy.kept_windows CHECKPOINT` prints a Markdown table over its test clips, decoded from files.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from stts_cli.engine.model import load_checkpoint
from stts_cli.evaluation.benchmarks.shapes import make_items
from stts_cli.families.base import Family
from stts_cli.media.reader import read_source
from stts_cli.media.source import ReadRequest
from stts_cli.settings import SCORERS
from stts_cli.toy.clips import SceneClip
from stts_cli.toy.labels import window_labels

KINDS = ("something changes", "a thing, as before", "background")
NUM_VIDEOS, NUM_FRAMES, MAX_FPS = 40, 32, 2.0
KEEP_RATIOS = (0.7, 0.5, 0.3, 0.2)


def kinds_of(labels: np.ndarray) -> np.ndarray:
    """Return what each window is, indices into `KINDS` (T - 1, W) from the second frame on, by its labels (T, W, L)."""
    changes = (labels[1:] != labels[:-1]).any(-1)
    thing = (labels[1:] != 0).any(-1)
    return np.where(changes, 0, np.where(thing, 1, 2))


def kept_shares(
    family: Family, scorers: list[str], *, long: bool, num_videos: int = NUM_VIDEOS, folder: Path | None = None
) -> tuple[dict[tuple[str, float], list[float]], list[float]]:
    """Measure how many windows of each kind are kept in test clips; `folder` is that of `shapes.make_items`.

    A unit of several frames is what its last one shows. Of `settings.SCORERS` one that merges windows keeps none as
    they were, so `tome` says little here.

    Returns:
        Shares kept, a number a kind, by scorer and keep ratio; and the share of all windows that each kind is.
    """
    sources = list(dict.fromkeys(item.source for item in make_items(long, "test", num_videos, folder)))
    counts = np.zeros(len(KINDS))
    kept = {(scorer, ratio): np.zeros(len(KINDS)) for scorer in scorers for ratio in KEEP_RATIOS}
    for source in sources:
        source.prepare()
        clip = read_source(ReadRequest(source, NUM_FRAMES, MAX_FPS, family.layout_rule, family.resample))
        assert isinstance(source.write, SceneClip)
        with torch.inference_mode():
            patches = family.preprocess(torch.from_numpy(clip.frames))
            deep = patches.layout.frames_per_unit
            times = [clip.timestamps_s[start : start + deep][-1] for start in range(0, len(clip.frames), deep)]
            kinds = kinds_of(window_labels(source.write.scene, np.array(times), patches.layout.window_grid)).ravel()
            counts += np.bincount(kinds, minlength=len(KINDS))
            for (scorer, ratio), sums in kept.items():
                mask = family.encode(patches, family.settings.override(keep_ratio=ratio, scorer=scorer)).keep_mask
                sums += np.bincount(kinds, weights=mask[1:].flatten().cpu().numpy(), minlength=len(KINDS))
    shares = {key: (sums / counts.clip(1)).tolist() for key, sums in kept.items()}
    return shares, (counts / counts.sum()).tolist()


def main(arguments: list[str]) -> None:
    """Print the table of a checkpoint."""
    if len(arguments) != 1:
        sys.exit("usage: python -m stts_cli.toy.kept_windows CHECKPOINT")
    family = load_checkpoint(arguments[0], device="cpu", dtype="float32")
    scorers = [name for name in SCORERS if name not in ("none", "tome") and (name != "learned" or family.scorer)]
    for long in (False, True):
        shares, sizes = kept_shares(family, scorers, long=long)
        clips = f"{NUM_VIDEOS} {'long' if long else 'short'} test clips"
        print(f"{clips}, at most {NUM_FRAMES} frames; the procedural world")
        print(f"| kept of windows where | {' | '.join(KINDS)} |\n| --- | ---: | ---: | ---: |")
        print(f"| share of all windows | {' | '.join(f'{size:.1%}' for size in sizes)} |")
        for (scorer, ratio), each in shares.items():
            print(f"| {scorer}, keep {ratio:g} | {' | '.join(f'{share:.0%}' for share in each)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
