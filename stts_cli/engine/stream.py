"""An answer's text as it comes, token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class TextStream:
    """Turns tokens into pieces of text; to be called with each token, and ended with the whole text.

    A piece is passed on once no later token can change it: a letter of several bytes waits for its last one, blanks
    wait for what follows, since those around an answer are taken off.

    Args:
        tokenizer: of the model.
        on_text: called with each piece; together they are the text.
    """

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        self.tokenizer, self.on_text = tokenizer, on_text
        self._tokens: list[int] = []
        self._given = ""

    def __call__(self, token: int) -> None:
        """Take the next token."""
        self._tokens.append(token)
        self._give(self.tokenizer.decode(self._tokens, skip_special_tokens=True).rstrip("\ufffd").strip())

    def end(self, text: str) -> None:
        """Pass on what is missing of the whole text, or all of it on a new line where it does not go on so."""
        if not text.startswith(self._given):
            self.on_text("\n" + text)
        else:
            self._give(text)

    def _give(self, text: str) -> None:
        if text.startswith(self._given) and len(text) > len(self._given):
            self.on_text(text[len(self._given) :])
            self._given = text
