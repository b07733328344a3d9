"""Every benchmark in the shapes it really comes in: files -> items -> prompt -> score, to the letter.

The fixtures are a row or two each, in the publishers' columns; the videos are real ones of the procedural world, in the
container that their name says, and each that a loader finds is read the way a run reads it.
"""

from __future__ import annotations

import csv
import functools
import json
import random
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import pytest

from stts_cli.data.prompts import subtitle_block
from stts_cli.errors import InputError
from stts_cli.evaluation.benchmarks.registry import LONG, NAMES, SHORT, describe, get_benchmark
from stts_cli.media.reader import read_source
from stts_cli.media.source import ReadRequest
from stts_cli.toy.clips import demo_scene, write_clip

FROM_CHOICES = "Answer with the option's letter from the given choices directly."
ONLY = "Respond with only the letter of the correct answer."


def parquet(path: Path, rows: list[dict]) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow (the eval extra) reads parquet")
    writer = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_table(pyarrow.Table.from_pylist(rows), path)


def dump(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@functools.cache
def encoded(ending: str) -> bytes:
    """Return a clip of six seconds in a container; for "jpg" a picture of it."""
    with tempfile.TemporaryDirectory() as folder:
        mp4 = write_clip(demo_scene(), Path(folder) / "x.mp4", size=32, fps=6)
        if ending == "mp4":
            return mp4.read_bytes()
        with av.open(str(mp4)) as container:
            frames = [av.VideoFrame.from_ndarray(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
        if ending == "jpg":
            codec = av.CodecContext.create("mjpeg", "w")
            codec.width, codec.height, codec.pix_fmt, codec.time_base = 32, 32, "yuvj420p", Fraction(1, 3)
            return b"".join(bytes(packet) for packet in [*codec.encode(frames[0].reformat(format="yuvj420p"))])
        path = Path(folder) / f"y.{ending}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libvpx" if ending == "webm" else "libx264", rate=6)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for packet in [packet for frame in [*frames, None] for packet in stream.encode(frame)]:
                container.mux(packet)
        return path.read_bytes()


def film(*paths: Path) -> None:
    """Write videos; a name that ends in jpg stands for a folder of pictures, three a second."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        ending = path.suffix[1:].lower()
        names = [f"{number:05d}.jpg" for number in range(1, 19)] if ending == "jpg" else [path.name]
        for name in names:
            path.with_name(name).write_bytes(encoded(ending))


def load(name: str, root: Path, split: str | None = None):
    benchmark = get_benchmark(name)
    items = benchmark.load(benchmark.folder(root), benchmark.check_split(split))
    for source in {item.source for item in items if item.source.path.exists()}:
        clip = read_source(ReadRequest(source, 4, 2.0, (24, 24)))
        assert clip.frames.shape[1:] == (24, 24, 3)
        assert clip.frames.std() > 10, "a picture"
        length = min(source.end_s or 6.0, 6.0) - (source.start_s or 0.0)
        assert 0 <= clip.timestamps_s[0] < clip.timestamps_s[-1] <= length
        assert clip.timestamps_s[-1] >= length - 0.5
    return benchmark, items


def is_right(benchmark, item, text: str, scoring: str = "strict") -> bool:
    return benchmark.scorers[scoring](text, item, random.Random(0)).correct


NEXT_ROW = {
    "video": 4010069381, "frame_count": 369, "width": 640, "height": 480, "question": "how do the two man play",
    "answer": 1, "qid": 6, "type": "TP", "a0": "roll", "a1": "tap", "a2": "strum", "a3": "hit", "a4": "pat",
}  # fmt: skip


def test_nextqa_parquet(tmp_path):
    parquet(tmp_path / "MC/test-00000-of-00001.parquet", [NEXT_ROW])
    film(tmp_path / "NExTVideo/4010069381.MP4")
    benchmark, (item,) = load("nextqa", tmp_path)
    assert item.source.path == tmp_path / "NExTVideo/4010069381.MP4"
    assert (item.answer, item.groups) == ("B", {"kind": ("temporal",), "type": ("TN",)})
    assert benchmark.prompt(item) == (
        f"how do the two man play\nA. roll\nB. tap\nC. strum\nD. hit\nE. pat\n{FROM_CHOICES}"
    )
    assert is_right(benchmark, item, "B. tap")
    assert is_right(benchmark, item, "(A), no, (B)", "molmo2")


def test_nextqa_csv_goes_through_the_map(tmp_path):
    with (tmp_path / "test.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, NEXT_ROW)
        writer.writeheader()
        writer.writerow(NEXT_ROW)
    dump(tmp_path / "map_vid_vidorID.json", {"4010069381": "0101/2909445186"})
    film(tmp_path / "NExTVideo-all-videos/0101/2909445186.mp4")
    _, (item,) = load("nextqa", tmp_path)
    assert item.source.path.exists()
    assert (item.answer, item.video) == ("B", "4010069381")


PERCEPTION = {
    "video_name": "video_8241", "question": "Is the cup moved?", "question_id": "3", "options": ["yes", "no", "maybe"],
    "answer_id": "2", "area": "Physics", "reasoning": "Predictive", "tag": ["motion"],
}  # fmt: skip


def test_perceptiontest_parquet_and_json_agree(tmp_path):
    parquet(tmp_path / "hub/mc_question_val/validation-00000-of-00001.parquet", [PERCEPTION])
    row = {**PERCEPTION, "id": 3, "answer_id": 2}
    dump(tmp_path / "own/mc_question_valid.json", {"video_8241": {"mc_question": [row], "metadata": {}}})
    for root in (tmp_path / "hub", tmp_path / "own"):
        film(root / "videos/video_8241.mp4")
    benchmark, (item,) = load("perceptiontest", tmp_path / "hub")
    _, (other,) = load("perceptiontest", tmp_path / "own")
    assert (item.id, item.options, item.answer, item.groups) == (other.id, other.options, other.answer, other.groups)
    assert (item.answer, item.source.path.exists(), other.source.path.exists()) == ("C", True, True)
    assert is_right(benchmark, item, "I say C", "molmo2")


def test_perceptiontest_is_cut_where_its_publishers_say_if_asked_for(tmp_path):
    rows = [{**PERCEPTION, "video_name": name} for name in ("cup", "whole", "unlisted")]
    parquet(tmp_path / "mc_question_val/validation-00000-of-00001.parquet", rows)
    with pytest.raises(InputError, match=r"cut_frame_mapping_valid\.json is in .*; get it: "):
        load("perceptiontest", tmp_path, "validation_cut")
    dump(tmp_path / "cut_frame_mapping_valid.json", {"cup": 61, "whole": -1})
    assert [item.source.end_frame for item in load("perceptiontest", tmp_path, "validation_cut")[1]] == [61, None, None]
    assert [item.source.end_frame for item in load("perceptiontest", tmp_path)[1]] == [None] * 3


def test_perceptiontest_keeps_hidden_answers_hidden(tmp_path):
    row = {key: value for key, value in PERCEPTION.items() if key != "answer_id"}
    parquet(tmp_path / "mc_question/test-00000-of-00001.parquet", [row])
    _, (item,) = load("perceptiontest", tmp_path, "test")
    assert item.answer is None


def mvbench_row(**more) -> dict:
    return {"video": "a.mp4", "question": "What?", "candidates": ["run", "sit"], "answer": "sit", **more}


def test_mvbench_cuts_whole_videos_only(tmp_path):
    main, cut = tmp_path / "main", tmp_path / "cut"
    for root in (main, cut):
        dump(root / "json/action_sequence.json", [mvbench_row(start=2.0, end=5.5)])
        dump(root / "json/action_antonym.json", [mvbench_row(video="166583.webm")])
        dump(root / "json/episodic_reasoning.json", [mvbench_row(video="castle_s01", start=1.0, end=4.0)])
    film(main / "video/star/Charades_v1_480/a.mp4", main / "video/ssv2_video/166583.webm")
    film(main / "video/tvqa/frames_fps3_hq/castle_s01/00001.jpg")
    film(cut / "video/star/Charades_segment/a.mp4", cut / "video/ssv2_video_mp4/166583.mp4")
    film(cut / "video/tvqa/video_fps3_hq_segment/castle_s01.mp4")
    benchmark, items = load("mvbench", main)
    by_task = {item.groups["task"][0]: item for item in items}
    sequence = by_task["action_sequence"]
    assert (sequence.source.start_s, sequence.source.end_s) == (2.0, 5.5)
    assert by_task["episodic_reasoning"].source.path.is_dir()
    assert by_task["episodic_reasoning"].source.start_s == 1.0
    assert by_task["action_antonym"].source.path.suffix == ".webm"
    assert benchmark.prompt(sequence) == f"What?\nA. run\nB. sit\n{ONLY}"
    assert is_right(benchmark, sequence, "(B) sit", "official")
    assert not is_right(benchmark, sequence, "sit", "official")
    assert len({item.id for item in items}) == 3
    _, items = load("mvbench", cut)
    assert all(item.source.path.exists() and item.source.start_s is None for item in items), "cut already"
    dump(tmp_path / "flat/json/action_sequence.json", [mvbench_row(start=2.0, end=5.5)])
    film(tmp_path / "flat/videos/a.mp4")
    (source,) = (item.source for item in load("mvbench", tmp_path / "flat")[1])
    assert (source.path.exists(), source.start_s) == (True, 2.0), "in no folder of cut clips"


def test_mvbench_test_json(tmp_path):
    dump(tmp_path / "test.json", {"root": {}, "meta": {"moving_count": [mvbench_row(), mvbench_row(answer="run")]}})
    film(tmp_path / "video/data0613/clevrer/video_validation/a.mp4")
    assert load("mvbench", tmp_path)[1][0].source.path.exists(), "from the archive of replaced videos"
    film(tmp_path / "video/clevrer/video_validation/a.mp4")
    _, items = load("mvbench", tmp_path)
    assert [item.answer for item in items] == ["B", "A"]
    assert items[0].source.path == tmp_path / "video/clevrer/video_validation/a.mp4"


TOMATO = {
    "question": "Which way?", "options": ["left", "right", "up"], "answer": 1, "key": "0390-01",
    "demonstration_type": "object", "motion_type": "x", "variation": {"zoom": 0}, "video_source_url": "", "note": "",
}  # fmt: skip


def test_tomato_json_ids_start_again_in_each_file(tmp_path):
    for name in ("count", "shape&trend"):
        dump(tmp_path / f"data/{name}.json", {"1": TOMATO, "7": TOMATO})
    film(tmp_path / "videos/object/0390-01.mp4")
    benchmark, items = load("tomato", tmp_path)
    assert [item.id for item in items] == ["count/1", "count/7", "shape&trend/1", "shape&trend/7"]
    assert items[0].source.path == tmp_path / "videos/object/0390-01.mp4"
    assert benchmark.prompt(items[0]) == "Which way?\nOnly return the correct option.\nA. left\nB. right\nC. up"
    assert items[0].groups["demonstration"] == ("object",)
    assert is_right(benchmark, items[0], "B. right", "molmo2")


def test_tomato_parquet(tmp_path):
    row = {**TOMATO, "id": "5", "video_path": "videos/human/x&y.mp4", "reason_type": "rotation"}
    del row["variation"]
    parquet(tmp_path / "data/test-00000-of-00001.parquet", [row])
    film(tmp_path / "videos/human/x&y.mp4")
    _, (item,) = load("tomato", tmp_path)
    assert (item.id, item.video, item.source.path.exists()) == ("rotation/5", "human/x&y.mp4", True)


def test_motionbench_drops_hidden_rows_and_looks_in_both_folders(tmp_path):
    qa = {"start": None, "end": None, "question": "What moves?\nA. a hand\nB. a foot"}
    rows = [
        {"question_type": "Motion Recognition", "key": name, "video_path": f"{name}.mp4", "video_info": {"fps": 30},
         "qa": [{**qa, "uid": f"{name}-1", "answer": "B"}, {**qa, "uid": f"{name}-2", "answer": "NA"}]}
        for name in ("one", "two")
    ]  # fmt: skip
    lines(tmp_path / "MotionBench/video_info.meta.jsonl", rows)
    film(tmp_path / "MotionBench/self-collected/one.mp4", tmp_path / "MotionBench/public-dataset/two.mp4")
    benchmark, items = load("motionbench", tmp_path)
    assert [item.id for item in items] == ["one-1", "two-1"]
    assert all(item.source.path.exists() for item in items)
    assert benchmark.prompt(items[0]) == "What moves?\nA. a hand\nB. a foot", "nothing is added"
    assert is_right(benchmark, items[0], "B", "official")
    assert not is_right(benchmark, items[0], "The B", "official")


TEMPCOMPASS = {
    "multi-choice": ("What is it?\nA. running\nB. sitting", "B. sitting"),
    "yes_no": ("Does it run?", "no"),
    "caption_matching": (
        "Which caption fits?\nCaption A: It runs.\nCaption B: It sits.",
        "Caption B: It sits.",
    ),
}


@pytest.mark.parametrize("form", ["parquet", "json"])
def test_tempcompass_asks_in_three_ways(tmp_path, form):
    for task, (question, answer) in TEMPCOMPASS.items():
        if form == "parquet":
            row = {"video_id": "1021", "question": question, "answer": answer, "dim": "action"}
            parquet(tmp_path / task / "test-00000-of-00001.parquet", [row, row])
        else:
            entry = {"question": question, "answer": answer}
            dump(tmp_path / f"questions/{task}.json", {"1021": {"action": [entry, entry]}})
    film(tmp_path / "videos/1021.mp4")
    benchmark, items = load("tempcompass", tmp_path)
    assert len({item.id for item in items}) == 6
    choice, yes_no, caption = items[0], items[2], items[4]
    assert benchmark.prompt(choice) == "What is it?\nA. running\nB. sitting\nPlease directly give the best option:"
    assert benchmark.prompt(yes_no) == "Does it run?\nPlease answer yes or no:"
    assert benchmark.prompt(caption) == TEMPCOMPASS["caption_matching"][0] + "\nPlease directly give the best option:"
    assert (choice.answer, yes_no.answer, caption.answer) == ("B", "no", "B")
    assert caption.groups["task and dim"] == ("caption_matching, action",)
    for item, said in ((choice, "B. sitting"), (yes_no, "No, it does not."), (caption, "It sits.")):
        assert is_right(benchmark, item, said)
        assert is_right(benchmark, item, said, "official")
    assert not is_right(benchmark, caption, "It sits.", "molmo2"), "scored as multiple choice there"
    assert yes_no.chance == 0.5


def test_egoschema_parquet_with_null_and_json(tmp_path):
    row = {"question_idx": "7", "question": "Why?", "video_idx": "ab-cd", "answer": "3"}
    row["option"] = [f"{letter}. {text}" for letter, text in zip("ABCDE", "vwxyz", strict=True)]
    parquet(tmp_path / "Subset/test-00000-of-00001.parquet", [row])
    parquet(tmp_path / "MC/test-00000-of-00001.parquet", [row, {**row, "question_idx": "8", "answer": None}])
    film(tmp_path / "videos/videos/ab-cd.MP4")
    benchmark, (item,) = load("egoschema", tmp_path)
    assert (item.options, item.answer) == (("v", "w", "x", "y", "z"), "D")
    assert item.source.path == tmp_path / "videos/videos/ab-cd.MP4", "unpacked into itself, upper-case ending"
    assert [item.answer for item in load("egoschema", tmp_path, "full")[1]] == ["D", None]
    own = tmp_path / "own"
    dump(own / "questions.json", [
        {"q_uid": name, "question": "Why?", **{f"option {i}": text for i, text in enumerate("vwxyz")}}
        for name in ("ab-cd", "ef")
    ])  # fmt: skip
    dump(own / "subset_answers.json", {"ab-cd": 3})
    _, (other,) = load("egoschema", own)
    assert (other.options, other.answer, other.question) == (item.options, item.answer, item.question)
    assert is_right(benchmark, item, "(D) y", "molmo2")


VIDEOMME = {
    "video_id": "001", "duration": "medium", "domain": "Knowledge", "sub_category": "Astronomy", "url": "",
    "videoID": "fFjv93ACGo8", "question_id": "001-1", "task_type": "Counting", "question": "How many?",
    "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."], "answer": "C",
}  # fmt: skip


def videomme(root: Path) -> None:
    parquet(root / "videomme/test-00000-of-00001.parquet", [VIDEOMME])
    film(root / "data/fFjv93ACGo8.mkv")


def test_videomme(tmp_path):
    videomme(tmp_path)
    benchmark, (item,) = load("videomme", tmp_path)
    assert item.source.path.suffix == ".mkv"
    assert item.groups == {"duration": ("medium", "medium+long"), "task": ("Counting",), "sub-category": ("Astronomy",)}
    assert benchmark.prompt(item) == (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
        "letter (A, B, C, or D) of the correct option.\nHow many?\nA. 1.\nB. 2.\nC. 3.\nD. 4.\nThe best answer is:"
    )
    assert is_right(benchmark, item, "The best answer is: C.", "official")


@pytest.mark.parametrize("form", ["srt", "json"])
def test_videomme_with_subtitles(tmp_path, form):
    videomme(tmp_path)
    if form == "srt":
        path = tmp_path / "subtitle/fFjv93ACGo8.srt"
        path.parent.mkdir()
        text = '1\r\n00:00:01,500 --> 00:00:02,250\r\n<font color="white" size=".72c">hello\r\nthere</font>\r\n\r\n'
        path.write_text(text + "2\r\n01:00:10,000 --> 01:00:12,000\r\nbye\r\n")
    else:
        cues = {"1": (3610, 3612, "bye"), "0": (1.5, 2.25, "hello there")}
        cues = {key: {"start": a, "end": b, "text": text} for key, (a, b, text) in cues.items()}
        dump(tmp_path / "subtitles.json", {"fFjv93ACGo8": cues})
    _, (item,) = load("videomme_sub", tmp_path)
    assert [(cue.start_s, cue.end_s, cue.text) for cue in item.subtitles] == [
        (1.5, 2.25, "hello there"),
        (3610.0, 3612.0, "bye"),
    ]
    assert subtitle_block(item.subtitles, [0.0, 3.0]) == "subtitle\n1.5 - 2.2 hello there\n"
    assert subtitle_block(item.subtitles, [20.0]) == ""


def longvideobench_row(**more) -> dict:
    return {
        "video_id": "v1", "id": "v1_0", "video_path": "v1.mp4", "subtitle_path": "v1_en.json", "question": "When?",
        "correct_choice": 1, "question_category": "S2E", "topic_category": "x", "duration": 100.0,
        "duration_group": 600, "starting_timestamp_for_subtitles": 10.0, **more,
    }  # fmt: skip


CUES = {
    "lists": [
        {"timestamp": [5.0, 12.0], "text": "a"}, {"timestamp": [20.0, "end"], "text": "b"},
        {"timestamp": [0.0, 9.0], "text": "x"}, {"timestamp": [120.0, 130.0], "text": "x"},
    ],
    "clocks": [
        {"start": "0:0:5.0", "end": "0:0:12.0", "line": "a"}, {"start": "0:0:20.0", "end": "0:1:50.0", "line": "b"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("cues", CUES.values(), ids=CUES)
@pytest.mark.parametrize("form", ["json", "parquet"])
def test_longvideobench_both_subtitle_schemas(tmp_path, cues, form):
    if form == "json":
        dump(tmp_path / "lvb_val.json", [longvideobench_row(candidates=["x", "y"])])
    else:
        options = {f"option{index}": text for index, text in enumerate(["x", "y", "N/A", "N/A", "N/A"])}
        parquet(tmp_path / "validation-00000-of-00001.parquet", [longvideobench_row(**options)])
    dump(tmp_path / "subtitles/v1_en.json", cues)
    film(tmp_path / "videos/v1.mp4")
    benchmark, (item,) = load("longvideobench", tmp_path)
    assert (item.options, item.answer) == (("x", "y"), "B")
    assert [(cue.start_s, cue.end_s, cue.text) for cue in item.subtitles] == [(0.0, 2.0, "a"), (10.0, 100.0, "b")]
    assert item.groups == {"duration": ("600 s",), "category": ("S2E",)}
    assert benchmark.prompt(item) == f"When?\nA. x\nB. y\n{FROM_CHOICES}"
    assert load("longvideobench", tmp_path, "validation_no_subtitles")[1][0].subtitles == ()


def test_longvideobench_without_subtitles_leaves_out_questions_about_them(tmp_path):
    rows = [longvideobench_row(candidates=["x", "y"]), longvideobench_row(candidates=["x", "y"], id="v1_1")]
    rows[1]["question"] = "When does the Subtitle say so?"
    dump(tmp_path / "lvb_val.json", rows)
    assert [item.id for item in load("longvideobench", tmp_path, "validation_no_subtitles")[1]] == ["v1_0"]
    assert len(load("longvideobench", tmp_path)[1]) == 2


def test_mlvu_json_keeps_unscorable_questions_and_twin_answers(tmp_path):
    row = {"video": "needle_4.mp4", "duration": 480.0, "question": "Who?", "candidates": ["a", "b", "a"]}
    dump(tmp_path / "MLVU/json/2_needle.json", [{**row, "answer": "lake", "question_type": "findNeedle"}])
    dump(tmp_path / "MLVU/json/4_count.json", [{**row, "answer": "a", "question_type": "count"}])
    dump(tmp_path / "MLVU/json/9_summary.json", [{"video": "x", "question": "Summarise", "answer": "long"}])
    film(tmp_path / "MLVU/video/2_needle/needle_4.mp4", tmp_path / "MLVU/video/4_count/needle_4.mp4")
    benchmark, items = load("mlvu", tmp_path)
    assert [item.answer for item in items] == [None, "A"]
    assert items[1].also == ("C",)
    assert items[0].source.path != items[1].source.path, "file names recur in several tasks"
    assert is_right(benchmark, items[1], "C")
    assert is_right(benchmark, items[1], "A) a", "official")
    assert not is_right(benchmark, items[1], "A. a", "official")
    assert benchmark.headline == "task"


def test_a_table_in_several_files_is_read_whole_and_its_copies_elsewhere_are_not(tmp_path):
    row = {"video_path": "a.mp4", "question": "Who?", "options": ["(A) he", "(B) she"], "answer": "B"}
    for number in range(3):
        parquet(tmp_path / f"data/train-0000{number}-of-00003.parquet", [{**row, "uid": str(number)}])
    parquet(tmp_path / "old/data/train-00000-of-00001.parquet", [{**row, "uid": "0"}])
    assert [item.id for item in load("lvbench", tmp_path)[1]] == ["0", "1", "2"]


def test_mlvu_parquet(tmp_path):
    row = {"video_name": "v.mp4", "duration": 9.0, "question": "Who?\n(A) he\n(B) she", "candidates": ["he", "she"]}
    parquet(tmp_path / "data/test-0.parquet", [{**row, "answer": "B", "task_type": "ego", "question_id": "q1"}])
    _, (item,) = load("mlvu", tmp_path)
    assert (item.question, item.options, item.answer, item.id) == ("Who?", ("he", "she"), "B", "ego/q1")


def test_lvbench_jsonl_and_parquet(tmp_path):
    qa = {"uid": "12", "question": "Who?\n(A) he\n(B) she", "answer": "B", "time_reference": "00:10-00:20"}
    qa["question_type"] = ["reasoning", "summarization"]
    lines(tmp_path / "own/video_info.meta.jsonl", [{"key": "Cm73ma6Ibcs", "type": "tv", "video_info": {}, "qa": [qa]}])
    film(tmp_path / "own/Cm73ma6Ibcs.mp4")
    benchmark, (item,) = load("lvbench", tmp_path / "own")
    assert item.groups == {"ability": ("reasoning", "summarization"), "video type": ("tv",)}
    assert benchmark.prompt(item) == f"Who?\nA. he\nB. she\n{ONLY}"
    assert item.source.path.exists()
    row = {"video_path": "Cm73ma6Ibcs.mp4", "question": "Who?", "options": ["(A) he", "(B) she"], "answer": "B"}
    parquet(tmp_path / "hub/data/train-0.parquet", [row])
    _, (item,) = load("lvbench", tmp_path / "hub")
    assert (item.options, item.answer, item.video) == (("he", "she"), "B", "Cm73ma6Ibcs")


def test_videoevalpro(tmp_path):
    row = {
        "video": "x.mp4", "question": "Who?", "answer": "C", "answer_text": "it", "meta": "", "source": "mlvu",
        "qa_subtype": "s", "qa_type": "Local Reasoning", "options": ["A. he", "B. she", "C. it"],
    }  # fmt: skip
    parquet(tmp_path / "data/test-00000-of-00001.parquet", [row])
    film(tmp_path / "videos/videos_filtered/x.mp4")
    benchmark, (item,) = load("videoevalpro", tmp_path)
    assert (item.answer, item.source.path.exists()) == ("C", True)
    assert benchmark.prompt(item) == f"Who?\nA. he\nB. she\nC. it\n{ONLY}"


@pytest.mark.parametrize("name", [*SHORT, *LONG])
def test_the_error_about_an_empty_folder_names_what_was_looked_for(tmp_path, name):
    with pytest.raises(InputError, match=r"none of .* is in .*; get it: .*(huggingface|github)"):
        load(name, tmp_path)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "videomme/test-00000-of-00001.parquet"
    videomme(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"parquet: cannot be read .*half downloaded"):
        load("videomme", tmp_path)
    parquet(path, [{key: value for key, value in VIDEOMME.items() if key != "options"}])
    with pytest.raises(InputError, match=r"row 1: column 'options' is missing; it has"):
        load("videomme", tmp_path)
    parquet(path, [{**VIDEOMME, "answer": "E"}])
    with pytest.raises(InputError, match="answer 'E' of 4 options"):
        load("videomme", tmp_path)
    parquet(path, [VIDEOMME, VIDEOMME])
    with pytest.raises(InputError, match="row 2: id '001-1': must be unique; a row before has it"):
        load("videomme", tmp_path)


def test_the_list_names_the_papers_thirteen_and_the_built_in_ones():
    rows = {row["name"]: row for row in describe()}
    assert (len(SHORT), len(LONG), list(rows)) == (7, 6, list(NAMES))
    assert [name for name in rows if rows[name]["class"] == "long"] == [*LONG, "shapes_long"]
    assert get_benchmark("videomme").where == "https://huggingface.co/datasets/lmms-lab/Video-MME"
    assert rows["longvideobench"]["terms"] == "https://huggingface.co/datasets/longvideobench/LongVideoBench"
    assert all(row["class"] in ("short", "long") and row["splits"] and row["scorings"] for row in rows.values())
    with pytest.raises(InputError, match="did you mean 'tomato'"):
        get_benchmark("tomatto")
    with pytest.raises(InputError, match="--split tset: is no split of tomato; did you mean 'test'"):
        get_benchmark("tomato").check_split("tset")
