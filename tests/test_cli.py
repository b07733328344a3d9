from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stts_cli import cli
from stts_cli.settings import SCORERS
from tests.conftest import own_lines

REPOSITORY = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "numpy", "decord", "av", "yaml")


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `stts` as a user does, in a process of its own."""
    import os

    return subprocess.run(
        [sys.executable, "-m", "stts_cli.cli", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_help_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from stts_cli import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr
    assert "ask" in done.stdout


def test_the_surface_is_what_is_promised():
    """The command line is a contract: a flag that goes missing or appears must change this list."""
    names = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert names == {"ask", "finetune", "eval", "profile"}


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (
            "ask",
            "--batch-size --revision --quantize --device-map --system --temperature --top-p --stop --think --seed "
            "--preset --model --questions --options --frames --max-fps --start --end --at --fps --subtitles --resize "
            "--keep-ratio --prune-ratio --budget --budget-by --budget-pixels --scorer --prune-layer --max-new-tokens "
            "--device --dtype --compare --save-kept --report --chat --output --cache --cache-size --json --quiet "
            "--engine --send --answer-timeout --together",
        ),
        (
            "eval",
            "--batch-size --revision --quantize --device-map --system --temperature --top-p --stop --think "
            "--bench --suite --plot --list --videos --limit --split --scoring --data-dir --hf-repo --allow-missing "
            "--compare --json "
            "--test-time-scaling --output --preset --model --frames --max-fps --resize --keep-ratio --prune-ratio "
            "--scorer --prune-layer --max-new-tokens --device --dtype --workers --timeout --times --seed --seeds "
            "--engine --send --in-flight --answer-timeout",
        ),
        (
            "finetune",
            "--revision --quantize "
            "--preset --model --data --output --train --keep-ratio --prune-ratio --scorer --new-scorer "
            "--prune-layer --bias-rescale --temporal-weight --target-gradient --clamp-scorer-gradient "
            "--answer-weights --z-loss --frames --max-fps "
            "--resize --steps --epochs --batch-size --accumulate --global-batch --max-questions --seq-len --lr-floor "
            "--adam-betas --adam-eps --clip-by "
            "--lr-scorer --lr-vit --lr-connector --lr-llm --lr-lora --warmup --scorer-warmup --optimizer --schedule "
            "--weight-decay --clip --precision --gradient-checkpointing --lora-rank --lora-alpha --lora-vit "
            "--eval-data --eval-videos --eval-every --save-every --keep-checkpoints --log-every --report-to "
            "--video-root --cache --workers --shapes-mix --seed --resume --skip-invalid --push-to-hub --device --json",
        ),
        (
            "profile",
            "--revision "
            "--frames --video --resize --shape --model --preset --keep-ratio --prune-ratio --compare --sweep-frames "
            "--scorer --prune-layer --repeats --device --dtype --kernel --memory --train --analytic --plot --json",
        ),
    ],
)
def test_the_flags_are_what_is_promised(command, flags):
    help_text = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", help_text)) - {"--help"} >= set(flags.split())
    from typer.main import get_command

    real = {word for parameter in get_command(cli.app).commands[command].params for word in parameter.opts}
    assert {word for word in real if word.startswith("--")} == set(flags.split())


def test_the_help_names_every_scorer_and_what_the_last_layer_saves():
    from typer.main import get_command

    words = {each.opts[0]: each.help for each in get_command(cli.app).commands["ask"].params if each.opts[0][0] == "-"}
    assert all(f" {name}" in words["--scorer"] for name in (*SCORERS, "MODULE:FUNCTION"))
    assert "so that only the connector and the language model save" in words["--prune-layer"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["ask", "v", "q", "--options", "A", "B"], ["ask", "v", "q", "--options", "A", "--options", "B"]),
        (
            ["ask", "v", "q", "--options", "A", "B C", "--json"],
            ["ask", "v", "q", "--options", "A", "--options", "B C", "--json"],
        ),
        (["ask", "v", "q", "--options", "A", "--options", "B"], ["ask", "v", "q", "--options", "A", "--options", "B"]),
        (["ask", "v", "q", "--options=A", "--json"], ["ask", "v", "q", "--options=A", "--json"]),
        (["ask", "v", "q", "--frames", "3"], ["ask", "v", "q", "--frames", "3"]),
        (
            ["ask", "v", "q", "--options", "-5", "5", "-.5 m", "-q"],
            ["ask", "v", "q", "--options", "-5", "--options", "5", "--options", "-.5 m", "-q"],
        ),
        (
            ["ask", "v", "q", "--stop", ".", "The", "--options", "A", "B"],
            ["ask", "v", "q", "--stop", ".", "--stop", "The", "--options", "A", "--options", "B"],
        ),
        (["ask", "v", "q", "--options=-x", "--options=-y"], ["ask", "v", "q", "--options=-x", "--options=-y"]),
        (["ask", "v", "q", "--compare"], ["ask", "v", "q", "--compare", "dense"]),
        (["eval", "--compare", "--json"], ["eval", "--compare", "dense", "--json"]),
        (["eval", "--compare"], ["eval", "--compare", "dense"]),
        (["eval", "--compare", "0.3"], ["eval", "--compare", "0.3"]),
        (["profile", "--compare", "--analytic"], ["profile", "--compare", "dense", "--analytic"]),
    ],
)
def test_options_takes_several_words(typed, meant):
    assert cli.spread_options(typed) == meant


@pytest.mark.parametrize("behind", [[], ["--json"], ["-left", "right"]])
def test_options_without_a_text_are_one_line(behind, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["ask", "v.mp4", "q", "--options", *behind])
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.endswith("--options: must be followed by texts; give one such as -left by --options=-left.")


def test_a_bug_report_finds_all_it_needs(monkeypatch):
    from stts_cli.engine import device

    def broken():
        raise OSError("no driver")

    monkeypatch.setattr(device, "describe_devices", broken)
    done = CliRunner().invoke(cli.app, ["--version", "--verbose"])
    assert done.exit_code == 0
    first, *lines = done.output.splitlines()
    assert first == f"stts {cli.__version__}"
    parts = dict(line.split(": ", 1) for line in lines)
    assert list(parts) == ["python", "packages", "devices", "kernels", "decoders", "stts", "presets", "hub cache"]
    assert parts["devices"] == "fails (OSError: no driver)"
    assert f"torch {metadata.version('torch')}, transformers {metadata.version('transformers')}" in parts["packages"]
    assert parts["kernels"].startswith("cpu: sdpa (")
    assert "libavcodec" in parts["decoders"]
    assert "nano" in parts["presets"]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ask a.mp4 q --preset na", ["nano"]),
        ("ask a.mp4 q --scorer r", ["reference", "random"]),
        ("eval --bench shapes", ["shapes", "shapes_long"]),
    ],
)
def test_a_shell_completes_names(typed, offered):
    env = {"_STTS_COMPLETE": "complete_bash", "COMP_WORDS": f"stts {typed}", "COMP_CWORD": str(len(typed.split()))}
    assert run(env=env).stdout.split() == offered


def test_version():
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"stts {cli.__version__}\n")


@pytest.fixture
def refused(capsys, monkeypatch):
    """Run the command line here, from the repository's folder; return the exit code and the one line it says."""

    def run_here(*arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(REPOSITORY)
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        out, err = capsys.readouterr()
        (line,) = own_lines(err)
        assert out == ""
        return end.value.code, line

    return run_here


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.mp4", "What?"], "nowhere.mp4: does not exist"),
        (["README.md", "What?"], "README.md: cannot be read as a video"),
        (["clip"], "QUESTION: is missing; must follow the video."),
        (["clip", "?", "--start", "3", "--end", "0:02"], "--end 2: must be behind --start 3."),
        (["clip", "?", "--start", "soon"], "--start soon: must be seconds from 0 on, or a clock time"),
        (["clip", "?", "--at", "1", "--end", "2"], "--at: says which frames; it cannot stand with --start or --end."),
        (["clip", "?", "--at", "1", "--frames", "2"], "cannot stand with --frames, --max-fps or --budget."),
        (["clip", "?", "--fps", "2"], "--fps 2: is for pictures; a video has times of its own."),
        (["clip", "?", "--budget", "8", "--frames", "8"], "--budget 8: says how many frames; it cannot stand with"),
        (["clip", "?", "--budget", "8", "--budget-by", "time"], "--budget-by 'time': must be tokens or flops."),
        (["clip", "?", "--keep-ratio", "0.5", "--prune-ratio", "0.5"], "cannot stand with --keep-ratio"),
        (["clip", "?", "--prune-ratio", "1"], "--prune-ratio 1: must be at least 0 and below 1."),
        (["clip", "?", "--subtitles", "no.srt"], "no.srt"),
        (["clip", "--questions", "no.txt"], "--questions no.txt: cannot be read (No such file or directory)"),
        (["tests", "What?"], "tests: holds neither pictures nor videos"),
        (["clip", "What?", "--preset", "nanno"], "did you mean 'nano'"),
        (["clip", "What?", "--keep-ratio", "1.5"], "--keep-ratio 1.5: must be greater than 0 and at most 1."),
        (["clip", "What?", "--keep-ratio", "0"], "--keep-ratio 0.0: must be greater than 0 and at most 1."),
        (["clip", "What?", "--scorer", "magic"], "--scorer magic: must be auto, learned, "),
        (["clip", "What?", "--frames", "0"], "--frames 0: must be at least 1."),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, words, clip_file, refused, monkeypatch):
    from stts_cli.engine import model

    monkeypatch.setattr(model, "load_checkpoint", lambda *_, **__: pytest.fail("the model is loaded before it is said"))
    code, line = refused("ask", *(str(clip_file) if word == "clip" else word for word in arguments))
    assert code == 2
    assert words in line


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--shape", "minni"], 2, "shape minni: unknown; did you mean 'mini'?"),
        (["--shape", "mini", "--scorer", "lerned"], 2, "module:function; did you mean 'learned'?"),
        (["--shape", "mini", "--kernel", "sdpaa"], 2, "--kernel sdpaa: is unknown; did you mean 'sdpa'?"),
        (["--shape", "mini", "--keep-ratio", "0.5,1.5"], 2, "--keep-ratio 1.5: must be greater than 0 and at most 1."),
        (["--shape", "mini", "--keep-ratio", "0.5", "--prune-ratio", "0.5"], 2, "cannot stand with --keep-ratio"),
        (["--shape", "mini", "--prune-ratio", "0.5,1"], 2, "--prune-ratio 1: must be at least 0 and below 1."),
        (["--shape", "mini", "--keep-ratio", "half"], 2, "--keep-ratio half: must be numbers with commas"),
        (["--shape", "mini", "--sweep-frames", "8,x"], 2, "--sweep-frames 8,x: must be whole numbers with commas"),
        (
            ["--shape", "mini", "--sweep-frames", "8", "--frames", "8"],
            2,
            "--sweep-frames: cannot go with --frames; leave one out.",
        ),
        (["--shape", "mini", "--prune-layer", "10"], 2, "--prune-layer 10: must be 0 to 9"),
        (
            ["--shape", "mini", "--model", "m/m"],
            2,
            "--shape: cannot go with --model, --revision or --preset; leave one out.",
        ),
        (["--shape", "mini", "--video", "nowhere.mp4"], 2, "nowhere.mp4: does not exist"),
        (["--shape", "mini", "--plot", "x.svg"], 2, "ends in .png"),
        (["--shape", "mini", "--compare", "molmo2-4b"], 2, "--compare molmo2-4b: profile runs one model at --frames"),
        (["--shape", "mini", "--compare", "0.3@8f"], 2, "must be a keep ratio or a scorer."),
        (["--shape", "mini", "--compare", "rndom"], 2, "--compare rndom: must be dense, a keep ratio, a scorer"),
        (["--shape", "mini", "--kernel", "torch_varlen", "--device", "cpu"], 2, "needs CUDA"),
        (["--shape", "mini", "--analytic", "--kernel", "sdpaa"], 2, "--kernel sdpaa: is unknown; did you mean 'sdpa'?"),
        (["--shape", "mini", "--analytic", "--device", "tpu"], 2, "--device tpu: must be auto"),
        (["--shape", "mini", "--analytic", "--repeats", "0"], 2, "--repeats 0: must be at least 1."),
        (
            ["--shape", "molmo2-8b", "--frames", "384", "--dtype", "float32", "--device", "cpu"],
            3,
            "GiB are free on cpu",
        ),
    ],
)
def test_profile_refuses_in_one_line(arguments, code, words, refused, monkeypatch):
    from stts_cli.profiling import memory

    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**30)
    given, line = refused("profile", *arguments)
    assert given == code
    assert words in line


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--kernel", "auto", "--device", "cuda:7"], "--device, --kernel"),
        (["--no-memory", "--resize", "decoder", "--repeats", "5"], "--resize, --repeats, --memory"),
        (["--video", "presets/nano/demo.mp4"], "--video"),
        (["--compare"], ""),
    ],
)
def test_flags_that_counting_does_not_need_are_noted(flags, named, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(SystemExit) as end:
        cli.main(["profile", "--shape", "mini", "--frames", "8", "--analytic", "--json", *flags])
    out, err = capsys.readouterr()
    assert end.value.code == 0, err
    notes = [note for note in json.loads(out)["notes"] if "no effect" in note]
    assert notes == ([f"{named}: no effect with --analytic, which runs nothing"] if named else [])
    assert [line for line in own_lines(err) if "no effect" in line] == [f"stts: {note}" for note in notes]


def test_the_prune_ratio_is_what_the_keep_ratio_leaves(monkeypatch):
    from stts_cli.training import request

    counted = CliRunner().invoke(cli.app, "profile --shape mini --analytic --prune-ratio 0.7,0.2 --json".split())
    assert [point["keep_ratio"] for point in json.loads(counted.stdout)["points"]] == [0.3, 0.8]
    seen = []
    monkeypatch.setattr(request.Request, "check", lambda self: seen.append(self.flags) or 1 / 0)
    CliRunner().invoke(cli.app, "finetune --model m --data d.jsonl --prune-ratio 0.7".split())
    assert seen[0]["keep_ratio"] == "0.3"


def test_refused_in_a_process_of_its_own():
    done = run("ask", "nowhere.mp4", "What?")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(own_lines(done.stderr)) == 1
    assert "Traceback" not in done.stderr


def test_the_name_alone_shows_the_help():
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout == run("--help").stdout
    assert "finetune" in done.stdout


@pytest.mark.parametrize("arguments", [["ask"], ["ask", "x.mp4", "q", "--nonsense"], ["nonsense"]])
def test_a_wrong_command_line_is_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert "Usage" in err


def test_a_traceback_is_shown_only_when_asked_for():
    assert "Traceback" in run("ask", "nowhere.mp4", "What?", env={"STTS_DEBUG": "1"}).stderr


WARNS = """
import sys, warnings
from stts_cli import cli, errors
from stts_cli.config import presets

def choose(*_, **__):
    warnings.warn("an old name", FutureWarning)
    warnings.warn("an old name", DeprecationWarning)
    raise errors.InputError("the end")

presets.choose_preset = choose
sys.argv = ["stts", "ask", "x.mp4", "What?"]
cli.main()
"""


@pytest.mark.parametrize(
    ("python", "env", "count"), [([], {}, 0), (["-W", "default"], {}, 2), ([], {"STTS_DEBUG": "1"}, 2)]
)
def test_users_see_no_deprecations(python, env, count):
    import os

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"} | env
    command = [sys.executable, *python, "-c", WARNS]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert "the end" in done.stderr
    assert done.stderr.count("Warning: an old name") == count


def test_settings_come_from_the_flag_over_the_preset(monkeypatch, tmp_path, clip_file):
    seen: dict[str, object] = {}

    def asked(arms, videos, questions, **settings):
        seen.update(settings, arms=arms, videos=videos, questions=questions.questions)
        raise KeyboardInterrupt

    from stts_cli.engine import ask

    monkeypatch.setattr(ask, "ask", asked)
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: m\nframes: 5\nmax_fps: 1.5\nscorer: temporal\n")
    CliRunner().invoke(
        cli.app,
        [
            "ask",
            str(clip_file),
            "one?",
            "two?",
            "--preset",
            str(mine),
            "--frames",
            "9",
            "--options",
            "a",
            "--compare",
            "dense",
        ],
    )
    assert [video.name for video in seen["videos"]] == [str(clip_file)]
    assert [(question.text, question.options) for question in seen["questions"]] == [("one?", ("a",)), ("two?", ("a",))]
    first, dense = seen["arms"]
    assert (first.model, first.frames, first.max_fps, first.scorer) == ("m", 9, 1.5, "temporal")
    assert dense == dataclasses.replace(first, name="dense", keep_ratio=1.0, scorer="none")
    assert seen["device"] == "auto"
