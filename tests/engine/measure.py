"""Measure asking, from the repository's root; no test.

    python -m tests.engine.measure second-question   a second question's time by the first's, 64 frames of shape `mini`

The first question's time is that of encoding, of the prefix and of the answer; reading is left out. Weights are random,
so an answer is as many tokens as are asked for.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch

from stts_cli.config.architectures import load_architecture
from stts_cli.engine.device import resolve_device, resolve_dtype
from stts_cli.engine.model import VideoModel
from stts_cli.families.random_model import random_family
from stts_cli.settings import Arm

NUM_FRAMES, NUM_TOKENS, REPEATS = 64, 8, 9
QUESTIONS = "What color is the circle?", "Where does the square go?"


def measure_second_question() -> None:
    device = resolve_device("auto")
    dtype = resolve_dtype("auto", device)
    family = random_family(load_architecture("mini"), device=torch.device(device), dtype=getattr(torch, dtype))
    model = VideoModel(family, Arm("pruned", "mini", frames=NUM_FRAMES, keep_ratio=0.5))
    size = model.layout_rule(360, 640, NUM_FRAMES).frame_size
    frames = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, *size, 3), np.uint8)
    times = np.arange(NUM_FRAMES) / 2
    model.ask(model.encode(frames, times=times), "?", max_new_tokens=1)  # a first run is slower
    firsts, seconds = [], []
    for turn in range(REPEATS):
        order = QUESTIONS if turn % 2 else QUESTIONS[::-1]
        began = time.perf_counter()
        video = model.encode(frames, times=times)
        for question, taken in zip(order, (firsts, seconds), strict=True):
            model.ask(video, question, max_new_tokens=NUM_TOKENS, ignore_eos=True)
            taken.append(time.perf_counter() - began)
            began = time.perf_counter()
    first, second = statistics.median(firsts), statistics.median(seconds)
    print(f"{NUM_FRAMES} frames of mini, random weights, {model.device} {dtype}, {NUM_TOKENS} tokens an answer")
    print(f"median of {REPEATS}: first {first:.2f} s, second {second:.2f} s, ratio {second / first:.3f}")


if __name__ == "__main__":
    {"second-question": measure_second_question}[sys.argv[1]]()
