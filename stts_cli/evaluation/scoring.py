"""From what a model said to right or wrong: the program's own two rules; those of other evaluators are in `published`.

Evaluators differ more in how they read a reply than pruning differs from dense, so the rule is a setting of the run.
Neither rule here guesses: a reply that names no option, or two, is wrong and counted as unparsed. Standard library
only.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from stts_cli.data.items import QaItem


@dataclass(frozen=True)
class Verdict:
    """What a rule made of a reply."""

    parsed: str | None  # the answer it read; None where it read none, also where it then guesses
    correct: bool
    counted: bool = True  # False where the rule leaves an unread reply out of the denominator


Scorer = Callable[[str, QaItem, random.Random], Verdict]


def strict(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """With options: the one option that the reply names (`read_option`). Else: the exact text, outer spaces aside."""
    if not item.options:
        said = _without_thoughts(text).strip()
        return Verdict(said or None, said in item.right)
    index = read_option(text, item.options, item.letters)
    choice = None if index is None else item.letters[index]
    return Verdict(choice, choice in item.right)


def relaxed(text: str, item: QaItem, rng: random.Random) -> Verdict:
    """With options: as `strict`. Else: equal to an accepted text once both are brought to `plain_answer`."""
    if item.options:
        return strict(text, item, rng)
    said = plain_answer(_without_thoughts(text))
    return Verdict(said or None, bool(said) and said in {plain_answer(right) for right in item.right})


def rules(**others: Scorer) -> dict[str, Scorer]:
    """Return the rules of a benchmark: `strict` and `relaxed`, with what is given beside or instead of them."""
    return {"strict": strict, "relaxed": relaxed, **others}


_NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty""".split()


def plain_answer(text: str) -> str:
    """Bring the text of an open answer to the form in which `relaxed` compares.

    In order: Unicode NFKC; lower case; commas between the digits of thousands removed; every mark of punctuation made a
    space, but for "%", for a point, colon or slash between digits, a minus before a number, and apostrophes, which are
    removed; "zero" to "twenty" written as digits; "a", "an" and "the" left out, unless nothing else is there; single
    spaces. Nothing is left of a text that holds nothing but punctuation.
    """
    said = unicodedata.normalize("NFKC", text).casefold()
    said = re.sub(r"['\u2018\u2019]", "", re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", said))
    kept = re.compile(r"%|(?<=\d)[.:/](?=\d)|(?<!\w)-(?=\d)")
    drops = (unicodedata.category(mark)[0] == "P" and not kept.match(said, at) for at, mark in enumerate(said))
    said = "".join(" " if drop else mark for mark, drop in zip(said, drops, strict=True))
    words = [str(_NUMBERS.index(word)) if word in _NUMBERS else word for word in said.split()]
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


# How an option is named. Every step below returns a set of options: none, so that the next step is tried; one, which
# is read; or several, so that nothing is.

_OWN_LABEL = re.compile(r"(?:(\w+) )?\(?([A-Za-z]|\d{1,2})[.):]\s+(\S.*)", re.DOTALL)
_WORDS = ("option", "choice", "letter", "answer", "choose", "pick", "select", "go with")
_KIND = r"\b(?:answer|option|choice)(?: letter)?[\"']?\s*"
_FINAL = tuple(  # strongest first; the last group is the answer
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"\\boxed\s*\{([^{}]*)\}",
        r"<answer>(.*?)</answer>",
        r"final answer\s*(?:is)?\s*:?\s*(?=([^\n]+))",
        rf"{_KIND}(?:[:=]|\n)\s*(?=([^\n]+))",
    )
)
_STATED = re.compile(rf"{_KIND}(?:is|(?:would|must|should) be)\b:?\s*(?=([^\n]+))", re.IGNORECASE)
_BOLD = re.compile(r"\*\*(.+?)\*\*|__(.+?)__")
_DENIED_BEFORE = re.compile(r"(?:\b(?:not|nor|neither|than|except|cannot)|n't)\s+(?:be\s+)?[(\[]?$", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"[)\]]?\s+(?:(?:is|are|was|does|can|could|would)(?:n't|\s+not)|(?:is|are|was)\s+(?:wrong|incorrect|false)|cannot)\b",
    re.IGNORECASE,
)
_REASON = r"(?=\s+(?:because|since|as|due to|for)\b)"


@dataclass(frozen=True)
class _Options:
    """The options of a question, and what names each."""

    names: dict[str, set[int]]  # by label in capitals: "B", "2"
    texts: dict[str, set[int]]  # by plain text
    label: str  # pattern of a label, in capitals
    words: str  # pattern of a word that may stand before a label

    @classmethod
    def of(cls, options: Sequence[str], letters: str) -> _Options:
        """Gather the letters shown, the labels the options bring themselves, and the texts."""
        names: dict[str, set[int]] = {letter: {index} for index, letter in enumerate(letters)}
        texts: dict[str, set[int]] = {}
        own = [_OWN_LABEL.fullmatch(option.strip()) for option in options]
        labels = [match[2].upper() for match in own if match]
        words = set(_WORDS)
        for option in options:  # one text twice counts as one option
            texts.setdefault(_plain(option), set()).add(options.index(option))
        if len(set(labels)) == len(options):
            for index, match in enumerate(own):
                assert match
                names.setdefault(match[2].upper(), set()).add(index)
                texts.setdefault(_plain(match[3]), set()).add(index)
                if match[1]:
                    words.add(match[1])
        texts.pop("", None)
        return cls(names, texts, f"(?:{'|'.join(names) or '(?!)'})", "|".join(words))


def read_option(reply: str, options: Sequence[str], letters: str) -> int | None:
    r"""Return the index of the one option that a reply names, or None; `letters` has one for each option, or is "".

    The reply is first freed of thoughts (`<think>...</think>`, also one that never ends), and written in Unicode NFKC,
    so that a full-width letter in full-width brackets is "(B)". Then the first of these steps that finds something
    decides; if it finds two options, or an option that does not exist, the reply is unparsed.

    1. All of the reply is one option: its letter in either case, with or without brackets and punctuation; the label
       that its own text begins with ("1.", "Caption B:"); its text; its letter and its text. A letter that is also
       another option's text, and a letter with another option's text, name two.
    2. A final answer is marked: `\boxed{B}`, else `<answer>B</answer>`, else "Final answer: B", else "Answer: B".
    3. An answer is stated: "The best option is B", "B is correct".
    4. One option, letter or text, is in bold: `**B**`.
    5. The reply begins with a label and goes on with punctuation or a reason: "B. It is red", "(B) ...", "Option B",
       "B because ...". "A man ..." names nothing, "A or B" and a list of the options name several.
    6. Labels in brackets, or behind "option" or "choose": "I think it is (B)".
    7. The only letter in the reply, at its end: "So it must be B".
    8. The first clause is an option's text ("No, he does not"), or the text of one option only is somewhere in the
       reply. Texts of fewer than three letters are not searched for, nor any of the others then.

    What was marked or stated is read by the steps 1 and 5 to 8. From step 3 on, what is denied ("not B", "(B) is
    wrong") is not named.
    """
    known = _Options.of(options, letters)
    said = unicodedata.normalize("NFKC", _without_thoughts(reply)).replace("\u2019", "'")
    said = re.sub(r"\\(?:text|math)\w*\s*\{([^{}]*)\}", r"\1", said)
    said = re.sub(r"\$([^$\n]+)\$", r"\1", said)
    bare = said.replace("*", "").replace("`", "").strip()
    found = _whole(bare, known)
    finals = ([match[1] for match in pattern.finditer(bare)] for pattern in _FINAL)
    if not found and (phrases := next(filter(None, finals), None) or [*_stated(bare, known)]):
        found = set().union(*(_named(phrase, known) for phrase in phrases))
    elif not found:
        bold = (match for match in _BOLD.finditer(said) if not _DENIED_BEFORE.search(said[: match.start()]))
        found = set().union(*(_whole(match[match.lastindex or 0], known) for match in bold)) or _named(bare, known)
    return found.pop() if len(found) == 1 else None


def _stated(said: str, known: _Options) -> Iterable[str]:
    """Yield what is stated to be the answer."""
    yield from (match[1] for match in _STATED.finditer(said))
    several = rf"(?<![\w'])\(?{known.label}\)?(?:\s*(?:,|or|and)\s*\(?{known.label}\)?)*"
    for match in re.finditer(rf"{several}(?=\s+is\s+(?:the\s+)?(?:correct|right|best|answer)\b)", said):
        if not _DENIED_BEFORE.search(said[: match.start()]):
            yield match[0]


def _named(phrase: str, known: _Options) -> set[int]:
    """Read a phrase by the steps 1 and 5 to 8 of `read_option`."""
    phrase = re.sub(r"^(?:[#>\u2022-]+\s+)+", "", phrase.strip())
    if found := _whole(phrase, known):
        return found
    article = r"(?!(?<=[AIai])\s+[a-z])"
    behind_word = rf"(?i:\b(?:{known.words}))\s+\(?(?P<label>(?i:{known.label}))\)?(?![\w']){article}"
    phrase = re.sub(behind_word, lambda match: f"({match['label'].upper()})", phrase)
    for step in (_whole, _at_start, _in_brackets, _at_end, _first_clause, _inside):
        if found := step(phrase, known):
            return found
    return set()


def _whole(phrase: str, known: _Options) -> set[int]:
    """The phrase is an option's label, its text, or both."""
    core = _plain(phrase)
    found = known.names.get(core.upper(), set()) | known.texts.get(core, set())
    both = re.fullmatch(rf"[(\[]?((?i:{known.label}))[)\].:,]*\s+(.+)", phrase.strip(), re.DOTALL)
    if both and (by_text := known.texts.get(_plain(both[2]))):
        by_label = known.names[both[1].upper()]
        found = found | (by_label & by_text or by_label | by_text)
    return found


def _at_start(phrase: str, known: _Options) -> set[int]:
    label = known.label
    joined = rf"\s*(?:(?:[,/&+]|;(?=\s*{label}\W*$)|or\b|and\b)\s*)+\(?(?={label}(?![\w']))"
    forms = (
        rf"[(\[]((?i:{label}))[)\]]",
        rf"((?i:{label}))[.):](?=\s|$)",
        rf"({label})(?:(?=[,;]\s)|[ \t]*\n|\s+[-\u2013\u2014]|{_REASON}|(?={joined}))",
    )
    start = next(filter(None, (re.match(form, phrase) for form in forms)), None)
    if not start or _DENIED_AFTER.match(phrase, start.end()):
        return set()
    rest = phrase[start.end() :]
    listed = re.finditer(rf"(?<![\w'])[(\[]?({label})[)\].:](?=\s|$)", rest)
    found = known.names[start[1].upper()].union(*(known.names[each] for each in _kept(listed, rest)))
    if other := re.match(rf"{joined}({label})", rest):
        found = found | known.names[other[1]]
    return found | known.texts.get(_plain(re.split(r"\n|[.;!?](?=\s|$)", rest)[0]), set())


def _in_brackets(phrase: str, known: _Options) -> set[int]:
    found = re.finditer(rf"[(\[]({known.label})[)\]]", phrase)
    return set().union(*(known.names[each] for each in _kept(found, phrase)))


def _at_end(phrase: str, known: _Options) -> set[int]:
    letters = f"[{''.join(name for name in known.names if name in ascii_uppercase) or '-'}]"
    alone = re.finditer(rf"(?<![\w'])({letters})(?![\w'])(?!(?<=[AI])\s+(?!and\b|or\b|is\b)[a-z])", phrase)
    found = set(_kept(alone, phrase))
    if len(found) == 1 and not re.search(rf"{next(iter(found))}[.)!]*$", phrase):
        return set()
    return set().union(*(known.names[each] for each in found))


def _first_clause(phrase: str, known: _Options) -> set[int]:
    clause, *rest = re.split(r"[,.;:!?\n]", phrase, maxsplit=1)
    by_text = known.texts.get(_plain(clause), set())
    return by_text and by_text | _inside("".join(rest), known)


def _inside(phrase: str, known: _Options) -> set[int]:
    if any(len(text) < 3 and not text.isdigit() for text in known.texts):
        return set()
    said = " ".join(phrase.casefold().split())
    hits: list[re.Match[str]] = []
    for text in known.texts:
        hits += re.finditer(rf"(?<!\w)(?<!\d[.,])({re.escape(text)})(?!\w|'\w|[.,]\d)", said)

    def is_part(hit: re.Match[str]) -> bool:
        return any(other.start() <= hit.start() and hit.end() <= other.end() for other in hits if other is not hit)

    return set().union(*(known.texts[each] for each in _kept((hit for hit in hits if not is_part(hit)), said)))


def _kept(found: Iterable[re.Match[str]], said: str) -> list[str]:
    """Return what was found, without what is denied."""
    return [
        match[1]
        for match in found
        if not _DENIED_BEFORE.search(said[: match.start()]) and not _DENIED_AFTER.match(said, match.end())
    ]


def _without_thoughts(reply: str) -> str:
    """Drop `<think>...</think>`; where only the end is there, the template began the thoughts for the model."""
    said = re.sub(r"<(think(?:ing)?)>.*?(?:</\1>|\Z)", " ", reply, flags=re.DOTALL | re.IGNORECASE)
    return re.split(r"</think(?:ing)?>", said, flags=re.IGNORECASE)[-1]


def _plain(text: str) -> str:
    """Return a text in lower case, single spaces, and without punctuation around it."""
    said = unicodedata.normalize("NFKC", text).replace("\u2019", "'").casefold()
    return " ".join(said.split()).strip(" .,;:!?\"'()[]{}\u201c\u201d")
