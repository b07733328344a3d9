"""Reading replies: our own two rules to the letter, and others' rules reply by reply as their functions answer."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest

from stts_cli.data.items import QaItem, bare_options, given_letter, letter, letters_of_text, split_question
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.registry import NAMES, get_benchmark
from stts_cli.media.source import Source

HERE = Path(__file__).parent
REPLIES = json.loads((HERE / "replies.json").read_text(encoding="utf-8"))
PUBLISHED = json.loads((HERE / "published_scorers.json").read_text(encoding="utf-8"))
BENCHMARKS = {name: get_benchmark(name) for name in NAMES}


def ask(options=REPLIES["options"], answer="B", **more) -> QaItem:
    return QaItem("1", "v", Source(Path("v.mp4")), "Which?", tuple(options), answer, **more)


@pytest.mark.parametrize("text", REPLIES["read as B"])
def test_strict_reads_the_one_option_that_is_named(text):
    assert scoring.strict(text, ask(), random.Random(0)) == scoring.Verdict("B", True)


@pytest.mark.parametrize("text", REPLIES["unparsed"])
def test_strict_says_unparsed_rather_than_guess(text):
    assert scoring.strict(text, ask(), random.Random(0)) == scoring.Verdict(None, False)


@pytest.mark.parametrize(("options", "replies"), REPLIES["other options"])
def test_labels_and_texts_of_every_kind(options, replies):
    item = ask(options)
    assert {text: scoring.strict(text, item, random.Random(0)).parsed for text in replies} == replies


def test_a_text_listed_twice_is_right_under_either_letter():
    item = ask(("cat", "dog", "cat"), "A", also=("C",))
    assert [scoring.strict(said, item, random.Random(0)).correct for said in ("C", "cat", "B")] == [True, True, False]


@pytest.mark.parametrize(("text", "plain"), REPLIES["plain form of an open answer"].items())
def test_the_plain_form_of_open_answers(text, plain):
    assert scoring.plain_answer(text) == plain
    assert scoring.plain_answer(plain) == plain


def test_open_answers_are_exact_under_strict_and_plain_under_relaxed():
    item = ask((), "three", also=("The Third",))
    said = ["three", " three\n", "Three.", "3", "third", "<think>four</think> three", "four", "..."]
    strict = [scoring.strict(text, item, random.Random(0)) for text in said]
    relaxed = [scoring.relaxed(text, item, random.Random(0)) for text in said]
    assert [verdict.correct for verdict in strict] == [True, True, False, False, False, True, False, False]
    assert [verdict.correct for verdict in relaxed] == [True, True, True, True, True, True, False, False]
    assert [verdict.parsed for verdict in relaxed] == ["3", "3", "3", "3", "third", "3", "4", None]
    assert scoring.strict(" ", item, random.Random(0)) == scoring.Verdict(None, False)
    assert scoring.strict("Three.", item, random.Random(0)).parsed == "Three."
    assert not scoring.relaxed("...", ask((), "?"), random.Random(0)).correct, "nothing said is never right"


def test_relaxed_reads_options_as_strict_does():
    assert scoring.relaxed("The answer is B", ask(), random.Random(0)) == scoring.Verdict("B", True)
    assert scoring.relaxed("red cat", ask(), random.Random(0)).parsed is None


def test_every_benchmark_has_both_of_our_rules():
    for benchmark in BENCHMARKS.values():
        assert list(benchmark.scorers)[:2] == ["strict", "relaxed"], benchmark.name


@pytest.mark.parametrize("table", PUBLISHED, ids=lambda table: f"{table['benchmarks'][0]} {table['scoring']}")
def test_published_rules_answer_what_their_publishers_functions_answer(table):
    """Each reply with what the publisher's function answers: the golds it calls right, "guess" or "left out"."""
    golds = [chr(ord("A") + index) for index in range(len(table["options"]))] or ["yes", "no"]
    assert len(table["replies"]) >= 25
    for benchmark in table["benchmarks"]:
        rule = BENCHMARKS[benchmark].scorers[table["scoring"]]
        for reply, answer in table["replies"]:
            item = ask(table["options"], groups={"task": (table.get("task", ""),)})
            several = [
                [rule(reply, dataclasses.replace(item, answer=gold), random.Random(seed)) for gold in golds]
                for seed in range(6)
            ]
            verdicts = several[0]
            right = "".join(gold for gold, verdict in zip(golds, verdicts, strict=True) if verdict.correct)
            assert answer == "guess" or several == [verdicts] * 6, (benchmark, reply, "no chance in it")
            if answer == "guess":
                assert len(right) == 1, (benchmark, reply)
                assert {verdict.parsed for verdict in verdicts} == {None}, (benchmark, reply)
            elif answer == "left out":
                assert verdicts == [scoring.Verdict(None, False, counted=False)] * len(golds), (benchmark, reply)
            else:
                assert right == answer, (benchmark, reply)
                assert all(verdict.counted for verdict in verdicts)


def test_every_published_rule_has_a_table():
    known = {
        (name, rule) for name, each in BENCHMARKS.items() for rule in each.scorers if rule in ("molmo2", "official")
    }
    assert known == {(name, table["scoring"]) for table in PUBLISHED for name in table["benchmarks"]}


def test_guesses_are_seeded_and_every_option_is_among_them():
    for rule in (published.first_of_several, published.last_of_several, published.longvideobench):
        verdicts = [rule("?", ask(), random.Random(seed)) for seed in range(60)]
        assert {verdict.parsed for verdict in verdicts} == {None}
        assert 5 < sum(verdict.correct for verdict in verdicts) < 25, "one in four"
        assert verdicts == [rule("?", ask(), random.Random(seed)) for seed in range(60)]


@pytest.mark.parametrize(
    ("rule", "reply", "parsed"),
    [
        (published.mvbench, "B. it is", "B"),
        (published.mvbench, "(", None),
        (published.mvbench, "", None),
        (published.mlvu, "B) it", "B"),
        (published.mlvu, "", None),
        (published.mlvu, "AB", None),
        (published.mlvu, "b", None),
        (published.first_in_brackets, "(B) it", "B"),
        (published.first_in_brackets, "The", None),
        (published.first_in_brackets, "", None),
        (published.starts_with, "b it", "B"),
        (published.starts_with, "", None),
        (published.starts_with, "The", None),
        (published.first_letter, "It is D", "D"),
        (published.first_letter, "it", None),
        (published.option_line, "B. it", "B"),
        (published.option_line, "B it", None),
        (published.option_line, "", None),
        (published.caption, "B", None),
        (published.yes_or_no, "No.", "no"),
        (published.yes_or_no, "maybe", None),
        (published.nearest_letter, "it is c", "C"),
        (published.nearest_letter, "??", None),
        (published.videomme, "The best answer is D", "D"),
        (published.longvideobench, "E", "E"),
        (published.first_of_several, "(C) or (B)", "C"),
        (published.last_of_several, "(C) or (B)", "B"),
    ],
)
def test_what_a_published_rule_read_is_kept(rule, reply, parsed):
    assert rule(reply, ask(), random.Random(0)).parsed == parsed


def test_one_of_two_right_letters_is_enough():
    item = ask(("cat", "dog", "cat"), "A", also=("C",))
    rules = (
        published.option_line,
        published.mvbench,
        published.mlvu,
        published.starts_with,
        published.first_in_brackets,
    )
    assert [rule("C", item, random.Random(0)).correct for rule in rules] == [True] * 5


def test_yes_and_no_are_read_strictly_too():
    rule, item = BENCHMARKS["tempcompass"].scorers["strict"], ask((), "no", groups={"task": ("yes_no",)})
    replies = {"No.": "no", "Answer: no": "no", "yes, it is": "yes", "none": None, "B": None, "yes and no": None}
    assert {text: rule(text, item, random.Random(0)).parsed for text in replies} == replies
    assert [rule(text, item, random.Random(0)).correct for text in ("No.", "Yes.")] == [True, False]


def test_answers_of_every_form_become_letters():
    assert (
        bare_options(["A. x", "B. y"]) == bare_options(["(A) x", "(B) y"]) == bare_options([" x", "y "]) == ("x", "y")
    )
    assert bare_options(["A. x", "C. y"]) == ("A. x", "C. y"), "letters out of place belong to the text"
    assert split_question("Who?\nReally?\n(A) he\n(B) she") == ("Who?\nReally?", ("he", "she"))
    assert split_question("Who?\nA. he\n\nB. she\n") == ("Who?", ("he", "she"))
    assert split_question("A. Who is it?") == ("A. Who is it?", ())
    assert (letter(2, 3), letter("2", 3), given_letter("b", 3), given_letter("(C)", 3)) == ("C", "C", "B", "C")
    assert letters_of_text("x", ["x", "y", " x "]) == ("A", "C")
    for wrong in (lambda: letter(3, 3), lambda: given_letter("D", 3), lambda: given_letter("", 3)):
        with pytest.raises(ValueError, match="3 options"):
            wrong()


def test_a_run_scores_by_the_rule_it_is_given_and_keeps_what_was_read(run_shapes):
    document = run_shapes(videos=1, scoring="relaxed")
    dense = [row for row in document["samples"] if row["arm"] == "dense"]
    read = [row["parsed"] for row in dense]
    assert document["scoring"] == "relaxed"
    assert read == [scoring.plain_answer(row["text"]) or None for row in dense]
    assert document["arms"]["dense"]["unparsed_rate"] == read.count(None) / len(read)
