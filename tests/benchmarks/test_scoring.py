"""Reading replies: the strict rule to the letter, other evaluators' rules with their known weaknesses."""

import random
from pathlib import Path

import pytest

from stts_cli.benchmarks import scoring
from stts_cli.benchmarks.items import (
    QaItem,
    Source,
    bare_options,
    given_letter,
    letter,
    letters_of_text,
    split_question,
)

ITEM = QaItem("1", "v", Source(Path("v.mp4")), "Which?", ("a dog", "the red cat", "two birds", "none of them"), "B")


def read(rule, text, item=ITEM):
    return rule(text, item, random.Random(0)).parsed


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("B", "B"), (" b ", "B"), ("(B)", "B"), ("B.", "B"), ("B. the red cat", "B"), ("(B) the red cat", "B"),
        ("B) cat", "B"), ("The answer is B", "B"), ("The answer is (B).", "B"), ("Answer: B", "B"),
        ("The correct option is B because A is wrong.", "B"), ("I think it is (B) here", "B"),
        ("the red cat", "B"), ("The red cat.", "B"), ("It must be B", "B"),
        ("A man walks", None), ("", None), ("E", None), ("(A) or (B)", None), ("I do not know", None),
        ("The answer is a dog's toy", None), ("B. or A.", None), ("cat", None),
    ],
)  # fmt: skip
def test_strict_reads_every_usual_form_and_never_guesses(text, parsed):
    verdict = scoring.strict(text, ITEM, random.Random(0))
    assert verdict == scoring.Verdict(parsed, parsed == "B")


def test_a_text_listed_twice_is_right_under_either_letter():
    item = QaItem("1", "v", Source(Path("v.mp4")), "Which?", ("cat", "dog", "cat"), "A", also=("C",))
    assert scoring.strict("C", item, random.Random(0)).correct
    assert scoring.strict("cat", item, random.Random(0)).correct
    assert not scoring.strict("B", item, random.Random(0)).correct


def test_molmo2_start_rule_keeps_its_known_weakness():
    item = QaItem("1", "v", Source(Path("v.mp4")), "Which?", ("x", "y"), "A")
    assert scoring.starts_with("A man is walking", item, random.Random(0)).correct
    assert not scoring.starts_with("The answer is A", item, random.Random(0)).correct
    assert scoring.starts_with("So:\nAnswer: A", item, random.Random(0)).correct
    assert scoring.starts_with("B\nA\nA", item, random.Random(0)).correct, "the most frequent line counts"


@pytest.mark.parametrize(
    ("rule", "text", "parsed"),
    [
        (scoring.first_letter, "It is C, not B", "C"),
        (scoring.first_letter, "it is c", None),
        (scoring.first_of_several, "(C) rather than (B)", "C"),
        (scoring.last_of_several, "(C) rather than (B)", "B"),
        (scoring.last_of_several, "I say that it is the red cat over there", "B"),
        (scoring.after_phrases, "The best answer is: D", "D"),
        (scoring.after_phrases, "The best answer is unclear", None),
        (scoring.nearest_letter, "C", "C"),
        (scoring.nearest_letter, "D. none of them", "D"),
        (scoring.nearest_letter, "xx C", "C"),
        (scoring.option_line, "B. the red cat", "B"),
        (scoring.option_line, "B)", "B"),
        (scoring.option_line, "the red cat", None),
        (scoring.first_word, "B. the red cat", "B"),
        (scoring.first_word, "(b)\nbecause", "B"),
        (scoring.first_word, "b)the", None),
        (scoring.first_word, "The red cat", None),
        (scoring.first_word, "(", "B"),
        (scoring.first_word, "C", "C"),
        (scoring.first_word, "", None),
        (scoring.before_bracket, "(B) the red cat", "B"),
        (scoring.before_bracket, "B) the red cat", "B"),
        (scoring.before_bracket, "B", "B"),
        (scoring.before_bracket, "b", None),
        (scoring.before_bracket, "B.", None),
        (scoring.before_bracket, "", None),
        (scoring.yes_or_no, "No.", "no"),
        (scoring.yes_or_no, "maybe", None),
    ],
)
def test_other_rules(rule, text, parsed):
    assert read(rule, text) == parsed


def test_guesses_are_seeded_and_an_unread_reply_may_leave_the_count():
    for rule in (scoring.first_of_several, scoring.last_of_several, scoring.after_phrases_or_guess):
        guesses = {rule("?", ITEM, random.Random(seed)).parsed for seed in range(40)}
        assert guesses == set("ABCD")
        assert rule("?", ITEM, random.Random(7)) == rule("?", ITEM, random.Random(7))
    assert not scoring.after_phrases("?", ITEM, random.Random(0)).counted
    assert scoring.strict("?", ITEM, random.Random(0)).counted


@pytest.mark.parametrize("said", ["Caption B: it goes up", "it goes up.", "Caption B", "B", "Caption B:"])
def test_caption_matching_takes_label_text_or_both(said):
    item = QaItem("1", "v", Source(Path("v")), "Which?", ("Caption A: it goes down", "Caption B: it goes up"), "B")
    assert scoring.caption_line(said, item, random.Random(0)) == scoring.Verdict("B", True)
    assert scoring.caption_line("Caption", item, random.Random(0)).parsed is None


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
