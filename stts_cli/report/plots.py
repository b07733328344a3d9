"""Draw a profile or an evaluation: where the time goes beside the ideal, accuracy against FLOPs.

In: the document of `profiling.profile`, `cost.estimate.analytic` or `evaluation.suite.run_benchmarks`. Out: a
PNG or SVG file. The extra `plot` installs matplotlib.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stts_cli.errors import EnvironmentFailure, InputError, install_hint, writing
from stts_cli.report.terminal import Document, print_note
from stts_cli.report.units import PARTS, STAGES
from stts_cli.text import printable

SPANS = {"vit_to_prefill": "ViT to prefill", "step": "training step"}


class Point(NamedTuple):
    """An arm in a picture: GFLOPs a question, and in percent accuracy and the ends of its interval."""

    gflops: float
    accuracy: float
    low: float
    high: float


def check_target(path: str, flag: str, *suffixes: str) -> None:
    """Refuse a file that could not be written, before anything runs; `flag` asks for it.

    `suffixes` are those it may have; a .png if none are given. InputError for another; EnvironmentFailure without its
    folder or, for a picture, matplotlib.
    """
    suffixes = suffixes or (".png",)
    target = Path(path).expanduser()
    if target.suffix.lower() not in suffixes or target.is_dir():
        raise InputError(f"{flag} {path}: must be a file that ends in {' or '.join(suffixes)}.")
    if not target.absolute().parent.is_dir():
        raise EnvironmentFailure(f"{flag} {path}: cannot be written, its folder does not exist.")
    if target.suffix.lower() == ".png":
        require_matplotlib(flag)


def require_matplotlib(what: str) -> None:
    """Raise EnvironmentFailure unless matplotlib is installed; `what` is the flag or file that needs it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise EnvironmentFailure(f"{what}: matplotlib is not installed; {install_hint('plot')}.")


def new_figure(width: float, height: float, *, dpi: int = 120) -> Any:
    """Return a matplotlib figure, sizes in inches, without a window; EnvironmentFailure without matplotlib."""
    require_matplotlib("pictures")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def render(figure: Any, form: str = "png") -> bytes:
    """Return a figure as the bytes of a "png" or "svg", the same for the same figure.

    Names stay literal, a $ starts no formula.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(printable(text.get_text()))
    content = io.BytesIO()
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "stts", "svg.fonttype": "none"}):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box
        figure.savefig(content, format=form, metadata={"Date": None} if form == "svg" else None)
    return content.getvalue()


def save(figure: Any, path: str | Path) -> None:
    """Write a figure to a .png or .svg file; raises EnvironmentFailure where that fails."""
    target = Path(path).expanduser()
    content = render(figure, target.suffix[1:].lower())
    with writing(target):
        target.write_bytes(content)


def plot_profile(document: Document, path: str) -> None:
    """Draw the document of `profiling.profile` or `cost.estimate.analytic` into a .png file."""
    points, measured = document["points"], document["mode"] == "measured"
    figure = new_figure(11, 4.5)
    left, right = figure.subplots(1, 2)
    bars = _bars(points)
    bottom = np.zeros(len(bars))
    for name in next(iter(bars.values())):
        heights = [parts[name] for parts in bars.values()]
        left.bar(list(bars), heights, bottom=bottom, label=name)
        bottom = bottom + heights
    left.set_ylabel("seconds, medians" if measured else "TFLOPs, counted")
    left.tick_params(axis="x", rotation=90 if len(bars) > 6 else 0)
    left.legend()
    _draw_speedups(right, points, measured)
    model = document["model"]
    weights = " (random weights: timings only)" if model["random_weights"] else ""
    place = f", {document['machine']['device_name']}, {document['machine']['dtype']}" if measured else ""
    figure.suptitle(f"{model['name']}{weights}{place}")
    save(figure, path)


def _bars(points: list[Document]) -> dict[str, dict[str, float]]:
    """Label of a bar -> its parts; the dense arm once for each frame count."""
    bars: dict[str, dict[str, float]] = {}
    for point in points:
        for arm in ("dense", "pruned"):
            if "seconds" in point:
                seconds = point["seconds"]
                parts = {STAGES[stage]: seconds[stage][arm]["median"] for stage in PARTS if stage in seconds}
            else:
                parts = {name: row[arm] / 1e12 for name, row in point["flops"].items() if name != "total"}
            what = "dense" if arm == "dense" else f"{point['scorer']} {point['keep_ratio']:g}"
            bars.setdefault(f"{point['num_frames']}\n{what}", parts)
    return bars


def _draw_speedups(axes: Any, points: list[Document], measured: bool) -> None:
    for i, (scorer, ratio) in enumerate(dict.fromkeys((point["scorer"], point["keep_ratio"]) for point in points)):
        rows = [point for point in points if (point["scorer"], point["keep_ratio"]) == (scorer, ratio)]
        arm = f"{scorer} {ratio:g}"
        frames = [row["num_frames"] for row in rows]
        axes.plot(frames, [row["ideal_speedup"] for row in rows], "o--", color=f"C{i}", label=f"FLOP-ideal, {arm}")
        if measured:
            gains = [row["speedup"][row["headline"]] for row in rows]
            achieved = [gain["achieved"] for gain in gains]
            error = _bar_lengths(achieved, [gain["low"] for gain in gains], [gain["high"] for gain in gains])
            axes.errorbar(frames, achieved, yerr=error, fmt="s-", color=f"C{i}", label=f"measured, {arm}")
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xlabel("frames")
    axes.set_ylabel(f"speed-up, {SPANS['step' if 'backward' in points[0]['flops'] else 'vit_to_prefill']}")
    axes.legend(title="scorer, keep ratio")


def _bar_lengths(values: list[float], lows: list[float], highs: list[float]) -> np.ndarray:
    """Return what matplotlib draws below and above values; rounding must not make a length negative."""
    return np.maximum(0.0, [np.subtract(values, lows), np.subtract(highs, values)])


def plot_accuracy(document: Document, path: str | Path) -> None:
    """Draw accuracy against FLOPs a question: a panel a benchmark, a line a scorer, a point an arm."""
    documents = document.get("benchmarks", [document])
    _draw_panels([(one["title"], _points(one)) for one in documents], documents, path)


def plot_means(document: Document, path: str | Path) -> None:
    """Draw accuracy against FLOPs a question in one panel: of a benchmark, or the means of a suite's."""
    if "benchmarks" not in document:
        return plot_accuracy(document, path)
    documents = document["benchmarks"]
    points = {}
    for name, share in document["averages"].get("all", {}).items():
        flops = [each["arms"][name]["flops"] or 0.0 for each in documents]
        points[name] = Point(sum(flops) / len(flops) / 1e9, *[100 * share] * 3)
    _draw_panels([(document["suite"], points)], documents, path)


def plot_results(document: Document, folder: Path) -> None:
    """Draw plot.svg beside the results of an evaluation and of each benchmark; a note without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        where, then = folder / "plot.svg", "then run the same command again"
        return print_note(f"{where}: not drawn, matplotlib is not installed; {install_hint('plot')}, {then}.")
    for each in document.get("benchmarks", ()):
        plot_accuracy(each, folder / each["bench"] / "plot.svg")
    plot_means(document, folder / "plot.svg")


def _points(document: Document) -> dict[str, Point]:
    points = {}
    for name, arm in document["arms"].items():
        share = arm["micro"] or 0.0
        percents = (100 * value for value in (share, *(arm["interval"] or (share, share))))
        points[name] = Point((arm["flops"] or 0) / 1e9, *percents)
    return points


def _draw_panels(panels: list[tuple[str, dict[str, Point]]], documents: list[Document], path: str | Path) -> None:
    """Draw a panel for each (title, points of the arms)."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(1.5 + 5 * columns, 4.5 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (title, points) in zip(axes, panels, strict=False):
        _draw_arms(panel, title, points, documents[0]["config"]["arms"])
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    if any(one["is_demonstration"] for one in documents):
        figure.suptitle("demonstration model: says nothing about real video", fontsize=9)
    save(figure, path)


def _draw_arms(axes: Any, title: str, points: dict[str, Point], settings: Document) -> None:
    for number, (label, names) in enumerate(_series(list(points)).items()):
        names = sorted(names, key=lambda name: points[name].gflops)
        gflops, shares, lows, highs = (list(values) for values in zip(*(points[name] for name in names), strict=True))
        style = (
            {"fmt": f"{'osD^'[number // 10 % 4]}-", "color": f"C{number % 10}"}
            if number
            else {"fmt": "k*", "markersize": 11}
        )
        error = _bar_lengths(shares, lows, highs)
        axes.errorbar(gflops, shares, yerr=error, label=label, capsize=2, elinewidth=0.7, **style)
        for name, x, y in zip(names, gflops, shares, strict=True):
            keep_ratio = settings[name]["keep_ratio"]
            axes.annotate(f" {keep_ratio:g}" if keep_ratio < 1 else "", (x, y), fontsize=7, va="top")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("GFLOPs a question")
    axes.set_ylabel("right, % of questions")
    axes.grid(alpha=0.3)


def _series(names: list[str]) -> dict[str, list[str]]:
    """Put arms together whose names differ in keep ratio or seed only, such as random@0.5 and "random@0.3, seed 1"."""
    found: dict[str, list[str]] = {}
    for name in names:
        seedless = name.partition(", seed ")[0]
        label, _, ratio = seedless.rpartition("@")
        found.setdefault(label if label and ratio.replace(".", "", 1).isdigit() else seedless, []).append(name)
    return found
