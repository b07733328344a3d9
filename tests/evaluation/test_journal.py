"""What is written is there after a crash, and an answer of other settings never passes for one of this run."""

import json

import pytest

from stts_cli.errors import InputError
from stts_cli.evaluation.journal import ANSWERED, FIELDS, Journal

CONFIG = {"bench": "x", "arms": {"pruned": {"keep_ratio": 0.5}}}


def rows(*numbers):
    return [dict.fromkeys(FIELDS | ANSWERED) | {"arm": "pruned", "id": str(number), "text": "ü"} for number in numbers]


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


FOREIGN = [b"# my notes\n", b"\0" * 40 + b"\n", b'{"other": 1}\n', b"\xff\xfe\n", b"[1]\n", b"[" * 5000 + b"\n", b"\n",
           b'{"arm": "pruned", "id": "9"}\n', b'{"config": null}\n']  # fmt: skip


@pytest.mark.parametrize("name", ["samples.jsonl", "samples.rank0.jsonl"])
@pytest.mark.parametrize("foreign", FOREIGN)
def test_a_foreign_line_costs_itself_only_and_is_kept(tmp_path, name, foreign):
    path = write(tmp_path, 1, 2, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink()
    (tmp_path / name).write_bytes(b"".join([*lines[:2], foreign, *lines[3:]]))
    journal = Journal(tmp_path, CONFIG)
    assert [key for _, key in journal.rows] == ["1", "3"]
    (note,) = journal.notes
    assert f"{name}:3: 1 of 4 lines are neither settings nor answers" in note
    journal.open()
    journal.append(*rows(2))
    journal.merge(rows(1, 2, 3))
    assert (tmp_path / "samples.bad.jsonl").read_bytes() == foreign
    again = Journal(tmp_path, CONFIG)
    assert (len(again.rows), again.notes) == (3, [])


@pytest.mark.parametrize("name", ["samples.jsonl", "samples.rank0.jsonl", "samples.rank3.jsonl"])
@pytest.mark.parametrize("foreign", FOREIGN)
def test_answers_without_their_settings_are_refused_and_never_overwritten(tmp_path, name, foreign):
    path = write(tmp_path, *range(71))
    answers = path.read_bytes().splitlines(keepends=True)[1:]
    path.unlink()
    (tmp_path / name).write_bytes(b"".join([foreign, *answers]))
    before = (tmp_path / name).read_bytes()
    with pytest.raises(InputError, match=rf"{name}:1: holds no settings .* 71 answers .* Put the line back"):
        Journal(tmp_path, CONFIG)
    assert (tmp_path / name).read_bytes() == before
    settings = json.dumps({"config": CONFIG}).encode() + b"\n"
    (tmp_path / name).write_bytes(b"".join([foreign, *answers, settings]))
    assert len(Journal(tmp_path, CONFIG).rows) == 71, "settings below hold for what is above"


@pytest.mark.parametrize("text", [b"my notes", b"{", b'{"config": {"ben', b"my notes\n"])
def test_a_file_that_is_no_journal_is_refused_unless_it_is_the_start_of_one(tmp_path, text):
    (tmp_path / "samples.rank0.jsonl").write_bytes(text)
    if text.startswith(b"{"):
        write(tmp_path, 1)
        assert len(Journal(tmp_path, CONFIG).rows) == 1
    else:
        with pytest.raises(InputError, match=r"rank0\.jsonl:1: holds no settings"):
            Journal(tmp_path, CONFIG)
        assert (tmp_path / "samples.rank0.jsonl").read_bytes() == text


def test_a_last_line_without_its_end_counts_in_a_finished_file(tmp_path):
    Journal(tmp_path, CONFIG).merge(rows(1, 2))
    path = tmp_path / "samples.jsonl"
    path.write_bytes(path.read_bytes().rstrip())
    assert len(Journal(tmp_path, CONFIG).rows) == 2


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
    journal.append(rows(1)[0] | {"error": "broken"})
    journal.close()
    assert not Journal(tmp_path, CONFIG).is_done("pruned", "1")


def test_other_settings_are_refused_by_name(tmp_path):
    write(tmp_path, 1)
    with pytest.raises(InputError, match=r"a run with arms\.pruned\.keep_ratio 0\.5, this one has 0\.7"):
        Journal(tmp_path, {**CONFIG, "arms": {"pruned": {"keep_ratio": 0.7}}})
    with pytest.raises(InputError, match="a run with split None, this one has 'test'"):
        Journal(tmp_path, {**CONFIG, "split": "test"})
    (tmp_path / "samples.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(InputError, match=r"samples\.jsonl:1: holds no settings"):
        Journal(tmp_path, CONFIG)


def test_a_run_of_before_arms_had_a_seed_goes_on(tmp_path):
    write(tmp_path, 1)
    seeds = [{**CONFIG, "arms": {"pruned": {"keep_ratio": 0.5, "seed": seed}}} for seed in (None, 0)]
    assert len(Journal(tmp_path, seeds[0]).rows) == 1
    with pytest.raises(InputError, match=r"a run with arms\.pruned\.seed None, this one has 0"):
        Journal(tmp_path, seeds[1])


def test_arms_may_be_added_and_not_left_out(tmp_path):
    write(tmp_path, 1)
    more = {**CONFIG, "arms": {**CONFIG["arms"], "random": {"keep_ratio": 0.5}}}
    journal = Journal(tmp_path, more)
    journal.open()
    assert journal.is_done("pruned", "1")
    journal.append(rows(1)[0] | {"arm": "random"})
    journal.close()  # stopped: what is there belongs to both arms from now on
    again = Journal(tmp_path, more)
    assert again.is_done("random", "1")
    assert again.is_done("pruned", "1")
    with pytest.raises(InputError, match="holds a run with the arm random too, and arms may be added, not left out"):
        Journal(tmp_path, CONFIG)
    with pytest.raises(InputError, match=r"arms\.random\.keep_ratio 0\.5, this one has 0\.3"):
        Journal(tmp_path, {**more, "arms": {**more["arms"], "random": {"keep_ratio": 0.3}}})


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    first = Journal(tmp_path, CONFIG)
    first.open()
    first.append(*rows(1))
    before = (tmp_path / "samples.rank0.jsonl").read_bytes()
    with pytest.raises(InputError, match="another run writes there; wait for it"):
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
