"""Let the language model speak: prefill, decode, and score given options.

In: a family, token ids with one placeholder a visual token, and the visual tokens. Out: text ids or log-likelihoods,
with times. The stock model is called as the family says, so nothing in it is patched.

The scorer reads no text (arXiv 2603.18004, method), so a video is encoded once, and the language model's keys and
values of the part before the question are kept and used again for every question. That is exact: where video tokens
attend to each other in both directions, all of them lie in that part, and text after it is causal.

Decoding is greedy unless a `Sampler` is given. This module does not know how a prompt is worded or how visual tokens
were chosen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache

from stts_cli.families.base import Family, Prompt
from stts_cli.pruning.stopwatch import clock


@dataclass
class VideoPrefix:
    """The language model's state after the video, ready for any question.

    Attributes:
        cache: keys and values of the first `num_tokens` tokens.
        input_ids: (1, num_tokens), what the cache holds.
        num_tokens: length of the part before the question.
        seconds: time its prefill took.
        next_position: (..., 1, 1) of the token behind it; None where the model counts the tokens itself.
    """

    cache: DynamicCache
    input_ids: torch.Tensor
    num_tokens: int
    seconds: float
    next_position: torch.Tensor | None = None


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


def likeliest(logits: torch.Tensor) -> int:
    """Choose the next token greedily; logits are (vocabulary,)."""
    return int(logits.argmax())


class Sampler:
    """Draws next tokens by their probabilities, the same ones for the same seed.

    Args:
        temperature: that logits are divided by, greater than 0.
        top_p: draw among the fewest, likeliest tokens that have this probability together, in (0, 1].
        seed: of the draws.
    """

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self.temperature, self.top_p = temperature, top_p
        self._generator = torch.Generator().manual_seed(seed)  # on the CPU: the same on every device

    def __call__(self, logits: torch.Tensor) -> int:
        """Draw the next token; logits are (vocabulary,)."""
        logits = logits.double().cpu()
        shares, order = ((logits - logits.max()) / self.temperature).softmax(-1).sort(descending=True, stable=True)
        shares[shares.cumsum(0) - shares >= self.top_p] = 0.0
        return int(order[torch.multinomial(shares, 1, generator=self._generator)])


@torch.inference_mode()
def prefill_video(family: Family, prompt: Prompt, visual_tokens: torch.Tensor) -> VideoPrefix:
    """Run the language model over the part of the prompt before the question.

    Args:
        family: the model.
        prompt: with any question; as many placeholders as visual tokens.
        visual_tokens: (V, D), the connector's output for the kept windows.

    Returns:
        The prefix for `answer` and `score_options`.
    """
    device = family.device
    started = clock(device)
    cache = DynamicCache(config=family.model.config)
    ids, types = (x[:, : prompt.num_prefix].to(device) for x in (prompt.input_ids, prompt.mm_token_type_ids))
    inputs, following = {**family.language_inputs(ids, types, [visual_tokens])}, None
    if prompt.position_ids is not None:
        inputs["position_ids"] = prompt.position_ids[..., : prompt.num_prefix].to(device)
        following = inputs["position_ids"][..., -1:] + 1
    # without the output head, as nothing is asked yet; layers that need not read all tokens are told so
    family.model.model(**inputs, cache=cache, use_cache=True, logits_to_keep=1)
    return VideoPrefix(cache, ids, prompt.num_prefix, clock(device) - started, following)


@torch.inference_mode()
def answer(
    family: Family,
    prefix: VideoPrefix,
    question_ids: torch.Tensor,
    *,
    max_new_tokens: int,
    eos_token_ids: list[int],
    on_token: Callable[[int], bool] = lambda token: False,
    choose: Callable[[torch.Tensor], int] = likeliest,
) -> Generation:
    """Decode an answer behind a video prefix, which is left as it was.

    Args:
        family: the model that the prefix was made with.
        prefix: the video's part.
        question_ids: (1, Q) long, everything after the prefix.
        max_new_tokens: the most tokens to decode, >= 1.
        eos_token_ids: ids that end an answer.
        on_token: called with each new token; what it takes counts as decoding. True ends the answer.
        choose: returns the next token of logits (vocabulary,).

    Returns:
        The answer's tokens and times.
    """
    device = family.device
    started = clock(device)
    token_ids: list[int] = []
    num_decoded, is_over = 1, False
    with _append(family, prefix) as behind:
        token = choose(_forward(family, behind, question_ids)[-1])
        first = clock(device)
        while token not in eos_token_ids:
            token_ids.append(token)
            is_over = on_token(token)
            if is_over or len(token_ids) >= max_new_tokens:
                break
            token = choose(_forward(family, behind, torch.tensor([[token]], device=question_ids.device))[-1])
            num_decoded += 1
        ended = clock(device)
    return Generation(token_ids, is_over or token in eos_token_ids, num_decoded, first - started, ended - first)


@dataclass(frozen=True)
class Begun:
    """An answer whose prompt has been read.

    Attributes:
        prefix: what was read, the question too; its cache is the answer's own.
        logits: (vocabulary,) of the first token.
        prefill_s: seconds that the question's tokens took.
    """

    prefix: VideoPrefix
    logits: torch.Tensor
    prefill_s: float

    @property
    def next_position(self) -> torch.Tensor:
        """Position of the token behind it, int64 (..., 1, 1)."""
        length = self.prefix.cache.get_seq_length()
        if self.prefix.next_position is None:
            return torch.tensor([[length]], device=self.logits.device)
        found: torch.Tensor = self.prefix.next_position + length - self.prefix.num_tokens
        return found


@torch.inference_mode()
def begin(family: Family, prefix: VideoPrefix, question_ids: torch.Tensor) -> Begun:
    """Read a question, (1, Q) long, behind a video prefix, which is left as it was."""
    started = clock(family.device)
    own = replace(prefix, cache=copy.deepcopy(prefix.cache))
    logits = _forward(family, own, question_ids)[-1]
    return Begun(own, logits, clock(family.device) - started)


@torch.inference_mode()
def answer_together(
    family: Family,
    begun: Sequence[Begun],
    *,
    max_new_tokens: int,
    eos_token_ids: list[int],
    on_token: Sequence[Callable[[int], bool]],
    choose: Sequence[Callable[[torch.Tensor], int]],
) -> list[Generation]:
    """Decode several answers, a token of each in one pass; the shorter ones are padded at their left.

    Args:
        family: the model, one whose cache can be cropped: it holds every token's keys and values.
        begun: answers to go on with, of any videos; their caches are used up.
        max_new_tokens: the most tokens of each, >= 1.
        eos_token_ids: ids that end an answer.
        on_token: of each answer, as for `answer`.
        choose: of each answer, as for `answer`.

    Returns:
        What `answer` gives, one each; the time of a pass is shared evenly by the answers in it.
    """
    device = family.device
    cache, mask = _join([each.prefix.cache for each in begun], family)
    where = torch.cat([each.next_position for each in begun], -2)
    logits = torch.stack([each.logits for each in begun])
    ids: list[list[int]] = [[] for _ in begun]
    finished, num_decoded, decode_s = [False] * len(begun), [1] * len(begun), [0.0] * len(begun)
    rows = list(range(len(begun)))  # answers that go on
    while True:
        started, going = clock(device), []
        for place, row in enumerate(rows):
            token = choose[row](logits[place])
            finished[row] = token in eos_token_ids
            if not finished[row]:
                ids[row].append(token)
                finished[row] = on_token[row](token)
            if not finished[row] and len(ids[row]) < max_new_tokens:
                going.append(place)
        if not going:
            break
        if len(going) < len(rows):
            kept = torch.tensor(going, device=device)
            cache.batch_select_indices(kept)
            mask, where = mask[kept], where.index_select(-2, kept)
        rows = [rows[place] for place in going]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        tokens = torch.tensor([[ids[row][-1]] for row in rows], device=device)
        output = family.model(
            input_ids=tokens, attention_mask=mask, position_ids=where, cache=cache, use_cache=True, logits_to_keep=1
        )
        logits, where = output.logits[:, -1], where + 1
        for row in rows:
            num_decoded[row] += 1
            decode_s[row] += (clock(device) - started) / len(rows)
    parts = zip(ids, finished, num_decoded, [each.prefill_s for each in begun], decode_s, strict=True)
    return [Generation(*each) for each in parts]


def _join(caches: Sequence[DynamicCache], family: Family) -> tuple[DynamicCache, torch.Tensor]:
    """Return one cache of several rows, padded at their left, and which of its tokens count, int64 (B, L)."""
    lengths = [each.get_seq_length() for each in caches]
    most, joined = max(lengths), DynamicCache(config=family.model.config)
    for number in range(len(caches[0].layers)):
        layers = [each.layers[number] for each in caches]
        keys, values = (
            torch.cat([pad(getattr(e, name), (0, 0, most - n, 0)) for e, n in zip(layers, lengths, strict=True)])
            for name in ("keys", "values")
        )
        joined.update(keys, values, number)
    mask = torch.arange(most) >= most - torch.tensor(lengths)[:, None]
    return joined, mask.long().to(family.device)


@torch.inference_mode()
def extend(family: Family, prefix: VideoPrefix, ids: Sequence[int]) -> None:
    """Let a prefix hold more tokens, at least one; `num_tokens` stays that of the video's part, `input_ids` too."""
    _forward(family, prefix, torch.tensor([list(ids)], device=family.device))


@torch.inference_mode()
def score_options(
    family: Family,
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
        family: the model that the prefix was made with.
        prefix: the video's part; left as it was.
        question_ids: (1, Q) long, everything after the prefix.
        options: token ids of each option, at least one token each.
        eos_token_ids: ids that end an answer; their probabilities are added up.

    Returns:
        One log-likelihood an option, in the order given, and times.
    """
    device = family.device
    started = clock(device)
    scores = []
    with _append(family, prefix) as asked:
        first_logits = _forward(family, asked, question_ids)[-1:]
        first = clock(device)
        for option in options:
            ids = torch.tensor([option], device=question_ids.device)
            with _append(family, asked) as behind:
                logits = torch.cat([first_logits, _forward(family, behind, ids, all_logits=True)])
            log_probs = logits.float().log_softmax(-1)
            spoken = log_probs[:-1].gather(1, ids[0][:, None]).sum()
            scores.append(float(spoken + log_probs[-1, eos_token_ids].logsumexp(0)))
        ended = clock(device)
    return OptionScores(scores, [len(option) + 1 for option in options], first - started, ended - first)


@contextmanager
def _append(family: Family, prefix: VideoPrefix) -> Iterator[VideoPrefix]:
    """Yield a prefix whose cache tokens may be appended to; the one given is as before afterwards."""
    if family.cache_reuse == "copy":
        yield replace(prefix, cache=copy.deepcopy(prefix.cache))
        return
    before = [layer.get_seq_length() for layer in prefix.cache.layers]
    try:
        yield prefix
    finally:  # each to its own length: Ctrl-C may stop a pass between layers, or between keys and values
        for layer, length in zip(prefix.cache.layers, before, strict=True):
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]


def _forward(family: Family, prefix: VideoPrefix, ids: torch.Tensor, *, all_logits: bool = False) -> torch.Tensor:
    """Append tokens to the prefix's cache and return logits (tokens or 1, vocabulary)."""
    where = {}
    if prefix.next_position is not None:
        behind = prefix.cache.get_seq_length() - prefix.num_tokens
        where["position_ids"] = prefix.next_position + torch.arange(behind, behind + ids.shape[1], device=ids.device)
    output = family.model(
        input_ids=ids, **where, cache=prefix.cache, use_cache=True, logits_to_keep=0 if all_logits else 1
    )
    logits: torch.Tensor = output.logits[0]
    return logits
