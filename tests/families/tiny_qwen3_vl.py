"""A tiny random Qwen3-VL as the hub has them, and what the stock processor makes of a video.

`PYTHONPATH=. python tests/families/tiny_qwen3_vl.py` writes data/qwen3_vl.npz anew; it needs torchvision.
"""

from pathlib import Path

import numpy as np
import torch

from tests.families.tiny import QUESTION, byte_tokenizer, declare_torchvision_operators, random_frames, save_tiny

STORED = Path(__file__).with_name("data") / "qwen3_vl.npz"
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VIDEO_PROCESSOR = {
    "video_processor_type": "Qwen3VLVideoProcessor", "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2,
    "size": {"shortest_edge": 1024, "longest_edge": 9216}, "image_mean": [0.5, 0.4, 0.5], "image_std": [0.5, 0.5, 0.25],
    "cap_pixels_per_frame": False,
}  # fmt: skip
TIMES = [0.0, 0.5, 1.0, 9.9, 61.5]  # of the stored prompt's frames


def tokenizer():
    """Byte tokens and the special ones."""
    return byte_tokenizer(SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE)


def save_qwen3_vl(folder, *, scorer=False, model_type="qwen3_vl"):
    """Write a checkpoint with random weights, with a learned scorer if asked."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    words = tokenizer()
    torch.manual_seed(0)
    marks = ("vision_start", "vision_end")
    ids = {f"{name}_token_id": words.convert_tokens_to_ids(f"<|{name}|>") for name in marks}
    experts = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
    config = AutoConfig.for_model(
        model_type,
        vision_config={"hidden_size": 16, "intermediate_size": 24, "depth": 6, "num_heads": 2, "patch_size": 4,
                       "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 16,
                       "num_position_embeddings": 16, "deepstack_visual_indexes": [1, 3]},
        text_config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
                     "num_key_value_heads": 1, "head_dim": 8, "vocab_size": len(words), "max_position_embeddings": 4096,
                     **(experts if model_type == "qwen3_vl_moe" else {}),
                     "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1],
                                         "mrope_interleaved": True}},
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"), **ids,
    )  # fmt: skip
    files = {"video_preprocessor_config.json": VIDEO_PROCESSOR}
    sizes = (16, 2, 24, 8) if scorer else None
    return save_tiny(folder, AutoModelForImageTextToText.from_config(config), words, files, scorer_sizes=sizes)


def given_frames():
    """Full-size frames of four kinds: wide and too large, tall and odd in number, small, and a lone tiny one."""
    return random_frames((4, 45, 80), (5, 71, 40), (2, 20, 24), (2, 9, 7))


def made_pixels(save):
    """Let the stock processor make pixels, with the settings that `save` writes."""
    import tempfile

    declare_torchvision_operators()
    from transformers import Qwen3VLVideoProcessor

    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        video_processor = Qwen3VLVideoProcessor.from_pretrained(folder)
    found = {}
    for k, frames in enumerate(given_frames()):
        made = video_processor(
            [torch.from_numpy(frames).permute(0, 3, 1, 2)], return_tensors="np", do_sample_frames=False
        )
        found |= {f"pixels_{k}": made.pixel_values_videos, f"grid_{k}": made.video_grid_thw[0]}
    return found


def made_prompt(words, **template):
    """Let the stock processor word a prompt with a tokenizer; `template` are variables of its chat template."""
    declare_torchvision_operators()
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    sizes = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    video_processor = Qwen3VLVideoProcessor(**sizes, size=VIDEO_PROCESSOR["size"])
    images = Qwen2VLImageProcessor(**sizes)
    processor = Qwen3VLProcessor(images, words, video_processor, chat_template=words.chat_template)
    metadata = VideoMetadata(
        total_num_frames=700, fps=10.0, duration=70.0, frames_indices=[round(10 * time) for time in TIMES]
    )
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, **template)
    frames = np.zeros((5, 3, 24, 24), np.uint8)
    made = processor(
        text=[text], videos=[frames], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
    )
    return {"input_ids": made["input_ids"][0].numpy(), "grid": made["video_grid_thw"][0].numpy()}


if __name__ == "__main__":
    np.savez_compressed(STORED, **made_prompt(tokenizer()), **made_pixels(save_qwen3_vl))
