"""`stts ask` from end to end, on a tiny checkpoint with random weights: real video, real model, real command line."""

from __future__ import annotations

import json
import shutil

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
