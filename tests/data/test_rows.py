"""Rows of benchmarks' files: nested JSON made flat, damaged files named with what to do, files found where they are."""

import json
import sys

import pytest

from stts_cli.data.files import DataFolder, cache_folder
from stts_cli.data.rows import first_line, flatten, read_json, read_rows
from stts_cli.errors import EnvironmentFailure, InputError


def test_keys_and_places_of_nested_objects_become_fields():
    tree = {"v1": {"order": [{"q": "a"}, {"q": "b", "number": 7}]}, "v2": {"speed": [{"q": "c", "video": "x"}]}}
    assert list(flatten(tree, "video", "dim")) == [
        {"q": "a", "number": 0, "video": "v1", "dim": "order"},
        {"q": "b", "number": 1, "video": "v1", "dim": "order"},
        {"q": "c", "number": 0, "video": "v2", "dim": "speed"},
    ]
    assert list(flatten({"3": {"q": "a"}}, "id")) == [{"q": "a", "number": 0, "id": "3"}]
    assert list(flatten([{"q": "a"}])) == [{"q": "a", "number": 0}]


HALF = " If the file is half downloaded, fetch it again."


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", '{"a": 1}\n{"a": ', ":2: no JSON (Expecting value at column 7): must be a JSON object a line."),
        ("x.json", '[{"a": 1},\n{"a": ', ":2: no JSON (Expecting value at column 7): must be JSON, a list of objects."),
        ("x.json", '{"a": 1}', ": holds an object: must be a list of objects."),
        ("x.csv", "a,b\n1\n", ":2: 1 cells: must be 2, as in the header."),
    ],
)  # fmt: skip
def test_a_damaged_table_is_named_with_its_line_and_what_to_do(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_rows(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}{message}{HALF}"


def test_damaged_json_of_any_form_is_named_too(tmp_path):
    (tmp_path / "x.json").write_text('{"a": [1')
    with pytest.raises(InputError) as caught:
        read_json(tmp_path / "x.json")
    what = "Expecting ',' delimiter: line 1 column 9 (char 8)"
    assert str(caught.value) == f"{tmp_path}/x.json: {what}: must be JSON.{HALF}"


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EnvironmentFailure, match=r"x\.parquet: needs pyarrow, which is not installed; .*'\.\[eval\]'"):
        read_rows(tmp_path / "x.parquet")


def test_a_table_is_all_files_of_the_first_folder_that_has_it(tmp_path):
    for place, texts in (("a", ("1", "2")), ("b", ("3",))):
        (tmp_path / place).mkdir()
        for k, text in enumerate(texts):
            (tmp_path / place / f"t-{k}.json").write_text(json.dumps([{"q": text}]))
    folder = DataFolder(tmp_path, name="x", where="there")
    assert folder.rows("**/none.json", "**/t-*.json") == (tmp_path / "a/t-0.json", [{"q": "1"}, {"q": "2"}])
    with pytest.raises(InputError) as caught:
        folder.rows("none.json", "no.csv")
    assert str(caught.value) == f"x: none of none.json, no.csv is in {tmp_path}; get it: there."


def test_what_a_row_names_is_found_or_expected_where_it_says(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.webm").touch()
    folder = DataFolder(tmp_path, name="x", where="there")
    assert folder.source("a.mp4").path == folder.own("a") == tmp_path / "videos/a.webm"
    assert (folder.own("sub/b.mp4"), folder.video("b")) == (tmp_path / "sub/b.mp4", tmp_path / "videos/b.mp4")
    assert folder.video("b", "clips") == tmp_path / "clips/b.mp4"


def test_the_cache_is_where_the_system_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("benchmarks", "x") == tmp_path / "stts/benchmarks/x"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(cache_folder("shapes")) == "/home/me/.cache/stts/shapes"


def test_a_message_takes_an_errors_first_line():
    assert first_line(OSError(" one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError("x" * 200)) == "x" * 160
