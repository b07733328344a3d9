"""Suites, averages, the files of a result, and what is printed."""

import json
import re
import shutil

import pytest
from typer.testing import CliRunner

from stts_cli import cli
from stts_cli.config import presets
from stts_cli.config.suites import Suite, load_suite
from stts_cli.cost import estimate
from stts_cli.engine.token_cache import weights_hash
from stts_cli.errors import InputError
from stts_cli.evaluation import suite
from stts_cli.evaluation.benchmarks import registry
from stts_cli.evaluation.cost import cost_line, estimate_cost
from stts_cli.evaluation.gather import gather
from stts_cli.evaluation.runner import RunSettings
from stts_cli.evaluation.settings import items_hash
from stts_cli.evaluation.suite import DataSource, averages, plan_arms, run_benchmarks
from stts_cli.families.random_model import read_architecture
from stts_cli.report import evaluate as report_eval
from stts_cli.report.evaluation_html import Thumbnails, write_html
from stts_cli.report.evaluation_page import write_pages
from stts_cli.settings import Arm
from tests.report.evaluations import arm_summary, document
from tests.report.pages import Page

QUICK = RunSettings(workers=0, max_new_tokens=2)


@pytest.fixture
def data(tmp_path, write_video):
    """Two public benchmarks in one folder, with a real clip each: one short, one long."""
    clip = write_video("suite.mp4", num_frames=20)
    short, long = tmp_path / "data/tomato", tmp_path / "data/lvbench"
    for path in (short / "videos/object/k.mp4", long / "key.mp4"):
        path.parent.mkdir(parents=True)
        shutil.copy(clip, path)
    row = {"question": "Which?", "options": ["x", "y"], "key": "k", "demonstration_type": "object"}
    (short / "count.json").write_text(json.dumps({"1": {**row, "answer": 0}, "2": {**row, "answer": 1}}))
    qa = {"uid": "1", "question": "Who?\n(A) he\n(B) she", "answer": "B", "question_type": ["reasoning"]}
    (long / "video_info.meta.jsonl").write_text(json.dumps({"key": "key", "type": "tv", "qa": [qa]}) + "\n")
    return tmp_path / "data"


def test_a_suite_runs_its_benchmarks_and_averages_them(data, arms, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suite, "SUITES", {"all": ("tomato", "lvbench")})
    out = tmp_path / "out"
    said = []
    document = run_benchmarks(
        Suite(bench="all", scoring="molmo2", paper={"pruned": 62.3}),
        arms,
        DataSource(data),
        RunSettings(out, workers=0, max_new_tokens=2),
        say=said.append,
    )
    assert said == [cost_line(document["cost"])]
    assert said[0].startswith("about 2 videos and 3 questions; FLOPs at most: dense ")
    assert [each["bench"] for each in document["benchmarks"]] == ["tomato", "lvbench"]
    tomato, lvbench = (each["arms"]["pruned"]["accuracy"] for each in document["benchmarks"])
    assert document["averages"]["short"]["pruned"] == tomato
    assert document["averages"]["long"]["pruned"] == lvbench
    assert document["averages"]["all"]["pruned"] == pytest.approx((tomato + lvbench) / 2)
    assert sorted(path.name for path in out.iterdir()) == ["lvbench", "results.json", "tomato"]
    saved = json.loads((out / "results.json").read_text())
    assert saved["averages"] == document["averages"]
    assert "samples" not in saved["benchmarks"][0]
    write_pages(document, out)
    page = (out / "results.md").read_text()
    assert page.startswith("# all\n\n")
    assert "\n\n| all | class | split | questions | mean | dense | pruned |\n| --- | ---: |" in page
    assert "| all average |  |  |  | of these |" in page
    assert "| the paper, all |  |  |  |  |  | 62.3% |\n" in page
    assert "\n| points against dense | short | long | all | tokens | FLOPs |\n" in page
    for each in document["benchmarks"]:
        own = (out / each["bench"] / "results.md").read_text()
        assert own.startswith(f"# {each['title']}, ")
        assert all(line in page for line in own.splitlines() if line.startswith(("|", "- ")))
    write_html(document, out, Thumbnails())
    assert [each["href"] for each in Page((out / "results.html").read_text()).of("a")] == [
        "tomato/results.html",
        "lvbench/results.html",
    ]
    assert (out / "lvbench" / "results.html").is_file()
    report_eval.show_evaluation(document, json_only=False)
    printed = capsys.readouterr().out
    assert "short average" in printed
    assert re.search(r"the paper, all +62\.3%", printed)
    assert "lvbench" in printed


def test_a_suites_cost_is_counted_before_it_starts(monkeypatch):
    """On two benchmarks: a video's encoding and prompt once, each question's tokens as decoding steps."""
    nano = str(presets.presets_folder() / "nano")
    arms = [Arm("dense", nano, 8, keep_ratio=1.0, scorer="none"), Arm("half", nano, 8)]
    gathered = [gather("shapes", videos=2, limit=5), gather("shapes_long", videos=1, limit=3)]
    cost = estimate_cost(gathered, arms, on_gpu=True, max_new_tokens=4)
    assert cost["videos"] == sum(len({item.source for item in each.items}) for each in gathered)
    assert cost["questions"] == sum(len(each.items) for each in gathered) == 8
    [point] = estimate.analytic(architecture=read_architecture(nano), frames=[8], keep_ratios=[0.5])["points"]
    for name, column in (("dense", "dense"), ("half", "pruned")):
        once, token = point["flops"]["total"][column], point["decode_flops_per_token"][column]
        assert cost["flops"][name] == cost["videos"] * once + 8 * (60 + 4) * token
    assert cost["hours"] == pytest.approx(sum(cost["flops"].values()) / 200e12 / 3600)

    def evaluated(*arguments, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(suite, "evaluate", evaluated)
    asked = Suite(bench="shapes,shapes_long", videos=1, paper={"Lite": 62.3})
    with pytest.raises(InputError, match="paper: Lite: is no arm; its arms are dense, half"):
        run_benchmarks(asked, arms, DataSource(), RunSettings())


def test_the_papers_suite():
    paper = load_suite("molmo2-paper")
    arms = paper.arms(None, dtype=None, resize="model")
    assert {arm.name: (arm.model, arm.keep_ratio, arm.scorer, arm.frames) for arm in arms} == {
        "dense": ("allenai/Molmo2-4B", 1.0, "auto", 64),
        "temporal@0.5": ("allenai/Molmo2-4B", 0.5, "temporal", 64),
        "Lite-30": ("allenai/Molmo2-4B-Lite-30", 0.7, "auto", 64),
        "Lite-50": ("allenai/Molmo2-4B-Lite-50", 0.5, "auto", 64),
    }
    assert paper.paper == {"dense": 63.0, "Lite-50": 62.3}
    assert len(registry.SUITES[paper.bench]) == 13


def test_nothing_starts_up_beside_arms_that_are_timed():
    assert RunSettings(workers=4).num_workers == 4
    assert RunSettings(workers=4, times=True).num_workers == 1
    assert RunSettings(workers=0, times=True).num_workers == 0
    assert 1 <= RunSettings().num_workers <= 4
    with pytest.raises(InputError, match=r"--max-new-tokens 0: must be at least 1\."):
        RunSettings(max_new_tokens=0)


def test_several_benchmarks_with_commas(data, arms, tmp_path):
    document = run_benchmarks(Suite(bench="tomato, lvbench"), arms, DataSource(data), QUICK)
    assert [each["bench"] for each in document["benchmarks"]] == ["tomato", "lvbench"]
    with pytest.raises(InputError, match="names tomato twice"):
        run_benchmarks(Suite(bench="all-short,tomato"), arms, DataSource(data), QUICK)
    with pytest.raises(InputError, match="--split: must be left out, or one benchmark named"):
        run_benchmarks(Suite(bench="tomato,lvbench", split="test"), arms, DataSource(data), QUICK)
    with pytest.raises(InputError, match="--hf-repo: must be left out"):
        run_benchmarks(Suite(bench="tomato,lvbench"), arms, DataSource(hf_repo="a/b"), QUICK)
    odd = tmp_path / "a,b.jsonl"
    odd.write_text("")
    assert suite._names(str(odd)) == (str(odd),)


def test_differences_are_means_of_the_benchmarks_paired_ones():
    def document(length, difference, ends, seconds):
        own = {"accuracy_difference": difference, "accuracy_interval": ends, "difference": 9.0, "interval": None}
        pair = {"arm": "b", "against": "a", **own, "flops_ratio": 0.5}
        arms = {"a": {"visual_tokens": 8}, "b": {"visual_tokens": 4}}
        times = {"times": {"arms": {"a": {"ratio": None}, "b": {"ratio": seconds}}}} if seconds else {}
        return {"class": length, "comparisons": [pair], "arms": arms, **times}

    short, long = document("short", 0.01, (-0.02, 0.04), 0.6), document("long", 0.03, (-0.01, 0.07), 0.8)
    found = suite.differences([short, long])
    assert found["short"]["b"]["interval"] == pytest.approx((-0.02, 0.04))
    both = found["all"]["b"]
    assert both["difference"] == pytest.approx(0.02)
    assert both["interval"] == pytest.approx((0.02 - 0.025, 0.02 + 0.025)), "3 and 4 hundredths make 5, halved"
    assert (both["tokens_ratio"], both["flops_ratio"], both["seconds_ratio"]) == pytest.approx((0.5, 0.5, 0.7))
    unknown = suite.differences([short, document("long", None, None, None)])
    assert unknown["all"]["b"] == {
        "difference": None,
        "interval": None,
        "tokens_ratio": 0.5,
        "flops_ratio": 0.5,
    }, "no times where not every benchmark was timed"
    assert set(suite.differences([short])) == {"short", "all"}


def test_a_suite_file_asks_its_arms_and_flags_go_before_it(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "bench: shapes,shapes_long\nvideos: 1\nframes: 4\nkeep_ratio: 1\ncompare: [learned@0.5, dense@2f]\n"
    )
    words = ["eval", "--suite", str(mine), "--bench", "shapes", "--limit", "2", "--compare", "few=random@0.3", "--json"]
    result = CliRunner().invoke(cli.app, [*words, "--workers", "0", "--plot", str(tmp_path / "x.png")])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["bench"] == "shapes"
    assert {
        name: (arm["frames"], arm["scorer"], arm["keep_ratio"]) for name, arm in document["config"]["arms"].items()
    } == {
        "dense": (4, "none", 1.0),
        "learned@0.5": (4, "learned", 0.5),
        "dense@2f": (2, "none", 1.0),
        "few": (4, "random", 0.3),
    }
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_rule_a_benchmark_lacks_falls_back_in_a_suite_and_says_so(data, arms, monkeypatch):
    monkeypatch.setattr(suite, "SUITES", {"all": ("tomato",)})
    document = run_benchmarks(Suite(bench="all", scoring="official"), arms, DataSource(data), QUICK)
    assert document["benchmarks"][0]["scoring"] == "strict"
    assert "tomato has no scoring official: its replies are read strictly" in document["benchmarks"][0]["notes"]
    with pytest.raises(InputError, match="--scoring strcit: is no rule; did you mean 'strict'"):
        run_benchmarks(Suite(bench="all", scoring="strcit"), arms, DataSource(data), QUICK)


def test_the_headline_is_the_benchmarks_own(data, arms, monkeypatch):
    monkeypatch.setattr(suite, "SUITES", {})
    document = run_benchmarks(Suite(bench="tomato"), arms, DataSource(data), QUICK)
    arm = document["arms"]["dense"]
    assert (arm["headline"], arm["n"]) == ("micro", 2)
    assert set(arm["groups"]) == {"reasoning", "demonstration"}


def test_averages_are_of_benchmarks_not_of_questions():
    rows = [document(), document(**{"class": "long", "arms": {"pruned": arm_summary(accuracy=1.0)}})]
    rows[0]["arms"].pop("dense")
    assert averages(rows) == {"short": {"pruned": 0.5}, "long": {"pruned": 1.0}, "all": {"pruned": 0.75}}


def test_arms():
    pruned = Arm("pruned", "m", 8, keep_ratio=0.5)
    dense = Arm("dense", "m", 8, scorer="none", keep_ratio=1.0)
    random = Arm("random", "m", 8, keep_ratio=0.5, scorer="random")
    assert plan_arms([pruned], False) == [pruned]
    assert plan_arms([pruned, random, dense], False) == [dense, pruned, random], "the others are compared with dense"
    assert plan_arms([pruned, random], False) == [pruned, random]
    assert [arm.name for arm in plan_arms([pruned], True)] == ["dense", "pruned", "pruned, more frames"]
    with pytest.raises(InputError, match="dense arm"):
        plan_arms([dense], True)
    with pytest.raises(InputError, match="cannot go with --compare"):
        plan_arms([pruned, random], True)


def test_the_list_shows_every_benchmark():
    printed = CliRunner().invoke(cli.app, ["eval", "--list"], env={"COLUMNS": "250"}).stdout
    for name in registry.NAMES:
        assert f"\n{name} " in printed
    assert "8,564" in printed
    assert "accept the terms at https://huggingface.co/datasets/OpenGVLab/MVBench" in printed
    listed = json.loads(CliRunner().invoke(cli.app, ["eval", "--list", "--json"]).stdout)
    assert [row["name"] for row in listed] == list(registry.NAMES)


def test_hashes_see_one_changed_weight_and_one_changed_answer(tiny_checkpoint):
    import dataclasses

    import torch

    from stts_cli.engine.model import load_checkpoint
    from stts_cli.evaluation.gather import gather

    family = load_checkpoint(str(tiny_checkpoint), device="cpu", dtype="float32")
    before = weights_hash(family)
    assert before == weights_hash(load_checkpoint(str(tiny_checkpoint), device="cpu", dtype="float32"))
    with torch.no_grad():
        next(family.scorer.parameters()).view(-1)[0] += 1
    assert weights_hash(family) != before
    items = gather("shapes", limit=3).items
    changed = [dataclasses.replace(items[0], answer="no"), *items[1:]]
    assert items_hash(items) != items_hash(changed)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ([], "stopped while no question was asked; run the same command again."),
        (["--output", "out"], "no question was asked; the same command goes on, and what --output holds is kept."),
    ],
)
def test_ctrl_c_while_loading_says_how_to_go_on(output, words, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "run_benchmarks", stop)
    with pytest.raises(SystemExit) as end:
        cli.main(["eval", "--bench", "shapes", *output])
    assert end.value.code == 130
    assert words in capsys.readouterr().err
