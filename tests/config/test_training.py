"""Training presets: stages, ranges, and numbers as people write them."""

from __future__ import annotations

import pytest

from stts_cli.config.training import Stage, keep_ratios, read_stages
from stts_cli.errors import InputError
from stts_cli.media.resize import RESIZES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", ": holds a list; must be 'key: value' lines."),
        ("a: [", ":1: is not valid YAML: expected the node content, but found '<stream end>'."),
        ("lr_scorrer: 1", ":1: lr_scorrer: unknown key; did you mean 'lr_scorer'?"),
        ("stages: 5", ":1: stages: must be names, and below each its settings."),
        ("stages: {}", ":1: stages: must be names, and below each its settings."),
        ("runs:\n  one: 5", ":1: runs: must be names, and below each its settings."),
        ("stages: {one: {}}\nframes: 3", ":1: stages: unknown key; did you mean 'steps'?"),
        ("stages:\n  one:\n    steps: 2\n  two:\n    frmes: 2", ":5: stages.two.frmes: unknown key; did you mean "),
        ("runs:\n  a: &a\n    frames: 0\n  b: {<<: *a}", ":3: runs.a.frames 0: must be at least 1."),
        ("runs:\n  a: &a\n    frames: 1\n  b:\n    <<: *a\n    frames: 0", ":6: runs.b.frames 0: must be at least 1."),
        ("lr_scorer: fast", ':1: lr_scorer "fast": must be a number, at least 0.'),
        ("lr_llm: '1e-4'", ':1: lr_llm "1e-4": must be a number, at least 0.'),
        ("lr_llm: .inf", ":1: lr_llm Infinity: must be a number, at least 0."),
        ("adam_eps: .nan", ":1: adam_eps NaN: must be a number, at least 0."),
        ("z_loss: -1", ":1: z_loss -1: must be at least 0."),
        ("lr_floor: 1.5", ":1: lr_floor 1.5: must be at least 0 and at most 1."),
        ("cooldown: 0", ":1: cooldown 0: must be greater than 0 and at most 1."),
        ("frames: 2.5", ":1: frames 2.5: must be a whole number, at least 1."),
        ("steps: many", ':1: steps "many": must be a whole number, at least 0.'),
        ("steps: -1", ":1: steps -1: must be at least 0."),
        ("keep_checkpoints: 0", ":1: keep_checkpoints 0: must be at least 1."),
        ("new_scorer: 3", ":1: new_scorer 3: must be true or false."),
        ("bias_rescale: col", ":1: bias_rescale col: must be row, frame or off."),
        ("bias_rescale: off", ':1: bias_rescale false: must be row, frame or off; YAML takes a bare off for false, '),
        ("precision: fp8", ":1: precision fp8: must be auto, float32, bf16 or bf16-master."),
        ("optimizer: adam", ":1: optimizer adam: must be adamw or muon; did you mean 'adamw'?"),
        ("schedule: linear", ":1: schedule linear: must be cosine, cosine-after-warmup or wsd."),
        ("resize: both", ":1: resize both: must be model or decoder."),
        ("clip_by: parts", ":1: clip_by parts: must be all or part; did you mean 'part'?"),
        ("answer_weights: root", ":1: answer_weights root: must be equal or root-length."),
        ("keep_ratio: 0", ":1: keep_ratio 0: must be ratios greater than 0 and at most 1, with shares of at least 0."),
        ("keep_ratio: 0.5:x", ":1: keep_ratio 0.5:x: must be a ratio such as 0.5, or several with shares, such as "),
        ("keep_ratio: '0.5:0'", ":1: keep_ratio 0.5:0: must be ratios greater than 0"),
        ("keep_ratio: nan", ":1: keep_ratio nan: must be ratios greater than 0"),
        ("adam_betas: 0.9", ":1: adam_betas 0.9: must be two numbers of at least 0 and below 1, such as 0.9,0.95."),
        ("adam_betas: 0.9,1", ":1: adam_betas 0.9,1: must be two numbers of at least 0 and below 1"),
    ],
)  # fmt: skip
def test_files_that_are_wrong(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_stages(path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_numbers_as_people_write_them(tmp_path):
    """YAML 1.1 takes 1e-4 for a text, and 0.5 for a number where a list of ratios may stand."""
    path = tmp_path / "mine.yaml"
    path.write_text("lr_scorer: 1e-4\nlr_llm: 1\nkeep_ratio: 0.5\nseq_len: 100.0\ncache: null\nvideo_root: 2024\n")
    (values,) = read_stages(path).values()
    assert values == {
        "lr_scorer": 1e-4, "lr_llm": 1.0, "keep_ratio": "0.5", "seq_len": 100, "cache": None, "video_root": "2024"
    }  # fmt: skip
    assert (type(values["lr_llm"]), type(values["seq_len"])) == (float, int)


def test_a_stage_holds_what_it_says_and_no_defaults(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("stages:\n  1: &one\n    frames: 2\n    steps: 3\n  two:\n    <<: *one\n    steps: 4\n")
    assert read_stages(path) == {"1": {"frames": 2, "steps": 3}, "two": {"frames": 2, "steps": 4}}
    path.write_text("runs:\n  a: &a {frames: 2}\n  b: &b {steps: 3}\n  c:\n    <<: *a\n    <<: *b\n")
    assert read_stages(path)["c"] == {"frames": 2, "steps": 3}, "two merges are no key given twice"


@pytest.mark.parametrize("resize", RESIZES)
def test_every_way_to_resize_is_a_stages(resize):
    assert Stage(resize=resize).resize == resize


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5", ((0.5, 1.0),)),
        ("0.5:6,1:2", ((0.5, 0.75), (1.0, 0.25))),
        (" 0.3, 0.7 ", ((0.3, 0.5), (0.7, 0.5))),
    ],
)
def test_keep_ratios(text, expected):
    assert keep_ratios(text) == expected
