"""A tiny random Molmo2, saved as the released checkpoints are: config keys, weight names, tokenizer, processors."""

import json

import pytest
import torch

HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
ADDED = (
    "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>", "<im_low>",
    "<frame_start>", "<frame_end>", "<|video|>",
)  # fmt: skip
BASE = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is not string %}{% for content in message['content'] %}"
    "{% if content['type'] == 'video' %}{{ '<|video|>' }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% for message in messages %}{{ '<|im_start|>' ~ message['role'] ~ '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
VIDEO_PROCESSOR = {
    "auto_map": {"AutoVideoProcessor": "video_processing_molmo2.Molmo2VideoProcessor"},
    "do_normalize": True, "do_rescale": True, "do_resize": True, "fps": None, "frame_sample_mode": "uniform_last_frame",
    "image_mean": [0.5, 0.4, 0.5], "image_std": [0.5, 0.5, 0.25], "max_fps": 2.0, "num_frames": 384, "patch_size": 2,
    "pooling_size": [2, 2], "resample": 2, "rescale_factor": 0.00392156862745098, "size": {"height": 10, "width": 10},
    "video_processor_type": "Molmo2VideoProcessor",
}  # fmt: skip


def save_tokenizer(folder):
    """A Qwen2 tokenizer over bytes, with Molmo2's added tokens behind Qwen's own."""
    from tokenizers import pre_tokenizers
    from transformers import AddedToken, Qwen2Tokenizer

    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[])
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(t, normalized=False, special=True) for t in (*BASE, *ADDED)]}
    )
    tokenizer.bos_token = tokenizer.eos_token = "<|im_end|>"
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return tokenizer


def released_config(tokenizer):
    """The keys of the released config.json; the ViT is declared two blocks too deep, as it is there."""
    base = tokenizer.convert_tokens_to_ids("<im_start>")
    ids = dict(zip(ADDED, range(base, base + len(ADDED)), strict=True))
    assert [tokenizer.convert_tokens_to_ids(t) for t in ADDED] == list(ids.values())
    return {
        "adapter_config": {
            **HEADS, "attention_dropout": 0.0, "attn_implementation": "sdpa", "float32_attention": True,
            "hidden_act": "silu", "hidden_size": 16, "image_feature_dropout": 0.0, "initializer_range": 0.02,
            "intermediate_size": 32,
            "model_type": "molmo2", "pooling_attention_mask": True, "residual_dropout": 0.0, "text_hidden_size": 24,
            "vit_layers": [-3, -5],
        },
        "architectures": ["Molmo2ForConditionalGeneration"],
        "auto_map": {"AutoConfig": "configuration_molmo2.Molmo2Config"},
        "dtype": "float32",
        "frame_end_token_id": ids["<frame_end>"], "frame_start_token_id": ids["<frame_start>"],
        "image_col_id": ids["<im_col>"], "image_end_token_id": ids["<im_end>"], "image_high_res_id": ids["<im_patch>"],
        "image_low_res_id": ids["<im_low>"], "image_patch_id": ids["<im_patch>"],
        "image_start_token_id": ids["<im_start>"],
        "low_res_image_start_token_id": ids["<low_res_im_start>"],
        "initializer_range": 0.02, "model_type": "molmo2", "tie_word_embeddings": False, "use_cache": True,
        "use_frame_special_tokens": False, "transformers_version": "4.57.1",
        "text_config": {
            "additional_vocab_size": 16, "attention_dropout": 0.0, "attn_implementation": "sdpa",
            "embedding_dropout": 0.0,
            "head_dim": 8, "hidden_act": "silu", "hidden_size": 24, "initializer_range": 0.02, "intermediate_size": 32,
            "layer_norm_eps": 1e-06, "max_position_embeddings": 2048, "model_type": "molmo2_text", "norm_after": False,
            "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "qk_norm_type": "qwen3",
            "qkv_bias": False, "residual_dropout": 0.0, "rope_scaling": None, "rope_scaling_layers": None,
            "rope_theta": 5000000.0, "use_cache": True, "use_qk_norm": True, "vocab_size": base,
        },
        "vit_config": {
            **HEADS, "attention_dropout": 0.0, "attn_implementation": "sdpa", "float32_attention": True,
            "hidden_act": "gelu_pytorch_tanh", "hidden_size": 16, "image_default_input_size": [10, 10],
            "image_num_pos": 25,
            "image_patch_size": 2, "initializer_range": 0.02, "intermediate_size": 32, "layer_norm_eps": 1e-06,
            "model_type": "molmo2", "num_hidden_layers": 9, "residual_dropout": 0.0,
        },
    }  # fmt: skip


def save_released(folder, scorer=False):
    """Write the whole checkpoint; with `scorer`, also stts.json and the scorer's weights."""
    from transformers import AutoConfig, Molmo2ForConditionalGeneration

    from stts_cli.pruning import TokenScorer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = save_tokenizer(folder)
    config = released_config(tokenizer)
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = Molmo2ForConditionalGeneration(AutoConfig.from_pretrained(folder))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    eos = tokenizer.eos_token_id
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": eos, "eos_token_id": eos}))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(VIDEO_PROCESSOR))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1] * 3, "pooling_size": [9, 9], "patch_size": 5, "max_crops": 8})
    )
    (folder / "processor_config.json").write_text(
        json.dumps(
            {"processor_class": "Molmo2Processor", "use_frame_special_tokens": False, "video_use_col_tokens": False}
        )
    )
    if scorer:
        from safetensors.torch import save_file

        weights = {k: 0.3 * torch.randn_like(v) for k, v in TokenScorer(16, 2, 32, 8).state_dict().items()}
        save_file(weights, folder / "scorer.safetensors")
        settings = {
            "format": 2, "family": "molmo2", "prune_layer": 2, "keep_ratio": 0.5, "bias_rescale": "row",
            "prune_from_frame": 0, "scorer": "learned", "scorer_file": "scorer.safetensors", "demonstration": True,
        }  # fmt: skip
        (folder / "stts.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """A checkpoint as the hub has it."""
    return save_released(tmp_path_factory.mktemp("hub") / "Molmo2-tiny")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The same, with a learned scorer."""
    return save_released(tmp_path_factory.mktemp("stts") / "tiny", scorer=True)


@pytest.fixture(scope="session", params=["sdpa", "eager"])
def family(request, trained):
    """The trained checkpoint, loaded."""
    from stts_cli.families import load_family

    return load_family(trained, attn_implementation=request.param)
