"""Scenes of the procedural world: what is in a clip and what each thing does, before anything is drawn.

In: a split, an index and a length class. Out: a frozen `Scene`. Coordinates are fractions of the frame's side from its
top left corner, times are seconds. Train, validation and test scenes come from disjoint seed sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 38, 38),
    "orange": (255, 140, 0),
    "yellow": (248, 226, 44),
    "green": (36, 170, 60),
    "cyan": (40, 215, 225),
    "blue": (45, 80, 235),
    "purple": (150, 50, 190),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
ACTIONS = ("still", "moves", "appears", "disappears", "changes color", "brief")
SPLITS = {"train": 0, "validation": 1, "test": 2}
Point = tuple[float, float]

_ACTION_WEIGHTS = (0.18, 0.40, 0.12, 0.08, 0.15, 0.07)
_MARGIN = 0.15  # how far a thing's centre stays from the border
_GAP = 0.27  # least distance between two things' centres, where they stand and where they end


@dataclass(frozen=True)
class Thing:
    """One coloured shape and its life."""

    shape: str  # one of `SHAPES`
    color: str  # until `turn_s`
    radius: float
    start: Point  # centre before the motion
    end: Point  # centre after it, `start` for a thing that stands
    move_s: tuple[float, float]  # begin and end of the motion
    visible_s: tuple[float, float]  # begin and end of its visibility
    action: str  # one of `ACTIONS`
    direction: str = ""  # a key of `DIRECTIONS`, or "" for a thing that stands
    turn_color: str = ""  # the colour it turns into, or ""
    turn_s: float = 0.0

    @property
    def name(self) -> str:
        """Its first colour and its shape."""
        return f"{self.color} {self.shape}"

    def at(self, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return (x, y, visible, turned), each (T,), at the given times (T,)."""
        begin, end = self.move_s
        share = np.clip((times_s - begin) / max(end - begin, 1e-6), 0.0, 1.0)
        x = self.start[0] + share * (self.end[0] - self.start[0])
        y = self.start[1] + share * (self.end[1] - self.start[1])
        visible = (times_s >= self.visible_s[0]) & (times_s < self.visible_s[1])
        turned = (times_s >= self.turn_s) if self.turn_color else np.zeros_like(visible)
        return x, y, visible, turned


@dataclass(frozen=True)
class Scene:
    """One clip's content: things in drawing order, a background between two colours (R, G, B), and a length."""

    split: str
    index: int
    long: bool
    duration_s: float
    things: tuple[Thing, ...]
    background: str
    background_seed: int
    background_rgb: tuple[tuple[int, ...], ...]

    @property
    def fps(self) -> int:
        """Frames a second of its file."""
        return 8 if self.long else 12

    @property
    def after_s(self) -> float:
        """A time that comes after the last frame."""
        return self.duration_s + 1.0

    def frame_times(self, fps: int | None = None) -> np.ndarray:
        """Return the times of the frames of its file, float64 (T,) seconds; at `fps` frames a second if given."""
        fps = fps or self.fps
        return np.arange(max(1, round(self.duration_s * fps))) / fps


def scene_rng(split: str, index: int, long: bool, stream: int = 0) -> np.random.Generator:
    """Return the random stream of one scene; streams of different splits never meet."""
    return np.random.default_rng([SPLITS[split], int(long), index, stream])


def make_scene(split: str, index: int, long: bool = False, crowd: bool = False) -> Scene:
    """Draw one scene, the same for the same arguments; any index from 0 on gives one.

    A long one has 60-180 s and one event of 1-2 s, another 4-8 s; a crowd fills the frame with things that stand, for
    single-frame training.
    """
    rng = scene_rng(split, index, long)
    duration = round(float(rng.uniform(60, 180) if long else rng.uniform(4, 8)), 2)
    wanted = int(rng.choice([2, 3, 4]) if long else rng.choice([1, 2, 3, 4, 5], p=[0.1, 0.2, 0.27, 0.25, 0.18]))
    actions = ["still"] * 6 if crowd else _draw_actions(rng, wanted, long)
    colors = [str(c) for c in rng.permutation(list(COLORS))]
    things: list[Thing] = []
    arrivals = _arrival_times(rng, actions.count("appears"), duration)
    for k, action in enumerate(actions):
        if action == "changes color" and len(colors) < 2 + len(actions) - k:  # colours are never shared
            action = "moves"
        if (thing := _place(rng, action, duration, colors, things, arrivals, long)) is not None:
            things.append(thing)
    base, tint = rng.integers(25, 105, size=(2, 1)), rng.integers(-12, 13, size=(2, 3))
    rgb = tuple(tuple(color) for color in np.clip(base + tint, 8, 118).tolist())
    background, seed = str(rng.choice(["plain", "gradient", "stripes", "blobs"])), int(rng.integers(2**31))
    return Scene(split, index, long, duration, tuple(things), background, seed, rgb)


def _draw_actions(rng: np.random.Generator, wanted: int, long: bool) -> list[str]:
    if long:
        return ["brief", *(str(a) for a in rng.choice(["still", "moves"], size=wanted, p=[0.5, 0.5]))]
    if wanted >= 2 and rng.random() < 0.25:  # arrivals: several things come one after another
        coming = int(rng.integers(2, min(wanted, 4) + 1))
        return ["appears"] * coming + ["still"] * (wanted - coming)
    actions = [str(a) for a in rng.choice(ACTIONS, size=wanted, p=_ACTION_WEIGHTS)]
    while actions.count("brief") > 1:  # one brief event a clip, so that "the object that appears briefly" names one
        actions[actions.index("brief")] = "moves"
    if all(a in ("appears", "brief") for a in actions):
        actions[0] = "still"  # something is there from the first frame on
    return actions


def _arrival_times(rng: np.random.Generator, count: int, duration: float) -> list[float]:
    """Return `count` times, at least 0.8 s apart, away from both ends of the clip."""
    spare = duration - 1.6 - 0.8 * (count - 1)
    offsets = np.sort(rng.uniform(0, max(spare, 0.0), size=count))
    return [float(time) for time in rng.permutation(0.8 + offsets + 0.8 * np.arange(count))]


def _place(
    rng: np.random.Generator,
    action: str,
    duration: float,
    colors: list[str],
    others: list[Thing],
    arrivals: list[float],
    long: bool,
) -> Thing | None:
    """Make a thing that does `action`; it takes its colours and its arrival. None when the frame is full."""
    place = _find_place(rng, action, others)
    if place is None:
        return None
    radius, start, end, direction = place
    always = duration + 1.0
    visible, move, turn_color, turn_s = (0.0, always), (0.0, duration), "", 0.0
    if action == "moves" and not long:
        move = (float(rng.uniform(0, 0.2)) * duration, float(rng.uniform(0.7, 1.0)) * duration)
    if action == "appears":
        visible = (arrivals.pop(), always)
    elif action == "disappears":
        visible = (0.0, float(rng.uniform(0.3, 0.75)) * duration)
    elif action == "changes color":
        turn_color, turn_s = colors.pop(), float(rng.uniform(0.3, 0.7)) * duration
    elif action == "brief":
        length = float(rng.uniform(1.0, 2.0))
        begin = float(rng.uniform(0.7, duration - length - 0.7))
        visible = (begin, begin + length)
    shape, color = str(rng.choice(SHAPES)), colors.pop()
    return Thing(shape, color, radius, start, end, move, visible, action, direction, turn_color, turn_s)


def _find_place(rng: np.random.Generator, action: str, others: list[Thing]) -> tuple[float, Point, Point, str] | None:
    """Return a free (radius, start, end, direction), or None when sixty tries find none."""
    for _ in range(60):
        radius = float(rng.uniform(0.085, 0.16))
        x, y = (float(v) for v in rng.uniform(_MARGIN, 1 - _MARGIN, size=2))
        start, end, direction = (x, y), (x, y), ""
        if action == "moves":
            direction = str(rng.choice(list(DIRECTIONS)))
            dx, dy = DIRECTIONS[direction]
            far = float(rng.uniform(0.3, 0.65))
            end = (x + dx * far, y + dy * far)
            if not all(_MARGIN - 0.05 <= v <= 1 - _MARGIN + 0.05 for v in end):
                continue
        pairs = [(a, b) for o in others for a in (start, end) for b in (o.start, o.end)]
        if all((ax - bx) ** 2 + (ay - by) ** 2 >= _GAP**2 for (ax, ay), (bx, by) in pairs):
            return radius, start, end, direction
    return None
