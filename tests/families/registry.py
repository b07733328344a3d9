"""The tiny random checkpoint of each family that what holds for every family is tested with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.families.tiny_gemma4 import save_gemma4
from tests.families.tiny_glm4v import save_glm4v
from tests.families.tiny_internvl import save_internvl
from tests.families.tiny_qwen2_vl import save_qwen2_vl
from tests.families.tiny_qwen3_5 import save_qwen3_5
from tests.families.tiny_qwen3_vl import save_qwen3_vl
from tests.families.tiny_smolvlm import save_smolvlm
from tests.families.tiny_video_llama_3 import save_video_llama_3


@dataclass(frozen=True)
class Tiny:
    """One family's checkpoint."""

    save: Callable[..., Path]  # (folder, *, scorer=False) -> folder
    size: tuple[int, int]  # height and width of a frame that the family's rule leaves as it is
    parts: dict[str, str]  # by part of the model, what its parameters' names hold; " or " between several
    shape: dict[str, Any]  # sizes for `stts profile --shape`
    padding_flops: int = 0  # that torch counts beyond the tokens of a prompt, for what its convolutions are padded with


TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "num_hidden_layers": 2, "vocab_size": 300, "max_position_embeddings": 4096,
}  # fmt: skip
SHAPE = {"description": "small", "prune_layer": 1, "keep_ratio": 0.5, "text_config": TEXT}
QWEN3_VL = {
    **SHAPE, "model_type": "qwen3_vl", "tie_word_embeddings": False, "size": [1024, 9216], "frame_size": [48, 64],
    "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "depth": 5, "patch_size": 8,
                      "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16,
                      "deepstack_visual_indexes": [1, 3]},
}  # fmt: skip
QWEN2_VL = {
    **SHAPE, "tie_word_embeddings": False, "size": [512, 4096], "frame_size": [48, 64],
    "text_config": {**TEXT, "model_type": "qwen2"},
}  # fmt: skip
UNITS = {"num_heads": 2, "depth": 5, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
QWEN3_5 = {
    **QWEN3_VL, "model_type": "qwen3_5",
    "vision_config": {k: v for k, v in QWEN3_VL["vision_config"].items() if k != "deepstack_visual_indexes"},
    "text_config": {**TEXT, "head_dim": 32, "layer_types": ["linear_attention", "full_attention"],
                    "linear_conv_kernel_dim": 4, "linear_num_key_heads": 1, "linear_num_value_heads": 2,
                    "linear_key_head_dim": 8, "linear_value_head_dim": 8},
}  # fmt: skip
GLM = {
    **SHAPE, "tie_word_embeddings": False, "size": [1024, 9216], "frame_size": [48, 64],
    "vision_config": {**UNITS, "hidden_size": 32, "intermediate_size": 40, "out_hidden_size": 32, "image_size": 32},
}  # fmt: skip
TINY = {
    "gemma4": Tiny(
        save_gemma4,
        (36, 48),
        {"vit": "vision_tower", "connector": "embed_vision", "llm": "language_model or lm_head"},
        {**SHAPE, "model_type": "gemma4", "max_soft_tokens": 12,
         "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "head_dim": 16,
                           "num_hidden_layers": 5, "patch_size": 4, "pooling_kernel_size": 3,
                           "position_embedding_size": 40},
         "text_config": {**TEXT, "num_hidden_layers": 4, "global_head_dim": 32, "sliding_window": 64,
                         "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
                         "use_double_wide_mlp": True, "hidden_size_per_layer_input": 8}},
    ),
    "glm46v": Tiny(
        save_glm4v,
        (16, 40),
        {"vit": ".visual.", "connector": "merger", "llm": "language_model or lm_head"},
        {**GLM, "model_type": "glm46v"},
    ),
    "glm4v": Tiny(
        partial(save_glm4v, model_type="glm4v"),
        (16, 40),
        {"vit": ".visual.", "connector": "merger", "llm": "language_model or lm_head"},
        {**GLM, "model_type": "glm4v"},
    ),
    "internvl": Tiny(
        save_internvl,
        (24, 24),
        {"vit": "vision_tower", "connector": "multi_modal_projector", "llm": "language_model or lm_head"},
        {**SHAPE, "model_type": "internvl", "tie_word_embeddings": False, "downsample_ratio": 0.5,
         "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 5,
                           "image_size": 32, "patch_size": 8, "norm_type": "layer_norm", "attention_bias": True,
                           "use_qk_norm": False, "use_mean_pooling": True, "use_absolute_position_embeddings": True},
         "text_config": {**TEXT, "model_type": "qwen3"}},
    ),
    "smolvlm": Tiny(
        save_smolvlm,
        (24, 24),
        {"vit": "vision_model", "connector": "connector", "llm": "text_model or lm_head"},
        {**SHAPE, "model_type": "smolvlm", "scale_factor": 2,
         "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 5,
                           "image_size": 32, "patch_size": 8}},
    ),
    "qwen2_vl": Tiny(
        partial(save_qwen2_vl, model_type="qwen2_vl"),
        (24, 40),
        {"vit": ".visual.", "connector": "merger", "llm": "language_model or lm_head"},
        {**QWEN2_VL, "model_type": "qwen2_vl",
         "vision_config": {**UNITS, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}},
    ),
    "qwen2_5_vl": Tiny(
        save_qwen2_vl,
        (24, 40),
        {"vit": ".visual.", "connector": "merger", "llm": "language_model or lm_head"},
        {**QWEN2_VL, "model_type": "qwen2_5_vl",
         "vision_config": {**UNITS, "hidden_size": 32, "intermediate_size": 48, "window_size": 32,
                           "fullatt_block_indexes": [1, 4]}},
    ),
    "qwen3_5": Tiny(
        save_qwen3_5,
        (16, 40),
        {"vit": ".visual.", "connector": "merger", "llm": "language_model or lm_head"},
        QWEN3_5,
        padding_flops=2 * 2 * 3 * 4 * 28,  # 2 layers, 3 places before the first token, 4 weights of each of 28 numbers
    ),
    "qwen3_5_moe": Tiny(
        partial(save_qwen3_5, model_type="qwen3_5_moe"),
        (16, 40),
        {"vit": ".visual.", "connector": "merger", "llm": "language_model or lm_head"},
        {**QWEN3_5, "model_type": "qwen3_5_moe", "text_config": {**QWEN3_5["text_config"], **EXPERTS}},
        padding_flops=2 * 2 * 3 * 4 * 28,
    ),
    "qwen3_vl": Tiny(
        save_qwen3_vl,
        (16, 40),
        {"vit": ".visual.", "connector": "merger", "llm": "language_model or lm_head"},
        QWEN3_VL,
    ),
    "qwen3_vl_moe": Tiny(
        partial(save_qwen3_vl, model_type="qwen3_vl_moe"),
        (16, 40),
        {"vit": ".visual.", "connector": "merger", "llm": "language_model or lm_head"},
        {**QWEN3_VL, "model_type": "qwen3_vl_moe", "text_config": {**TEXT, **EXPERTS}},
    ),
    "video_llama_3": Tiny(
        save_video_llama_3,
        (16, 40),
        {"vit": "vision_model", "connector": ".projector.", "llm": "language_model or lm_head"},
        {**SHAPE, "model_type": "video_llama_3", "tie_word_embeddings": False, "merge_size": 2, "size": [1024, 9216],
         "frame_size": [48, 64],
         "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 5,
                           "patch_size": 8},
         "text_config": {**TEXT, "model_type": "qwen2"}},
    ),
}  # fmt: skip
# one of each kind: frames of one size and of the video's own, a state that is no cache, rows apart, windows in the ViT
OF_EACH_KIND = ("smolvlm", "qwen3_vl", "qwen3_5", "gemma4", "qwen2_5_vl")
EVERY = [name if name in OF_EACH_KIND else pytest.param(name, marks=pytest.mark.thorough) for name in TINY]
