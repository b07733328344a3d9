"""What is written is there after a crash, and an answer of other settings never passes for one of this run."""

import contextlib
import json
from pathlib import Path

import pytest

from stts_cli.benchmarks.journal import Journal, check_same
from stts_cli.errors import EnvironmentFailure, InputError

CONFIG = {"bench": "x", "arms": {"pruned": {"keep_ratio": 0.5}}}


def rows(*numbers):
    return [{"arm": "pruned", "id": str(number), "text": "ü"} for number in numbers]


def write(folder, *numbers, rank=0):
    journal = Journal(folder, CONFIG, rank)
    journal.open()
    for row in rows(*numbers):
        journal.append(row)
    journal.close()
    return folder / f"samples.rank{rank}.jsonl"


def test_a_file_cut_anywhere_goes_on_behind_its_last_good_line(tmp_path):
    for cut in range(1, len(json.dumps(rows(2)[0], ensure_ascii=False).encode()) + 2):
        path = write(tmp_path / str(cut), 1, 2)
        whole = path.read_bytes()
        path.write_bytes(whole[:-cut])
        journal = Journal(path.parent, CONFIG)
        assert list(journal.rows) == [("pruned", "1")]
        journal.open()
        journal.append(*rows(2))
        journal.close()
        assert path.read_bytes() == whole


def test_a_file_cut_in_its_first_line_starts_again(tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:20])
    write(tmp_path, 1)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"config": CONFIG}, *rows(1)]


def test_any_number_of_processes_go_on_with_any_number_of_files(tmp_path):
    write(tmp_path, 1, 3, rank=0)
    write(tmp_path, 2, rank=1)
    journal = Journal(tmp_path, CONFIG)
    assert {key for _, key in journal.rows} == {"1", "2", "3"}
    journal.open()
    journal.merge(rows(1, 2, 3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples.jsonl"]
    again = Journal(tmp_path, CONFIG, rank=5)
    assert list(again.rows) == [("pruned", "1"), ("pruned", "2"), ("pruned", "3")]
    assert again.is_done("pruned", "3")
    assert not again.is_done("dense", "3")


def test_a_failed_answer_is_tried_again(tmp_path):
    journal = Journal(tmp_path, CONFIG)
    journal.open()
    journal.append({"arm": "pruned", "id": "1", "error": "broken"})
    journal.close()
    assert not Journal(tmp_path, CONFIG).is_done("pruned", "1")


def test_other_settings_are_refused_by_name(tmp_path):
    write(tmp_path, 1)
    with pytest.raises(InputError, match=r"a run with arms\.pruned\.keep_ratio 0\.5, this one has 0\.7"):
        Journal(tmp_path, {**CONFIG, "arms": {"pruned": {"keep_ratio": 0.7}}})
    with pytest.raises(InputError, match="a run with split None, this one has 'test'"):
        check_same(CONFIG, {**CONFIG, "split": "test"}, tmp_path)
    (tmp_path / "samples.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(InputError, match="not of a run"):
        Journal(tmp_path, CONFIG)


def test_arms_may_be_added_and_not_left_out(tmp_path):
    write(tmp_path, 1)
    more = {**CONFIG, "arms": {**CONFIG["arms"], "random": {"keep_ratio": 0.5}}}
    journal = Journal(tmp_path, more)
    journal.open()
    assert journal.is_done("pruned", "1")
    journal.append({"arm": "random", "id": "1", "correct": 1})
    journal.close()  # stopped: what is there belongs to both arms from now on
    again = Journal(tmp_path, more)
    assert again.is_done("random", "1")
    assert again.is_done("pruned", "1")
    with pytest.raises(InputError, match="holds a run with the arm random too -> arms may be added, not left out"):
        Journal(tmp_path, CONFIG)
    with pytest.raises(InputError, match=r"arms\.random\.keep_ratio 0\.5, this one has 0\.3"):
        Journal(tmp_path, {**more, "arms": {**more["arms"], "random": {"keep_ratio": 0.3}}})


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    pytest.importorskip("fcntl")
    first = Journal(tmp_path, CONFIG)
    first.open()
    first.append(*rows(1))
    before = (tmp_path / "samples.rank0.jsonl").read_bytes()
    with pytest.raises(InputError, match="another run writes into"):
        Journal(tmp_path, CONFIG).open()
    assert (tmp_path / "samples.rank0.jsonl").read_bytes() == before
    first.close()
    Journal(tmp_path, CONFIG).open()


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, CONFIG)
    journal.open()
    journal.append(*rows(1))
    journal.merge(rows(1))
    assert journal.is_done("pruned", "1")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--output .* cannot be made"):
        Journal(tmp_path / "file", CONFIG)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told(tmp_path):
    (tmp_path / "samples.rank0.jsonl").symlink_to("/dev/full")
    journal = Journal.__new__(Journal)
    journal._path, journal._config, journal._file = tmp_path / "samples.rank0.jsonl", CONFIG, open("/dev/full", "wb")
    with pytest.raises(EnvironmentFailure, match=r"cannot be written .No space left on device. .* goes on"):
        journal._write({"config": CONFIG})
    with contextlib.suppress(OSError):
        journal.close()
