"""Questions from a file."""

from __future__ import annotations

import pytest

from stts_cli.data.asked import read_asked
from stts_cli.errors import InputError


def test_a_text_file_holds_a_question_a_line(tmp_path):
    path = tmp_path / "q.txt"
    path.write_text("\ufeffWhat is it?\n\n  And why?  \n", encoding="utf-8")
    assert read_asked(path) == [("What is it?", ()), ("And why?", ())]


def test_a_jsonl_file_may_hold_options(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "What?", "options": ["a", "b"]}\n{"question": "Why?"}\n')
    assert read_asked(path) == [("What?", ("a", "b")), ("Why?", ())]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"q\.jsonl: holds no question; must hold one a line\.$"),
        ('{"question": "a"}\n{"question": ', r"q\.jsonl:2: is no JSON"),
        ('{"text": "a"}', r"q\.jsonl:1: question: field required; must be question and options\.$"),
        ('{"question": "a", "answer": "b"}', r"q\.jsonl:1: answer: extra inputs are not permitted"),
        ('{"question": 3}', r"q\.jsonl:1: question: input should be a valid string"),
        ("[]", r"q\.jsonl:1: row: "),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, text, words):
    path = tmp_path / "q.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_asked(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"cannot be read \(not UTF-8\)"):
        read_asked(path)
