"""A tiny random SmolVLM2 as the hub has them, and what the stock processor makes of a video.

`PYTHONPATH=. python tests/families/tiny_smolvlm.py` writes data/smolvlm.npz anew; it needs torchvision and num2words.
"""

from pathlib import Path

import numpy as np
import torch

from tests.families.tiny import QUESTION, byte_tokenizer, declare_torchvision_operators, random_frames, save_tiny

STORED = Path(__file__).with_name("data") / "smolvlm.npz"
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>",
    "<global-img>",
)  # fmt: skip
IMAGE_PROCESSOR = {
    "do_convert_rgb": True, "do_image_splitting": True, "do_normalize": True, "do_pad": True, "do_rescale": True,
    "do_resize": True, "image_mean": [0.5, 0.4, 0.5], "image_processor_type": "SmolVLMImageProcessor",
    "image_std": [0.5, 0.5, 0.25], "max_image_size": {"longest_edge": 24}, "processor_class": "SmolVLMProcessor",
    "resample": 1, "rescale_factor": 0.00392156862745098, "size": {"longest_edge": 96},
    "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 32}},
}  # fmt: skip
TIMES = [0.0, 9.9, 61.5]  # of the stored prompt's frames, in a video of 75.2 s


def tokenizer():
    """Byte tokens that split as SmolLM2's do: two line breaks are one token alone, and two before a word."""
    return byte_tokenizer(
        SPECIAL, merges=[("Ċ", "Ċ")], digits_apart=True, bos_token="<|im_start|>", eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
    )  # fmt: skip


def save_smolvlm(folder, *, scorer=False):
    """Write a checkpoint with random weights, with a learned scorer if asked."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    words = tokenizer()
    torch.manual_seed(0)
    config = SmolVLMConfig(
        vision_config={"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 6, "num_attention_heads": 2,
                       "image_size": 24, "patch_size": 4},
        text_config={"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
                     "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(words),
                     "max_position_embeddings": 4096, "pad_token_id": words.pad_token_id},
        scale_factor=2, image_token_id=words.convert_tokens_to_ids("<image>"), pad_token_id=words.pad_token_id,
    )  # fmt: skip
    files = {
        "preprocessor_config.json": IMAGE_PROCESSOR,
        "processor_config.json": {"image_seq_len": 9, "processor_class": "SmolVLMProcessor"},
    }
    sizes = (16, 2, 24, 8) if scorer else None
    return save_tiny(folder, SmolVLMForConditionalGeneration(config), words, files, scorer_sizes=sizes)


def given_frames():
    """Full-size frames of three shapes: wide, tall, and no larger than the model's."""
    return random_frames((2, 45, 80), (2, 71, 40), (2, 20, 24))


def _store():
    """Let the stock processor word a prompt and make pixels."""
    import tempfile

    declare_torchvision_operators()
    from transformers import SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor
    from transformers.video_utils import VideoMetadata

    with tempfile.TemporaryDirectory() as folder:
        save_smolvlm(Path(folder))
        video_processor = SmolVLMVideoProcessor.from_pretrained(folder)
        processor = SmolVLMProcessor(SmolVLMImageProcessor.from_pretrained(folder), tokenizer(), video_processor, 9)
    found = {
        f"pixels_{k}": video_processor([torch.from_numpy(frames).permute(0, 3, 1, 2)], return_tensors="np").pixel_values
        for k, frames in enumerate(given_frames())
    }
    metadata = VideoMetadata(
        total_num_frames=752, fps=10.0, duration=75.2, frames_indices=[round(10 * time) for time in TIMES]
    )
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    frames = np.zeros((3, 3, 45, 80), np.uint8)
    made = processor(
        text=[text], videos=[frames], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
    )
    STORED.parent.mkdir(exist_ok=True)
    np.savez_compressed(STORED, input_ids=made["input_ids"][0].numpy(), **found)


if __name__ == "__main__":
    _store()
