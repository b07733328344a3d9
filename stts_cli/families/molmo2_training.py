"""Molmo2's prompt with the answers in it, for training: the words of `Molmo2Family.build_prompt`, several turns long.

The part up to the end of the video is the same for every conversation about it, so it is worded once (`video_prefix`),
and what follows it a conversation at a time (`conversation_ids`). Prompt and answer are tokenized apart, as they come
into being at inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stts_cli.errors import InputError

if TYPE_CHECKING:
    from stts_cli.families.molmo2 import Molmo2Family

VIDEO_TOKEN = "<|video|>"


def video_prefix(family: Molmo2Family, timestamps_s: list[float], keep_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Word a prompt up to the end of its video.

    Args:
        family: the model.
        timestamps_s: time of each frame in seconds; T of them.
        keep_mask: bool (T, W), True = kept.

    Returns:
        (ids int64 (L,), is_visual bool (L,)).
    """
    prompt = family.build_prompt(timestamps_s, "?", keep_mask)
    end = prompt.num_prefix
    return prompt.input_ids[0, :end], prompt.mm_token_type_ids[0, :end].bool()


def conversation_ids(
    family: Molmo2Family, turns: Sequence[tuple[str, str]], context: str = ""
) -> tuple[list[int], list[bool]]:
    """Word what follows the video: the user's turns and the answers.

    Args:
        family: the model.
        turns: (what the user says, what the model should answer), in order.
        context: text between the video and the first turn.

    Returns:
        (token ids, of each whether the model has to say it: the answers and the token that ends them).

    Raises:
        InputError: the chat template rewrites answers.
    """
    said = ""
    ids = family.tokenize(family.quote(context, "text before the question"))
    is_answer = [False] * len(ids)
    messages: list[dict[str, Any]] = []
    ends = [family.tokenizer.convert_ids_to_tokens(k) for k in family.eos_token_ids]
    for question, answer in turns:
        question, answer = family.quote(question), family.quote(answer, "answer")
        content = [{"type": "text", "text": question}]
        messages.append({"role": "user", "content": content if messages else [{"type": "video"}, *content]})
        asked = render(family.tokenizer, messages, True)
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        closed = render(family.tokenizer, messages, False)
        if not asked.startswith(said) or not closed.startswith(asked + answer):
            raise InputError(
                f"the chat template of {family.model_name} rewrites answers ('{answer[:40]}') -> "
                "strip blanks around them, or use a checkpoint whose template leaves them as they are"
            )
        prompt = asked[len(said) :]
        prompt = prompt if said else prompt.partition(VIDEO_TOKEN)[2]
        end = next((e for e in ends if closed[len(asked + answer) :].startswith(e)), "")
        said = asked + answer + end
        prompt_ids = family.tokenize(prompt)
        answer_ids = [*family.tokenize(answer), family.tokenizer.convert_tokens_to_ids(end or ends[0])]
        ids += prompt_ids + answer_ids
        is_answer += [False] * len(prompt_ids) + [True] * len(answer_ids)
    return ids, is_answer


def render(tokenizer: Any, messages: list[dict[str, Any]], ask: bool) -> str:
    """Return a conversation as text, the video as VIDEO_TOKEN.

    Args:
        tokenizer: the checkpoint's; without a chat template the plain one is used.
        messages: transformers' messages, their content a list of parts.
        ask: end with the words that make the model answer.
    """
    if tokenizer.chat_template:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
        return text if VIDEO_TOKEN in text else VIDEO_TOKEN + text  # Molmo2 has the video first
    text = VIDEO_TOKEN
    for message in messages:
        words = "".join(part.get("text", "") for part in message["content"])
        text += f"<|im_start|>{message['role']}\n{words}<|im_end|>\n"
    return text + ("<|im_start|>assistant\n" if ask else "")
