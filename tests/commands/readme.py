"""Write the tables of flags in stts_cli/commands/README.md from the commands: `python -m tests.commands.readme`.

A table stands between `<!-- flags: NAME -->` and `<!-- end -->`; everything else on the page is written by people.
"""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any

from typer.main import get_command

from stts_cli import cli

PAGE = Path(cli.__file__).parent / "commands" / "README.md"
VALUES = {int: "N", float: "NUMBER", str: "TEXT", Path: "PATH"}


def commands() -> dict[str, Any]:
    """Return the commands of the program, by name."""
    return get_command(cli.app).commands  # type: ignore[attr-defined]


def table(command: Any) -> str:
    """Return a command's flags as a Markdown table."""
    hints = typing.get_type_hints(command.callback)
    rows = ["| flag | default | meaning |", "| --- | --- | --- |"]
    for parameter in command.params:
        if not parameter.opts[0].startswith("-"):
            continue  # an argument
        flags = ", ".join(
            f"`{flag}{_value(parameter, hints)}`" for flag in (*parameter.opts, *parameter.secondary_opts)
        )
        default = "" if parameter.default in (None, False) else f"`{parameter.default}`".replace("True", "on")
        rows.append(f"| {flags} | {default} | {parameter.help.replace('|', '/')} |")
    return "\n".join(rows)


def _value(parameter: Any, hints: dict[str, Any]) -> str:
    """Return the word for an option's value, with a space before it; nothing for a switch."""
    if parameter.is_flag:
        return ""
    if parameter.metavar:
        return " " + parameter.metavar.replace("INTEGER", "N").replace("|", " or ")
    hint = hints[parameter.name]
    while typing.get_origin(hint) in (typing.Union, types.UnionType, list):
        hint = typing.get_args(hint)[0]
    return f" {VALUES[hint]}" + (" ..." if parameter.multiple else "")


def updated(page: str) -> str:
    """Return the page with the tables as the commands are now."""
    for name, command in commands().items():
        marker = f"<!-- flags: {name} -->\n"
        before, between, after = page.partition(marker)
        assert between, f"{PAGE}: no place for the flags of {name}"
        page = before + marker + table(command) + "\n" + after[after.index("<!-- end -->") :]
    return page


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
