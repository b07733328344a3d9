"""A tiny model in the released format, clips of noise to train it on, and what the stock model makes of them alone."""

import copy

import pytest
import torch
from torch.nn import functional

from stts_cli.families import load_family
from stts_cli.training.clips import TrainingClip
from stts_cli.training.samples import Conversation
from tests.families.conftest import save_released

TALKS = (
    Conversation((("What color?", "red"),)),
    Conversation((("How many are there?", "3"), ("Sure?", "yes, I am"))),
    Conversation((("Where?", "left"),), subtitles="\nHello there.\n"),
    Conversation((("Which shape is it?", "a square"),)),
    Conversation((("Now?", "no"), ("And now?", "now yes"), ("Why?", "it moved"))),
)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The folder of a tiny checkpoint in the released format, scorer included."""
    return save_released(tmp_path_factory.mktemp("base") / "tiny", scorer=True)


@pytest.fixture(scope="session")
def loaded(base):
    """The checkpoint, loaded once; not to be changed."""
    return load_family(base)


@pytest.fixture
def family(loaded):
    """The checkpoint, a copy for every test."""
    return copy.deepcopy(loaded)


def noise_clip(num_frames, talks=(TALKS[0],), seed=0, size=(10, 10)):
    """A clip whose frames change by themselves, so that scores differ."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (num_frames, *size, 3), generator=generator, dtype=torch.uint8)
    return TrainingClip(frames, tuple(0.5 * k for k in range(num_frames)), tuple(talks), f"noise:{seed}")


@pytest.fixture
def batch():
    """Three clips of different lengths with one to three conversations."""
    return [noise_clip(4, TALKS[:3], 1), noise_clip(2, TALKS[3:4], 2), noise_clip(6, (TALKS[4], TALKS[0]), 3)]


def written_out(family, conversation):
    """Return (ids, is_answer) of what follows the video, worded by hand and tokenized a piece at a time."""
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

    encoded = family.encode_video(family.preprocess(clip.frames), keep_ratio=keep_ratio, scorer=scorer)
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
