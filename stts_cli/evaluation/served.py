"""What a server told about its answers: tokens, times to the first token, and where its counts differ from ours."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from stts_cli.engine.remote import RemoteModel
from stts_cli.evaluation.journal import Row

COUNTS = {"prompt_tokens": "tokens_in", "new_tokens": "tokens_out"}


def summarize_server(rows: Sequence[Row]) -> dict[str, Any]:
    """Sum up what a server told of answers.

    Returns:
        "prompt_tokens" and "new_tokens", means a question; "ttft_s", the median; each over the answers of which it was
        told, None where there is none; "cut", answers that ended at the limit of new tokens.
    """
    found: dict[str, Any] = {}
    for name, key in COUNTS.items():
        known = [row[key] for row in rows if row.get(key) is not None]
        found[name] = mean(known) if known else None
    times = [row["ttft_s"] for row in rows if row.get("ttft_s") is not None]
    found["ttft_s"] = median(times) if times else None
    found["cut"] = sum(not row["finished"] for row in rows)
    return found


def server_notes(model: RemoteModel, rows: Sequence[Row]) -> list[str]:
    """Return what a user should know about an arm's answers: what was not told, counts that differ, what was kept."""
    name, ratio = model.arm.name, model.arm.keep_ratio
    rows = [row for row in rows if not row.get("error")]
    notes = []
    if untold := sum(row["tokens_in"] is None for row in rows):
        notes.append(f"{name}: the server does not count the prompt's tokens of {untold} of {len(rows)} answers")
    checked = [row for row in rows if row["tokens_in"] is not None and row["tokens_expected"] is not None]
    if ratio is None:
        wrong = [row for row in checked if row["tokens_in"] > row["tokens_expected"]]
        pruned = [row for row in checked if row["tokens_in"] < row["tokens_expected"]]
        if pruned:
            share = sum(row["visual_tokens"] for row in pruned) / sum(row["visual_tokens_dense"] for row in pruned)
            notes.append(
                f"{name}: the server's prompts are shorter than dense ones in {len(pruned)} of {len(checked)} answers: "
                f"it keeps {share:.1%} of their visual tokens, by its own setting, or it cuts videos"
            )
    else:
        wrong = [row for row in checked if row["tokens_in"] != row["tokens_expected"]]
        if not checked:
            notes.append(f"{name}: whether the server applies keep ratio {ratio:g} cannot be checked here")
    if wrong:
        first = wrong[0]
        notes.append(
            f"{name}: {len(wrong)} of {len(checked)} prompts have another length than expected; the first, "
            f"{first['id']}: {first['tokens_in']} tokens instead of {first['tokens_expected']}: the server cuts or "
            "words videos otherwise" + ("" if ratio is None else f", or does not apply keep ratio {ratio:g}")
        )
    return notes
