"""A tiny random InternVL as the hub has them in transformers' format, and what the stock processor makes of a video.

`PYTHONPATH=. python tests/families/tiny_internvl.py` writes data/internvl.npz anew; it needs torchvision.
"""

from pathlib import Path

import numpy as np
import torch

from tests.families.tiny import QUESTION, byte_tokenizer, declare_torchvision_operators, random_frames, save_tiny

STORED = Path(__file__).with_name("data") / "internvl.npz"
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>",
)  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'video' %}"
    "<video>\n{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IMAGE_PROCESSOR = {
    "image_processor_type": "GotOcr2ImageProcessorFast", "crop_to_patches": False, "do_normalize": True,
    "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.4, 0.5], "image_std": [0.5, 0.5, 0.25],
    "max_patches": 12, "min_patches": 1, "resample": 3, "rescale_factor": 0.00392156862745098,
    "size": {"height": 24, "width": 24},
}  # fmt: skip
TEXTS = {  # what the language models of the line are, and what each has beside the others
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "llama": {"head_dim": 8},
}


def tokenizer():
    """Byte tokens and the special ones, with the names that the stock processor asks for."""
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    return byte_tokenizer(
        SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE,
        extra_special_tokens={**names, "video_token": "<video>"},
    )  # fmt: skip


def save_internvl(folder, *, scorer=False, text="qwen3", vision=None):
    """Write a checkpoint with random weights, with a learned scorer if asked; `vision` changes the ViT's config."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    words = tokenizer()
    torch.manual_seed(0)
    config = InternVLConfig(
        vision_config={"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 6, "num_attention_heads": 2,
                       "image_size": [24, 24], "patch_size": [4, 4], "attention_bias": True, **(vision or {})},
        text_config={"model_type": text, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
                     "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(words),
                     "max_position_embeddings": 4096, "pad_token_id": words.pad_token_id, **TEXTS[text]},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=9, tie_word_embeddings=False,
    )  # fmt: skip
    files = {
        "preprocessor_config.json": IMAGE_PROCESSOR,
        "processor_config.json": {"image_seq_length": 9, "processor_class": "InternVLProcessor"},
    }
    sizes = (16, 2, 24, 8) if scorer else None
    return save_tiny(folder, InternVLForConditionalGeneration(config), words, files, scorer_sizes=sizes)


def given_frames():
    """Full-size frames of three shapes: wide, tall, and no larger than the model's."""
    return random_frames((2, 45, 80), (2, 71, 40), (2, 20, 24))


def _store():
    """Let the stock processor word a prompt and make pixels."""
    import tempfile

    declare_torchvision_operators()
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    with tempfile.TemporaryDirectory() as folder:
        save_internvl(Path(folder))
        video_processor = InternVLVideoProcessor.from_pretrained(folder)
        processor = InternVLProcessor(
            GotOcr2ImageProcessor.from_pretrained(folder), tokenizer(), video_processor, 9, chat_template=TEMPLATE
        )
    found = {}
    for k, frames in enumerate(given_frames()):
        made = video_processor([torch.from_numpy(frames).permute(0, 3, 1, 2)], return_tensors="np")
        found[f"pixels_{k}"] = made.pixel_values_videos
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    made = processor(text=[text], videos=[np.zeros((11, 3, 45, 80), np.uint8)], return_tensors="pt")
    np.savez_compressed(STORED, input_ids=made["input_ids"][0].numpy(), **found)


if __name__ == "__main__":
    _store()
