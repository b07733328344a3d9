"""Write figures with their units, and the names of stages, as every table does."""

from __future__ import annotations

from stts_cli.settings import LAST, PruneLayer

FORWARD = {
    "vit_dense": "ViT, dense part",
    "score_select_pack": "score, select, pack",
    "vit_packed": "ViT, packed part",
    "connector": "connector",
    "llm_prefill": "LLM prefill",
    "rows": "temporal loss, rows",
    "llm": "LLM, loss",
}
STAGES = {  # of a pass or of a training step -> what tables call it
    "preprocess": "preprocess",
    **FORWARD,
    "backward": "backward",
    "optimizer": "clipping, optimizer",
    "vit_to_prefill": "ViT to prefill",
    "ttft": "time to first token",
    "decode_per_token": "decode, a token",
    "forward_backward": "forward and backward",
    "step": "training step",
    "step_cpu": "training step, of the processor",
}
PARTS = (*FORWARD, "backward", "optimizer")  # what adds up to the headline


def format_si(value: float) -> str:
    """Write a count with a unit prefix: 1,230,000,000 as "1.23 G"."""
    for factor, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.2f} {unit}"
    return f"{value:.0f} "


def format_seconds(value: float) -> str:
    """Write a time: "1.23 s", or "45.6 ms" below a second."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def format_layer(prune_layer: PruneLayer) -> str:
    """Write where windows were scored: "after ViT block 3", or "behind the ViT"."""
    return "behind the ViT" if prune_layer == LAST else f"after ViT block {prune_layer}"


def format_bytes(value: float) -> str:
    """Write an amount of memory: "1.23 GiB", or "456 MiB" below that."""
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
