"""How good a model is on held-out clips, dense and pruned, while it trains.

An answer is right when greedy decoding would give it word for word, which one teacher-forced pass decides exactly:
decoding goes astray just where the likeliest token is not the answer's next one. `stts eval` counts open answers so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from stts_cli.cost import savings
from stts_cli.training.clips import TrainingClip, collate
from stts_cli.training.model import Step, TrainingModel

Figures = dict[str, dict[str, float]]  # arm -> name -> value


@torch.no_grad()
def evaluate_arms(
    model: TrainingModel,
    dataset: Dataset[list[TrainingClip]],
    *,
    arms: Mapping[str, tuple[float, str]],
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    reduce: Callable[[Tensor], Tensor] = lambda values: values,
) -> Figures:
    """Answer every held-out question in each of several ways: `arms`, by name, are (keep ratio, scorer).

    Of `world` processes each takes every `world`-th item; `reduce` adds a float64 tensor up over all of them.

    Returns:
        By arm: "accuracy", "loss" (nats a token), "answers" (how many), "flops_ratio" to dense and "kept", the share of
        windows kept.
    """
    was_training = model.training
    model.eval()
    num_items: int = len(dataset)  # type: ignore[arg-type]
    own = list(range(rank, num_items, world))
    # where weights are sharded, all processes run forward together: one that has fewer items runs one for nothing
    idle = -(-num_items // world) - len(own)
    sums = {arm: torch.zeros(11, dtype=torch.float64) for arm in arms}  # of `Step.sums`, then FLOPs, pruned and dense
    subset = Subset(dataset, own + [0] * idle)
    loader: Any = DataLoader(subset, batch_size=1, collate_fn=collate, num_workers=workers)
    for number, batch in enumerate(loader):
        for arm, (ratio, scorer) in arms.items():
            step = model(batch["clips"], ratio, scorer=scorer)
            if number < len(own):
                sums[arm] += torch.cat([step.sums(), _flops(model, batch["clips"], step, scorer)])
    model.train(was_training)
    result = {}
    for arm, values in sums.items():
        lm, tokens, _, _, kept, total, _, right, answers, pruned, dense = reduce(values).tolist()
        result[arm] = {
            "accuracy": right / max(1, answers),
            "loss": lm / max(1, tokens),
            "answers": answers,
            "flops_ratio": pruned / dense,
            "kept": kept / total,
        }
    return result


def _flops(model: TrainingModel, clips: Sequence[TrainingClip], step: Step, scorer: str) -> Tensor:
    """Return FLOPs of answering each clip's first question as it is, and dense, float64 (2,)."""
    family, start = model.family, 0
    each = len(step.packed_patches) // len(step.keep_mask)  # parts of a unit
    flops = torch.zeros(2, dtype=torch.float64)
    for clip in clips:
        layout = family.layout_rule(clip.frames.shape[1], clip.frames.shape[2], len(clip.frames))
        part = slice(start, start + layout.num_units(len(clip.frames)))
        mask, start = step.keep_mask[part].cpu(), part.stop
        ids, is_answer = family.conversation_ids(clip.conversations[0].turns[:1], clip.conversations[0].subtitles)
        prefix = family.video_prefix(list(clip.timestamps_s), mask, layout, clip.duration_s)
        asked = len(prefix.ids) + len(ids) - sum(is_answer)
        count = savings.count(
            family.shape(layout),
            mask.sum(1).tolist(),
            (asked + int((~mask).sum()), asked),
            family.settings.prune_layer,
            new_tokens=sum(is_answer),
            scorer=scorer,
            packed_patches=step.packed_patches[part.start * each : part.stop * each],
        )
        dense, pruned = (sum(each) for each in zip(*count.flops.values(), strict=True))
        flops += torch.tensor([pruned, dense], dtype=torch.float64)
    return flops
