"""How good a model is on held-out clips, dense and pruned, while it trains.

An answer is right when greedy decoding would give it word for word. One teacher-forced pass over all answers decides
that exactly: decoding goes astray just where the likeliest token is not the answer's next one. It is what `stts eval`
counts for open answers, at a fraction of the time; a benchmark's own scoring is `stts eval`'s business.
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
    on_clip: Callable[[int], None] = lambda done: None,
) -> dict[str, dict[str, float]]:
    """Answer every held-out question in each of several ways.

    Args:
        model: what is trained.
        dataset: items are lists of clips.
        arms: name -> (keep ratio, scorer).
        rank: this process's number; it takes every `world`-th item.
        world: processes.
        workers: processes that read clips ahead.
        reduce: adds a float64 tensor up over all processes.
        on_clip: told how many items are done.

    Returns:
        By arm: "accuracy", "loss" (nats a token), "answers" (how many), "flops_ratio" to dense and "kept", the share of
        windows kept.
    """
    was_training = model.training
    model.eval()
    num_items: int = len(dataset)  # type: ignore[arg-type]
    mine = list(range(rank, num_items, world))
    # where weights are sharded, all processes run forward together: one that has fewer items runs one for nothing
    idle = -(-num_items // world) - len(mine)
    # right, answers, loss, tokens, kept, total, FLOPs, FLOPs dense
    sums = {arm: torch.zeros(8, dtype=torch.float64) for arm in arms}
    subset = Subset(dataset, mine + [0] * idle)
    loader: Any = DataLoader(subset, batch_size=1, collate_fn=collate, num_workers=workers)
    for done, batch in enumerate(loader, start=1):
        for arm, (ratio, scorer) in arms.items():
            out = model(batch["clips"], ratio, scorer=scorer)
            if done > len(mine):
                continue
            flops = _flops(model, batch["clips"], out, scorer)
            sums[arm] += torch.tensor(
                [
                    out.right.sum().item(),
                    len(out.right),
                    out.lm_sum.item(),
                    out.num_tokens,
                    out.num_kept,
                    out.num_total,
                    *flops,
                ],
                dtype=torch.float64,
            )
        on_clip(done)
    model.train(was_training)
    result = {}
    for arm, values in sums.items():
        right, answers, loss, tokens, kept, total, flops_pruned, flops_dense = reduce(values).tolist()
        result[arm] = {
            "accuracy": right / max(1, answers),
            "loss": loss / max(1, tokens),
            "answers": answers,
            "flops_ratio": flops_pruned / flops_dense,
            "kept": kept / total,
        }
    return result


def _flops(model: TrainingModel, clips: Sequence[TrainingClip], out: Step, scorer: str) -> tuple[float, float]:
    """Return FLOPs of answering each clip's first question as it is, and dense."""
    family, start = model.family, 0
    pruned = dense = 0.0
    for clip in clips:
        part = slice(start, start + len(clip.frames))
        mask, start = out.keep_mask[part].cpu(), part.stop
        ids, is_answer = family.conversation_ids(clip.conversations[0].turns[:1], clip.conversations[0].subtitles)
        prefix, _ = family.video_prefix(list(clip.timestamps_s), mask)
        asked, dropped = len(prefix) + len(ids) - sum(is_answer), int((~mask).sum())
        count = savings.count(
            family.shape(),
            mask.sum(1).tolist(),
            (asked + dropped, asked),
            family.settings.prune_layer,
            new_tokens=sum(is_answer),
            scorer=scorer,
            packed_patches=out.packed_patches[part],
        )
        dense += sum(before for before, _ in count.flops.values())
        pruned += sum(after for _, after in count.flops.values())
    return pruned, dense
