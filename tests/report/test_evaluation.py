"""What an evaluation looks like: the tables of the terminal and of the page."""

from __future__ import annotations

from stts_cli.evaluation.seeds import summarize_seeds
from stts_cli.report import evaluate as report_eval
from stts_cli.report.evaluation_page import comparison_line, markdown
from stts_cli.settings import Arm
from tests.report.evaluations import arm_summary, document


def test_the_page_and_the_table_say_the_same(capsys):
    page = "\n".join(markdown(document()))
    for line in (
        "- dense: m, at most 4 frames and 2 a second, every window kept, float32 on cpu",
        "| task | questions | chance | dense | pruned |",
        "| x\\|y | 4 | 25.0% | 75.0% | 75.0% |",  # a bar in a name does not break the table
        "| mean of these (macro, headline) |  |  | 50.0% | 50.0% |",
        "| pruned | 75.0% | 50.0-100.0% | -25.0 | -50.0 to +0.0 | 1 | 25.0% |",
        "| cost | visual tokens | FLOPs a question | ratio | peak memory |",
        "| dense | 36 | 4.00 G |  | 2 MiB |",
        "| pruned | 36 | 2.00 G | 0.50 x |  |",
        "- 4 of 5 questions scored",
        "- not scored: 1 questions failed, 3 questions about missing videos",
    ):
        assert f"\n{line}\n" in page, line
    assert comparison_line(document()["comparisons"][0]) == (
        "pruned - dense: -25.0 points (95% interval -50.0 to +0.0) over 4 questions; right alone 0 against 1, "
        "McNemar p = 1; 0.50 x FLOPs"
    )
    report_eval.show_evaluation(document(), json_only=False)
    said = capsys.readouterr()
    for words in (
        "mean of these (macro, headline)",
        "against dense, on the same questions",
        "-50.0 to +0.0",
        "0.50 x",
        "note: read me",
        "50.0-100.0%",
    ):
        assert words in said.out
    assert "not scored: 1 questions failed, 3 questions about missing videos" in said.out
    assert "x: a note" in said.err
    assert "1 videos are missing: gone.mp4" in said.err


def test_an_arm_without_anything_scored_is_still_drawn(capsys):
    nothing = arm_summary(micro=None, accuracy=None, interval=None, groups={}, macro={}, chance=None, n=0)
    empty = document(arms={"pruned": nothing}, comparisons=[])
    report_eval.show_evaluation(empty, json_only=False)
    assert "all" in capsys.readouterr().out
    assert markdown(empty)


def test_a_suites_page_has_the_means_of_every_class():
    arms = [Arm("dense", "m"), *(Arm(f"random, seed {k}", "m", seed=k) for k in range(2))]
    summaries = {arm.name: arm_summary(accuracy=0.1 * k) for k, arm in enumerate(arms)}
    averages = {name: {arm: each["accuracy"] for arm, each in summaries.items()} for name in ("short", "all")}
    pair = {"difference": None, "interval": None, "tokens_ratio": 1.0, "flops_ratio": 1.0}
    suite = {
        "suite": "s",
        "benchmarks": [document(arms=summaries, comparisons=[])],
        "averages": averages,
        "differences": {name: {arm.name: pair for arm in arms[1:]} for name in averages},
        "seeds": {name: summarize_seeds(arms, means) for name, means in averages.items()},
    }
    page = "\n".join(markdown(suite))
    assert "\n| mean ± std over seeds | seeds | short | all |\n" in page
    assert "\n| random | 2 | 15.0% ± 7.1% | 15.0% ± 7.1% |\n" in page
