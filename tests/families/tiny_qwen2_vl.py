"""A tiny random Qwen2-VL or Qwen2.5-VL as the hub has them, and what the stock processor makes of a video.

`PYTHONPATH=. python tests/families/tiny_qwen2_vl.py` writes data/qwen2_vl.npz anew; it needs torchvision.
"""

import json
from pathlib import Path

import numpy as np
import torch

from tests.families.tiny import QUESTION, declare_torchvision_operators, random_frames, save_tiny
from tests.families.tiny_qwen3_vl import TEMPLATE, TIMES, tokenizer

STORED = Path(__file__).with_name("data") / "qwen2_vl.npz"
VIDEO_PROCESSOR = {
    "video_processor_type": "Qwen2VLVideoProcessor", "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2,
    "size": {"shortest_edge": 512, "longest_edge": 1280}, "image_mean": [0.5, 0.4, 0.5], "image_std": [0.5, 0.5, 0.25],
}  # fmt: skip
CAP = 400  # tokens of a video, where they are bounded
VISION = {
    "qwen2_vl": {"embed_dim": 16, "mlp_ratio": 2, "hidden_size": 24},
    # squares of 2x2 windows, but in blocks 1 and 4: the one that is scored, and one of the packed ones
    "qwen2_5_vl": {"hidden_size": 16, "intermediate_size": 28, "out_hidden_size": 24, "window_size": 16,
                   "fullatt_block_indexes": [1, 4], "tokens_per_second": 2},
}  # fmt: skip


def save_qwen2_vl(folder, *, scorer=False, model_type="qwen2_5_vl"):
    """Write a checkpoint with random weights, with a learned scorer if asked; its config.json is flat, as the hub's."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    words = tokenizer()
    torch.manual_seed(0)
    ids = {
        f"{name}_token_id": words.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"),
                            ("vision_end", "vision_end"))
    }  # fmt: skip
    config = AutoConfig.for_model(
        model_type,
        vision_config={"depth": 6, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
                       **VISION[model_type]},
        text_config={"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 3,
                     "num_key_value_heads": 1, "vocab_size": len(words), "max_position_embeddings": 4096,
                     "bos_token_id": None, "eos_token_id": words.eos_token_id,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}},
        **ids,
    )  # fmt: skip
    files = {"video_preprocessor_config.json": VIDEO_PROCESSOR}
    mlp = {"qwen2_vl": 32, "qwen2_5_vl": 28}[model_type]
    sizes = (16, 2, mlp, 8) if scorer else None
    save_tiny(folder, AutoModelForImageTextToText.from_config(config), words, files, scorer_sizes=sizes)
    saved = json.loads((folder / "config.json").read_text())
    text = saved.pop("text_config")
    flat = {**{key: value for key, value in text.items() if key != "model_type"}, **saved}
    (folder / "config.json").write_text(json.dumps(flat))
    return folder


def given_frames():
    """Full-size frames of four kinds: wide and too large, tall and odd in number, small, and of a size that stays."""
    return random_frames((4, 45, 80), (5, 71, 40), (2, 9, 7), (3, 24, 40))


def _store():
    """Let the stock processor word a prompt and make pixels; both families have the same."""
    import tempfile

    declare_torchvision_operators()
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    with tempfile.TemporaryDirectory() as folder:
        save_qwen2_vl(Path(folder))
        video_processor = Qwen2VLVideoProcessor.from_pretrained(folder)
    image_processor = Qwen2VLImageProcessor(patch_size=4, temporal_patch_size=2, merge_size=2)
    processor = Qwen2_5_VLProcessor(image_processor, tokenizer(), video_processor, chat_template=TEMPLATE)
    found = {}
    for k, frames in enumerate(given_frames()):
        video = [torch.from_numpy(frames).permute(0, 3, 1, 2)]
        made = video_processor(video, return_tensors="np", do_sample_frames=False)
        found |= {f"pixels_{k}": made.pixel_values_videos, f"grid_{k}": made.video_grid_thw[0]}
    video_processor.max_video_tokens = CAP
    capped = video_processor(
        [torch.from_numpy(given_frames()[0]).permute(0, 3, 1, 2).repeat(16, 1, 1, 1)], return_tensors="np",
        do_sample_frames=False, cap_pixels_per_frame=True,
    )  # fmt: skip
    found["capped"] = capped.video_grid_thw[0]
    metadata = VideoMetadata(
        total_num_frames=700, fps=10.0, duration=70.0, frames_indices=[round(10 * time) for time in TIMES]
    )
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    made = processor(
        text=[text], videos=[np.zeros((5, 3, 24, 24), np.uint8)], video_metadata=[metadata], do_sample_frames=False,
        return_tensors="pt",
    )  # fmt: skip
    np.savez_compressed(STORED, input_ids=made["input_ids"][0].numpy(), grid=made["video_grid_thw"][0].numpy(), **found)


if __name__ == "__main__":
    _store()
