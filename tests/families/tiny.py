"""What every tiny random checkpoint of a family is made with."""

import functools
import json

import numpy as np
import torch

QUESTION = "What color is it?"
OPERATORS = "nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"


def byte_tokenizer(special, *, merges=(), digits_apart=False, **settings):
    """Return a tokenizer of byte tokens and special ones, which stay whole; `settings` are the wrapper's."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    whole = Tokenizer(models.BPE({word: k for k, word in enumerate(words)}, list(merges)))
    apart = [pre_tokenizers.Digits(individual_digits=True)] if digits_apart else []
    whole.pre_tokenizer = pre_tokenizers.Sequence([*apart, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    whole.decoder = decoders.ByteLevel()
    whole.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=whole, **settings)


def save_tiny(folder, model, words, files, *, scorer_sizes=None):
    """Write a model with random weights, its tokenizer and its JSON files, and a learned scorer if its sizes are given.

    `scorer_sizes` are the arguments of `TokenScorer`; windows are scored after block 1.
    """
    from safetensors.torch import save_file

    from stts_cli.pruning import TokenScorer

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.generation_config.eos_token_id = words.eos_token_id
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    if scorer_sizes:
        weights = {k: 0.3 * torch.randn_like(v) for k, v in TokenScorer(*scorer_sizes).state_dict().items()}
        save_file(weights, folder / "scorer.safetensors")
        settings = {
            "format": 2, "family": model.config.model_type, "prune_layer": 1, "keep_ratio": 0.5, "bias_rescale": "row",
            "prune_from_frame": 0, "scorer": "learned", "scorer_file": "scorer.safetensors", "demonstration": True,
        }  # fmt: skip
        (folder / "stts.json").write_text(json.dumps(settings))
    return folder


def random_frames(*sizes):
    """Return a video of each size (T, H, W), uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@functools.cache  # what a library declares goes with it
def declare_torchvision_operators():
    """Let torchvision be imported beside a torch that it was not built for: its own operators do not load there."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in OPERATORS:
        for operator in (name, f"_{name}_backward"):
            library.define(f"{operator}(Tensor x) -> Tensor")
    return library
