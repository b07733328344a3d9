"""What a finetuning run looks like, from documents that one could have made."""

import json

import pytest

from stts_cli.report.finetune import FinetuneProgress, evaluation_line, figures_line, show_finetune, start_line

START = {
    "event": "start", "steps": 120, "trainable": 1_234, "parameters": 56_789, "train": "scorer", "data": "my.jsonl",
    "items": 6, "held_out": 4, "processes": 1, "precision": "float32",
}  # fmt: skip


def arm(accuracy, loss=1.0, kept=0.5, flops_ratio=0.6):
    return {"accuracy": accuracy, "loss": loss, "answers": 1234.0, "flops_ratio": flops_ratio, "kept": kept}


def make_document(**changes):
    document = {
        "stts": "0.1.0", "model": "nano", "train": "scorer", "data": "my.jsonl", "is_demonstration": False,
        "steps": 120, "resumed_from": None, "best_step": 60, "seconds": 77.0,
        "before": {
            "dense": arm(0.95, 0.25, 1.0, 1.0), "pruned": arm(0.4, 1.5), "temporal": arm(0.6, 0.875),
        },
        "after": {"dense": arm(0.95, 0.25, 1.0, 1.0), "pruned": arm(0.901, 0.3125, 0.5, 0.5678)},
        "settings": {},
    }  # fmt: skip
    return {**document, **changes}


def shown(capsys, monkeypatch, document, **options):
    monkeypatch.setenv("COLUMNS", "100")
    show_finetune(document, "runs/mine", **options)
    return capsys.readouterr().out


def rows_of(text):
    return [[cell.strip() for cell in line.strip("│ ").split("│")] for line in text.splitlines() if line[:1] == "│"]


def test_the_table_of_before_and_after(capsys, monkeypatch):
    text = shown(capsys, monkeypatch, make_document())
    assert "nano" in text
    assert "120 steps" in text
    assert rows_of(text) == [
        ["dense, before", "95.0%", "0.250", "100%", "1.000"],
        ["temporal scorer, before", "60.0%", "0.875", "50%", "0.600"],
        ["pruned, before", "40.0%", "1.500", "50%", "0.600"],
        ["dense, after", "95.0%", "0.250", "100%", "1.000"],
        ["pruned, after", "90.1%", "0.312", "50%", "0.568"],
    ]
    assert "1,234 answers, right when greedy decoding gives them word for word" in text
    assert "the result: runs/mine\nstts ask VIDEO QUESTION --model runs/mine\n" in text
    assert "demonstration" not in text


def test_arms_that_were_not_measured_are_left_out(capsys, monkeypatch):
    dense = {"dense": arm(0.9, 0.5, 1.0, 1.0)}
    text = shown(capsys, monkeypatch, make_document(before=dense, after=dense))
    assert [row[0] for row in rows_of(text)] == ["dense, before", "dense, after"]


def test_nothing_held_out_means_no_table(capsys, monkeypatch):
    text = shown(capsys, monkeypatch, make_document(before={}, after={}))
    assert text == "the result: runs/mine\nstts ask VIDEO QUESTION --model runs/mine\n"


def test_a_demonstration_says_so(capsys, monkeypatch):
    text = shown(capsys, monkeypatch, make_document(is_demonstration=True))
    assert "a demonstration on a procedural world: says nothing about real video\n" in text


def test_json_is_the_document_and_nothing_else(capsys, monkeypatch):
    document = make_document()
    text = shown(capsys, monkeypatch, document, json_only=True)
    assert json.loads(text) == {**document, "output": "runs/mine"}


def test_a_base_in_brackets_is_no_markup(capsys, monkeypatch):
    text = shown(capsys, monkeypatch, make_document(model="my[red]model"))
    assert "my[red]model" in text


def test_the_first_line():
    assert start_line(START) == (
        "training scorer: 1,234 of 56,789 parameters, 120 steps on my.jsonl, 4 held-out videos, float32"
    )
    assert start_line({**START, "held_out": 0, "processes": 2}).endswith("nothing held out, float32, 2 processes")


def test_figures():
    line = {"lm_loss": 1.23456, "temporal_loss": 0.01234, "kept": 0.504, "tokens_per_s": 12345.6, "memory_gib": 3.21}
    assert figures_line(line) == "lm 1.235, temporal 0.0123, kept 50%, 12,346 tokens/s, 3.2 GiB"
    assert figures_line({"temporal_loss": 0.5, "kept": 1.0, "tokens_per_s": 0.0}) == "temporal 0.5000, kept 100%"
    assert evaluation_line({"dense": arm(0.951, 0.25), "pruned": arm(0.4, 1.5)}) == (
        "held out: dense 95.1%, loss 0.250, pruned 40.0%, loss 1.500"
    )


EVENTS = (
    {"event": "stage", "name": "loading"},
    {"event": "checking", "done": 3, "total": 6},
    START,
    {"event": "note", "text": "left out: line 3: [gone]"},
    {"event": "step", "step": 1, "total": 120},
    {"event": "log", "step": 1, "lm_loss": 2.0, "kept": 0.5},
    {"event": "evaluation", "step": 1, "arms": {"dense": arm(0.5, 1.0)}},
    {"event": "done"},
)


def test_lines_go_to_stderr_where_there_is_no_terminal(capsys):
    with FinetuneProgress() as progress:
        for event in EVENTS:
            progress(event)
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.splitlines() == [
        f"stts: {start_line(START)}",
        "stts: left out: line 3: [gone]",
        "stts: step 1 of 120: lm 2.000, kept 50%",
        "stts: step 1: held out: dense 50.0%, loss 1.000",
    ]


def test_the_time_left_follows_from_the_steps_of_this_process(capsys, monkeypatch):
    """A run that is resumed at step 50 has not done fifty steps in this process."""
    now = [100.0]
    monkeypatch.setattr("stts_cli.report.finetune.time.monotonic", lambda: now[0])
    with FinetuneProgress() as progress:
        progress(START)
        for step in (51, 61, 120):
            progress({"event": "step", "step": step, "total": 120})
            progress({"event": "log", "step": step, "lm_loss": 2.0})
            now[0] += 120
    assert capsys.readouterr().err.splitlines()[1:] == [
        "stts: step 51 of 120: lm 2.000",
        "stts: step 61 of 120: lm 2.000, 0:11:48 left",
        "stts: step 120 of 120: lm 2.000",
    ]


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with FinetuneProgress() as progress:
        for event in EVENTS[:-1]:
            progress(event)
        (task,) = progress._bar._bar.tasks
        assert (task.description, task.completed, task.total) == ("training", 1, 120)
        assert task.fields["figures"] == "lm 2.000, kept 50%"
    text = capsys.readouterr().err
    assert start_line(START)[:60] in text
    assert "[gone]" in text


@pytest.mark.parametrize("error", [None, ValueError])
def test_the_bar_ends_with_the_run(error):
    progress = FinetuneProgress()
    try:
        with progress:
            if error:
                raise error
    except ValueError:
        pass
    assert not progress._bar._bar.live.is_started
