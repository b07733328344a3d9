"""Draw a profile or an evaluation as a picture: where the time goes beside the ideal; accuracy against FLOPs.

In: the document of `profiling.profile`, `cost.estimate.analytic` or `evaluation.suite.run_benchmarks`. Out: a PNG file.
The one user of matplotlib, which the extra `plot` installs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stts_cli.errors import EnvironmentFailure, InputError, install_hint, writing
from stts_cli.text import printable

STAGES = {
    "vit_dense": "ViT, dense part",
    "score_select_pack": "score, select, pack",
    "vit_packed": "ViT, packed part",
    "connector": "connector",
    "llm_prefill": "LLM prefill",
    "rows": "temporal loss, rows",
    "llm": "LLM, loss",
    "backward": "backward",
    "optimizer": "optimizer",
}
SPANS = {"vit_to_prefill": "ViT to prefill", "step": "training step"}


def check_target(path: str, flag: str = "--plot") -> None:
    """Refuse what could not be drawn, before anything is measured.

    Args:
        path: the picture's file.
        flag: who asks, for the message.

    Raises:
        InputError: not a .png.
        EnvironmentFailure: its folder does not exist, or matplotlib is not installed.
    """
    target = Path(path).expanduser()
    if target.suffix.lower() != ".png" or target.is_dir():
        raise InputError(f"{flag} is '{path}' -> a file that ends in .png -> change it")
    if not target.absolute().parent.is_dir():
        raise EnvironmentFailure(f"{flag} {path}: cannot be written, its folder does not exist.")
    if importlib.util.find_spec("matplotlib") is None:
        raise EnvironmentFailure(f"{flag} needs matplotlib, which is not installed -> {install_hint('plot')}")


@contextlib.contextmanager
def picture(path: str | Path, *, size: tuple[float, float], dpi: int = 120) -> Iterator[Any]:
    """Give a figure to draw on, and write it in the end.

    Args:
        path: the .png file; replaced when there is one.
        size: width and height in inches.
        dpi: pixels an inch.

    Raises:
        EnvironmentFailure: the file cannot be written.

    Yields:
        The matplotlib figure. Names are drawn as they are: a $ starts no formula.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(printable(text.get_text()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box
        with writing(path):
            figure.savefig(Path(path).expanduser())


def plot(document: dict[str, Any], path: str) -> None:
    """Draw a profile.

    Args:
        document: from `profiling.profile` or `cost.estimate.analytic`.
        path: the .png file; replaced when there is one.
    """
    points = document["points"]
    with picture(path, size=(11, 4.5)) as figure:
        left, right = figure.subplots(1, 2)
        bars = _bars(points)
        bottom = [0.0] * len(bars)
        for name in next(iter(bars.values())):
            heights = [parts[name] for parts in bars.values()]
            left.bar(list(bars), heights, bottom=bottom, label=name)
            bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
        measured = document["mode"] == "measured"
        left.set_ylabel("seconds, medians" if measured else "TFLOPs, counted")
        left.tick_params(axis="x", rotation=90 if len(bars) > 6 else 0)
        left.legend()
        _speedups(right, points, measured)
        model = document["model"]
        weights = " (random weights: timings only)" if model["random_weights"] else ""
        place = f", {document['machine']['device_name']}, {document['machine']['dtype']}" if measured else ""
        figure.suptitle(f"{model['name']}{weights}{place}")


def _bars(points: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Label of a bar -> its parts; the dense arm once for each frame count."""
    bars: dict[str, dict[str, float]] = {}
    for point in points:
        for arm in ("dense", "pruned"):
            if "seconds" in point:
                seconds = point["seconds"]
                parts = {name: seconds[stage][arm]["median"] for stage, name in STAGES.items() if stage in seconds}
            else:
                parts = {name: row[arm] / 1e12 for name, row in point["flops"].items() if name != "total"}
            what = "dense" if arm == "dense" else f"keep {point['keep_ratio']:g}"
            bars.setdefault(f"{point['num_frames']}\n{what}", parts)
    return bars


def _speedups(axes: Any, points: list[dict[str, Any]], measured: bool) -> None:
    for i, ratio in enumerate(dict.fromkeys(point["keep_ratio"] for point in points)):
        rows = [point for point in points if point["keep_ratio"] == ratio]
        frames = [row["num_frames"] for row in rows]
        axes.plot(frames, [row["ideal_speedup"] for row in rows], "o--", color=f"C{i}", label=f"FLOP-ideal, {ratio:g}")
        if measured:
            gains = [row["speedup"][row["headline"]] for row in rows]
            achieved = [gain["achieved"] for gain in gains]
            error = [
                [gain["achieved"] - gain["low"] for gain in gains],
                [gain["high"] - gain["achieved"] for gain in gains],
            ]
            error = [[max(0.0, e) for e in side] for side in error]
            axes.errorbar(frames, achieved, yerr=error, fmt="s-", color=f"C{i}", label=f"measured, {ratio:g}")
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xlabel("frames")
    trained = "backward" in points[0]["flops"]
    axes.set_ylabel(f"speed-up, {SPANS['step' if trained else 'vit_to_prefill']}")
    axes.legend(title="keep ratio")


def plot_accuracy(document: dict[str, Any], path: str) -> None:
    """Draw accuracy against FLOPs a question: a panel a benchmark, a line a scorer, a point with its interval an arm.

    Args:
        document: from `evaluation.suite.run_benchmarks`.
        path: the .png file; replaced when there is one.
    """
    documents = document.get("benchmarks", [document])
    columns = min(len(documents), 3)
    rows = -(-len(documents) // columns)
    with picture(path, size=(1.5 + 5 * columns, 4.5 * rows)) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, one in zip(panels, documents, strict=False):
            _draw_arms(axes, one)
        for axes in panels[len(documents) :]:
            axes.set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize=8)
        if any(one["is_demonstration"] for one in documents):
            figure.suptitle("demonstration model: says nothing about real video", fontsize=9)


def _draw_arms(axes: Any, document: dict[str, Any]) -> None:
    arms = document["arms"]
    for number, (label, names) in enumerate(_series(document).items()):
        names = sorted(names, key=lambda name: arms[name]["flops"] or 0)
        flops = [(arms[name]["flops"] or 0) / 1e9 for name in names]
        shares = [100 * (arms[name]["micro"] or 0) for name in names]
        ends = [[100 * end for end in arms[name]["interval"] or (arms[name]["micro"] or 0,) * 2] for name in names]
        error = [
            [max(0.0, share - low) for share, (low, _) in zip(shares, ends, strict=True)],
            [max(0.0, high - share) for share, (_, high) in zip(shares, ends, strict=True)],
        ]
        style = (
            {"fmt": f"{'osD^'[number // 10 % 4]}-", "color": f"C{number % 10}"}
            if number
            else {"fmt": "k*", "markersize": 11}
        )
        axes.errorbar(flops, shares, yerr=error, label=label, capsize=2, elinewidth=0.7, **style)
        for name, x, y in zip(names, flops, shares, strict=True):
            keep_ratio = document["config"]["arms"][name]["keep_ratio"]
            axes.annotate(f" {keep_ratio:g}" if keep_ratio < 1 else "", (x, y), fontsize=7, va="top")
    axes.set_title(document["title"], fontsize=10)
    axes.set_xlabel("GFLOPs a question")
    axes.set_ylabel("right, % of questions")
    axes.grid(alpha=0.3)


def _series(document: dict[str, Any]) -> dict[str, list[str]]:
    """Put arms together whose names differ in the keep ratio behind an @ only, such as random@0.5 and random@0.3."""
    found: dict[str, list[str]] = {}
    for name in document["arms"]:
        label, _, ratio = name.rpartition("@")
        found.setdefault(label if label and ratio.replace(".", "", 1).isdigit() else name, []).append(name)
    return found
