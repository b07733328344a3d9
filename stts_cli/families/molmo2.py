"""Molmo2: transformers' own classes, the pruned ViT in the place of the stock one, and Molmo2's prompt.

Frames become visual tokens by the stock modules (patch embedding, blocks, connector) driven by
`pruning.prune_and_encode`; the language model takes them through `mm_encoder_outputs`, untouched. The prompt is worded
as transformers' Molmo2Processor words it. Released checkpoints and transformers' own format load alike. Source: arXiv
2603.18004 (method); Molmo2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stts_cli.cost.savings import ModelShape
from stts_cli.errors import InputError, suggest
from stts_cli.families import molmo2_training, words
from stts_cli.families.checkpoints import Checkpoint, merge_lora, read_processor
from stts_cli.families.family import EncodedVideo, Prompt
from stts_cli.families.frames import FrameProcessor, read_frame_processor
from stts_cli.families.molmo2_training import VIDEO_TOKEN
from stts_cli.families.settings import SETTINGS_FILE, PruneSettings, build_scorer, is_in_old_order, load_scorer
from stts_cli.families.weights import check_files, check_loaded, read_tensors
from stts_cli.pruning import SCORER_PART, SCORERS, TokenScorer, prune_and_encode, shrink_placeholders, window_index

PATCH_TOKEN = "<im_patch>"
VISUAL_TOKENS = (
    PATCH_TOKEN,
    "<im_col>",
    "<im_start>",
    "<low_res_im_start>",
    "<frame_start>",
    "<im_end>",
    "<frame_end>",
    "<im_low>",
)
_CHUNK_PATCHES = 16_384  # patches that go through a block at once when no gradient is needed
_CHUNK_TOKENS = 4_096  # visual tokens that go through the connector at once


class Molmo2Family:
    """A loaded Molmo2 with its scorer.

    Args:
        model: transformers' Molmo2ForConditionalGeneration, unchanged.
        tokenizer: its tokenizer.
        scorer: the learned scorer, or None.
        frames: from pixels to patches.
        settings: how it was trained to be pruned.
        model_name: what to call it in reports.
        is_demonstration: True for the embedded model of the procedural world.
        processor: the checkpoint's processor_config.json: how frames are marked in the prompt.
        notes: what a user should know about how it was loaded.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        scorer: TokenScorer | None,
        frames: FrameProcessor,
        settings: PruneSettings,
        model_name: str,
        is_demonstration: bool = False,
        processor: dict[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.model, self.tokenizer, self.scorer = model, tokenizer, scorer
        self.frames, self.settings = frames, settings
        self.model_name, self.is_demonstration = model_name, is_demonstration
        self.chain: Sequence[Checkpoint] = ()
        self.notes = list(notes)
        marks = processor or {}
        special = marks.get("use_frame_special_tokens", True)
        self._frame_start, self._frame_end = ("<frame_start>", "<frame_end>") if special else ("<im_start>", "<im_end>")
        self._column = "<im_col>" if marks.get("video_use_col_tokens", False) else ""
        num_positions = model.config.vision_config.num_position_embeddings
        if frames.grid[0] * frames.grid[1] != num_positions:
            raise InputError(
                f"frames give {frames.grid[0]}x{frames.grid[1]} patches, the model has {num_positions} positions -> "
                "use the checkpoint's own video_preprocessor_config.json"
            )
        self.window_index = window_index(*frames.grid, *frames.pool).to(model.device)

    @classmethod
    def load(
        cls,
        chain: Sequence[Checkpoint],
        *,
        device: torch.device,
        dtype: torch.dtype,
        attn_implementation: str,
        trust_remote_code: bool,
    ) -> Molmo2Family:
        """Load a checkpoint from `checkpoints.base_chain`; see `families.load_family` for the other arguments.

        Raises:
            InputError: weights that are not safetensors, incomplete, or that do not fit the config.
        """
        from safetensors import SafetensorError
        from transformers import AutoTokenizer, Molmo2ForConditionalGeneration
        from transformers.utils import logging

        top, root = chain[0], chain[-1]
        model, revision = root.model, root.revision or "main"
        if root.is_local:
            check_files(Path(model))
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # its report of the weights is read below
        try:
            stock, info = Molmo2ForConditionalGeneration.from_pretrained(
                model,
                revision=revision,
                dtype=dtype,
                attn_implementation=attn_implementation,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # checked below, with names
            )
        except SafetensorError as error:
            raise InputError(f"the weights of model '{model}' are broken ({error}) -> restore the files") from error
        finally:
            logging.set_verbosity(verbosity)
        stored = {name: root.find_file(file) for name, file in root.stored_scorer.items()}
        ends = [name[name.index(SCORER_PART) :] for name in stored]
        notes = check_loaded(model, info, len(stock.model.vision_tower.layers), ends)
        for layer in reversed(chain):
            if layer.document.get("train") == "lora":
                merge_lora(stock, layer)
        vision = stock.config.vision_config
        scorer = load_scorer(top.document, top.find_file, scorer_sizes(vision))
        if scorer is None and top is root and top.settings.scorer == "learned" and stored:
            files = {name: path for name, path in stored.items() if path is not None}
            scorer = build_scorer(read_tensors(files), scorer_sizes(vision), model)
        defaults = {
            "size": dict(zip(("height", "width"), vision.image_size, strict=True)),
            "patch_size": vision.patch_size,
            "pooling_size": (3, 3),
        }
        processor, more = read_processor(root)
        notes += [*top.notes, *more]
        if is_in_old_order(top.document):
            swapped = (
                "its scorer reads the current frame first; the halves of its first layer were exchanged on loading"
            )
            notes.append(f"{top.model}/{SETTINGS_FILE}: format 1; {swapped}")
        return cls(
            stock.to(device).eval(),
            AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code),
            scorer=scorer.to(device, dtype).eval() if scorer is not None else None,
            frames=read_frame_processor(root.find_file, defaults),
            settings=top.settings,
            model_name=top.name,
            is_demonstration=any(checkpoint.document.get("demonstration", False) for checkpoint in chain),
            processor=processor,
            notes=notes,
        )

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return self.frames.size

    @property
    def resample(self) -> str:
        """Filter that frames are resized with: "bilinear" or "bicubic"."""
        return self.frames.resample

    @property
    def grid(self) -> tuple[int, int]:
        """Patch rows and columns of a frame."""
        return self.frames.grid

    @property
    def vit_blocks(self) -> list[nn.Module]:
        """Blocks of the ViT in order, up to the deepest that the connector reads."""
        layers = self.model.model.vision_tower.layers
        deepest = max(n % len(layers) for n in self.model.config.adapter_config.vision_feature_layer)
        return list(layers[: deepest + 1])

    @property
    def idle_vit_blocks(self) -> list[nn.Module]:
        """Blocks of the ViT that nothing reads."""
        return list(self.model.model.vision_tower.layers[len(self.vit_blocks) :])

    @property
    def scorer_sizes(self) -> dict[str, int]:
        """Arguments of a `TokenScorer` for this ViT."""
        return scorer_sizes(self.model.config.vision_config)

    @property
    def eos_token_ids(self) -> list[int]:
        """Tokens that end an answer."""
        given = getattr(self.model.generation_config, "eos_token_id", None)
        given = self.tokenizer.eos_token_id if given is None else given
        return [given] if isinstance(given, int) else list(given)

    def preprocess(self, frames: Tensor) -> Tensor:
        """Turn frames into patches.

        Args:
            frames: uint8 (T, H, W, 3).

        Returns:
            (T, N, patch_size^2 * 3) in the model's dtype and on its device.

        Raises:
            InputError: frames of another kind.
        """
        return self.frames(frames, self.model.dtype, self.model.device)

    def encode_video(
        self,
        patches: Tensor,
        *,
        keep_ratio: float,
        scorer: str,
        prune_layer: int | None = None,
        seed: int = 0,
        video_lengths: list[int] | None = None,
        kernel: str = "auto",
        packing: str = "varlen",
        refill_lone_frames: bool | None = None,
        chunk_frames: int | None = None,
        return_hidden: bool = False,
        checkpoint_blocks: bool = False,
    ) -> EncodedVideo:
        """Turn patches into the visual tokens of kept windows.

        Args:
            patches: (T, N, patch_dim) from `preprocess`, the videos of a batch one after the other.
            keep_ratio: fraction of windows kept, in (0, 1]; 1 runs the stock modules untouched.
            scorer: one of `pruning.SCORERS`.
            prune_layer: 0-based ViT block after which windows are scored; None for the checkpoint's own.
            seed: for the random scorer.
            video_lengths: frames of each video; None for one video.
            kernel: attention kernel of the packed blocks.
            packing: "varlen" or "bins".
            refill_lone_frames: see `pruning.prune_and_encode`; None for the checkpoint's own.
            chunk_frames: frames that go through the ViT at once; None to choose: all with gradient, else bounded.
            return_hidden: also return what was scored, for the temporal loss.
            checkpoint_blocks: run each block again in the backward pass instead of keeping its activations.

        Returns:
            The visual tokens, differentiable where gradients are on.

        Raises:
            InputError: a setting that cannot be honoured, or no learned scorer where one is asked for.
        """
        tower = self.model.model.vision_tower
        if chunk_frames is None and not torch.is_grad_enabled():
            chunk_frames = max(1, _CHUNK_PATCHES // patches.shape[1])
        try:
            vit = prune_and_encode(
                tower.layers,
                patches.to(tower.device, tower.dtype),
                embed=self._embed,
                scorer=self._find_scorer(scorer),
                keep_ratio=keep_ratio,
                prune_layer=self.settings.prune_layer if prune_layer is None else prune_layer,
                window_index=self.window_index,
                grid=self.frames.grid,
                video_lengths=video_lengths or [len(patches)],
                feature_layers=self.model.config.adapter_config.vision_feature_layer,
                bias_rescale=None if self.settings.bias_rescale == "off" else self.settings.bias_rescale,
                bias_floor=self.settings.bias_floor,
                prune_from_frame=self.settings.prune_from_frame,
                seed=seed,
                kernel=kernel,
                packing=packing,
                refill_lone_frames=self.settings.refill_lone_frames
                if refill_lone_frames is None
                else refill_lone_frames,
                chunk_frames=chunk_frames,
                return_hidden=return_hidden,
                checkpoint_blocks=checkpoint_blocks,
            )
        except ValueError as error:
            raise InputError(str(error)) from error
        started = self._clock()
        visual_tokens = self._connect(vit.features, vit.pool_index)
        seconds = {**vit.seconds, "connector": self._clock() - started}
        return EncodedVideo(
            visual_tokens,
            vit.keep_mask,
            seconds,
            scorer="none" if vit.kernel == "dense" else scorer,
            kernel=vit.kernel,
            kernel_reason=vit.kernel_reason,
            packed_patches=vit.packed_patches,
            scores=vit.scores,
            scored_hidden=vit.scored_hidden,
        )

    def build_prompt(self, timestamps_s: list[float], question: str, keep_mask: Tensor, *, context: str = "") -> Prompt:
        """Word the prompt of one video and one question, and delete the placeholders of dropped windows.

        Args:
            timestamps_s: time of each frame in seconds; T of them.
            question: the user's text.
            keep_mask: bool (T, W), True = kept.
            context: text between the video and the user's turn, where Molmo2's evaluation puts subtitles; a part of
                the prefix.

        Returns:
            The prompt, on the CPU.

        Raises:
            InputError: the times do not fit the frames, or the prompt is longer than the model can take.
        """
        if len(timestamps_s) != len(keep_mask):
            raise InputError(f"{len(timestamps_s)} timestamps for {len(keep_mask)} frames -> one a frame")
        head, tail = self._chat_text(self.quote(question))
        context = self.quote(context, "text before the question")
        prefix_ids = self.tokenize(head + self._video_text(timestamps_s) + context)
        dense = torch.tensor(prefix_ids + self.tokenize(tail))
        try:
            ids, index = shrink_placeholders(dense, self._token_id(PATCH_TOKEN), keep_mask.cpu())
        except ValueError as error:
            raise InputError(str(error)) from error
        limit = self.model.config.text_config.max_position_embeddings
        if len(ids) > limit:
            raise InputError(
                f"the prompt has {len(ids)} tokens, the model takes {limit} -> use fewer frames or a lower keep ratio"
            )
        visual = torch.tensor([self._token_id(token) for token in VISUAL_TOKENS])
        return Prompt(ids[None], torch.isin(ids, visual).long()[None], int(index[: len(prefix_ids)].sum()), len(dense))

    def video_prefix(self, timestamps_s: list[float], keep_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Word a prompt up to the end of its video; see `molmo2_training.video_prefix`."""
        return molmo2_training.video_prefix(self, timestamps_s, keep_mask)

    def conversation_ids(self, turns: Sequence[tuple[str, str]], context: str = "") -> tuple[list[int], list[bool]]:
        """Word what follows the video, answers included; see `molmo2_training.conversation_ids`."""
        return molmo2_training.conversation_ids(self, turns, context)

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, nothing added; see `words.tokenize`."""
        return words.tokenize(self.tokenizer, text)

    def quote(self, text: str, name: str = "question") -> str:
        """Mark what looks like a special token in a person's words; see `words.quote`."""
        return words.quote(self.tokenizer, text, name, VIDEO_TOKEN)

    def shape(self) -> ModelShape:
        """Return the sizes that FLOPs depend on."""
        return model_shape(self.model.config, self.frames.grid, self.frames.pool)

    def _find_scorer(self, name: str) -> nn.Module | str:
        if name not in SCORERS:
            raise InputError(f"scorer '{name}' is unknown{suggest(name, SCORERS)}")
        if name != "learned":
            return name
        if self.scorer is None:
            raise InputError(
                f"{self.model_name} has no trained scorer -> choose temporal, reference, random, tome or none"
            )
        return self.scorer

    def _embed(self, patches: Tensor) -> Tensor:
        tower = self.model.model.vision_tower
        hidden = tower.patch_embedding(patches)
        return hidden + tower.positional_embedding[None].to(hidden)

    def _connect(self, features: Tensor, pool_index: Tensor) -> Tensor:
        connector: Callable[..., Any] = self.model.model.multi_modal_projector
        if torch.is_grad_enabled() or len(pool_index) <= _CHUNK_TOKENS:
            return connector(features, pool_index).last_hidden_state
        parts = [connector(features, part).last_hidden_state for part in pool_index.split(_CHUNK_TOKENS)]
        return torch.cat(parts)

    def _chat_text(self, question: str) -> tuple[str, str]:
        """Return the text before and after the video."""
        content = [{"type": "video"}, {"type": "text", "text": question}]
        text = molmo2_training.render(self.tokenizer, [{"role": "user", "content": content}], True)
        head, _, tail = text.partition(VIDEO_TOKEN)
        start = self.tokenizer.bos_token or self.tokenizer.eos_token
        return head if head.startswith(start) else start + head, tail

    def _video_text(self, timestamps_s: list[float]) -> str:
        rows, cols = (-(-n // pool) for n, pool in zip(self.frames.grid, self.frames.pool, strict=True))
        frame = self._frame_start + (PATCH_TOKEN * cols + self._column) * rows + self._frame_end
        return " ".join(f"{t:.1f} {frame}" for t in timestamps_s)

    def _token_id(self, token: str) -> int:
        return self.tokenizer.convert_tokens_to_ids(token)

    def _clock(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()


def scorer_sizes(vision: Any) -> dict[str, int]:
    """Return the arguments of `TokenScorer` for a vision config."""
    return {
        "hidden_size": vision.hidden_size,
        "num_heads": vision.num_attention_heads,
        "mlp_size": vision.intermediate_size,
        "head_dim": vision.head_dim,
    }


def model_shape(config: Any, grid: tuple[int, int], pool: tuple[int, int]) -> ModelShape:
    """Read the sizes that FLOPs depend on from a config.

    Args:
        config: transformers' Molmo2Config.
        grid: patch rows and columns of a frame.
        pool: patch rows and columns of a window.

    Returns:
        The sizes; no weights are needed.
    """
    vision, adapter, text = config.vision_config, config.adapter_config, config.text_config
    deepest = max(layer % vision.num_hidden_layers for layer in adapter.vision_feature_layer)
    return ModelShape(
        patch_dim=vision.patch_size**2 * vision.num_channels,
        num_patches=grid[0] * grid[1],
        num_windows=-(-grid[0] // pool[0]) * -(-grid[1] // pool[1]),
        window_size=pool[0] * pool[1],
        vit_blocks=deepest + 1,
        vit_width=vision.hidden_size,
        vit_heads=vision.num_attention_heads,
        vit_head_dim=vision.head_dim,
        vit_mlp=vision.intermediate_size,
        num_feature_layers=len(adapter.vision_feature_layer),
        connector_width=adapter.hidden_size,
        connector_heads=adapter.num_attention_heads,
        connector_head_dim=adapter.head_dim,
        connector_mlp=adapter.intermediate_size,
        llm_layers=text.num_hidden_layers,
        llm_width=text.hidden_size,
        llm_heads=text.num_attention_heads,
        llm_kv_heads=text.num_key_value_heads,
        llm_head_dim=text.head_dim,
        llm_mlp=text.intermediate_size,
        vocab_size=text.vocab_size,
    )
