"""Show a profile: one table for one point, a row each for several, and what follows from it.

In: the document of `profiling.profile` or `cost.estimate.analytic`. Out: text on stdout, notes on stderr; with JSON the
document and nothing else. "ratio" is pruned / dense throughout: below 1 is a saving. No torch.
"""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table

from stts_cli.report.terminal import Document, Screen, plain_table, print_json, print_note
from stts_cli.report.units import FORWARD, STAGES, format_bytes, format_layer, format_seconds, format_si

SPANS = {"vit_to_prefill": "from the ViT to the end of the prefill", "step": "of a training step"}
RANDOM_WEIGHTS = "random weights: timings only, what this model says means nothing"


def show(document: Document, *, json_only: bool = False) -> None:
    """Print the document of a profile: tables, or with `json_only` itself and nothing else on stdout."""
    for note in note_lines(document):
        print_note(note)
    if json_only:
        print_json(document)
        return
    points = document["points"]
    table = point_table(points[0]) if len(points) == 1 else points_table(points)
    Screen().show(*header_lines(document), table, *footer_lines(document))


def note_lines(document: Document) -> list[str]:
    """Return what a user should know about a profile, a line each."""
    return [*([RANDOM_WEIGHTS] if document["model"]["random_weights"] else []), *document["notes"]]


def header_lines(document: Document) -> list[str]:
    """Return what was measured, on what."""
    model, settings = document["model"], document["settings"]
    about = f": {model['description']}" if model["description"] else ""
    lines = [f"{model['name']}{about}; {format_si(model['num_parameters']).strip()} parameters"]
    if model["random_weights"]:
        lines.append(RANDOM_WEIGHTS)
    if model["is_demonstration"]:
        lines.append("demonstration model of a world of moving coloured shapes")
    if document["mode"] == "analytic":
        what = "a training step" if settings["train"] else "an answer"
        return [*lines, f"{what}, counted from the sizes, nothing was run"]
    place = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in place["versions"].items())
    on = place["device_name"]
    if place["device"] == "cpu":
        on = f"{place['threads']} {'thread' if place['threads'] == 1 else 'threads'} of {on}"
    lines += [f"frames: {clip['text']}" for clip in document["clips"]]
    first = document["points"][0]
    scorers = ", ".join(dict.fromkeys(point["scorer"] for point in document["points"]))
    reason = f" ({first['kernel_reason']})" if first["kernel_reason"] else ""
    how_often = "one run" if settings["repeats"] == 1 else f"medians of {settings['repeats']} runs in turns"
    turns = f"{how_often} after {settings['warm_up']} to warm up; ± half the range"
    if settings["train"]:
        half = " autocast over float32 weights" if place["dtype"] != "float32" else ""
        lines.append(f"a training step, everything trained, one question a video{half}")
    else:
        turns += f"; decoding is the mean of {settings['new_tokens'] - 1} tokens"
    return [
        *lines,
        f"on {place['device']}, {on}, {place['dtype']}; {versions}",
        f"{scorers} scorer {format_layer(settings['prune_layer'])}; kernel of the packed blocks: "
        f"{first['kernel']}{reason}",
        turns,
    ]


def point_table(point: Document) -> Table:
    """Draw dense, pruned and their ratio at one point: tokens, FLOPs by part, time by stage, memory."""
    about = f"{point['num_frames']} frames, keep ratio {point['keep_ratio']:g}"
    table = plain_table(about, "dense", "pruned", "ratio", no_wrap=True)
    for name, row in point["tokens"].items():
        _add(table, name, row, "{:,}".format)
    table.add_section()
    whole = "ViT to prefill" if "LLM prefill" in point["flops"] else "training step"
    for name, row in point["flops"].items():
        label, style = (whole, "bold") if name == "total" else (name, "")
        _add(table, f"FLOPs, {label}", row, format_si, style)
    if row := point["decode_flops_per_token"]:
        _add(table, "FLOPs, decode, a token", row, format_si)
    table.add_section()
    if "seconds" in point:
        table.add_row("time, read (once, in neither)", format_seconds(point["read_s"]), "", "")
        for stage, label in STAGES.items():
            if stage not in point["seconds"]:
                continue
            if point["headline"] == "step" and stage in FORWARD:
                label = f"forward: {label}"
            arms = point["seconds"][stage]
            ratio = _ratio(arms["dense"]["median"], arms["pruned"]["median"])
            style = "bold" if stage == point["headline"] else ""
            table.add_row(f"time, {label}", _timed(arms["dense"]), _timed(arms["pruned"]), ratio, style=style)
        held = point["peak_bytes"]
        if held["dense"] is not None and held["pruned"] is not None:
            _add(table, "peak memory above the model", held, format_bytes)
    else:
        held = point["memory_estimate_bytes"]
        weights = "weights" if point["decode_flops_per_token"] else "weights, gradients, moments"
        for name, part in ((weights, "weights"), ("all, estimated", "total")):
            _add(table, f"memory, {name}", {arm: held[arm][part] for arm in held}, format_bytes)
    return table


def points_table(points: list[Document]) -> Table:
    """Draw a row a point: prompt tokens, times from the ViT to the prefill, speed-ups.

    Counted ones where nothing ran.
    """
    measured = "seconds" in points[0]
    several = len({point["scorer"] for point in points}) > 1
    headings = ["FLOPs\ndense", "FLOPs\npruned", "ideal\nspeed-up"]
    if measured:
        headings = ["time\ndense", "time\npruned", "speed\nup", "FLOP\nideal", "of\nideal"]
    table = plain_table("frames", "keep", "tokens\npruned", *headings, "memory\nratio", no_wrap=True)
    table.columns[0].justify = "right"
    for point in points:
        prompt = point["tokens"]["LLM prompt"]["pruned"]
        label = f"{point['num_frames']} {point['scorer'] if several else ''}".strip()
        cells = [label, f"{point['keep_ratio']:g}", f"{prompt:,}"]
        if measured:
            times, gain = (point[what][point["headline"]] for what in ("seconds", "speedup"))
            held = point["peak_bytes"]
            known = held["dense"] and held["pruned"] is not None
            cells += [format_seconds(times[arm]["median"]) for arm in ("dense", "pruned")]
            cells += [f"{gain['achieved']:.2f}", f"{gain['ideal']:.2f}", f"{gain['achieved_of_ideal']:.2f}"]
            cells += [f"{held['pruned'] / held['dense']:.2f}" if known else ""]
        else:
            flops, held = point["flops"]["total"], point["memory_estimate_bytes"]
            cells += [format_si(flops["dense"]), format_si(flops["pruned"]), f"{point['ideal_speedup']:.2f}"]
            cells += [f"{held['pruned']['total'] / held['dense']['total']:.2f}"]
        table.add_row(*cells)
    return table


def footer_lines(document: Document) -> list[str]:
    """Return what follows from the figures, and how they are made."""
    points = document["points"]
    lines: list[str] = []
    if document["mode"] == "analytic":
        if len(points) == 1:
            what = "training step" if document["settings"]["train"] else "ViT to prefill"
            lines.append(f"FLOP-ideal speed-up, {what}: {points[0]['ideal_speedup']:.2f}")
        lines += _unchanged(points)
    else:
        for point in points:
            lines += verdict(point, alone=len(points) == 1)
        lines += [_break_even(row) for row in document["break_even"]]
        how = document["settings"]["memory"]
        lines.append(f"peak memory: {how}" if how else "peak memory: not measured")
    if len(points) > 1:
        counted = document["mode"] == "analytic"
        what = "FLOPs and speed-ups" if counted else "times and speed-ups"
        span = SPANS["step" if document["settings"]["train"] else "vit_to_prefill"]
        lines.append(f"tokens: of the prompt; {what}: {span}")
        lines.append("memory ratio: pruned / dense" + (", weights included, estimated" if counted else ""))
    lines.append(f"FLOPs: {document['convention']}")
    return lines


def verdict(point: Document, *, alone: bool) -> list[str]:
    """Say what pruning gained at a measured point; unless `alone`, only what spoils its row of the table."""
    where = "" if alone else f"{point['num_frames']} frames, {point['scorer']} at keep ratio {point['keep_ratio']:g}: "
    if point["changes_nothing"]:
        return _unchanged([point], where)
    whole = point["speedup"][point["headline"]]
    lines = _speedups(point) if alone else []
    if whole["achieved"] <= 1:
        lines.append(f"{where}no gain here: pruned takes {1 / whole['achieved']:.2f} times as long as dense")
    elif whole["low"] <= 1:
        lines.append(f"{where}no sure gain here: in the slowest turn pruned took as long as dense")
    return lines


def _speedups(point: Document) -> list[str]:
    names = {"vit_to_prefill": "ViT to prefill", "ttft": "time to first token"}
    if point["headline"] == "step":
        names = {
            "step": "training step",
            "forward_backward": "forward and backward",
            "step_cpu": "processor time of the step, which other work on the machine does not lengthen",
        }
    lines = []
    for name, row in ((names[name], row) for name, row in point["speedup"].items() if name in names):
        line = f"speed-up, {name}: {row['achieved']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        if row["ideal"] is not None:
            line += f"; FLOP-ideal {row['ideal']:.2f}; achieved / ideal {row['achieved_of_ideal']:.2f}"
        lines.append(line)
    return [*lines, f"score, select, pack: {point['score_select_pack_share_of_vit']:.1%} of the pruned arm's ViT time"]


def _unchanged(points: list[Document], where: str = "") -> list[str]:
    if not any(point["changes_nothing"] for point in points):
        return []
    return [f"{where}no gain here: nothing was pruned, every window was kept; both columns are the dense model"]


def _break_even(row: Document) -> str:
    ratio = f"break-even of {row['scorer']} at keep ratio {row['keep_ratio']:g}: "
    if row["frames"] is None:
        return ratio + "none among these frame counts; no gain here"
    bound = "at or below " if row["is_bound"] else "about "
    return f"{ratio}{bound}{row['frames']:.0f} frames"


def _add(table: Table, label: str, row: Document, form: Callable[[float], str], style: str = "") -> None:
    dense, pruned = row["dense"], row["pruned"]
    table.add_row(label, form(dense), form(pruned), _ratio(dense, pruned), style=style)


def _ratio(dense: float, pruned: float) -> str:
    return f"{pruned / dense:.2f}" if dense else ""


def _timed(row: Document) -> str:
    """A median and half the range of its samples in percent."""
    if not row["median"]:
        return "-"
    return f"{format_seconds(row['median'])} ±{(row['high'] - row['low']) / 2 / row['median']:.0%}"
