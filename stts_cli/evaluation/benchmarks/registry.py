"""Every benchmark by its name: `BENCHMARK` of the module of that name, and for "name_more" its `VARIANT`.

Modules are loaded when asked for; naming them costs nothing.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

from stts_cli.data.rows import is_own_file
from stts_cli.errors import InputError, suggest
from stts_cli.evaluation.benchmarks.benchmark import Benchmark

SHORT = ("nextqa", "perceptiontest", "mvbench", "tomato", "motionbench", "tempcompass", "egoschema")
LONG = ("videomme", "videomme_sub", "longvideobench", "mlvu", "lvbench", "videoevalpro")
BUILT_IN = ("shapes", "shapes_long")
NAMES = (*SHORT, *LONG, *BUILT_IN)
SUITES = {"all-short": SHORT, "all-long": LONG, "all": (*SHORT, *LONG)}


def get_benchmark(name: str) -> Benchmark:
    """Return the benchmark of a name, or of the path of a .jsonl, .json or .csv file; InputError for neither."""
    if is_own_file(name):
        from stts_cli.evaluation.benchmarks.own_file import open_file

        return open_file(Path(name).expanduser())
    if name not in NAMES:
        raise InputError(
            f"--bench {name}: is neither a benchmark (stts eval --list) nor a .jsonl, .json or .csv file"
            f"{suggest(name, [*NAMES, *SUITES])}"
        )
    module = importlib.import_module(f"stts_cli.evaluation.benchmarks.{name.partition('_')[0]}")
    benchmark: Benchmark = module.BENCHMARK if module.BENCHMARK.name == name else module.VARIANT
    return dataclasses.replace(benchmark, length="long" if name in (*LONG, "shapes_long") else "short")


def describe() -> list[dict[str, object]]:
    """Return what `stts eval --list` shows, a dict a benchmark."""
    return [
        {
            "name": each.name,
            "title": each.title,
            "class": each.length,
            "questions": each.questions,
            "videos": each.videos,
            "download": each.download,
            "terms": each.terms or "",
            "licence": each.licence,
            "splits": list(each.splits),
            "scorings": list(each.scorers),
            "repositories": list(each.repos),
            "remark": each.remark,
        }
        for each in map(get_benchmark, NAMES)
    ]
