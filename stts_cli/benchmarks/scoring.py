"""From what a model said to right or wrong: one strict rule, and the rules other evaluators use.

Evaluators differ more in how they read a reply than pruning differs from dense, so the rule is a setting of the run.
`strict` never guesses: a reply that names no option, or two, is wrong and counted as unparsed. The `molmo2` rules are
those of the paper's base model's evaluation, known weaknesses included (arXiv 2603.18004, experimental setup); where
they guess, the guess is drawn from a generator seeded by the question. Standard library only.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from stts_cli.benchmarks.items import QaItem


@dataclass(frozen=True)
class Verdict:
    """What a rule made of a reply.

    Attributes:
        parsed: the answer it read, or None.
        correct: whether that is right.
        counted: False where the rule leaves an unread reply out of the denominator.
    """

    parsed: str | None
    correct: bool
    counted: bool = True


Scorer = Callable[[str, QaItem, random.Random], Verdict]
_STOCK_PHRASES = re.compile(
    r"the (?:best|correct) (?:answer|option) is:?|the answer is:?|the answer|best (?:answer|option):?", re.IGNORECASE
)
_CUE = r"(?:answer|option|choice)\b[^A-Za-z0-9(]*(?:is|would be|:)?\s*[:\-]?\s*"


def strict(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Read the one option a reply names, in any usual form; anything else is unparsed and wrong.

    Forms, strongest first: the letter alone; at the start with punctuation; after "answer is"; "(B)" anywhere; an
    option's whole text; the only letter, at the end. Two letters in the same form name nothing.
    """
    return _verdict(_read_letter(text, item), item)


def exact(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Compare whole texts, outer spaces aside: for open questions with one wording of the answer."""
    said = text.strip()
    return Verdict(said or None, said in item.right)


def starts_with(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Molmo2's `em_start`: the reply, lower-cased, starts with the right letter ("A man ..." counts as A)."""
    said = clean(text).lower()
    right = [gold for gold in item.right if said.startswith(gold.lower())]
    first = said[:1].upper()
    return Verdict(right[0] if right else first if first in item.letters and first else None, bool(right))


def first_letter(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Molmo2's rule for Perception Test: the first A, B, C or D that stands alone."""
    found = re.search(r"\b[A-D]\b", clean(text))
    return _verdict(found[0] if found else None, item)


def first_of_several(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Molmo2's rule for EgoSchema: letters in brackets, spaced or dotted; of several the earliest; none is a guess."""
    hits, padded = _marked_letters(clean(text), item)
    choice = min(hits, key=hits.__getitem__) if hits else _by_text(padded, item) or rng.choice(item.letters)
    return _verdict(choice, item)


def last_of_several(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Molmo2's rule for NExT-QA: the same forms, of several the last; none is a guess."""
    hits, padded = _marked_letters(clean(text), item)
    choice = max(hits, key=hits.__getitem__) if hits else _by_text(padded, item) or rng.choice(item.letters)
    return _verdict(choice, item)


def after_phrases(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Video-MME's own rule: drop stock phrases, take the first of A-D; an unread reply is left out of the count."""
    choice = _after_phrases(text, "ABCD")
    return _verdict(choice, item, counted=choice is not None)


def after_phrases_or_guess(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """LongVideoBench's own rule: drop stock phrases, take the first of A-E; an unread reply is a guess."""
    return _verdict(_after_phrases(text, "ABCDE") or rng.choice(item.letters), item)


def nearest_letter(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """Molmo2's rule for TOMATO: equal, else begins with, else contains, else the fewest edits away."""
    said = text.strip()
    for fits in (str.__eq__, str.startswith, str.__contains__):
        for choice in item.letters:
            if fits(said, choice):
                return _verdict(choice, item)
    return _verdict(min(item.letters, key=lambda choice: _edits(said, choice)), item)


def first_word(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """MVBench's own rule: the first word of the first line is a part of "(B)", or holds it ("(" alone fits any letter).

    There the model's turn is begun with "(", and a reply of nothing counts as right; here it is unread.
    """
    word = (text.strip().splitlines() or [""])[0].lower().split(" ")[0]
    bare_word = word.replace(".", "")
    fits = [c for c in item.letters if (bare_word and bare_word in f"({c.lower()})") or f"({c.lower()})" in word]
    choice = next((choice for choice in fits if choice in item.right), fits[0] if fits else None)
    return _verdict(choice, item)


def before_bracket(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """MLVU's own rule: what stands before the first ")" is the letter, and nothing else ("(" is given to the model)."""
    said = text.strip().removeprefix("(").split(")", 1)[0]
    return _verdict(said if said and said in item.letters else None, item)


def yes_or_no(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """TempCompass' rule for yes/no: what the reply starts with ("none" counts as no)."""
    said = text.strip().lower()
    parsed = "yes" if said.startswith("yes") else "no" if said.startswith("no") else None
    return Verdict(parsed, parsed is not None and parsed in item.right)


def option_line(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """TempCompass' rule for multiple choice: the whole option line, the bare letter, or a start of "A." or "A)"."""
    said = text.strip()
    for choice, option in zip(item.letters, item.options, strict=True):
        if said in (f"{choice}. {option}", choice) or said.startswith((f"{choice}.", f"{choice})")):
            return _verdict(choice, item)
    return _verdict(None, item)


def caption_line(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """TempCompass' rule for caption matching: the option "Caption B: text", its text, its label, or the bare "B"."""
    said = text.strip().rstrip(".").strip()
    for choice, option in zip(item.letters, item.options, strict=True):
        label, _, caption = option.partition(": ")
        forms = (option, caption, label, label.split()[-1], f"{label}:")
        if said in {form.strip().rstrip(".").strip() for form in forms}:
            return _verdict(choice, item)
    return _verdict(None, item)


def clean(text: str) -> str:
    """Molmo2's cleaning: what follows "Answer:", else the most frequent of several lines; single spaces."""
    text = text.strip()
    if "Answer:" in text:
        text = text.split("Answer:", 1)[1].strip()
    elif "\n" in text:
        text = Counter(line.strip() for line in text.splitlines()).most_common(1)[0][0]
    return " ".join(text.split())


def _verdict(choice: str | None, item: QaItem, counted: bool = True) -> Verdict:
    return Verdict(choice, choice is not None and choice in item.right, counted)


def _read_letter(text: str, item: QaItem) -> str | None:
    said, letters = " ".join(text.split()), item.letters
    if not said or not letters:
        return None
    if re.fullmatch(r"\(?[A-Za-z]\)?[.:]?", said):
        name = said.strip("().:").upper()
        return name if name in letters else None
    any_of = f"[{letters}]"
    forms = (
        rf"^(?:\(({any_of})\)|({any_of})[.:)])(?=\s|$)(?!\s(?:or|and)\s)",
        rf"(?i:{_CUE})(?:\(({any_of})\)|({any_of})(?![\w']))",
        rf"\(({any_of})\)()",
    )
    for form in forms:
        named = {one or other for one, other in re.findall(form, said)}
        if named:
            return named.pop() if len(named) == 1 else None
    by_text = [choice for choice, option in zip(letters, item.options, strict=True) if _plain(option) == _plain(said)]
    if by_text:
        return by_text[0]  # the same text twice: either letter is right
    last = re.search(rf"\s({any_of})[.)]?$", said)
    return last[1] if last and len(set(re.findall(rf"\b{any_of}\b", said))) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


def _marked_letters(said: str, item: QaItem) -> tuple[dict[str, int], str]:
    """Return the letters in the first form that has any, with where each was last seen."""
    padded = f" {said.strip(' ,.!?;:')} " if said else " "
    for form in ("({})", " {} ", "{}."):
        hits = {choice: padded.rfind(form.format(choice)) for choice in item.letters if form.format(choice) in padded}
        if hits:
            return hits, padded
    return {}, padded


def _by_text(padded: str, item: QaItem) -> str | None:
    if len(padded.split()) <= 5:
        return None
    for choice, option in zip(item.letters, item.options, strict=True):
        if option.lower() in padded.lower():
            return choice
    return None


def _after_phrases(text: str, letters: str) -> str | None:
    said = _STOCK_PHRASES.sub("", text.strip())
    found = re.search(f"[{letters}]", said)
    return found[0] if found else None


def _edits(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        previous, row[0] = row[0], i
        for j, right in enumerate(other, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]
