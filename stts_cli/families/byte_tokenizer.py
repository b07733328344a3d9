"""A tokenizer without a file, a token a byte: for models with random weights, and for those that are trained here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BASE_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_tokenizer(vocab_size: int, added: Sequence[str], *, bos: str | None = None, eos: str = "<|im_end|>") -> Any:
    """Make a tokenizer: a token a byte, then `BASE_TOKENS`, and the `added` tokens from `vocab_size` on.

    Timestamps come out as long as under Qwen's tokenizer, which also splits numbers into digits.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *BASE_TOKENS]
    words += [f"<unused {k}>" for k in range(len(words), vocab_size)]
    tokenizer = Tokenizer(models.BPE({word: k for k, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (*BASE_TOKENS, *added)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token="<|im_end|>")
