"""Model families: which video VLMs can be loaded, and by what file; README.md says how to add one.

transformers is imported only inside functions, so that importing this room stays cheap.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stts_cli.errors import InputError, suggest
from stts_cli.families.broken import check_json_files, check_words, loads_checkpoint
from stts_cli.families.checkpoints import base_chain, load_scorer, load_stock, read_config
from stts_cli.families.placement import offload_folder, read_device_map, seeing_device
from stts_cli.families.quantize import four_bit, quantized_note
from stts_cli.families.settings import SETTINGS_FILE, is_in_old_order
from stts_cli.settings import Pruning

if TYPE_CHECKING:
    from stts_cli.families.base import Family

FAMILIES = {
    "gemma4": ("stts_cli.families.gemma4", "Gemma4Family"),
    "glm46v": ("stts_cli.families.glm4v", "Glm46VFamily"),
    "glm4v": ("stts_cli.families.glm4v", "Glm4vFamily"),
    "internvl": ("stts_cli.families.internvl", "InternVLFamily"),
    "molmo2": ("stts_cli.families.molmo2", "Molmo2Family"),
    "qwen2_5_vl": ("stts_cli.families.qwen2_vl", "Qwen25VLFamily"),
    "qwen2_vl": ("stts_cli.families.qwen2_vl", "Qwen2VLFamily"),
    "qwen3_5": ("stts_cli.families.qwen3_5", "Qwen35Family"),
    "qwen3_5_moe": ("stts_cli.families.qwen3_5", "Qwen35MoeFamily"),
    "qwen3_vl": ("stts_cli.families.qwen3_vl", "Qwen3VLFamily"),
    "qwen3_vl_moe": ("stts_cli.families.qwen3_vl", "Qwen3VLMoeFamily"),
    "smolvlm": ("stts_cli.families.smolvlm", "SmolVLMFamily"),
    "video_llama_3": ("stts_cli.families.video_llama_3", "VideoLlama3Family"),
}

REFUSED = {  # types that people ask for, and why they are not handled
    "internvl_chat": "runs code of its own; take one in transformers' format, such as OpenGVLab/InternVL3_5-4B-HF.",
    "videollama3_qwen2": "runs code of its own; take one in transformers' format, as lkhl/VideoLLaMA3-2B-Image-HF.",
    "llava_onevision": "its windows overlap, a patch is in up to four visual tokens, so none can be dropped alone.",
    **dict.fromkeys(
        ["minicpmv", "minicpmo", "minicpmv4_6", "minicpmv4_7"],
        "merges windows inside its vision encoder, where they would have to be dropped.",
    ),
    **dict.fromkeys(["gemma3", "gemma3n"], "reads pictures only, no videos."),
    "gemma4_unified": "has no vision encoder, so nothing can be dropped inside it.",
}


@loads_checkpoint
def load_family(
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    attn_implementation: str = "sdpa",
    revision: str | None = None,
    quantize: str | None = None,
    device_map: str | None = None,
) -> Family:
    """Load a checkpoint with the method built in.

    A folder whose stts.json names a base model (written by a scorer-only or LoRA training) is loaded through it: the
    base's weights, a LoRA merged into them, the folder's own scorer. Code that comes with a checkpoint never runs.

    Args:
        model: a checkpoint folder or a hub id.
        device: where the weights go.
        dtype: dtype of the weights.
        attn_implementation: attention of all but the vision encoder, whose own is ours: "sdpa" or "eager".
        revision: commit, branch or tag of a hub id; None for the newest.
        quantize: "4bit" for the language model's weights in 4 bits; None for all in `dtype`.
        device_map: where the weights go instead: "auto", or a file of modules and their devices.

    Returns:
        The family. The scorer is there when the folder's stts.json names one.

    Raises:
        InputError: no such folder, no model in it or in its base, a broken file, or a type that no family handles.
        EnvironmentFailure: a model or a base model on the hub that cannot be reached, a LoRA and no peft, or no
            bitsandbytes to quantize with.
    """
    from transformers import AutoTokenizer

    name = str(model)
    if isinstance(model, Path) and not model.is_absolute():
        name = f"./{name}"
    chain = base_chain(name, revision)
    check_json_files(chain)
    top, root = chain[0], chain[-1]
    cls = class_of(read_config(chain).get("model_type"), f"model {root.model}")
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation}
    if quantize:
        options |= {"quantization_config": four_bit(cls.full_precision(), dtype), "device_map": {"": device}}
    if device_map:
        options |= {"device_map": read_device_map(device_map), "offload_folder": offload_folder()}
    stock, notes = load_stock(chain, cls.model_class, cls.part_names["vit"], options)
    if device_map:
        places = options["device_map"] if isinstance(options["device_map"], dict) else {}
        device = seeing_device(stock, cls.part_names, device_map, places)
    own, more = cls.processing(stock.config, root, {})
    family = cls(
        (stock if "device_map" in options else stock.to(device)).eval(),
        AutoTokenizer.from_pretrained(root.model, revision=root.revision or "main", trust_remote_code=False),
        settings=top.settings,
        model_name=top.name,
        **own,
    )
    if (scorer := load_scorer(chain, family.scorer_sizes)) is not None:
        family.scorer = scorer.to(device, dtype).eval()
    if not top.has_prune_layer:
        family.settings = family.settings.override(prune_layer=cls.default_layer(len(family.vit_blocks)))
    check_words(family)
    family.chain, family.notes = tuple(chain), [*notes, *top.notes, *more]
    family.is_demonstration = any(checkpoint.document.get("demonstration", False) for checkpoint in chain)
    if quantize:
        family.notes.append(quantized_note(stock, dtype))
    if is_in_old_order(top.document):
        swapped = "its scorer reads the current frame first; the halves of its first layer were exchanged on loading"
        family.notes.append(f"{top.model}/{SETTINGS_FILE}: format 1; {swapped}")
    return family


def family_of(model: Any, tokenizer: Any, *, scorer: Any = None, video_processor: Any = None) -> Family:
    """Put the method into a stock transformers model that is loaded already.

    Args:
        model: of a type that a family handles.
        tokenizer: its tokenizer.
        scorer: a `pruning.TokenScorer` on the model's device, or None.
        video_processor: its frame size, filter and normalisation are taken; None for the model's defaults.

    Raises:
        InputError: a model of a type that no family handles.
    """
    cls = class_of(model.config.model_type, "a model")
    settings = Pruning(scorer="temporal" if scorer is None else "learned")
    own, _ = cls.processing(model.config, None, {} if video_processor is None else video_processor.to_dict())
    name = model.config.name_or_path or cls.__name__
    family = cls(model, tokenizer, settings=settings, model_name=name, scorer=scorer, **own)
    family.settings = settings.override(prune_layer=cls.default_layer(len(family.vit_blocks)))
    check_words(family)
    return family


def class_of(model_type: str | None, model: str) -> type[Family]:
    """Return the family of a model type; InputError, which names `model`, where there is none."""
    if model_type in REFUSED:
        raise InputError(f"{model} of type {model_type}: {REFUSED[model_type]}")
    if model_type not in FAMILIES:
        raise InputError(f"{model} of type {model_type}: no family handles it{suggest(str(model_type), FAMILIES)}")
    module, name = FAMILIES[model_type]
    cls: type[Family] = getattr(importlib.import_module(module), name)
    return cls
