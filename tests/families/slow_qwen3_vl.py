"""A slow path through a tiny Qwen3-VL's ViT, or a model's that shares it, which drops by indexing unit by unit."""

import torch

from stts_cli.pruning.attention import log_score_bias
from stts_cli.pruning.selection import select_windows
from stts_cli.pruning.windows import patch_window
from stts_cli.settings import num_dropped


@torch.no_grad()
def slow_visual_tokens(family, frames, keep_ratio):
    """Run stock blocks on the kept patches of each unit, scored by the learned scorer after block 1.

    Returns:
        (visual tokens (U, W, D), zero where dropped; keep mask (U, W); layout).
    """
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

    patches = family.preprocess(frames)
    layout, tower = patches.layout, family.model.model.visual
    table, vit, length = family.window_index(layout), family.vit(layout), layout.num_patches
    mergers = dict(zip(family.taps, [*getattr(tower, "deepstack_merger_list", []), tower.merger], strict=True))

    def run(number, unit, rotation):
        ends = torch.tensor([0, len(unit)], dtype=torch.int32)
        return tower.blocks[number](unit, cu_seqlens=ends, position_embeddings=rotation)

    hidden = vit.embed(patches.pixels)
    for number in range(2):
        hidden = torch.stack([run(number, unit, vit.rotation) for unit in hidden])
    units = len(hidden)
    scores = family.scorer(hidden, table, [units])
    keep = select_windows(scores, [num_dropped(units, len(table), keep_ratio)], [units])
    bias = log_score_bias(scores, table, layout, [units])
    kept = keep[:, patch_window(table, length)]
    visual = torch.zeros(units, len(table), 16 * len(mergers))
    for u in range(units):
        if not kept[u].any():
            continue
        block, rotation = tower.blocks[2], vit.rotation
        q, k, v = block.attn.qkv(block.norm1(hidden[u])).reshape(length, 3, 2, 8).permute(1, 2, 0, 3).unbind(0)
        q, k = (x.transpose(0, 1) for x in apply_rotary_pos_emb_vision(q.transpose(0, 1), k.transpose(0, 1), *rotation))
        weights = (q @ k.transpose(1, 2) * 8**-0.5 + bias[u]).softmax(-1)
        unit = hidden[u] + block.attn.proj((weights @ v).transpose(0, 1).reshape(length, 16))
        unit = unit + block.mlp(block.norm2(unit))
        unit, rotation = unit[kept[u]], tuple(part[kept[u]] for part in rotation)
        read = {1: hidden[u][kept[u]]}
        for number in range(3, 6):
            read[number] = unit = run(number, unit, rotation)
        last, *deep = reversed([merger(read[number]) for number, merger in mergers.items()])
        visual[u, keep[u]] = torch.cat([last, *reversed(deep)], -1)
    return visual, keep, layout
