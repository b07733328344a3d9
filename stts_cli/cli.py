"""The command line: parse, call one room, report.

Nothing heavy is imported here, so that `stts --help` is instant: torch and transformers load inside a command.
Answers, tables and JSON go to stdout; everything else goes to stderr. Exit codes: 0 fine, 1 a bug, 2 bad input, 3 the
environment (a missing package, no network, too little memory), 130 stopped by Ctrl-C. A traceback
is shown only with STTS_DEBUG=1.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from stts_cli import __version__
from stts_cli.commands import ask, evaluate, finetune, profile
from stts_cli.errors import InputError, SttsError, install_hint, is_out_of_memory

app = typer.Typer(
    name="stts",
    help="Ask questions of videos with fewer tokens: token scoring inside a video VLM (arXiv 2603.18004).",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _stts(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="With --version: packages, devices, kernels, decoders and paths.")
    ] = False,
) -> None:
    if version:
        from stts_cli.report.installation import describe_installation

        for line in [f"stts {__version__}", *(describe_installation() if verbose else [])]:
            typer.echo(line)
        raise typer.Exit
    if verbose:
        raise typer.BadParameter("goes with --version", param_hint="--verbose")
    if context.invoked_subcommand is None:
        raise typer.BadParameter("is missing: ask, eval, profile or finetune", param_hint="COMMAND")


app.command()(ask.ask)
app.command()(finetune.finetune)
app.command(name="eval")(evaluate.evaluate)
app.command()(profile.profile)


def _is_flag(word: str) -> bool:
    """Return whether a word of the command line is a flag, not a text or a number below 0."""
    return word.startswith("-") and not re.match(r"-\.?\d", word)


def spread_options(arguments: Sequence[str]) -> list[str]:
    """Let `--options A B C` mean `--options A --options B --options C`, also `--stop`, and `--compare` alone dense.

    Args:
        arguments: the command line without the program's name.

    Returns:
        The same with the flag before each of the words that follow it, up to the next flag; a number is none.

    Raises:
        InputError: such a flag is followed by no text.
    """
    spread: list[str] = []
    inside = ""
    for word, following in zip(arguments, [*arguments, "--"][1:], strict=True):
        if word in ("--options", "--stop"):
            if _is_flag(following):
                raise InputError(f"{word}: must be followed by texts; give one such as -left by {word}=-left.")
            inside = word
            continue
        inside = "" if _is_flag(word) else inside
        spread += [inside, word] if inside else [word]
        if word == "--compare" and following.startswith("-"):
            spread.append("dense")
    return spread


def describe_failure(error: BaseException) -> tuple[str, int]:
    """Turn any exception into one line and an exit code.

    Args:
        error: what escaped from a command.

    Returns:
        The sentence, and 1, 2 or 3.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, SttsError):
        return text, error.exit_code
    if is_out_of_memory(error):
        return f"out of memory ({text[:120]}); lower --frames or --keep-ratio, or use --dtype bfloat16.", 3
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name}: is missing; {install_hint()}", 3
    if isinstance(error, OSError):  # the disk or the network; what a user named is read with a better message
        return (f"{error.filename}: {error.strerror}." if error.filename and error.strerror else text), 3
    return f"a bug in stts: {type(error).__name__}: {text[:300]}; run again with STTS_DEBUG=1 and report it.", 1


def _hide_deprecations() -> None:
    """Hide what dependencies announce to programmers, in child processes too, unless `python -W` decides it."""
    if sys.warnoptions or os.environ.get("STTS_DEBUG") == "1":
        return
    for category in (DeprecationWarning, FutureWarning):
        warnings.simplefilter("ignore", category)
    os.environ["PYTHONWARNINGS"] = "ignore::DeprecationWarning,ignore::FutureWarning"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; without any argument, show the help.

    Args:
        arguments: without the program's name; None for the process's own, which is then this command's alone.
    """
    if arguments is None:
        arguments = sys.argv[1:]
        _hide_deprecations()
    try:
        app(args=spread_options(arguments or ["--help"]), prog_name="stts")
    except Exception as error:
        if os.environ.get("STTS_DEBUG") == "1":
            raise
        from stts_cli.report.terminal import print_note

        sentence, code = describe_failure(error)
        print_note(sentence)
        sys.exit(code)


if __name__ == "__main__":
    main()
