"""An answer's text as it comes, token by token, up to a text that ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def cut(text: str, stop: Sequence[str]) -> str:
    """Return a text up to the first place where one of `stop` begins."""
    return text[: min((at for word in stop if (at := text.find(word)) >= 0), default=len(text))]


class TextStream:
    """Turns tokens into pieces of text; to be called with each token, and ended with the whole text.

    A piece is passed on once no later token can change it: a letter of several bytes waits for its last one, blanks
    wait for what follows, since those around an answer are taken off, and so does what may be the start of a text
    that ends the answer.

    Args:
        tokenizer: of the model.
        on_text: called with each piece; together they are the text. None for nothing.
        stop: texts that end the answer and are no part of it.
    """

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None] | None = None, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.on_text, self.stop = tokenizer, on_text or (lambda _: None), stop
        self._tokens: list[int] = []
        self._given = ""

    def __call__(self, token: int) -> bool:
        """Take the next token; return whether the answer ends with it."""
        self._tokens.append(token)
        text = self.tokenizer.decode(self._tokens, skip_special_tokens=True).rstrip("\ufffd")
        answer = cut(text, self.stop)
        if len(answer) < len(text):
            return True
        starts = (word[:end] for word in self.stop for end in range(1, len(word)))
        self._give(text[: len(text) - max((len(start) for start in starts if text.endswith(start)), default=0)].strip())
        return False

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
