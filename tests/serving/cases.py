"""What vLLM and our own path are both asked. Needs numpy alone: the two live in different environments."""

import numpy as np

FPS = 2.0
QUESTION = "What is it?"
STEPS = 6  # tokens decoded
# name of a case: (number of frames, height, width, settings)
CASES = {
    "learned": (8, 96, 128, {"keep_ratio": 0.5, "scorer": "learned"}),
    "learned low": (8, 96, 128, {"keep_ratio": 0.2, "scorer": "learned"}),
    "temporal": (8, 96, 128, {"keep_ratio": 0.5, "scorer": "temporal"}),
    "reference": (8, 96, 128, {"keep_ratio": 0.5, "scorer": "reference"}),
    "random": (8, 96, 128, {"keep_ratio": 0.5, "scorer": "random"}),
    "dense": (8, 96, 128, {"keep_ratio": 1.0, "scorer": "learned"}),
    "long": (40, 256, 256, {"keep_ratio": 0.3, "scorer": "learned"}),
    "one unit": (2, 96, 128, {"keep_ratio": 0.5, "scorer": "learned"}),
}


def clip(num_frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return frames uint8 (T, H, W, 3) of which a part changes and the rest stands still."""
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8), num_frames, 0)
    for k in range(num_frames):
        top = (13 * k) % max(1, height - 32)
        frames[k, top : top + 32, : width // 2] = rng.integers(0, 256, (32, width // 2, 3))
    return frames
