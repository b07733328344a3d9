"""Training presets: a YAML file of presets/training becomes the settings of its stages, each value checked."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from stts_cli.config import files
from stts_cli.config.files import STRICT, NotNegative, Positive, Ratio
from stts_cli.errors import InputError
from stts_cli.settings import BIAS_RESCALES, SCORERS

SEVERAL = ("stages", "runs")  # the one key of a file of several trainings


def keep_ratios(text: str) -> tuple[tuple[float, float], ...]:
    """Read "0.5" or "0.5:6,1:2": ratios and each one's share of the steps, of 1; ValueError says what it must be."""
    try:
        pairs = [(float(ratio), float(share or 1)) for ratio, _, share in (p.partition(":") for p in text.split(","))]
    except ValueError:
        raise ValueError("a ratio such as 0.5, or several with shares, such as 0.5:6,1:2") from None
    total = sum(share for _, share in pairs)
    if not all(0 < ratio <= 1 and share >= 0 for ratio, share in pairs) or not total > 0:
        raise ValueError("ratios greater than 0 and at most 1, with shares of at least 0")
    return tuple((ratio, share / total) for ratio, share in pairs)


def betas(text: str) -> tuple[float, float]:
    """Read AdamW's betas, such as "0.9,0.95", each at least 0 and below 1; ValueError says so."""
    try:
        first, second = (float(beta) for beta in text.split(","))
        if 0 <= first < 1 and 0 <= second < 1:
            return first, second
    except ValueError:
        pass
    raise ValueError("two numbers of at least 0 and below 1, such as 0.9,0.95")


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_text)]  # a file may say keep_ratio: 0.5, cache: 2024
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
if TYPE_CHECKING:
    Scorer = str
    Rescale = str
else:
    Scorer, Rescale = Literal[tuple(SCORERS)], Literal[BIAS_RESCALES]


@dataclass(frozen=True, config=STRICT)
class Stage:
    """What one stage or run of a training preset may say, each value by itself; see `training.settings`.

    Attributes:
        model: the checkpoint to start from: a folder, a hub id, or "nano" for the embedded one.
        revision: commit, branch or tag of a hub id; null for the newest.
        quantize: "4bit" for the frozen language model's weights in 4 bits; not with train "full".
        data: a .jsonl, .json or .csv file, "hf:OWNER/NAME[:split]", or "shapes".
        video_root: folder that relative video paths start from; null for the file's own.
        train: what is trained: "scorer", "lora" (the scorer too), or "full".
        scorer: who chooses the windows while training; "none" trains dense.
        new_scorer: start from an untrained scorer even where the checkpoint has one.
        keep_ratio: "0.5", or several with their shares of the steps: "0.5:6,1:2,0.7:1,0.3:1".
        prune_layer: 0-based ViT block after which windows are scored; null for the checkpoint's own.
        bias_rescale: soft bias over each "row" of windows or the whole "frame"; "off" for none; null for the
            checkpoint's own.
        temporal_weight: of the temporal loss beside the language model's.
        target_gradient: let the temporal loss's target pass gradient on into the ViT, as the reference does.
        clamp_scorer_gradient: bound what one window may pull at the scorer; ours, not the paper's.
        answer_weights: "equal": each of the answers' tokens counts the same; "root-length": a token of an answer of n
            tokens counts 1 / sqrt(n).
        z_loss: weight of the squared logarithm of the softmax's denominator beside each token's cross-entropy.
        frames: the most frames of a video.
        max_fps: the most frames a second.
        resize: who resizes frames: "model", as its processor does, or "decoder", faster.
        max_questions: the most conversations about one video in a step.
        batch_size: videos a process in one forward pass; with "shapes", a factor on its own number of clips.
        accumulate: forward passes an optimizer step.
        global_batch: videos an optimizer step on all processes together, which decides `accumulate`; null to leave it.
        seq_len: pack several videos into rows of at most this many tokens; null for a row a video.
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
        lr_llm: of the language model. With "muon" the last three are Muon's.
        muon_adamw: AdamW's rates beside Muon's, as a share of them.
        adam_betas: of AdamW, as "0.9,0.95"; null for these, or 0.9 and 0.98 beside Muon.
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
        eval_data: held-out questions, as `data`; null splits `eval_videos` off the data.
        eval_videos: held-out videos, 0 for none; null for 20, or a tenth of the data where that is less.
        eval_every: optimizer steps between evaluations; 0 for the start and the end only.
        save_every: optimizer steps between checkpoints; 0 for the end only.
        keep_checkpoints: how many of the latest to keep, beside the best.
        log_every: optimizer steps between lines of the log.
        workers: processes that read videos ahead.
        cache: folder for decoded frames; null decodes anew.
        report_to: trackers such as "tensorboard", comma-separated; "none".
        shapes_mix: clips of "shapes": "short", "long" or "all".
        seed: of data, weights and keep ratios.
    """

    model: Text = ""
    revision: Text | None = None
    quantize: Literal["4bit"] | None = None
    data: Text = ""
    video_root: Text | None = None
    train: Literal["scorer", "lora", "full"] = "scorer"
    scorer: Scorer = "learned"
    new_scorer: bool = False
    keep_ratio: Annotated[Text, AfterValidator(lambda text: keep_ratios(text) and text)] = "0.5"
    prune_layer: NotNegative | None = None
    bias_rescale: Rescale | None = None
    temporal_weight: Weight = 0.5
    target_gradient: bool = False
    clamp_scorer_gradient: bool = False
    answer_weights: Literal["equal", "root-length"] = "equal"
    z_loss: Weight = 0.0
    frames: Positive = 64
    max_fps: Annotated[float, Field(gt=0)] = 2.0
    resize: Literal["model", "decoder"] = "model"
    max_questions: Positive = 8
    batch_size: Positive = 1
    accumulate: Positive = 1
    global_batch: Positive | None = None
    seq_len: Positive | None = None
    steps: NotNegative = 0
    epochs: float = 1.0
    scorer_warmup: NotNegative = 0
    warmup: NotNegative = 20
    schedule: Literal["cosine", "cosine-after-warmup", "wsd"] = "cosine"
    lr_floor: Annotated[float, Field(ge=0, le=1)] = 0.1
    cooldown: Ratio = 0.4
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr_scorer: Weight = 1e-4
    lr_vit: Weight = 5e-6
    lr_connector: Weight = 5e-6
    lr_llm: Weight = 1e-5
    lr_lora: Weight = 1e-4
    muon_adamw: float = 0.1
    adam_betas: Annotated[Text, AfterValidator(lambda text: betas(text) and text)] | None = None
    adam_eps: Weight = 1e-8
    weight_decay: Weight = 0.0
    clip: Weight = 1.0
    clip_by: Literal["all", "part"] = "all"
    precision: Literal["auto", "float32", "bf16", "bf16-master"] = "auto"
    gradient_checkpointing: bool = False
    lora_rank: Positive = 16
    lora_alpha: int = 32
    lora_vit: bool = False
    eval_data: Text | None = None
    eval_videos: NotNegative | None = None
    eval_every: NotNegative = 0
    save_every: NotNegative = 0
    keep_checkpoints: Positive = 2
    log_every: Positive = 10
    workers: NotNegative = 2
    cache: Text | None = None
    report_to: Text = "none"
    shapes_mix: Text = "all"
    seed: int = 0


def read_stages(path: Path) -> dict[str, dict[str, object]]:
    """Read a training preset: a YAML file of `Stage` fields, or of "stages" or "runs", which map names to such fields.

    Returns:
        The fields that each stage gives; one stage named "" for a plain file.

    Raises:
        InputError: what `files.load` refuses.
    """
    document = files.read(path)
    several = next((key for key in SEVERAL if set(document.values) == {key}), None)
    if several is None:
        return {"": _given(document, document.values, ())}
    stages = document.values[several]
    if not isinstance(stages, dict) or not stages or not all(isinstance(values, dict) for values in stages.values()):
        raise InputError(f"{document.place([several])}: {several}: must be names, and below each its settings.")
    return {str(name): _given(document, values, (several, name)) for name, values in stages.items()}


def _given(document: files.Document, values: dict[str, object], section: tuple[str, ...]) -> dict[str, object]:
    stage = document.build(Stage, {str(key): value for key, value in values.items()}, section)
    return {field.name: getattr(stage, field.name) for field in fields(stage) if field.name in values}
