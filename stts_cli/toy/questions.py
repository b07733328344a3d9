"""Questions about a scene: a `Scene` in, `Question`s with one right answer out; their words are in wordings.yaml.

`needs` lists time intervals: a sampling of the clip that misses one of them cannot know the answer. Training asks only
what its frames can know; tests ask everything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import yaml

from stts_cli.toy.world import COLORS, DIRECTIONS, SHAPES, Scene, Thing, scene_rng

Interval = tuple[float, float]
_WORDINGS = yaml.safe_load(Path(__file__).with_name("wordings.yaml").read_text(encoding="utf-8"))
WORDINGS, MORE_WORDINGS, UNSEEN_WORDINGS = (
    {key: tuple(uses[use]) for key, uses in _WORDINGS.items()} for use in ("measured", "training", "unseen")
)
OPENINGS = ("Please answer: ", "In this video, ", "Tell me: ", "Question: ")
PLACES = ("top left", "top right", "bottom left", "bottom right")
EVENTS = {  # the answer to what happens, by what a thing does
    "appears": "it appears",
    "disappears": "it disappears",
    "moves": "it moves",
    "changes color": "it changes color",
    "still": "nothing",
}
_TYPE_OF = {"first": "first_last", "last": "first_last", "position_start": "position", "position_end": "position"}


@dataclass(frozen=True)
class Question:
    """One question about one clip."""

    wording: str  # a key of `WORDINGS`
    name: str  # what the wording is filled with, or ""
    text: str
    answer: str  # the one right answer, compared by exact match
    options: tuple[str, ...]  # every answer a guesser would choose from, the right one among them
    needs: tuple[Interval, ...]  # seconds; each must hold a sampled frame for the answer to be knowable

    @property
    def type(self) -> str:
        """What kind of question it is: its wording's key, where two of them ask for one thing the pair's name."""
        return _TYPE_OF.get(self.wording, self.wording)

    def answerable(self, times_s: np.ndarray) -> bool:
        """Return whether every needed interval holds one of the sampled times."""
        return all(bool(np.any((times_s >= a) & (times_s < b))) for a, b in self.needs)

    def reworded(self, rng: np.random.Generator, wordings: Mapping[str, tuple[str, ...]]) -> Question:
        """Return the question in one of `wordings`, which `rng` chooses."""
        return dataclasses.replace(self, text=_choose(rng, wordings[self.wording]).format(self.name))


def ask(scene: Scene) -> list[Question]:
    """Return every question this world asks about a scene, each in one wording, type after type."""
    rng = scene_rng(scene.split, scene.index, scene.long, stream=1)
    return [question for asked in _ASKED for question in asked(scene, rng)]


def as_typed(text: str, rng: np.random.Generator) -> str:
    """Return a question as people type it: now and then without capital or question mark, or with a word before."""
    if rng.random() < 0.1:
        text = text.rstrip("?.")
    if rng.random() < 0.1:
        text = text[0].lower() + text[1:]
    elif rng.random() < 0.08:
        text = f"{_choose(rng, OPENINGS)}{text[0].lower()}{text[1:]}"
    return text


def _choose(rng: np.random.Generator, texts: tuple[str, ...]) -> str:
    return texts[int(rng.integers(len(texts)))]


def _question(
    rng: np.random.Generator, wording: str, name: str, answer: str, options: tuple[str, ...], *needs: Interval
) -> Question:
    return Question(wording, name, _choose(rng, WORDINGS[wording]).format(name), answer, options, needs)


def _has_own_shape(scene: Scene, thing: Thing) -> bool:
    return sum(other.shape == thing.shape for other in scene.things) == 1


def _refer(scene: Scene, thing: Thing, rng: np.random.Generator) -> str:
    """Name a thing so that nothing else in the scene bears the name."""
    if _has_own_shape(scene, thing) and rng.random() < 0.3:
        return thing.shape
    return f"{thing.color} object" if rng.random() < 0.15 else thing.name


def _in_first_color(thing: Thing) -> Interval:
    """Return when the thing can be seen in its first colour."""
    return (thing.visible_s[0], thing.turn_s) if thing.turn_color else thing.visible_s


def _color(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for t in scene.things:
        if _has_own_shape(scene, t) and not t.turn_color:
            yield _question(rng, "color", t.shape, t.color, tuple(COLORS), t.visible_s)


def _shape(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for t in scene.things:
        yield _question(rng, "shape", t.color, t.shape, SHAPES, _in_first_color(t))


def _existence(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    taken = {(color, t.shape) for t in scene.things for color in (t.color, t.turn_color)}
    there = scene.things[int(rng.integers(len(scene.things)))]
    if rng.random() < 0.35:  # a colour and a shape that are both there, on different things
        colors, shapes = [t.color for t in scene.things], [t.shape for t in scene.things]
    else:
        colors, shapes = list(COLORS), list(SHAPES)
    yield _question(rng, "existence", _a(there.name), "yes", ("yes", "no"), _in_first_color(there))
    if absent := [f"{c} {s}" for c in colors for s in shapes if (c, s) not in taken]:
        yield _question(rng, "existence", _a(absent[int(rng.integers(len(absent)))]), "no", ("yes", "no"))


def _a(name: str) -> str:
    return f"{'an' if name[0] == 'o' else 'a'} {name}"


def _turned_into(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for t in scene.things:
        if t.turn_color:
            needs = (_in_first_color(t), (t.turn_s, scene.after_s))
            yield _question(rng, "turned_into", _refer(scene, t, rng), t.turn_color, tuple(COLORS), *needs)


def _first_last(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    coming = sorted((t for t in scene.things if t.visible_s[0] > 0), key=lambda t: t.visible_s[0])
    options = tuple(t.name for t in coming)
    needs = tuple(pairwise([0.0, *(t.visible_s[0] for t in coming), scene.after_s]))
    if len(coming) > 1:
        yield _question(rng, "first", "", options[0], options, *needs)
        yield _question(rng, "last", "", options[-1], options, *needs)


def _count(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    number = str(len(scene.things))
    yield _question(rng, "count", "", number, ("1", "2", "3", "4", "5"), *(t.visible_s for t in scene.things))


def _direction(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for t in scene.things:
        needs: tuple[Interval, ...] = (t.visible_s,)
        if t.direction:
            begin, end = t.move_s
            third = (end - begin) / 3
            needs = ((0.0, begin + third), (end - third, scene.after_s))
        elif t.action != "still" or rng.random() >= 0.4:
            continue
        answer, options = t.direction or "nowhere", (*DIRECTIONS, "nowhere")
        yield _question(rng, "direction", _refer(scene, t, rng), answer, options, *needs)


def _position(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for t in scene.things:
        if t.turn_color or t.action == "brief":
            continue
        seen = {"position_start": t.visible_s[0] == 0, "position_end": t.visible_s[1] > scene.duration_s}
        for wording, (x, y), needs in zip(seen, (t.start, t.end), _both_ends(scene), strict=True):
            if seen[wording] and min(abs(x - 0.5), abs(y - 0.5)) > 0.08:
                place = f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"
                yield _question(rng, wording, _refer(scene, t, rng), place, PLACES, needs)


def _both_ends(scene: Scene) -> tuple[Interval, Interval]:
    return (0.0, 0.6), (scene.duration_s - 0.6, scene.after_s)


def _happened(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for t in scene.things:
        if t.action in EVENTS:
            needs: list[Interval] = [*_both_ends(scene)]
            if t.action in ("appears", "disappears"):
                needs.append(t.visible_s)
            yield _question(rng, "happened", _refer(scene, t, rng), EVENTS[t.action], tuple(EVENTS.values()), *needs)


def _brief(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    options = tuple(t.name for t in scene.things)
    for t in scene.things:
        if t.action == "brief" and len(options) > 1:
            yield _question(rng, "brief", "", t.name, options, t.visible_s)


_ASKED = (_color, _shape, _existence, _turned_into, _first_last, _count, _direction, _position, _happened, _brief)
