"""Show a run of `ask` to people and programs: the answers, a savings table an arm, JSON.

In: the document of `engine.ask.AskRun.to_dict`. Answers, tables and JSON go to stdout, notes to stderr. The tables and
the JSON are drawn from the same document, so they cannot disagree. No torch.
"""

from __future__ import annotations

from rich.table import Table

from stts_cli.report.savings import TOTAL, as_table, savings_rows
from stts_cli.report.terminal import Document, Screen, plain_table, print_json, print_lines, print_note
from stts_cli.report.units import format_bytes, format_layer, format_seconds, format_si
from stts_cli.text import DEMONSTRATION, to_json


def show(
    document: Document, *, mode: str, notes: bool = True, is_first: bool = True, is_answered: bool = False
) -> None:
    """Print a run's document; `mode` is "table" (answers and savings), "quiet" (answers alone) or "json".

    With `is_answered` the answers stand there already.
    """
    if notes:
        for line in note_lines(document):
            if is_first or line != DEMONSTRATION:
                print_note(line)
    if mode == "json":
        print_json(document)
        return
    if not is_answered:
        print_lines(*answer_lines(document, bare=mode == "quiet"))
    if mode == "table" and "engine" in document:
        Screen().show("", *header_lines(document), _served_table(document))
    elif mode == "table":
        arms = document["arms"]
        shown = [arm for arm in arms if arm["num_windows_kept"] < arm["num_windows"]] or arms[:1]
        tables: list[str | Table] = []
        for arm in shown:
            tables += [arm_line(arm), as_table(savings_rows(document, arm))]
        if len({arm["num_frames"] for arm in arms}) > 1:
            tables += ["", _side_by_side(arms)]
        Screen().show("", *header_lines(document), *tables, *footer_lines(document, is_first=is_first))


def show_line(document: Document, *, mode: str, is_first: bool = True) -> None:
    """Print what came of one of several videos: a line of JSON, its name before each answer, or answers and savings.

    Args:
        document: from `engine.ask.AskRun.to_dict` or `Unanswered.to_dict`.
        mode: as for `show`.
        is_first: of the run; notes on the model come with it alone.
    """
    name = document["video"]["path"]
    if mode == "json":
        print_lines(to_json(document))
    elif "error" in document:
        print_note(document["error"])
    elif mode == "quiet":
        print_lines(*(f"{name}\t{line}" for line in answer_lines(document, bare=True)))
    else:
        print_lines(f"== {name}")
        show(document, mode=mode, is_first=is_first)


def note_lines(document: Document) -> list[str]:
    """Return what a user should know about a run, a line each."""
    lines = list(document["notes"])
    if document["is_demonstration"]:
        lines.insert(0, DEMONSTRATION)
    for arm in document["arms"][:1]:
        if "engine" not in document and arm["num_windows_kept"] == arm["num_windows"]:
            lines.append(f"nothing was pruned: all {arm['num_windows']} windows were kept")
    return lines


def answer_lines(document: Document, *, bare: bool) -> list[str]:
    """Return the answers, a line each; unless `bare`, each says of which question and arm, if of several."""
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


def _side_by_side(arms: list[Document]) -> Table:
    """Draw arms that saw different numbers of frames: what each costs, its first question included."""
    table = plain_table("", *(arm["name"] for arm in arms), no_wrap=True)
    firsts = [arm["answers"][0] for arm in arms]
    rows: dict[str, list[str]] = {
        "frames": [f"{arm['num_frames']:,}" for arm in arms],
        "frame size": ["{1}x{0} px".format(*arm["frame_size"]) for arm in arms],
        "visual tokens": [f"{arm['num_windows_kept']:,}" for arm in arms],
        "LLM prompt": [f"{first['num_prompt_tokens']:,}" for first in firsts],
        TOTAL: [format_si(first["savings"]["flops"]["total"]["pruned"]) for first in firsts],
        "time to first token": [format_seconds(first["ttft_s"]) for first in firsts],
    }
    if all(arm["peak_bytes"] for arm in arms):
        rows["peak memory"] = [format_bytes(arm["peak_bytes"]) for arm in arms]
    for label, cells in rows.items():
        table.add_row(label, *cells)
    return table


def _served_table(document: Document) -> Table:
    """Draw what a server told of each answer."""
    table = plain_table("tokens", "visual", "prompt", "new", "first after", no_wrap=True)
    for arm in document["arms"]:
        for number, reply in enumerate(arm["answers"], 1):
            counts = (reply[key] for key in ("num_visual_tokens", "num_prompt_tokens", "num_new_tokens"))
            cells = ["" if count is None else f"{count:,}" for count in counts]
            which = f"{arm['name']}, question {number}" if len(arm["answers"]) > 1 else arm["name"]
            table.add_row(which, *cells, "" if reply["ttft_s"] is None else format_seconds(reply["ttft_s"]))
    return table


def header_lines(document: Document) -> list[str]:
    """Return which frames were seen, and by whom."""
    clip = document["video"]
    times = clip["timestamps_s"]
    height, width = clip["frame_size"]
    start, rate = clip["start_s"], clip["frames_per_s"]
    return [
        f"{clip['path']}: {clip['num_frames']} of {clip['num_source_frames']} frames, {start + times[0]:.1f} to "
        f"{start + times[-1]:.1f} s of {clip['duration_s']:.1f} s{f', {rate:.3g} a second' if rate else ''}, "
        f"{width}x{height} px, read by {clip['backend']}",
        f"{document['model']} at {document['engine']}"
        if "engine" in document
        else f"{document['model']} on {document['device']} in {document['dtype']}",
    ]


def arm_line(arm: Document) -> str:
    """Return how an arm looked at the video."""
    kept = "dense: every window kept"
    if arm["num_windows_kept"] < arm["num_windows"]:
        kept = (
            f"{arm['scorer']} scorer {format_layer(arm['prune_layer'])}, keep ratio {arm['keep_ratio']:g} "
            f"(drop ratio {1 - arm['keep_ratio']:g}): {arm['num_windows_kept']} of {arm['num_windows']} windows kept"
        )
    if arm["name"] not in ("pruned", "dense"):
        kept = f"{arm['name']}: {kept}"
    asked = len(arm["answers"])
    return kept + (f"; {asked} questions behind one encoded video, FLOPs of the first" if asked > 1 else "")


def footer_lines(document: Document, *, is_first: bool = True) -> list[str]:
    """Return the times outside both arms, and how the figures are counted."""
    seconds = document["seconds"]
    load_s, read_s = (format_seconds(seconds[name]) for name in ("load", "read"))
    lines = [f"loading the model {load_s}, reading the video {read_s}: in neither column"]
    if len(document["arms"]) == 1 and is_first:
        lines.append("times are of a first run, which pays for warming up; --compare warms up before it measures")
    convention = document["arms"][0]["answers"][0]["savings"].get("convention")
    return lines + ([f"FLOPs: {convention}"] if convention else [])
