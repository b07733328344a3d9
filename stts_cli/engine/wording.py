"""One answer while it is decoded: which token comes next, what of it is text, and where it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from stts_cli.engine import generate
from stts_cli.engine.results import Said
from stts_cli.engine.stream import TextStream, cut
from stts_cli.engine.thinking import Thoughts
from stts_cli.settings import Answering


class Wording:
    """Chooses the tokens of an answer, and makes its text.

    Args:
        tokenizer: of the model.
        how: it is worded.
        seed: of tokens that are drawn.
        asked: the last tokens of the prompt, which tell whether the model begins to think.
        on_text: called with each piece of the text as it comes.

    Attributes:
        choose: returns the next token of logits (vocabulary,).
    """

    def __init__(
        self,
        tokenizer: Any,
        how: Answering,
        seed: int,
        asked: Sequence[int],
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        self.tokenizer, self.stop, self.asked = tokenizer, how.stop, list(asked)
        self.choose: Callable[[torch.Tensor], int] = generate.likeliest
        if how.temperature:
            self.choose = generate.Sampler(how.temperature, how.top_p, seed)
        self._stream = TextStream(tokenizer, on_text, how.stop)
        self._thoughts = Thoughts(tokenizer, self.asked) if on_text or how.stop else None

    def on_token(self, token: int) -> bool:
        """Take the next token; return whether the answer ends with it."""
        return self._thoughts is not None and self._thoughts(token) and self._stream(token)

    def said(self, found: generate.Generation) -> Said:
        """Return what was said, without thoughts and the text that ended it."""
        answer = [*filter(Thoughts(self.tokenizer, self.asked), found.token_ids)]
        text = cut(self.tokenizer.decode(answer, skip_special_tokens=True), self.stop).strip()
        self._stream.end(text)
        return Said(text, found.finished, found.num_decoded, found.prefill_s, found.decode_s)
