"""Parts of the slow paths that several families are compared with."""

import pytest
import torch

from stts_cli import load
from tests.families.tiny import QUESTION


def encode(family, frames, **pruning):
    """Encode one video under settings of one's own."""
    return family.encode(family.preprocess(frames), family.settings.override(**pruning))


def logits(family, prompt, visual_tokens, **more):
    """Read a prompt with its video by the stock model; `more` goes to the model, over the prompt's positions."""
    inputs = family.language_inputs(prompt.input_ids, prompt.mm_token_type_ids, [visual_tokens])
    return family.model(**inputs, **{**positions(prompt), **more}).logits


def positions(prompt):
    """Return the positions that the stock model is given; none where it counts the tokens itself."""
    return {} if prompt.position_ids is None else {"position_ids": prompt.position_ids}


def grid(layout, units):
    """Return the grid of a video as processors of Qwen's kind give it."""
    return torch.tensor([[units, *layout.grid]])


def masked(ids, keep, placeholder):
    """Return which tokens of a whole prompt, int64 (1, L), are left, and a float mask that hides the others.

    `keep` is bool, a window an entry, in the order of the placeholders. A dropped token sees itself: a row without any
    key would be nan.
    """
    present = torch.ones_like(ids, dtype=torch.bool)
    present[ids == placeholder] = keep.flatten()
    number = ids.shape[1]
    seen = (torch.ones(number, number, dtype=torch.bool).tril() & present) | torch.eye(number, dtype=torch.bool)
    return present, torch.zeros(1, 1, number, number).masked_fill(~seen, torch.finfo(torch.float32).min)


@torch.no_grad()
def check_answer_is_the_stock_models(folder, clip_file, more=lambda family, video: {}):
    """Compare greedy answers at keep ratio 1 with transformers' own `generate` on the whole prompt, of Qwen's kind.

    `more` gives further arguments of `generate`.
    """
    with pytest.warns(UserWarning, match="demonstration"):
        model = load(str(folder), frames=7, max_new_tokens=8, device="cpu", keep_ratio=1.0)
    video = model.encode(clip_file)
    family, prompt = model.family, video.prompt(QUESTION, "")
    pixels = family.preprocess(torch.from_numpy(video.clip.frames)).pixels.flatten(0, 1)
    made = family.model.generate(
        input_ids=prompt.input_ids, mm_token_type_ids=2 * prompt.mm_token_type_ids, pixel_values_videos=pixels,
        video_grid_thw=grid(video.tokens.layout, len(video.keep_mask)), max_new_tokens=8, do_sample=False,
        attention_mask=torch.ones_like(prompt.input_ids),
        **more(family, video),
    )[0, prompt.input_ids.shape[1] :]  # fmt: skip
    assert model.ask(video, QUESTION).text == family.tokenizer.decode(made, skip_special_tokens=True).strip()
