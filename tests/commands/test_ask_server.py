"""stts ask --engine: the answer of a server, what it counts, and what cannot be asked of one."""

import json

import pytest

from stts_cli import cli
from stts_cli.engine import server as module
from tests.engine.fake_server import FakeServer, sent_frames
from tests.families.tiny_qwen3_vl import save_qwen3_vl


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(module, "PAUSES_S", (0.0, 0.0))
    monkeypatch.delenv(module.KEY_VARIABLE, raising=False)
    server = FakeServer()
    server.usage = lambda body: {"prompt_tokens": 50, "completion_tokens": 2}
    yield server
    server.close()


@pytest.fixture
def ask(fake, write_video, capsys):
    """Run the command on a video; return its exit code, stdout and stderr."""
    video = write_video("one.mp4", num_frames=20)

    def run(*words, model="tiny"):
        with pytest.raises(SystemExit) as end:
            cli.main(["ask", str(video), "--engine", fake.url, "--model", model, "--frames", "4", *words])
        said = capsys.readouterr()
        return end.value.code, said.out, said.err

    return run


def test_the_answer_and_what_it_cost(fake, ask):
    code, out, _ = ask("What is it?", "And now?")
    assert code == 0
    assert [body["messages"][0]["content"][-1]["text"] for body in fake.bodies] == ["What is it?", "And now?"]
    assert {len(sent_frames(body)[0]) for body in fake.bodies} == {4}
    assert out.startswith("What is it?\nA.\n")
    assert "first after" in out
    assert f"tiny at {fake.url}/v1" in out


def test_the_document_says_what_the_server_counted(fake, ask, tmp_path):
    save_qwen3_vl(tmp_path / "model")
    fake.models = [str(tmp_path / "model")]
    code, out, err = ask("What is it?", "--json", model=str(tmp_path / "model"))
    assert code == 0
    document = json.loads(out)
    (arm,) = document["arms"]
    (reply,) = arm["answers"]
    assert (reply["text"], reply["num_prompt_tokens"], reply["num_new_tokens"]) == ("A.", 50, 2)
    assert (expected := reply["num_expected_tokens"]) > 50
    assert f"the server counts 50 prompt tokens, {expected} were expected" in err
    assert document["engine"] == f"{fake.url}/v1"
    assert len(document["video"]["timestamps_s"]) == 4


def test_videos_are_asked_about_one_by_one_and_a_run_goes_on(fake, ask, write_video, tmp_path):
    other, lines = write_video("two.mp4", num_frames=10), tmp_path / "out.jsonl"
    fake.plan = [None, 400]
    code, _, err = ask(str(other), "What is it?", "--output", str(lines))
    assert code == 2
    assert "1 of 2 videos were not answered" in err
    code, _, _ = ask(str(other), "What is it?", "--output", str(lines))
    assert code == 0
    assert len(fake.bodies) == 3
    assert [json.loads(line).get("error") is None for line in lines.read_text().splitlines()] == [True, False, True]


def test_arms_differ_by_their_keep_ratio(fake, ask):
    code, _, err = ask("What is it?", "--keep-ratio", "0.5", "--compare", "dense")
    assert code == 0
    assert [body["mm_processor_kwargs"]["stts"]["keep_ratio"] for body in fake.bodies] == [0.5, 1.0]
    assert "cannot be checked here" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--options", "A", "B"], "a server tells no likelihoods"),
        (["--chat"], "--chat: cannot stand with --engine"),
        (["--cache", "x"], "--cache: cannot stand with --engine"),
        (["--budget", "4"], "--budget"),
        (["--scorer", "temporal"], "--scorer: cannot stand with --engine"),
    ],
)
def test_what_cannot_be_asked_of_a_server(fake, ask, words, says):
    code, out, err = ask("What is it?", *words)
    assert (code, out) == (2, "")
    assert says in err
    assert not fake.bodies


def test_no_server(fake, ask):
    fake.close()
    code, _, err = ask("What is it?")
    assert code == 3
    assert "no server answers there" in err


def test_a_model_must_be_named(fake, write_video, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["ask", str(write_video("one.mp4", num_frames=20)), "What?", "--engine", fake.url])
    assert end.value.code == 2
    assert "--model: is missing" in capsys.readouterr().err
