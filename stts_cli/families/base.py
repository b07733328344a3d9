"""What a model family is to the rest of the program: frames and a question in, visual tokens and a prompt out.

`Family` does what every family needs; a family's own file gives it the stock modules, unchanged, and the words.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from jinja2 import TemplateError
from torch import Tensor, nn

from stts_cli.config.shapes import NamedTextConfig, Shape
from stts_cli.cost.savings import ModelShape
from stts_cli.errors import InputError
from stts_cli.families import words
from stts_cli.families.attention import use_registered_attention
from stts_cli.families.checkpoints import Checkpoint
from stts_cli.families.frames import FrameProcessor
from stts_cli.pruning import TokenScorer, prune_and_encode, shrink_placeholders, window_index
from stts_cli.pruning.pruned_vit import Vit
from stts_cli.pruning.stopwatch import Stopwatch
from stts_cli.settings import Execution, FixedLayout, Layout, LayoutRule, Pruning, default_prune_layer

_CHUNK_PATCHES = 16_384  # patches that go through a block at once when no gradient is needed


@dataclass(frozen=True)
class Patches:
    """One or more videos, ready for the ViT."""

    pixels: Tensor  # (U, N, patch_dim), the units of all videos, one after the other
    num_units: list[int]  # units of each video
    layout: Layout  # how all of them are cut


@dataclass
class EncodedVideo:
    """The visual tokens of one or more videos."""

    visual_tokens: Tensor  # (V, D of the language model), unit after unit
    keep_mask: Tensor  # bool (U, W), True = kept
    layout: Layout  # how they are cut
    # by stage: "vit_dense" (patch embedding included), "score_select_pack", "vit_packed", "connector"
    seconds: dict[str, float]
    scorer: str  # who scored, "none" where nothing was dropped
    kernel: str = "dense"  # attention kernel of the packed blocks, "dense" where nothing was dropped
    kernel_reason: str = ""  # why that one
    # patches of each unit that the ViT's packed blocks ran on; all where nothing was dropped
    packed_patches: list[int] = field(default_factory=list)
    scores: Tensor | None = None  # float32 (U, W), or None where nothing was scored
    scored_hidden: Tensor | None = None  # (U, N, D) what was scored; only if asked for


@dataclass
class Prompt:
    """A prompt for the language model, without the placeholders of dropped windows."""

    input_ids: Tensor  # int64 (1, L)
    mm_token_type_ids: Tensor  # int64 (1, L), 1 for the tokens of the video
    num_prefix: int  # tokens before the user's turn; the same for every question about the video in the same context
    dense_length: int  # L before anything was deleted
    # int64 (..., 1, L); None where the model counts the tokens itself, see `Family.positions`
    position_ids: Tensor | None = None


class Prefix(NamedTuple):
    """A prompt up to the end of its video."""

    ids: Tensor  # int64 (L,)
    is_visual: Tensor  # bool (L,)
    positions: Tensor | None  # int64 (..., L); None where the model counts the tokens itself


class Family(ABC):
    """A loaded video VLM with the method built in.

    Args:
        model: the stock transformers model.
        tokenizer: its tokenizer.
        frames: from pixels to patches.
        layout_rule: how each video is cut.
        settings: how it was trained to be pruned.
        model_name: what to call it in reports.
        scorer: the learned scorer, or None.
    """

    model_class: ClassVar[str]  # name of its class in transformers
    video_tag: str  # what stands for the video in the chat template's text
    placeholder: str  # the token of one window
    visual_words: tuple[str, ...]  # the tokens of a video, placeholders and marks
    # block after which windows are scored where a checkpoint does not say; None for `default_prune_layer`
    prune_layer: ClassVar[int | None] = None
    # by part of the model, what the names of its parameters hold; the first that fits counts, "llm" is the rest
    part_names: ClassVar[dict[str, str]]
    # whether the tokens of a video see each other in both directions in the language model
    two_way: ClassVar[bool] = False
    # whether a mask keeps apart what shares a row of the language model, as in training; layers of a sliding window or
    # of linear attention do not heed it
    shared_rows: ClassVar[bool] = True
    chat_template: str | None = None  # of conversations about a video; None for the tokenizer's own
    video_end: ClassVar[str] = ""  # ends a video in the prompt; tokenized with the words behind it
    starts_with_bos: ClassVar[bool] = True  # whether a prompt begins with the tokenizer's first token
    frames_per_unit: ClassVar[int] = 1  # of every layout
    answer_start: ClassVar[str] = ""  # stands before every answer, tokenized with it
    # before an answer without thinking, of chat templates that leave it out of all answers but the last
    no_thinking: ClassVar[str] = ""
    # how the language model's cache of a video comes back after a question: "crop" where every layer is full attention,
    # "copy" where a layer keeps a state that cannot be cut
    cache_reuse: Literal["crop", "copy"] = "crop"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        frames: FrameProcessor,
        layout_rule: LayoutRule,
        settings: Pruning,
        model_name: str,
        scorer: TokenScorer | None = None,
    ) -> None:
        self.model, self.tokenizer, self.scorer = model, tokenizer, scorer
        self.frames, self.layout_rule, self.settings = frames, layout_rule, settings
        self.model_name = model_name
        self.is_demonstration = False  # True for the embedded model of the procedural world
        self.chain: Sequence[Checkpoint] = ()  # what it was loaded from, the whole model last; empty for one made here
        self.notes: list[str] = []  # what a user should know about how it was loaded
        use_registered_attention(model)
        self._window_index: dict[Layout, Tensor] = {}

    @classmethod
    @abstractmethod
    def processing(
        cls, config: Any, checkpoint: Checkpoint | None, given: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], list[str]]:
        """Read how frames become patches and a prompt is worded.

        Args:
            config: the stock model's.
            checkpoint: where its processor's settings are; None for none.
            given: settings of a video processor that count more than the model's defaults.

        Returns:
            Arguments of the constructor ("frames", "layout_rule" and the family's own), and notes for the user.
        """

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """Blocks of the ViT in order."""

    @property
    @abstractmethod
    def taps(self) -> list[int]:
        """Blocks whose outputs the connector reads, 0-based, in its order."""

    @property
    def device(self) -> torch.device:
        """Where its ViT is; parts of the language model may be elsewhere, and move what they are given."""
        return next(self.blocks[0].parameters()).device

    @property
    def revision(self) -> str | None:
        """Commit of the hub that it, or the model that it stands on, was loaded from; None for folders alone."""
        return next((checkpoint.revision for checkpoint in self.chain if checkpoint.revision), None)

    @property
    def scorer_sizes(self) -> dict[str, int]:
        """Arguments of a `TokenScorer` for this ViT."""
        return scorer_sizes(self.model.config.vision_config)

    @abstractmethod
    def embed(self, patches: Tensor) -> Tensor:
        """Turn patches (U, N, patch_dim) into what block 0 takes, (U, N, D)."""

    @abstractmethod
    def connect(self, features: Tensor, pool_index: Tensor) -> Tensor:
        """Turn features (M, D * taps) of kept patches and their table (V, P) into visual tokens (V, D of the LM)."""

    @abstractmethod
    def video_text(self, timestamps_s: Sequence[float], layout: Layout, duration_s: float) -> str:
        """Word a video: marks, times and a placeholder a window, from the time of each frame; `video_end` follows."""

    @abstractmethod
    def language_inputs(
        self, input_ids: Tensor, is_visual: Tensor, visual_tokens: Sequence[Tensor]
    ) -> Mapping[str, Any]:
        """Return what the stock model is called with to read prompts with videos in them.

        `input_ids` is int64 (B, L), `is_visual` int64 (B, L), 1 for the tokens of a video; `visual_tokens` holds (V, D)
        of each video, in the order of the placeholders.
        """

    def positions(self, dense_ids: Tensor, layout: Layout, timestamps_s: Sequence[float]) -> Tensor | None:
        """Return the position of every token of a prompt, int64 (1, L), whose placeholders are all there.

        What is left of a prompt keeps these, and tokens behind it count on from the last.

        Returns:
            int64 (..., 1, L), or None where the model counts the tokens that are left, 0, 1, 2...
        """
        return None

    @abstractmethod
    def shape(self, layout: Layout | None = None) -> ModelShape:
        """Return the sizes that FLOPs depend on, for a video's layout; None where the family cuts all alike."""

    @classmethod
    def default_layer(cls, num_blocks: int) -> int:
        """Return the block to score after of a checkpoint that names none, by the ViT's depth."""
        return default_prune_layer(num_blocks) if cls.prune_layer is None else cls.prune_layer

    @classmethod
    def read_shape(cls, config: Any, rule: LayoutRule) -> Shape:
        """Read the sizes that a stock config holds, and take how videos are cut, for `stts profile` and estimates."""
        raise NotImplementedError(f"{cls.__name__}: reads no sizes from a config.")

    @classmethod
    def random_parts(cls, shape: Any) -> tuple[Any, Any, Mapping[str, Any]]:
        """Return what a model with random weights is made of, for `stts profile --shape`.

        Returns:
            The stock config of such sizes, a tokenizer, and what `processing` is given.
        """
        raise NotImplementedError(f"{cls.__name__}: makes no model of given sizes.")

    @classmethod
    def full_precision(cls) -> list[str]:
        """Return patterns of the modules that are never quantized, as `llm_int8_skip_modules` has them."""
        return [*(f".*{re.escape(cls.part_names[part].strip('.'))}" for part in ("vit", "connector")), "lm_head"]

    def run_block(self, number: int, hidden: Tensor) -> Tensor:
        """Run one stock block on (B, S, D)."""
        out: Tensor = self.blocks[number](hidden)
        return out

    def parts(self, number: int) -> Sequence[int]:
        """Return the parts of a unit that attend within themselves in a block; see `pruning.pruned_vit.Vit`."""
        return ()

    @property
    def vit_blocks(self) -> Sequence[nn.Module]:
        """Blocks of the ViT in order, up to the deepest that the connector reads."""
        return self.blocks[: max(self.taps) + 1]

    @property
    def idle_vit_blocks(self) -> Sequence[nn.Module]:
        """Blocks of the ViT that nothing reads."""
        return self.blocks[max(self.taps) + 1 :]

    @property
    def layout(self) -> Layout:
        """How every video is cut, of a family that cuts all alike."""
        if not isinstance(self.layout_rule, FixedLayout):
            raise InputError(f"{self.model_name}: cuts every video in its own way; a layout must be named.")
        return self.layout_rule.layout

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return self.layout.frame_size

    @property
    def resample(self) -> str:
        """Filter that frames are resized with; see `media.resize.Resizer`."""
        return self.frames.resample

    @property
    def eos_token_ids(self) -> list[int]:
        """Tokens that end an answer."""
        given = getattr(self.model.generation_config, "eos_token_id", None)
        given = self.tokenizer.eos_token_id if given is None else given
        return [given] if isinstance(given, int) else list(given)

    def vit(self, layout: Layout) -> Vit:
        """Return the ViT as the method needs it, on units of a layout."""
        return self

    def window_index(self, layout: Layout) -> Tensor:
        """Return the patches of each window, int64 (W, P), numbered as `embed` has them; see `pruning.window_index`."""
        if layout not in self._window_index:
            self._window_index[layout] = window_index(*layout.grid, *layout.window).to(self.device)
        return self._window_index[layout]

    def preprocess(self, *videos: Tensor, rule: LayoutRule | None = None) -> Patches:
        """Turn frames, uint8 (T, H, W, 3) of each video, into patches in the model's dtype and on its device.

        `rule` says how they are cut; None for the family's own.

        Raises:
            InputError: frames of another kind, or videos that are not cut alike.
        """
        for frames in videos:
            if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[-1] != 3 or len(frames) == 0:
                raise InputError(
                    f"frames {frames.dtype} {tuple(frames.shape)}: must be uint8 (T, H, W, 3) with T at least 1."
                )
        rule = rule or self.layout_rule
        layouts = {rule(frames.shape[1], frames.shape[2], len(frames)) for frames in videos}
        if len(layouts) != 1:
            raise InputError("videos of one batch: are cut in different ways; must be of one size and length.")
        layout = layouts.pop()
        pixels = [self.frames(frames, layout, self.model.dtype, self.device) for frames in videos]
        joined = pixels[0] if len(pixels) == 1 else torch.cat(pixels)  # cat copies one video too
        return Patches(joined, [layout.num_units(len(frames)) for frames in videos], layout)

    def encode(self, patches: Patches, pruning: Pruning, *, execution: Execution | None = None) -> EncodedVideo:
        """Turn patches into the visual tokens of kept windows, differentiable where gradients are on.

        At keep ratio 1 the stock modules run untouched.

        Raises:
            InputError: a setting that cannot be honoured, or no learned scorer where one is asked for.
        """
        if pruning.scorer == "learned" and self.scorer is None:
            raise InputError(f"--scorer learned: {self.model_name} has no trained scorer; choose another.")
        execution = execution or Execution()
        if execution.chunk_frames is None and not torch.is_grad_enabled():
            execution = dataclasses.replace(
                execution, chunk_frames=max(1, _CHUNK_PATCHES // patches.layout.num_patches)
            )
        try:
            vit = prune_and_encode(
                self.vit(patches.layout), patches.pixels, patches.num_units, pruning, patches.layout,
                self.window_index(patches.layout), learned=self.scorer, execution=execution,
            )  # fmt: skip
        except ValueError as error:
            raise InputError(str(error)) from error
        watch = Stopwatch(self.device, "connector")
        visual_tokens = self.connect(vit.features, vit.pool_index)
        watch.lap("connector")
        return EncodedVideo(
            visual_tokens,
            vit.plan.keep_mask,
            patches.layout,
            {**vit.seconds, **watch.seconds},
            scorer="none" if vit.kernel == "dense" else pruning.scorer,
            kernel=vit.kernel,
            kernel_reason=vit.kernel_reason,
            packed_patches=vit.packed_patches,
            scores=vit.plan.scores,
            scored_hidden=vit.scored_hidden,
        )

    def enable_gradient_checkpointing(self) -> None:
        """Let the language model's layers run again in the backward pass; of the ViT, `Execution.checkpoint` decides.

        A block that runs again by itself would not know what it attends over.
        """
        self.model.activation_checkpointing_enable({"use_reentrant": False})
        self.model.enable_input_require_grads()
        for block in self.blocks:
            block.gradient_checkpointing = False  # type: ignore[assignment]

    def build_prompt(
        self,
        timestamps_s: list[float],
        question: str,
        keep_mask: Tensor,
        *,
        layout: Layout | None = None,
        context: str = "",
        duration_s: float | None = None,
        system: str = "",
        think: bool = False,
    ) -> Prompt:
        """Word the prompt of one video and one question, and delete the placeholders of dropped windows.

        Args:
            timestamps_s: time of each frame in seconds; T of them.
            question: the user's text.
            keep_mask: bool (U, W), True = kept.
            layout: how the video is cut; None where the family cuts all alike.
            context: text between the video and the user's turn, such as subtitles; a part of the prefix.
            duration_s: length of the video in seconds; None for the last frame's time.
            system: the system prompt; empty for what the chat template says without one.
            think: let the model think before it answers.

        Returns:
            The prompt, on the CPU.

        Raises:
            InputError: the times do not fit the frames, the chat template takes no system prompt or leaves no choice
                of thinking, or the prompt is longer than the model can take.
        """
        layout = layout or self.layout
        if layout.num_units(len(timestamps_s)) != len(keep_mask):
            raise InputError(
                f"{len(timestamps_s)} timestamps: must be one a frame; {len(keep_mask)} units were encoded."
            )
        head, tail = self._chat_text(self.quote(question), self.quote(system, "--system"), think=think)
        context = self.quote(context, "text before the question")
        duration_s = timestamps_s[-1] if duration_s is None else duration_s
        head += self.video_text(timestamps_s, layout, duration_s)
        if context:
            prefix_ids, tail_ids = self.tokenize(head + self.video_end + context), self.tokenize(tail)
        else:
            prefix_ids, tail_ids = self.tokenize(head), self.tokenize(self.video_end + tail)
        dense = torch.tensor(prefix_ids + tail_ids)
        try:
            ids, index = shrink_placeholders(dense, self._token_id(self.placeholder), keep_mask.cpu())
        except ValueError as error:
            raise InputError(str(error)) from error
        limit = self.model.config.text_config.max_position_embeddings
        if len(ids) > limit:
            raise InputError(f"the prompt: has {len(ids)} tokens, the model takes {limit}; use fewer frames.")
        visual = torch.tensor([self._token_id(token) for token in self.visual_words])
        positions = self.positions(dense[None], layout, timestamps_s)
        return Prompt(
            ids[None],
            torch.isin(ids, visual).long()[None],
            int(index[: len(prefix_ids)].sum()),
            len(dense),
            None if positions is None else positions[..., index],
        )

    def video_prefix(
        self,
        timestamps_s: list[float],
        keep_mask: Tensor,
        layout: Layout | None = None,
        duration_s: float | None = None,
        system: str = "",
    ) -> Prefix:
        """Word a prompt up to the end of its video, for training and conversations."""
        prompt = self.build_prompt(timestamps_s, "?", keep_mask, layout=layout, duration_s=duration_s, system=system)
        end, positions = prompt.num_prefix, prompt.position_ids
        return Prefix(
            prompt.input_ids[0, :end],
            prompt.mm_token_type_ids[0, :end].bool(),
            None if positions is None else positions[..., 0, :end],
        )

    def conversation_ids(
        self, turns: Sequence[tuple[str, str]], context: str = "", *, think: bool = False
    ) -> tuple[list[int], list[bool]]:
        """Word what follows the video: the user's turns and the answers, tokenized apart as they come at inference.

        Args:
            turns: (what the user says, what the model should answer), in order.
            context: text between the video and the first turn.
            think: word the last turn as one that is thought about before the answer.

        Returns:
            (token ids, of each whether the model has to say it: the answers and the token that ends them).

        Raises:
            InputError: the chat template rewrites answers.
        """
        so_far = ""
        context = self.quote(context, "text before the question")
        ids = self.tokenize(self.video_end + context) if context else []
        is_answer = [False] * len(ids)
        messages: list[dict[str, Any]] = []
        ends = [self.tokenizer.convert_ids_to_tokens(k) for k in self.eos_token_ids]
        for number, (question, answer) in enumerate(turns, start=1):
            question, answer = self.quote(question), self.answer_start + self.quote(answer, "answer")
            content = [{"type": "text", "text": question}]
            messages.append({"role": "user", "content": content if messages else [{"type": "video"}, *content]})
            asked = worded = self._continue(so_far, self._render(messages, True))
            if think and number == len(turns):
                worded = self._continue(so_far, self._render(messages, True, think=True))
            messages.append(
                {"role": "assistant", "content": [{"type": "text", "text": answer[len(self.answer_start) :]}]}
            )
            closed = self._continue(so_far, self._render(messages, False))
            if not asked.startswith(so_far) or not closed.startswith(asked + answer):
                template = f"the chat template of {self.model_name}"
                raise InputError(f"answer '{answer[:40]}': {template} rewrites it; strip blanks around it.")
            behind = worded.partition(self.video_tag)[2]
            prompt = worded[len(so_far) :] if so_far else behind if context else self.video_end + behind
            end = next((e for e in ends if closed[len(asked + answer) :].startswith(e)), "")
            so_far = asked + answer + end
            prompt_ids = self.tokenize(prompt)
            answer_ids = [*self.tokenize(answer), self.tokenizer.convert_tokens_to_ids(end or ends[0])]
            ids += prompt_ids + answer_ids
            is_answer += [False] * len(prompt_ids) + [True] * len(answer_ids)
        return ids, is_answer

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, nothing added, quoted words as characters; see `words.tokenize`."""
        return words.tokenize(self.tokenizer, text)

    def quote(self, text: str, name: str = "question") -> str:
        """Mark what looks like a special token in a person's words; see `words.quote`."""
        return words.quote(self.tokenizer, text, name, self.video_tag)

    def _chat_text(self, question: str, system: str = "", *, think: bool = False) -> tuple[str, str]:
        """Return the text before and after the video; InputError where `system` does not stand before it."""
        content = [{"type": "video"}, {"type": "text", "text": question}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if system:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        try:
            head, _, tail = self._render(messages, True, think=think).partition(self.video_tag)
        except TemplateError:
            if not system:
                raise
            head = ""
        if system.strip() not in head:
            raise InputError(f"--system: the chat template of {self.model_name} has no place for one; leave it out.")
        start = (self.tokenizer.bos_token or self.tokenizer.eos_token) if self.starts_with_bos else ""
        return head if head.startswith(start) else start + head, tail

    def _continue(self, so_far: str, text: str) -> str:
        """Give a conversation's earlier answers their empty thinking again, where the chat template left it out."""
        bare = so_far.replace(self.no_thinking, "") if self.no_thinking else so_far
        return so_far + text[len(bare) :] if text.startswith(bare) and not text.startswith(so_far) else text

    def _render(self, messages: list[dict[str, Any]], ask: bool, *, think: bool = False) -> str:
        """Return a conversation as text, the video as its tag.

        `ask` ends it with the words that make models answer, `think` with those that make them think before; InputError
        where the chat template leaves no choice.
        """
        template = self.chat_template or self.tokenizer.chat_template
        if think and "enable_thinking" not in (template or ""):
            raise InputError(f"--think: the chat template of {self.model_name} leaves no choice; leave it out.")
        if template:
            text: str = self.tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=ask, enable_thinking=think
            )
            return text if self.video_tag in text else self.video_tag + text  # the video first
        text = self.video_tag
        for message in messages:
            content = "".join(part.get("text", "") for part in message["content"])
            text += f"<|im_start|>{message['role']}\n{content}<|im_end|>\n"
        return text + ("<|im_start|>assistant\n" if ask else "")

    def _token_id(self, token: str) -> int:
        number: int = self.tokenizer.convert_tokens_to_ids(token)
        return number


def scorer_sizes(vision: Any) -> dict[str, int]:
    """Return the arguments of a `TokenScorer` for a stock vision config."""
    heads = vision.num_heads if hasattr(vision, "num_heads") else vision.num_attention_heads
    return {
        "hidden_size": vision.hidden_size,
        "num_heads": heads,
        "mlp_size": vision.intermediate_size,
        "head_dim": getattr(vision, "head_dim", vision.hidden_size // heads),
    }


def check_language_model(text: Any) -> None:
    """Refuse the config of a language model that is not of `NamedTextConfig`'s kinds, attending to all before.

    Raises:
        InputError: it is of another kind, or has layers of another.
    """
    kinds = get_args(NamedTextConfig.model_fields["model_type"].annotation)
    if text.model_type not in kinds:
        raise InputError(
            f"config.json: text_config.model_type {text.model_type}; must be {', '.join(kinds[:-1])} or {kinds[-1]}."
        )
    if others := set(getattr(text, "layer_types", None) or ()) - {"full_attention"}:
        raise InputError(f"config.json: text_config.layer_types {', '.join(sorted(others))}; must be full_attention.")
