"""Questions about a scene: a `Scene` in, `Question`s with one right answer out.

Each family has several wordings. `needs` lists time intervals: a sampling of the clip that misses one of them cannot
know
the answer. Training asks only what its frames can know; tests ask everything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stts_cli.toy.world import COLORS, DIRECTIONS, SHAPES, Scene, Thing, scene_rng

Interval = tuple[float, float]
PLACES = ("top left", "top right", "bottom left", "bottom right")
EVENTS = ("it appears", "it disappears", "it moves", "it changes color", "nothing")


@dataclass(frozen=True)
class Question:
    """One question about one clip.

    Attributes:
        family: a key of `FAMILIES`.
        text: the question.
        answer: the one right answer, compared by exact match.
        options: every answer a guesser would choose from (the right one among them); chance is 1 / len(options).
        needs: intervals (seconds), each of which must hold a sampled frame for the answer to be knowable.
    """

    family: str
    text: str
    answer: str
    options: tuple[str, ...]
    needs: tuple[Interval, ...] = ()

    def answerable(self, times_s: np.ndarray) -> bool:
        """Return whether every needed interval holds one of the sampled times."""
        return all(bool(np.any((times_s >= a) & (times_s < b))) for a, b in self.needs)


WORDINGS: dict[str, tuple[str, ...]] = {
    "color": (
        "What color is the {0}?",
        "Which color does the {0} have?",
        "What is the color of the {0}?",
        "Name the color of the {0}.",
    ),
    "shape": (
        "What shape is the {0} object?",
        "Which shape does the {0} object have?",
        "What is the shape of the {0} object?",
        "What is the {0} object?",
    ),
    "existence": ("Is there {0}?", "Is there {0} in the video?", "Does {0} appear in the video?", "Can you see {0}?"),
    "turned_into": (
        "What color does the {0} turn into?",
        "Which color does the {0} become?",
        "What color is the {0} at the end?",
        "The {0} changes color. What is its new color?",
    ),
    "direction": (
        "Which way does the {0} move?",
        "In which direction does the {0} move?",
        "Where does the {0} move to?",
        "Which direction is the {0} moving in?",
    ),
    "count": (
        "How many objects are there?",
        "How many objects are in the video?",
        "How many shapes can you see?",
        "Count the objects.",
    ),
    "position_start": (
        "Where is the {0} at the start?",
        "Where is the {0} at the beginning of the video?",
        "In which corner does the {0} start?",
    ),
    "position_end": (
        "Where is the {0} at the end?",
        "Where is the {0} at the end of the video?",
        "In which corner does the {0} end up?",
    ),
    "first": ("Which object appears first?", "What appears first?", "Which object shows up first?"),
    "last": ("Which object appears last?", "What appears last?", "Which object shows up last?"),
    "happened": ("What happens to the {0}?", "What does the {0} do?", "What happens with the {0}?"),
    "brief": (
        "Which object appears only briefly?",
        "What appears only briefly?",
        "Which object flashes up for a moment?",
    ),
}

# what training asks besides, so that a wording of one's own has a chance; what is measured keeps to those above
MORE_WORDINGS: dict[str, tuple[str, ...]] = {
    "color": (
        "What's the color of the {0}?",
        "What colour is the {0}?",
        "The {0} is what color?",
        "Tell me the color of the {0}.",
        "What is the {0}'s color?",
        "Which color is the {0}?",
        "The color of the {0}?",
        "How is the {0} colored?",
        "Can you tell me which color the {0} is?",
        "What color does the {0} have in this clip?",
    ),
    "shape": (
        "What's the shape of the {0} object?",
        "What shape is the {0} one?",
        "What shape is the {0} thing?",
        "What is the {0} thing?",
        "What kind of shape is the {0} object?",
        "Tell me the shape of the {0} object.",
        "Which shape is {0}?",
        "What form does the {0} object have?",
        "The {0} object is a what?",
        "Name the shape of the {0} thing.",
    ),
    "existence": (
        "Do you see {0}?",
        "Is {0} in the video?",
        "Does the video show {0}?",
        "Does the video contain {0}?",
        "Is {0} visible?",
        "Was there {0}?",
        "Can {0} be seen?",
        "Is there {0} anywhere?",
        "Have you seen {0}?",
        "Is there {0} in this clip?",
    ),
    "turned_into": (
        "What does the {0} turn into?",
        "Into which color does the {0} change?",
        "What color does the {0} change to?",
        "What is the new color of the {0}?",
        "Which color does the {0} take on?",
        "What color does the {0} have after the change?",
        "What is the color of the {0} at the end?",
        "The {0} becomes what color?",
        "What color does the {0} become?",
        "To what color does the {0} switch?",
    ),
    "direction": (
        "In what direction does the {0} move?",
        "In what direction is the {0} going?",
        "Where is the {0} going?",
        "Where does the {0} go?",
        "Which way does the {0} go?",
        "Which way is the {0} moving?",
        "What direction does the {0} move in?",
        "What is the direction of the {0}?",
        "Tell me the direction of the {0}.",
        "Does the {0} move left, right, up or down?",
        "In which direction is the {0} travelling?",
    ),
    "count": (
        "How many things are there?",
        "How many shapes are there?",
        "How many shapes are in the video?",
        "How many objects can you see?",
        "What is the number of objects?",
        "How many objects does the video show?",
        "How many different objects are there?",
        "Tell me how many objects there are.",
        "Count the shapes.",
        "Number of objects?",
    ),
    "position_start": (
        "Where is the {0} in the beginning?",
        "Where does the {0} start?",
        "Where is the {0} first?",
        "At the start, where is the {0}?",
        "What is the position of the {0} at the start?",
        "Which corner is the {0} in at the start?",
        "In which corner is the {0} at first?",
        "Where can the {0} be found at the beginning?",
    ),
    "position_end": (
        "Where does the {0} end up?",
        "Where does the {0} end?",
        "Where is the {0} finally?",
        "At the end, where is the {0}?",
        "What is the position of the {0} at the end?",
        "Which corner is the {0} in at the end?",
        "In which corner is the {0} at the end?",
        "Where can the {0} be found at the end?",
    ),
    "first": (
        "Which object comes first?",
        "What comes first?",
        "What is the first object to appear?",
        "Which thing appears first?",
        "What shows up first?",
        "What object appears first?",
    ),
    "last": (
        "Which object comes last?",
        "What comes last?",
        "What is the last object to appear?",
        "Which thing appears last?",
        "What shows up last?",
        "What object appears last?",
    ),
    "happened": (
        "What is happening to the {0}?",
        "What happened to the {0}?",
        "What did the {0} do?",
        "What is the {0} doing?",
        "Does anything happen to the {0}?",
        "Tell me what happens to the {0}.",
        "Describe what the {0} does.",
        "What goes on with the {0}?",
    ),
    "brief": (
        "Which object is there only briefly?",
        "What is only there for a moment?",
        "Which object is visible only for a moment?",
        "What flashes up?",
        "Which thing appears only briefly?",
        "What can be seen only for a short time?",
    ),
}
OPENINGS = ("Please answer: ", "In this video, ", "Tell me: ", "Question: ")
# neither asked in training nor measured by the benchmark: how far the model gets with words of one's own
UNSEEN_WORDINGS: dict[str, tuple[str, ...]] = {
    "color": ("Which color has the {0}?", "In what color is the {0}?"),
    "shape": ("What shape does the {0} thing have?", "Which kind of object is {0}?"),
    "existence": ("Could you see {0}?", "Does {0} show up?"),
    "turned_into": ("Which color is the {0} after it changed?", "What new color does the {0} get?"),
    "direction": ("In what direction is the {0} moving?", "To which side does the {0} go?"),
    "count": ("How many things can you count?", "How many shapes does the clip have?"),
    "position_start": ("Where was the {0} at the beginning?", "At the beginning, in which corner is the {0}?"),
    "position_end": ("Where was the {0} at the end?", "In the end, in which corner is the {0}?"),
    "first": ("Which one appears first?",),
    "last": ("Which one appears last?",),
    "happened": ("What is it that the {0} does?", "What becomes of the {0}?"),
    "brief": ("Which one is seen only briefly?",),
}

FAMILIES = (
    "color",
    "shape",
    "existence",
    "turned_into",
    "first_last",
    "count",
    "direction",
    "position",
    "happened",
    "brief",
)


def ask(scene: Scene, stream: int = 0) -> list[Question]:
    """Return every question this world asks about a scene, each in one wording.

    Args:
        scene: the clip's content.
        stream: which draw of wordings and distractors.

    Returns:
        Questions in a fixed order of families; empty families are left out.
    """
    rng = scene_rng(scene.split, scene.index, scene.long, stream=1 + stream)
    makers: tuple[Callable[[Scene, np.random.Generator], list[Question]], ...] = (
        _color,
        _shape,
        _existence,
        _turned_into,
        _first_last,
        _count,
        _direction,
        _position,
        _happened,
        _brief,
    )
    return [question for maker in makers for question in maker(scene, rng)]


def names_of(scene: Scene) -> list[str]:
    """Return "color shape" of every thing, under its first colour."""
    return [f"{t.color} {t.shape}" for t in scene.things]


class Worded(str):
    """A question's text that knows what it asks, so that it can be asked in other words.

    Attributes:
        key: of `WORDINGS`.
        what: what the wording is filled with.
    """

    key: str
    what: tuple[str, ...]


def _word(rng: np.random.Generator, key: str, *what: str) -> Worded:
    wordings = WORDINGS[key]
    text = Worded(wordings[int(rng.integers(len(wordings)))].format(*what))
    text.key, text.what = key, what
    return text


def reword(question: Question, rng: np.random.Generator, wordings: Mapping[str, tuple[str, ...]]) -> Question:
    """Return a question of `ask` in other words.

    Args:
        question: its text as `ask` gave it.
        rng: chooses.
        wordings: `MORE_WORDINGS` or the like.
    """
    assert isinstance(question.text, Worded)
    choice = wordings[question.text.key]
    return dataclasses.replace(question, text=choice[int(rng.integers(len(choice)))].format(*question.text.what))


def loosen(text: str, rng: np.random.Generator) -> str:
    """Return a question as people type it: now and then without capital or question mark, or with a word before."""
    if rng.random() < 0.1:
        text = text.rstrip("?.")
    if rng.random() < 0.1:
        text = text[0].lower() + text[1:]
    elif rng.random() < 0.08:
        text = f"{OPENINGS[int(rng.integers(len(OPENINGS)))]}{text[0].lower()}{text[1:]}"
    return text


def _unique_shape(scene: Scene, thing: Thing) -> bool:
    return sum(other.shape == thing.shape for other in scene.things) == 1


def _refer(scene: Scene, thing: Thing, rng: np.random.Generator) -> str:
    """Name a thing so that nothing else in the scene bears the name."""
    if _unique_shape(scene, thing) and rng.random() < 0.3:
        return thing.shape
    if rng.random() < 0.15:
        return f"{thing.color} object"
    return f"{thing.color} {thing.shape}"


def _color(scene: Scene, rng: np.random.Generator) -> list[Question]:
    return [
        Question("color", _word(rng, "color", t.shape), t.color, tuple(COLORS), (t.visible_s,))
        for t in scene.things
        if _unique_shape(scene, t) and not t.turn_color
    ]


def _shape(scene: Scene, rng: np.random.Generator) -> list[Question]:
    return [
        Question("shape", _word(rng, "shape", t.color), t.shape, SHAPES, (_seen_as_first(t),)) for t in scene.things
    ]


def _seen_as_first(thing: Thing) -> Interval:
    """Return when the thing can be seen under its first colour."""
    return (thing.visible_s[0], thing.turn_s) if thing.turn_color else thing.visible_s


def _a(color: str, shape: str) -> str:
    return f"{'an' if color[0] == 'o' else 'a'} {color} {shape}"


def _existence(scene: Scene, rng: np.random.Generator) -> list[Question]:
    taken = {(t.color, t.shape) for t in scene.things} | {(t.turn_color, t.shape) for t in scene.things}
    there = scene.things[int(rng.integers(len(scene.things)))]
    colors = [t.color for t in scene.things]
    if rng.random() < 0.35:  # a colour and a shape that are both there, on different things
        pairs = [(c, t.shape) for c in colors for t in scene.things if (c, t.shape) not in taken]
    else:
        pairs = [(c, s) for c in COLORS for s in SHAPES if (c, s) not in taken]
    questions = [
        Question(
            "existence",
            _word(rng, "existence", _a(there.color, there.shape)),
            "yes",
            ("yes", "no"),
            (_seen_as_first(there),),
        )
    ]
    if pairs:
        color, shape = pairs[int(rng.integers(len(pairs)))]
        questions.append(Question("existence", _word(rng, "existence", _a(color, shape)), "no", ("yes", "no")))
    return questions


def _turned_into(scene: Scene, rng: np.random.Generator) -> list[Question]:
    questions = []
    for t in scene.things:
        if t.turn_color:
            needs = (_seen_as_first(t), (t.turn_s, scene.duration_s + 1))
            questions.append(
                Question(
                    "turned_into", _word(rng, "turned_into", _refer(scene, t, rng)), t.turn_color, tuple(COLORS), needs
                )
            )
    return questions


def _first_last(scene: Scene, rng: np.random.Generator) -> list[Question]:
    coming = sorted((t for t in scene.things if t.visible_s[0] > 0), key=lambda t: t.visible_s[0])
    if len(coming) < 2:
        return []
    edges = [0.0, *(t.visible_s[0] for t in coming), scene.duration_s + 1]
    needs = tuple(pairwise(edges))
    options = tuple(f"{t.color} {t.shape}" for t in coming)
    return [
        Question("first_last", _word(rng, "first"), options[0], options, needs),
        Question("first_last", _word(rng, "last"), options[-1], options, needs),
    ]


def _count(scene: Scene, rng: np.random.Generator) -> list[Question]:
    needs = tuple(t.visible_s for t in scene.things)
    return [Question("count", _word(rng, "count"), str(len(scene.things)), ("1", "2", "3", "4", "5"), needs)]


def _direction(scene: Scene, rng: np.random.Generator) -> list[Question]:
    questions = []
    for t in scene.things:
        options = (*DIRECTIONS, "nowhere")
        if t.direction:
            begin, end = t.move_s
            third = (end - begin) / 3
            needs = ((0.0, begin + third), (end - third, scene.duration_s + 1))
            questions.append(
                Question("direction", _word(rng, "direction", _refer(scene, t, rng)), t.direction, options, needs)
            )
        elif t.action == "still" and rng.random() < 0.4:
            questions.append(
                Question(
                    "direction", _word(rng, "direction", _refer(scene, t, rng)), "nowhere", options, (t.visible_s,)
                )
            )
    return questions


def _position(scene: Scene, rng: np.random.Generator) -> list[Question]:
    questions = []
    for t in scene.things:
        if t.turn_color or t.action == "brief":
            continue
        for key, (x, y), needs in (
            ("position_start", t.start, (0.0, 0.6)),
            ("position_end", t.end, (scene.duration_s - 0.6, scene.duration_s + 1)),
        ):
            seen = t.visible_s[0] == 0 if key == "position_start" else t.visible_s[1] > scene.duration_s
            if seen and min(abs(x - 0.5), abs(y - 0.5)) > 0.08:
                place = f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"
                questions.append(Question("position", _word(rng, key, _refer(scene, t, rng)), place, PLACES, (needs,)))
    return questions


def _happened(scene: Scene, rng: np.random.Generator) -> list[Question]:
    answers = dict(zip(("appears", "disappears", "moves", "changes color", "still"), EVENTS, strict=True))
    questions = []
    for t in scene.things:
        if t.action not in answers:
            continue
        needs: tuple[Interval, ...] = ((0.0, 0.6), (scene.duration_s - 0.6, scene.duration_s + 1))
        if t.action in ("appears", "disappears"):
            needs = (*needs, t.visible_s)
        questions.append(
            Question("happened", _word(rng, "happened", _refer(scene, t, rng)), answers[t.action], EVENTS, needs)
        )
    return questions


def _brief(scene: Scene, rng: np.random.Generator) -> list[Question]:
    options = tuple(names_of(scene))
    return [
        Question("brief", _word(rng, "brief"), f"{t.color} {t.shape}", options, (t.visible_s,))
        for t in scene.things
        if t.action == "brief" and len(options) > 1
    ]
