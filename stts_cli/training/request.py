"""What `stts finetune` is asked for: one run, several runs, or the embedded model's stages. No torch yet."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_cli.config import files
from stts_cli.config.presets import load_preset, preset_names, presets_folder
from stts_cli.config.training import read_stages
from stts_cli.errors import InputError
from stts_cli.training.run_folder import Document, Report, process
from stts_cli.training.settings import NANO_STAGES, FinetuneSettings


@dataclass(frozen=True)
class Request:
    """A training preset, and the flags that go before it."""

    preset: str | None  # a name of presets/training, or a YAML file; None for flags alone
    flags: Mapping[str, Any]  # `FinetuneSettings` fields that were given
    output: str | None = None  # the folder of the result; None for runs/PRESET
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:N" or "mps"
    resume: bool = False  # go on with the run that the folder holds
    skip_invalid: bool = False  # leave out rows that cannot be read and questions that the check rejects
    push_to_hub: str | None = None  # the hub's repository that the result is uploaded to; None for none

    @functools.cached_property
    def stages(self) -> Mapping[str, Mapping[str, Any]]:
        """Fields by stage, the flags not among them; one stage named "" for one run."""
        if self.preset is None:
            return {"": {}}
        stages = read_stages(files.find("training preset", self.preset, presets_folder() / "training"))
        return {name: _with_checkpoint(values) for name, values in stages.items()}

    @property
    def folder(self) -> Path:
        """Where the result goes."""
        return Path(self.output or f"runs/{Path(self.preset).stem if self.preset else 'finetune'}")

    @property
    def is_nano(self) -> bool:
        """Whether its stages make the embedded model, which `toy.nano` does."""
        return tuple(self.stages) == NANO_STAGES

    @property
    def has_runs(self) -> bool:
        """Whether it is several runs, each with a result of its own."""
        return set(self.stages) != {""} and not self.is_nano

    def check(self) -> None:
        """Refuse what cannot go together, before anything is loaded.

        Raises:
            InputError: a file or a setting is wrong, or flags that several trainings cannot have.
            EnvironmentFailure: nobody is logged in on the hub.
        """
        if self.skip_invalid and set(self.stages) != {""}:
            raise InputError(f"--skip-invalid: --preset {self.preset} has several trainings. Give a preset of one.")
        if not self.push_to_hub:
            return
        if self.has_runs:
            raise InputError("--push-to-hub: cannot go with several runs; upload the one you want by its own preset.")
        model, train = ("", "full") if self.is_nano else (self.settings.model, self.settings.train)
        if process()[0] == 0 and (model or self.is_nano):
            from stts_cli.training.model_card import check_push

            check_push(self.push_to_hub, model, train)

    @property
    def settings(self) -> FinetuneSettings:
        """Those of one run; an InputError where one is wrong, or some exclude each other."""
        own = self.stages[""]
        if "model" in self.flags:  # which is of no revision that the preset says
            own = {name: value for name, value in own.items() if name != "revision"}
        return files.from_flags(FinetuneSettings, _with_checkpoint({**own, **self.flags}))


def train(request: Request, report: Report) -> Document:
    """Do one run, or several beside other processes, but not the embedded model's stages.

    Return the document of `finetune.finetune`, which also says what is refused; of several runs, one by name.
    """
    how: dict[str, Any] = {"resume": request.resume, "device": request.device, "report": report}
    if request.has_runs:
        from stts_cli.training.runs import plan_runs, train_runs

        return train_runs(plan_runs(request.stages, _with_checkpoint(request.flags)), request.folder, **how)
    from stts_cli.training.finetune import finetune

    return finetune(request.settings, request.folder, skip_invalid=request.skip_invalid, **how)


def push(request: Request, report: Report) -> None:
    """Upload the result where the request says so, from the first process; see `model_card.push_to_hub`."""
    if request.push_to_hub and process()[0] == 0:
        from stts_cli.training.model_card import push_to_hub

        report({"event": "stage", "name": "uploading"})
        push_to_hub(request.folder, request.push_to_hub)


def _with_checkpoint(values: Mapping[str, Any]) -> Mapping[str, object]:
    """Put a preset's checkpoint in place of its name."""
    if values.get("model") in preset_names():
        preset = load_preset(values["model"])
        pinned = {} if preset.revision is None else {"revision": preset.revision}
        return {**pinned, **values, "model": preset.model}
    return values
