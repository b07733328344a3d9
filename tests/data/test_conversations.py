"""What rows say about their videos: LLaVA's form and that of roles, turns without loss, and messages for all else."""

import json

import pytest

from stts_cli.data.conversations import Conversation
from stts_cli.data.items import Cue
from stts_cli.errors import InputError
from stts_cli.training.samples import read_samples

OPEN = {"video": "a.mp4", "question": "What is it?", "answer": "a cat"}
TURNS = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]


@pytest.fixture
def write(tmp_path):
    """Write rows to a .jsonl file; a text is written as it stands."""

    def write(*rows):
        path = tmp_path / "data.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    return write


def only(path):
    (sample,) = read_samples(path)
    (conversation,) = sample.conversations
    return conversation


def test_llava_rows_become_turns_without_their_placeholder(write):
    talk = [
        {"from": "human", "value": "<image>\nWhat happens?"},
        {"from": "gpt", "value": "A <b>cat</b> jumps.\n"},
        {"from": "human", "value": "And then, after <video> ends?"},
        {"from": "gpt", "value": "It sleeps."},
    ]
    expected = (("What happens?", "A <b>cat</b> jumps."), ("And then, after <video> ends?", "It sleeps."))
    assert only(write({"id": "x", "data_source": "y", "video": "a.mp4", "conversations": talk})).turns == expected


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("<video>\nWhy?", "Why?"),
        ("<video> Why?", "Why?"),
        ("Why?\n<image>", "Why?"),
        ("Look.\n <video> \nWhy?", "Look.\nWhy?"),
        ("Why?", "Why?"),
        ("Is it a <video> tag?", "Is it a <video> tag?"),
    ],
)
def test_the_marker_of_the_video_is_left_out_and_words_are_kept(write, asked, kept):
    talk = [{"from": "human", "value": asked}, {"from": "gpt", "value": "A <video>"}]
    assert only(write({"video": "a.mp4", "conversations": talk})).turns == ((kept, "A <video>"),)


def test_the_role_and_content_form_is_read_too(write):
    talk = [
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What is <image> here?"}]},
        {"role": "assistant", "content": "A word."},
    ]
    assert only(write({"video": "a.mp4", "messages": talk})).turns == (("What is <image> here?", "A word."),)
    assert only(write({"videos": ["a.mp4"], "images": [], "messages": talk})).turns[0][1] == "A word."


@pytest.mark.parametrize("off", [{"loss": False}, {"weight": 0}])
def test_a_turn_without_loss_is_read_and_not_trained(write, off):
    class Bytes:
        def conversation_ids(self, turns, context=""):
            pieces = [
                (context, False),
                *((text, own) for turn in turns for text, own in zip(turn, (False, True), strict=True)),
            ]
            return list("".join(text for text, _ in pieces)), [own for text, own in pieces for _ in text]

    talk = [*TURNS, {"from": "human", "value": "q"}, {"from": "gpt", "value": "bc"}]
    path = write({"video": "a.mp4", "conversations": [talk[0], {**talk[1], **off}, *talk[2:]]})
    assert only(path).tokens(Bytes()) == (list("QAqbc"), [False, False, False, True, True])
    path = write({"video": "a.mp4", "conversations": [*talk[:3], {**talk[3], **off}]})
    assert only(path).tokens(Bytes()) == (list("QAqbc"), [False, True, False, False, False])
    path = write(
        {"video": "a.mp4", "conversations": [{**talk[0], "loss": False}, {**talk[1], "loss": True}, *talk[2:]]}
    )
    assert only(path).tokens(Bytes())[1] == [False, True, False, True, True]


def test_subtitles_are_made_once_and_those_that_are_there_stay():
    said = Conversation((("Q", "A"),), cues=(Cue(0, 1, "a"), Cue(8, 9, "b"))).with_subtitles([0.5])
    assert (said.subtitles, said.cues) == ("subtitle\n0.0 - 1.0 a\n", ())
    assert said.with_subtitles([8.5]) == said


def test_groups_come_from_the_row(write):
    assert only(write({**OPEN, "groups": {"task": ["count", "order"], "length": "short"}})).group == "count"


BAD = [
    ('{"video": "a.mp4",', "no JSON (Expecting property name enclosed in double quotes at column 19): must be a JSON "
     "object a line."),
    ("[1, 2]", "a list: must be an object with 'video' and 'question'."),
    ({"vidoe": "a.mp4", "question": "Q", "answer": "A"}, "field 'video' is missing; its nearest is 'vidoe'."),
    ({"video": "a.mp4", "question": "Q"}, "field 'answer' is missing; it has video, question."),
    ({"video": "a.mp4", "question": "Q", "answer": None}, "field 'answer' is missing; it has video, question."),
    ({"video": "a.mp4", "conversations": "hello"},
     "conversations 'hello': must be a list of objects with 'from' and 'value'."),
    ({"video": "a.mp4", "conversations": TURNS[:1]},
     "conversations: 1 turns; must be the user and the model in turn, the model last."),
    ({"video": "a.mp4", "conversations": []},
     "conversations: 0 turns; must be the user and the model in turn, the model last."),
    ({"video": "a.mp4", "conversations": TURNS[::-1]}, "turn 1 from 'gpt': must be from human or user."),
    ({"video": "a.mp4", "conversations": [TURNS[0], {"from": "gpt", "text": "A"}]},
     "turn 2: field 'value' is missing; it has from, text."),
    ({"conversations": TURNS}, "field 'video' is missing; it has conversations."),
    ({"conversations": TURNS, "image": "a.jpg"}, "image 'a.jpg': training takes one video a row; leave it out."),
    ({"video": "a.mp4", "images": ["a.jpg"], "messages": TURNS},
     'images ["a.jpg"]: training takes one video a row; leave it out.'),
    ({"videos": ["a.mp4", "b.mp4"], "conversations": TURNS},
     'videos ["a.mp4", "b.mp4"]: must be a list of one; training takes one video a row.'),
    ({"video": "a.mp4", "system": "Be brief.", "conversations": TURNS},
     "system 'Be brief.': training takes no system turn; put its words into the first user's turn."),
    ({"video": "a.mp4", "conversations": [{"from": "system", "value": "Be brief."}, *TURNS]},
     "turn 1: training takes no system turn; put its words into the first user's turn."),
    ({"video": "a.mp4", "conversations": TURNS, "messages": TURNS},
     "'conversations' and 'messages': must be one of them; leave the other out."),
    ({"video": "a.mp4", "conversations": [{**TURNS[0], "value": "<video><video>\nQ"}, TURNS[1]]},
     "<video> or <image> in turn 1, 1: must stand once, in turn 1; a row is about one video."),
    ({"video": "a.mp4", "conversations": [*TURNS, {**TURNS[0], "value": "Q\n<video>"}, TURNS[1]]},
     "<video> or <image> in turn 3: must stand once, in turn 1; a row is about one video."),
    ({"video": "a.mp4", "conversations": [TURNS[0], {**TURNS[1], "loss": False}]},
     "conversations: no turn of the model's has a loss; must be one at least, or drop the row."),
    ({"video": "a.mp4", "conversations": [TURNS[0], {**TURNS[1], "loss": 0.5}]},
     "turn 2, loss 0.5: must be true or false, 1 or 0."),
    ({"video": "a.mp4", "conversations": [{**TURNS[0], "loss": True}, TURNS[1]]},
     "turn 1: the user's turn must have no loss; only the model's turns are trained."),
    ({"video": "a.mp4", "messages": [{"role": "user", "content": [{"type": "image_url"}]}, TURNS[1]]},
     'turn 1, part {"type": "image_url"}: must be of type \'text\' or \'video\'.'),
    ({"video": "a.mp4", "messages": [TURNS[0], {"role": "assistant", "content": None}]},
     "turn 2 null: must be a text, or a list of parts."),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_bad_line_is_named_with_what_is_wrong(write, row, message):
    path = write(OPEN, row)
    with pytest.raises(InputError) as caught:
        read_samples(path)
    assert str(caught.value) == f"{path}:2: {message}"
