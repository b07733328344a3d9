"""Molmo2: transformers' own classes and Molmo2's prompt.

The prompt is worded as transformers' Molmo2Processor words it. Released checkpoints and transformers' own format load
alike. Source: Molmo2; the method is arXiv 2603.18004's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stts_cli.cost.savings import ModelShape
from stts_cli.errors import InputError
from stts_cli.families.base import Family
from stts_cli.families.checkpoints import Checkpoint, merge_lora, read_processor
from stts_cli.families.frames import read_frame_processor
from stts_cli.families.settings import SETTINGS_FILE, build_scorer, is_in_old_order, load_scorer
from stts_cli.families.weights import check_files, check_loaded, read_tensors
from stts_cli.pruning import SCORER_PART
from stts_cli.settings import FixedLayout, Layout, Pruning

_CHUNK_TOKENS = 4_096  # visual tokens that go through the connector at once


class Molmo2Family(Family):
    """A loaded Molmo2 with its scorer.

    Args:
        model: transformers' Molmo2ForConditionalGeneration, unchanged.
        tokenizer: its tokenizer.
        processor: the checkpoint's processor_config.json: how frames are marked in the prompt.
        given: as for `Family`.
    """

    video_tag = "<|video|>"
    placeholder = "<im_patch>"
    visual_words = (
        "<im_patch>",
        "<im_col>",
        "<im_start>",
        "<low_res_im_start>",
        "<frame_start>",
        "<im_end>",
        "<frame_end>",
        "<im_low>",
    )
    part_names: ClassVar = {"vit": ".vision_tower.", "connector": ".multi_modal_projector."}

    def __init__(self, model: Any, tokenizer: Any, *, processor: dict[str, Any] | None = None, **given: Any) -> None:
        super().__init__(model, tokenizer, **given)
        (rows, cols), num_positions = self.layout.grid, model.config.vision_config.num_position_embeddings
        if rows * cols != num_positions:
            raise InputError(
                f"{self.model_name}: frames give {rows}x{cols} patches, the model has {num_positions} positions. "
                "Use the checkpoint's own video_preprocessor_config.json."
            )
        marks = processor or {}
        special = marks.get("use_frame_special_tokens", True)
        self._frame_start, self._frame_end = ("<frame_start>", "<frame_end>") if special else ("<im_start>", "<im_end>")
        self._column = "<im_col>" if marks.get("video_use_col_tokens", False) else ""

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
        frames, layout = read_frame_processor(root.find_file, _frame_defaults(vision))
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
            frames=frames,
            layout_rule=FixedLayout(layout),
            settings=top.settings,
            model_name=top.name,
            is_demonstration=any(checkpoint.document.get("demonstration", False) for checkpoint in chain),
            processor=processor,
            notes=notes,
        )

    @classmethod
    def wrap(cls, model: Any, tokenizer: Any, scorer: Any, video_processor: Any) -> Molmo2Family:
        """Take a model that is loaded already; see `families.family_of`."""
        given = {} if video_processor is None else video_processor.to_dict()
        defaults = {**_frame_defaults(model.config.vision_config), **given}
        frames, layout = read_frame_processor(lambda name: None, defaults)
        settings = Pruning(scorer="temporal" if scorer is None else "learned")
        name = model.config.name_or_path or cls.__name__
        return cls(
            model,
            tokenizer,
            scorer=scorer,
            frames=frames,
            layout_rule=FixedLayout(layout),
            settings=settings,
            model_name=name,
        )

    @property
    def vit_blocks(self) -> list[nn.Module]:
        """Blocks of the ViT in order, up to the deepest that the connector reads."""
        return list(self.model.model.vision_tower.layers[: max(self.taps) + 1])

    @property
    def idle_vit_blocks(self) -> list[nn.Module]:
        """Blocks of the ViT that nothing reads."""
        return list(self.model.model.vision_tower.layers[max(self.taps) + 1 :])

    @property
    def taps(self) -> list[int]:
        """Blocks whose outputs the connector reads, 0-based, in its order."""
        num_blocks = len(self.model.model.vision_tower.layers)
        return [layer % num_blocks for layer in self.model.config.adapter_config.vision_feature_layer]

    @property
    def scorer_sizes(self) -> dict[str, int]:
        """Arguments of a `TokenScorer` for this ViT."""
        return scorer_sizes(self.model.config.vision_config)

    def embed(self, patches: Tensor) -> Tensor:
        """Turn patches (T, N, patch_dim) into what block 0 takes, (T, N, D)."""
        tower = self.model.model.vision_tower
        hidden: Tensor = tower.patch_embedding(patches.to(tower.device, tower.dtype))
        return hidden + tower.positional_embedding[None].to(hidden)

    def run_block(self, number: int, hidden: Tensor) -> Tensor:
        """Run one stock block on (B, S, D)."""
        out: Tensor = self.model.model.vision_tower.layers[number](hidden, attention_mask=None)
        return out

    def connect(self, features: Tensor, pool_index: Tensor) -> Tensor:
        """Turn features (M, D * taps) of kept patches and their table (V, P) into visual tokens (V, D of the LM)."""
        connector: Callable[..., Any] = self.model.model.multi_modal_projector
        if torch.is_grad_enabled() or len(pool_index) <= _CHUNK_TOKENS:
            return connector(features, pool_index).last_hidden_state
        parts = [connector(features, part).last_hidden_state for part in pool_index.split(_CHUNK_TOKENS)]
        return torch.cat(parts)

    def video_text(self, timestamps_s: Sequence[float], layout: Layout) -> str:
        """Word a video: each frame's time, marks, and a placeholder a window, row by row."""
        rows, cols = layout.window_grid
        frame = self._frame_start + (self.placeholder * cols + self._column) * rows + self._frame_end
        return " ".join(f"{t:.1f} {frame}" for t in timestamps_s)

    def language_inputs(self, input_ids: Tensor, is_visual: Tensor, visual_tokens: Sequence[Tensor]) -> dict[str, Any]:
        """Return what the stock model is called with to read prompts with videos in them; see `Family`."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return {
            "input_ids": input_ids,
            "mm_token_type_ids": is_visual,
            "mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=tuple(visual_tokens))},
        }

    def shape(self) -> ModelShape:
        """Return the sizes that FLOPs depend on."""
        return model_shape(self.model.config, self.layout)


def _frame_defaults(vision: Any) -> dict[str, Any]:
    size = dict(zip(("height", "width"), vision.image_size, strict=True))
    return {"size": size, "patch_size": vision.patch_size, "pooling_size": (3, 3)}


def scorer_sizes(vision: Any) -> dict[str, int]:
    """Return the arguments of `TokenScorer` for a vision config."""
    return {
        "hidden_size": vision.hidden_size,
        "num_heads": vision.num_attention_heads,
        "mlp_size": vision.intermediate_size,
        "head_dim": vision.head_dim,
    }


def model_shape(config: Any, layout: Layout) -> ModelShape:
    """Read the sizes that FLOPs depend on from a config.

    Args:
        config: transformers' Molmo2Config.
        layout: how videos are cut.

    Returns:
        The sizes; no weights are needed.
    """
    vision, adapter, text = config.vision_config, config.adapter_config, config.text_config
    deepest = max(layer % vision.num_hidden_layers for layer in adapter.vision_feature_layer)
    return ModelShape(
        patch_dim=vision.patch_size**2 * vision.num_channels,
        num_patches=layout.num_patches,
        num_windows=layout.num_windows,
        window_size=layout.window[0] * layout.window[1],
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
