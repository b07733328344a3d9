"""stts eval --engine: the same questions to a server, kept, gone on with, and every failure counted."""

import json
import threading

import pytest

from stts_cli import cli
from stts_cli.engine import server as module
from stts_cli.evaluation.at_once import run_jobs
from tests.engine.fake_server import FakeServer, sent_frames
from tests.families.tiny_qwen3_vl import save_qwen3_vl


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(module, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setenv(module.KEY_VARIABLE, "sk-secret")
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def run(fake, items_file, capsys):
    """Run the command; return its exit code, the JSON document if there is one, and stderr."""

    def run(*words, model="tiny"):
        wanted = ["eval", "--engine", fake.url, "--model", model, "--bench", str(items_file), "--frames", "4"]
        with pytest.raises(SystemExit) as end:
            cli.main([*wanted, "--workers", "0", "--json", *words])
        said = capsys.readouterr()
        assert "sk-secret" not in said.out + said.err
        return end.value.code, json.loads(said.out) if said.out else None, said.err

    return run


def question(body):
    return body["messages"][0]["content"][-1]["text"]


def test_answers_are_scored_as_a_loaded_models(fake, run):
    fake.usage = lambda body: {"prompt_tokens": 50, "completion_tokens": 2}
    code, document, _ = run()
    assert code == 0
    assert len(fake.bodies) == 4
    (arm,) = document["arms"].values()
    assert (arm["n"], arm["accuracy"], arm["n_errors"]) == (4, 0.5, 0)  # "A." is right of every other one
    server = {key: value for key, value in arm["server"].items() if key != "ttft_s"}
    assert server == {"prompt_tokens": 50, "new_tokens": 2, "cut": 0}
    assert arm["server"]["ttft_s"] > 0
    assert document["config"]["arms"]["served"]["keep_ratio"] is None
    assert "What is it?" in question(fake.bodies[0])
    assert {len(sent_frames(body)[0]) for body in fake.bodies} == {4}
    assert any("token counts are not checked" in note for note in document["notes"])


def test_a_run_goes_on_and_what_failed_is_asked_again(fake, run, tmp_path):
    fake.plan = [400]
    code, document, _ = run("--output", str(tmp_path / "out"), "--in-flight", "1")
    assert code == 0
    assert document["arms"]["served"]["n_errors"] == 1
    assert any("answers 400" in note for note in document["notes"])
    code, document, _ = run("--output", str(tmp_path / "out"))
    assert len(fake.bodies) == 5
    assert document["arms"]["served"]["n_errors"] == 0
    files = "".join(path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix != ".png")
    assert "sk-secret" not in files
    assert "time to first token" in (tmp_path / "out" / "results.md").read_text()


def test_a_server_that_goes_away_ends_the_run_which_goes_on_later(fake, run, tmp_path):
    fake.plan = [None, None, 401]
    words = ("--output", str(tmp_path / "out"), "--in-flight", "1")
    code, document, said = run(*words)
    assert (code, document) == (3, None)
    assert module.KEY_VARIABLE in said
    code, document, _ = run(*words)
    assert code == 0
    assert len(fake.bodies) == 5  # two were kept
    assert document["arms"]["served"]["n"] == 4


def test_arms_send_their_keep_ratio(fake, run):
    code, document, _ = run("--keep-ratio", "0.5", "--compare", "dense")
    assert code == 0
    sent = [body["mm_processor_kwargs"]["stts"]["keep_ratio"] for body in fake.bodies]
    assert sorted(sent) == [0.5] * 4 + [1.0] * 4
    assert [*document["arms"]] == ["dense", "pruned"]


def test_token_counts_are_checked_where_the_model_is_known(fake, run, tmp_path):
    save_qwen3_vl(tmp_path / "model")
    fake.models = [str(tmp_path / "model")]
    fake.usage = lambda body: {"prompt_tokens": 99_999, "completion_tokens": 1}
    code, document, _ = run(model=str(tmp_path / "model"))
    assert code == 0
    (note,) = [note for note in document["notes"] if "another length" in note]
    assert note.startswith("served: 4 of 4 prompts")
    expected = document["samples"][0]["tokens_expected"]
    assert f"99999 tokens instead of {expected}" in note
    assert document["samples"][0]["visual_tokens"] is None
    fake.usage = lambda body: {"prompt_tokens": expected - 8, "completion_tokens": 1}
    code, document, _ = run(model=str(tmp_path / "model"))
    (note,) = [note for note in document["notes"] if "shorter than dense" in note]
    row = document["samples"][0]
    assert row["visual_tokens"] == row["visual_tokens_dense"] - 8
    code, document, _ = run("--keep-ratio", "0.5", model=str(tmp_path / "model"))
    assert any("does not apply keep ratio 0.5" in note for note in document["notes"])


def test_answers_cut_at_the_limit_are_counted(fake, run):
    fake.finish = "length"
    _, document, _ = run()
    assert document["arms"]["served"]["server"]["cut"] == 4
    assert [arm["n_cut"] for arm in document["arms"].values()] == [4]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--scorer", "temporal"], "--scorer"),
        (["--times"], "--times"),
        (["--dtype", "float32"], "--dtype"),
        (["--compare", "random@0.3"], "--compare random@0.3"),
        (["--in-flight", "0"], "--in-flight 0"),
        (["--send", "mp4"], "--send mp4"),
        (["--answer-timeout", "0"], "--answer-timeout 0"),
    ],
)
def test_flags_that_are_refused(run, fake, words, says):
    code, _, said = run(*words)
    assert code == 2
    assert says in said
    assert not fake.bodies


def test_server_flags_need_a_server(items_file, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["eval", "--bench", str(items_file), "--in-flight", "2"])
    assert end.value.code == 2
    assert "give --engine too" in capsys.readouterr().err


def test_so_many_videos_are_in_flight(fake, run):
    together = threading.Barrier(2)
    fake.usage = lambda body: together.wait(20) and None  # passes only where two requests are there at once
    code, document, _ = run("--in-flight", "2")
    assert code == 0
    assert document["arms"]["served"]["n_errors"] == 0
    assert not together.broken


def test_jobs_run_at_once_up_to_the_limit():
    running, most, lock, gate = [0], [0], threading.Lock(), threading.Barrier(3)

    def job():
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        gate.wait(20)
        with lock:
            running[0] -= 1
        return 1

    assert sum(run_jobs([job] * 9, 3)) == 9
    assert most == [3]


def test_a_job_that_raises_ends_the_run():
    def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        list(run_jobs([fail] * 5, 2))
