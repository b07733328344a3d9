"""Write scenes as real H.264 files, the way a user's video arrives: encoded, subsampled in colour, at another size."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from stts_cli.media.writer import write_video
from stts_cli.toy.questions import ask
from stts_cli.toy.render import render
from stts_cli.toy.world import Scene, Thing, make_scene


def write_clip(scene: Scene, path: Path, size: int | None = None, fps: int | None = None) -> Path:
    """Encode a scene as an H.264 mp4 with libx264, and return its path; a broken run leaves no half file.

    `size` is its side in pixels, even: 288 for short scenes, 192 for long ones when not given; `fps` the scene's own.
    """
    fps = fps or scene.fps
    size = size or (192 if scene.long else 288)
    times = scene.frame_times(fps)
    parts = (
        render(scene, times[start : start + 64], size) for start in range(0, len(times), 64)
    )  # not all held at once
    write_video(path, itertools.chain.from_iterable(parts), Fraction(fps))
    return path


@dataclass(frozen=True)
class SceneClip:
    """What writes a scene's clip; see `media.source.Source.write`."""

    scene: Scene

    def __call__(self, path: Path) -> None:
        """Write it."""
        write_clip(self.scene, path)


def demo_scene() -> Scene:
    """Return the scene of the demonstration clip, presets/nano/demo.mp4: one thing of most kinds of life."""
    always = (0.0, 7.0)
    things = (
        Thing("square", "blue", 0.12, (0.2, 0.8), (0.2, 0.8), always, always, "still"),
        Thing("circle", "red", 0.12, (0.2, 0.25), (0.72, 0.25), (0.5, 5.5), always, "moves", "right"),
        Thing("triangle", "green", 0.13, (0.52, 0.7), (0.52, 0.7), always, always, "changes color", "", "yellow", 3.0),
        Thing("star", "white", 0.11, (0.82, 0.72), (0.82, 0.72), always, (2.2, 7.0), "appears"),
    )
    return Scene("test", -1, False, 6.0, things, "gradient", 7, ((38, 44, 58), (78, 70, 84)))


def main(arguments: list[str]) -> None:
    """Write held-out clips and what may be asked of them: `python -m stts_cli.toy.clips FOLDER [COUNT]`.

    The questions are printed, and go into FOLDER/questions.jsonl as `stts eval --bench` and `stts finetune --data` take
    them.
    """
    if not arguments or len(arguments) > 2 or not all(count.isdigit() for count in arguments[1:]):
        sys.exit("usage: python -m stts_cli.toy.clips FOLDER [COUNT]")
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(int(arguments[1]) if len(arguments) == 2 else 5):
        scene = make_scene("test", 1_000_000 + index)  # far from the clips that `stts eval` measures
        clip = write_clip(scene, folder / f"clip-{index}.mp4")
        print(clip)
        for question in ask(scene):
            print(f"  {question.text}  [{question.answer}]")
            row = {"video": clip.name, "question": question.text, "answer": question.answer}
            rows.append(json.dumps({**row, "groups": {"family": question.type}}))
    (folder / "questions.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
