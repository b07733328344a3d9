"""A tiny random Gemma 4 as the hub has its small ones, and what the stock processor makes of a video.

`PYTHONPATH=. python tests/families/tiny_gemma4.py` writes data/gemma4.npz anew; it needs torchvision.
"""

from pathlib import Path

import numpy as np
import torch

from tests.families.tiny import QUESTION, byte_tokenizer, declare_torchvision_operators, random_frames, save_tiny

STORED = Path(__file__).with_name("data") / "gemma4.npz"
SPECIAL = (
    "<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|image|>", "<|image>", "<image|>", "<|audio|>", "<|audio>",
    "<audio|>", "<|video|>",
)  # fmt: skip
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% for c in m.content %}{% if c.type == 'video' %}\n\n<|video|>\n\n{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "<turn|>\n{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
VIDEO_PROCESSOR = {
    "video_processor_type": "Gemma4VideoProcessor", "patch_size": 4, "pooling_kernel_size": 3, "max_soft_tokens": 70,
    "image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0], "resample": 3, "do_sample_frames": False,
}  # fmt: skip
TIMES = [0.0, 9.9, 61.5]  # of the stored prompt's frames
TEXT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 6, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "global_head_dim": 16, "max_position_embeddings": 4096,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True, "hidden_size_per_layer_input": 4, "sliding_window": 1024,
    "final_logit_softcapping": 30.0,
}  # fmt: skip


def tokenizer():
    """Byte tokens and the special ones, with the names that the stock processor asks for."""
    names = {
        "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>", "audio_token": "<|audio|>",
        "boa_token": "<|audio>", "eoa_token": "<audio|>",
    }  # fmt: skip
    return byte_tokenizer(
        SPECIAL, bos_token="<bos>", eos_token="<turn|>", pad_token="<pad>", chat_template=TEMPLATE,
        extra_special_tokens=names,
    )  # fmt: skip


def save_gemma4(folder, *, scorer=False, text=None, vision=None):
    """Write a checkpoint with random weights, with a learned scorer if asked; `text` and `vision` change the config."""
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    words = tokenizer()
    torch.manual_seed(0)
    names = {"image": "<|image|>", "video": "<|video|>", "audio": "<|audio|>", "boi": "<|image>", "eoi": "<image|>"}
    ids = {f"{name}_token_id": words.convert_tokens_to_ids(token) for name, token in names.items()}
    config = Gemma4Config(
        vision_config={"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 6, "num_attention_heads": 2,
                       "num_key_value_heads": 2, "head_dim": 8, "patch_size": 4, "position_embedding_size": 40,
                       **(vision or {})},
        text_config={**TEXT, "vocab_size": len(words), "vocab_size_per_layer_input": len(words),
                     "pad_token_id": words.pad_token_id, **(text or {})},
        audio_config=None, **ids,
    )  # fmt: skip
    files = {"video_preprocessor_config.json": VIDEO_PROCESSOR}
    sizes = (16, 2, 24, 8) if scorer else None
    return save_tiny(folder, Gemma4ForConditionalGeneration(config), words, files, scorer_sizes=sizes)


def given_frames():
    """Full-size frames of three kinds: tall, twice as wide as tall, and of just the most patches."""
    return random_frames((1, 71, 40), (1, 100, 200), (1, 84, 120))


def _store():
    """Let the stock processor word a prompt and make pixels."""
    import tempfile

    declare_torchvision_operators()
    from transformers import Gemma4AudioFeatureExtractor, Gemma4ImageProcessor, Gemma4Processor, Gemma4VideoProcessor
    from transformers.video_utils import VideoMetadata

    with tempfile.TemporaryDirectory() as folder:
        save_gemma4(Path(folder))
        video_processor = Gemma4VideoProcessor.from_pretrained(folder)
    images = Gemma4ImageProcessor(patch_size=4, pooling_kernel_size=3)
    processor = Gemma4Processor(
        Gemma4AudioFeatureExtractor(), images, tokenizer(), video_processor, chat_template=TEMPLATE
    )
    found = {}
    for k, frames in enumerate(given_frames()):
        made = video_processor([torch.from_numpy(frames).permute(0, 3, 1, 2)], return_tensors="np")
        found |= {f"pixels_{k}": made.pixel_values_videos, f"places_{k}": made.video_position_ids}
    metadata = VideoMetadata(
        total_num_frames=700, fps=10.0, duration=70.0, frames_indices=[round(10 * time) for time in TIMES]
    )
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    frames = np.zeros((len(TIMES), 3, 90, 160), np.uint8)
    made = processor(
        text=[text], videos=[frames], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
    )
    np.savez_compressed(STORED, input_ids=made["input_ids"][0].numpy(), **found)


if __name__ == "__main__":
    _store()
