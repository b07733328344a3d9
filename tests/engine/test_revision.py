"""A model on the hub is taken at the revision that is asked for, in every command."""

import json

import pytest

from stts_cli import cli, load
from stts_cli.config.arms import parse_arm
from stts_cli.config.presets import choose_preset
from stts_cli.engine.model import load_arm
from stts_cli.engine.token_cache import weights_hash
from stts_cli.errors import EnvironmentFailure
from stts_cli.settings import Arm
from stts_cli.training.request import Request
from stts_cli.training.runs import plan_runs

OLD, NEW = "a" * 40, "b" * 40


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.mark.parametrize(("revision", "commit"), [(None, OLD), ("next", NEW), (NEW, NEW), ("main", OLD)])
def test_the_weights_are_the_revisions(hub, revision, commit):
    found = load("someone/tiny", device="cpu", revision=revision)
    there = load(str(hub / "snapshots" / commit), device="cpu")
    assert weights_hash(found.family) == weights_hash(there.family)
    assert (found.family.revision, there.family.revision) == (commit, None)


def test_two_revisions_are_two_models(hub):
    loaded = {}
    models = [load_arm(Arm("a", "someone/tiny", revision=each), "cpu", loaded=loaded) for each in (None, "next", None)]
    assert models[0].family is models[2].family is not models[1].family


def test_ask_records_it(hub, clip_file, capsys):
    words = ["ask", clip_file, "?", "--model", "someone/tiny", "--frames", "2", "--max-new-tokens", "1", "--json"]
    for more, commit in ((), OLD), (("--revision", "next"), NEW):
        code, out, err = run(capsys, *words, *more)
        assert code == 0, err
        assert json.loads(out)["arms"][0]["revision"] == commit


def test_eval_records_it_and_goes_on_with_the_same_one_only(hub, tmp_path, capsys):
    words = ["eval", "--bench", "shapes", "--limit", "1", "--frames", "2", "--model", "someone/tiny", "--workers", "0"]
    words += ["--output", tmp_path / "out", "--max-new-tokens", "1"]
    assert run(capsys, *words, "--revision", "next")[0] == 0
    arm = json.loads((tmp_path / "out" / "results.json").read_text())["config"]["arms"]["pruned"]
    assert arm["revision"] == NEW
    assert run(capsys, *words, "--revision", NEW)[0] == 0
    code, _, err = run(capsys, *words)
    assert code == 2
    assert f"holds a run with arms.pruned.revision '{NEW}', this one has '{OLD}'" in err


@pytest.mark.parametrize(
    "words",
    [
        ["ask", "{clip}", "?"],
        ["eval", "--bench", "shapes", "--limit", "1", "--workers", "0"],
        ["profile", "--analytic"],
        ["profile", "--no-memory"],
        ["finetune", "--data", "shapes", "--steps", "1", "--output", "{out}"],
    ],
    ids=" ".join,
)
def test_a_folder_has_none(words, tiny_checkpoint, clip_file, tmp_path, capsys):
    words = [word.format(clip=clip_file, out=tmp_path / "out") for word in words]
    code, _, err = run(capsys, *words, "--model", tiny_checkpoint, "--revision", "v1")
    assert code == 2
    assert err.strip().endswith(f"--revision v1: is for a hub id, and {tiny_checkpoint} is a folder; leave it out.")


def test_profile_reads_the_revision(hub, capsys):
    config = json.loads((hub / "snapshots" / NEW / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    (hub / "snapshots" / NEW / "config.json").write_text(json.dumps(config))
    counted = []
    for more in ((), ("--revision", "next")):
        code, out, err = run(capsys, "profile", "--analytic", "--model", "someone/tiny", "--json", *more)
        assert code == 0, err
        counted.append(json.loads(out)["model"]["num_parameters"])
    assert counted[0] < counted[1]


@pytest.mark.slow
def test_a_training_starts_from_it_and_says_so(hub, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["finetune", "--data", "shapes", "--steps", "1", "--frames", "2", "--eval-videos", "0", "--workers", "0"]
    words += ["--model", "someone/tiny", "--output", out]
    code, _, err = run(capsys, *words, "--revision", "next")
    assert code == 0, err
    assert json.loads((out / "stts.json").read_text())["base_revision"] == NEW
    code, _, err = run(capsys, *words, "--resume")
    assert code == 2
    assert "holds another run (revision 'next' there, None here)" in err
    assert load(str(out), device="cpu").family.revision == NEW


def test_a_preset_pins_it(tmp_path):
    path = tmp_path / "pinned.yaml"
    path.write_text("model: someone/tiny\nrevision: v1\n")
    assert choose_preset(str(path)).arm("a").revision == "v1"
    assert choose_preset(str(path), model="someone/other").revision is None, "another model has no such commit"
    assert parse_arm("someone/other@0.5", choose_preset(str(path)).arm("a")).revision is None
    assert parse_arm(str(path), Arm("a", "m")).revision == "v1"
    assert parse_arm("0.5", choose_preset(str(path)).arm("a")).revision == "v1"


def test_a_training_preset_pins_it(tmp_path):
    path = tmp_path / "pinned.yaml"
    path.write_text("model: someone/tiny\nrevision: v1\ndata: shapes\nsteps: 1\n")
    assert Request(str(path), {}).settings.revision == "v1"
    assert Request(str(path), {"revision": "v2"}).settings.revision == "v2"
    assert Request(str(path), {"model": "someone/other"}).settings.revision is None
    runs = {"one": {"steps": 1}, "two": {"model": "one", "steps": 1}}
    planned = plan_runs(runs, {"model": "someone/tiny", "revision": "v1"})
    assert [planned[name].revision for name in runs] == ["v1", None]


def test_a_revision_that_is_not_there(hub):
    with pytest.raises(EnvironmentFailure, match=r"^--model someone/tiny: cannot be loaded .* its revision"):
        load("someone/tiny", device="cpu", revision="nowhere")
