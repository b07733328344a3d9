"""Frames reach the model as the stock video processor makes them, from the same decoded pixels, bit for bit."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional

from stts_cli.errors import InputError
from stts_cli.media.resize import DECODER, Resizer, choose_filter
from stts_cli.media.video import read_clip
from tests.families.test_molmo2 import logits

SIZES = [(1080, 1920, 378), (719, 1279, 378), (756, 756, 378), (50, 66, 24), (20, 30, 56)]
STOCK = """
import sys, numpy as np, torch
from tests.families.tiny import declare_torchvision_operators
declare_torchvision_operators()
from transformers.models.molmo2.video_processing_molmo2 import Molmo2VideoProcessor
for path in sys.argv[1:]:
    side = int(path.split("-")[-1])
    processor = Molmo2VideoProcessor(
        size={"height": side, "width": side}, patch_size=1, pooling_size=[1, 1], do_sample_frames=False,
        do_rescale=False, do_normalize=False,
    )
    out = processor(videos=[np.load(path + ".npy")], input_data_format="channels_last")["pixel_values_videos"]
    np.save(path + ".npy", np.asarray(out).reshape(-1, side, side, 3))
"""


def fine_pattern(height, width, index=0):
    """Every pixel differs from its neighbours, so that any other filter shows."""
    y, x = np.mgrid[:height, :width]
    channels = ((x * 7 + y * 3 + index * 5) % 23 * 11, (x * x + y) % 19 * 13, (x + y * y // 3) % 29 * 8)
    return np.stack(channels, -1).astype(np.uint8)


@pytest.fixture(scope="module")
def stock_processor():
    """transformers' own class, whose two calls into torchvision are replaced by what torchvision calls."""
    from transformers.models.molmo2.video_processing_molmo2 import Molmo2VideoProcessor

    class WithoutTorchvision(Molmo2VideoProcessor):
        def resize(self, image, size, resample, antialias=True):
            mode = {2: "bilinear", 3: "bicubic"}[int(resample)]
            size = (size.height, size.width)
            return functional.interpolate(image, size, mode=mode, align_corners=False, antialias=antialias)

        def normalize(self, image, mean, std, **kwargs):
            return (image - mean[:, None, None]) / std[:, None, None]

    return object.__new__(WithoutTorchvision)


def stock_patches(processor, frames, side, patch_size, mean=None, std=None):
    """Resize, rescale, normalise and cut by transformers' own code."""
    _, patches, _ = processor._build_video_patches(
        torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(), crop_size=side, resample=2,
        do_rescale=mean is not None, rescale_factor=1 / 255, do_normalize=mean is not None, image_mean=mean,
        image_std=std, image_patch_size=patch_size, image_pooling_h=1, image_pooling_w=1,
    )  # fmt: skip
    return patches


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
def test_a_frame_is_resized_as_the_stock_processor_does(stock_processor, height, width, side):
    frames = np.stack([fine_pattern(height, width, index) for index in range(2)])
    wanted = stock_patches(stock_processor, frames, side, 1).reshape(2, side, side, 3)
    assert wanted.dtype == torch.uint8
    resize = Resizer((side, side), "bilinear")
    for frame, stock in zip(frames, wanted.numpy(), strict=True):
        ours = resize(frame)
        assert ours.dtype == np.uint8
        np.testing.assert_array_equal(ours, stock)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="the stock processor needs torchvision")
def test_the_stock_processor_itself_agrees(tmp_path):
    files = {tmp_path / f"{height}-{width}-{side}": (height, width, side) for height, width, side in SIZES}
    for path, (height, width, _) in files.items():
        np.save(path.with_suffix(".npy"), fine_pattern(height, width)[None])
    subprocess.run([sys.executable, "-c", STOCK, *files], check=True, capture_output=True)
    for path, (height, width, side) in files.items():
        ours = Resizer((side, side), "bilinear")(fine_pattern(height, width))
        np.testing.assert_array_equal(ours, np.load(path.with_suffix(".npy"))[0])


@pytest.fixture(scope="module")
def fine_file(tmp_path_factory):
    """A file of frames far larger than the model's, with a pattern as fine as a screen's."""
    import av

    path = tmp_path_factory.mktemp("fine") / "fine.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for index in range(4):
            frame = av.VideoFrame.from_ndarray(fine_pattern(360, 640, index), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@torch.no_grad()
def test_keep_1_from_a_file_is_the_stock_model(family, stock_processor, fine_file):
    from stts_cli.pruning import window_index

    clip = read_clip(fine_file, num_frames=4, size=family.frame_size, resample=family.resample)
    encoded = family.encode(
        family.preprocess(torch.from_numpy(clip.frames)), family.settings.override(keep_ratio=1.0, scorer="learned")
    )
    prompt = family.build_prompt(clip.timestamps_s, "What is it?", encoded.keep_mask)
    whole = read_clip(fine_file, num_frames=4).frames
    assert whole.shape == (4, 360, 640, 3)
    frames = family.frames
    stock = family.model(
        input_ids=prompt.input_ids,
        mm_token_type_ids=prompt.mm_token_type_ids,
        pixel_values_videos=stock_patches(stock_processor, whole, 10, 2, frames.mean, frames.std),
        video_token_pooling=torch.where(
            window_index(5, 5, 2, 2) >= 0, window_index(5, 5, 2, 2) + torch.arange(4)[:, None, None] * 25, -1
        ).flatten(0, 1),
        video_grids=torch.tensor([[4, 3, 3]]),
    ).logits
    assert torch.equal(logits(family, prompt, encoded.visual_tokens), stock)
    by_decoder = read_clip(fine_file, num_frames=4, size=family.frame_size, resample=DECODER)
    assert np.abs(by_decoder.frames.astype(int) - clip.frames).mean() > 5, "the pattern would not show a wrong filter"
    direct = family.preprocess(torch.from_numpy(whole)).pixels
    assert torch.equal(direct, family.preprocess(torch.from_numpy(clip.frames)).pixels), "frames handed over whole"


def test_who_resizes_is_checked():
    assert choose_filter("model", "bicubic") == "bicubic"
    assert choose_filter("decoder", "bicubic") == DECODER
    with pytest.raises(InputError, match=r"^--resize both: must be model or decoder\.$"):
        choose_filter("both", "bilinear")
