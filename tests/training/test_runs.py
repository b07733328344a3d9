"""Several runs from one preset: what starts from what, who does which, and what is refused."""

import dataclasses
import json

import pytest
from filelock import FileLock

from stts_cli.config.presets import presets_folder
from stts_cli.config.training import read_stages
from stts_cli.errors import InputError
from stts_cli.training import runs as module
from stts_cli.training.runs import RESULT_FILE, plan_runs, train_runs
from tests.commands.test_finetune import typed

PAPER = presets_folder() / "training" / "nano-paper.yaml"


@pytest.fixture
def trained(monkeypatch):
    """Instead of training: what was asked for, in order."""
    asked = []

    def finetune(settings, folder, *, resume, device, report):
        asked.append((folder.name, settings.model, resume))
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_text("{}")
        if settings.steps == 13:
            raise InputError("stopped")
        report({"event": "log", "step": 1})
        after = {"dense": {"accuracy": 0.9}, "pruned": {"accuracy": 0.8, "kept": 0.5}}
        return {"steps": settings.steps, "seconds": 60.0, "after": after, "is_demonstration": True}

    monkeypatch.setattr(module, "finetune", finetune)
    return asked


def plan(**models):
    return plan_runs({name: {"model": model, "data": "shapes", "steps": 1} for name, model in models.items()}, {})


def test_a_run_comes_after_what_it_starts_from(trained, tmp_path):
    runs = plan(last="middle", middle="first", first="some/where")
    assert list(runs) == ["first", "middle", "last"]
    events = []
    documents = train_runs(runs, tmp_path / "out", report=events.append)
    assert [entry[:2] for entry in trained] == [
        ("first", "some/where"),
        ("middle", str(tmp_path / "out" / "first")),
        ("last", str(tmp_path / "out" / "middle")),
    ]
    assert list(documents) == ["first", "middle", "last"]
    assert [event["run"] for event in events if event["event"] == "log"] == ["first", "middle", "last"]
    with pytest.raises(InputError, match="holds this run already; add --resume"):
        train_runs(runs, tmp_path / "out")
    assert train_runs(runs, tmp_path / "out", resume=True) == documents
    assert len(trained) == 3, "nothing is done twice"
    with pytest.raises(InputError, match=r"holds another run \(first\.model 'some/where' there, 'else/where' here\)"):
        train_runs(plan(first="else/where"), tmp_path / "out", resume=True)
    assert list(train_runs(plan(more="else/where"), tmp_path / "out", resume=True)) == ["more"]


def test_a_stopped_run_goes_on_and_the_others_stay(trained, tmp_path):
    runs = plan(one="some/where", two="some/where")
    runs["two"] = dataclasses.replace(runs["two"], steps=13)
    with pytest.raises(InputError, match="stopped"):
        train_runs(runs, tmp_path)
    assert (tmp_path / "one" / RESULT_FILE).is_file()
    with pytest.raises(InputError, match="stopped"):
        train_runs(runs, tmp_path, resume=True)
    assert [(name, resume) for name, _, resume in trained] == [("one", False), ("two", False), ("two", True)]


def test_a_run_that_another_process_is_at_is_left_to_it(trained, tmp_path, monkeypatch):
    runs = plan(one="some/where", two="some/where", three="one")
    settings = {f"{name}.{key}": value for name, one in runs.items() for key, value in module.record_of(one).items()}
    module.claim(tmp_path, settings)
    lock = FileLock(tmp_path / ".one.lock")
    lock.acquire()

    def wait(seconds):
        assert [name for name, *_ in trained] == ["two"], "neither one, nor three, which starts from it"
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / RESULT_FILE).write_text('{"steps": 5}')
        lock.release()

    monkeypatch.setattr(module.time, "sleep", wait)
    documents = train_runs(runs, tmp_path, resume=True)
    assert [name for name, *_ in trained] == ["two", "three"]
    assert documents["one"] == {"steps": 5}


@pytest.mark.parametrize(
    ("stages", "flags", "sentence"),
    [
        (
            {"a": {"model": "b"}, "b": {"model": "a"}},
            {},
            "runs a, b: start from each other; one must",
        ),
        ({"a": {}}, {}, "--model: is missing; run a of the preset starts from it"),
        (
            {"first": {"model": "x/y"}, "b": {"model": "frist"}},
            {},
            "model frist of run b: is no run, .*; did you mean 'first'",
        ),
        ({"a": {"model": "x/y"}}, {"steps": 3}, "--steps: cannot go with a preset of several runs"),
        ({"a": {"model": "x/y", "frames": 0}}, {}, "--frames 0: must be at least 1"),
    ],
)
def test_what_makes_no_plan(stages, flags, sentence):
    with pytest.raises(InputError, match=sentence):
        plan_runs(stages, flags)


def test_torchrun_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="torchrun: cannot go with a preset of several runs; start the same"):
        train_runs(plan(one="some/where"), tmp_path)


def test_the_papers_runs_are_equally_long_and_differ_as_they_are_called():
    runs = plan_runs(read_stages(PAPER), {"model": "the/base", "workers": 3})
    long = {name: run for name, run in runs.items() if name != "warm"}
    same = (
        "steps",
        "seed",
        "lr_llm",
        "lr_vit",
        "lr_connector",
        "lr_scorer",
        "frames",
        "accumulate",
        "cooldown",
        "warmup",
    )
    for run in long.values():
        for field in same:
            assert getattr(run, field) == getattr(long["dense"], field), field
        assert run.train == "full"
        assert run.workers == 3
    assert {name: run.keep_ratio for name, run in runs.items() if name.startswith("learned-")} == {
        f"learned-{ratio}": ratio for ratio in ("0.7", "0.5", "0.3", "0.2")
    }
    half = long["learned-0.5"]
    for name, changed in {
        "no-bias": {"bias_rescale": "off"},
        "bias-frame": {"bias_rescale": "frame"},
        "learned-0.3": {"keep_ratio": "0.3"},
    }.items():
        assert long[name] == dataclasses.replace(half, **changed), name
    nano = read_stages(PAPER.with_name("nano.yaml"))["stts"]
    for name in ("learned", "random", "temporal", "reference", "tome"):
        assert (long[name].scorer, long[name].keep_ratio) == (name, nano["keep_ratio"])
    assert long["no-temporal-loss"].temporal_weight == 0
    assert (long["layer-1"].prune_layer, long["layer-5"].prune_layer) == (1, 5)


def test_the_command_prints_a_table(trained, tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    mine.write_text(json.dumps({"runs": {"a": {"model": "nano", "steps": 2}, "b": {"model": "a", "steps": 4}}}))
    code, out, err = typed(capsys, "--preset", mine, "--output", tmp_path / "out")
    assert code == 0, err
    assert "90.0%" in out
    assert "says nothing about real video" in out
    assert trained[0][1] == str(presets_folder() / "nano")
    code, out, _ = typed(capsys, "--preset", mine, "--output", tmp_path / "out", "--resume", "--json")
    assert list(json.loads(out)["runs"]) == ["a", "b"]
    code, _, err = typed(capsys, "--preset", mine, "--output", tmp_path / "out", "--push-to-hub", "me/mine")
    assert code == 2
    assert "--push-to-hub: cannot go with several runs" in err
