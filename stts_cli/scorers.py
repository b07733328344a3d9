"""Who may score windows, and who does where the user leaves it open. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from stts_cli.errors import InputError, suggest

SCORERS = {
    "learned": "the paper's scorer, trained with the model",
    "temporal": "training-free: change since the previous frame",
    "reference": "training-free: change since the frame in which that position last changed",
    "random": "seeded noise",
    "tome": "no scores: merges similar windows of a frame instead of dropping any",
    "none": "dense: nothing is dropped",
}


def resolve_scorer(
    scorer: str, *, model: str, trained_with: str, has_learned: bool, keep_ratios: Sequence[float] = ()
) -> tuple[str, list[str]]:
    """Decide who scores the windows.

    Args:
        scorer: "auto", or one of `SCORERS`.
        model: what to call the checkpoint.
        trained_with: the scorer of its settings.
        has_learned: whether it carries a learned scorer.
        keep_ratios: fractions of windows kept that the user gave.

    Returns:
        One of `SCORERS` ("auto" is the learned one where there is one, else what the checkpoint was trained with, else
        temporal), and notes for the user.

    Raises:
        InputError: an unknown scorer, or the learned one of a checkpoint that has none.
    """
    notes = []
    if scorer == "auto":
        scorer = "learned" if has_learned else "temporal" if trained_with == "learned" else trained_with
        if scorer == "temporal":
            notes.append("this checkpoint has no learned scorer: the training-free temporal scorer is used")
    if scorer not in SCORERS:
        known = ["auto", *SCORERS]
        hint = suggest(scorer, known)
        raise InputError(
            f"--scorer {scorer}: must be {', '.join(known[:-1])} or {known[-1]}"
            f"{hint if 'did you mean' in hint else '.'}"
        )
    if scorer == "learned" and not has_learned:
        others = [name for name in SCORERS if name != "learned"]
        raise InputError(
            f"--scorer learned: {model} has no learned scorer; must be {', '.join(others[:-1])} or {others[-1]}."
        )
    if scorer == "none":
        notes += [
            f"scorer none keeps every window: keep ratio {ratio:g} has no effect" for ratio in keep_ratios if ratio < 1
        ]
    return scorer, notes
