"""`stts finetune` as it is typed: what is refused, in one line, before any training; what a run prints."""

import json
import re

import pytest

from stts_cli import cli
from stts_cli.config.presets import load_preset
from stts_cli.families import FAMILIES
from tests.training.conftest import base, videos_jsonl  # noqa: F401


def typed(capsys, *words):
    """Run the command line here; return (exit code, stdout, stderr)."""
    capsys.readouterr()
    try:
        cli.main(["finetune", *map(str, words), "--device", "cpu"])
        code = 0
    except SystemExit as end:
        code = end.code or 0
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def no_training(monkeypatch):
    from stts_cli.training import finetune

    def trainer(*arguments):
        raise AssertionError("got to the training")

    monkeypatch.setattr(finetune, "_trainer", trainer)


def rows(tmp_path, *lines):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "--model: is missing; give a model to start from and data to train on, or a --preset."),
        (
            ["--model", "nano"],
            "--data: is missing; give a model to start from and data to train on, or a --preset.",
        ),
        (["--train", "scorrer"], "--train scorrer: must be scorer, lora or full; did you mean 'scorer'?"),
        (
            ["--scorer", "lerned"],
            "--scorer lerned: must be learned, temporal, reference, random, tome or none; did you mean 'learned'?",
        ),
        (["--preset", "nano-qick"], "training preset nano-qick: unknown; did you mean 'nano-quick'?"),
        (
            ["--keep-ratio", "1.5"],
            "--keep-ratio 1.5: must be ratios greater than 0 and at most 1, with shares of at least 0.",
        ),
        (["--frames", "0"], "--frames 0: must be at least 1."),
        (
            ["--model", "nano", "--data", "nowhere.jsonl"],
            "nowhere.jsonl: does not exist: must be a file that ends in .jsonl, .json or .csv, or "
            "hf:OWNER/NAME[:split], or shapes.",
        ),
        (
            ["--model", "nano", "--data", "README.md"],
            "README.md: ends otherwise: must be a file that ends in .jsonl, .json or .csv, or hf:OWNER/NAME[:split], "
            "or shapes.",
        ),
        (["--model", "nano", "--data", "shapes"], "--data shapes: has no end; give --steps."),
        (
            ["--preset", "nano", "--skip-invalid"],
            "--skip-invalid: --preset nano has several trainings. Give a preset of one.",
        ),
        (
            ["--preset", "nano", "--push-to-hub", "nobody"],
            "--push-to-hub nobody: is no name of a hub repository; must be OWNER/NAME.",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_2(no_training, capsys, tmp_path, words, sentence):
    code, out, err = typed(capsys, *words, "--output", tmp_path / "run")
    assert (code, out, err) == (2, "", f"stts: {sentence}\n")
    assert not (tmp_path / "run").exists()


def test_a_line_that_is_no_json(no_training, capsys, tmp_path):
    path = rows(tmp_path, {"video": "a.mp4", "question": "a", "answer": "b"}, "{oops}\n")
    code, out, err = typed(capsys, "--model", "nano", "--data", path, "--output", tmp_path / "run")
    assert (code, out) == (2, "")
    assert err == (
        f"stts: {path}:2: no JSON (Expecting property name enclosed in double quotes at column 2): must be a JSON "
        "object a line.\n"
    )


def test_a_missing_video_is_one_line(no_training, capsys, tmp_path):
    path = rows(tmp_path, {"video": "a.mp4", "question": "a", "answer": "b"})
    words = ("--model", "nano", "--data", path, "--output", tmp_path / "run", "--eval-videos", 0)
    code, out, err = typed(capsys, *words)
    assert (code, out) == (2, "")
    assert err == (
        f"stts: line 1: {tmp_path}/a.mp4: does not exist. missing video: 1; correct the data, or add --skip-invalid "
        "to train without them.\n"
    )
    code, out, err = typed(capsys, *words, "--skip-invalid")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == f"stts: --data {tmp_path}/rows.jsonl: no sample is left; correct the data."


def test_a_base_of_an_unknown_family(no_training, capsys, tmp_path, base, videos_jsonl):  # noqa: F811
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "llava"}))
    words = ("--model", other, "--data", videos_jsonl, "--eval-videos", 0, "--output", tmp_path / "run")
    assert typed(capsys, *words) == (
        2,
        "",
        f"stts: model {other} of type llava: no family handles it; known: {', '.join(sorted(FAMILIES))}.\n",
    )


def test_push_is_checked_before_training(no_training, capsys, tmp_path):
    words = ("--model", "nano", "--data", "shapes", "--steps", 1, "--output", tmp_path / "run")
    code, out, err = typed(capsys, *words, "--push-to-hub", "only-a-name")
    assert (code, out) == (2, "")
    assert "--push-to-hub only-a-name: is no name of a hub repository" in err
    code, _, err = typed(capsys, *words, "--push-to-hub", "me/mine")
    assert code == 2
    assert "is on this machine only" in err


def test_flags_go_before_the_preset(monkeypatch, capsys, tmp_path):
    seen = {}

    def run(settings, output, **options):
        seen.update(settings=settings, output=output, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr("stts_cli.training.finetune.finetune", run)
    typed(capsys, "--preset", "nano-quick", "--steps", 7, "--lr-scorer", 0.5, "--resume", "--skip-invalid")
    one = seen["settings"]
    assert (one.steps, one.lr_scorer, one.data, one.new_scorer, one.frames) == (7, 0.5, "shapes", True, 16)
    assert one.model == load_preset("nano").model
    assert str(seen["output"]) == "runs/nano-quick"
    assert (seen["resume"], seen["skip_invalid"], seen["device"]) == (True, True, "cpu")
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: some/where\ndata: a.jsonl\nlr_llm: 1e-6\nkeep_ratio: 0.3\n")
    typed(capsys, "--preset", mine, "--output", "there")
    one = seen["settings"]
    assert (one.model, one.lr_llm, one.keep_ratio, str(seen["output"])) == ("some/where", 1e-6, "0.3", "there")


def test_every_setting_has_its_flag_or_is_a_presets_own():
    import dataclasses

    from typer.main import get_command

    from stts_cli.training.settings import FinetuneSettings

    flags = {parameter.name for parameter in get_command(cli.app).commands["finetune"].params}
    assert {field.name for field in dataclasses.fields(FinetuneSettings)} - flags == {"muon_adamw", "cooldown"}


def test_a_run_prints_its_table_and_its_json(capsys, tmp_path, base, videos_jsonl):  # noqa: F811
    words = (
        *("--model", base, "--data", videos_jsonl, "--eval-videos", 2, "--frames", 4, "--steps", 2, "--workers", 0),
        *("--log-every", 1, "--warmup", 0),
    )
    code, out, err = typed(capsys, *words, "--output", tmp_path / "run")
    assert code == 0, err
    lines = [line for line in err.splitlines() if re.match("stts: (training|step) ", line)]
    assert lines[0].startswith("stts: training scorer: ")
    assert re.fullmatch(r"stts: step 0: held out: dense [\d.]+%, loss [\d.]+, pruned [\d.]+%, loss [\d.]+", lines[1])
    assert re.match(r"stts: step 1 of 2: lm [\d.]+, temporal [\d.]+, .*kept 5\d%, .* tokens/s", lines[2])
    assert re.match("stts: step 2 of 2: lm", lines[3])
    assert "pruned, after" in out
    assert f"stts ask VIDEO QUESTION --model {tmp_path}/run" in out.replace("\n", " ").replace("  ", " ")
    code, out, err = typed(capsys, *words, "--output", tmp_path / "run", "--resume", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert (document["steps"], document["resumed_from"]) == (2, "checkpoint-2")
    assert document["output"] == str(tmp_path / "run")
