"""Show a run to people and programs: the answer, the savings table, a spinner, JSON.

In: the document of `engine.ask.AskRun.to_dict`. Out: text. Answers, tables and JSON go to stdout; the spinner and notes
go to stderr. The table and the JSON are drawn from the same document, so they cannot disagree. No torch.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.status import Status
from rich.table import Table
from rich.text import Text

from stts_cli.report.terminal import Screen, print_json, print_lines, print_note
from stts_cli.text import DEMONSTRATION

Document = dict[str, Any]
STAGES = {  # row of the table -> stages that make it up; an arm that drops nothing runs every ViT block dense
    "preprocess": ("preprocess",),
    "ViT": ("vit_dense", "vit_packed"),
    "score, select, pack": ("score_select_pack",),
    "connector": ("connector",),
    "LLM prefill": ("llm_prefill",),
    "decode": ("decode",),
}


class Progress:
    """A spinner on stderr that names the stage; silent where stderr is no terminal, or when quiet.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        console = Screen(stderr=True)
        self._status: Status | None = None if quiet or not console.is_terminal else console.status("", spinner="dots")

    def __enter__(self) -> Progress:
        """Start the spinner."""
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the spinner and clear its line."""
        if self._status:
            self._status.stop()

    def __call__(self, stage: str) -> None:
        """Name the stage that starts now.

        Args:
            stage: a few words.
        """
        if self._status:
            self._status.update(Text(f"{stage} ..."))


def show(document: Document, *, mode: str, notes: bool = True) -> None:
    """Print a run.

    Args:
        document: from `engine.ask.AskRun.to_dict`.
        mode: "table" for answers and savings, "quiet" for answers only, "json" for the document.
        notes: also say on stderr what the user should know.
    """
    if notes:
        for line in note_lines(document):
            print_note(line)
    if mode == "json":
        print_json(document)
        return
    print_lines(*answer_lines(document, bare=mode == "quiet"))
    if mode == "table":
        Screen().show("", *header_lines(document), savings_table(document), *footer_lines(document))


def note_lines(document: Document) -> list[str]:
    """Return what a user should know about a run, a line each."""
    lines = list(document["notes"])
    if document["is_demonstration"]:
        lines.insert(0, DEMONSTRATION)
    for arm in document["arms"][:1]:
        if arm["num_windows_kept"] == arm["num_windows"]:
            lines.append(f"nothing was pruned: all {arm['num_windows']} windows were kept")
        lines.extend(
            f"an answer was cut at {reply['num_new_tokens']} tokens -> raise --max-new-tokens"
            for reply in arm["answers"]
            if not reply["finished"]
        )
    return lines


def answer_lines(document: Document, *, bare: bool) -> list[str]:
    """Return the answers, a line each; with several questions or arms each line says which.

    Args:
        document: from `engine.ask.AskRun.to_dict`.
        bare: the answers alone, in the order of the questions.

    Returns:
        Lines for stdout.
    """
    arms = document["arms"]
    if bare:
        return [" ".join(reply["text"].split()) for reply in arms[0]["answers"]]
    lines = []
    for index, reply in enumerate(arms[0]["answers"]):
        if len(arms[0]["answers"]) > 1:
            lines.append(reply["question"])
        for arm in arms:
            said = arm["answers"][index]
            lines.append(said["text"] + (f"  ({arm['name']})" if len(arms) > 1 else ""))
            for option in sorted(said["options"] or (), key=lambda option: -option["probability"]):
                lines.append(f"  {option['probability']:6.1%}  {option['text']}")
    return lines


def header_lines(document: Document) -> list[str]:
    """Return which frames were seen, and by whom."""
    clip, arm = document["video"], document["arms"][0]
    times = clip["timestamps_s"]
    height, width = clip["frame_size"]
    asked = len(arm["answers"])
    return [
        f"{clip['path']}: {clip['num_frames']} of {clip['num_source_frames']} frames, {times[0]:.1f} to "
        f"{times[-1]:.1f} s of {clip['duration_s']:.1f} s, {width}x{height} px, read by {clip['backend']}",
        f"{document['model']} on {document['device']} in {document['dtype']}",
        (
            f"{arm['scorer']} scorer after ViT block {arm['prune_layer']}, keep ratio {arm['keep_ratio']:g} "
            f"(drop ratio {1 - arm['keep_ratio']:g}): {arm['num_windows_kept']} of {arm['num_windows']} windows kept"
            if arm["num_windows_kept"] < arm["num_windows"]
            else "dense: every window kept"
        )
        + (f"; {asked} questions behind one encoded video, FLOPs of the first" if asked > 1 else ""),
    ]


def savings_table(document: Document) -> Table:
    """Draw tokens, FLOPs by part, time by stage and memory: dense, pruned, saved.

    Args:
        document: from `engine.ask.AskRun.to_dict`.

    Returns:
        A table; measured cells of an arm that did not run are empty.
    """
    first = document["arms"][0]
    by_name = {arm["name"]: arm for arm in document["arms"]}
    pruned, dense = by_name.get("pruned", first), by_name.get("dense")
    saved = first["answers"][0]["savings"]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("")
    for heading in ("dense", "pruned", "saved"):
        table.add_column(heading, justify="right", no_wrap=True)
    num_frames = len(pruned["kept_per_frame"])
    _add_counted(table, "frames with a token", num_frames, sum(kept > 0 for kept in pruned["kept_per_frame"]))
    for name, row in saved["tokens"].items():
        _add_counted(table, name, row["dense"], row["pruned"])
    table.add_section()
    for name, row in saved["flops"].items():
        style = "bold" if name == "total" else ""
        label = "FLOPs, total" if name == "total" else f"FLOPs, {name}"
        table.add_row(
            label, format_si(row["dense"]), format_si(row["pruned"]), _share(row["dense"], row["pruned"]), style=style
        )
    table.add_section()
    arms = (dense, pruned)
    for label, stages in STAGES.items():
        _add_measured(table, f"time, {label}", format_seconds, [_stage_s(arm, stages) for arm in arms])
    _add_measured(table, "time to first token", format_seconds, [arm and arm["answers"][0]["ttft_s"] for arm in arms])
    _add_measured(table, "peak memory", format_bytes, [arm and arm["peak_bytes"] for arm in arms])
    return table


def footer_lines(document: Document) -> list[str]:
    """Return the times outside both arms, and how the figures are counted."""
    seconds = document["seconds"]
    load_s, read_s = (format_seconds(seconds[name]) for name in ("load", "read"))
    lines = [f"loading the model {load_s}, reading the video {read_s}: in neither column"]
    convention = document["arms"][0]["answers"][0]["savings"].get("convention")
    return lines + ([f"FLOPs: {convention}"] if convention else [])


def _add_counted(table: Table, label: str, dense: int, pruned: int) -> None:
    table.add_row(label, f"{dense:,}", f"{pruned:,}", _share(dense, pruned))


def _stage_s(arm: Document | None, stages: tuple[str, ...]) -> float | None:
    """Add up stages; None for an arm that did not run them."""
    return sum(arm["seconds"].get(stage, 0.0) for stage in stages) or None if arm else None


def _add_measured(table: Table, label: str, form: Callable[[float], str], arms: list[float | None]) -> None:
    dense, pruned = arms
    if dense is None and pruned is None:
        return
    table.add_row(
        label,
        "" if dense is None else form(dense),
        "" if pruned is None else form(pruned),
        _share(dense, pruned) if dense is not None and pruned is not None else "",
    )


def _share(dense: float, pruned: float) -> str:
    return f"{1 - pruned / dense:.1%}" if dense else ""


def format_si(value: float) -> str:
    """Write a count with a unit prefix: 1,230,000,000 -> "1.23 G"."""
    for factor, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.2f} {unit}"
    return f"{value:.0f} "


def format_seconds(value: float) -> str:
    """Write a time: "1.23 s", or "45.6 ms" below a second."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def format_bytes(value: float) -> str:
    """Write an amount of memory: "1.23 GiB", or "456 MiB" below that."""
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
