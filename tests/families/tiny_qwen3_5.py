"""A tiny random Qwen3.5 as the hub has them, and how the stock processor words a video, whose pixels are Qwen3-VL's.

`PYTHONPATH=. python tests/families/tiny_qwen3_5.py` writes data/qwen3_5.npz anew; it needs torchvision.
"""

from pathlib import Path

import numpy as np
import torch

from tests.families.tiny import byte_tokenizer, save_tiny
from tests.families.tiny_qwen3_vl import SPECIAL, VIDEO_PROCESSOR, made_prompt

STORED = Path(__file__).with_name("data") / "qwen3_5.npz"
TEMPLATE = (  # thinks unless told not to, and leaves the thinking of all answers but the last out
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
    "<think>\n\n</think>\n\n{% endif %}{% for c in m.content %}"
    "{% if c.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}"
    "{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% else %}<think>\n"
    "{% endif %}{% endif %}"
)
EXPERTS = {
    "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 20,
}  # fmt: skip


def tokenizer():
    """Byte tokens and the special ones."""
    words = (*SPECIAL, "<think>", "</think>")
    return byte_tokenizer(words, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE)


def save_qwen3_5(folder, *, scorer=False, model_type="qwen3_5"):
    """Write a checkpoint with random weights, with a learned scorer if asked."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    words = tokenizer()
    torch.manual_seed(0)
    tokens = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    ids = {f"{name}_token_id": words.convert_tokens_to_ids(f"<|{token}|>") for name, token in tokens.items()}
    config = AutoConfig.for_model(
        model_type,
        vision_config={"hidden_size": 16, "intermediate_size": 24, "depth": 6, "num_heads": 2, "patch_size": 4,
                       "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 16,
                       "num_position_embeddings": 16},
        text_config={"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1,
                     "head_dim": 32, "vocab_size": len(words), "max_position_embeddings": 4096,
                     "linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
                     "linear_value_head_dim": 6,
                     "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
                     **(EXPERTS if model_type == "qwen3_5_moe" else {"intermediate_size": 32}),
                     "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
                                         "mrope_section": [2, 1, 1], "mrope_interleaved": True}},
        **ids,
    )  # fmt: skip
    files = {"video_preprocessor_config.json": VIDEO_PROCESSOR}
    sizes = (16, 2, 24, 8) if scorer else None
    return save_tiny(folder, AutoModelForImageTextToText.from_config(config), words, files, scorer_sizes=sizes)


if __name__ == "__main__":
    prompts = {name: made_prompt(tokenizer(), enable_thinking=name == "thinking") for name in ("plain", "thinking")}
    np.savez_compressed(STORED, **{name: prompt["input_ids"] for name, prompt in prompts.items()})
