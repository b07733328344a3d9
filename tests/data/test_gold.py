"""Right answers: every form they come in, one reading a file, and an error where that stays open."""

import json

import pytest

from stts_cli.data.gold import FROM_ZERO_AFTER, shown
from stts_cli.data.questions import read_items
from stts_cli.data.rows import own_rows
from stts_cli.errors import InputError

COLORS = ["red", "green", "blue"]
DIGITS = ["1", "2", "3"]
YES_NO = ["yes", "no"]
LETTERS = ["B", "C", "A"]


@pytest.fixture
def read(tmp_path):
    """Read rows of (options, answer) from a file; return the right answers of each, and the notes."""

    def read(*rows):
        path = tmp_path / "mine.jsonl"
        lines = [{"video": "a.mp4", "question": "?", "options": options, "answer": answer} for options, answer in rows]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        notes = []
        items = read_items(own_rows(path), tmp_path.joinpath, notes)
        errors = [item for item in items if isinstance(item, InputError)]
        if errors:
            raise errors[0]
        return ["".join(item.right) if item.options else list(item.right) for item in items], notes

    return read


ONE_ROW = [
    # letters
    (COLORS, "B", "B"), (COLORS, "b", "B"), (COLORS, "B.", "B"), (COLORS, "(B)", "B"), (COLORS, "b)", "B"),
    (COLORS, " B ", "B"), (COLORS, "B. green", "B"), (COLORS, "(b) Green", "B"), (COLORS, "B: green", "B"),
    # indices
    (COLORS, 0, "A"), (COLORS, 2, "C"), (COLORS, "2", "C"), (COLORS, 2.0, "C"),
    # texts
    (COLORS, "green", "B"), (COLORS, " GREEN ", "B"), (["A. red", "B. green"], "B. green", "B"),
    (["A. red", "B. green"], "green", "B"), ([1, 2, 3], "C", "C"), ([10, 20.0, 30.5], 20, "B"), (DIGITS, 0, "A"),
    (DIGITS, 3, "C"), (DIGITS, "3", "C"), (["us", "US"], "US", "B"), (["a  b", "c"], "a b", "A"),
    (["red", "green", "red"], "red", "AC"), (["b", "a"], 0, "A"),
    # true and false
    (YES_NO, True, "A"), (YES_NO, False, "B"), (["No", "Yes"], True, "B"), (["True", "False"], True, "A"),
    (YES_NO, "true", "A"), (["false", "true"], "Yes", "B"),
    # several
    (COLORS, ["A", "c"], "AC"), (COLORS, ["red", "blue"], "AC"), (COLORS, [2], "C"),
    # open questions
    ([], "a tree", ["a tree"]), (None, "a tree ", ["a tree"]), ([], 7, ["7"]), ([], 7.0, ["7"]), ([], 0.5, ["0.5"]),
    ([], ["two", 2, "2"], ["two", "2"]), (COLORS, None, ""), ([], None, []),
]  # fmt: skip


@pytest.mark.parametrize(("options", "answer", "right"), ONE_ROW)
def test_an_answer_is_read(read, options, answer, right):
    assert read((options, answer)) == ([right], [])


WRONG = "must be an option's letter (A to C), its index from 0 (0 to 2) or its text."
REFUSED = [
    (COLORS, "D", f"answer 'D': {WRONG}"), (COLORS, 3, f"answer 3: {WRONG}"), (COLORS, -1, f"answer -1: {WRONG}"),
    (COLORS, 1.5, f"answer 1.5: {WRONG}"), (COLORS, "yellow", f"answer 'yellow': {WRONG}"),
    (COLORS, "B. blue", f"answer 'B. blue': {WRONG}"), (COLORS, "A, B", f"answer 'A, B': {WRONG}"),
    (COLORS, True, f"answer true: {WRONG}"), (COLORS, [], f"answer []: {WRONG}"),
    (COLORS, ["A", 1], f'answer ["A", 1]: {WRONG}'), (COLORS, "", f"answer '': {WRONG}"),
    (COLORS, {"text": "red"}, 'answer {"text": "red"}: must be a text or a number.'),
    (COLORS, ["A", None], 'answer ["A", null]: must be a text or a number.'),
    (["red", None], "A", 'options ["red", null]: option 2 is null: must be a text or a number.'),
    (["red", " "], "A", "options [\"red\", \" \"]: option 2 is ' ': must not be empty."),
    ([True, False], True, "options [true, false]: option 1 is true: must be a text or a number."),
    ("red", "A", "options 'red': is a text: must be a list of texts or numbers."),
    (list(range(27)), 26, f"options {str(list(range(27)))[:57]}...: are 27: must be at most 26, a letter each."),
    ([], True, "answer true: must be a text or a number."), ([], " ", "answer ' ': must not be empty."),
    ([], [], "answer []: must not be empty."), ([], {"a": 1}, 'answer {"a": 1}: must be a text or a number.'),
    ([], ["a tree", ""], 'answer ["a tree", ""]: must not be empty.'),
    # both readings fit
    (DIGITS, 2, "answer 2: as index it is C ('3'), as text it is B ('2'), and every row of the file fits as index or "
     "text. Write the letters of the options."),
    (DIGITS, "2", "answer '2': as index it is C ('3'), as text it is B ('2'), and every row of the file fits as index "
     "or text. Write the letters of the options."),
    (LETTERS, "A", "answer 'A': as letter it is A ('B'), as text it is C ('A'), and every row of the file fits as "
     "letter or text. Write the indices of the options, from 0."),
]  # fmt: skip


@pytest.mark.parametrize(("options", "answer", "message"), REFUSED)
def test_what_could_only_be_guessed_is_refused(read, tmp_path, options, answer, message):
    with pytest.raises(InputError) as caught:
        read((options, answer))
    assert str(caught.value) == f"{tmp_path}/mine.jsonl:1: {message}"


WHOLE_FILE = [
    ([(DIGITS, 2), (COLORS, 0)], "CA"),  # the second row fits as index only, so the first is one too
    ([(DIGITS, 2), (DIGITS, 3)], "BC"),  # no index 3: texts
    ([(DIGITS, "2"), (COLORS, "red")], "BA"),
    ([(LETTERS, "A"), (COLORS, "A")], "AA"),
    ([(LETTERS, "A"), (COLORS, "red")], "CA"),
    ([(LETTERS, "A"), (DIGITS, "B")], "AB"),
    ([(DIGITS, ["1", "2"]), (COLORS, 1)], "BCB"),
]


@pytest.mark.parametrize(
    ("value", "text"),
    [("é", "'é'"), (["é"], '["é"]'), (None, "null"), ("x" * 58, f"'{'x' * 58}'"), ("x" * 59, f"'{'x' * 56}...")],
)
def test_messages_quote_a_value_in_at_most_sixty_letters(value, text):
    assert shown(value) == text


@pytest.mark.parametrize(("rows", "right"), WHOLE_FILE)
def test_the_other_rows_settle_it(read, rows, right):
    assert "".join(read(*rows)[0]) == right
    assert "".join(read(*rows[::-1])[0][::-1]) == right


def test_a_file_that_no_reading_fits_is_refused_at_the_first_row_that_breaks_it(read):
    with pytest.raises(InputError) as caught:
        read((COLORS, "B"), (COLORS, "b"), (COLORS, 1), (COLORS, "red"))
    assert str(caught.value).partition("mine.jsonl:")[2] == (
        "3: answer 1: fits as index, the rows before it as letter. All rows of a file must write their answers in one "
        "way."
    )


def test_an_open_row_in_a_long_file_is_named_with_its_line(read):
    with pytest.raises(InputError, match=r"mine.jsonl:2: answer 1: as index it is B \('2'\), as text it is A \('1'\)"):
        read((["0", "1"], 1), (DIGITS, 1))  # in the first row both readings agree


def test_indices_that_may_count_from_1_are_said(read):
    rows = [(COLORS, 1 + k % 2) for k in range(FROM_ZERO_AFTER)]
    right, notes = read(*rows)
    assert right == ["BC"[k % 2] for k in range(FROM_ZERO_AFTER)]
    assert [note.partition("mine.jsonl:")[2] for note in notes] == [
        "1 and on: no answer is 0. Indices of options count from 0, not from 1."
    ]
    assert read(*rows[1:])[1] == read(*rows, (COLORS, 0))[1] == []
