"""What of a model's tokens is its answer: not what it thinks before, nor the marks around a boxed answer."""

from __future__ import annotations

from typing import Any

_BEGIN, _END = "<think>", "</think>"
_MARKS = ("<|begin_of_box|>", "<|end_of_box|>", "<answer>", "</answer>")


class Thoughts:
    """Tells which tokens belong to an answer; to be called with each token in turn.

    Args:
        tokenizer: of the model. What it has no token of its own for is text like any other.
        prompt: the last tokens of the prompt, which may have begun the thinking already.
    """

    def __init__(self, tokenizer: Any, prompt: list[int]) -> None:
        ids = {text: tokenizer.convert_tokens_to_ids(text) for text in (_BEGIN, _END, *_MARKS)}
        known = {text: number for text, number in ids.items() if number not in (None, tokenizer.unk_token_id)}
        self._begin, self._end = known.get(_BEGIN), known.get(_END)
        self._marks = {known[text] for text in _MARKS if text in known}
        self._is_thinking = tokenizer.decode(prompt[-4:]).rstrip().endswith(_BEGIN)

    def __call__(self, token: int) -> bool:
        """Take the next token; return whether it is of the answer."""
        if token in (self._begin, self._end):
            self._is_thinking = token == self._begin
            return False
        return not self._is_thinking and token not in self._marks
