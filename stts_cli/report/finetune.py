"""Show a finetuning run: a progress bar with the loss's parts on stderr, a table of before and after on stdout."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from stts_cli.report.terminal import Screen, print_error, print_json

Document = dict[str, Any]
DEMONSTRATION = "a demonstration on a procedural world: says nothing about real video"
ROWS = (
    ("before", "dense", "dense, before"),
    ("before", "temporal", "temporal scorer, before"),
    ("before", "pruned", "pruned, before"),
    ("after", "dense", "dense, after"),
    ("after", "pruned", "pruned, after"),
)


class FinetuneProgress:
    """Tell of a run on stderr: a bar on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        self._console = Screen(stderr=True)
        self._live = self._console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._task = self._bar.add_task("starting", total=None, figures="")

    def __enter__(self) -> FinetuneProgress:
        """Start the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the bar and clear its line."""
        self._bar.stop()

    def __call__(self, event: Document) -> None:
        """Show one event of a run.

        Args:
            event: from `training.finetune`.
        """
        kind = event["event"]
        if kind == "stage":
            self._bar.update(self._task, description=event["name"])
        elif kind == "checking":
            self._bar.update(self._task, description="checking", completed=event["done"], total=event["total"])
        elif kind == "step":
            self._bar.update(self._task, description="training", completed=event["step"], total=event["total"])
        elif kind == "start":
            self._say(start_line(event))
        elif kind == "note":
            self._say(event["text"])
        elif kind == "log":
            figures = figures_line(event)
            self._bar.update(self._task, figures=figures)
            if not self._live:
                self._say(f"step {event['step']}: {figures}")
        elif kind == "evaluation":
            self._say(f"step {event['step']}: {evaluation_line(event['arms'])}")

    def _say(self, text: str) -> None:
        if self._live:
            self._bar.console.print(text)
        else:
            print_error(text)


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
    names = {
        "lm_loss": "lm {:.3f}",
        "temporal_loss": "temporal {:.4f}",
        "accuracy": "right {:.0%}",
        "kept": "kept {:.0%}",
    }
    parts = [form.format(event[name]) for name, form in names.items() if name in event]
    if event.get("tokens_per_s"):
        parts.append(f"{event['tokens_per_s']:,.0f} tokens/s")
    if event.get("memory_gib"):
        parts.append(f"{event['memory_gib']:.1f} GiB")
    return ", ".join(parts)


def evaluation_line(arms: Document) -> str:
    """Return an evaluation's figures in one line."""
    return "held out: " + ", ".join(
        f"{name} {one['accuracy']:.1%}, loss {one['loss']:.3f}" for name, one in arms.items()
    )


def show_finetune(document: Document, output: str, *, json_only: bool = False) -> None:
    """Print the table of a run that is done.

    Args:
        document: from `training.finetune.finetune`.
        output: the result's folder.
        json_only: print the document and nothing else.
    """
    if json_only:
        print_json({**document, "output": output})
        return
    parts: list[Table | str] = []
    if document["after"]:
        name = Path(document["model"]).name if Path(document["model"]).is_dir() else document["model"]
        table = Table(title=f"{name}, {document['steps']} steps")
        for column in ("held-out answers", "accuracy", "loss", "kept", "FLOPs / dense"):
            table.add_column(column, justify="left" if column == "held-out answers" else "right")
        for when, arm, label in ROWS:
            one = document[when].get(arm)
            if one:
                figures = (
                    f"{one['accuracy']:.1%}",
                    f"{one['loss']:.3f}",
                    f"{one['kept']:.0%}",
                    f"{one['flops_ratio']:.3f}",
                )
                table.add_row(label, *figures)
        answers = int(document["after"]["dense"]["answers"])
        parts += [table, f"{answers:,} answers, right when greedy decoding gives them word for word"]
    if document["is_demonstration"]:
        parts.append(DEMONSTRATION)
    Screen().show(*parts, f"the result: {output}", f"stts ask VIDEO QUESTION --model {output}")


def show_runs(documents: dict[str, Document], output: str, *, json_only: bool = False) -> None:
    """Print the table of several runs that are done.

    Args:
        documents: from `training.runs.train_runs`.
        output: the folder that holds a folder a run.
        json_only: print the documents and nothing else.
    """
    if json_only:
        print_json({"output": output, "runs": documents})
        return
    table = Table(title="held-out answers after training")
    for column in ("run", "steps", "dense", "pruned", "kept", "minutes"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, document in documents.items():
        after = document["after"]
        shares = [f"{after[arm]['accuracy']:.1%}" if arm in after else "" for arm in ("dense", "pruned")]
        kept = f"{after['pruned']['kept']:.0%}" if "pruned" in after else ""
        table.add_row(name, str(document["steps"]), *shares, kept, f"{document['seconds'] / 60:.1f}")
    parts: list[Table | str] = [table]
    if any(document["is_demonstration"] for document in documents.values()):
        parts.append(DEMONSTRATION)
    Screen().show(*parts, f"the results: {output}")
