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
from stts_cli.engine import generate, results
from stts_cli.engine import model as engine
from stts_cli.engine.model import VideoModel
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.media.clip import Clip
from stts_cli.settings import Arm, Layout, Pruning
from tests.engine.asking import ask_one

WINDOWS = 4
PATCH, END = 41, 3
ENCODE_S = 32.0


class Tokenizer:
    """One token a letter of a-z."""

    unk_token_id = 0

    def convert_tokens_to_ids(self, token):
        return self.unk_token_id

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [4 + (ord(letter) - ord("a")) % 26 for letter in text.lower() if letter.isalpha()]}

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(ord("a") + i - 4) if 4 <= i < 30 else "_" for i in ids) + " "


class Model:
    """Answers with the number of visual tokens it saw, as a letter, then ends; counts its calls."""

    device = torch.device("cpu")
    dtype = torch.float32
    config = None

    def __init__(self):
        self.calls: list[tuple[int, bool]] = []


class Family:
    """Cuts each video in its own way: nothing here may ask for the one layout of all videos."""

    resample = "bilinear"
    model_name, revision = "fake", None
    device = torch.device("cpu")
    answer_start = ""
    vit_blocks = range(12)
    is_demonstration = False
    notes = ()
    eos_token_ids = (END,)
    tokenizer = Tokenizer()

    def __init__(self, scorer=True, spend=lambda seconds: None):
        self.model = Model()
        self.spend = spend
        self.scorer = object() if scorer else None
        self.settings = Pruning(prune_layer=3, keep_ratio=0.5)
        self.encoded: list[dict] = []

    def layout_rule(self, height, width, num_frames):
        return Layout(frame_size=(height // 8, width // 8), grid=(4, 4), window=(2, 2))

    def preprocess(self, frames, rule=None):
        assert frames.dtype == torch.uint8
        return frames.float()

    def encode(self, patches, pruning, execution=None):
        self.spend(ENCODE_S)
        keep_ratio, scorer = pruning.keep_ratio, pruning.scorer
        self.encoded.append({"keep_ratio": keep_ratio, "scorer": scorer, "prune_layer": pruning.prune_layer})
        mask = torch.ones(len(patches), WINDOWS, dtype=torch.bool)
        mask[1:, : round(WINDOWS * (1 - keep_ratio))] = False
        return SimpleNamespace(
            visual_tokens=torch.zeros(int(mask.sum()), 2),
            keep_mask=mask,
            layout=self.layout_rule(64, 64, len(mask)),
            scorer=scorer,
            seconds={"vit_dense": 0.25},
            kernel="sdpa",
            kernel_reason="a test",
            packed_patches=[9 * int(n) for n in mask.sum(1)],
        )

    def build_prompt(self, timestamps_s, question, keep_mask, *, layout, context="", **more):
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

    def shape(self, layout):
        return layout


@pytest.fixture
def counted(monkeypatch):
    """Replace the model's part of the work, and note what the FLOP count was asked."""
    asked: list[dict] = []

    def prefill_video(family, prompt, visual_tokens):
        ids, types = (x[:, : prompt.num_prefix] for x in (prompt.input_ids, prompt.mm_token_type_ids))
        assert int((ids == PATCH).sum()) == len(visual_tokens) == int(types.sum())
        family.model.calls.append(("video", ids.shape[1]))
        return SimpleNamespace(input_ids=ids, num_tokens=ids.shape[1], seconds=1.0)

    def answer(family, prefix, ids, *, max_new_tokens, eos_token_ids, **more):
        family.model.calls.append(("question", ids.shape[1]))
        return SimpleNamespace(
            token_ids=[4 + prefix.num_tokens], finished=max_new_tokens > 1, num_decoded=2, prefill_s=0.5, decode_s=0.125
        )

    def score_options(family, prefix, ids, options, *, eos_token_ids):
        scores = [-float(len(option)) for option in options]
        return SimpleNamespace(
            log_likelihoods=scores, num_tokens=[len(o) + 1 for o in options], prefill_s=0.5, scoring_s=0.125
        )

    def count(shape, kept, lengths, layer, **values):
        asked.append({"kept": kept, "lengths": lengths, "layer": layer, **values})
        return SimpleNamespace(to_dict=lambda: {"given": values})

    monkeypatch.setattr(generate, "prefill_video", prefill_video)
    monkeypatch.setattr(generate, "answer", answer)
    monkeypatch.setattr(generate, "score_options", score_options)
    monkeypatch.setattr(results, "count", count)
    return asked


@pytest.fixture
def clip():
    return Clip(np.zeros((3, 8, 8, 3), np.uint8), [0.0, 0.5, 1.0], 1.5, 10.0, 15, "decord")


def model_of(family=None, **given):
    arm = Arm("pruned", "m", 4).override(keep_ratio=0.5, scorer="learned").override(**given)
    return VideoModel(family or Family(), arm)


def test_several_questions_share_one_encoding_and_one_prefix(counted, clip, fake_clock):
    model = model_of(Family(spend=fake_clock.spend))
    video = model.encode(clip)
    answers = [model.ask(video, question) for question in ("ab", "abc")]
    assert len(model.family.encoded) == 1
    assert model.family.model.calls == [("video", 9), ("question", 2), ("question", 3)]
    assert answers[0].ttft_s == pytest.approx(0.5 + ENCODE_S, abs=0.01)
    assert answers[1].ttft_s == pytest.approx(0.5, abs=0.01), "the second question does not pay for the video"
    assert video.prefill_s == 1.0
    assert [answer.seconds for answer in answers] == [{"llm_prefill": 0.5, "decode": 0.125}] * 2
    assert video.seconds["vit_dense"] == 0.25


def test_what_is_kept_reaches_the_prompt_and_the_count(counted, clip):
    model = model_of(prune_layer=2)
    video = model.encode(clip)
    answer = model.ask(video, "ab")
    assert video.keep_mask.sum(1).tolist() == [4, 2, 2]
    assert str(video) == "3 frames, 8 of 12 windows kept"
    behind = {
        "kept": [4, 2, 2],
        "layer": 2,
        "option_tokens": (),
        "scorer": "learned",
        "packed_patches": [36, 18, 18],
    }
    assert counted == [{**behind, "lengths": (1 + 12 + 2, 1 + 8 + 2), "new_tokens": 2}]
    assert answer.text == "j"  # the tenth letter for a prefix of 1 + 8 tokens; the decoder's space is gone
    assert answer.num_prompt_tokens == 11
    assert video.savings
    assert counted[1] == {**behind, "lengths": (1 + 12, 1 + 8), "new_tokens": 1}


def test_a_prefix_that_differs_is_not_reused(counted, clip, monkeypatch):
    build = Family.build_prompt

    def moody(self, timestamps_s, question, keep_mask, *, layout, context="", **more):
        prompt = build(self, timestamps_s, question, keep_mask, layout=layout)
        prompt.input_ids[0, 0] = len(question)
        return prompt

    monkeypatch.setattr(Family, "build_prompt", moody)
    model = model_of()
    video = model.encode(clip)
    for question in ("ab", "abc", "xyz"):
        model.ask(video, question)
    assert [name for name, _ in model.family.model.calls] == ["video", "question", "video", "question", "question"]


def test_questions_in_a_row_with_one_context_share_its_prefix(counted, clip):
    model = model_of()
    video = model.encode(clip)
    asked = [("ab", "sub"), ("abc", "sub"), ("xyz", "other")]
    answers = [model.ask(video, question, context=context) for question, context in asked]
    assert model.family.model.calls == [
        ("video", 9 + 3), ("question", 2), ("question", 3), ("video", 9 + 5), ("question", 3),
    ]  # fmt: skip
    assert video.prefill_s == 2.0
    assert [answer.prefix_s for answer in answers] == [1.0] * 3


def test_the_likeliest_option_is_the_answer(counted, clip):
    model = model_of()
    reply = model.ask(model.encode(clip), "ab", options=["green", "red", "blue"])
    assert reply.text == "red"
    assert [option.text for option in reply.options] == ["green", "red", "blue"]
    assert sum(option.probability for option in reply.options) == pytest.approx(1.0)
    assert reply.options[1].probability / reply.options[2].probability == pytest.approx(np.e)
    assert reply.num_new_tokens == 6 + 4 + 5
    assert reply.to_dict()["options"][1]["text"] == "red"


def test_a_video_is_asked_by_the_model_that_encoded_it(counted, clip):
    with pytest.raises(InputError, match="was encoded by another loaded model"):
        model_of().ask(model_of().encode(clip), "ab")


def test_every_arm_sees_the_same_clip_and_warms_up(counted, clip_file, monkeypatch):
    family = Family()
    monkeypatch.setattr(engine, "load_checkpoint", lambda model, **how: family)
    stages = []
    dense = Arm("other", "m", 4, keep_ratio=1.0)
    run = ask_one([Arm("pruned", "m", 4), dense], clip_file, ["ab"], device="cpu", progress=stages.append)
    found = run.to_dict()
    assert [(arm["name"], arm["scorer"], arm["keep_ratio"]) for arm in found["arms"]] == [
        ("pruned", "learned", 0.5),
        ("dense", "none", 1.0),
    ]
    assert found["video"]["num_frames"] == 4
    assert found["video"]["frame_size"] == [12, 16], "of 96x128, by the layout rule"
    assert len(family.encoded) == 4, "both arms warm up on a few frames first"
    assert stages[0] == "loading the model"
    assert (found["device"], found["dtype"]) == ("cpu", "float32")
    first = found["arms"][0]
    assert first["answers"][0]["question"] == "ab"
    assert first["seconds"] | {"preprocess": 0} == {
        "preprocess": 0, "vit_dense": 0.25, "llm_prefill": 1.5, "decode": 0.125
    }  # fmt: skip
    assert "peak_bytes" in first
    assert "peak_bytes" not in first["answers"][0]


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
    model = VideoModel(Family(has_scorer), Arm("a", "m", scorer=scorer, keep_ratio=keep_ratio))
    assert (model.pruning.scorer, model.pruning.keep_ratio, len(model.notes)) == expected


@pytest.mark.parametrize(
    ("trained_with", "expected"),
    [("random", "random"), ("tome", "tome"), ("learned", "temporal"), ("temporal", "temporal")],
)
def test_a_model_trained_for_another_scorer_gets_that_one(trained_with, expected):
    family = Family(scorer=False)
    family.settings = Pruning(scorer=trained_with)
    assert VideoModel(family, Arm("a", "m", keep_ratio=0.3)).pruning.scorer == expected


def test_a_learned_scorer_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="no learned scorer"):
        model_of(Family(scorer=False))


@pytest.mark.parametrize("options", [["red"], ["red", "red"], ["red", " "], ["red", None], "red", {"a": 1, "b": 2}])
def test_options_must_be_a_choice_before_anything_is_loaded(clip_file, options):
    with pytest.raises(InputError, match="option"):
        ask_one([Arm("a", "m")], clip_file, ["?"], options=options)


def test_settings_vary_on_one_loaded_model(counted, clip):
    model = model_of(seed=3)
    assert (model.pruning.keep_ratio, model.pruning.seed, model.frames) == (0.5, 3, 4)
    other = model.vary(keep_ratio=0.25, scorer="random", frames=None)
    assert (other.pruning.keep_ratio, other.pruning.scorer, other.frames) == (0.25, "random", 4)
    assert model.encode(clip, scorer="none").pruning.keep_ratio == 1
    assert [each["scorer"] for each in model.family.encoded] == ["none"]
    with pytest.raises(InputError, match="keep_ration: is no setting here; did you mean 'keep_ratio'"):
        model.vary(keep_ration=0.2)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "3", True])
def test_an_answer_has_a_limit(counted, clip, limit):
    model = model_of()
    with pytest.raises(InputError, match=r"--max-new-tokens .*: must be a whole number, at least 1"):
        model.ask(model.encode(clip), "ab", max_new_tokens=limit)
    with pytest.raises(InputError, match="--max-new-tokens"):
        VideoModel(Family(), Arm("a", "m"), max_new_tokens=limit)


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": "3"}, {"frames": 1.5}, {"frames": True}, {"max_fps": "2"}, {"max_fps": 0}, {"scorer": 5},
        {"keep_ratio": "0.5"}, {"keep_ratio": True}, {"prune_layer": -1}, {"dtype": "bogus"}, {"seed": 0.5},
        {"resize": "foo"},
    ],
)  # fmt: skip
def test_settings_of_a_wrong_kind_are_refused_before_a_video_is_read(wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} .*: must be "):
        model_of(**wrong)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"question": None}, "is a NoneType; must be text"),
        ({"question": "ab", "context": 3}, "context: is a int; must be text"),
    ],
)
def test_a_question_is_text(counted, clip, given, words):
    model = model_of()
    with pytest.raises(InputError, match=words):
        model.ask(model.encode(clip), **given)


def test_savings_are_spent_on_frames():
    assert model_of(spend_savings=True).frames == 8


def test_frames_in_memory_are_a_video(counted, clip):
    model, notes = model_of(), []
    model.note = notes.append
    video = model.encode(clip.frames, times=[0, 1, 3])
    assert (video.timestamps_s, video.clip.duration_s, video.clip.source_fps) == ([0, 1, 3], 4.5, pytest.approx(2 / 3))
    assert model.encode(clip.frames[:1], times=[2]).clip.duration_s == 2
    assert "keep ratio 0.5 of 1 frame: the first frame always stays" in notes[0]
    for times in ([0, 1], [0, 2, 1], [0, 1, np.nan], [-1, 0, 1]):
        with pytest.raises(InputError, match="times: are"):
            model.encode(clip.frames, times=times)
    with pytest.raises(InputError, match="have no times"):
        model.encode(clip.frames)
    with pytest.raises(InputError, match="times: are no numbers"):
        model.encode(clip.frames, times=["a", "b", "c"])
    for given in ({"frames": 2}, {"max_fps": 1.0}, {"resize": "decoder"}):
        with pytest.raises(InputError, match=r"is for files; of frames in memory all are used"):
            model.encode(clip, **given)
    with pytest.raises(InputError, match="a Clip has its own"):
        model.encode(clip, times=[0, 1, 2])
    for what in (None, ["a"], 3):
        with pytest.raises(InputError, match="is no video"):
            model.encode(what, times=[0])
    flipped = model.encode(clip.frames[..., ::-1], times=[0, 1, 2])
    assert flipped.clip.frames.flags["C_CONTIGUOUS"]
    as_tensor = model.encode(torch.from_numpy(clip.frames), times=np.array([0, 1, 2]))
    assert as_tensor.timestamps_s == [0, 1, 2]
    assert model.vary(resize="decoder").encode(clip.frames, times=[0, 1, 2]).notes == []
    assert (video == as_tensor, len({video, as_tensor})) == (False, 2)
    assert "clip=" not in repr(video)
    with pytest.raises(InputError, match="must be uint8"):
        model.encode(clip.frames.astype(float), times=[0, 1, 2])
    with pytest.raises(InputError, match=r"clip\.mp4 is a file and has its own"):
        model.encode("clip.mp4", times=[0, 1])


def test_a_device_is_checked(monkeypatch):
    assert device_module.resolve_device("cpu") == "cpu"
    with pytest.raises(InputError, match="--device tpu: must be"):
        device_module.resolve_device("tpu")
    with pytest.raises(InputError, match="cuda:x"):
        device_module.resolve_device("cuda:x")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_module.resolve_device("auto") == "cpu"
    with pytest.raises(EnvironmentFailure, match="0 CUDA devices"):
        device_module.resolve_device("cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(EnvironmentFailure, match="no Metal device"):
        device_module.resolve_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_module.resolve_device("mps") == "mps"
    assert [device_module.resolve_dtype("auto", name) for name in ("mps", "cuda:1")] == ["float32", "bfloat16"]


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
        engine.load_checkpoint("name-without-owner", device="cpu", dtype="float32")
