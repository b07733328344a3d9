"""`stts ask` from end to end, on a tiny checkpoint with random weights: real video, real model, real command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from stts_cli import cli
from stts_cli.media.resize import NOTE
from tests.conftest import own_lines

NUM_FRAMES, WINDOWS = 6, 9


@pytest.fixture
def ask(clip_file, tiny_checkpoint, capsys):
    """Run `stts ask` on the five-second clip; return stdout and stderr."""

    def run(*arguments: str, model=tiny_checkpoint) -> tuple[str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(
                ["ask", str(clip_file), *arguments, "--model", str(model), "--max-fps", "1", "--max-new-tokens", "4"]
            )
        out, err = capsys.readouterr()
        assert end.value.code == 0, err
        return out, err

    return run


def test_json_is_one_document_and_nothing_else(ask):
    out, err = ask("What is it?", "--json")
    document = json.loads(out)
    assert "demonstration model" in err
    (arm,) = document["arms"]
    assert (arm["name"], arm["scorer"], arm["keep_ratio"], arm["prune_layer"]) == ("pruned", "learned", 0.5, 3)
    assert (arm["num_windows"], arm["num_windows_kept"]) == (NUM_FRAMES * WINDOWS, NUM_FRAMES * WINDOWS / 2)
    assert sum(arm["kept_per_frame"]) == arm["num_windows_kept"]
    assert arm["kept_per_frame"][0] == WINDOWS, "the first frame is always kept"
    assert document["video"]["timestamps_s"] == [0, 1, 2, 3, 4, 4.9]
    savings = arm["answers"][0]["savings"]
    assert savings["tokens"]["visual tokens"] == {"dense": 54, "pruned": 27}
    prompt = savings["tokens"]["LLM prompt"]
    assert prompt["dense"] - prompt["pruned"] == 27
    assert prompt["pruned"] == arm["answers"][0]["num_prompt_tokens"]
    assert arm["peak_bytes"] > 10e6
    for stage in ("preprocess", "vit_dense", "score_select_pack", "vit_packed", "connector", "llm_prefill", "decode"):
        assert arm["seconds"][stage] > 0


def test_the_decoder_may_resize_and_says_so(ask):
    document = json.loads(ask("What is it?", "--json")[0])
    assert document["video"]["resize"] == "model"
    out, err = ask("What is it?", "--json", "--resize", "decoder")
    document = json.loads(out)
    assert document["video"]["resize"] == "decoder"
    assert NOTE in document["notes"]
    assert f"stts: {NOTE}" in err


def test_a_budget_below_the_first_frame_is_clamped_and_said(ask):
    out, err = ask("What is it?", "--json", "--frames", "3", "--keep-ratio", "0.2")
    document = json.loads(out)
    note = "keep ratio 0.2 of 3 frames: the first frame always stays, so 9 of 27 windows were kept instead of 6"
    assert note in document["notes"]
    assert note in err
    assert document["arms"][0]["kept_per_frame"] == [9, 0, 0]


def test_quiet_prints_the_answers_only_and_the_same_ones(ask):
    out, err = ask("What is it?", "And now?", "--quiet")
    assert own_lines(err) == []
    assert len(out.splitlines()) == 2
    document = json.loads(ask("What is it?", "And now?", "--json")[0])
    for line, reply in zip(out.split("\n")[:-1], document["arms"][0]["answers"], strict=True):
        said = " ".join(reply["text"].split())
        assert len(line) == len(said)
        assert all(shown in (letter, "\ufffd") for shown, letter in zip(line, said, strict=True))
        assert line.isprintable(), "nothing may steer the terminal"


def test_answers_do_not_depend_on_what_else_is_asked(ask):
    together = json.loads(ask("What is it?", "And now?", "--json")[0])["arms"][0]["answers"]
    alone = json.loads(ask("And now?", "--json")[0])["arms"][0]["answers"]
    assert together[1]["text"] == alone[0]["text"]
    assert together[1]["savings"] == alone[0]["savings"]


def test_the_table_names_both_ratios_and_every_part(ask):
    out, err = ask("What is it?", "--keep-ratio", "0.25")
    assert "keep ratio 0.25 (drop ratio 0.75): 14 of 54 windows kept" in out
    for words in ("ViT patches", "LLM prompt", "FLOPs, scorer", "FLOPs, total", "time, LLM prefill", "peak memory"):
        assert words in out
    assert "nothing was pruned" not in err


@pytest.mark.parametrize("arguments", [["--keep-ratio", "1"], ["--scorer", "none"], ["--frames", "1"]])
def test_nothing_pruned_is_said(ask, arguments):
    out, err = ask("What is it?", *arguments)
    assert "nothing was pruned" in err
    assert "drop ratio" not in out


def test_compare_shows_both_arms(ask):
    document = json.loads(ask("What is it?", "--compare", "--json")[0])
    pruned, dense = document["arms"]
    assert (pruned["name"], dense["name"]) == ("pruned", "dense")
    assert dense["num_windows_kept"] == 54
    assert dense["answers"][0]["num_prompt_tokens"] - pruned["answers"][0]["num_prompt_tokens"] == 27
    out, _ = ask("What is it?", "--compare")
    first_token = next(line for line in out.splitlines() if line.startswith("time to first token")).split()
    assert sum(word.endswith("s") for word in first_token[4:]) == 2, "both arms are timed"


def test_compare_takes_ratios_that_two_frames_could_not_honour(ask):
    pruned, dense = json.loads(ask("What is it?", "--compare", "--keep-ratio", "0.25", "--json")[0])["arms"]
    assert pruned["num_windows_kept"] < dense["num_windows_kept"] / 3


def test_options_are_ranked(ask):
    out, _ = ask("What is it?", "--json", "--options", "red", "green", "blue")
    reply = json.loads(out)["arms"][0]["answers"][0]
    assert reply["text"] == max(reply["options"], key=lambda option: option["log_likelihood"])["text"]
    out, _ = ask("What is it?", "--options", "red", "green", "blue")
    assert out.splitlines()[0] == reply["text"]
    assert out.count("%  ") == 3


def test_a_checkpoint_without_a_scorer_falls_back_and_says_so(ask, tiny_checkpoint, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(tiny_checkpoint, plain)
    (plain / "stts.json").unlink()
    out, err = ask("What is it?", "--json", model=plain)
    assert json.loads(out)["arms"][0]["scorer"] == "temporal"
    assert "no learned scorer" in err
    assert "demonstration" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "./no/such/folder"], "no/such/folder"),
        (["--prune-layer", "lst"], "--prune-layer lst: must be a whole number, at least 0, or last."),
        (["--prune-layer", "6"], "--prune-layer 6: must be 0 to 5; 8 ViT blocks run"),
        (["--keep-ratio", "0"], "--keep-ratio 0.0: must be greater than 0 and at most 1."),
        (["--options", "red"], "at least two"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_2(clip_file, tiny_checkpoint, capsys, arguments, words):
    model = [] if "--model" in arguments else ["--model", str(tiny_checkpoint)]
    with pytest.raises(SystemExit) as end:
        cli.main(["ask", str(clip_file), "What is it?", *model, *arguments])
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == ""
    assert words in err
    assert len(own_lines(err)) == 1


def test_pruning_behind_the_encoder_saves_in_the_language_model_alone(ask):
    out, _ = ask("What is it?", "--json", "--prune-layer", "last", "--keep-ratio", "0.5")
    (arm,) = json.loads(out)["arms"]
    savings = arm["answers"][0]["savings"]
    assert arm["prune_layer"] == "last"
    assert arm["num_windows_kept"] == arm["num_windows"] / 2
    for part in ("patch embedding", "ViT dense blocks", "ViT packed blocks"):
        assert savings["flops"][part]["dense"] == savings["flops"][part]["pruned"], part
    assert savings["flops"]["LLM prefill"]["pruned"] < savings["flops"]["LLM prefill"]["dense"]
    assert savings["tokens"]["ViT patches"]["dense"] == savings["tokens"]["ViT patches"]["pruned"]


@pytest.fixture
def asked(tiny_checkpoint, capsys):
    """Run `stts ask` on any words; return the exit code, stdout and our own lines on stderr."""

    def run(*words: str) -> tuple[int, str, list[str]]:
        with pytest.raises(SystemExit) as end:
            cli.main(["ask", *map(str, words), "--model", str(tiny_checkpoint), "--max-new-tokens", "2"])
        out, err = capsys.readouterr()
        return end.value.code, out, own_lines(err)

    return run


@pytest.fixture
def folder(clip_file, tmp_path):
    """A folder of three videos, the second of which is none."""
    found = tmp_path / "films"
    found.mkdir()
    for name in ("1.mp4", "10.mp4"):
        shutil.copy(clip_file, found / name)
    (found / "2.mp4").write_text("no video")
    return found


def test_several_videos_share_one_load_and_a_broken_one_is_a_line(asked, folder, monkeypatch):
    from stts_cli.engine import model

    loaded = []
    load = model.load_checkpoint
    monkeypatch.setattr(model, "load_checkpoint", lambda *given, **more: loaded.append(1) or load(*given, **more))
    code, out, err = asked(folder, "What is it?", "--json", "--frames", "2")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["video"]["path"] for row in rows] == [str(folder / name) for name in ("1.mp4", "2.mp4", "10.mp4")]
    assert rows[0]["arms"][0]["answers"][0]["text"] == rows[2]["arms"][0]["answers"][0]["text"]
    assert rows[1]["error"].startswith(f"{folder / '2.mp4'}: cannot be read as a video")
    assert (code, len(loaded)) == (2, 1)
    assert err[-1].startswith(f"stts: 1 of 3 videos were not answered; the first, {folder / '2.mp4'}: cannot")
    _, out, _ = asked(folder, "What is it?", "--quiet", "--frames", "2")
    assert [line.split("\t")[0] for line in out.splitlines()] == [str(folder / "1.mp4"), str(folder / "10.mp4")]


def test_a_file_of_lines_goes_on_where_it_stopped(asked, folder, tmp_path):
    output = tmp_path / "answers.jsonl"
    command = (folder, "What is it?", "--json", "--frames", "2", "--output", output)
    assert asked(*command)[0] == 2
    first, *rest = output.read_text().splitlines(keepends=True)
    output.write_text(first + rest[1][:40])
    code, out, err = asked(*command)
    assert f"stts: {output}: its last line was cut; that video is asked again." in err
    assert [json.loads(line)["video"]["path"][-6:] for line in out.splitlines()] == ["/2.mp4", "10.mp4"]
    kept = [json.loads(line) for line in output.read_text().splitlines()]
    assert ["error" in row for row in kept] == [False, True, False]
    assert code == 2
    (folder / "2.mp4").unlink()
    code, out, err = asked(*command)
    assert (code, out, err) == (0, "", [f"stts: {output}: all videos are answered in it."])
    code, _, err = asked(*command[:1], "Another?", *command[2:])
    assert (code, err) == (2, [f"stts: {output}:1: is of other questions or settings; name another file."])
    output.write_text("no JSON\n")
    assert asked(*command)[2] == [f"stts: {output}:1: is no line of `stts ask --output`; name another file."]


@pytest.mark.parametrize("with_output", [False, True])
def test_ctrl_c_among_several_videos_says_how_to_go_on(asked, folder, tmp_path, monkeypatch, with_output):
    from stts_cli.engine.model import VideoModel

    (folder / "2.mp4").unlink()
    whole, seen = VideoModel.encode, []

    def encode(*args, **given):
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return whole(*args, **given)

    output = tmp_path / "answers.jsonl"
    command = (folder, "What is it?", "--json", "--frames", "2", *(["--output", output] if with_output else []))
    with monkeypatch.context() as patch:
        patch.setattr(VideoModel, "encode", encode)
        code, out, err = asked(*command)
    how = f"{output} has them; the" if with_output else "with --output FILE the"
    assert (code, err[-1]) == (130, f"stts: stopped after 1 of 2 videos; {how} same command goes on.")
    assert len(out.splitlines()) == 1
    if with_output:
        assert len(output.read_text().splitlines()) == 1
        assert len(asked(*command)[1].splitlines()) == 1, "the second alone"


def test_a_cut_answer_is_a_note_in_the_json_too(asked, clip_file):
    _, out, err = asked(clip_file, "What is it?", "--json", "--frames", "2")
    document = json.loads(out)
    note = "an answer was cut at 2 tokens; raise --max-new-tokens"
    assert (note in document["notes"]) is (not document["arms"][0]["answers"][0]["finished"]) is True
    assert err.count(f"stts: {note}") == 1


def test_a_part_and_times_of_ones_own(ask, tmp_path):
    video = json.loads(ask("What?", "--start", "0:02", "--end", "4", "--json")[0])["video"]
    assert (video["timestamps_s"], video["start_s"], video["frames_per_s"]) == ([0.0, 1.0, 2.0], 2.0, 1.0)
    out, _ = ask("What?", "--start", "2", "--end", "4")
    assert "3 of 50 frames, 2.0 to 4.0 s of 5.0 s, 1 a second, " in out


def test_frames_at_times_of_ones_own(asked, clip_file):
    code, out, err = asked(clip_file, "What?", "--at", "3,1.55,0:04.9", "--json")
    assert json.loads(out)["video"]["timestamps_s"] == [1.5, 3.0, 4.9], "what is on screen then"
    code, _, err = asked(clip_file, "What?", "--at", "1,7", "--quiet")
    assert code == 2
    assert err == [f"stts: --at 7: is behind the end of {clip_file}; its last frame is at 4.9 s."]


@pytest.mark.parametrize("by", ["tokens", "flops"])
def test_a_budget_buys_more_frames_and_dense_stands_beside_them(asked, clip_file, by):
    code, out, err = asked(clip_file, "What?", "--budget", "4", "--budget-by", by, "--prune-ratio", "0.75", "--json")
    pruned, dense = json.loads(out)["arms"]
    assert (code, pruned["keep_ratio"], dense["name"]) == (0, 0.25, "dense, at most 4 frames")
    found, costs = [len(arm["kept_per_frame"]) for arm in (pruned, dense)], []
    for arm in (pruned, dense):
        costs.append(arm["answers"][0]["savings"]["flops"]["total"]["pruned"])
    assert found[1] == 4
    if by == "tokens":
        assert found[0] == 11, "16 would be paid for, 11 are there"
        assert "stts: --budget 4 pays for 16 frames, 11 were there at 2 a second; --max-fps may give more" in err
    else:
        assert 4 < found[0] < 11
        assert costs[0] <= 1.02 * costs[1]
    _, out, _ = asked(clip_file, "What?", "--budget", "4", "--budget-by", by)
    assert any(line.split() == ["pruned", "dense,", "at", "most", "4", "frames"] for line in out.splitlines())


def test_questions_from_a_file_and_subtitles(asked, clip_file, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "Which?", "options": ["a", "b"]}\n{"question": "Why?"}\n')
    (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nhello there\n")
    command = (clip_file, "--questions", tmp_path / "q.jsonl", "--frames", "2", "--json")
    plain = json.loads(asked(*command)[1])["arms"][0]["answers"]
    assert [(reply["question"], bool(reply["options"])) for reply in plain] == [("Which?", True), ("Why?", False)]
    spoken = json.loads(asked(*command, "--subtitles", tmp_path / "a.srt")[1])["arms"][0]["answers"]
    assert spoken[1]["num_prompt_tokens"] > plain[1]["num_prompt_tokens"] + len("hello there")
    late = (clip_file, "Why?", "--at", "4.9", "--json")
    far = [asked(*late, *more)[1] for more in ([], ["--subtitles", tmp_path / "a.srt"])]
    lengths = [json.loads(out)["arms"][0]["answers"][0]["num_prompt_tokens"] for out in far]
    assert lengths[0] == lengths[1], "nothing is said near that frame"


def test_a_pipe_is_a_video_and_a_process_of_its_own_reads_it(clip_file, tiny_checkpoint):
    program = [sys.executable, "-m", "stts_cli.cli", "ask", "-", "What?", "--model", str(tiny_checkpoint), "--json"]
    with clip_file.open("rb") as pipe:
        done = subprocess.run(program, stdin=pipe, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    video = json.loads(done.stdout)["video"]
    assert (video["path"], video["num_source_frames"], video["backend"]) == ("standard input", 50, "pyav")


def test_a_broken_video_is_neither_drawn_nor_a_bug(asked, folder, tmp_path):
    code, _, err = asked(folder / "2.mp4", "What?", "--save-kept", tmp_path / "k.png", "--quiet")
    assert (code, len(err)) == (2, 1)
    assert "cannot be read as a video" in err[0]


def test_a_dead_address_among_several_videos_is_a_line(asked, clip_file):
    address = "http://127.0.0.1:9/x.mp4"
    code, out, _ = asked(address, clip_file, "What?", "--frames", "2", "--json")
    dead, whole = (json.loads(line) for line in out.splitlines())
    assert (code, dead["video"]["path"], whole["video"]["path"]) == (2, address, str(clip_file))
    assert "cannot be fetched" in dead["error"]


def test_lines_are_known_by_the_files_not_by_their_names(asked, tmp_path):
    from PIL import Image

    for name in ("1.png", "5.png", "9.png"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    output = tmp_path / "o.jsonl"
    for number, second in enumerate(("5.png", "9.png", "9.png")):
        code, _, _ = asked(tmp_path / "1.png", tmp_path / second, "What?", "--quiet", "--output", output)
        assert code == 0
        assert len(output.read_text().splitlines()) == min(number + 1, 2)
    code, _, err = asked(tmp_path / "1.png", "What?", "--output", tmp_path / "no" / "o.jsonl", "--quiet")
    assert (code, err) == (3, [f"stts: {tmp_path / 'no' / 'o.jsonl'}: cannot be written (No such file or directory)."])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--budget-by", "flops"], "--budget-by flops: says how --budget is counted; give --budget too."),
        (["--budget-pixels", "total"], "--budget-pixels total: says what --budget holds; give --budget too."),
        (["--budget", "0"], "--budget 0: must be at least 1."),
        (
            ["--at", "1", "--compare", "dense@2f"],
            "--compare dense@2f: says how many frames; it cannot stand with --at.",
        ),
        (["--keep-ratio", "1", "--compare"], "--compare dense: is the same run as the one that it is compared with"),
        (
            ["--budget", "4", "--compare", "dense"],
            "--compare dense: is the same run as dense, at most 4 frames; leave it",
        ),
        (["--compare", "random,random"], "--compare random: is the same run as random; leave it out."),
        (["--max-fps", "inf"], "--max-fps inf: must be"),
    ],
)
def test_runs_that_are_the_same_or_flags_without_effect_are_refused(asked, clip_file, flags, words):
    code, _, err = asked(clip_file, "What?", "--quiet", *flags)
    assert code == 2
    assert words in err[0]
