"""The model `stts` inside lmms-eval: its simple API, answered by `engine.model.VideoModel`.

    lmms-eval --model stts --model_args pretrained=allenai/Molmo2-4B,keep_ratio=0.5,max_frames=64 --tasks mvbench

Requests in, texts out, in the order of the requests. Those about one video are answered together, behind one encoded
video. lmms-eval words the prompts and reads the replies in its own way, so its scores differ from those of `stts eval`.
Only imported where lmms-eval is installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.model import lmms
from tqdm import tqdm  # type: ignore[import-untyped]

from stts_cli.engine.model import load_arm
from stts_cli.errors import InputError, suggest
from stts_cli.settings import Arm, read_prune_layer

DEFAULT_NEW_TOKENS = 64
GREEDY = {"temperature": (0, 0.0, None), "do_sample": (False, None), "num_beams": (1, None), "top_p": (1, 1.0, None)}
# of --model_args, which lmms-eval hands over as numbers or as strings
SETTINGS: dict[str, Callable[[Any], Any]] = {
    "max_frames": int,
    "max_fps": float,
    "keep_ratio": float,
    "scorer": str,
    "prune_layer": read_prune_layer,
    "dtype": str,
    "revision": str,
}


class Stts(lmms):
    """A video VLM with token pruning.

    `pretrained` is a checkpoint folder or a hub id; questions about one video are answered together whatever
    `batch_size` is. Settings: max_frames (64 a video), max_fps (2 a second) at most; keep_ratio, the fraction of
    windows kept in (0, 1], 1 being dense; scorer, "auto" or one of `settings.SCORERS`; prune_layer, the 0-based ViT
    block after which windows are scored; dtype, "auto", "float32", "bfloat16" or "float16"; revision, of a hub id.
    InputError for one that is not known, or a value that is none.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        given = {name: _read(name, value) for name, value in settings.items()}
        arm = Arm("stts", pretrained).override(frames=given.pop("max_frames", None), **given)
        self.video_model = load_arm(arm, device or "auto", note=lambda text: warnings.warn(text, stacklevel=2))
        self.batch_size = batch_size

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.video_model.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer requests, a text each in their order, or refuse a document that has no video file, or several.

        A request's `args` are (context, gen_kwargs, doc_to_visual, doc_id, task, split).
        """
        groups: dict[tuple[str, int], list[int]] = {}
        for index, request in enumerate(requests):
            _, options, to_visual, doc_id, task, split = request.args
            video = _only_video(to_visual(self.task_dict[task][split][doc_id]), task, doc_id)
            limit = int(options.get("max_new_tokens") or DEFAULT_NEW_TOKENS)
            groups.setdefault((video, limit), []).append(index)
        texts: dict[int, str] = {}
        for (video, limit), members in tqdm(groups.items(), desc="videos", disable=self.rank != 0):
            encoded = self.video_model.encode(video)
            for index in members:
                context, options, *_ = requests[index].args
                answer = self.video_model.ask(encoded, context, max_new_tokens=limit)
                texts[index] = _cut(answer.text, options)
                self.cache_hook.add_partial("generate_until", (context, options), texts[index])
        return [texts[index] for index in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered: only lmms-eval's perplexity tasks ask for it."""
        raise NotImplementedError("stts answers generate_until tasks only; choose a task that generates.")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered: a video and a question are one round."""
        raise NotImplementedError("stts answers generate_until tasks only; choose a task of one round.")


def _read(name: str, value: Any) -> Any:
    """Return a setting's value as what it is; None where it is not given."""
    if name not in SETTINGS:
        raise InputError(f"--model_args {name}: is not known{suggest(name, ['pretrained', *SETTINGS])}")
    try:
        return None if value is None else SETTINGS[name](value)
    except ValueError:
        raise InputError(f"--model_args {name}={value}: must be a number.") from None


def _only_video(visuals: Any, task: str, doc_id: Any) -> str:
    """Return the path of a document's one video."""
    given = list(visuals) if isinstance(visuals, (list, tuple)) else [visuals]
    if len(given) != 1 or not isinstance(given[0], (str, Path)):
        kinds = ", ".join(type(one).__name__ for one in given) or "nothing"
        raise InputError(f"{task} {doc_id}: shows {kinds}, must show one video file; choose a video task.")
    return str(given[0])


def _cut(text: str, options: dict[str, Any]) -> str:
    """End a text where lmms-eval wants it ended, and say what cannot be honoured."""
    for name, greedy in GREEDY.items():
        if name in options and options[name] not in greedy:
            warnings.warn(f"{name} {options[name]} has no effect: stts decodes greedily", stacklevel=2)
    until = options.get("until") or ()
    for stop in [until] if isinstance(until, str) else until:
        if stop:
            text = text.split(stop, 1)[0]
    return text
