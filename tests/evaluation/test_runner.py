"""A run that is killed, split over processes or stopped ends in the result of one that was not."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stts_cli import cli
from stts_cli.engine.model import VideoModel
from stts_cli.errors import InputError, Interrupted
from stts_cli.evaluation.gather import gather
from stts_cli.evaluation.runner import Run, evaluate
from stts_cli.media import reader
from stts_cli.media.resize import NOTE
from tests.conftest import own_lines
from tests.media import workers

REPOSITORY = Path(__file__).parent.parent.parent
FILES = ["plot.svg", "results.html", "results.json", "results.md", "samples.jsonl"]


@pytest.fixture
def words(tiny_checkpoint):
    """The command line of a run over three scenes, in part, under both arms."""
    return [
        "eval", "--bench", "shapes", "--limit", "30", "--frames", "3", "--compare", "--model", str(tiny_checkpoint),
        "--workers", "0", "--max-new-tokens", "8",
    ]  # fmt: skip


# the command line, which sends itself a signal when it has written some answers
STRUCK = """
import os, signal, sys
from stts_cli import cli
from stts_cli.evaluation.journal import Journal

append, left = Journal.append, [int(sys.argv[1])]

def strike(self, row):
    append(self, row)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), int(sys.argv[2]))

Journal.append = strike
cli.main(sys.argv[3:])
"""


def start(words, program=("-m", "stts_cli.cli"), **environment):
    return subprocess.Popen(
        [sys.executable, *program, *words],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a shell that runs the tests in the background has Ctrl-C ignored, and processes inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        text=True,
    )


def finish(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    said = capsys.readouterr()
    assert end.value.code == 0, said.err
    return said


def result(folder: Path):
    assert sorted(path.name for path in folder.iterdir()) == FILES
    return json.loads((folder / "results.json").read_text())


def rows(folder: Path):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_as_never_killed(words, tmp_path, capsys, without_times):
    finish([*words, "--output", str(tmp_path / "whole")], capsys)
    whole = rows(tmp_path / "whole")
    folder = tmp_path / "killed"
    journal = folder / "samples.rank0.jsonl"
    process = start([*words, "--output", str(folder)], ("-c", STRUCK, "7", str(signal.SIGKILL.value)))
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    kept = journal.read_bytes()
    assert kept.count(b"\n") == 1 + 7 < len(whole)
    journal.write_bytes(kept + b'{"arm": "dense", "id": "sha')  # killed in the middle of a line
    said = finish([*words, "--output", str(folder)], capsys)
    assert "7 of 60 answers were there already" in said.err
    assert without_times(rows(folder)) == without_times(whole)
    assert without_times(result(folder)) == without_times(result(tmp_path / "whole"))
    fewer = [word for word in words if word != "--compare"]
    for others, sentence in (([*words, "--keep-ratio=0.3"], "with arms."), (fewer, "with the arm dense too")):
        with pytest.raises(SystemExit) as end:
            cli.main([*others, "--output", str(folder)])
        assert end.value.code == 2
        assert f"holds a run {sentence}" in capsys.readouterr().err


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(words, tmp_path, capsys, without_times, free_port):
    finish([*words, "--output", str(tmp_path / "one")], capsys)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port}
    pair = [start([*words, "--output", str(tmp_path / "two"), "--json"], RANK=rank, **shared) for rank in "01"]
    said = [process.communicate() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert said[1][0] == "", "only the first process reports"
    assert without_times(result(tmp_path / "two")) == without_times(result(tmp_path / "one"))
    assert without_times(rows(tmp_path / "two")) == without_times(rows(tmp_path / "one"))
    assert without_times(json.loads(said[0][0])["samples"]) == without_times(rows(tmp_path / "one")[1:])


AT_ITS_END = """
import atexit
from pathlib import Path
atexit.register(lambda: print(*{task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")}))
from stts_cli.evaluation.ranks import Ranks
print(Ranks().collect("here"))
import torch.distributed.nn.functional  # as models do; its functions' defaults take hold of a group that is there
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are named in /proc")
def test_no_thread_of_the_group_outlives_it(free_port):
    """One that still ran when the interpreter ended aborted the process, one time in thirty. Under mpirun's names."""
    shared = {**os.environ, "PMI_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port}
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ITS_END], env={**shared, "PMI_RANK": rank}, stdout=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    for out in [process.communicate()[0] for process in pair]:
        answers, threads = out.splitlines()
        assert answers == "['here', 'here']"
        assert "gloo" not in threads


def test_both_processes_have_work():
    from stts_cli.evaluation.ranks import Ranks

    ranks = [Ranks({"RANK": "0", "WORLD_SIZE": "1"}) for _ in range(2)]
    ranks[1].rank, ranks[0].size, ranks[1].size = 1, 2, 2
    assert [each.share("abcde") for each in ranks] == [["a", "c", "e"], ["b", "d"]]


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(words, tmp_path, capsys):
    folder = tmp_path / "stopped"
    more = ["--output", str(folder), "--workers", "1"]
    process = start([*words, *more], ("-c", STRUCK, "2", str(signal.SIGINT.value)))
    out, err = process.communicate()
    assert (process.returncode, out) == (130, ""), err
    assert "the same command continues the run" in err
    assert "Traceback" not in err
    finish([*words, "--output", str(folder)], capsys)
    assert result(folder)["arms"]["dense"]["n"] > 0


def run_file(items_file, arms, **settings):
    questions = gather(str(items_file))
    wanted = {"arms": arms, "workers": 0, "max_new_tokens": 2, **settings}
    return evaluate(Run(questions=questions, **wanted))


def test_videos_too_short_for_their_budget_are_counted_once(items_file, arms):
    document = run_file(items_file, [dataclasses.replace(arms[1], frames=2, keep_ratio=0.2)])
    words = (
        "2 of 2 videos; the first, keep ratio 0.2 of 2 frames: the first frame always stays, so 9 of 18 windows were"
    )
    assert [note for note in document["notes"] if words in note] == [f"{arms[1].name}: {words} kept instead of 4"]
    assert all(row["visual_tokens"] == 9 for row in document["samples"])


def test_a_prune_layer_out_of_range_ends_the_run_before_it_starts(items_file, arms):
    with pytest.raises(InputError, match=r"^--prune-layer 6: must be 0 to 5; 8 ViT blocks run"):
        run_file(items_file, [dataclasses.replace(arms[1], prune_layer=6)])


def test_a_broken_video_is_an_error_row_and_is_tried_again(items_file, arms, tmp_path):
    video = items_file.parent / "two.mp4"
    good = video.read_bytes()
    video.write_bytes(good[:200])
    document = run_file(items_file, arms, output=tmp_path / "out", workers=1)
    for arm in document["arms"].values():
        assert (arm["n"], arm["n_errors"], arm["n_total"]) == (2, 2, 4)
    assert "two.mp4" in document["failed"]["two.mp4"]
    assert any("1 videos failed" in note for note in document["notes"])
    broken = [row for row in document["samples"] if row["video"] == "two.mp4"]
    assert len(broken) == 4
    assert all(row["error"] and row["correct"] is None for row in broken)
    video.write_bytes(good)
    document = run_file(items_file, arms, output=tmp_path / "out")
    assert [(arm["n"], arm["n_errors"]) for arm in document["arms"].values()] == [(4, 0), (4, 0)]
    for path in items_file.parent.glob("*.mp4"):
        path.write_bytes(b"no video")
    with pytest.raises(InputError, match="no question could be answered; the first: "):
        run_file(items_file, arms)


@pytest.mark.slow
def test_a_video_that_hangs_is_an_error_row(items_file, arms, monkeypatch, tmp_path):
    monkeypatch.setattr(reader, "_serve", workers.serve_all_but_two)
    workers.late_once_hanging(monkeypatch, items_file.parent)
    document = run_file(items_file, arms, workers=1, timeout_s=0.1, output=tmp_path / "out")
    for arm in document["arms"].values():
        assert (arm["n"], arm["n_errors"]) == (2, 2)
    kept = [row for row in rows(tmp_path / "out")[1:] if row["video"] == "two.mp4"]
    assert [row["error"] for row in kept] == ["the decoder did not finish in 0.1 s"] * 4


def log_asking(monkeypatch):
    """Note each encoded clip as None and each question as (prompt, context); stop when `limit[0]` are answered."""
    calls, limit = [], [None]
    encode, ask = VideoModel.encode, VideoModel.ask

    def encode_and_note(self, clip):
        calls.append(None)
        return encode(self, clip)

    def ask_and_note(self, video, question, *, context, **given):
        if len(calls) - calls.count(None) == limit[0]:
            raise KeyboardInterrupt
        calls.append((question, context))
        return ask(self, video, question, context=context, **given)

    monkeypatch.setattr(VideoModel, "encode", encode_and_note)
    monkeypatch.setattr(VideoModel, "ask", ask_and_note)
    return calls, limit


def test_an_interrupted_run_without_a_folder_says_so(items_file, arms, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoModel, "encode", stop)
    with pytest.raises(Interrupted, match=r"0 of 8 answers; nothing was kept; --output DIR"):
        run_file(items_file, arms)


def test_a_video_is_encoded_once_an_arm_whatever_is_asked(items_file, arms, monkeypatch):
    calls, _ = log_asking(monkeypatch)
    document = run_file(items_file, arms)
    assert [call is None for call in calls] == [True, False, False] * 4, "each encoded once, and asked both"
    assert calls[1][0] == (
        "What is it?\nA. a dog\nB. a cat\nAnswer with the option's letter from the given choices directly."
    )
    first, second = document["samples"][0], document["samples"][2]
    assert first["prompt"] == second["prompt"], "the same words about the same frames"


def test_subtitles_stand_behind_the_video(items_file, arms, monkeypatch):
    rows = [json.loads(line) for line in items_file.read_text().splitlines()]
    rows[1]["subtitles"] = [[0.0, 0.4, "hello"], [100.0, 101.0, "too late"]]
    items_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    calls, _ = log_asking(monkeypatch)
    document = run_file(items_file, arms[1:])
    questions, contexts = zip(*calls[1:3], strict=True)
    assert list(contexts) == ["", "subtitle\n0.0 - 0.4 hello\n"]
    assert all(question.startswith("What is it?\nA. a dog") for question in questions)
    without, with_subtitles = document["samples"][:2]
    assert with_subtitles["tokens_in"] - without["tokens_in"] == len(contexts[1]), "a letter is a token here"
    assert with_subtitles["prompt"] != without["prompt"]


def test_a_video_half_answered_is_asked_the_rest_and_nothing_twice(
    items_file, arms, tmp_path, monkeypatch, without_times
):
    whole = run_file(items_file, arms, output=tmp_path / "whole")
    calls, limit = log_asking(monkeypatch)
    limit[0] = 3
    with pytest.raises(Interrupted, match="3 of 8 answers; the same command"):
        run_file(items_file, arms, output=tmp_path / "half")
    assert [row["id"] for row in rows_of(tmp_path / "half/samples.rank0.jsonl")] == ["one-0", "one-1", "one-0"]
    limit[0] = None
    resumed = run_file(items_file, arms, output=tmp_path / "half")
    assert len(calls) - calls.count(None) == 8
    assert without_times(resumed) == without_times(whole)
    assert without_times(rows(tmp_path / "half")) == without_times(rows(tmp_path / "whole"))


def test_answers_to_frames_resized_in_two_ways_do_not_mix(items_file, arms, tmp_path):
    run_file(items_file, arms, output=tmp_path / "out")
    by_decoder = [dataclasses.replace(arm, resize="decoder") for arm in arms]
    with pytest.raises(InputError, match=r"arms\.dense\.resize 'model', this one has 'decoder'"):
        run_file(items_file, by_decoder, output=tmp_path / "out")
    assert NOTE in run_file(items_file, by_decoder)["notes"]


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()][1:]


def test_a_question_that_cannot_be_asked_does_not_take_its_siblings_along(items_file, arms):
    rows = [json.loads(line) for line in items_file.read_text().splitlines()]
    rows[0]["question"] = "x" * 5000
    items_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = run_file(items_file, arms)
    for arm in document["arms"].values():
        assert (arm["n"], arm["n_errors"]) == (3, 1)
    assert "tokens, the model takes 4096" in document["failed"]["one.mp4"]


FIELDS = """arm id video segment groups question answer chance prompt text finished parsed correct counted num_frames
tokens_in visual_tokens visual_tokens_dense flops peak_bytes backend reading""".split()
SETTINGS = "model revision frames max_fps resize keep_ratio scorer prune_layer dtype quantize weights seed".split()


def test_a_line_says_everything_about_an_answer_and_the_first_about_the_run(items_file, arms, tmp_path):
    run_file(items_file, arms, output=tmp_path)
    first, *lines = rows(tmp_path)
    assert all(list(line) == FIELDS for line in lines)
    config = first["config"]
    assert {"bench", "split", "questions", "items", "scoring", "seed", "max_new_tokens", "device"} < set(config)
    assert [list(arm) for arm in config["arms"].values()] == [SETTINGS, SETTINGS]
    assert {"stts", "torch", "transformers", "decord2", "av", "numpy"} <= set(config["versions"])


def test_many_arms_are_paired_with_the_first_and_among_each_other(items_file, tiny_checkpoint, tmp_path, capsys):
    import shutil

    from safetensors.torch import load_file, save_file

    other = tmp_path / "trained"
    shutil.copytree(tiny_checkpoint, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: weight * 1.1 for name, weight in weights.items()}, other / "model.safetensors", {"format": "pt"})
    words = ["eval", "--bench", str(items_file), "--model", str(tiny_checkpoint), "--frames", "4", "--workers", "0"]
    words += ["--max-new-tokens", "2", "--json", "--compare", f"0.75,random@0.3,{other}@0.5", "--compare"]
    document = json.loads(finish([*words, "dense"], capsys).out)
    names = ["dense", "pruned", "keep 0.75", "random@0.3", f"{other}@0.5"]
    assert list(document["arms"]) == list(document["config"]["arms"]) == names
    assert [(each["arm"], each["against"]) for each in document["comparisons"]] == [(n, "dense") for n in names[1:]]
    assert len(document["other_pairs"]) == 4 * 3 // 2
    kept = [(arm["scorer"], arm["keep_ratio"]) for arm in document["config"]["arms"].values()]
    assert kept == [("none", 1.0), ("learned", 0.5), ("learned", 0.75), ("random", 0.3), ("learned", 0.5)]
    tokens = [arm["visual_tokens"] for arm in document["arms"].values()]
    assert tokens[0] > tokens[2] > tokens[1] == tokens[4] > tokens[3]
    hashes = [arm["weights"] for arm in document["config"]["arms"].values()]
    assert len(set(hashes)) == 2
    assert hashes[4] != hashes[0], "another checkpoint"
    assert {len([row for row in document["samples"] if row["arm"] == name]) for name in names} == {4}
    words[words.index("--json")] = "--seed=0"
    table = finish([*words, "dense"], capsys).out
    for name in names[:-1]:
        assert [line for line in table.splitlines() if line.startswith(f"{name} ")], "a row an arm"


def test_test_time_scaling_spends_the_savings_on_frames(tiny_checkpoint, capsys):
    words = ["eval", "--bench", "shapes", "--limit", "2", "--frames", "4", "--max-fps", "8", "--keep-ratio", "0.5"]
    said = finish([*words, "--test-time-scaling", "--model", str(tiny_checkpoint), "--workers", "0", "--json"], capsys)
    document = json.loads(said.out)
    arms = document["arms"]
    assert {name: arm["frames"] for name, arm in document["config"]["arms"].items()} == {
        "pruned": 4,
        "pruned, more frames": 8,
        "dense": 4,
    }
    assert arms["pruned, more frames"]["visual_tokens"] == arms["dense"]["visual_tokens"]
    assert list(arms) == ["dense", "pruned", "pruned, more frames"]
    assert [(each["arm"], each["against"]) for each in document["comparisons"]] == [
        ("pruned", "dense"),
        ("pruned, more frames", "dense"),
    ]


@pytest.mark.parametrize(
    ("more", "words_said"),
    [
        (["--compare", "0.5", "--keep-ratio", "0.5"], "the arms pruned and keep 0.5 are the same"),
        (["--compare", "random,random"], "two arms are random"),
        (["--compare", "learned"], "the arms pruned and learned are the same"),
        (["--compare", "sideways"], "must be dense, a keep ratio, a scorer, a preset or a checkpoint"),
        (["--compare", "./nowhere@0.5"], "there is no folder ./nowhere"),
        (["--compare", "dense", "--test-time-scaling"], "leave one out"),
        (["--scoring", "official"], "--scoring official: is not a rule of this benchmark; shapes has strict, relaxed."),
        (["--split", "train"], "--split train: is no split of shapes"),
        (["--bench", "shappes"], "did you mean 'shapes'"),
        (["--bench", "all-short", "--split", "test"], "--split: must be left out, or one benchmark named"),
        (["--bench", "nextqa", "--data-dir", "nowhere"], "--data-dir nowhere: is no folder"),
        (["--limit", "0"], "--limit 0: must be at least 1."),
        (["--max-new-tokens", "0"], "--max-new-tokens 0: must be at least 1."),
        (["--workers", "-1"], "--workers -1: must be at least 0."),
        (["--timeout", "-1"], "--timeout -1: must be seconds, greater than 0."),
        (["--timeout", "inf"], "--timeout inf: must be seconds, greater than 0."),
        (["--timeout", "nan"], "--timeout nan: must be seconds, greater than 0."),
    ],
)
def test_bad_input_is_one_line_and_exit_2(more, words_said, tiny_checkpoint, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["eval", "--bench", "shapes", "--videos", "1", "--model", str(tiny_checkpoint), *more])
    said = capsys.readouterr()
    assert (end.value.code, said.out) == (2, "")
    (line,) = own_lines(said.err)
    assert words_said in line
