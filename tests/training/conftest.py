"""A tiny model in the released format, clips of noise to train it on, and what the stock model makes of them alone."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from stts_cli.data.conversations import Conversation
from stts_cli.families import load_family
from stts_cli.training.clips import TrainingClip
from stts_cli.training.settings import FinetuneSettings
from tests.families.conftest import save_released
from tests.training.forked import Forker

TALKS = (
    Conversation((("What color?", "red"),)),
    Conversation((("How many are there?", "3"), ("Sure?", "yes, I am"))),
    Conversation((("Where?", "left"),), subtitles="\nHello there.\n"),
    Conversation((("Which shape is it?", "a square"),)),
    Conversation((("Now?", "no"), ("And now?", "now yes"), ("Why?", "it moved"))),
)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The folder of a tiny checkpoint in the released format, with a scorer whose scores are not saturated."""
    folder = save_released(tmp_path_factory.mktemp("base") / "tiny", scorer=True)
    scorer = load_file(folder / "scorer.safetensors")
    save_file({name: value / 5 for name, value in scorer.items()}, folder / "scorer.safetensors")
    return folder


@pytest.fixture(scope="session")
def loaded(base):
    """The checkpoint, loaded once; not to be changed."""
    return load_family(base)


@pytest.fixture
def family(loaded):
    """The checkpoint, a copy for every test."""
    return copy.deepcopy(loaded)


@pytest.fixture(scope="session")
def forked():
    """Run a training in processes of its own; see `Forker`."""
    forker = Forker()
    yield forker
    forker.close()


def noise_clip(num_frames, talks=(TALKS[0],), seed=0, size=(10, 10), times_from=0.0):
    """A clip whose frames change by themselves, so that scores differ."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (num_frames, *size, 3), generator=generator, dtype=torch.uint8)
    return TrainingClip(frames, tuple(times_from + 0.5 * k for k in range(num_frames)), tuple(talks), f"noise:{seed}")


@pytest.fixture
def batch():
    """Three clips of different lengths with one to three conversations."""
    return [noise_clip(4, TALKS[:3], 1), noise_clip(2, TALKS[3:4], 2), noise_clip(6, (TALKS[4], TALKS[0]), 3)]


def written_out(family, conversation):
    """Return (ids, is_answer) of what follows the video, worded here and tokenized a piece at a time."""
    pieces = [(conversation.subtitles, False)]
    for number, (asked, answer) in enumerate(conversation.turns):
        pieces += [("" if number == 0 else "\n", False), (f"<|im_start|>user\n{asked}<|im_end|>\n", False)]
        pieces += [("<|im_start|>assistant\n", False), (answer, True), ("<|im_end|>", True)]
    ids, is_answer = [], []
    for text, said in pieces:
        new = family.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids, is_answer = ids + new, is_answer + [said] * len(new)
    return ids, is_answer


def alone(family, clip, conversation, keep_ratio=1.0, scorer="none"):
    """Return the summed loss of one conversation by the stock model and its own mask, a video and a text at a time."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    encoded = family.encode(
        family.preprocess(clip.frames), family.settings.override(keep_ratio=keep_ratio, scorer=scorer)
    )
    prompt = family.build_prompt(list(clip.timestamps_s), "?", encoded.keep_mask)
    ids, is_answer = written_out(family, conversation)
    n = prompt.num_prefix
    ids = torch.cat([prompt.input_ids[0, :n], torch.tensor(ids)])
    types = torch.cat([prompt.mm_token_type_ids[0, :n], torch.zeros(len(is_answer), dtype=torch.long)])
    logits = family.model(
        input_ids=ids[None],
        mm_token_type_ids=types[None],
        mm_encoder_outputs={"video": BaseModelOutputWithPooling(pooler_output=(encoded.visual_tokens,))},
    ).logits[0]
    wanted = torch.tensor([False] * n + is_answer)
    places = wanted.nonzero()[:, 0] - 1
    return functional.cross_entropy(logits[places], ids[wanted], reduction="sum"), logits[places], ids[wanted]


def write_noise(path, num_frames, seed):
    """Write an H.264 file of coarse noise, two frames a second, so that scores differ all over a clip."""
    import av

    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.height = stream.width = 40
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "12"}
        for _ in range(num_frames):
            pixels = np.kron(rng.integers(0, 256, (5, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def videos_jsonl(tmp_path_factory):
    """A file of questions about six real clips of 3 to 8 frames; some have several, and several turns."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number in range(6):
        path = write_noise(folder / f"train_{number}.mp4", 3 + number, number)
        answer = ("red", "a square")[number % 2]
        rows.append({"video": str(path), "question": f"What is in clip {number}?", "answer": answer})
        if number % 2:
            rows.append({"video": str(path), "question": "How many?", "answer": str(number)})
        if number == 4:
            talk = [("human", "<video>\nWhere?"), ("gpt", "left"), ("human", "And now?"), ("gpt", "it moved right")]
            rows.append({"video": str(path), "conversations": [{"from": w, "value": v} for w, v in talk]})
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def base_settings(base, data, **changes):
    """Settings of a run of a tiny model: whole frames on the CPU, rates that move it in a few steps."""
    trained = ("scorer", "vit", "connector", "llm") if changes.get("train") == "full" else ("scorer",)
    given = {
        "model": str(base),
        "data": str(data),
        "frames": 4,
        "steps": 4,
        "eval_videos": 0,
        "workers": 0,
        "log_every": 1,
        "precision": "float32",
        "warmup": 2,
        **{f"lr_{part}": 1e-3 for part in trained},
    }
    return FinetuneSettings(**{**given, **changes})
