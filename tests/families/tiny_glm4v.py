"""A tiny random GLM-4.1V or GLM-4.6V as the hub has them, and what the stock processors make of a video.

`PYTHONPATH=. python tests/families/tiny_glm4v.py` writes data/glm4v.npz anew; it needs torchvision.
"""

from pathlib import Path

import numpy as np
import torch

from tests.families.tiny import QUESTION, byte_tokenizer, declare_torchvision_operators, random_frames, save_tiny

STORED = Path(__file__).with_name("data") / "glm4v.npz"
MARKS = {
    "image_start": "<|begin_of_image|>", "image_end": "<|end_of_image|>", "video_start": "<|begin_of_video|>",
    "video_end": "<|end_of_video|>", "image": "<|image|>", "video": "<|video|>",
}  # fmt: skip
SPECIAL = ("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", *MARKS.values(), "<think>", "</think>")
USER = (
    "[gMASK]<sop>{% for m in messages %}{% if m.role == 'user' %}<|user|>\n{% for c in m.content %}"
    "{% if c.type == 'video' %}<|begin_of_video|><|video|><|end_of_video|>{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}"
)
TEMPLATES = {
    "glm4v": USER + "{% else %}<|assistant|>\n{% for c in m.content %}{{ c.text }}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "glm46v": USER + "{{ '/nothink' if enable_thinking is defined and not enable_thinking else '' }}"
    "{% else %}<|assistant|>\n<think></think>\n{% for c in m.content %}{{ c.text }}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{{ '\n<think></think>' if enable_thinking is defined and not "
    "enable_thinking else '' }}{% endif %}",
}
VIDEO_PROCESSOR = {
    "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, "size": {"shortest_edge": 1024, "longest_edge": 9216},
    "image_mean": [0.5, 0.4, 0.5], "image_std": [0.5, 0.5, 0.25],
}  # fmt: skip
CASES = [
    (720, 1280, 64),
    (1080, 1920, 385),
    (240, 320, 5),
    (9, 7, 7),
    (2800, 3080, 5),
]  # height, width, frames of stored sizes
TIMES = [0.0, 0.5, 1.0, 9.9, 61.5]  # of the stored prompt's frames


def tokenizer(model_type):
    """Byte tokens and the special ones."""
    return byte_tokenizer(
        SPECIAL, eos_token="<|endoftext|>", pad_token="<|endoftext|>", chat_template=TEMPLATES[model_type]
    )


def save_glm4v(folder, *, scorer=False, model_type="glm46v"):
    """Write a checkpoint with random weights, with a learned scorer if asked."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    words = tokenizer(model_type)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        vision_config={"hidden_size": 16, "intermediate_size": 28, "out_hidden_size": 32, "depth": 6, "num_heads": 2,
                       "image_size": 16, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2},
        text_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
                     "num_key_value_heads": 1, "vocab_size": len(words),
                     "max_position_embeddings": 4096,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
                                         "mrope_section": [2, 1, 1]}},
        **{f"{name}_token_id": words.convert_tokens_to_ids(token) for name, token in MARKS.items()},
    )  # fmt: skip
    files = {"video_preprocessor_config.json": VIDEO_PROCESSOR}
    sizes = (16, 2, 32, 8) if scorer else None
    return save_tiny(folder, AutoModelForImageTextToText.from_config(config), words, files, scorer_sizes=sizes)


def given_frames():
    """Full-size frames of four kinds: wide and too large, tall and odd in number, small, and a tiny one."""
    return random_frames((4, 45, 80), (5, 71, 40), (2, 20, 24), (2, 9, 7))


def _store():
    """Let the stock processors word prompts and make pixels."""
    declare_torchvision_operators()
    import transformers
    from transformers.models.glm46v.video_processing_glm46v import smart_resize
    from transformers.video_utils import VideoMetadata

    sizes = [smart_resize(frames, height, width, 2, 28, 12544, 47040000) for height, width, frames in CASES]
    found = {"sizes": np.array(sizes)}
    for model_type, name in (("glm4v", "Glm4v"), ("glm46v", "Glm46V")):
        video_processor = getattr(transformers, f"{name}VideoProcessor")(**VIDEO_PROCESSOR)
        images = getattr(transformers, f"{name}ImageProcessor")(patch_size=4, temporal_patch_size=2, merge_size=2)
        words = tokenizer(model_type)
        processor = getattr(transformers, f"{name}Processor")(
            images, words, video_processor, chat_template=words.chat_template
        )
        for k, frames in enumerate(given_frames()):
            made = video_processor(
                [torch.from_numpy(frames).permute(0, 3, 1, 2)], return_tensors="np", do_sample_frames=False
            )
            pixels = made.pixel_values_videos
            if model_type == "glm46v":
                assert np.array_equal(pixels, found[f"pixels_{k}"]), "one video processor for both"
            found |= {f"pixels_{k}": pixels, f"grid_{k}": made.video_grid_thw[0]}
        metadata = VideoMetadata(
            total_num_frames=700, fps=10.0, duration=70.0, frames_indices=[round(10 * time) for time in TIMES]
        )
        content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, enable_thinking=False
        )
        frames = np.zeros((5, 3, 24, 24), np.uint8)
        made = processor(
            text=[text], videos=[frames], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
        )
        found |= {f"{model_type}_ids": made["input_ids"][0].numpy(), "grid": made["video_grid_thw"][0].numpy()}
    np.savez_compressed(STORED, **found)


if __name__ == "__main__":
    _store()
