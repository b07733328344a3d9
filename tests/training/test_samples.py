"""Reading training data: the forms that rows may have, what is said of those that have none, the check before a run."""

import json
import random
import shutil
import sys
import types

import pytest

from stts_cli.data.conversations import Conversation
from stts_cli.data.prompts import subtitle_block
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.evaluation.benchmarks.own_file import open_file
from stts_cli.training import samples as samples_module
from stts_cli.training.samples import (
    Problem,
    VideoSample,
    leave_out,
    read_samples,
    report_problems,
    split_held_out,
    validate,
)

CHOICE = {"video": "a.mp4", "question": "What is it?", "options": ["a dog", "a cat", "a cow"], "answer": "B"}
OPEN = {"video": "a.mp4", "question": "What is it?", "answer": "a cat"}


@pytest.fixture
def write(tmp_path):
    """Write rows to a .jsonl file; a text is written as it stands."""

    def write(*rows, name="data.jsonl"):
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    return write


def only(path, **settings) -> Conversation:
    (sample,) = read_samples(path, **settings)
    (conversation,) = sample.conversations
    return conversation


@pytest.mark.parametrize("answer", [1, "B", "b", "(B)", "B.", "a cat"])
def test_a_choice_is_worded_and_answered_as_the_evaluation_does_it(write, answer):
    path = write({**CHOICE, "answer": answer})
    benchmark = open_file(samples_module.Path(path))
    (item,) = benchmark.load(benchmark.folder(samples_module.Path(path).parent), "all")
    asked, reply = only(path).turns[0]
    assert asked == benchmark.prompt(item)
    assert asked.startswith("What is it?\nA. a dog\nB. a cat\nC. a cow\nAnswer ")
    assert reply == "B"
    assert benchmark.scorers["strict"](reply, item, random.Random(0)).correct


def test_options_that_carry_their_letters_are_not_lettered_twice(write):
    asked, reply = only(write({**CHOICE, "options": ["(A) a dog", "(B) a cat"], "answer": "(B) a cat"})).turns[0]
    assert "B. a cat\n" in asked
    assert reply == "B"


def test_an_open_question_keeps_its_words(write):
    assert only(write(OPEN)).turns == (("What is it?", "a cat"),)
    assert only(write({**OPEN, "answer": 7})).turns == (("What is it?", "7"),)
    assert only(write({**OPEN, "options": []})).turns == (("What is it?", "a cat"),)


def test_questions_of_one_cut_stand_together_in_the_order_of_their_first(write, tmp_path):
    rows = [
        {**OPEN, "question": "1"},
        {**OPEN, "video": "b.mp4", "question": "2"},
        {**OPEN, "question": "3", "start": 1, "end": 2.5},
        {**OPEN, "question": "4"},
        {**OPEN, "question": "5", "start": None},
    ]
    found = read_samples(write(*rows[:3], "", *rows[3:]))
    assert [(s.video, s.start, s.end) for s in found] == [
        (str(tmp_path / "a.mp4"), None, None),
        (str(tmp_path / "b.mp4"), None, None),
        (str(tmp_path / "a.mp4"), 1.0, 2.5),
    ]
    assert [[c.turns[0][0] for c in s.conversations] for s in found] == [["1", "4", "5"], ["2"], ["3"]]
    assert [[c.line for c in s.conversations] for s in found] == [[1, 5, 6], [2], [3]]  # the empty line counts


def test_many_questions_become_several_samples_of_one_video(write):
    path = write(*({**OPEN, "question": str(k)} for k in range(9)))
    assert [len(s.conversations) for s in read_samples(path)] == [8, 1]
    assert [len(s.conversations) for s in read_samples(path, max_questions=4)] == [4, 4, 1]


def test_paths_start_from_the_file_or_from_the_folder_given(write, tmp_path):
    rows = [{**OPEN, "video": "v/a.mp4"}, {**OPEN, "video": "/abs/b.mp4"}]
    assert [s.video for s in read_samples(write(*rows))] == [str(tmp_path / "v/a.mp4"), "/abs/b.mp4"]
    assert [s.video for s in read_samples(write(*rows), video_root="/data")] == ["/data/v/a.mp4", "/abs/b.mp4"]


def test_a_json_list_is_read_as_well(tmp_path):
    path = tmp_path / "llava.json"
    path.write_text(json.dumps([OPEN, {**OPEN, "question": "Why?"}]))
    (sample,) = read_samples(str(path))
    assert [c.line for c in sample.conversations] == [1, 2]
    path.write_text(json.dumps([OPEN, 3]))
    with pytest.raises(InputError) as caught:
        read_samples(str(path))
    assert str(caught.value).startswith(f"{path}, entry 2: a number: must be an object with")
    path.write_text('[\n{"video": }]')
    with pytest.raises(InputError) as caught:
        read_samples(str(path))
    assert str(caught.value) == (f"{path}:2: no JSON (Expecting value at column 11): must be JSON, a list of objects.")


def test_sources_that_hold_nothing_are_refused(write, tmp_path):
    for source, message in [
        (str(tmp_path / "no.jsonl"), "no.jsonl: does not exist: must be a file that ends in .jsonl, .json or .csv, or"),
        (str(tmp_path), ": is a folder: must be a file"),
        (write(OPEN, name="data.yaml"), r"data.yaml: ends otherwise: must be a file that ends in .jsonl"),
        (write("", name="empty.jsonl"), "empty.jsonl: holds no sample; must be an object with"),
        (write(json.dumps(OPEN), name="one.json"), "one.json: holds an object: must be a list of objects."),
    ]:
        with pytest.raises(InputError, match=message):
            read_samples(source)
    (tmp_path / "latin.jsonl").write_bytes(b'{"video": "\xe9.mp4"}\n')
    with pytest.raises(InputError, match=r"latin.jsonl: invalid continuation byte at byte 11: must be UTF-8"):
        read_samples(str(tmp_path / "latin.jsonl"))


def test_subtitles_are_put_where_the_evaluation_puts_them(write, tmp_path):
    cues = [[0.0, 1.0, "hello"], [50.0, 51.0, "far away"]]
    path = write({**OPEN, "subtitles": cues})
    benchmark = open_file(samples_module.Path(path))
    (item,) = benchmark.load(benchmark.folder(tmp_path), "all")
    shown = only(path).with_subtitles([0.5, 1.5])
    assert shown.subtitles == subtitle_block(item.subtitles, [0.5, 1.5]) == "subtitle\n0.0 - 1.0 hello\n"
    assert shown.turns[0][0] == benchmark.prompt(item)

    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    assert only(write({**OPEN, "subtitles": "a.srt"})).with_subtitles([0.5]).subtitles == "subtitle\n0.0 - 1.0 hello\n"


# the check before a run


def check(samples, *, measure=lambda info, frames, conversation: 10, **settings):
    return validate(samples, max_frames=8, max_fps=2.0, measure=measure, limit=100, **settings)


def sample(video, *answers, start=None, end=None, line=1):
    turns = [Conversation((("Q?", answer),), line=line + k) for k, answer in enumerate(answers or ("A",))]
    return VideoSample(str(video), start, end, tuple(turns))


def test_good_samples_have_no_problem(clip_file):
    assert check([sample(clip_file), sample(clip_file, start=1.0, end=3.0), sample(clip_file, start=4.9)]) == []


def test_every_kind_of_problem_is_found_with_its_line(clip_file, tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    found = check(
        [
            sample(clip_file, "A", " ", line=1),
            sample(tmp_path / "no.mp4", "A", "A", line=3),
            sample(tmp_path / "text.mp4", line=5),
            sample(tmp_path / "empty.mp4", line=6),
            sample(clip_file, start=5.0, line=7),
            sample(clip_file, start=2.0, end=2.0, line=8),
            sample(clip_file, start=-1.0, line=9),
            sample(clip_file, start=1.01, end=1.09, line=10),
            sample(clip_file, end=float("nan"), line=11),
            VideoSample(str(clip_file), None, None, (Conversation((("Q", "A"), ("", "B")), line=12),)),
        ]
    )
    assert [(p.line, p.kind, p.what) for p in found] == [
        (2, "empty answer", "the answer is empty"),
        (3, "missing video", "does not exist (named in 2 lines)"),
        (5, "unreadable video", found[2].what),
        (6, "unreadable video", "is empty (0 bytes)"),
        (7, "bad start or end", "start 5 s lies behind the last frame, at 4.9 s"),
        (8, "bad start or end", "end 2 s does not lie behind start 2 s"),
        (9, "bad start or end", "start -1 and end inf are no times in seconds from 0 on"),
        (10, "bad start or end", "no frame lies between 1.01 and 1.09 s"),
        (11, "bad start or end", "start 0 and end nan are no times in seconds from 0 on"),
        (12, "empty question", "the question is empty (exchange 2 of 2)"),
    ]
    assert found[2].what.startswith("cannot be read as a video (")
    assert found[1].video == str(tmp_path / "no.mp4")


def test_what_the_check_says_of_a_cut_is_what_reading_says(clip_file):
    from stts_cli.media.video import read_clip

    for start, end in [(4.9, None), (5.0, None), (1.01, 1.09), (1.0, 1.05), (0.95, 1.02), (2.0, 1.0)]:
        try:
            read_clip(clip_file, num_frames=4, start=start, end=end)
            readable = True
        except InputError:
            readable = False
        assert (check([sample(clip_file, start=start, end=end)]) == []) == readable, (start, end)


def test_too_long_a_sample_is_named_with_both_counts(clip_file):
    """Five seconds at two a second would be eleven frames; eight are the most, a cut of two seconds has five."""
    seen = []

    def measure(info, frames, conversation):
        seen.append(frames)
        return 20 * frames

    samples = [sample(clip_file, line=1), sample(clip_file, start=1.0, end=3.0, line=2)]
    (found,) = check(samples, measure=measure)
    assert seen == [8, 5]
    assert found == Problem(1, str(clip_file), "160 tokens with 8 frames, a sequence takes 100", "too long")


def test_a_text_that_cannot_be_used_is_a_problem(clip_file):
    def measure(info, frames, conversation):
        raise InputError("the template rewrites answers; strip them.")

    (found,) = check([sample(clip_file)], measure=measure)
    assert (found.kind, found.what) == ("unusable text", "the template rewrites answers")


def test_each_file_is_opened_once(clip_file, tmp_path, monkeypatch):
    other = tmp_path / "other.mp4"
    shutil.copy(clip_file, other)
    opened, steps = [], []
    probe = samples_module.probe
    monkeypatch.setattr(samples_module, "probe", lambda video: opened.append(video) or probe(video))
    cuts = [sample(video, start=k / 10) for k in range(20) for video in (clip_file, other)]
    assert check(cuts, progress=lambda done, total: steps.append((done, total))) == []
    assert sorted(opened) == sorted([str(clip_file), str(other)])
    assert steps == [(1, 2), (2, 2)]


def test_the_report_shows_twenty_problems_and_counts_the_rest():
    problems = [Problem(k, f"{k}.mp4", "does not exist", "missing video") for k in range(1, 25)]
    problems.append(Problem(30, "x.mp4", "the answer is empty", "empty answer"))
    lines = report_problems(problems).splitlines()
    assert len(lines) == 22
    assert lines[0] == "line 1: 1.mp4: does not exist."
    assert lines[20:] == ["... and 5 more", "missing video: 24, empty answer: 1"]
    assert report_problems(problems[:1]).splitlines() == [lines[0], "missing video: 1"]


def test_what_has_a_problem_can_be_left_out(clip_file, tmp_path):
    samples = [
        sample(clip_file, "A", "", "C", line=1),
        sample(tmp_path / "no.mp4", "A", "B", line=4),
        sample(clip_file, start=9.0, line=6),
    ]
    problems = check(samples)
    assert [p.line for p in problems] == [2, 4, 6]
    (rest,) = leave_out(samples, problems)
    assert [c.line for c in rest.conversations] == [1, 3]
    assert check([rest]) == []
    assert leave_out([rest], []) == [rest]


# held-out videos


def test_held_out_videos_share_nothing_with_the_rest():
    samples = [sample(f"{k % 7}.mp4", start=float(k)) for k in range(30)]
    train, held_out = split_held_out(samples, 3, seed=0)
    assert {s.video for s in train} | {s.video for s in held_out} == {f"{k}.mp4" for k in range(7)}
    assert len({s.video for s in held_out}) == 3
    assert not {s.video for s in train} & {s.video for s in held_out}
    assert sorted(train + held_out, key=samples.index) == samples
    assert train == [s for s in samples if s in train]
    assert split_held_out(samples, 3, seed=0) == (train, held_out)
    assert any(split_held_out(samples, 3, seed=seed) != (train, held_out) for seed in (1, 2, 3))
    assert split_held_out(samples, 0, seed=0) == (samples, [])


@pytest.mark.parametrize("number", [-1, 2, 5])
def test_something_must_be_left_to_train_on(number):
    with pytest.raises(InputError, match=f"^--eval-videos {number}: must be at least 0 and fewer than the 2 videos"):
        split_held_out([sample("a.mp4"), sample("b.mp4")], number, seed=0)


# datasets of the hub


@pytest.fixture
def dataset_folder(tmp_path, monkeypatch):
    """A folder in the form of a dataset on the hub, with two splits."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "train.jsonl").write_text(json.dumps(OPEN) + "\n" + json.dumps({**OPEN, "question": "Why?"}) + "\n")
    (folder / "validation.jsonl").write_text(json.dumps({**OPEN, "video": "b.mp4"}) + "\n")
    return folder


def test_a_dataset_in_a_folder_is_read_by_split(dataset_folder):
    (found,) = read_samples(f"hf:{dataset_folder}")
    assert (found.video, len(found.conversations)) == (str(dataset_folder / "a.mp4"), 2)
    (found,) = read_samples(f"hf:{dataset_folder}:validation")
    assert found.video == str(dataset_folder / "b.mp4")
    with pytest.raises(InputError, match=r"--data hf:.*, split 'tset': cannot be loaded \(.*tset.*\); check the name"):
        read_samples(f"hf:{dataset_folder}:tset")


def test_a_dataset_row_that_is_wrong_is_named(dataset_folder):
    (dataset_folder / "train.jsonl").write_text(json.dumps(OPEN) + "\n" + json.dumps({**OPEN, "video": None}) + "\n")
    with pytest.raises(InputError, match=r"^hf:.*, row 2: field 'video' is missing; it has question, answer\."):
        read_samples(f"hf:{dataset_folder}")


def test_without_a_network_a_dataset_of_the_hub_is_an_environment_failure():
    pytest.importorskip("datasets")
    with pytest.raises(EnvironmentFailure, match=r"^--data hf:some/data: cannot be fetched \(.*\); go online"):
        read_samples("hf:some/data")


def test_without_the_datasets_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        EnvironmentFailure, match=r"needs the datasets package, .*; in a clone of stts: pip install '\.\[train\]'"
    ):
        read_samples("hf:some/data")


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    """A hub that holds one dataset, some/data; returns its rows and files, to be filled."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    rows, files, fetched = [], {}, []

    class Video:
        def __init__(self, decode=True):
            self.decode = decode

    class Table(list):
        features = types.MappingProxyType({"video": Video(), "question": str})

        def cast_column(self, name, feature):
            assert (name, feature.decode) == ("video", False)
            return self

    def download(repo, name, *, repo_type):
        assert (repo, repo_type) == ("some/data", "dataset")
        fetched.append(name)
        if name not in files:
            response = types.SimpleNamespace(headers={}, request=None)
            raise RemoteEntryNotFoundError(f"404: {name}", response=response)
        if files[name] is None:
            raise LocalEntryNotFoundError("no connection, and not in the cache")
        return files[name]

    module = types.ModuleType("datasets")
    module.Video = Video
    module.load_dataset = lambda name, split: Table(rows)
    module.exceptions = types.SimpleNamespace(DatasetsError=ZeroDivisionError)
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return rows, files, fetched


def test_videos_of_a_dataset_are_fetched_once_each(fake_hub, clip_file):
    rows, files, fetched = fake_hub
    rows += [{**OPEN, "video": "v/a.mp4", "question": str(k)} for k in range(3)] + [{**OPEN, "video": "v/b.mp4"}]
    files |= {"v/a.mp4": str(clip_file), "v/b.mp4": "/cache/b.mp4"}
    found = read_samples("hf:some/data")
    assert [(s.video, len(s.conversations)) for s in found] == [(str(clip_file), 3), ("/cache/b.mp4", 1)]
    assert sorted(fetched) == ["v/a.mp4", "v/b.mp4"]
    assert [s.video for s in read_samples("hf:some/data", video_root="/mine")] == ["/mine/v/a.mp4", "/mine/v/b.mp4"]
    assert len(fetched) == 2  # with a folder given, nothing is fetched


def test_a_video_that_the_repository_lacks_is_named(fake_hub):
    rows, _, _ = fake_hub
    rows.append({**OPEN, "video": "v/a.mp4"})
    with pytest.raises(InputError, match=r"^--data hf:some/data: has no file v/a.mp4; unpack"):
        read_samples("hf:some/data")


def test_a_video_that_cannot_be_fetched_is_an_environment_failure(fake_hub):
    rows, files, _ = fake_hub
    rows.append({**OPEN, "video": "v/a.mp4"})
    files["v/a.mp4"] = None
    with pytest.raises(
        EnvironmentFailure, match=r"^--data hf:some/data: v/a.mp4 cannot be fetched \(no connection, .*\); go"
    ):
        read_samples("hf:some/data")


def test_videos_within_the_rows_are_written_to_files(fake_hub, clip_file):
    rows, _, fetched = fake_hub
    inside = {"path": "a.mp4", "bytes": clip_file.read_bytes()}
    rows += [{**OPEN, "video": inside}, {**OPEN, "video": inside, "question": "Why?"}]
    for _ in range(2):  # the second time they are there
        (found,) = read_samples("hf:some/data")
        assert len(found.conversations) == 2
        assert check([found]) == []
    assert fetched == []
