"""Draw scenes: a `Scene` and times in, uint8 frames (T, S, S, 3) out; cheap enough to feed training on one core.

Anti-aliased masks are cached by shape, radius and sub-pixel shift; a frame is the background plus one paste a visible
thing.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from stts_cli.toy.world import COLORS, Scene

_SUPERSAMPLE = 6
_SHIFTS = 4  # sub-pixel positions an axis


def render(scene: Scene, times_s: np.ndarray, size: int = 96, noise: float = 0.0, noise_seed: int = 0) -> np.ndarray:
    """Draw a scene at times (T,), in seconds: uint8 (T, size, size, 3), RGB.

    `noise` is the standard deviation of sensor noise in grey levels, for training only.
    """
    frames = np.repeat(_background(scene, size)[None], len(times_s), axis=0)
    for thing in scene.things:
        x, y, visible, turned = thing.at(times_s)
        for t in np.flatnonzero(visible):
            color = COLORS[thing.turn_color if turned[t] else thing.color]
            _paste(frames[t], thing.shape, thing.radius * size, x[t] * size, y[t] * size, color)
    if noise:
        rng = np.random.default_rng(noise_seed)
        bank = rng.standard_normal((size * 2, size * 2, 3), dtype=np.float32) * noise
        for frame in frames:
            dy, dx = rng.integers(0, size, size=2)
            frame += bank[dy : dy + size, dx : dx + size]
    return np.clip(frames, 0, 255).astype(np.uint8)


def _paste(frame: np.ndarray, shape: str, radius: float, x: float, y: float, color: tuple[int, int, int]) -> None:
    left, top = int(np.floor(x)), int(np.floor(y))
    shift_x, shift_y = int((x - left) * _SHIFTS), int((y - top) * _SHIFTS)
    mask = _mask(shape, round(radius * 2) / 2, shift_x, shift_y)
    half = mask.shape[0] // 2
    y0, y1, x0, x1 = top - half, top - half + mask.shape[0], left - half, left - half + mask.shape[1]
    size = frame.shape[0]
    cut = mask[max(0, -y0) : mask.shape[0] - max(0, y1 - size), max(0, -x0) : mask.shape[1] - max(0, x1 - size)]
    region = frame[max(y0, 0) : min(y1, size), max(x0, 0) : min(x1, size)]
    region += cut[..., None] * (np.asarray(color, dtype=np.float32) - region)


@lru_cache(maxsize=8192)
def _mask(shape: str, radius: float, shift_x: int, shift_y: int) -> np.ndarray:
    """Return an anti-aliased alpha mask, float32 (2h+1, 2h+1), with the centre at (h + shift / 4)."""
    half = int(np.ceil(radius)) + 2
    side = 2 * half + 1
    axis = (np.arange(side * _SUPERSAMPLE) + 0.5) / _SUPERSAMPLE - half
    u = (axis - (shift_x + 0.5) / _SHIFTS)[None, :] / radius
    v = (axis - (shift_y + 0.5) / _SHIFTS)[:, None] / radius
    inside = _inside(shape, u, v).astype(np.float32)
    return inside.reshape(side, _SUPERSAMPLE, side, _SUPERSAMPLE).mean(axis=(1, 3))


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    if shape == "circle":
        return u**2 + v**2 <= 0.92**2
    if shape == "square":
        return (np.abs(u) <= 0.82) & (np.abs(v) <= 0.82)
    if shape == "cross":
        return ((np.abs(u) <= 0.32) & (np.abs(v) <= 1)) | ((np.abs(v) <= 0.32) & (np.abs(u) <= 1))
    if shape == "triangle":
        corners = [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)]
    else:  # a star
        angles = -np.pi / 2 + np.arange(10) * np.pi / 5
        radii = np.where(np.arange(10) % 2 == 0, 1.08, 0.42)
        corners = list(zip(radii * np.cos(angles), radii * np.sin(angles), strict=True))
    inside = np.zeros(np.broadcast_shapes(u.shape, v.shape), dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):  # even-odd rule
        if ay == by:
            continue
        inside ^= ((ay > v) != (by > v)) & (u < (bx - ax) * (v - ay) / (by - ay) + ax)
    return inside


def _background(scene: Scene, size: int) -> np.ndarray:
    """Return the background, float32 (size, size, 3): dark to middling, low in colour, the same at any size."""
    a, b = (np.asarray(c, dtype=np.float32) for c in scene.background_rgb)
    rng = np.random.default_rng(scene.background_seed)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    u, v = axis[None, :], axis[:, None]
    angle = rng.uniform(0, 2 * np.pi)
    along = (u - 0.5) * np.cos(angle) + (v - 0.5) * np.sin(angle)
    if scene.background == "plain":
        share = np.zeros((size, size), dtype=np.float32)
    elif scene.background == "gradient":
        share = along / 1.4 + 0.5
    elif scene.background == "stripes":
        share = 0.5 + 0.35 * np.sin(along * 2 * np.pi * rng.uniform(3, 9))
    else:
        share = np.full((size, size), 0.2, dtype=np.float32)
        for _ in range(6):
            cx, cy, width = *rng.uniform(0, 1, size=2), rng.uniform(0.1, 0.3)
            share += 0.45 * np.exp(-((u - cx) ** 2 + (v - cy) ** 2) / (2 * width**2))
    return (a + np.clip(share, 0, 1)[..., None] * (b - a)).astype(np.float32)
