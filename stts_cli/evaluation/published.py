"""How other evaluators read a reply, their weaknesses included: the benchmarks' publishers and Molmo2's evaluation.

Written from what their functions answer, case by case (`tests/evaluation/published_scorers.json` names each function
and its version). They are given replies without outer spaces. Where a rule guesses, the guess is drawn from a generator
seeded by the question and counts as unread. A language model that some of them ask where their rule fails is not asked.
Standard library only.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

from stts_cli.data.items import QaItem
from stts_cli.data.prompts import option_lines
from stts_cli.evaluation.scoring import Verdict


def videomme(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Video-MME: the first A, B, C or D of any word; a reply without one is left out.

    Of the phrases it drops first, those that a reply can hold have none of these letters. So "Answer: C" is A, and
    "Best answer: C" is B.
    """
    choice = _first_capital(text, "ABCD")
    return _verdict(choice, item, counted=choice is not None)


def videomme_molmo2(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Molmo2 for Video-MME: the same, but "Answer:" is dropped."""
    return videomme(text.replace("Answer:", ""), item, rng)


def longvideobench(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """LongVideoBench, and Molmo2 for it: the first of A to E of any word, phrases dropped; none is a guess."""
    said = text.replace("Best answer:", "").replace("Best option:", "")  # its other phrases lack the letters
    return _verdict(_first_capital(said, "ABCDE"), item, rng=rng)


def mvbench(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """MVBench: the first word, its dots left out, is a part of "(b)" or holds it.

    A reply of nothing, or of a bracket, is a part of every option's letter and therefore right.
    """
    word = text.split("\n")[0].lower().split(" ")[0]
    names = {choice: f"({choice.lower()})" for choice in item.letters}
    fits = [choice for choice, name in names.items() if word.replace(".", "") in name or name in word]
    return Verdict(fits[0] if len(fits) == 1 else None, any(choice in item.right for choice in fits))


def mlvu(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """MLVU: what stands before the first ")" is the letter alone. Its own prompt begins the reply with "("."""
    said = text.split(")")[0]
    return _verdict(said if said in tuple(item.letters) else None, item)


def first_in_brackets(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """LVBench and MotionBench: the first character, or the first behind a "(" that comes before any ")"."""
    said = text.split(")")[0].strip()
    first = said.split("(")[1].strip()[:1] if "(" in said else said[:1]
    return _verdict(first if first in tuple(item.letters) else None, item)


def option_line(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """TempCompass, multiple choice: the bare letter, or a start of "B." or "B)"."""
    return _line(text, item, option_lines(item).split("\n"))


def option_line_molmo2(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Molmo2 for TempCompass' caption matching: the whole line; else as if lines began with their letter.

    So "C" is right wherever the lines begin with "Caption", and "B" never.
    """
    return _line(text, item, item.options)


def caption(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """TempCompass, caption matching: the line "Caption B: text", its text, its label, or the bare "B"."""
    for choice, option in zip(item.letters, item.options, strict=True):
        label, _, sentence = option.partition(": ")
        labels = (label, label.split(" ")[-1])
        behind = text.split(") ")[1] if ") " in text else text
        if text in (option, sentence, *labels) or behind == sentence or text.replace(".", "") in labels:
            return _verdict(choice, item)
    return _verdict(None, item)


def yes_or_no(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """TempCompass, yes/no: what the reply starts with ("none" is no, "yesterday" is yes)."""
    parsed = next((word for word in ("yes", "no") if text.lower().startswith(word)), None)
    return Verdict(parsed, parsed in item.right)


def starts_with(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Molmo2's `em_start`, for several benchmarks: the reply starts with the letter ("A man ..." is A)."""
    return starts_with_uncleaned(clean(text), item, rng)


def starts_with_uncleaned(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Molmo2 for LVBench: the same, of the reply as it is ("Answer: B" is A)."""
    first = text[:1].upper()
    return _verdict(first if first in tuple(item.letters) else None, item)


def first_letter(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Molmo2 for Perception Test: the first A, B, C or D that stands alone."""
    found = re.search(r"\b[A-D]\b", clean(text))
    return _verdict(found[0] if found else None, item)


def first_of_several(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Molmo2 for EgoSchema: "(B)", "B." or a word that ends in B; of several the first; else a line's text."""
    said = _trimmed(clean(text))
    hits = _last_places(said, item.letters, ("({})", "{} ", "{}.")) or _texts(said, option_lines(item).split("\n"))
    return _verdict(min(hits, key=lambda hit: hit[0])[1] if hits else None, item, rng=rng)


def last_of_several(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Molmo2 for NExT-QA: "(B)", else " B ", else "B."; of several the last; else an option's text."""
    said = _trimmed(clean(text))
    forms = (_last_places(said, item.letters, (form,)) for form in ("({})", " {} ", "{}."))
    hits = next(filter(None, forms), None) or _texts(said, item.options)
    return _verdict(max(hits, key=lambda hit: hit[0])[1] if hits else None, item, rng=rng)


def nearest_letter(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Molmo2 for TOMATO: the first character, else the first option whose letter is in any word, else the first."""
    said = text.upper()
    found = [choice for choice in item.letters if said.startswith(choice)]
    found += [choice for choice in item.letters if choice in said]
    return _verdict(found[0], item) if found else Verdict(None, item.letters[0] in item.right)


def clean(text: str) -> str:
    """Molmo2's cleaning: what follows "Answer:", else the most frequent of several lines; single spaces."""
    if "Answer:" in text:
        return text.split("Answer:")[1].strip()
    return Counter(" ".join(line.split()) for line in text.split("\n")).most_common(1)[0][0]


def _verdict(choice: str | None, item: QaItem, counted: bool = True, rng: random.Random | None = None) -> Verdict:
    """Return the verdict on a choice; with a generator no choice becomes a guess."""
    said = rng.choice(item.letters) if rng and choice is None else choice
    return Verdict(choice, said in item.right, counted)


def _first_capital(text: str, letters: str) -> str | None:
    return next((character for character in text if character in letters), None)


def _line(text: str, item: QaItem, lines: Sequence[str]) -> Verdict:
    if text in lines:
        return _verdict(item.letters[lines.index(text)], item)
    if text[:1] not in tuple("ABCD") or text[1:2] not in ("", ".", ")"):
        return _verdict(None, item)
    right = (line for choice, line in zip(item.letters, lines, strict=True) if choice in item.right)
    return Verdict(text[0], any(line[0] == text[0] for line in right))


def _trimmed(said: str) -> str:
    for mark in ",.!?;:'":
        said = said.strip(mark)
    return f" {said} "


def _last_places(said: str, letters: str, forms: Sequence[str]) -> list[tuple[int, str]]:
    """Return (last place, letter) of every form of a letter that occurs."""
    places = [(said.rfind(form.format(choice)), choice) for form in forms for choice in letters]
    return [hit for hit in places if hit[0] >= 0]


def _texts(said: str, texts: Sequence[str]) -> list[tuple[int, str]]:
    """Return (last place, letter) of every text in a reply of more than five words."""
    if len(said.split()) <= 5:
        return []
    places = [(said.lower().rfind(text.lower()), chr(ord("A") + index)) for index, text in enumerate(texts)]
    return [hit for hit in places if hit[0] >= 0]
