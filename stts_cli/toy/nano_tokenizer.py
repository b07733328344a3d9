"""The embedded model's tokenizer: byte-level BPE over the procedural world's words, in Hugging Face format.

Words of the world are one token; anything else falls back to bytes, so that no text breaks it. Special tokens carry
Molmo2's names. A timestamp such as " 12.5 " is two tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stts_cli.families.byte_tokenizer import BASE_TOKENS
from stts_cli.families.random_molmo2 import VISION_TOKENS
from stts_cli.toy.questions import EVENTS, MORE_WORDINGS, OPENINGS, PLACES, WORDINGS
from stts_cli.toy.world import COLORS, DIRECTIONS, SHAPES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{%- for message in messages -%}{%- if message['content'] is not string -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}<|image|>{%- elif part['type'] == 'video' -%}<|video|>{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endfor -%}"
    "{%- for message in messages -%}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
_WORD = r" ?\p{L}+\n?|\.\d | ?\p{N}+| ?[^\s\p{L}\p{N}]+\n?|\s+"


def corpus() -> list[str]:
    """Return the texts whose words become tokens: questions, answers, timestamps, chat roles."""
    pairs = [f"{c} {s}" for c in COLORS for s in SHAPES]
    names = [*pairs, *SHAPES, *(f"{c} object" for c in COLORS), *(f"a {p}" for p in pairs), *(f"an {p}" for p in pairs)]
    every = [*WORDINGS.values(), *MORE_WORDINGS.values()]
    texts = [wording.format(name) for wordings in every for wording in wordings for name in names]
    texts += [text[0].lower() + text[1:] for text in texts]
    texts += [*OPENINGS] * 50
    answers = [*COLORS, *SHAPES, *pairs, *DIRECTIONS, "nowhere", "yes", "no", *PLACES, *EVENTS.values()]
    numbers = [text for n in range(200) for d in range(10) for text in (f" {n}.{d} ", f"{n}.{d} ", f" {n}", f"{n}")]
    return [*texts, *answers * 50, *numbers, *["user\n", "assistant\n", "\n"] * 50]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on `corpus()`; the same result every time.

    Its last ids are the vision tokens, as in Molmo2, where the language-model head does not reach them.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(_WORD), behavior="isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, in_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), list(BASE_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=1, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in VISION_TOKENS])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=8192)
    fast.bos_token = fast.pad_token = "<|endoftext|>"
    fast.eos_token = "<|im_end|>"
    fast.chat_template = CHAT_TEMPLATE
    return fast
