"""Let the language model speak: prefill, decode, and score given options.

In: a stock transformers model, token ids with one placeholder a visual token, and the visual tokens. Out: text ids or
log-likelihoods, with times. The visual tokens enter through `mm_encoder_outputs`, so nothing in the model is patched.

The scorer reads no text (arXiv 2603.18004, method), so a video is encoded once, and the language model's keys and
values of the part before the question are kept and used again for every question. That is exact: video tokens attend
to each other in both directions, but all of them lie in that part, and text after it is causal.

Decoding is greedy. This module does not know how a prompt is worded or how tokens were chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from stts_cli.pruning.stopwatch import clock


@dataclass
class VideoPrefix:
    """The language model's state after the video, ready for any question.

    Attributes:
        cache: keys and values of the first `num_tokens` tokens.
        input_ids: (1, num_tokens), what the cache holds.
        num_tokens: length of the part before the question.
        seconds: time its prefill took.
    """

    cache: DynamicCache
    input_ids: torch.Tensor
    num_tokens: int
    seconds: float


@dataclass(frozen=True)
class Generation:
    """A decoded answer.

    Attributes:
        token_ids: the new tokens, without the end token.
        finished: False when the answer was cut at `max_new_tokens`.
        num_decoded: decoding steps taken, the end token's included.
        prefill_s: seconds from the question's tokens to the first new token.
        decode_s: seconds for all further tokens.
    """

    token_ids: list[int]
    finished: bool
    num_decoded: int
    prefill_s: float
    decode_s: float


@dataclass(frozen=True)
class OptionScores:
    """How likely each option is as the whole answer.

    Attributes:
        log_likelihoods: one natural logarithm an option, <= 0: the sum over its tokens and the end token.
        num_tokens: tokens of each option, the end token's included.
        prefill_s: seconds from the question's tokens to the first logits.
        scoring_s: seconds for all the options.
    """

    log_likelihoods: list[float]
    num_tokens: list[int]
    prefill_s: float
    scoring_s: float


@torch.inference_mode()
def prefill_video(
    model: Any, input_ids: torch.Tensor, mm_token_type_ids: torch.Tensor, visual_tokens: torch.Tensor
) -> VideoPrefix:
    """Run the language model over the part of the prompt before the question.

    Args:
        model: a transformers model that takes `mm_encoder_outputs`.
        input_ids: (1, L) long, ending where the question's text starts; as many placeholders as visual tokens.
        mm_token_type_ids: (1, L) long, 1 at the video's tokens.
        visual_tokens: (V, D), the connector's output for the kept windows.

    Returns:
        The prefix for `answer` and `score_options`.
    """
    started = clock(model.device)
    cache = DynamicCache(config=model.config)
    model(
        input_ids=input_ids,
        mm_token_type_ids=mm_token_type_ids,
        mm_encoder_outputs={"video": BaseModelOutputWithPooling(pooler_output=(visual_tokens,))},
        cache=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return VideoPrefix(cache, input_ids, input_ids.shape[1], clock(model.device) - started)


@torch.inference_mode()
def answer(
    model: Any, prefix: VideoPrefix, question_ids: torch.Tensor, *, max_new_tokens: int, eos_token_ids: list[int]
) -> Generation:
    """Decode an answer greedily behind a video prefix, which is left as it was.

    Args:
        model: the model the prefix was made with.
        prefix: the video's part.
        question_ids: (1, Q) long, everything after the prefix.
        max_new_tokens: the most tokens to decode, >= 1.
        eos_token_ids: ids that end an answer.

    Returns:
        The answer's tokens and times.
    """
    started = clock(model.device)
    token = int(_forward(model, prefix, question_ids)[-1].argmax())
    first = clock(model.device)
    token_ids: list[int] = []
    num_decoded = 1
    while token not in eos_token_ids:
        token_ids.append(token)
        if len(token_ids) == max_new_tokens:
            break
        token = int(_forward(model, prefix, torch.tensor([[token]], device=question_ids.device))[-1].argmax())
        num_decoded += 1
    ended = clock(model.device)
    _rewind(prefix)
    return Generation(token_ids, token in eos_token_ids, num_decoded, first - started, ended - first)


@torch.inference_mode()
def score_options(
    model: Any,
    prefix: VideoPrefix,
    question_ids: torch.Tensor,
    options: list[list[int]],
    *,
    eos_token_ids: list[int],
) -> OptionScores:
    """Score given options by the likelihood that the model would answer exactly so.

    The sum of log-probabilities over an option's tokens and the end of the answer: a probability, so that the scores of
    different options compare as they are, and "no" is not favoured for being the start of "no one". It is not divided
    by the length.

    Args:
        model: the model the prefix was made with.
        prefix: the video's part; left as it was.
        question_ids: (1, Q) long, everything after the prefix.
        options: token ids of each option, at least one token each.
        eos_token_ids: ids that end an answer; their probabilities are added up.

    Returns:
        One log-likelihood an option, in the order given, and times.
    """
    started = clock(model.device)
    first_logits = _forward(model, prefix, question_ids)[-1:]
    first = clock(model.device)
    scores = []
    for option in options:
        ids = torch.tensor([option], device=question_ids.device)
        logits = torch.cat([first_logits, _forward(model, prefix, ids, all_logits=True)])
        log_probs = logits.float().log_softmax(-1)
        spoken = log_probs[:-1].gather(1, ids[0][:, None]).sum()
        scores.append(float(spoken + log_probs[-1, eos_token_ids].logsumexp(0)))
        _rewind(prefix, keep=question_ids.shape[1])
    ended = clock(model.device)
    _rewind(prefix)
    return OptionScores(scores, [len(option) + 1 for option in options], first - started, ended - first)


def _forward(model: Any, prefix: VideoPrefix, ids: torch.Tensor, *, all_logits: bool = False) -> torch.Tensor:
    """Append tokens to the prefix's cache and return logits (tokens or 1, vocabulary)."""
    output = model(input_ids=ids, cache=prefix.cache, use_cache=True, logits_to_keep=0 if all_logits else 1)
    return output.logits[0]


def _rewind(prefix: VideoPrefix, keep: int = 0) -> None:
    """Cut the cache back to the prefix and `keep` tokens behind it."""
    surplus = prefix.cache.get_seq_length() - prefix.num_tokens - keep
    if surplus:
        prefix.cache.crop(-surplus)
