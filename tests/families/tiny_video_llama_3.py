"""A tiny random VideoLLaMA3 as the hub has them in transformers' format, and what the stock processor makes of a video.

`PYTHONPATH=. python tests/families/tiny_video_llama_3.py` writes data/video_llama_3.npz anew; it needs torchvision.
"""

from pathlib import Path

import numpy as np
import torch

from tests.families.tiny import QUESTION, byte_tokenizer, declare_torchvision_operators, random_frames, save_tiny

STORED = Path(__file__).with_name("data") / "video_llama_3.npz"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'video' %}"
    "<|video_pad|>\n{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VIDEO_PROCESSOR = {
    "video_processor_type": "VideoLlama3VideoProcessor", "patch_size": 4, "temporal_patch_size": 1, "merge_size": 2,
    "min_pixels": 256, "max_pixels": 5120, "image_mean": [0.5, 0.4, 0.5], "image_std": [0.5, 0.5, 0.25],
    "use_token_compression": False, "resample": 3,
}  # fmt: skip
TIMES = [0.0, 0.5, 9.9, 61.5]  # of the stored prompt's frames


def tokenizer():
    """Byte tokens and the special ones."""
    return byte_tokenizer(SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE)


def save_video_llama_3(folder, *, scorer=False):
    """Write a checkpoint with random weights, with a learned scorer if asked."""
    from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration

    words = tokenizer()
    torch.manual_seed(0)
    config = VideoLlama3Config(
        vision_config={"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 6, "num_attention_heads": 2,
                       "patch_size": 4},
        text_config={"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
                     "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(words),
                     "max_position_embeddings": 4096, "pad_token_id": words.pad_token_id},
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
    )  # fmt: skip
    files = {"video_preprocessor_config.json": VIDEO_PROCESSOR}
    sizes = (16, 2, 24, 8) if scorer else None
    return save_tiny(folder, VideoLlama3ForConditionalGeneration(config), words, files, scorer_sizes=sizes)


def given_frames():
    """Full-size frames of four kinds: wide and too large, tall, too small, and so narrow that a side is one window."""
    return random_frames((4, 45, 80), (5, 71, 40), (2, 9, 11), (2, 4, 90))


def _store():
    """Let the stock processor word a prompt and make pixels."""
    import tempfile

    declare_torchvision_operators()
    from transformers import VideoLlama3ImageProcessor, VideoLlama3Processor, VideoLlama3VideoProcessor
    from transformers.video_utils import VideoMetadata

    with tempfile.TemporaryDirectory() as folder:
        save_video_llama_3(Path(folder))
        video_processor = VideoLlama3VideoProcessor.from_pretrained(folder)
    processor = VideoLlama3Processor(
        VideoLlama3ImageProcessor(patch_size=4), tokenizer(), video_processor, chat_template=TEMPLATE
    )
    found = {}
    for k, frames in enumerate(given_frames()):
        made = video_processor([torch.from_numpy(frames).permute(0, 3, 1, 2)], return_tensors="np")
        found |= {f"pixels_{k}": made.pixel_values_videos, f"grid_{k}": made.video_grid_thw[0]}
    metadata = VideoMetadata(
        total_num_frames=700, fps=10.0, duration=70.0, frames_indices=[round(10 * time) for time in TIMES]
    )
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    frames = np.zeros((len(TIMES), 3, 24, 24), np.uint8)
    made = processor(text=[text], videos=[frames], video_metadata=[metadata], return_tensors="pt")
    np.savez_compressed(STORED, input_ids=made["input_ids"][0].numpy(), grid=made["video_grid_thw"][0].numpy(), **found)


if __name__ == "__main__":
    _store()
