"""A person's words in a prompt: what looks like a special token in them is tokenized as the characters it is made of.

A question may ask about "<video>" or hold another model's "<|im_end|>". Chat templates paste words into one text, where
they would look like the template's own tokens; so they are marked before (`quote`) and the mark is undone
when the text becomes tokens (`tokenize`). Texts without such words are tokenized as the tokenizer alone would.
"""

from __future__ import annotations

import re
from typing import Any

from stts_cli.errors import InputError

_MARK = "\ufdd0"  # a noncharacter of Unicode, which no text may hold


def quote(tokenizer: Any, text: str, name: str, *others: str) -> str:
    """Mark what looks like a special token in a person's words, so that a template can hold them.

    Args:
        tokenizer: the checkpoint's.
        text: the words; unchanged where they hold nothing of the kind.
        name: what they are, for the message.
        *others: further strings to mark, such as a template's placeholder that is no token.

    Raises:
        InputError: they hold the mark itself.
    """
    if _MARK in text:
        raise InputError(f"{name}: holds U+FDD0, which is not a character. Leave it out.")
    return _pattern(tokenizer, *others).sub(lambda found: found[0][0] + _MARK + found[0][1:], text)


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a template's text, nothing added, `quote`d words as characters."""
    if _MARK not in text:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
    found = []
    for number, part in enumerate(re.split(f"({_pattern(tokenizer).pattern})", text)):
        if number % 2:
            found.append(tokenizer.convert_tokens_to_ids(part))
        elif part:
            plain = part.replace(_MARK, "")
            found += tokenizer(plain, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return found


def _pattern(tokenizer: Any, *others: str) -> re.Pattern[str]:
    """Match any special token, the longest first."""
    tokens = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} | set(others)
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or "(?!)")
