"""vLLM's Qwen3-VL with windows dropped inside its vision encoder. vLLM 0.32 and 0.33; see README.md.

What differs from vLLM's own class:

- The processor counts a video's tokens by our budget, and a request may set its own keep ratio. Both are part of the
  keys of vLLM's caches.
- A video goes through `pruning.prune_and_encode`, the code of every command of stts, on vLLM's own blocks. Block
  `prune_layer` + 1 takes a bias on its keys where the learned scorer is used, which vLLM's attention does not: it is
  computed here.
- Rows carry where they stand; positions are those of the whole video, dropped tokens left out (rows.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from vllm.distributed import get_tensor_model_parallel_world_size, get_tp_group
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention
from vllm.model_executor.models import qwen3_vl as stock
from vllm.model_executor.models import qwen3_vl_moe as stock_moe
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import PromptReplacement

from stts_cli import __version__
from stts_cli.errors import InputError
from stts_cli.pruning import TokenScorer, current_attention, prune_and_encode, scorer_from_state_dict
from stts_cli.serving import rows
from stts_cli.serving.settings import ServingSettings, requested_ratio
from stts_cli.settings import Execution, Layout

_LOG = logging.getLogger("vllm.stts")
RATIO = "stts_keep_ratio"  # the field of a video that carries its keep ratio from the processor to the model


class SttsProcessor(stock.Qwen3VLMultiModalProcessor):
    """Counts the tokens of pruned videos, and words them with all in the first unit, as vLLM's own pruning does."""

    @cached_property
    def settings(self) -> ServingSettings:
        """How the server prunes; read once, as the model reads it."""
        config = self.info.get_hf_config()
        return ServingSettings.of(getattr(config, "stts", None), config.vision_config.depth)

    @cached_property
    def _key(self) -> str:
        return self.settings.key

    def _get_mm_hashes(self, inputs: Any) -> Any:
        found = super()._get_mm_hashes(inputs)
        return {kind: [f"{one}-stts-{self._key}" for one in each] for kind, each in found.items()}

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        ratio = requested_ratio(hf_kwargs, self.settings)
        found = super()._apply_hf_processor_main(mm_items, _without_own(hf_kwargs))
        if "video_grid_thw" in found:
            found[RATIO] = torch.full((len(found["video_grid_thw"]),), ratio, dtype=torch.float64)
        return found

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]) -> Any:
        fields = super()._get_mm_fields_config(hf_inputs, _without_own(hf_processor_mm_kwargs))
        return {**fields, RATIO: MultiModalFieldConfig.batched("video")}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        pruning = self.settings.pruning
        updates = super()._get_prompt_updates(mm_items, _without_own(hf_processor_mm_kwargs), out_mm_kwargs)
        config, tokenizer = self.info.get_hf_config(), self.info.get_tokenizer()

        def words(number: int) -> Any:
            video = out_mm_kwargs["video"][number]
            units, windows = units_and_windows(video["video_grid_thw"].data, config.vision_config.spatial_merge_size)
            its = replace(pruning, keep_ratio=float(video[RATIO].data))
            counts = [units * windows - its.num_dropped(units, windows)] + [0] * (units - 1)
            return worded(config, tokenizer, video["timestamps"].data, counts)

        return [
            PromptReplacement(modality="video", target=update.target, replacement=words)
            if update.modality == "video"
            else update
            for update in updates
        ]


class _Vit:
    """vLLM's vision encoder on units of one layout, as `pruning.Vit` wants it."""

    def __init__(self, tower: Any, layout: Layout, scored: int) -> None:
        self.tower, self.layout, self.scored = tower, layout, scored
        self.vit_blocks = list(tower.blocks)
        self.taps = [*tower.deepstack_visual_indexes, len(self.vit_blocks) - 1]
        self.rotation: tuple[Tensor, Tensor] = tower.rot_pos_emb([[1, *layout.grid]])

    def embed(self, patches: Tensor) -> Tensor:
        """Turn patches (U, N, patch_dim) into what block 0 takes, (U, N, D)."""
        tower = self.tower
        hidden = tower.patch_embed(tower.input_norm(patches.flatten(0, 1).to(tower.device), tower.dtype))
        hidden = hidden + tower.fast_pos_embed_interpolate([[len(patches), *self.layout.grid]])
        return hidden.view(len(patches), self.layout.num_patches, -1)

    def parts(self, number: int) -> Sequence[int]:
        """Return nothing: every block attends over whole units."""
        return ()

    def run_block(self, number: int, hidden: Tensor) -> Tensor:
        """Run one block on units (U, N, D), or on the packed patches of several, (1, M, D)."""
        attention, (batch, length) = current_attention(), hidden.shape[:2]
        packed = None if attention is None else attention.packed
        if packed is not None:
            index, lengths = packed.index % self.layout.num_patches, packed.lengths
        else:
            index, lengths = torch.arange(length, device=hidden.device).repeat(batch), (length,) * batch
        cos, sin = (part.index_select(0, index) for part in self.rotation)
        x = hidden.reshape(batch * length, 1, -1)  # vLLM's blocks take the batch behind the sequence
        if attention is not None and attention.key_bias is not None and packed is None:
            x = _biased(self.vit_blocks[number], x, (cos, sin), attention.key_bias)
        else:
            x = self.vit_blocks[number](
                x, rotary_pos_emb_cos=cos, rotary_pos_emb_sin=sin, **_borders(self.tower, lengths)
            )
        if number == self.scored and get_tensor_model_parallel_world_size() > 1:
            x = get_tp_group().broadcast(x.contiguous(), src=0)  # so that all choose the same windows
        return x.view(batch, length, -1)


def _borders(tower: Any, lengths: Sequence[int]) -> dict[str, Any]:
    """Return what tells vLLM's attention where each sequence ends."""
    kind, device = tower.attn_backend, tower.device
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    longest = MMEncoderAttention.compute_max_seqlen(kind, ends)
    return {
        "sequence_lengths": MMEncoderAttention.maybe_compute_seq_lens(kind, ends, device),
        "max_seqlen": torch.tensor(longest, dtype=torch.int32),
        "cu_seqlens": MMEncoderAttention.maybe_recompute_cu_seqlens(
            kind, ends, tower.hidden_size, tower.tp_size, device, fp8_padded_hidden_size=tower.fp8_padded_hidden_size
        ),
    }


def _biased(block: Any, x: Tensor, rotation: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
    """Run a block on (U * N, 1, D) with a bias (U, N) on its keys, each unit for itself."""
    attention = block.attn
    heads, size = attention.num_attention_heads_per_partition, attention.hidden_size_per_attention_head
    qkv = attention.qkv(block.norm1(x))[0].view(len(x), 3, heads, size)
    q, k = attention.apply_rotary_emb(qkv[:, :2].transpose(0, 1).contiguous(), *rotation)
    q, k, v = (part.reshape(*bias.shape, heads, size).transpose(1, 2) for part in (q, k, qkv[:, 2]))
    out = scaled_dot_product_attention(q, k, v, attn_mask=bias[:, None, None].to(x.dtype))
    x = x + attention.proj(out.transpose(1, 2).reshape(len(x), 1, heads * size))[0]
    return x + block.mlp(block.norm2(x))


@MULTIMODAL_REGISTRY.register_processor(
    SttsProcessor, info=stock.Qwen3VLProcessingInfo, dummy_inputs=stock.Qwen3VLDummyInputsBuilder
)
class Qwen3VLSttsForConditionalGeneration(stock.Qwen3VLForConditionalGeneration):
    """vLLM's Qwen3-VL whose videos are pruned as `--hf-overrides '{"stts": ...}'` says."""

    def __init__(self, *, vllm_config: Any, prefix: str = "model") -> None:
        _refuse(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        vision = self.config.vision_config
        self.stts = ServingSettings.of(getattr(self.config, "stts", None), vision.depth)
        self._learned = [_load_scorer(self.stts, vision)]  # in a list: it is none of the weights that vLLM loads
        _LOG.info("stts %s: videos are pruned: %s", __version__, self.stts)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the model's weights; a scorer's beside them, which vLLM reads along, are none of these."""
        with torch.device("meta"):
            own = set(TokenScorer(8, 1, 8).state_dict())
        found: set[str] = super().load_weights((name, weight) for name, weight in weights if name not in own)
        return found

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Encode pictures as vLLM does and videos pruned; every row says where it stands."""
        found: list[Tensor] = []
        for kind, given in self._parse_and_validate_multimodal_inputs(**kwargs).items():
            if kind == "image":
                merge = self.visual.spatial_merge_size
                for rows_, (_, height, width) in zip(
                    self._process_image_input(given), given["image_grid_thw"].tolist(), strict=True
                ):
                    places = rows.positions_of_image(height // merge, width // merge)
                    found.append(rows.with_columns(rows_, places, 0))
            else:
                found += self._videos(given, kwargs.get(RATIO))
        return tuple(found)

    def _videos(self, given: Any, ratios: Any) -> list[Tensor]:
        if given["type"] == "video_embeds":
            raise ValueError("stts: video embeddings cannot be pruned; send the video.")
        grids = given["video_grid_thw"].tolist()
        own = self.stts.pruning.keep_ratio
        each = [own] * len(grids) if ratios is None else [float(ratio) for ratio in ratios]
        pixels = given["pixel_values_videos"].split([t * h * w for t, h, w in grids])
        return [self._video(*video) for video in zip(pixels, grids, given["timestamps"], each, strict=True)]

    def _video(self, pixels: Tensor, grid: Sequence[int], times: Any, keep_ratio: float) -> Tensor:
        """Encode one video: the rows of its stretch of the prompt, (L, D * (1 + DeepStack levels) + columns)."""
        merge, device = self.visual.spatial_merge_size, self.visual.device
        units, height, width = grid
        layout = Layout((height, width), (height, width), (merge, merge))
        pruning = self.stts.pruning.override(keep_ratio=keep_ratio)
        windows = torch.arange(height * width, device=device).view(-1, merge * merge)
        assert isinstance(pruning.prune_layer, int)
        vit = prune_and_encode(
            _Vit(self.visual, layout, pruning.prune_layer), pixels.view(units, height * width, -1), [units], pruning,
            layout, windows, learned=self._scorer(device), execution=Execution(kernel="sdpa"),
        )  # fmt: skip
        counts = vit.plan.keep_mask.sum(1).tolist()
        _LOG.info("stts: a video keeps %d of %d tokens", sum(counts), units * len(windows))
        ids = torch.tensor(worded(self.config, self._tokenizer, times, counts).full, device=device)
        number = [len(self._tokenizer.encode(_time(time), add_special_tokens=False)) + 1 for time in times]
        is_visual = ids == self.config.video_token_id
        text = self.get_language_model().embed_input_ids(ids)
        whole = text.new_zeros(len(ids), self.visual_dim + self.multiscale_dim)
        whole[:, : self.visual_dim] = text
        whole[is_visual] = self._connect(vit.features, vit.pool_index).to(whole.dtype)
        positions, visual = rows.positions_of_video(number, height // merge, width // merge)
        left = torch.ones_like(visual)
        left[visual] = vit.plan.keep_mask.flatten().cpu()
        return rows.with_columns(whole, positions[left], number[0])

    def _connect(self, features: Tensor, pool_index: Tensor) -> Tensor:
        """Turn features (M, D * taps) of kept patches into rows (V, D of the LM * taps), the token itself first."""
        tower = self.visual
        *deep, last = features.index_select(0, pool_index.flatten()).chunk(1 + len(tower.deepstack_merger_list), -1)
        mergers = zip([tower.merger, *tower.deepstack_merger_list], [last, *deep], strict=True)
        return torch.cat([merger(part.contiguous()) for merger, part in mergers], -1)

    def _scorer(self, device: torch.device) -> Any:
        if self._learned[0] is not None:
            self._learned[0] = self._learned[0].to(device, self.visual.dtype)
        return self._learned[0]

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Return the positions of a prompt's text; what belongs to media follows with its rows."""
        merge, media = self.config.vision_config.spatial_merge_size, []
        for each in sorted(mm_features, key=lambda feature: feature.mm_position.offset):
            grid = each.data["image_grid_thw" if each.modality == "image" else "video_grid_thw"].data.tolist()
            longer = max(grid[1:]) // merge
            extent = longer
            if each.modality == "video":
                texts = [
                    self._tokenizer.encode(_time(t), add_special_tokens=False) for t in each.data["timestamps"].data
                ]
                extent = sum(len(text) + 1 + longer + 1 for text in texts)
            media.append((each.mm_position.offset, each.mm_position.length, extent))
        return rows.positions_of_prompt(len(input_tokens), media)

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[Tensor], Tensor, int]:
        """Take the columns from this step's rows, and write the positions that they tell; see vLLM's own."""
        ends = int(mrope_positions.max()) + 1 - mrope_positions.shape[1]
        if not len(multimodal_embeddings):
            return multimodal_embeddings, mrope_positions, ends
        ids = torch.as_tensor(input_ids).cpu()
        pads = torch.isin(ids, torch.tensor([self.config.image_token_id, self.config.video_token_id])).nonzero()[:, 0]
        positions, at, stripped = mrope_positions.clone().cpu(), num_computed_tokens, []
        for each in multimodal_embeddings:
            plain, numbers = rows.without_columns(each)
            numbers = numbers.cpu()
            first = at if int(numbers[0, 3]) else int(pads[pads >= at][0]) - int(numbers[0, 4])
            at = rows.place(positions, numbers, first)
            stripped.append(plain)
        return stripped, positions.to(mrope_positions.device), ends


@MULTIMODAL_REGISTRY.register_processor(
    SttsProcessor, info=stock_moe.Qwen3VLMoeProcessingInfo, dummy_inputs=stock.Qwen3VLDummyInputsBuilder
)
class Qwen3VLMoeSttsForConditionalGeneration(
    Qwen3VLSttsForConditionalGeneration, stock_moe.Qwen3VLMoeForConditionalGeneration
):
    """The same with experts in the language model."""


def worded(config: Any, tokenizer: Any, times: Any, counts: Sequence[int]) -> Any:
    """Return a video's stretch of the prompt with so many tokens in each unit, as vLLM words it."""
    return stock.Qwen3VLMultiModalProcessor.get_video_repl(
        tokens_per_frame=list(counts), timestamps=times, tokenizer=tokenizer, video_token_id=config.video_token_id,
        vision_start_token_id=config.vision_start_token_id, vision_end_token_id=config.vision_end_token_id,
    )  # fmt: skip


def units_and_windows(grid: Any, merge: int) -> tuple[int, int]:
    """Return the units of a video and the windows of each, from its grid of patches (units, rows, columns)."""
    units, height, width = (int(each) for each in grid)
    return units, height * width // merge**2


def _time(seconds: float) -> str:
    """Word a unit's time as vLLM does."""
    return f"<{float(seconds):.1f} seconds>"


def _without_own(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key != "stts"}


def _load_scorer(settings: ServingSettings, vision: Any) -> Any:
    if settings.weights is None:
        return None
    sizes = {
        "hidden_size": vision.hidden_size, "num_heads": vision.num_heads, "mlp_size": vision.intermediate_size,
        "head_dim": vision.hidden_size // vision.num_heads,
    }  # fmt: skip
    try:
        return scorer_from_state_dict(load_file(settings.weights), sizes).eval().requires_grad_(False)
    except Exception as error:
        raise InputError(
            f"{settings.weights}: does not fit the model ({' '.join(str(error).split())[:200]})."
        ) from error


def _refuse(config: Any) -> None:
    """Refuse what would give wrong positions or row counts, before anything is loaded."""
    multimodal, parallel = config.model_config.get_multimodal_config(), config.parallel_config
    lora = config.lora_config
    wrong = {
        "--video-pruning-rate: is missing; give 0.5: it makes vLLM ask where rows stand, keep_ratio says how many.": (
            not multimodal.is_multimodal_pruning_enabled()
        ),
        "--pipeline-parallel-size: must be 1: only the first stage learns positions.": (
            parallel.pipeline_parallel_size > 1
        ),
        "--mm-encoder-tp-mode data: cannot go with pruned videos; leave it out.": (
            multimodal.mm_encoder_tp_mode == "data"
        ),
        "--enable-mm-embeds: cannot go with pruned videos: embeddings hold every token.": (
            getattr(multimodal, "enable_mm_embeds", False)
        ),
        "--enable-tower-connector-lora: cannot go with pruned videos: it counts the tokens of whole ones.": (
            getattr(lora, "enable_tower_connector_lora", False)
        ),
    }
    for line, holds in wrong.items():
        if holds:
            raise InputError(f"stts: {line}")
