"""A loaded model and how it looks at videos: load, encode, ask. The one path of every command, and the Python API.

A video is encoded once and may then be asked any number of questions: the scorer reads no text (arXiv 2603.18004,
method). Times are wall-clock seconds once the device has finished. Nothing is printed here.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stts_cli import settings
from stts_cli.engine import generate
from stts_cli.engine.budget import layout_rule, spend
from stts_cli.engine.device import PeakMemory, resolve_device, resolve_dtype
from stts_cli.engine.results import Answer, Option, Said, Video
from stts_cli.engine.wording import Wording
from stts_cli.errors import InputError, suggest
from stts_cli.media.clip import Clip
from stts_cli.media.container import check_file
from stts_cli.media.fetch import fetched, is_fetched
from stts_cli.media.pictures import holds_pictures
from stts_cli.media.reader import read_source
from stts_cli.media.resize import DECODER, NOTE, check_resize, choose_filter
from stts_cli.media.source import Part, ReadRequest, Source
from stts_cli.pruning.own_scorer import import_scorer
from stts_cli.pruning.stopwatch import clock
from stts_cli.settings import GREEDY, THINKING_TOKENS, Answering, Arm, Execution, Pruning
from stts_cli.text import DEMONSTRATION

if TYPE_CHECKING:
    from stts_cli.engine.generate import VideoPrefix
    from stts_cli.families.base import EncodedVideo, Family, Prompt

Note = Callable[[str], None]
Loaded = dict[tuple[str, ...], "Family"]  # families by what they were loaded from, and how
_PACKAGE = str(Path(__file__).parents[1])
WHOLE = Part()
PICTURE = "one picture: it is asked as a video of one frame, of which nothing is dropped"
LOADING = ("revision", "dtype", "quantize", "device_map")  # settings of an `Arm` that a loaded model has already
OWN = ("frames", "max_fps", "keep_ratio", "scorer", "prune_layer", "resize", "seed", *LOADING)  # settings of an `Arm`
WORDING = tuple(field.name for field in dataclasses.fields(Answering))


class VideoModel:
    """A video VLM with token pruning.

    Args:
        family: the model, loaded.
        arm: how it looks at videos; what it leaves open is decided here.
        max_new_tokens: the most tokens of an answer.
        note: called with each line that a user should know, on loading and on encoding.
        answering: what it is told before the video, and how it words answers.

    Attributes:
        pruning: who scores, how much stays.
        frames: the most frames of a video.
        layout_rule: how videos are cut.
        notes: what a user should know about the model and its settings.

    Raises:
        InputError: the learned scorer of a checkpoint that has none, or a number out of range.
    """

    def __init__(
        self,
        family: Family,
        arm: Arm,
        *,
        max_new_tokens: int = 64,
        note: Note = lambda text: None,
        answering: Answering = GREEDY,
    ) -> None:
        _check_limit(max_new_tokens)
        check_resize(arm.resize)
        self.family, self.arm, self.max_new_tokens, self.note = family, arm, max_new_tokens, note
        self.answering = answering
        self.pruning, self.notes = _resolve(family, arm)
        self.frames = spend(family, self.pruning, arm) if arm.spend_savings else arm.frames
        self.layout_rule = layout_rule(family, arm)
        for line in self.notes:
            note(line)

    @property
    def name(self) -> str:
        """What to call the checkpoint."""
        return self.family.model_name

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.family.device

    @property
    def dtype(self) -> str:
        """Of the weights, such as "float32"."""
        return str(self.family.model.dtype).removeprefix("torch.")

    @property
    def is_dense(self) -> bool:
        """Whether every window is kept."""
        return self.pruning.scorer == "none"

    @property
    def is_demonstration(self) -> bool:
        """Whether what it says means nothing about real video."""
        return self.family.is_demonstration

    @property
    def is_joined(self) -> bool:
        """Whether `finish` can decode several answers together: every layer holds the keys and values of all tokens."""
        return self.family.cache_reuse == "crop"

    def batch_note(self, size: int) -> str:
        """Say that so many answers cannot be decoded together; empty where they can."""
        why = f"no effect on {self.name}, whose language model's cache cannot hold several answers"
        return "" if size == 1 or self.is_joined else f"--batch-size {size}: {why}"

    def describe(self) -> dict[str, Any]:
        """Return the settings that a run is known by."""
        return {
            "model": self.name,
            "revision": self.family.revision,
            "frames": self.frames,
            "max_fps": self.arm.max_fps,
            "resize": self.arm.resize,
            "keep_ratio": self.pruning.keep_ratio,
            "scorer": self.pruning.scorer,
            "prune_layer": self.pruning.prune_layer,
            "dtype": self.dtype,
            "quantize": self.arm.quantize,
        }

    def vary(self, **given: Any) -> VideoModel:
        """Return the same model under other settings, as for `load`; None means not given."""
        _check_names(given, [name for name in OWN if name not in LOADING])
        how: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "note": self.note, "answering": self.answering}
        return VideoModel(self.family, self.arm.override(**given), **how)

    def clamp_note(self, num_frames: int, num_visual: int) -> str:
        """Say that a video of so many frames and visual tokens keeps more than was asked; empty where it does not."""
        units = -(-num_frames // self.family.frames_per_unit)
        return self.pruning.clamp_note(units, num_visual // units)

    def request(self, source: Source) -> ReadRequest:
        """Return what is to be read of a source."""
        resample = choose_filter(self.arm.resize, self.family.resample)
        return ReadRequest(source, self.frames, self.arm.max_fps, self.layout_rule, resample)

    def read(self, video: Any, times: Sequence[float] | None = None, part: Part = WHOLE) -> Clip:
        """Read a video, or a part of it, as `encode` does; the other arguments are its own."""
        if isinstance(video, (str, Path)):
            if times is not None:
                raise InputError(f"times: are for frames in memory; {video} is a file and has its own.")
            if is_fetched(str(video)):
                with fetched(str(video)) as path:
                    try:
                        return read_source(self.request(_part_of(path, part)))
                    except InputError as error:
                        raise InputError(str(error).replace(str(path), str(video))) from error
            path = Path(video)
            is_folder = bool(str(video)) and path.is_dir()
            return read_source(self.request(_part_of(path if is_folder else check_file(video), part)))
        if isinstance(video, torch.Tensor):
            video = video.detach().cpu().numpy()
        if not isinstance(video, np.ndarray):
            kind = type(video).__name__
            raise InputError(f"a {kind}: is no video; must be a file's name, a Clip, or an array of frames with times.")
        if times is None:
            raise InputError("frames in memory: have no times; give times=, a second for each of them.")
        return Clip.from_frames(video, times)

    def encode(
        self,
        video: str | Path | Clip | np.ndarray | torch.Tensor,
        *,
        times: Sequence[float] | None = None,
        start: float | None = None,
        end: float | None = None,
        at: Sequence[float] | None = None,
        fps: float | None = None,
        execution: Execution | None = None,
        **given: Any,
    ) -> Video:
        """Look at a video; any number of questions may follow.

        Args:
            video: a file, a folder of pictures, an http(s) address, or frames in memory: a `Clip`, or uint8
                (T, H, W, 3) RGB with `times`, all of which are used.
            times: of frames in memory, T times in seconds, rising.
            start: of a file, leave out what comes before, in seconds.
            end: of a file, leave out what comes after, in seconds.
            at: of a file, the times in seconds of the frames wanted.
            fps: how many pictures of a folder are a second.
            execution: how the vision encoder runs.
            **given: settings of `load` for this video alone: keep_ratio, scorer, prune_layer, seed; of a file also
                frames, max_fps, resize.

        Returns:
            The encoded video.

        Raises:
            InputError: the video or a setting is wrong.
        """
        part = {"start": start, "end": end, "at": at, "fps": fps}
        if not isinstance(video, (str, Path)):
            for name, value in {**part, **given}.items():
                if value is not None and name in (*part, "frames", "max_fps", "resize"):
                    raise InputError(f"{name}: is for files; of frames in memory all are used.")
        if at is not None and (other := [name for name in ("frames", "max_fps") if given.get(name) is not None]):
            raise InputError(f"at: says which frames; it cannot stand with {other[0]}.")
        if given:
            return self.vary(**given).encode(video, times=times, execution=execution, **part)  # type: ignore[arg-type]
        if isinstance(video, Clip) and times is not None:
            raise InputError("times: are for frames in memory; a Clip has its own.")
        wanted = Part(start, end, None if at is None else tuple(at), fps)
        clip = video if isinstance(video, Clip) else self.read(video, times, wanted)
        memory = PeakMemory(self.device)
        started = clock(self.device)
        with torch.inference_mode():
            patches = self.family.preprocess(torch.from_numpy(clip.frames), rule=self.layout_rule)
            preprocessed = clock(self.device)
            tokens = self.family.encode(patches, self.pruning, execution=execution)
        seconds = {"preprocess": preprocessed - started, **tokens.seconds}
        return self.seen(clip, tokens, seconds, clock(self.device) - started, memory)

    def seen(
        self, clip: Clip, tokens: EncodedVideo, seconds: dict[str, float], encode_s: float, memory: PeakMemory
    ) -> Video:
        """Return an encoded video with what a user should know of it, which is noted; the arguments are `Video`'s."""
        notes = [*clip.damage, *clip.notes]
        if clip.backend == "pillow" and clip.num_source_frames == 1:
            notes.append(PICTURE)
        else:
            notes += filter(None, [self.pruning.clamp_note(len(tokens.keep_mask), tokens.layout.num_windows)])
        for line in notes:
            self.note(line)
        notes += [line for line in self.notes if line != NOTE or clip.backend != "memory"]
        return Video(clip, self.family, self.pruning, tokens, seconds, encode_s, notes, memory)

    def ask(
        self,
        video: Video | str | Path,
        question: str,
        *,
        options: Sequence[str] = (),
        context: str = "",
        max_new_tokens: int | None = None,
        ignore_eos: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer a question about a video.

        Args:
            video: encoded by this model, or a file.
            question: the user's text.
            options: if not empty, at least two: the likeliest is the answer.
            context: text between the video and the question, such as subtitles. Questions in a row with the same one
                share the language model's state behind it.
            max_new_tokens: the most tokens of the answer; None for the model's own.
            ignore_eos: decode exactly `max_new_tokens`, for measurements.
            on_text: called with each piece of an answer as it comes; together they are the answer's text. Not with
                options.

        Returns:
            The answer, with what it cost.

        Raises:
            InputError: the question or the options are wrong, the prompt is too long, or the video is another model's.
        """
        check_question(question, options)
        if options and self.answering.think:
            raise InputError("--think: cannot stand with options, which are weighed as answers; leave one of them out.")
        limit = self.max_new_tokens if max_new_tokens is None else max_new_tokens
        _check_limit(limit)
        if not isinstance(context, str):
            raise InputError(f"context: is a {type(context).__name__}; must be text.")
        if not isinstance(video, Video):
            video = self.encode(video)
        family = self.family
        if video.family is not family:
            raise InputError("the video was encoded by another loaded model; encode it with this one first.")
        asked = clock(self.device)
        prompt = video.prompt(question, context, self.answering)
        prefix = self.prefill(video, prompt)
        tail, prompt_s = prompt.input_ids[:, prompt.num_prefix :].to(self.device), clock(self.device) - asked
        if options:
            said = self._score(prefix, tail, options)
        else:
            said = self.speak(prefix, tail, limit, on_text, ignore_eos=ignore_eos)
        return self.reply(video, question, said, prompt_s, (prompt.dense_length, prompt.input_ids.shape[1]))

    def prefill(self, video: Video, prompt: Prompt) -> VideoPrefix:
        """Return the language model's state behind a prompt's part before the question; the last one is kept."""
        head = prompt.input_ids[:, : prompt.num_prefix].to(self.device)
        if video.prefix is None or not torch.equal(video.prefix.input_ids, head):
            video.prefix = generate.prefill_video(self.family, prompt, video.tokens.visual_tokens)
            video.prefill_s += video.prefix.seconds
        return video.prefix

    def speak(
        self,
        prefix: VideoPrefix,
        tail: torch.Tensor,
        limit: int,
        on_text: Callable[[str], None] | None = None,
        *,
        before: Sequence[int] = (),
        ignore_eos: bool = False,
    ) -> Said:
        """Let the model word an answer behind a prefix and the question's tokens, (1, Q); see `ask`.

        `before` are the tokens before these, where they may be too few to tell whether the prompt begins to think.
        """
        how = dataclasses.replace(self.answering, stop=()) if ignore_eos else self.answering
        eos = [] if ignore_eos else self.family.eos_token_ids
        words = Wording(self.family.tokenizer, how, self.pruning.seed, [*before, *tail[0].tolist()], on_text)
        found = generate.answer(
            self.family,
            prefix,
            tail,
            max_new_tokens=limit,
            eos_token_ids=eos,
            on_token=words.on_token,
            choose=words.choose,
        )
        return words.said(found)

    def begin(self, video: Video, question: str, *, context: str = "") -> Begun:
        """Read a question about an encoded video, for `finish` to answer; the arguments are those of `ask`."""
        started = clock(self.device)
        prompt = video.prompt(question, context, self.answering)
        prefix = self.prefill(video, prompt)
        tail, prompt_s = prompt.input_ids[:, prompt.num_prefix :].to(self.device), clock(self.device) - started
        words = Wording(self.family.tokenizer, self.answering, self.pruning.seed, tail[0].tolist())
        lengths = prompt.dense_length, prompt.input_ids.shape[1]
        return Begun(video, question, generate.begin(self.family, prefix, tail), words, prompt_s, lengths)

    def finish(self, begun: Sequence[Begun], *, max_new_tokens: int) -> list[Answer]:
        """Answer questions that were read, a token of each in one pass, by a model that `is_joined`."""
        found = generate.answer_together(
            self.family,
            [each.state for each in begun],
            max_new_tokens=max_new_tokens,
            eos_token_ids=self.family.eos_token_ids,
            on_token=[each.words.on_token for each in begun],
            choose=[each.words.choose for each in begun],
        )
        return [
            self.reply(each.video, each.question, each.words.said(one), each.prompt_s, each.lengths)
            for each, one in zip(begun, found, strict=True)
        ]

    def _score(self, prefix: VideoPrefix, tail: torch.Tensor, options: Sequence[str]) -> Said:
        family = self.family
        ids = [family.tokenize(family.answer_start + family.quote(text, "option")) for text in options]
        scored = generate.score_options(family, prefix, tail, ids, eos_token_ids=family.eos_token_ids)
        shares = torch.tensor(scored.log_likelihoods, dtype=torch.float64).softmax(0).tolist()
        listed = [Option(*each) for each in zip(options, scored.log_likelihoods, shares, strict=True)]
        text = max(listed, key=lambda option: option.log_likelihood).text
        lengths = tuple(map(len, ids))
        return Said(text, True, sum(scored.num_tokens), scored.prefill_s, scored.scoring_s, listed, lengths)

    def reply(self, video: Video, question: str, said: Said, prompt_s: float, lengths: tuple[int, int]) -> Answer:
        """Return what was said with what it cost.

        Args:
            video: that was asked about; it counts the question.
            question: as it was asked.
            said: the answer.
            prompt_s: seconds before the question was read.
            lengths: tokens of the whole prompt before any was dropped, and as it was run.
        """
        ttft_s = said.prefill_s + prompt_s + (0.0 if video.num_questions else video.encode_s)
        video.num_questions += 1
        return Answer(
            question=question,
            text=said.text,
            finished=said.finished,
            options=said.options,
            num_prompt_tokens=lengths[1],
            num_new_tokens=said.num_new_tokens,
            ttft_s=ttft_s,
            seconds={"llm_prefill": said.prefill_s, "decode": said.decode_s},
            prefix_s=0.0 if video.prefix is None else video.prefix.seconds,
            peak_bytes=video.memory.peak_bytes(),
            savings=video.count(*lengths, said.num_new_tokens, said.option_tokens),
        )

    def __repr__(self) -> str:
        """Say what it is and how it looks at videos."""
        kept = "dense" if self.is_dense else f"keep ratio {self.pruning.keep_ratio:g}, scorer {self.pruning.scorer}"
        return f"VideoModel({self.name}: {kept}; at most {self.frames} frames; {self.device}, {self.dtype})"


@dataclass(frozen=True)
class Begun:
    """A question that was read.

    Attributes:
        video: that it is about.
        question: as it was asked.
        state: the language model's, behind it.
        words: of its answer.
        prompt_s: seconds before the question was read.
        lengths: tokens of the whole prompt before any was dropped, and as it was run.
    """

    video: Video
    question: str
    state: generate.Begun
    words: Wording
    prompt_s: float
    lengths: tuple[int, int]


def load(model: str | Path = "nano", *, device: str = "auto", **given: Any) -> VideoModel:
    """Load a model by its name.

    Args:
        model: a preset's name or YAML file, a checkpoint folder or a Hugging Face hub id.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        **given: settings as in `stts ask`, each over the preset's: frames, max_fps, keep_ratio, scorer, prune_layer,
            dtype, quantize, device_map, revision, max_new_tokens, resize, seed, and those of `settings.Answering`.

    Returns:
        The model. What a user should know about it and the videos it encodes is a Python warning each.

    Raises:
        InputError: no such model, a broken file in it, or a setting out of range.
        EnvironmentFailure: the device is not there, or the hub cannot be reached.
    """
    from stts_cli.config.presets import Preset, load_preset, preset_names

    if not isinstance(model, (str, Path)) or not str(model):
        raise InputError(f"model {model!r}: must be a preset's name, a folder or a hub id.")
    model = str(model)
    named = model in preset_names() or model.endswith((".yaml", ".yml"))
    preset = load_preset(model) if named else Preset(model=model)
    _check_names(given, (*OWN, *WORDING, "max_new_tokens"))
    answering = _answering(given)
    ours = {name: given.pop(name) for name in ("resize", "seed") if name in given}
    preset = preset.override(**given)
    arm = Arm("pruned", preset.model).override(**{name: getattr(preset, name) for name in OWN if hasattr(preset, name)})
    limit = preset.max_new_tokens
    if answering.think and given.get("max_new_tokens") is None:
        limit = THINKING_TOKENS
    found = load_arm(arm.override(**ours), device, max_new_tokens=limit, note=_warn, answering=answering)
    if found.family.is_demonstration:
        _warn(DEMONSTRATION)
    return found


def from_model(
    model: Any, tokenizer: Any, *, scorer: Any = None, video_processor: Any = None, **given: Any
) -> VideoModel:
    """Prune a transformers model that is loaded already; it is not changed but for its vision encoder's attention.

    Args:
        model: a stock transformers model of a family that stts knows, in eval mode.
        tokenizer: its tokenizer.
        scorer: a `pruning.TokenScorer`, or None for the training-free ones.
        video_processor: the checkpoint's own; None for the model's default frame size and normalisation.
        **given: settings, as for `load`, but for dtype, quantize, device_map and revision, which the model has.

    Returns:
        The model.

    Raises:
        InputError: a model of another kind or in training mode, or a setting out of range.
    """
    from stts_cli.families import family_of

    _check_names(given, [*(name for name in OWN if name not in LOADING), *WORDING, "max_new_tokens"])
    if not hasattr(model, "config") or tokenizer is None:
        raise InputError("from_model: must be given a transformers model and its tokenizer.")
    if model.training:
        raise InputError("from_model: the model is in training mode; call model.eval() first.")
    answering, limit = _answering(given), given.pop("max_new_tokens", 64)
    family = family_of(model, tokenizer, scorer=scorer, video_processor=video_processor)
    arm = Arm("pruned", family.model_name).override(**given)
    return VideoModel(family, arm, max_new_tokens=limit, note=_warn, answering=answering)


def load_arm(
    arm: Arm,
    device: str,
    *,
    max_new_tokens: int = 64,
    note: Note = lambda text: None,
    loaded: Loaded | None = None,
    answering: Answering = GREEDY,
) -> VideoModel:
    """Load the model of an arm.

    Args:
        arm: names the checkpoint, its revision and its dtype.
        device: as for `load`.
        max_new_tokens: the most tokens of an answer.
        note: as for `VideoModel`.
        loaded: models loaded before; what is loaded here is added.
        answering: as for `VideoModel`.

    Returns:
        The model.

    Raises:
        InputError: as for `load`.
        EnvironmentFailure: as for `load`.
    """
    if arm.device_map and device != "auto":
        raise InputError(f"--device {device}: cannot go with --device-map, which says where the weights go.")
    device = resolve_device(device)
    dtype = resolve_dtype(arm.dtype, device)
    loaded = {} if loaded is None else loaded
    key = arm.model, arm.revision or "", dtype, arm.quantize or "", arm.device_map or ""
    if key not in loaded:
        how = {"revision": arm.revision, "quantize": arm.quantize, "device_map": arm.device_map}
        loaded[key] = load_checkpoint(arm.model, device=device, dtype=dtype, **how)
    return VideoModel(loaded[key], arm, max_new_tokens=max_new_tokens, note=note, answering=answering)


def load_checkpoint(model: str, *, device: str, dtype: str, **how: str | None) -> Family:
    """Load a checkpoint's family, with the libraries' own messages silenced.

    Args:
        model: a checkpoint folder or a hub id.
        device: "cpu", "cuda", "cuda:N" or "mps".
        dtype: "float32", "bfloat16" or "float16".
        **how: revision, quantize and device_map, as for `families.load_family`.

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
        raise InputError(f"--model {model}: is no folder here and no hub id; give a checkpoint folder or OWNER/NAME.")
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    return load_family(model, device=device, dtype=getattr(torch, dtype), **how)  # type: ignore[arg-type]


def check_question(question: str, options: Sequence[str]) -> None:
    """Refuse a question or options that mean nothing.

    Raises:
        InputError: no text, an empty one, options without an order, one option alone, or two that are the same.
    """
    if not isinstance(options, (list, tuple)):
        raise InputError(f"options: are a {type(options).__name__}; must be a list of texts.")
    for text in (question, *options):
        if not isinstance(text, str):
            raise InputError(f"a question or an option is a {type(text).__name__}; must be text.")
        if not text.strip():
            raise InputError("a question or an option is empty; give each at least one word.")
    if len(options) == 1 or len(set(options)) != len(options):
        raise InputError(f"--options {', '.join(options)}: must be at least two, all different.")


def _check_limit(max_new_tokens: int) -> None:
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise InputError(f"--max-new-tokens {max_new_tokens!r}: must be a whole number, at least 1.")


def _resolve(family: Family, arm: Arm) -> tuple[Pruning, list[str]]:
    """Decide what an arm leaves open: the scorer, "none" where nothing is dropped, the keep ratio and the layer."""
    own = family.settings
    pruning = own.override(prune_layer=arm.prune_layer, seed=arm.seed)
    settings.check_prune_layer(pruning.prune_layer, len(family.vit_blocks))
    notes = [NOTE] if arm.resize == DECODER else []
    scorer, more = settings.resolve_scorer(
        arm.scorer,
        model=family.model_name,
        trained_with=own.scorer,
        has_learned=family.scorer is not None,
        keep_ratios=[] if arm.keep_ratio is None else [arm.keep_ratio],
    )
    if ":" in scorer:
        import_scorer(scorer)  # a wrong name is an error here, not of every video
    keep_ratio = own.keep_ratio if arm.keep_ratio is None else arm.keep_ratio
    if scorer == "none" or keep_ratio == 1:
        more = more if scorer == "none" else []
        scorer, keep_ratio = "none", 1.0
    return pruning.override(scorer=scorer, keep_ratio=keep_ratio), [*notes, *family.notes, *more]


def _part_of(path: Path, part: Part) -> Source:
    source = part.of(Source(path))
    if part.fps is not None and not holds_pictures(source):
        raise InputError(f"--fps {part.fps:g}: is for pictures; a video has times of its own.")
    return source


def _answering(given: dict[str, Any]) -> Answering:
    """Take the fields of an `Answering` out of settings."""
    return Answering(**{name: given.pop(name) for name in WORDING if given.get(name) is not None})


def _check_names(given: dict[str, Any], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"{name}: is no setting here{suggest(name, known)}")


def _warn(text: str) -> None:
    """Warn at the line outside this package that asked."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)
