"""Flags that several commands have, each declared once. A command that means something else declares its own."""

from __future__ import annotations

from typing import Annotated

import typer

from stts_cli.errors import InputError
from stts_cli.settings import SCORERS, Answering, read_prune_layer


def _presets() -> list[str]:
    from stts_cli.config.presets import preset_names

    return preset_names()


def _scorers() -> list[str]:
    return ["auto", *SCORERS]


Preset = Annotated[
    str | None,
    typer.Option(
        help="A preset's name or YAML file; else $STTS_PRESET, else the config file, else nano.",
        autocompletion=_presets,
    ),
]
Model = Annotated[
    str | None, typer.Option(help="A checkpoint folder or a Hugging Face hub id, e.g. allenai/Molmo2-4B.")
]
Revision = Annotated[
    str | None, typer.Option(metavar="REV", help="Commit, branch or tag of a hub id; else its newest.")
]
Frames = Annotated[int | None, typer.Option(help="The most frames to look at.")]
MaxFps = Annotated[float | None, typer.Option(help="The most frames a second to look at.")]
Resize = Annotated[
    str, typer.Option(help="Who resizes frames: model, as its processor does, or decoder, fast and different.")
]
KeepRatio = Annotated[
    float | None, typer.Option(help="Fraction of visual tokens kept, 0 to 1; 1 is dense. (1 - the prune ratio.)")
]
PruneRatio = Annotated[float | None, typer.Option(help="The same as --keep-ratio 1 - this: the paper's own term.")]
Scorer = Annotated[
    str | None,
    typer.Option(
        help="Who decides what stays: auto, learned, temporal, reference, random, tome, none or MODULE:FUNCTION.",
        autocompletion=_scorers,
    ),
]
PruneLayer = Annotated[
    str | None,
    typer.Option(
        help="Score after this ViT block, counted from 0; last: behind the whole ViT, so that only the connector "
        "and the language model save.",
        metavar="INTEGER|last",
        parser=read_prune_layer,
    ),
]
Compare = Annotated[
    list[str] | None,
    typer.Option(
        help="More arms on the same videos, several times or with commas: dense (the default), a keep ratio, a scorer, "
        "a preset or a checkpoint, these also with a ratio: random@0.3, and frames: dense@22f. NAME=ARM names one."
    ),
]
Seed = Annotated[int | None, typer.Option(help="Of the random scorer and of --temperature.")]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="A system prompt, before the video.")]
Temperature = Annotated[
    float | None, typer.Option(help="Draw tokens by their probability, logits divided by this; 0, the default: greedy.")
]
TopP = Annotated[
    float | None, typer.Option(help="With --temperature: draw among the likeliest that have this probability together.")
]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="Texts that end an answer and are no part of it: --stop A B, behind the questions."),
]
Think = Annotated[
    bool,
    typer.Option("--think", help="Let a thinking model think before it answers; what it thinks is left out."),
]
BatchSize = Annotated[
    int, typer.Option(help="How many answers are decoded together; a model that cannot decodes one by one.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")]
Quantize = Annotated[
    str | None, typer.Option(metavar="4bit", help="4bit: the language model's weights in 4 bits, by bitsandbytes.")
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        metavar="auto|FILE",
        help="For a model larger than the card: spread over GPUs, memory and disk, or as a YAML or JSON file says.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]


def answering(
    system: str | None, temperature: float | None, top_p: float | None, stop: list[str] | None, think: bool
) -> Answering:
    """Return how answers are worded; None is not given."""
    given = {"system": system, "temperature": temperature, "top_p": top_p, "stop": stop, "think": think}
    if system == "":
        raise InputError("--system: is empty; give a text, or leave it out.")
    return Answering(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def kept(keep_ratio: float | None, prune_ratio: float | None) -> float | None:
    """Return the keep ratio that --keep-ratio or --prune-ratio says, or None."""
    return keep_ratio if prune_ratio is None else kept_of(prune_ratio, keep_ratio)


def kept_of(prune_ratio: float, keep_ratio: object = None) -> float:
    """Return the keep ratio of a prune ratio; `keep_ratio` is what was given too, which is an error."""
    if keep_ratio is not None:
        raise InputError(f"--prune-ratio {prune_ratio:g}: cannot stand with --keep-ratio; give one of them.")
    if not 0 <= prune_ratio < 1:
        raise InputError(f"--prune-ratio {prune_ratio:g}: must be at least 0 and below 1.")
    return round(1 - prune_ratio, 12)


def parse_time(flag: str, value: str | None) -> float | None:
    """Return a time in seconds; None where none was given."""
    from stts_cli.data.times import read_time

    try:
        return None if value is None else read_time(value)
    except ValueError as error:
        raise InputError(f"{flag} {value}: {error}.") from error


def parse_times(flag: str, values: str | None) -> tuple[float, ...] | None:
    """Return times in seconds, rising, from a list with commas; None where none was given."""
    if values is None:
        return None
    return tuple(sorted({time for value in values.split(",") if (time := parse_time(flag, value)) is not None}))
