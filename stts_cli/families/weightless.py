"""A checkpoint's family without its weights: how videos are cut and prompts are worded, and nothing that runs."""

from __future__ import annotations

import torch

from stts_cli.families import class_of
from stts_cli.families.base import Family
from stts_cli.families.broken import loads_checkpoint
from stts_cli.families.checkpoints import base_chain, read_config


@loads_checkpoint
def weightless_family(model: str) -> Family:
    """Read a checkpoint, a folder or a hub id, with weights that hold no numbers.

    Raises:
        InputError: no such folder, a broken file, or a type that no family handles.
        EnvironmentFailure: the hub cannot be reached and the files are not in the cache.
    """
    import transformers

    chain = base_chain(model)
    top, root = chain[0], chain[-1]
    revision = root.revision or "main"
    cls = class_of(read_config(chain).get("model_type"), f"model {root.model}")
    config = transformers.AutoConfig.from_pretrained(root.model, revision=revision, trust_remote_code=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(root.model, revision=revision, trust_remote_code=False)
    own, _ = cls.processing(config, root, {})
    with torch.device("meta"):
        stock = getattr(transformers, cls.model_class)._from_config(config)
    return cls(stock.eval(), tokenizer, settings=top.settings, model_name=top.name, **own)
