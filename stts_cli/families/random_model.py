"""A model by its sizes, for `stts profile`: an `Architecture` with random weights, or one read from a config.

Time and memory depend on a model's sizes, not on what it has learned. What such a model says is noise.
"""

from __future__ import annotations

from pathlib import Path

import torch

from stts_cli.config.shapes import Architecture
from stts_cli.errors import InputError
from stts_cli.families import class_of
from stts_cli.families.base import Family
from stts_cli.families.broken import loads_checkpoint
from stts_cli.families.checkpoints import base_chain, read_config
from stts_cli.pruning import TokenScorer
from stts_cli.settings import Pruning


def random_family(architecture: Architecture, *, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Family:
    """Build a model of given sizes with random weights and a random learned scorer, ready to encode."""
    import transformers

    torch.manual_seed(seed)
    cls = class_of(architecture.shape.model_type, architecture.name)
    config, tokenizer, given = cls.random_parts(architecture.shape)
    own, _ = cls.processing(config, None, given)
    with torch.device(device):
        stock = getattr(transformers, cls.model_class)._from_config(config, dtype=dtype, attn_implementation="sdpa")
    settings = Pruning(
        prune_layer=architecture.prune_layer,
        keep_ratio=architecture.keep_ratio,
        prune_from_frame=architecture.prune_from_frame,
        refill_lone_frames=architecture.refill_lone_frames,
        scorer="learned",
    )
    family = cls(stock.eval(), tokenizer, settings=settings, model_name=architecture.name, **own)
    with torch.device(device):
        family.scorer = TokenScorer(**family.scorer_sizes).to(device, dtype).eval()
    return family


@loads_checkpoint
def read_architecture(model: str, revision: str | None = None) -> Architecture:
    """Read the sizes and pruning settings of a checkpoint, a folder or a hub id, without its weights.

    Raises:
        InputError: no such folder, a revision of one, a broken file, or a type that no family handles.
        EnvironmentFailure: the hub cannot be reached and the config is not in the cache.
    """
    from huggingface_hub.utils import logging as hub_logging
    from transformers import AutoConfig

    hub_logging.set_verbosity_error()
    if "/" not in model and not Path(model).is_dir():
        raise InputError(f"--model {model}: is no folder and no hub id; must be a checkpoint folder or OWNER/NAME.")
    chain = base_chain(model, revision)
    top, root = chain[0], chain[-1]
    cls = class_of(read_config(chain).get("model_type"), f"model {root.model}")
    config = AutoConfig.from_pretrained(root.model, revision=root.revision or "main", trust_remote_code=False)
    shape = cls.read_shape(config, cls.processing(config, root, {})[0]["layout_rule"])
    settings, has_scorer = top.settings, bool(top.document.get("scorer_file") or top.stored_scorer)
    layer = settings.prune_layer if top.has_prune_layer else cls.default_layer(shape.sizes().vit_blocks)
    return Architecture(
        top.name,
        shape,
        prune_layer=layer,
        keep_ratio=settings.keep_ratio,
        prune_from_frame=settings.prune_from_frame,
        refill_lone_frames=settings.refill_lone_frames,
        scorer="temporal" if settings.scorer == "learned" and not has_scorer else settings.scorer,
        notes=top.notes,
    )
