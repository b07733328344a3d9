"""Show a finetuning run: a progress bar with the loss's parts on stderr, a table of before and after on stdout."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.table import Table

from stts_cli.report.progress import Progress
from stts_cli.report.terminal import Document, Screen, print_json

DEMONSTRATION = "a demonstration on a procedural world: says nothing about real video"
FIGURES = {"accuracy": "{:.1%}", "loss": "{:.3f}", "kept": "{:.0%}", "flops_ratio": "{:.3f}"}
LOGGED = {
    "lm_loss": "lm {:.3f}",
    "temporal_loss": "temporal {:.4f}",
    "accuracy": "right {:.0%}",
    "kept": "kept {:.0%}",
    "tokens_per_s": "{:,.0f} tokens/s",
    "memory_gib": "{:.1f} GiB",
}


class FinetuneProgress:
    """A run on stderr, to be entered: on a terminal a bar with the time left, elsewhere a line a logged step."""

    def __init__(self) -> None:
        self._bar, self._figures = Progress(), ""
        self._began: tuple[int, float] | None = None  # a step, and when it was done
        self._step = self._total = 0

    def __enter__(self) -> FinetuneProgress:
        """Show the bar."""
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Take the bar away."""
        self._bar.__exit__(*error)

    def __call__(self, event: Document) -> None:
        """Show one event of `training.finetune`."""
        kind = event["event"]
        if kind == "stage":
            self._bar(event["name"])
        elif kind == "checking":
            self._bar("checking", event["done"], event["total"])
        elif kind == "step":
            self._step, self._total = event["step"], event["total"]
            self._began = self._began or (self._step, time.monotonic())
            self._bar("training", self._step, self._total, self._figures)
        elif kind == "start":
            self._figures, self._began = "", None
            self._bar.say(start_line(event))
        elif kind == "note":
            self._bar.say(event["text"])
        elif kind == "log":
            self._figures = figures_line(event)
            self._bar("training", self._step, self._total, self._figures)
            if not self._bar.is_live:
                self._bar.say(f"step {event['step']} of {self._total}: {self._figures}{self._time_left()}")
        elif kind == "evaluation":
            self._bar.say(f"step {event['step']}: {evaluation_line(event['arms'])}")

    def _time_left(self) -> str:
        first, began = self._began or (0, 0.0)
        if not first < self._step < self._total:
            return ""
        seconds = (time.monotonic() - began) / (self._step - first) * (self._total - self._step)
        return f", {timedelta(seconds=round(seconds))} left"


def start_line(event: Document) -> str:
    """Return what a run sets out to do, in one line."""
    held_out = f"{event['held_out']} held-out videos" if event["held_out"] else "nothing held out"
    processes = f", {event['processes']} processes" if event["processes"] > 1 else ""
    return (
        f"training {event['train']}: {event['trainable']:,} of {event['parameters']:,} parameters, {event['steps']} "
        f"steps on {event['data']}, {held_out}, {event['precision']}{processes}"
    )


def figures_line(event: Document) -> str:
    """Return a logged line's figures: the loss's parts, the kept share, the speed and the memory held."""
    unknown = [name for name in ("tokens_per_s", "memory_gib") if not event.get(name)]
    return ", ".join(form.format(event[name]) for name, form in LOGGED.items() if name in event.keys() - unknown)


def evaluation_line(arms: Document) -> str:
    """Return an evaluation's figures in one line."""
    return "held out: " + ", ".join(
        f"{name} {one['accuracy']:.1%}, loss {one['loss']:.3f}" for name, one in arms.items()
    )


def show_finetune(document: Document, output: str, *, json_only: bool = False) -> None:
    """Print the table of a run that is done, whose result lies in `output`; or its document alone, as JSON."""
    if json_only:
        print_json({**document, "output": output})
        return
    parts: list[Table | str] = []
    if document["after"]:
        name = Path(document["model"]).name if Path(document["model"]).is_dir() else document["model"]
        table = _table(
            f"{name}, {document['steps']} steps", "held-out answers", "accuracy", "loss", "kept", "FLOPs / dense"
        )
        for when in ("before", "after"):
            for arm in ("dense", "temporal", "pruned"):
                if one := document[when].get(arm):
                    label = "temporal scorer" if arm == "temporal" else arm
                    table.add_row(f"{label}, {when}", *(form.format(one[key]) for key, form in FIGURES.items()))
        answers = int(document["after"]["dense"]["answers"])
        parts += [table, f"{answers:,} answers, right when greedy decoding gives them word for word"]
    if document["is_demonstration"]:
        parts.append(DEMONSTRATION)
    Screen().show(*parts, f"the result: {output}", f"stts ask VIDEO QUESTION --model {output}")


def show_runs(documents: dict[str, Document], output: str, *, json_only: bool = False) -> None:
    """Print the table of several runs that are done, each in its folder of `output`; or their documents as JSON."""
    if json_only:
        print_json({"output": output, "runs": documents})
        return
    table = _table("held-out answers after training", "run", "steps", "dense", "pruned", "kept", "minutes")
    for name, document in documents.items():
        after = document["after"]
        shares = [f"{after[arm]['accuracy']:.1%}" if arm in after else "" for arm in ("dense", "pruned")]
        kept = f"{after['pruned']['kept']:.0%}" if "pruned" in after else ""
        table.add_row(name, str(document["steps"]), *shares, kept, f"{document['seconds'] / 60:.1f}")
    notes = [DEMONSTRATION] if any(document["is_demonstration"] for document in documents.values()) else []
    Screen().show(table, *notes, f"the results: {output}")


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table
