"""A conversation about one video: each question is asked behind what was said before.

The video is encoded once and its part of the prompt read once; of each turn the language model reads what is new and,
once more, its own answer before. The prompt is the family's chat template, as training words conversations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from stts_cli.engine import generate
from stts_cli.engine.results import Answer, Video
from stts_cli.errors import InputError
from stts_cli.pruning.stopwatch import clock

if TYPE_CHECKING:
    from stts_cli.engine.model import VideoModel


class Chat:
    """Questions and answers about a video, in turn.

    Args:
        model: that answers.
        video: encoded by it.
        context: text between the video and the first question, such as subtitles.

    Attributes:
        turns: questions and answers so far. A turn that failed or was interrupted is not among them.
    """

    def __init__(self, model: VideoModel, video: Video, context: str = "") -> None:
        self.model, self.video, self.context = model, video, context
        self.turns: list[tuple[str, str]] = []
        self._state: generate.VideoPrefix | None = None  # behind what was read, a copy of the video's own
        self._read: list[int] = []  # ids of what was read

    def ask(self, question: str, *, on_text: Callable[[str], None] | None = None) -> Answer:
        """Answer the next question.

        Args:
            question: the user's text.
            on_text: called with each piece of the answer as it comes; together they are its text.

        Returns:
            The answer; its prompt is the whole conversation.

        Raises:
            InputError: the conversation is longer than the model can take, or its chat template does not word earlier
                answers as they were given.
        """
        model, video = self.model, self.video
        started = clock(model.device)
        whole = self.prompt_ids(question)
        state = self._behind(whole[:-1])
        prompt_s = clock(model.device) - started
        tail = torch.tensor([whole[-1:]], device=model.device)
        said = model.speak(state, tail, model.max_new_tokens, on_text, before=whole[-8:-1])
        num_dropped = int((~video.keep_mask).sum())
        answer = model.reply(video, question, said, prompt_s, (len(whole) + num_dropped, len(whole)))
        self.turns.append((question, answer.text))
        return answer

    def prompt_ids(self, question: str) -> list[int]:
        """Return the ids of the whole conversation up to the answer; InputError as for `ask`."""
        video, family = self.video, self.model.family
        clip, tokens, system = video.clip, video.tokens, self.model.answering.system
        prefix = family.video_prefix(clip.timestamps_s, tokens.keep_mask, tokens.layout, clip.length_s, system)
        turns, think = [*self.turns, (question, "?")], self.model.answering.think
        ids, is_answer = family.conversation_ids(turns, self.context, think=think)
        while is_answer.pop():
            ids.pop()
        whole = [*prefix.ids.tolist(), *ids]
        limit = family.model.config.text_config.max_position_embeddings
        if len(whole) > limit:
            raise InputError(f"the conversation: has {len(whole)} tokens, the model takes {limit}; begin a new one.")
        return whole

    def _behind(self, ids: list[int]) -> generate.VideoPrefix:
        """Return the language model's state behind these tokens, which begin with the video's part."""
        known = next((k for k, pair in enumerate(zip(self._read, ids, strict=False)) if pair[0] != pair[1]), None)
        known = min(len(self._read), len(ids)) if known is None else known
        state, self._state = self._state, None  # where Ctrl-C stops what follows, nothing half read is left
        if state is not None and known < len(self._read) and self.model.family.cache_reuse == "crop":
            state.cache.crop(known - len(self._read))
        elif state is None or known < len(self._read):
            prompt = self.video.prompt("?", self.context, self.model.answering)
            prefix = self.model.prefill(self.video, prompt)
            state, known = replace(prefix, cache=copy.deepcopy(prefix.cache)), prefix.num_tokens
        if ids[known:]:
            generate.extend(self.model.family, state, ids[known:])
        self._state, self._read = state, ids
        return state
