"""What `stts eval` asks, of which arms: flags, or a file of presets/suites with flags over it. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field

from stts_cli.config import files
from stts_cli.config.arms import parse_arms
from stts_cli.config.files import Layer, Model, Positive, Ratio
from stts_cli.config.presets import Scorer, choose_preset, presets_folder
from stts_cli.settings import Arm


class Suite(Model):
    """Benchmarks and arms; every key but the last two is a flag of `stts eval`.

    Attributes:
        bench: a benchmark, a file of questions, all-short, all-long or all; several with commas.
        videos: only so many videos, each with all its questions.
        limit: only so many questions.
        split: a split; null for the benchmark's default.
        scoring: how replies are read: strict, relaxed, molmo2 or official.
        preset: what the first arm starts from.
        model: its checkpoint folder or hub id.
        revision: commit, branch or tag of a hub id.
        frames: the most frames to look at.
        max_fps: the most frames a second to look at.
        keep_ratio: fraction of windows that the first arm keeps.
        scorer: who scores its windows.
        prune_layer: 0-based ViT block after which windows are scored.
        compare: more arms, as --compare takes them: dense, 0.3, random@0.3@32f, name=runs/name@0.5.
        paper: the paper's average of all benchmarks by arm, in percent.
    """

    bench: str | None = None
    videos: Positive | None = None
    limit: Positive | None = None
    split: str | None = None
    scoring: str = "strict"
    preset: str | None = None
    model: str | None = None
    revision: str | None = None
    frames: Positive | None = None
    max_fps: Annotated[float, Field(gt=0)] | None = None
    keep_ratio: Ratio | None = None
    scorer: Scorer | None = None
    prune_layer: Layer | None = None
    compare: list[str] = Field(default_factory=list)
    paper: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(default_factory=dict)

    def override(self, **flags: Any) -> Suite:
        """Return the suite with flags put in; other benchmarks have no figures of the paper. See `Model.override`."""
        return super().override(**flags, **({"paper": {}} if flags.get("bench") else {}))

    def arms(self, compare: Iterable[str] | None, *, resize: str, **weights: str | None) -> list[Arm]:
        """Return the arms, the flags' first, then the suite's and those of --compare; raises what `parse_arms` does.

        Args:
            compare: values of --compare.
            resize: one of `resize.RESIZES`.
            **weights: dtype, quantize and device_map of the first arm; None for its preset's.
        """
        preset = choose_preset(self.preset, model=self.model).override(
            revision=self.revision,
            frames=self.frames,
            max_fps=self.max_fps,
            keep_ratio=self.keep_ratio,
            scorer=self.scorer,
            prune_layer=self.prune_layer,
            **weights,
        )
        return parse_arms(preset.arm("pruned", resize), compare, self.compare)


def load_suite(name_or_path: str) -> Suite:
    """Read a shipped suite by its name, or a user's YAML file; raises what `files.load` does."""
    return files.load(files.find("suite", name_or_path, presets_folder() / "suites"), Suite)
