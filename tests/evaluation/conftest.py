"""What the tests of evaluation share: a cache folder of their own, and runs on the tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from stts_cli.evaluation.gather import gather
from stts_cli.evaluation.runner import Run, evaluate
from stts_cli.settings import Arm


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def arms(tiny_checkpoint):
    """Dense and pruned, four frames."""
    dense = Arm("dense", str(tiny_checkpoint), frames=4, keep_ratio=1.0, scorer="none")
    return [dense, Arm("pruned", str(tiny_checkpoint), frames=4, keep_ratio=0.5)]


@pytest.fixture
def run_shapes(arms):
    """Evaluate on the first two scenes; keyword arguments replace settings of the run."""

    def run(videos: int = 2, **settings):
        questions = gather("shapes", videos=videos)
        wanted = {"arms": arms, "max_new_tokens": 2, "workers": 0, **settings}
        return evaluate(Run(questions=questions, **wanted))

    return run


def without_times(value):
    """Return a document without what is measured and therefore never twice the same."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in ("notes", "times", "peak_bytes")}
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(name="without_times")
def _without_times():
    return without_times


@pytest.fixture
def items_file(tmp_path: Path, write_video):
    """Write a benchmark of one's own: two real clips, two questions each."""
    import json
    import shutil

    rows = []
    for name in ("one", "two"):
        shutil.copy(write_video(f"{name}.mp4", num_frames=20), tmp_path / f"{name}.mp4")
        for number in range(2):
            rows.append(
                {
                    "id": f"{name}-{number}",
                    "video": f"{name}.mp4",
                    "question": "What is it?",
                    "options": ["a dog", "a cat"],
                    "answer": number,
                }
            )
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
