"""The smallest family, as the room's README has it, over a model of the test's own."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import stts_cli.families
from stts_cli.errors import InputError
from stts_cli.families.base import Family
from stts_cli.families.byte_tokenizer import byte_tokenizer
from stts_cli.families.random_molmo2 import VISION_TOKENS
from stts_cli.pruning import window_index
from stts_cli.settings import FixedLayout, Pruning
from tests.pruning.conftest import TinyBlock

README = (Path(stts_cli.families.__file__).parent / "README.md").read_text(encoding="utf-8")


class TinyModel(nn.Module):
    """A vision encoder and its connector; what stands for a language model takes what it is called with."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Linear(12, 24)
        self.blocks = nn.ModuleList(TinyBlock(24, 2) for _ in range(6))
        self.project = nn.Linear(4 * 24, 32)
        self.config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=512))
        self.generation_config = None
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def set_attn_implementation(self, implementation):
        assert implementation == {"vision_config": "stts"}

    def forward(self, pixels):
        """Stock: patches (T, 16, 12) of frames, each 2x2 window a visual token."""
        hidden = self.patches(pixels)
        for block in self.blocks:
            hidden = block(hidden)
        windows = hidden.view(len(hidden), 2, 2, 2, 2, 24).transpose(2, 3).reshape(-1, 4 * 24)
        return self.project(windows)


@pytest.fixture(scope="module")
def family():
    (code,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    torch.manual_seed(0)
    cls: type[Family] = names["TinyFamily"]
    own, _ = cls.processing(None, None, {})
    return cls(TinyModel().eval(), byte_tokenizer(300, VISION_TOKENS), settings=Pruning(), model_name="tiny", **own)


@pytest.fixture(scope="module")
def frames():
    return torch.randint(0, 256, (4, 8, 8, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@torch.no_grad()
def test_at_keep_ratio_1_it_is_the_stock_model(family, frames):
    patches = family.preprocess(frames)
    pixels = (frames.float() - 127.5) / 127.5
    assert torch.equal(patches.pixels[1, 6], pixels[1, 2:4, 4:6].flatten()), "the second row's third patch"
    encoded = family.encode(patches, Pruning(keep_ratio=1.0, scorer="temporal"))
    assert torch.equal(encoded.visual_tokens, family.model(patches.pixels))


@torch.no_grad()
def test_at_keep_ratio_one_half_half_of_the_windows_go_on(family, frames):
    dense, half = (
        family.encode(family.preprocess(frames), Pruning(keep_ratio=ratio, scorer="temporal")) for ratio in (1.0, 0.5)
    )
    assert (len(half.visual_tokens), int(half.keep_mask.sum()), half.keep_mask.shape) == (8, 8, (4, 4))
    assert not torch.equal(half.visual_tokens, dense.visual_tokens[half.keep_mask.flatten()])
    times = [0.0, 0.5, 1.0, 1.5]
    prompt = family.build_prompt(times, "What?", half.keep_mask)
    whole = family.build_prompt(times, "What?", dense.keep_mask)
    place = family.tokenizer.convert_tokens_to_ids(family.placeholder)
    assert [int((each.input_ids == place).sum()) for each in (prompt, whole)] == [8, 16]
    inputs = family.language_inputs(prompt.input_ids, prompt.mm_token_type_ids, [half.visual_tokens])
    assert len(inputs["mm_encoder_outputs"]["video"][0]) == int((inputs["input_ids"] == place).sum())
    assert family.shape().vit_blocks == len(family.vit_blocks) == 6


@torch.no_grad()
def test_units_of_two_frames_with_the_patches_of_a_window_in_a_row(family, frames):
    """What a family of another kind overrides: the pixels of a unit, the order of its patches, one time a unit."""
    raster = window_index(4, 4, 2, 2)  # of the same patches in rows

    def pairs(frames, layout, dtype, device):
        frames = torch.cat([frames, frames[-1:].expand(len(frames) % 2, -1, -1, -1)])
        patches = family.frames(frames, layout, dtype, device)
        return patches.view(-1, 2, 16, 12).mean(1)[:, raster.flatten()]

    class Pairs(type(family)):
        def window_index(self, layout):
            return torch.arange(16).view(4, 4)

        def video_text(self, timestamps_s, layout, duration_s):
            return super().video_text(timestamps_s[:: layout.frames_per_unit], layout, duration_s)

    rule = FixedLayout(dataclasses.replace(family.layout, frames_per_unit=2))
    other = Pairs(
        family.model, family.tokenizer, frames=pairs, layout_rule=rule, settings=Pruning(), model_name="pairs"
    )  # fmt: skip
    patches = other.preprocess(frames[:3])
    assert (patches.num_units, patches.pixels.shape) == ([2], (2, 16, 12))
    dense, half = (other.encode(patches, Pruning(keep_ratio=ratio, scorer="temporal")) for ratio in (1.0, 0.5))
    back = torch.empty_like(patches.pixels)
    back[:, raster.flatten()] = patches.pixels
    torch.testing.assert_close(dense.visual_tokens, family.model(back), atol=1e-5, rtol=1e-5)
    assert (half.keep_mask.sum(1).tolist(), len(half.visual_tokens)) == ([4, 0], 4)
    prompt = other.build_prompt([0.0, 0.5, 1.0], "What?", half.keep_mask)
    assert prompt.dense_length - prompt.input_ids.shape[1] == 4
    with pytest.raises(InputError, match=r"^5 timestamps: must be one a frame; 2 units"):
        other.build_prompt([0.0] * 5, "What?", half.keep_mask)
