"""Ask questions of videos with fewer tokens: the method of arXiv 2603.18004 as a command line and a Python library.

    model = stts_cli.load("nano", keep_ratio=0.5)
    video = model.encode("clip.mp4", frames=64)
    print(model.ask(video, "What color is the circle?").text, video.savings)

Importing this package imports nothing heavy: torch and transformers load when `load` is first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stts_cli.engine.model import VideoModel, from_model, load
    from stts_cli.engine.results import Answer, Video
    from stts_cli.media.clip import Clip

_PLACES = {
    "load": "engine.model",
    "from_model": "engine.model",
    "VideoModel": "engine.model",
    "Video": "engine.results",
    "Answer": "engine.results",
    "Clip": "media.clip",
}
__all__ = ["Answer", "Clip", "Video", "VideoModel", "from_model", "load"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module 'stts_cli' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"stts_cli.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
