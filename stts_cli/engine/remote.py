"""A model on an OpenAI-compatible server, asked as a loaded one is: read, encode (pack the frames), ask.

The client samples the frames, and the server's model sees exactly those:

- `video`, vLLM's list of frames: each frame a PNG, lossless, and its time in microseconds, told by `media_io_kwargs`
  (indices of frames at a million a second, so that the server samples and cuts nothing itself).
- `images`, for servers without it: a list of PNG pictures, the time of each in a line of text before it. The frames are
  exact; the model reads pictures, not a video.

Frames go out at the size that the model's own rule gives them where the model is a folder here or a hub id, so that the
server's processor leaves them as they are; else at the file's own size, and the server resizes.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stts_cli.engine.server import SILENCE_S, Server
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.media.clip import Clip
from stts_cli.media.resize import choose_filter
from stts_cli.media.source import ReadRequest, Source
from stts_cli.settings import GREEDY, Answering, Arm, Pruning

if TYPE_CHECKING:
    from stts_cli.families.base import Family

SENDS = ("video", "images")
TICKS = 1_000_000  # frames a second of the video that the server is told of


@dataclass(frozen=True)
class Engine:
    """A server and how it is asked.

    Attributes:
        url: its address.
        send: "video" or "images".
        in_flight: videos that are asked about at once.
        silence_s: seconds without a word after which a request is given up.

    Raises:
        InputError: a value out of range.
    """

    url: str
    send: str = "video"
    in_flight: int = 4
    silence_s: float = SILENCE_S

    def __post_init__(self) -> None:
        if self.send not in SENDS:
            raise InputError(f"--send {self.send}: must be {' or '.join(SENDS)}.")
        if self.in_flight < 1:
            raise InputError(f"--in-flight {self.in_flight}: must be at least 1.")
        if not 0 < self.silence_s < float("inf"):
            raise InputError(f"--answer-timeout {self.silence_s:g}: must be seconds, greater than 0.")


@dataclass(frozen=True)
class RemoteVideo:
    """A video as a server gets it.

    Attributes:
        clip: the frames and their times.
        content: of the user's turn, before the question.
        extra: what goes with every request about it.
        num_dense: visual tokens before any is dropped; None where the model is not known here.
    """

    clip: Clip
    content: Sequence[dict[str, Any]] = field(repr=False)
    extra: dict[str, Any]
    num_dense: int | None
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    prefill_s: float = 0.0

    @property
    def timestamps_s(self) -> list[float]:
        """Time of each frame in seconds from the start of the video."""
        return self.clip.timestamps_s

    def costs(self, answer: RemoteAnswer) -> dict[str, Any]:
        """Return what a row of the journal says of the cost; None where the server does not tell."""
        dense, dropped = self.num_dense, answer.num_dropped
        return {
            "tokens_in": answer.num_prompt_tokens,
            "tokens_expected": answer.num_expected,
            "tokens_out": answer.num_new_tokens,
            "ttft_s": answer.ttft_s,
            "visual_tokens": None if dense is None or dropped is None else dense - dropped,
            "visual_tokens_dense": dense,
            "flops": None,
            "peak_bytes": None,
        }


@dataclass(frozen=True)
class RemoteAnswer:
    """An answer of a server.

    Attributes:
        question: as it was asked.
        text: the answer.
        finished: False when it was cut at the limit of new tokens.
        num_prompt_tokens: as the server counts them; None where it does not tell.
        num_new_tokens: as the server counts them; None where it does not tell.
        num_expected: tokens that the prompt should have; of a server that prunes as it likes, at most.
        num_dropped: visual tokens that the server left out, from both counts; None where one is not known.
        ttft_s: seconds to the first text; None where the server does not stream.
        seconds: "answer", from the request to the end.
    """

    question: str
    text: str
    finished: bool
    num_prompt_tokens: int | None
    num_new_tokens: int | None
    num_expected: int | None
    num_dropped: int | None
    ttft_s: float | None
    seconds: dict[str, float]


class RemoteModel:
    """A model on a server, under one arm; what evaluation and `ask` use of a `VideoModel`.

    Args:
        server: that serves it.
        arm: names it, and how many frames it gets; a keep ratio goes with each request, None leaves it to the server.
        send: one of `SENDS`.
        family: the model without its weights, or None where it is not known here.
        answering: what it is told before the video, and how it words answers.
    """

    is_demonstration = False

    def __init__(
        self, server: Server, arm: Arm, send: str, family: Family | None, answering: Answering = GREEDY
    ) -> None:
        self.server, self.arm, self.send, self.family = server, arm, send, family
        self.answering, self.frames = answering, arm.frames
        self.notes: list[str] = []
        if family is None:
            self.notes.append(
                f"{arm.model}: is no folder here and not in the hub's cache, so frames go out at the file's own size "
                "and the server's token counts are not checked"
            )
        if send == "images":
            self.notes.append("--send images: the model reads pictures with their times as text, not a video")
        self._lock = threading.Lock()  # a tokenizer is used by one thread at a time

    @property
    def name(self) -> str:
        """What the server calls it."""
        return self.arm.model

    def describe(self) -> dict[str, Any]:
        """Return the settings that a run is known by; what the server does besides is its own."""
        return {
            "model": self.name,
            "frames": self.frames,
            "max_fps": self.arm.max_fps,
            "keep_ratio": self.arm.keep_ratio,
            "send": self.send,
            "frame_size": "file" if self.family is None else "model",
        }

    def clamp_note(self, num_frames: int, num_visual: int) -> str:
        """Return nothing: what a server keeps is its own."""
        return ""

    def request(self, source: Source) -> ReadRequest:
        """Return what is to be read of a source."""
        if self.family is None:
            return ReadRequest(source, self.frames, self.arm.max_fps, None)
        resample = choose_filter(self.arm.resize, self.family.resample)
        return ReadRequest(source, self.frames, self.arm.max_fps, self.family.layout_rule, resample)

    def encode(self, clip: Clip) -> RemoteVideo:
        """Pack the frames of a clip with their times."""
        pictures = [_png(frame) for frame in clip.frames]
        extra: dict[str, Any] = {}
        if self.send == "video":
            url = f"data:video/jpeg;base64,{','.join(pictures)}"  # so vLLM calls a list of frames of any format
            content: list[dict[str, Any]] = [{"type": "video_url", "video_url": {"url": url}}]
            indices = [round(time * TICKS) for time in clip.timestamps_s]
            told = {
                "num_frames": -1,
                "fps": TICKS,
                "frames_indices": indices,
                "total_num_frames": max(round(clip.length_s * TICKS), indices[-1] + 1),
                "duration": clip.length_s,
                "do_sample_frames": False,
            }
            extra["media_io_kwargs"] = {"video": told}
        else:
            content = []
            for time, picture in zip(clip.timestamps_s, pictures, strict=True):
                content.append({"type": "text", "text": f"{time:.1f} s:"})
                content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}})
        if self.arm.keep_ratio is not None:
            extra["mm_processor_kwargs"] = {"stts": {"keep_ratio": self.arm.keep_ratio}}
        units, windows = self._units(clip)
        return RemoteVideo(clip, content, extra, units * windows or None, [*clip.damage, *clip.notes, *self.notes])

    def ask(
        self,
        video: RemoteVideo,
        question: str,
        *,
        options: Sequence[str] = (),
        context: str = "",
        max_new_tokens: int = 64,
        on_text: Callable[[str], None] | None = None,
    ) -> RemoteAnswer:
        """Answer a question about a video, worded as a loaded model would. `context` stands before the question.

        Raises:
            InputError: there are options, the server refuses this question, or its answer did not come.
            EnvironmentFailure: the server is not there, or would refuse every question.
        """
        if options:
            raise InputError("--options: a server tells no likelihoods; ask without, and name them in the question.")
        text, how = context + question, self.answering
        messages: list[dict[str, Any]] = [{"role": "system", "content": how.system}] if how.system else []
        messages.append({"role": "user", "content": [*video.content, {"type": "text", "text": text}]})
        drawn = {"top_p": how.top_p, "seed": self.arm.seed or 0} if how.temperature else {}
        body = {
            "model": self.name,
            "messages": messages,
            "max_tokens": max_new_tokens,
            "temperature": how.temperature,
            **drawn,
            **({"stop": list(how.stop)} if how.stop else {}),
            **video.extra,
        }
        reply = self.server.chat(body, on_text)
        dense = self._dense_length(video, text)
        counted, expected = reply.num_prompt_tokens, dense
        if dense is not None and self.arm.keep_ratio is not None:
            pruning = Pruning(keep_ratio=self.arm.keep_ratio)
            expected = dense - pruning.num_dropped(*self._units(video.clip))
        return RemoteAnswer(
            question=question,
            text=reply.text.strip(),
            finished=reply.finished,
            num_prompt_tokens=counted,
            num_new_tokens=reply.num_new_tokens,
            num_expected=expected,
            num_dropped=None if dense is None or counted is None or counted > dense else dense - counted,
            ttft_s=reply.ttft_s,
            seconds={"answer": reply.seconds},
        )

    def _units(self, clip: Clip) -> tuple[int, int]:
        """Return a clip's units and the windows of one; 0 where its tokens cannot be counted here."""
        if self.family is None or self.send != "video":
            return 0, 0
        num_frames, height, width, _ = clip.frames.shape
        layout = self.family.layout_rule(height, width, num_frames)
        return layout.num_units(num_frames), layout.num_windows

    def _dense_length(self, video: RemoteVideo, text: str) -> int | None:
        """Return the tokens of a prompt before any is dropped; None where they cannot be counted here."""
        if self.family is None or video.num_dense is None:
            return None
        import torch

        clip = video.clip
        num_frames, height, width, _ = clip.frames.shape
        layout = self.family.layout_rule(height, width, num_frames)
        mask = torch.ones(layout.num_units(num_frames), layout.num_windows, dtype=torch.bool)
        with self._lock:
            return self.family.build_prompt(
                clip.timestamps_s,
                text,
                mask,
                layout=layout,
                duration_s=clip.length_s,
                system=self.answering.system,
            ).dense_length


def load_remote(engine: Engine, arms: Sequence[Arm], answering: Answering = GREEDY, seed: int = 0) -> list[RemoteModel]:
    """Return the arms' models, when the server has said that it serves them.

    Args:
        engine: the server.
        arms: at least one.
        answering: as for `RemoteModel`.
        seed: of arms that name none.

    Raises:
        InputError: the server serves no such model.
        EnvironmentFailure: no server answers.
    """
    server = Server(engine.url, engine.silence_s)
    known: dict[str, Family | None] = {}
    for arm in arms:
        if arm.model not in known:
            server.check_model(arm.model)
            known[arm.model] = _known_here(arm.model)
    seeded = [arm if arm.seed is not None else dataclasses.replace(arm, seed=seed) for arm in arms]
    return [RemoteModel(server, arm, engine.send, known[arm.model], answering) for arm in seeded]


def _known_here(model: str) -> Family | None:
    """Return a model without its weights; None where a name is no folder and no hub id, or of no family."""
    if "/" not in model and not Path(model).is_dir():
        return None
    from stts_cli.families.weightless import weightless_family

    try:
        return weightless_family(model)
    except (InputError, EnvironmentFailure):
        return None


def _png(frame: Any) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()
