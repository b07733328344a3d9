"""The path from clip to answer, on a family that is simple enough to predict."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stts_cli.engine import device as device_module
from stts_cli.engine import pipeline
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.media.video import Clip
from stts_cli.settings import Pruning

WINDOWS = 4
PATCH, END = 41, 3
ENCODE_S = 32.0


class Tokenizer:
    """One token a letter of a-z."""

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [4 + (ord(letter) - ord("a")) % 26 for letter in text.lower() if letter.isalpha()]}

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(ord("a") + i - 4) if 4 <= i < 30 else "_" for i in ids) + " "


class Model:
    """Answers with the number of visual tokens it saw, as a letter, then ends; counts its calls."""

    device = torch.device("cpu")
    config = None

    def __init__(self):
        self.calls: list[tuple[int, bool]] = []


class Family:
    frame_size = (8, 8)
    resample = "bilinear"
    model_name = "fake"
    is_demonstration = False
    notes = ()
    eos_token_ids = (END,)
    tokenizer = Tokenizer()

    def __init__(self, scorer=True, spend=lambda seconds: None):
        self.model = Model()
        self.spend = spend
        self.scorer = object() if scorer else None
        self.settings = Pruning(prune_layer=3, keep_ratio=0.5)
        self.layout = SimpleNamespace(num_windows=WINDOWS)
        self.encoded: list[dict] = []

    def preprocess(self, frames):
        assert frames.dtype == torch.uint8
        return frames.float()

    def encode(self, patches, pruning):
        self.spend(ENCODE_S)
        keep_ratio, scorer = pruning.keep_ratio, pruning.scorer
        self.encoded.append({"keep_ratio": keep_ratio, "scorer": scorer, "prune_layer": pruning.prune_layer})
        mask = torch.ones(len(patches), WINDOWS, dtype=torch.bool)
        mask[1:, : round(WINDOWS * (1 - keep_ratio))] = False
        return SimpleNamespace(
            visual_tokens=torch.zeros(int(mask.sum()), 2),
            keep_mask=mask,
            scorer=scorer,
            seconds={"vit_dense": 0.25},
            kernel="sdpa",
            kernel_reason="a test",
            packed_patches=[9 * int(n) for n in mask.sum(1)],
        )

    def build_prompt(self, timestamps_s, question, keep_mask, *, context=""):
        head = [1] + [PATCH] * int(keep_mask.sum()) + self.tokenizer(context)["input_ids"]
        ids = torch.tensor([head + self.tokenizer(question)["input_ids"]])
        return SimpleNamespace(
            input_ids=ids,
            mm_token_type_ids=(ids == PATCH).long(),
            num_prefix=len(head),
            dense_length=ids.shape[1] + int((~keep_mask).sum()),
        )

    def tokenize(self, text):
        return self.tokenizer(text)["input_ids"]

    def quote(self, text, name="question"):
        return text

    def shape(self):
        return SimpleNamespace(num_windows=WINDOWS, vit_blocks=12)


@pytest.fixture
def counted(monkeypatch):
    """Replace the model's part of the work, and note what the FLOP count was asked."""
    asked: list[dict] = []

    def prefill_video(family, prompt, visual_tokens):
        ids, types = (x[:, : prompt.num_prefix] for x in (prompt.input_ids, prompt.mm_token_type_ids))
        assert int((ids == PATCH).sum()) == len(visual_tokens) == int(types.sum())
        family.model.calls.append(("video", ids.shape[1]))
        return SimpleNamespace(input_ids=ids, num_tokens=ids.shape[1], seconds=1.0)

    def answer(family, prefix, ids, *, max_new_tokens, eos_token_ids):
        family.model.calls.append(("question", ids.shape[1]))
        return SimpleNamespace(
            token_ids=[4 + prefix.num_tokens], finished=max_new_tokens > 1, num_decoded=2, prefill_s=0.5, decode_s=0.125
        )

    def score_options(family, prefix, ids, options, *, eos_token_ids):
        scores = [-float(len(option)) for option in options]
        return SimpleNamespace(
            log_likelihoods=scores, num_tokens=[len(o) + 1 for o in options], prefill_s=0.5, scoring_s=0.125
        )

    def count(shape, **values):
        asked.append(values)
        return SimpleNamespace(to_dict=lambda: {"given": values})

    monkeypatch.setattr(pipeline, "prefill_video", prefill_video)
    monkeypatch.setattr(pipeline.generate, "answer", answer)
    monkeypatch.setattr(pipeline.generate, "score_options", score_options)
    monkeypatch.setattr(pipeline.savings, "count", count)
    return asked


@pytest.fixture
def clip():
    return Clip(np.zeros((3, 8, 8, 3), np.uint8), [0.0, 0.5, 1.0], 1.5, 10.0, 15, "decord")


def test_several_questions_share_one_encoding_and_one_prefix(counted, clip, fake_clock):
    family = Family(spend=fake_clock.spend)
    arm = pipeline.answer_questions(family, clip, ["ab", "abc"], keep_ratio=0.5, scorer="learned")
    assert len(family.encoded) == 1
    assert [name for name, _ in family.model.calls] == ["video", "question", "question"]
    assert family.model.calls[1:] == [("question", 2), ("question", 3)]
    assert arm.answers[0].ttft_s == pytest.approx(0.5 + ENCODE_S, abs=0.01)
    assert arm.answers[1].ttft_s == pytest.approx(0.5, abs=0.01), "the second question does not pay for the video"
    assert arm.seconds["llm_prefill"] == pytest.approx(1.0 + 2 * 0.5)
    assert arm.seconds["decode"] == pytest.approx(2 * 0.125)
    assert arm.seconds["vit_dense"] == 0.25


def test_what_is_kept_reaches_the_prompt_and_the_count(counted, clip):
    arm = pipeline.answer_questions(Family(), clip, ["ab"], keep_ratio=0.5, scorer="learned", prune_layer=2)
    assert (arm.num_windows, arm.num_windows_kept, arm.kept_per_frame) == (12, 8, [4, 2, 2])
    assert counted == [
        {
            "num_frames": 3,
            "kept_per_frame": [4, 2, 2],
            "prompt_tokens_dense": 1 + 12 + 2,
            "prompt_tokens_pruned": 1 + 8 + 2,
            "prune_layer": 2,
            "new_tokens": 2,
            "scorer": "learned",
            "packed_patches_per_frame": [36, 18, 18],
        }
    ]
    assert arm.answers[0].text == "j"  # the tenth letter for a prefix of 1 + 8 tokens; the decoder's space is gone
    assert arm.answers[0].num_prompt_tokens == 11
    assert arm.name == "pruned"


def test_a_prefix_that_differs_is_not_reused(counted, clip, monkeypatch):
    family = Family()
    build = Family.build_prompt

    def moody(self, timestamps_s, question, keep_mask, *, context=""):
        prompt = build(self, timestamps_s, question, keep_mask)
        prompt.input_ids[0, 0] = len(question)
        return prompt

    monkeypatch.setattr(Family, "build_prompt", moody)
    pipeline.answer_questions(family, clip, ["ab", "abc", "xyz"], keep_ratio=0.5, scorer="learned")
    assert [name for name, _ in family.model.calls] == ["video", "question", "video", "question", "question"]


def test_questions_in_a_row_with_one_context_share_its_prefix(counted, clip):
    family = Family()
    contexts = ["sub", "sub", "other"]
    arm = pipeline.answer_questions(
        family, clip, ["ab", "abc", "xyz"], contexts=contexts, keep_ratio=0.5, scorer="learned"
    )
    assert family.model.calls == [
        ("video", 9 + 3), ("question", 2), ("question", 3), ("video", 9 + 5), ("question", 3),
    ]  # fmt: skip
    assert arm.seconds["llm_prefill"] == pytest.approx(2 * 1.0 + 3 * 0.5)
    assert [answer.prefix_s for answer in arm.answers] == [1.0] * 3
    with pytest.raises(ValueError, match="zip"):
        pipeline.answer_questions(family, clip, ["ab"], contexts=contexts, keep_ratio=0.5, scorer="learned")


def test_each_answer_is_handed_over_before_the_next_is_asked(counted, clip):
    family = Family()
    seen = []

    def take(arm):
        seen.append(([answer.question for answer in arm.answers], len(family.model.calls), arm.seconds["decode"]))

    arm = pipeline.answer_questions(family, clip, ["ab", "abc"], keep_ratio=0.5, scorer="learned", on_answer=take)
    assert seen == [(["ab"], 2, 0.125), (["ab", "abc"], 3, 0.25)]
    assert arm.peak_bytes is None or arm.peak_bytes > 0


def test_the_likeliest_option_is_the_answer(counted, clip):
    arm = pipeline.answer_questions(
        Family(), clip, ["ab"], options=["green", "red", "blue"], keep_ratio=0.5, scorer="learned"
    )
    reply = arm.answers[0]
    assert reply.text == "red"
    assert [option["text"] for option in reply.options] == ["green", "red", "blue"]
    assert sum(option["probability"] for option in reply.options) == pytest.approx(1.0)
    assert reply.options[1]["probability"] / reply.options[2]["probability"] == pytest.approx(np.e)
    assert reply.num_new_tokens == 6 + 4 + 5


def test_compare_runs_both_arms_on_the_same_clip(counted, clip, clip_file, monkeypatch):
    family = Family()
    monkeypatch.setattr(pipeline, "load", lambda model, device, dtype: family)
    stages = []
    run = pipeline.ask(
        clip_file, ["ab"], model="m", frames=4, max_fps=2.0, compare=True, device="cpu", progress=stages.append
    )
    assert [(arm.name, arm.scorer, arm.keep_ratio) for arm in run.arms] == [
        ("pruned", "learned", 0.5),
        ("dense", "none", 1.0),
    ]
    assert run.video["num_frames"] == 4
    assert run.video["frame_size"] == [8, 8]
    assert len(family.encoded) == 4, "both arms warm up on a few frames first"
    assert stages[0] == "loading the model"
    assert (run.device, run.dtype) == ("cpu", "float32")
    assert run.to_dict()["arms"][1]["answers"][0]["question"] == "ab"


@pytest.mark.parametrize(
    ("has_scorer", "scorer", "keep_ratio", "expected"),
    [
        (True, "auto", None, ("learned", 0.5, 0)),
        (True, "auto", 0.25, ("learned", 0.25, 0)),
        (False, "auto", None, ("temporal", 0.5, 1)),
        (False, "random", 0.3, ("random", 0.3, 0)),
        (True, "temporal", None, ("temporal", 0.5, 0)),
        (True, "none", None, ("none", 1.0, 0)),
        (True, "none", 0.5, ("none", 1.0, 1)),
        (True, "auto", 1.0, ("none", 1.0, 0)),
    ],
)
def test_who_scores(has_scorer, scorer, keep_ratio, expected):
    chosen, ratio, notes = pipeline.resolve_scorer(Family(has_scorer), scorer, keep_ratio)
    assert (chosen, ratio, len(notes)) == expected


@pytest.mark.parametrize(
    ("trained_with", "expected"),
    [("random", "random"), ("tome", "tome"), ("learned", "temporal"), ("temporal", "temporal")],
)
def test_a_model_trained_for_another_scorer_gets_that_one(trained_with, expected):
    family = Family(scorer=False)
    family.settings = Pruning(scorer=trained_with)
    assert pipeline.resolve_scorer(family, "auto", 0.3)[:2] == (expected, 0.3)


def test_a_learned_scorer_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="no learned scorer"):
        pipeline.resolve_scorer(Family(scorer=False), "learned", 0.5)


@pytest.mark.parametrize("options", [["red"], ["red", "red"], ["red", " "]])
def test_options_must_be_a_choice(clip_file, options):
    with pytest.raises(InputError):
        pipeline.ask(clip_file, ["?"], model="m", frames=4, max_fps=2.0, options=options)


def test_a_device_is_checked(monkeypatch):
    assert device_module.resolve_device("cpu") == "cpu"
    with pytest.raises(InputError, match="device is 'tpu'"):
        device_module.resolve_device("tpu")
    with pytest.raises(InputError, match="cuda:x"):
        device_module.resolve_device("cuda:x")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_module.resolve_device("auto") == "cpu"
    with pytest.raises(EnvironmentFailure, match="0 CUDA devices"):
        device_module.resolve_device("cuda")


@pytest.mark.slow
def test_peak_memory_sees_what_was_held_and_forgets_what_was_before():
    """In a process of its own: one that has trained keeps the memory it frees (`device.keep_freed_memory`)."""
    script = """
import numpy as np
from stts_cli.engine.device import PeakMemory
memory = PeakMemory("cpu")
before = memory.peak_bytes()
held = np.ones(50_000_000, np.uint8)
with_it = memory.peak_bytes()
del held
print(with_it - before, with_it - PeakMemory("cpu").peak_bytes())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    grown, forgotten = map(int, done.stdout.split())
    assert grown > 40_000_000
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux can forget")
    assert forgotten > 30_000_000


def test_a_name_that_is_no_folder_and_no_hub_id():
    with pytest.raises(InputError, match="no hub id"):
        pipeline.load("name-without-owner", device="cpu", dtype="float32")
