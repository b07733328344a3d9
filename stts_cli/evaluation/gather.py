"""From a benchmark's name to the questions that will be asked: find or fetch its files, choose, check the videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stts_cli.data.items import QaItem
from stts_cli.data.rows import is_own_file
from stts_cli.errors import InputError
from stts_cli.evaluation.benchmarks.archives import check_whole
from stts_cli.evaluation.benchmarks.benchmark import Benchmark
from stts_cli.evaluation.benchmarks.hub import fetch
from stts_cli.evaluation.benchmarks.registry import BUILT_IN, get_benchmark

LISTED = 5  # missing videos named in the message


@dataclass(frozen=True)
class Questions:
    """What will be asked of a benchmark: the questions whose videos are there."""

    benchmark: Benchmark
    split: str
    items: list[QaItem]
    missing: list[str]  # names of the videos that are not there
    num_missing: int  # questions about them
    notes: tuple[str, ...] = ()  # what was guessed, put right or left out while the questions were read


def gather(
    bench: str,
    *,
    split: str | None = None,
    videos: int | None = None,
    limit: int | None = None,
    data_dir: Path | None = None,
    hf_repo: str | None = None,
    allow_missing: bool = False,
    progress: Callable[[str], None] = lambda what: None,
) -> Questions:
    """Get a benchmark's questions, or refuse an unknown name or split, and files or videos that are not there.

    `bench` may be a file of the user's own; `videos` and `limit` are how many at most, videos evenly spread and with
    all their questions; `data_dir` is a folder that holds the benchmark, or a sub-folder of its name that does, None
    for the hub, where `hf_repo` may replace its dataset; `allow_missing` leaves out questions whose video is not there.
    """
    for name, number in (("videos", videos), ("limit", limit)):
        if number is not None and number < 1:
            raise InputError(f"--{name} {number}: must be at least 1.")
    benchmark = get_benchmark(bench)
    split = benchmark.check_split(split)
    if bench in BUILT_IN:
        return Questions(benchmark, split, _scenes(bench, split, videos, limit), [], 0)
    size = f" ({benchmark.download})" if benchmark.download else ""
    fetched = data_dir is None and not is_own_file(bench)
    progress(f"{benchmark.name}: {f'fetching from the hub{size}' if fetched else 'reading the questions'}")
    folder = benchmark.folder(*_roots(benchmark, bench, split, data_dir, hf_repo))
    items = _choose(benchmark.load(folder, split), videos, limit)
    there = {item.source: item.source.path.exists() for item in items}
    missing = list(dict.fromkeys(str(source.path) for source, exists in there.items() if not exists))
    kept = [item for item in items if there[item.source]]
    if missing and not (allow_missing and kept):
        archives = folder.archives()
        check_whole(archives)
        raise InputError(_missing_text(benchmark, missing, len(there), archives))
    return Questions(benchmark, split, kept, missing, len(items) - len(kept), tuple(folder.notes))


def _choose(items: Sequence[QaItem], videos: int | None, limit: int | None) -> list[QaItem]:
    """Choose videos evenly spread, so that every part of the benchmark is met, then the first questions about them."""
    names = list(dict.fromkeys(item.video for item in items))
    if videos is not None and videos < len(names):
        names = [names[index * len(names) // videos] for index in range(videos)]
    wanted = set(names)
    return [item for item in items if item.video in wanted][:limit]


def _scenes(bench: str, split: str, videos: int | None, limit: int | None) -> list[QaItem]:
    from stts_cli.evaluation.benchmarks import shapes

    long = bench == "shapes_long"
    count = videos or (shapes.DEFAULT_VIDEOS if limit is None else limit)  # a scene has a question at least
    return shapes.make_items(long, split, count)[:limit]


def _roots(
    benchmark: Benchmark, bench: str, split: str, data_dir: Path | None, hf_repo: str | None
) -> tuple[Path, ...]:
    if data_dir is not None:
        if not data_dir.is_dir():
            raise InputError(f"--data-dir {data_dir}: is no folder; name the one that holds the benchmark.")
        own = data_dir / benchmark.name
        return (own, data_dir) if own.is_dir() else (data_dir,)
    if is_own_file(bench):
        return (Path(bench).expanduser().parent,)
    return fetch(benchmark, split, hf_repo)


def _missing_text(benchmark: Benchmark, missing: list[str], total: int, archives: list[Path]) -> str:
    named = ", ".join(missing[:LISTED]) + (", ..." if len(missing) > LISTED else "")
    more = f" and {len(archives) - 1} others" if len(archives) > 1 else ""
    hint = f"unpack {archives[0].name}{more} there" if archives else f"get them: {benchmark.where}"
    return (
        f"{benchmark.name}: {len(missing)} of {total} videos are missing ({named}); {hint}, or leave their questions "
        "out with --allow-missing."
    )
