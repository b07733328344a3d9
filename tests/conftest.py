"""What several tests need: real video files, a home folder without settings of one's own, a record of deprecations."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Models this small gain nothing from threads, and threads that wait for a busy core take many times as long.
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported; processes that tests start inherit it
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported; processes that tests start inherit it

WriteVideo = Callable[..., Path]
PACKAGE = str(Path(__file__).parent.parent / "stts_cli")
_deprecations: list[str] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Record each deprecation raised below a call of ours, whichever module it is attributed to.

    A filter by module would miss those that a dependency raises for its caller, and attributes to itself. What other
    processes raise is not seen.
    """
    show = warnings.showwarning

    def record(message: Warning | str, category: type[Warning], *where: Any, **rest: Any) -> None:
        frame = sys._getframe()
        while issubclass(category, (FutureWarning, DeprecationWarning)) and frame:
            if frame.f_code.co_filename.startswith(PACKAGE):
                _deprecations.append(f"{frame.f_code.co_filename}:{frame.f_lineno}: {category.__name__}: {message}")
                return
            frame = frame.f_back
        show(message, category, *where, **rest)

    warnings.showwarning = record
    return (yield)


@pytest.fixture(autouse=True)
def deprecations() -> Iterator[list[str]]:
    """Fail the test where a call of ours, also one of its fixtures, raised a FutureWarning or DeprecationWarning."""
    yield _deprecations
    found = list(_deprecations)
    _deprecations.clear()
    assert not found, "our own calls raised:\n" + "\n".join(found)


def frame_value(index: int) -> int:
    """Grey level of frame `index` in the videos written here; steps of 4 survive compression."""
    return 16 + 4 * index


def pytest_configure(config: pytest.Config) -> None:
    """Hide a machine's GPUs from the tests, and from processes that they start, unless `-m gpu` asks for them."""
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when CUDA is first asked for


def is_left_out(markers: set[str], expression: str) -> bool:
    """Return whether a test is of those that run only where `pytest -m` names their marker."""
    return any(name not in expression for name in markers & {"hostile", "serving", "browser", "thorough"})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [i for i in items if is_left_out({mark.name for mark in i.iter_markers()}, config.option.markexpr)]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


class FakeClock:
    """Time that passes when a test says so, and a microsecond whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-6
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Replace the time that a model's stages are measured by."""
    clock = FakeClock()
    monkeypatch.setattr("stts_cli.pruning.stopwatch.time", clock)
    return clock


def own_lines(stderr: str) -> list[str]:
    """Return our lines of what went to stderr; dependencies may write there too."""
    return [line for line in stderr.splitlines() if line.startswith("stts: ")]


@pytest.fixture(scope="session")
def write_video(tmp_path_factory: pytest.TempPathFactory) -> WriteVideo:
    """Write an H.264 file whose frame i is a grey of level `frame_value(i)` with a bright left half."""
    import av

    folder = tmp_path_factory.mktemp("videos")

    def write(
        name: str, *, num_frames: int = 50, fps: int = 10, size: tuple[int, int] = (96, 128), faststart: bool = False
    ) -> Path:
        path = folder / name
        with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            stream.options = {"crf": "12", "bf": "2", "g": "12"}
            for index in range(num_frames):
                pixels = np.full((*size, 3), frame_value(index), np.uint8)
                pixels[:, : size[1] // 2] = 255
                for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        return path

    return write


@pytest.fixture(scope="session")
def clip_file(write_video: WriteVideo) -> Path:
    """A five-second file: 50 frames at 10 a second."""
    return write_video("five_seconds.mp4")


@pytest.fixture(autouse=True)
def no_user_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the environment's own preset and config file."""
    monkeypatch.delenv("STTS_PRESET", raising=False)
    monkeypatch.delenv("STTS_DEBUG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a Molmo2 checkpoint with random weights, scorer included; it answers nonsense, always the same."""
    import json

    import torch
    from safetensors.torch import save_file
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import Molmo2Config, Molmo2ForConditionalGeneration, PreTrainedTokenizerFast

    from stts_cli.pruning import TokenScorer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vision = [
        "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>", "<im_low>",
        "<frame_start>", "<frame_end>", "<|video|>",
    ]  # fmt: skip
    bytes_only.add_special_tokens([AddedToken(token, special=True) for token in [*specials, *vision]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, bos_token=specials[0], eos_token=specials[2], pad_token=specials[0]
    )

    def token(name: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(name))

    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    config = Molmo2Config(
        vision_config={
            **heads, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 8, "image_size": [24, 24],
            "patch_size": 4, "num_position_embeddings": 36,
        },
        adapter_config={
            **heads, "vision_feature_layer": [7, 4], "hidden_size": 16, "intermediate_size": 32, "text_hidden_size": 16,
        },
        text_config={
            **heads, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "vocab_size": len(letters) + len(specials), "additional_vocab_size": len(vision),
            "max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        image_start_token_id=token("<im_start>"), low_res_image_start_token_id=token("<low_res_im_start>"),
        image_end_token_id=token("<im_end>"), image_patch_id=token("<im_patch>"),
        frame_start_token_id=token("<frame_start>"), frame_end_token_id=token("<frame_end>"),
        bos_token_id=token(specials[0]), eos_token_id=token(specials[2]), pad_token_id=token(specials[0]),
    )  # fmt: skip
    model = Molmo2ForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    scorer = TokenScorer(hidden_size=16, num_heads=2, mlp_size=32)
    with torch.no_grad():
        for parameter in scorer.parameters():
            parameter.normal_(std=0.3)
    save_file(scorer.state_dict(), folder / "scorer.safetensors")
    (folder / "stts.json").write_text(
        json.dumps(
            {
                "format": 2,
                "family": "molmo2",
                "prune_layer": 3,
                "keep_ratio": 0.5,
                "bias_rescale": "row",
                "scorer": "learned",
                "scorer_file": "scorer.safetensors",
                "demonstration": True,
            }
        )
    )
    (folder / "video_preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 24, "width": 24}, "patch_size": 4, "pooling_size": [2, 2]})
    )
    return folder


@pytest.fixture
def hub(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the place of someone/tiny in a cache: two commits, the newer one with other weights; no network."""
    from safetensors.torch import load_file, save_file

    place = tmp_path / "cache" / "models--someone--tiny"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(tiny_checkpoint, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)
    (place / "refs" / "next").write_text("b" * 40)
    newer = place / "snapshots" / ("b" * 40) / "model.safetensors"
    save_file({k: v + 1 for k, v in load_file(newer).items()}, newer, metadata={"format": "pt"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place.parent))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return place
