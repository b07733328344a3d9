"""Rows of a user's own file: read alike by eval and finetune, from every kind of file, with messages that say where."""

import csv
import json
import shutil

import pytest

from stts_cli.data.items import Cue
from stts_cli.data.prompts import subtitle_block
from stts_cli.data.questions import read_items
from stts_cli.data.rows import own_rows
from stts_cli.errors import InputError
from stts_cli.evaluation.gather import gather
from stts_cli.media.reader import read_source
from stts_cli.media.source import ReadRequest
from stts_cli.training.samples import read_samples

ROW = {"video": "a.mp4", "question": "Who?", "options": ["he", "she"], "answer": "B"}
OPEN = {"video": "a.mp4", "question": "Who?", "answer": "a tree"}


@pytest.fixture
def write(tmp_path):
    """Write rows to a .jsonl file beside a.srt; a text is written as it stands."""
    (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:03,000\nhi\n")
    (tmp_path / "bad.srt").write_text("1\n00:00:03,000 --> 00:00:01,000\nhi\n")

    def write(*rows):
        path = tmp_path / "mine.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write


def read(path):
    notes = []
    items = read_items(own_rows(path), path.parent.joinpath, notes)
    for item in items:
        if isinstance(item, InputError):
            raise item
    return items, [note.removeprefix(str(path)) for note in notes]


def test_everything_a_row_may_say(write, tmp_path):
    groups = {"kind": 1, "of": ["x", "y"]}
    row = {**ROW, "id": 7, "start": "0:01", "end": 2.5, "subtitles": "a.srt", "groups": groups}
    (item,), notes = read(write(row))
    assert (item.id, item.video, item.question) == ("7", "a.mp4", "Who?")
    assert (item.options, item.right) == (("he", "she"), ("B",))
    assert (item.source.path, item.source.start_s, item.source.end_s) == (tmp_path / "a.mp4", 1.0, 2.5)
    assert item.subtitles == (Cue(0.0, 1.5, "hi"),)
    assert (item.groups, notes) == ({"kind": ("1",), "of": ("x", "y")}, [])


def test_null_and_empty_values_are_none(write):
    full = dict.fromkeys(["id", "options", "answer", "start", "end", "subtitles", "groups"])
    (item,), _ = read(write({"video": "a.mp4", "question": "Who?", **full}))
    (same,), _ = read(write({"video": "a.mp4", "question": "Who?", "options": [], "start": "", "subtitles": ""}))
    assert item == same
    assert (item.id, item.options, item.answer, item.subtitles, item.source.start_s) == ("1", (), None, (), None)


TIMES = "must be seconds from 0 on, or a clock time such as 0:01, 1:02.5 or 00:01:02,500."
CUES = "must be the path of an .srt or .vtt file, or a list of [start, end, text]."
REFUSED = [
    ('{"video": "a.mp4", ', "no JSON (Expecting property name enclosed in double quotes at column 20): must be a "
     "JSON object a line."),
    ('{"video": "a.mp4", "question": "x", "question": "y"}',
     "key 'question' stands twice: must be a JSON object a line."),
    ("[1]", "a list: must be an object with 'video' and 'question'."),
    ({"video": "a.mp4"}, "field 'question' is missing; it has video."),
    ({"video": "a.mp4", "questoin": "x"}, "field 'question' is missing; its nearest is 'questoin'."),
    ({"video": "a.mp4", "question": "x", "optoins": ["a"]}, "field 'optoins' is unknown; did you mean 'options'?"),
    ({**OPEN, "video": 5}, "video 5: must be the path of a video file."),
    ({**OPEN, "question": " "}, "question ' ': must not be empty."),
    ({**OPEN, "question": ["x"]}, 'question ["x"]: must be a text or a number.'),
    ({**OPEN, "start": "soon"}, f"start 'soon': {TIMES}"),
    ({**OPEN, "start": -1}, f"start -1: {TIMES}"),
    ({**OPEN, "start": "0:10", "end": 10}, "end 10: must be greater than the start, 10 s."),
    ({**OPEN, "end": 0}, "end 0: must be greater than the start, 0 s."),
    ({**OPEN, "subtitles": {"0": "hi"}}, f'subtitles {{"0": "hi"}}: {CUES}'),
    ({**OPEN, "subtitles": "They talk."}, f"subtitles 'They talk.': {CUES}"),
    ({**OPEN, "subtitles": "a.ass"}, f"subtitles 'a.ass': {CUES}"),
    ({**OPEN, "subtitles": [[1, 2]]}, "subtitles [[1, 2]]: entry 1 is [1, 2]: must be [start, end, text]."),
    ({**OPEN, "subtitles": [[2, 1, "a"]]}, 'subtitles [[2, 1, "a"]]: entry 1 is [2, 1, "a"]: the end must not be '
     "before the start."),
    ({**OPEN, "subtitles": [[0, "x", "a"]]}, f'subtitles [[0, "x", "a"]]: entry 1 is [0, "x", "a"]: {TIMES}'),
    ({**OPEN, "groups": "ab"}, "groups 'ab': must be an object, such as {\"topic\": \"cats\"}."),
    ({**OPEN, "groups": {"a": None}}, 'groups {"a": null}: must be a text or a number.'),
    ({**OPEN, "id": {}}, "id {}: must be a text or a number."),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), REFUSED)
def test_a_wrong_row_is_named_alike_in_eval_and_finetune(write, row, message):
    path = write({**OPEN, "id": "one"}, "", row)
    for command in (lambda: gather(str(path)), lambda: read_samples(str(path))):
        with pytest.raises(InputError) as caught:
            command()
        assert str(caught.value) == f"{path}:3: {message}"


def test_subtitles_that_are_not_there_or_damaged_are_named_with_their_row(write, tmp_path):
    with pytest.raises(InputError, match=r"mine.jsonl:1: subtitles 'no.srt': .*no.srt does not exist: must be"):
        read(write({**OPEN, "subtitles": "no.srt"}))
    with pytest.raises(InputError) as caught:
        read(write({**OPEN, "subtitles": "bad.srt"}))
    assert str(caught.value) == (
        f"{tmp_path}/mine.jsonl:1: subtitles 'bad.srt': {tmp_path}/bad.srt:2: '00:00:03,000 --> 00:00:01,000': the end "
        "must not be before the start."
    )


def test_eval_refuses_two_rows_of_one_id_and_says_what_has_no_answer(write, write_video):
    path = write({**OPEN, "id": "x"}, {**OPEN, "id": "x"})
    with pytest.raises(InputError, match=r"mine.jsonl:2: id 'x': must be unique; a row before has it\."):
        gather(str(path))
    shutil.copy(write_video("noted.mp4", num_frames=5), path.parent / "a.mp4")
    path = write(OPEN, {**OPEN, "answer": None})
    assert gather(str(path)).notes == (f"{path}: 1 of 2 questions have no answer; they are not scored.",)
    with pytest.raises(InputError, match=r"mine.jsonl: holds no question"):
        gather(str(write("")))


def test_what_is_not_read_is_said_once(write):
    _, notes = read(write({**OPEN, "source": "web"}, {**OPEN, "source": "tv", "license": "?"}))
    assert notes == [":1 and on: fields that are not read, with their rows: 'license' (1), 'source' (2)."]
    _, notes = read(write({**OPEN, "answers": ["a tree"]}))  # no slip of the pen: 'answer' is there
    assert notes == [":1 and on: fields that are not read, with their rows: 'answers' (1)."]
    talk = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    notes = []
    path = write({"video": "a.mp4", "conversations": talk, "answer": "A"})
    read_samples(str(path), notes=notes)
    assert notes == [f"{path}:1 and on: fields that are not read, with their rows: 'answer' (1)."]


def test_a_subtitle_file_is_read_once_for_all_its_rows(write, tmp_path):
    (tmp_path / "latin.srt").write_bytes("0:01 --> 0:02\nSeñor\n".encode("latin-1"))
    items, notes = read(write(*[{**OPEN, "subtitles": "latin.srt"}] * 3))
    assert {item.subtitles for item in items} == {(Cue(1, 2, "Señor"),)}
    assert notes == [f"{tmp_path}/latin.srt: is not UTF-8; it was read as cp1252."]


def test_as_many_options_as_letters(write):
    (item,), _ = read(write({**ROW, "options": list(range(100, 126)), "answer": "Z"}))
    assert (item.answer, item.options[25]) == ("Z", "125")


def test_cues_are_sorted_and_that_is_said(write):
    (item,), notes = read(write({**OPEN, "subtitles": [[2, 2, "b"], ["0:00", "0:01,5", "a\nc"]]}))
    assert item.subtitles == (Cue(0, 1.5, "a c"), Cue(2, 2, "b"))
    assert notes == [":1: subtitles are out of order (rows like it: 1); they are sorted."]


def test_subtitles_that_all_lie_outside_the_cut_are_said(write):
    rows = [{**OPEN, "start": 100, "subtitles": [[0, 2, "hi"]]}, {**OPEN, "start": 1, "subtitles": [[0, 2, "hi"]]}]
    _, notes = read(write(rows[1], *rows, rows[0]))
    assert notes == [
        ":2: no subtitle lies between start and end (rows like it: 2). Times of subtitles count from the start of the "
        "video file."
    ]


def test_eval_and_finetune_show_the_same_subtitles_at_the_same_times(write, write_video, tmp_path):
    """A cut of a video: frames and cues count from its start; one cue reaches into it, one lies behind it."""
    shutil.copy(write_video("cut.mp4", num_frames=50), tmp_path / "a.mp4")
    cues = [["0:00", "0:00.5", "early"], [0.5, 1.5, "into"], ["00:00:02,000", "2.5", "inside"], [4, 5, "late"]]
    path = write({**OPEN, "start": "0:01", "end": 3, "subtitles": cues})
    (item,) = gather(str(path)).items
    clip = read_source(ReadRequest(item.source, 8, 2.0, None))
    assert clip.timestamps_s == [0.0, 0.5, 1.0, 1.5, 2.0]
    block = subtitle_block(item.subtitles, clip.timestamps_s)
    assert block == "subtitle\n0.0 - 0.5 into\n1.0 - 1.5 inside\n"
    (sample,) = read_samples(str(path))
    (conversation,) = sample.conversations
    assert (sample.start, sample.end) == (1.0, 3.0)
    shown = conversation.with_subtitles(clip.timestamps_s)
    assert (shown.subtitles, shown.turns) == (block, (("Who?", "a tree"),))


def test_training_takes_the_first_of_several_right_answers(write):
    (sample,) = read_samples(str(write({**OPEN, "answer": ["a tree", "an oak"]}, {**OPEN, "answer": 7})))
    assert [conversation.turns[0][1] for conversation in sample.conversations] == ["a tree", "7"]
    (item, _), _ = read(write({**OPEN, "answer": ["a tree", "an oak"]}, OPEN))
    assert item.right == ("a tree", "an oak")


def test_videos_are_found_alike(write, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/b.mkv").touch()
    path = write({**OPEN, "video": "b"}, {**OPEN, "video": "/abs/c.mp4"}, {**OPEN, "video": "d.mp4"})
    expected = [tmp_path / "videos/b.mkv", tmp_path / "/abs/c.mp4", tmp_path / "d.mp4"]
    questions = gather(str(path), allow_missing=True)
    assert [questions.items[0].source.path, *questions.missing] == [expected[0], *map(str, expected[1:])]
    assert [sample.video for sample in read_samples(str(path))] == [str(each) for each in expected]


# the same rows in three kinds of file

SUBTITLED = {**ROW, "start": "0:01", "subtitles": [[1, 2, "hi"]], "groups": {"kind": "x"}, "id": "s"}


def test_json_and_csv_say_what_jsonl_says(write, tmp_path):
    rows = [SUBTITLED, {**ROW, "question": 'She said "no",\r\nor\u2028not?', "answer": ["A", "B"]}, OPEN]
    expected, _ = read(write(*rows))
    (tmp_path / "mine.json").write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    assert read(tmp_path / "mine.json")[0] == expected
    names = ["id", "video", "question", "options", "answer", "start", "subtitles", "groups"]
    with (tmp_path / "mine.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in row.items()})
    assert read(tmp_path / "mine.csv")[0] == expected
    assert [row.number for row in own_rows(tmp_path / "mine.csv")] == [2, 3, 5]  # lines: a cell holds a line end
    (tmp_path / "mine.json").write_text(json.dumps([ROW, 3]))
    with pytest.raises(InputError, match=r"mine.json, entry 2: a number: must be an object"):
        read(tmp_path / "mine.json")


CSV = [
    ("video,question,option0,option1,option2,answer\na.mp4,Who?,he,she,,1\n", [("he", "she")], ["B"]),
    ("video,question,option_1,option_2,answer\na.mp4,Who?,3,4,3\na.mp4,Who?,he,she,she\n",
     [("3", "4"), ("he", "she")], ["A", "B"]),
    ("video,question,options,answer\na.mp4,Who?,\"[1, 2]\",\"[\"\"A\"\"]\"\n\n,,,\na.mp4,What?,,tree\n",
     [("1", "2"), ()], ["A", "tree"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "options", "answers"), CSV)
def test_options_of_a_csv_file(tmp_path, text, options, answers):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    items, _ = read(path)
    assert [item.options for item in items] == options
    assert [item.answer for item in items] == answers


BAD_CSV = [
    ("video,question\na.mp4\n", ":2: 1 cells: must be 2, as in the header."),
    ("video,question\na.mp4,x,y\n", ":2: 3 cells: must be 2, as in the header."),
    ("video,video\na.mp4,x\n", ":1: header 'video': must be a name of its own."),
    ("video,\na.mp4,x\n", ":1: header '': must be a name of its own."),
    ("video;question\na.mp4;x\n", ":2: field 'video' is missing; it has video;question."),
    ('video,question\na.mp4,"two\nlines"\na.mp4,"x\n',
     ":4: unexpected end of data: must be comma-separated values, with double quotes."),
    ('video,question\na.mp4,"two\nlines"\na.mp4,\n', ":4: field 'question' is missing; it has video."),
    ("video,question,options\na.mp4,x,[a]\n", ":2: options '[a]': no JSON (Expecting value at column 2): must be JSON, "
     "as it begins."),
    ("video,question,option0,option2\na.mp4,x,,b\n", ':2: options [null, "b"]: option 1 is null: must be a text or a '
     "number."),
    ("video,question,options,option0\na.mp4,x,[1],b\n",
     ":2: options [1]: must be empty where columns hold the options."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD_CSV)
def test_a_wrong_line_of_a_csv_file(tmp_path, text, message):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == f"{path}{message}"


def test_files_that_are_none(tmp_path):
    (tmp_path / "x.txt").touch()
    (tmp_path / "latin.csv").write_bytes(b"video,question\nx.mp4,caf\xe9?\n")
    (tmp_path / "one.json").write_text('{"video": "a.mp4"}')
    (tmp_path / "cut.json").write_text('[\n{"video": }]')
    for name, message in [
        ("no.jsonl", "does not exist: must be a file that ends in .jsonl, .json or .csv."),
        ("x.txt", "ends otherwise: must be a file that ends in .jsonl, .json or .csv."),
        (".", "is a folder: must be a file that ends in .jsonl, .json or .csv."),
        ("latin.csv", "invalid continuation byte at byte 24: must be UTF-8; save it as that."),
        ("one.json", "holds an object: must be a list of objects."),
    ]:
        with pytest.raises(InputError) as caught:
            own_rows(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {message}"
    with pytest.raises(InputError, match=r"cut.json:2: no JSON \(Expecting value at column 11\): must be JSON, a list"):
        own_rows(tmp_path / "cut.json")
