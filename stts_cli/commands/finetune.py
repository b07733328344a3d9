"""The `finetune` command: parse, put preset and flags together, call `training`, report. Nothing heavy at import."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from stts_cli.commands import flags


def finetune(
    preset: Annotated[
        str | None, typer.Option(help="A training preset of presets/training, or a YAML file; flags go before it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="What to start from: a checkpoint folder, a hub id, or a preset's name (nano).")
    ] = None,
    revision: flags.Revision = None,
    quantize: flags.Quantize = None,
    data: Annotated[
        str | None, typer.Option(help="FILE.jsonl, .json, .csv, hf:OWNER/NAME[:split], or shapes, the built-in world.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Folder for the result, the log and checkpoints.")] = None,
    train: Annotated[str | None, typer.Option(help="What to train: scorer, lora or full.")] = None,
    keep_ratio: Annotated[
        str | None, typer.Option(help="Fraction of visual tokens kept while training; or 0.5:6,1:2 with shares.")
    ] = None,
    prune_ratio: Annotated[
        float | None, typer.Option(help="The same as --keep-ratio 1 - this: the paper's own term.")
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(help="Who chooses while training: learned, temporal, reference, random, tome, none.")
    ] = None,
    new_scorer: Annotated[
        bool | None, typer.Option("--new-scorer", help="Start from an untrained scorer even if there is a trained one.")
    ] = None,
    prune_layer: flags.PruneLayer = None,
    bias_rescale: Annotated[str | None, typer.Option(help="Soft bias over each row, frame, or off.")] = None,
    temporal_weight: Annotated[float | None, typer.Option(help="Weight of the temporal loss; 0.5.")] = None,
    target_gradient: Annotated[
        bool | None, typer.Option("--target-gradient", help="Let the temporal loss's target pass gradient to the ViT.")
    ] = None,
    clamp_scorer_gradient: Annotated[
        bool | None, typer.Option("--clamp-scorer-gradient", help="Bound what one window may pull at the scorer.")
    ] = None,
    answer_weights: Annotated[
        str | None, typer.Option(help="Of an answer's tokens: equal, or root-length, 1/sqrt(length).")
    ] = None,
    z_loss: Annotated[float | None, typer.Option(help="Weight of the z-loss on the answers' tokens; 0.")] = None,
    frames: Annotated[int | None, typer.Option(help="The most frames of a video; 64.")] = None,
    max_fps: Annotated[float | None, typer.Option(help="The most frames a second; 2.")] = None,
    resize: Annotated[str | None, typer.Option(help="Who resizes frames: model, or decoder, faster; model.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; else --epochs.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Times through the data; 1.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Videos a process in one forward pass; 1.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Forward passes an optimizer step; 1.")] = None,
    global_batch: Annotated[
        int | None, typer.Option(help="Videos a step on all processes together; decides --accumulate.")
    ] = None,
    max_questions: Annotated[int | None, typer.Option(help="The most questions about a video in a step; 8.")] = None,
    seq_len: Annotated[
        int | None, typer.Option(help="Pack several videos into rows of at most this many tokens.")
    ] = None,
    lr_scorer: Annotated[float | None, typer.Option(help="Learning rate of the scorer; 1e-4.")] = None,
    lr_vit: Annotated[float | None, typer.Option(help="Of the ViT; 5e-6.")] = None,
    lr_connector: Annotated[float | None, typer.Option(help="Of the connector; 5e-6.")] = None,
    lr_llm: Annotated[float | None, typer.Option(help="Of the language model; 1e-5.")] = None,
    lr_lora: Annotated[float | None, typer.Option(help="Of adapters; 1e-4.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps over which the rates rise; 20.")] = None,
    scorer_warmup: Annotated[int | None, typer.Option(help="Steps before, in which only the scorer learns; 0.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or muon.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="cosine, cosine-after-warmup, or wsd: constant, then down to 0.")
    ] = None,
    lr_floor: Annotated[float | None, typer.Option(help="Share of the rates that a cosine ends at; 0.1.")] = None,
    adam_betas: Annotated[str | None, typer.Option(help="Of AdamW; 0.9,0.95, beside muon 0.9,0.98.")] = None,
    adam_eps: Annotated[float | None, typer.Option(help="Of AdamW; 1e-8.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of matrices that are no embeddings; 0.")] = None,
    clip: Annotated[float | None, typer.Option(help="The gradient's largest norm; 1, 0 for none.")] = None,
    clip_by: Annotated[str | None, typer.Option(help="Clip the norm of all, or of each part.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32, bf16 or bf16-master.")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option("--gradient-checkpointing", help="Trade time for memory.")
    ] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Of the adapters; 16.")] = None,
    lora_alpha: Annotated[int | None, typer.Option(help="Their scale; 32.")] = None,
    lora_vit: Annotated[bool | None, typer.Option("--lora-vit", help="Adapters in the ViT too.")] = None,
    eval_data: Annotated[str | None, typer.Option(help="Held-out questions; else some videos of the data.")] = None,
    eval_videos: Annotated[
        int | None, typer.Option(help="Held-out videos; 20 or a tenth of the data, 0 for none.")
    ] = None,
    eval_every: Annotated[
        int | None, typer.Option(help="Steps between evaluations, each with a checkpoint; the best one is the result.")
    ] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    keep_checkpoints: Annotated[int | None, typer.Option(help="How many to keep beside the best; 2.")] = None,
    log_every: Annotated[int | None, typer.Option(help="Steps between lines of the log; 10.")] = None,
    report_to: Annotated[str | None, typer.Option(help="Trackers, such as tensorboard; none.")] = None,
    video_root: Annotated[str | None, typer.Option(help="Folder that relative video paths start from.")] = None,
    cache: Annotated[str | None, typer.Option(help="Folder that keeps decoded frames.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that read videos ahead; 2.")] = None,
    shapes_mix: Annotated[str | None, typer.Option(help="Clips of --data shapes: short, long or all.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of data, weights and keep ratios; 0.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that --output holds.")] = False,
    skip_invalid: Annotated[
        bool,
        typer.Option("--skip-invalid", help="Leave out rows that cannot be read and questions that the check rejects."),
    ] = False,
    push_to_hub: Annotated[str | None, typer.Option(help="Upload the result to this repository of the hub.")] = None,
    device: flags.Device = "auto",
    json: flags.Json = False,
) -> None:
    """Train the scorer, an adapter or everything on your own questions about videos."""
    given = {name: value for name, value in locals().items() if value is not None}
    if prune_ratio is not None:
        given["keep_ratio"] = str(flags.kept_of(prune_ratio, keep_ratio))
    from stts_cli.report.finetune import FinetuneProgress, show_finetune, show_runs
    from stts_cli.training.request import Request, push
    from stts_cli.training.request import train as train_request
    from stts_cli.training.run_folder import process
    from stts_cli.training.settings import FinetuneSettings

    settings = {field.name: given[field.name] for field in dataclasses.fields(FinetuneSettings) if field.name in given}
    request = Request(preset, settings, output, device, resume, skip_invalid, push_to_hub)
    request.check()
    with FinetuneProgress() as progress:
        if request.is_nano:
            from stts_cli.toy.nano import train_nano

            document = train_nano(
                request.stages, request.flags, request.folder, resume=resume, device=device, report=progress
            )
        else:
            document = train_request(request, progress)
        push(request, progress)
    if process()[0] == 0:
        show = show_runs if request.has_runs else show_finetune
        show(document, str(request.folder), json_only=json)
