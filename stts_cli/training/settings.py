"""The settings of a finetuning run: flat, frozen, from a YAML file of presets/training and the command's flags.

Learning rates default to Molmo2's own for video finetuning (language model 1e-5, ViT and connector 5e-6, AdamW with
betas 0.9 and 0.95, no weight decay); the scorer's and adapters', which start from nothing, are ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_cli.errors import InputError, suggest
from stts_cli.media.resize import check_resize
from stts_cli.settings import SCORERS

TRAIN = ("scorer", "lora", "full")
PRECISIONS = ("auto", "float32", "bf16", "bf16-master")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "cosine-after-warmup", "wsd")
ANSWER_WEIGHTS = ("equal", "root-length")
CLIP_BY = ("all", "part")
PARTS = ("scorer", "vit", "connector", "llm", "lora")  # each with a learning rate of its own
NANO_STAGES = ("language", "vision", "dense", "stts")  # a preset of these makes the embedded model; see `nano`


@dataclass(frozen=True)
class FinetuneSettings:
    """One run.

    Attributes:
        model: the checkpoint to start from: a folder, a hub id, or "nano" for the embedded one.
        data: a .jsonl, .json or .csv file, "hf:OWNER/NAME[:split]", or "shapes".
        video_root: folder that relative video paths start from; None for the file's own.
        train: what is trained: "scorer", "lora" (the scorer too), or "full".
        scorer: who chooses the windows while training; "none" trains dense.
        new_scorer: start from an untrained scorer even where the checkpoint has one.
        keep_ratio: "0.5", or several with their shares of the steps: "0.5:6,1:2,0.7:1,0.3:1".
        prune_layer: 0-based ViT block after which windows are scored; None for the checkpoint's own.
        bias_rescale: soft bias over each "row" of windows or the whole "frame"; "off" for none; None for the
            checkpoint's own.
        temporal_weight: of the temporal loss beside the language model's.
        target_gradient: let the temporal loss's target pass gradient on into the ViT, as the reference does.
        clamp_scorer_gradient: bound what one window may pull at the scorer; ours, not the paper's.
        answer_weights: "equal": each of the answers' tokens counts the same; "root-length": a token of an answer of n
            tokens counts 1 / sqrt(n).
        z_loss: weight of the squared logarithm of the softmax's denominator beside each token's cross-entropy.
        frames: the most frames of a video.
        max_fps: the most frames a second.
        resize: who resizes frames, one of `resize.RESIZES`.
        max_questions: the most conversations about one video in a step.
        batch_size: videos a process in one forward pass; with "shapes", a factor on its own number of clips.
        accumulate: forward passes an optimizer step.
        global_batch: videos an optimizer step on all processes together, which decides `accumulate`; None to leave it.
        seq_len: pack several videos into rows of at most this many tokens; None for a row a video.
        steps: optimizer steps; 0 for `epochs`.
        epochs: times through the data, where `steps` is 0.
        scorer_warmup: steps before these in which only the scorer learns, from the temporal loss alone.
        warmup: steps over which the rates rise.
        schedule: "cosine": half a wave over all steps, times the warm-up's rise; "cosine-after-warmup": the wave starts
            where the warm-up ends, as the reference's does; "wsd": constant, then linearly to 0.
        lr_floor: share of the rates that a cosine ends at.
        cooldown: the last share of the steps, over which "wsd" falls.
        optimizer: "adamw", or "muon" for matrices with AdamW for the rest.
        lr_scorer: learning rate of the scorer.
        lr_vit: of the ViT.
        lr_connector: of the connector.
        lr_lora: of adapters, wherever they are.
        lr_llm: of the language model. With "muon" the last three are Muon's, AdamW's are `muon_adamw` of them.
        adam_betas: of AdamW, as "0.9,0.95"; None for these, or 0.9 and 0.98 beside Muon.
        adam_eps: of AdamW.
        weight_decay: of matrices that are no embeddings.
        clip: the gradient's largest norm; 0 to leave it as it is.
        clip_by: "all": of the whole gradient; "part": of each part's (ViT, connector, language model, scorer, adapters)
            by itself.
        precision: "float32"; "bf16" runs autocast over float32 weights; "bf16-master" keeps bfloat16 weights with
            float32 copies in the optimizer, the fastest on a CPU; "auto" is bf16 on a GPU, float32 on a CPU.
        gradient_checkpointing: trade time for memory.
        lora_rank: of the adapters.
        lora_alpha: their scale.
        lora_vit: put adapters into the ViT too.
        eval_data: held-out questions, as `data`; None splits `eval_videos` off the data.
        eval_videos: held-out videos, 0 for none; None for 20, or a tenth of the data where that is less.
        eval_every: optimizer steps between evaluations; 0 for the start and the end only.
        save_every: optimizer steps between checkpoints; 0 for the end only.
        keep_checkpoints: how many of the latest to keep, beside the best.
        log_every: optimizer steps between lines of the log.
        workers: processes that read videos ahead.
        cache: folder for decoded frames; None decodes anew.
        report_to: trackers such as "tensorboard", comma-separated; "none".
        shapes_mix: clips of "shapes": "short", "long" or "all".
        seed: of data, weights and keep ratios.
    """

    model: str = ""
    data: str = ""
    video_root: str | None = None
    train: str = "scorer"
    scorer: str = "learned"
    new_scorer: bool = False
    keep_ratio: str = "0.5"
    prune_layer: int | None = None
    bias_rescale: str | None = None
    temporal_weight: float = 0.5
    target_gradient: bool = False
    clamp_scorer_gradient: bool = False
    answer_weights: str = "equal"
    z_loss: float = 0.0
    frames: int = 64
    max_fps: float = 2.0
    resize: str = "model"
    max_questions: int = 8
    batch_size: int = 1
    accumulate: int = 1
    global_batch: int | None = None
    seq_len: int | None = None
    steps: int = 0
    epochs: float = 1.0
    scorer_warmup: int = 0
    warmup: int = 20
    schedule: str = "cosine"
    lr_floor: float = 0.1
    cooldown: float = 0.4
    optimizer: str = "adamw"
    lr_scorer: float = 1e-4
    lr_vit: float = 5e-6
    lr_connector: float = 5e-6
    lr_llm: float = 1e-5
    lr_lora: float = 1e-4
    muon_adamw: float = 0.1
    adam_betas: str | None = None
    adam_eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    clip_by: str = "all"
    precision: str = "auto"
    gradient_checkpointing: bool = False
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_vit: bool = False
    eval_data: str | None = None
    eval_videos: int | None = None
    eval_every: int = 0
    save_every: int = 0
    keep_checkpoints: int = 2
    log_every: int = 10
    workers: int = 2
    cache: str | None = None
    report_to: str = "none"
    shapes_mix: str = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        _among("train", self.train, TRAIN)
        _among("scorer", self.scorer, tuple(SCORERS))
        _among("precision", self.precision, PRECISIONS)
        _among("optimizer", self.optimizer, OPTIMIZERS)
        _among("schedule", self.schedule, SCHEDULES)
        _among("answer_weights", self.answer_weights, ANSWER_WEIGHTS)
        _among("clip_by", self.clip_by, CLIP_BY)
        check_resize(self.resize)
        if self.bias_rescale is not None:
            _among("bias_rescale", self.bias_rescale, ("row", "frame", "off"))
        for name in (
            "frames",
            "max_questions",
            "batch_size",
            "accumulate",
            "lora_rank",
            "log_every",
            "keep_checkpoints",
        ):
            _least(name, getattr(self, name), 1)
        for name in ("seq_len", "global_batch"):
            if getattr(self, name) is not None:
                _least(name, getattr(self, name), 1)
        for name in (*(f"lr_{p}" for p in PARTS), "weight_decay", "clip", "temporal_weight", "z_loss", "adam_eps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{_flag(name)} {getattr(self, name):g}: must be 0 or more.")
        if not 0 <= self.lr_floor <= 1:
            raise InputError(f"--lr-floor {self.lr_floor:g}: must be between 0 and 1.")
        for name in ("steps", "scorer_warmup", "warmup", "workers", "eval_videos", "eval_every", "save_every"):
            _least(name, getattr(self, name) or 0, 0)
        if not self.steps and self.epochs <= 0:
            raise InputError(f"steps {self.steps}, epochs {self.epochs} -> one of them above 0 -> give --steps")
        if self.train == "scorer" and self.scorer != "learned":
            raise InputError(f"--train scorer with scorer '{self.scorer}' -> only the learned one -> use --train full")
        if not 0 < self.cooldown <= 1:
            raise InputError(f"cooldown {self.cooldown} -> a share of the steps, above 0 and at most 1 -> change it")
        prunes = min(ratio for ratio, _ in keep_ratios(self.keep_ratio)) < 1
        if self.scorer == "learned" and not prunes:
            raise InputError(f"--keep-ratio {self.keep_ratio}: drops nothing, so no scorer learns. Use --scorer none.")
        if self.scorer_warmup and (self.scorer != "learned" or not self.temporal_weight):
            lacks = f"--scorer {self.scorer}" if self.scorer != "learned" else "--temporal-weight 0"
            raise InputError(f"--scorer-warmup {self.scorer_warmup}: nothing learns in these steps with {lacks}.")
        if self.data == "shapes" and self.eval_data not in (None, "shapes"):
            raise InputError(f"--eval-data {self.eval_data}: must be shapes, or left out, with --data shapes.")
        adam_betas(self)

    def override(self, **values: Any) -> FinetuneSettings:
        """Return a copy with the values that are not None put in."""
        return dataclasses.replace(self, **{name: value for name, value in values.items() if value is not None})


def keep_ratios(text: str) -> tuple[tuple[float, float], ...]:
    """Read "0.5" or "0.5:6,1:2": keep ratios and the share of the steps that each gets, shares adding up to 1.

    Raises:
        InputError: no such list, or a ratio outside (0, 1].
    """
    try:
        pairs = [(float(ratio), float(share or 1)) for ratio, _, share in (p.partition(":") for p in text.split(","))]
    except ValueError:
        raise InputError(f"keep ratio '{text}' -> such as 0.5, or 0.5:6,1:2 with shares -> check it") from None
    total = sum(share for _, share in pairs)
    if not all(0 < ratio <= 1 and share >= 0 for ratio, share in pairs) or total <= 0:
        raise InputError(f"keep ratio '{text}' -> ratios above 0 and at most 1, shares not below 0 -> check it")
    return tuple((ratio, share / total) for ratio, share in pairs)


def adam_betas(settings: FinetuneSettings) -> tuple[float, float]:
    """Return AdamW's betas: the run's own, else (0.9, 0.95), or (0.9, 0.98) beside Muon.

    Raises:
        InputError: no two numbers of at least 0 and below 1.
    """
    text = settings.adam_betas or ("0.9,0.98" if settings.optimizer == "muon" else "0.9,0.95")
    try:
        first, second = (float(beta) for beta in text.split(","))
    except ValueError:
        first = second = math.nan
    if not (0 <= first < 1 and 0 <= second < 1):
        raise InputError(f"--adam-betas {text}: must be two numbers of at least 0 and below 1, such as 0.9,0.95.")
    return first, second


def without_effect(settings: FinetuneSettings) -> list[str]:
    """Name the settings that were changed and change nothing in this run, a line for each reason."""
    s, default = settings, FinetuneSettings()
    full, rates = s.train == "full", ("lr_vit", "lr_connector", "lr_llm")
    files = (s.data, s.eval_data or "shapes")
    reasons: list[tuple[bool, str, tuple[str, ...]]] = [
        (not full, f"--train {s.train}", (*rates, "muon_adamw")),
        (not full and not (s.train == "lora" and s.lora_vit), f"--train {s.train}", ("target_gradient",)),
        (s.train != "lora", f"--train {s.train}", ("lr_lora", "lora_rank", "lora_alpha", "lora_vit")),
        (
            s.scorer != "learned",
            f"--scorer {s.scorer}",
            ("new_scorer", "lr_scorer", "temporal_weight", "bias_rescale", "clamp_scorer_gradient", "target_gradient"),
        ),
        (s.scorer == "none", "--scorer none", ("prune_layer",)),
        (s.scorer == "none" and main_keep_ratio(s.keep_ratio) < 1, "--scorer none", ("keep_ratio",)),
        (not s.temporal_weight, "--temporal-weight 0", ("target_gradient",)),
        (s.optimizer != "muon", f"--optimizer {s.optimizer}", ("muon_adamw",)),
        (s.schedule != "wsd", f"--schedule {s.schedule}", ("cooldown",)),
        (s.schedule == "wsd", "--schedule wsd", ("lr_floor",)),
        (not s.clip, "--clip 0", ("clip_by",)),
        (bool(s.steps), f"--steps {s.steps}", ("epochs",)),
        (set(files) == {"shapes"}, "--data shapes", ("video_root", "cache", "max_fps")),
        ("shapes" not in (s.data, s.eval_data), f"--data {s.data}", ("shapes_mix",)),
        (s.eval_data not in (None, "shapes"), f"--eval-data {s.eval_data}", ("eval_videos",)),
        (s.eval_videos == 0 and s.eval_data in (None, "shapes"), "--eval-videos 0", ("eval_every", "eval_data")),
        (bool(s.eval_every) and s.eval_videos != 0, f"--eval-every {s.eval_every}", ("save_every",)),
    ]
    lines = []
    for holds, reason, names in reasons:
        changed = [name for name in names if getattr(s, name) != getattr(default, name)]
        if holds and changed:
            lines.append(f"{', '.join(map(_flag, changed))}: no effect on this run with {reason}.")
    return lines


def main_keep_ratio(text: str) -> float:
    """Return the keep ratio that most steps are trained at, the lowest of several: what the result is used at."""
    ratios = keep_ratios(text)
    most = max(share for _, share in ratios)
    return min(ratio for ratio, share in ratios if share == most)


def check_flags(flags: Iterable[str], allowed: Sequence[str], what: str) -> None:
    """Refuse flags that a preset decides.

    Args:
        flags: names of fields that were given.
        allowed: those that may be.
        what: which kind of preset, for the message.

    Raises:
        InputError: another flag.
    """
    if wrong := [_flag(name) for name in flags if name not in allowed]:
        raise InputError(
            f"{wrong[0]} for a preset of {what}, which each have their own -> {', '.join(map(_flag, allowed))} -> copy "
            "the preset, change it there, and give its path as --preset"
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def read_stages(path: Path) -> dict[str, dict[str, Any]]:
    """Read a training preset.

    Args:
        path: a YAML file of `FinetuneSettings` fields, or of "stages" or "runs": a mapping from names to such fields.

    Returns:
        Fields by stage; one stage named "" for a plain file.

    Raises:
        InputError: no such file, no mapping, an unknown key, or a value of another kind.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"training preset '{path}' cannot be read ({detail}) -> a YAML file") from error
    if not isinstance(document, dict):
        raise InputError(f"training preset '{path}' holds a {type(document).__name__} -> a mapping of settings")
    several = next((key for key in ("stages", "runs") if set(document) == {key}), None)
    stages = document[several] if several else {"": document}
    if not isinstance(stages, dict) or not stages or not all(isinstance(values, dict) for values in stages.values()):
        raise InputError(f"{path}: the stages are {stages!r} -> a mapping from names to settings -> correct it")
    kinds = {field.name: str(field.type) for field in dataclasses.fields(FinetuneSettings)}
    read: dict[str, dict[str, Any]] = {}
    for stage, values in stages.items():
        for key in values:
            if key not in kinds:
                raise InputError(f"{path}: unknown key '{key}'{suggest(str(key), kinds)}")
        read[str(stage)] = {key: _typed(path, key, value, kinds[key]) for key, value in values.items()}
    return read


def _typed(path: Path, key: str, value: Any, kind: str) -> Any:
    """Return a YAML value as a field wants it; YAML takes 1e-4 for a text and a lone keep ratio for a number."""
    wanted, _, rest = kind.partition(" | ")
    if value is None and rest == "None":
        return None
    if wanted == "str" and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    names = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false"}
    try:
        if isinstance(value, bool) != (wanted == "bool") or wanted == "str":
            raise ValueError
        number = float(value)
        if wanted == "int" and number != int(number):
            raise ValueError
        return {"int": int, "float": float, "bool": bool}[wanted](number)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{path}: {key} {value!r} -> {names[wanted]} -> correct it") from None


def _among(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} '{value}' is unknown{suggest(value, allowed)}")


def _least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} {value} -> at least {least} -> raise it")
