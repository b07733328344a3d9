"""Which questions one arm answers right and another wrong, and a second look at the clips of some of them.

In: the rows of a finished run. Out: the questions, and the videos as each arm saw them, for pictures of what was kept.
They are read and encoded again: a run keeps no frames.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from stts_cli.engine.original import frames_to_show, in_own_shape
from stts_cli.errors import InputError
from stts_cli.media.reader import read_ahead

if TYPE_CHECKING:
    from stts_cli.engine.model import VideoModel
    from stts_cli.engine.results import Video
    from stts_cli.evaluation.journal import Row
    from stts_cli.evaluation.runner import Progress, Run
    from stts_cli.media.source import Source

MOST_SHOWN, MOST_IN_ALL = 50, 200  # questions of a group and of a benchmark: each costs a read and an encoding an arm
LONGEST = 160  # pixels of the longer edge of a frame that is shown
# what is done with a clip: the benchmark, the clip's questions, and by arm the encoded clip and its frames to show
Look = Callable[[str, Sequence[str], Mapping[str, tuple["Video", np.ndarray]]], None]


def changed_questions(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Return the questions that one arm answers right and another wrong: by question and arm its row."""
    questions: dict[str, dict[str, Row]] = {}
    for row in rows:
        questions.setdefault(row["id"], {})[row["arm"]] = row
    return {name: arms for name, arms in questions.items() if {0, 1} <= {row["correct"] for row in arms.values()}}


def choose_shown(changed: Mapping[str, Mapping[str, Row]], arms: Sequence[str]) -> list[str]:
    """Choose the questions whose frames are shown: at most `MOST_SHOWN` of a group, those of the first arm first.

    Args:
        changed: by question and arm its row.
        arms: in their order. A group is two of them, one right and the other wrong.
    """
    shown: dict[str, None] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for wanted in sorted(permutations(arms, 2), key=lambda pair: arms[0] not in pair):
        for question, rows in changed.items():
            groups = [
                (right, wrong)
                for right, wrong in permutations(rows, 2)
                if (rows[right]["correct"], rows[wrong]["correct"]) == (1, 0)
            ]
            fits = len(shown) < MOST_IN_ALL and all(counts[group] < MOST_SHOWN for group in groups)
            if fits and question not in shown and wanted in groups:
                shown[question] = None
                counts.update(groups)
    return list(shown)


def look_again(run: Run, models: Sequence[VideoModel], rows: Iterable[Row], look: Look, progress: Progress) -> None:
    """Give the clips of chosen questions to `look`, as each arm saw them; one that cannot be read is passed over."""
    chosen = set(choose_shown(changed_questions(rows), [model.arm.name for model in models]))
    asked: dict[Source, list[str]] = {}
    for item in run.questions.items:
        if item.id in chosen:
            asked.setdefault(item.source, []).append(item.id)
    wanted = [list(dict.fromkeys(model.request(source) for model in models)) for source in asked]
    every = [one for some in wanted for request in some for one in (request, in_own_shape(request, LONGEST))]
    results = read_ahead(every, workers=run.num_workers, timeout_s=run.timeout_s)
    for number, (source, requests) in enumerate(zip(asked, wanted, strict=True)):
        progress("looking at the questions that changed", number, len(asked))
        clips = {request: (next(results).clip, next(results).clip) for request in requests}
        videos = {}
        for model in models:
            clip, again = clips[model.request(source)]
            if clip is not None:
                with contextlib.suppress(InputError):  # its questions have failed too
                    videos[model.arm.name] = model.encode(clip), frames_to_show(clip, again)
        if videos:
            look(run.questions.benchmark.name, asked[source], videos)
