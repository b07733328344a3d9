"""What our own path on transformers makes of the cases that vLLM is asked: `python -m tests.serving.reference FOLDER`.

Writes a Qwen3-VL with random weights to FOLDER/model, a random learned scorer to FOLDER/scorer, both to FOLDER/whole,
another with experts to FOLDER/experts, and FOLDER/expected.npz.
"""

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.families.tiny import byte_tokenizer, save_tiny
from tests.families.tiny_qwen3_vl import SPECIAL
from tests.serving.cases import CASES, FPS, QUESTION, STEPS, clip

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type in ('video', 'video_url') %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif c.type in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PIXELS = {"shortest_edge": 4096, "longest_edge": 1 << 24}
NORMALISE = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "patch_size": 16, "temporal_patch_size": 2,
             "merge_size": 2, "size": PIXELS}  # fmt: skip
FILES = {
    "preprocessor_config.json": {
        **NORMALISE, "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen3VLProcessor"
    },
    "video_preprocessor_config.json": {**NORMALISE, "video_processor_type": "Qwen3VLVideoProcessor"},
}  # fmt: skip

OF_SCORER = ("scorer.safetensors", "stts.json")


def make_model(folder: Path, vision: dict[str, object], text: dict[str, object], scorer_sizes=None) -> Path:
    """Write a checkpoint with random weights of such sizes, and a learned scorer if its sizes are given."""
    import transformers

    kind = "Qwen3VLMoe" if "num_experts" in text else "Qwen3VL"
    words = byte_tokenizer(SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE)
    torch.manual_seed(0)
    names = ("vision_start", "vision_end")
    config = getattr(transformers, f"{kind}Config")(
        vision_config={"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
                       "num_position_embeddings": 64, **vision},
        text_config={"head_dim": 64, "vocab_size": len(words), "max_position_embeddings": 4096,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [12, 10, 10],
                                         "mrope_interleaved": True}, **text},
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
        **{f"{name}_token_id": words.convert_tokens_to_ids(f"<|{name}|>") for name in names},
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    save_tiny(folder, model, words, FILES, scorer_sizes=scorer_sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    if kind == "Qwen3VLMoe":  # released files hold what experts multiply by the other way round
        weights = load_file(folder / "model.safetensors")
        turned = {k: v.transpose(1, 2).contiguous() if ".experts." in k else v for k, v in weights.items()}
        save_file(turned, folder / "model.safetensors", {"format": "pt"})
    return folder


def save_model(folder: Path, **experts: object) -> Path:
    """Write the checkpoint of the cases, with a learned scorer; `experts` makes the language model one with experts."""
    vision = {"hidden_size": 128, "intermediate_size": 192, "depth": 6, "num_heads": 2, "out_hidden_size": 128,
              "deepstack_visual_indexes": [1, 3]}  # fmt: skip
    text = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
            "num_key_value_heads": 1, **experts}  # fmt: skip
    return make_model(folder, vision, text, (128, 2, 192, 64))


@torch.no_grad()
def expected(folder: Path, cases: Iterable[str] = CASES) -> dict[str, np.ndarray]:
    """Run cases on transformers: kept windows, positions, and the log-probabilities of greedy decoding."""
    from stts_cli.families import load_family

    family = load_family(folder)
    found = {}
    for name in cases:
        number, height, width, settings = CASES[name]
        frames = torch.from_numpy(clip(number, height, width))
        encoded = family.encode(family.preprocess(frames), family.settings.override(**settings))
        times = [k / FPS for k in range(number)]
        prompt = family.build_prompt(times, QUESTION, encoded.keep_mask, layout=encoded.layout)
        ids, positions, said, log_probs = prompt.input_ids, prompt.position_ids, [], []
        for _ in range(STEPS):
            visual = torch.cat([prompt.mm_token_type_ids, torch.zeros(1, len(said), dtype=torch.long)], 1)
            inputs = family.language_inputs(ids, visual, [encoded.visual_tokens])
            found_probs = family.model(**inputs, position_ids=positions, use_cache=False).logits[0, -1].log_softmax(-1)
            said.append(int(found_probs.argmax()))
            log_probs.append(float(found_probs.max()))
            ids = torch.cat([ids, torch.tensor([[said[-1]]])], 1)
            positions = torch.cat([positions, positions[..., -1:] + 1], -1)
        found |= {
            f"{name}/keep": encoded.keep_mask.numpy(), f"{name}/positions": prompt.position_ids[:, 0].numpy(),
            f"{name}/tokens": np.array(said), f"{name}/log_probs": np.array(log_probs),
        }  # fmt: skip
    return found


if __name__ == "__main__":
    where = Path(sys.argv[1])
    whole = save_model(where / "whole")
    for name in ("model", "scorer"):
        (where / name).mkdir(exist_ok=True)
        for path in whole.iterdir():
            if (path.name in OF_SCORER) == (name == "scorer"):
                shutil.copy(path, where / name)
    experts = save_model(
        where / "experts", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=96, norm_topk_prob=True
    )
    of_experts = {f"experts/{name}": array for name, array in expected(experts, ["learned", "long"]).items()}
    np.savez(where / "expected.npz", **expected(whole), **of_experts)
