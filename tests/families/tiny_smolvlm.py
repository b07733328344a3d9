"""A tiny random SmolVLM2 as the hub has them, and what the stock processor makes of a video.

`PYTHONPATH=. python tests/families/tiny_smolvlm.py` writes data/smolvlm.npz anew; it needs torchvision and num2words.
"""

import json
from pathlib import Path

import numpy as np
import torch

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
QUESTION = "What color is it?"


def tokenizer():
    """Byte tokens that split as SmolLM2's do: two line breaks are one token alone, and two before a word."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ"]
    whole = Tokenizer(models.BPE({word: k for k, word in enumerate(words)}, [("Ċ", "Ċ")]))
    whole.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    whole.decoder = decoders.ByteLevel()
    whole.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|im_end|>"
    )


def save_smolvlm(folder, *, scorer=False):
    """Write a checkpoint with random weights, with a learned scorer if asked."""
    from safetensors.torch import save_file
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    from stts_cli.pruning import TokenScorer

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
    model = SmolVLMForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.generation_config.eos_token_id = words.eos_token_id
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGE_PROCESSOR))
    (folder / "processor_config.json").write_text(
        json.dumps({"image_seq_len": 9, "processor_class": "SmolVLMProcessor"})
    )
    if scorer:
        weights = {k: 0.3 * torch.randn_like(v) for k, v in TokenScorer(16, 2, 24, 8).state_dict().items()}
        save_file(weights, folder / "scorer.safetensors")
        settings = {
            "format": 2, "family": "smolvlm", "prune_layer": 1, "keep_ratio": 0.5, "bias_rescale": "row",
            "prune_from_frame": 0, "scorer": "learned", "scorer_file": "scorer.safetensors", "demonstration": True,
        }  # fmt: skip
        (folder / "stts.json").write_text(json.dumps(settings))
    return folder


def given_frames():
    """Full-size frames of three shapes: wide, tall, and no larger than the model's."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (2, *size, 3), dtype=np.uint8) for size in ((45, 80), (71, 40), (20, 24))]


def _store():
    """Let the stock processor word a prompt and make pixels."""
    import tempfile

    library = torch.library.Library("torchvision", "DEF")  # torchvision's own operators do not load beside every torch
    for name in ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"):
        for operator in (name, f"_{name}_backward"):
            library.define(f"{operator}(Tensor x) -> Tensor")
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
