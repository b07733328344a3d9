"""Flags of commands that ask a model on a server, and which others cannot stand with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from stts_cli.errors import InputError
from stts_cli.settings import Arm

if TYPE_CHECKING:
    from stts_cli.engine.remote import Engine

Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Ask --model at this OpenAI-compatible server instead of loading it; its key is $OPENAI_API_KEY.",
    ),
]
Send = Annotated[
    str | None,
    typer.Option(help="With --engine, what frames go as: video, the default, vLLM's exact list, or images."),
]
Silence = Annotated[
    float | None,
    typer.Option(help="With --engine, seconds without a word after which a question is given up; 600 by default."),
]
SERVED = "served"  # what the first arm is called where the server's own settings hold


def read_engine(
    url: str | None, given: Mapping[str, object], of_the_server: Mapping[str, object], model: str | None
) -> Engine | None:
    """Return the server that is to answer; None where none was named.

    Args:
        url: what --engine says.
        given: settings of `Engine`; None where a flag was not given.
        of_the_server: flags that cannot stand with --engine, with their values; None and False are not given.
        model: what --model says.

    Raises:
        InputError: a flag that cannot stand with the others, or a value out of range.
    """
    from stts_cli.engine.remote import Engine

    set_values = {name: value for name, value in given.items() if value is not None}
    if url is None:
        for name in set_values:
            flag = {"silence_s": "--answer-timeout"}.get(name, f"--{name.replace('_', '-')}")
            raise InputError(f"{flag} {set_values[name]}: is for a server; give --engine too.")
        return None
    for flag, value in of_the_server.items():
        if value is not None and value is not False:
            raise InputError(f"{flag}: cannot stand with --engine; it is the server's own, or not known of one.")
    if model is None:
        raise InputError("--model: is missing; must be a name that the server of --engine knows.")
    return Engine(url, **set_values)  # type: ignore[arg-type]


def of_the_server(
    scorer: object, prune_layer: object, dtype: object, revision: object, device: str, quantize: object
) -> dict[str, object]:
    """Return the flags of a loaded model, by name, for `read_engine` to refuse."""
    return {
        "--scorer": scorer,
        "--prune-layer": prune_layer,
        "--dtype": dtype,
        "--revision": revision,
        "--device": None if device == "auto" else device,
        "--quantize": quantize,
    }


def served_arms(arms: Sequence[Arm]) -> list[Arm]:
    """Return arms as a server can answer them: a model's name, frames, a keep ratio or none.

    Raises:
        InputError: an arm with a scorer or a layer, which are the server's own.
    """
    for arm in arms:
        if arm.scorer not in ("auto", "none") or arm.prune_layer is not None:
            raise InputError(f"--compare {arm.name}: who scores is the server's own; must be dense or a keep ratio.")
    first = arms[0]
    named = dataclasses.replace(first, name=SERVED) if first.keep_ratio is None and not first.is_dense else first
    return [named, *arms[1:]]
