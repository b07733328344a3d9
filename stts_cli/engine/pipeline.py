"""The whole path of one question: video file -> frames -> kept visual tokens -> prompt -> answer.

In: a model's name, a video file, questions and flat settings. Out: `AskRun`, with the answers, what was kept, and
what that saved; `AskRun.to_dict()` is the document that `--json` prints and that report/ask.py draws. The steps are
those of arXiv 2603.18004 (method): score windows inside the vision encoder, drop the lowest, pack, and give the
language model the kept tokens only. A dense arm of the same run takes the same path with everything kept.

Times are wall-clock seconds after the device has finished. TTFT runs from the frames in memory to the first token of
the answer; reading the file is counted apart. Printing is not done here.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stts_cli import __version__, settings
from stts_cli.cost import savings
from stts_cli.engine import generate
from stts_cli.engine.device import PeakMemory, resolve_device
from stts_cli.engine.generate import VideoPrefix, prefill_video
from stts_cli.errors import InputError
from stts_cli.families.base import clamp_note
from stts_cli.media import video
from stts_cli.media.resize import DECODER, NOTE, choose_filter
from stts_cli.media.video import Clip
from stts_cli.pruning.stopwatch import clock

if TYPE_CHECKING:
    from stts_cli.families.base import EncodedVideo, Family

Progress = Callable[[str], None]
WARM_UP_FRAMES = 2


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        question: as it was asked.
        text: the answer; with options, the likeliest one.
        finished: False when the answer was cut at the limit of new tokens.
        options: with options, a dict each of text, log_likelihood and probability (over the options); else None.
        num_prompt_tokens: language-model tokens of the prompt after pruning.
        num_new_tokens: decoding steps; with options, the tokens scored.
        ttft_s: seconds to the first token. The first question pays for the video, later ones reuse it.
        seconds: "llm_prefill" and "decode" of this question alone.
        prefix_s: seconds the language model spent on the part before the question, which questions share.
        savings: the FLOPs and tokens of this question asked alone, from `savings.Savings.to_dict`.
    """

    question: str
    text: str
    finished: bool
    options: list[dict[str, Any]] | None
    num_prompt_tokens: int
    num_new_tokens: int
    ttft_s: float
    seconds: dict[str, float]
    prefix_s: float
    savings: dict[str, Any]


@dataclass
class Arm:
    """Everything one way of looking at the video gave: pruned, or dense.

    Attributes:
        name: "pruned" or "dense".
        scorer: who scored the windows.
        keep_ratio: fraction of windows asked to be kept.
        prune_layer: 0-based ViT block after which they were scored.
        kernel: attention of the packed ViT blocks, "dense" where nothing was dropped.
        kernel_reason: why that one.
        num_windows: windows of all frames.
        num_windows_kept: those that became visual tokens.
        kept_per_frame: windows kept of each frame.
        seconds: time by stage, reading excluded.
        peak_bytes: most memory held while this arm ran, or None where it cannot be measured.
        answers: one a question.
    """

    name: str
    scorer: str
    keep_ratio: float
    prune_layer: int
    kernel: str
    kernel_reason: str
    num_windows: int
    num_windows_kept: int
    kept_per_frame: list[int]
    seconds: dict[str, float]
    peak_bytes: int | None
    answers: list[Answer]


@dataclass(frozen=True)
class AskRun:
    """One run of `stts ask`.

    Attributes:
        model: its name.
        is_demonstration: True for the embedded model of the procedural world.
        device: where it ran, for example "cpu".
        dtype: of the weights.
        video: path, times and decoder of the clip.
        arms: the pruned arm and, when comparing, the dense arm behind it.
        seconds: "load" and "read".
        notes: what a user should know: fallbacks, settings that had no effect.
    """

    model: str
    is_demonstration: bool
    device: str
    dtype: str
    video: dict[str, Any]
    arms: list[Arm]
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain data, ready for JSON."""
        return {"stts": __version__, "command": "ask", **dataclasses.asdict(self)}


def ask(
    path: str | Path,
    questions: Sequence[str],
    *,
    model: str,
    frames: int,
    max_fps: float,
    resize: str = "model",
    options: Sequence[str] = (),
    keep_ratio: float | None = None,
    scorer: str = "auto",
    prune_layer: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    max_new_tokens: int = 64,
    compare: bool = False,
    progress: Progress = lambda stage: None,
    on_kept: Callable[[Family, Clip, torch.Tensor], None] = lambda family, clip, keep_mask: None,
) -> AskRun:
    """Answer questions about a video file.

    Args:
        path: the video file.
        questions: one or more.
        model: a checkpoint folder or a hub id.
        frames: the most frames to look at.
        max_fps: the most frames a second to look at.
        resize: who resizes frames, one of `resize.RESIZES`.
        options: if given, at least two: the likeliest is the answer to every question.
        keep_ratio: fraction of windows kept, in (0, 1]; None for the checkpoint's own.
        scorer: "auto", or one of `settings.SCORERS`.
        prune_layer: 0-based ViT block after which windows are scored; None for the checkpoint's own.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "auto", "float32", "bfloat16" or "float16".
        max_new_tokens: the most tokens of an answer.
        compare: run the dense arm too.
        progress: called with the name of each stage as it starts.
        on_kept: called with the pruned arm's keep mask, bool (T, W), for a picture of it.

    Returns:
        The run.

    Raises:
        InputError: the video, the model's name or a setting is wrong.
        EnvironmentFailure: the device is not there.
    """
    if len(options) == 1 or len(set(options)) != len(options):
        raise InputError(f"options are {list(options)} -> at least two, all different -> add or change one")
    if any(not text.strip() for text in [*questions, *options]):
        raise InputError("a question or an option is empty -> give each at least one word")
    device = resolve_device(device)
    dtype = ("bfloat16" if device.startswith("cuda") else "float32") if dtype == "auto" else dtype
    progress("loading the model")
    started = clock("cpu")
    family = load(model, device=device, dtype=dtype)
    loaded = clock("cpu")
    progress("reading the video")
    resample = choose_filter(resize, family.resample)
    clip = video.read_clip(path, num_frames=frames, max_fps=max_fps, size=family.frame_size, resample=resample)
    read = clock("cpu")

    scorer, keep_ratio, notes = resolve_scorer(family, scorer, keep_ratio, prune_layer)
    if resize == DECODER:
        notes.insert(0, NOTE)
    if clamped := clamp_note(family, len(clip.timestamps_s), keep_ratio, scorer):
        notes.append(clamped)
    if clip.fallback_reason:
        notes.insert(0, f"read with PyAV: {clip.fallback_reason}")

    def run_arm(
        keep_ratio: float, scorer: str, on_encoded: Callable[[EncodedVideo], None] = lambda encoded: None
    ) -> Arm:
        return answer_questions(
            family,
            clip,
            questions,
            options=options,
            keep_ratio=keep_ratio,
            scorer=scorer,
            prune_layer=prune_layer,
            max_new_tokens=max_new_tokens,
            progress=progress,
            on_encoded=on_encoded,
        )

    if compare:
        progress("warming up")
        _warm_up(family, clip, keep_ratio=keep_ratio, scorer=scorer, prune_layer=prune_layer)
    arms = [run_arm(keep_ratio, scorer, lambda encoded: on_kept(family, clip, encoded.keep_mask.cpu()))]
    if compare:
        arms.append(run_arm(1.0, "none"))
    return AskRun(
        model=family.model_name,
        is_demonstration=family.is_demonstration,
        device=device,
        dtype=dtype,
        video={**_describe(path, clip), "resize": resize},
        arms=arms,
        seconds={"load": loaded - started, "read": read - loaded},
        notes=notes,
    )


def answer_questions(
    family: Family,
    clip: Clip,
    questions: Sequence[str],
    *,
    options: Sequence[str] = (),
    contexts: Sequence[str] = (),
    keep_ratio: float,
    scorer: str,
    prune_layer: int | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
    progress: Progress = lambda stage: None,
    on_answer: Callable[[Arm], None] = lambda arm: None,
    on_encoded: Callable[[EncodedVideo], None] = lambda encoded: None,
) -> Arm:
    """Encode a clip once and answer every question behind the same video prefix.

    Args:
        family: a loaded model family.
        clip: the frames.
        questions: one or more.
        contexts: if not empty, a text a question that stands between the video and the user's turn, such as
            subtitles. Questions in a row with the same one share the language model's state behind it.
        options: if not empty, the likeliest of them is the answer.
        keep_ratio: fraction of windows kept, in (0, 1].
        scorer: one of `settings.SCORERS`.
        prune_layer: 0-based ViT block after which windows are scored; None for the family's own.
        max_new_tokens: the most tokens of an answer.
        seed: of the random scorer.
        progress: called with the name of each stage as it starts.
        on_answer: called after each answer with the arm as it stands then, the new answer last.
        on_encoded: called with the encoded video.

    Returns:
        The arm, with one answer a question.
    """
    device = family.model.device
    pruning = family.settings.override(keep_ratio=keep_ratio, scorer=scorer, prune_layer=prune_layer, seed=seed)
    memory = PeakMemory(device)
    progress("looking at the video" if scorer != "none" else "looking at the video, dense")
    started = clock(device)
    with torch.inference_mode():
        patches = family.preprocess(torch.from_numpy(clip.frames))
        preprocessed = clock(device)
        encoded = family.encode(patches, pruning)
    video_s = clock(device) - started
    on_encoded(encoded)
    progress("answering")
    prefix: VideoPrefix | None = None
    arm = Arm(
        name="dense" if scorer == "none" or keep_ratio == 1 else "pruned",
        scorer=scorer,
        keep_ratio=keep_ratio,
        prune_layer=pruning.prune_layer,
        kernel=encoded.kernel,
        kernel_reason=encoded.kernel_reason,
        num_windows=encoded.keep_mask.numel(),
        num_windows_kept=int(encoded.keep_mask.sum()),
        kept_per_frame=encoded.keep_mask.sum(1).tolist(),
        seconds={"preprocess": preprocessed - started, **encoded.seconds, "llm_prefill": 0.0, "decode": 0.0},
        peak_bytes=None,
        answers=[],
    )
    for question, context in zip(questions, contexts or [""] * len(questions), strict=True):
        asked = clock(device)
        prompt = family.build_prompt(clip.timestamps_s, question, encoded.keep_mask, context=context)
        ids = prompt.input_ids.to(device)
        if prefix is None or not torch.equal(prefix.input_ids, ids[:, : prompt.num_prefix]):
            prefix = prefill_video(family, prompt, encoded.visual_tokens)
            arm.seconds["llm_prefill"] += prefix.seconds
        prompt_s = clock(device) - asked
        reply = _reply(family, prefix, ids[:, prompt.num_prefix :], options, max_new_tokens)
        count = savings.count(
            family.shape(),
            num_frames=len(encoded.keep_mask),
            kept_per_frame=arm.kept_per_frame,
            prompt_tokens_dense=prompt.dense_length,
            prompt_tokens_pruned=ids.shape[1],
            prune_layer=pruning.prune_layer,
            new_tokens=reply.num_new_tokens,
            scorer=encoded.scorer,
            packed_patches_per_frame=encoded.packed_patches,
        )
        answer = Answer(
            question=question,
            text=reply.text,
            finished=reply.finished,
            options=reply.options,
            num_prompt_tokens=ids.shape[1],
            num_new_tokens=reply.num_new_tokens,
            ttft_s=reply.prefill_s + prompt_s + (0.0 if arm.answers else video_s),
            seconds={"llm_prefill": reply.prefill_s, "decode": reply.decode_s},
            prefix_s=prefix.seconds,
            savings=count.to_dict(),
        )
        arm.answers.append(answer)
        arm.seconds["llm_prefill"] += reply.prefill_s
        arm.seconds["decode"] += reply.decode_s
        arm.peak_bytes = memory.peak_bytes()
        on_answer(arm)
    return arm


def load(model: str, *, device: str, dtype: str) -> Family:
    """Load a model family with its scorer.

    Args:
        model: a checkpoint folder or a hub id.
        device: "cpu" or "cuda".
        dtype: "float32", "bfloat16" or "float16".

    Returns:
        The family, ready to encode.

    Raises:
        InputError: no such folder, a broken file in it, or a model of a kind that is not supported.
        EnvironmentFailure: the hub cannot be reached and the model is not in the cache.
    """
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    from stts_cli.families import load_family

    if "/" not in model and not Path(model).is_dir():
        raise InputError(
            f"model '{model}' is no folder here and no hub id -> a checkpoint folder or OWNER/NAME -> check --model"
        )
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    return load_family(model, device=device, dtype=getattr(torch, dtype))


def resolve_scorer(
    family: Family, scorer: str, keep_ratio: float | None, prune_layer: int | None = None
) -> tuple[str, float, list[str]]:
    """Decide who scores the windows and how many stay.

    Args:
        family: a loaded model family.
        scorer: "auto", or one of `settings.SCORERS`.
        keep_ratio: fraction of windows kept, or None for the checkpoint's own.
        prune_layer: 0-based ViT block after which windows are scored, to be checked; None for the checkpoint's own.

    Returns:
        The scorer ("auto" decided as `settings.resolve_scorer` does; "none" where nothing is dropped), the keep ratio,
        and notes for the user, those on how the model was loaded first.

    Raises:
        InputError: the learned scorer was asked for and the checkpoint has none, or a number is out of range.
    """
    settings.check_prune_layer(
        family.settings.prune_layer if prune_layer is None else prune_layer, family.shape().vit_blocks
    )
    notes = list(family.notes)
    scorer, more = settings.resolve_scorer(
        scorer,
        model=family.model_name,
        trained_with=family.settings.scorer,
        has_learned=family.scorer is not None,
        keep_ratios=[] if keep_ratio is None else [keep_ratio],
    )
    keep_ratio = family.settings.keep_ratio if keep_ratio is None else keep_ratio
    if scorer == "none" or keep_ratio == 1:
        return "none", 1.0, [*notes, *(more if scorer == "none" else [])]
    return scorer, keep_ratio, [*notes, *more]


@dataclass(frozen=True)
class _Reply:
    text: str
    finished: bool
    options: list[dict[str, Any]] | None
    num_new_tokens: int
    prefill_s: float
    decode_s: float


def _reply(
    family: Family, prefix: VideoPrefix, question_ids: torch.Tensor, options: Sequence[str], max_new_tokens: int
) -> _Reply:
    eos = family.eos_token_ids
    if not options:
        said = generate.answer(family, prefix, question_ids, max_new_tokens=max_new_tokens, eos_token_ids=eos)
        text = family.tokenizer.decode(said.token_ids, skip_special_tokens=True).strip()
        return _Reply(text, said.finished, None, said.num_decoded, said.prefill_s, said.decode_s)
    option_ids = [family.tokenize(family.quote(text, "option")) for text in options]
    scored = generate.score_options(family, prefix, question_ids, option_ids, eos_token_ids=eos)
    shares = torch.tensor(scored.log_likelihoods, dtype=torch.float64).softmax(0).tolist()
    listed = [
        {"text": text, "log_likelihood": score, "probability": share}
        for text, score, share in zip(options, scored.log_likelihoods, shares, strict=True)
    ]
    best = max(listed, key=lambda option: option["log_likelihood"])["text"]
    return _Reply(best, True, listed, sum(scored.num_tokens), scored.prefill_s, scored.scoring_s)


def _warm_up(family: Family, clip: Clip, **settings: Any) -> None:
    """Let both arms run once on a few frames, so that the first one measured does not pay for first use."""
    few = dataclasses.replace(
        clip, frames=clip.frames[:WARM_UP_FRAMES], timestamps_s=clip.timestamps_s[:WARM_UP_FRAMES]
    )
    answer_questions(family, few, ["?"], max_new_tokens=2, **settings)
    answer_questions(family, few, ["?"], max_new_tokens=2, keep_ratio=1.0, scorer="none")


def _describe(path: str | Path, clip: Clip) -> dict[str, Any]:
    return {
        "path": str(path),
        "duration_s": clip.duration_s,
        "source_fps": clip.source_fps,
        "num_source_frames": clip.num_source_frames,
        "num_frames": len(clip.timestamps_s),
        "timestamps_s": clip.timestamps_s,
        "frame_size": list(clip.frames.shape[1:3]),
        "backend": clip.backend,
        "fallback_reason": clip.fallback_reason,
    }
