"""Read the questions of `ask --questions FILE`."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from stts_cli.errors import InputError


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    question: str
    options: list[str] = []


def read_asked(path: str | Path) -> list[tuple[str, tuple[str, ...]]]:
    """Read questions, each with its options: a line each of a text file, or {"question", "options"} of a .jsonl one.

    Returns:
        (question, options) in order; no options where a row has none.

    Raises:
        InputError: no such file, a damaged row, or no question at all.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(f"--questions {path}: cannot be read ({reason}); must be a text or a .jsonl file.") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise InputError(f"--questions {path}: holds no question; must hold one a line.")
    if path.suffix.lower() != ".jsonl":
        return [(line, ()) for _, line in numbered]
    asked = []
    for number, line in numbered:
        try:
            row = _Row.model_validate(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{number}: is no JSON ({error.msg}); must be an object a line.") from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "row"
            raise InputError(
                f"{path}:{number}: {key}: {first['msg'].lower()}; must be question and options."
            ) from error
        asked.append((row.question, tuple(row.options)))
    return asked
