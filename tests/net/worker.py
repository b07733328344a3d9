"""Run the commands of the net on one source tree and write down what they do.

In: the source tree is the working folder, and PYTHONPATH names it; `python worker.py RECORD WORK`. Out: RECORD, a JSON
file of area -> case -> value; WORK keeps what the commands write. With --earlier, the checkpoints and answers in the
WORK of another commit are read instead of this one's own. It stands alone: the tree may hold no tests.net.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).resolve().parent / "fixtures"
NANO = Path("presets/nano")
DEMO = str(NANO / "demo.mp4")
QUESTIONS = ("What color is the circle?", "How many shapes are there?")
SCORERS = ("learned", "temporal", "reference", "random", "tome", "none")
RATIOS = ("1", "0.5", "0.2")
TRAINING = {  # case -> its flags
    "scorer": ("--train", "scorer", "--save-every", "3"),
    "lora": ("--train", "lora"),
    "full": ("--train", "full"),
    "full, gradient checkpointing": ("--train", "full", "--gradient-checkpointing"),
    "full, two videos a batch": ("--preset", str(FIXTURES / "training.yaml")),
    "lora, two videos a batch, gradient checkpointing": (
        *("--preset", str(FIXTURES / "training.yaml"), "--train", "lora", "--gradient-checkpointing"),
    ),
}
TRAINING_FLAGS = (
    *("--model", "nano", "--data", "shapes", "--shapes-mix", "short", "--keep-ratio", "0.5", "--steps", "6"),
    *("--frames", "8", "--log-every", "1", "--eval-videos", "0", "--workers", "0", "--seed", "3"),
)
MEASURED = {"seconds", "ttft_s", "prefix_s", "peak_bytes", "tokens_per_s", "memory_gib"}  # other in every run
PROSE = {"notes", "kernel_reason", "convention", "remark", "description", "title"}  # for people; may be reworded
QUICK = ("full, two videos a batch",)  # the training that a quick run has
QUICK_RATIOS = ("0.5",)
OF_THE_INSTALLATION = {"stts", "versions"}


def probe(scorer: str, keep_ratio: float, frames: Any) -> dict[str, Any]:
    """Prune one clip with the embedded model, for what no command prints.

    The one place of the net that knows modules of the program: whoever changes the interface adds the new one here and
    keeps the old one behind it, as commits of both kinds are compared.

    Args:
        scorer: one of `SCORERS` but "none".
        keep_ratio: fraction of windows kept, below 1.
        frames: uint8 (T, H, W, 3) array of the model's own frame size.

    Returns:
        {"scores": T lists of W floats, higher for what stays, or None where the scorer gives none;
        "kept": T texts of W characters, "1" for a kept window;
        "sha256": of the visual tokens' bytes, float32 (V, D)}. On the CPU in float32, with seed 0 and the checkpoint's
        own layer and settings.
    """
    import torch

    from stts_cli.families import load_family

    with torch.inference_mode():
        family = load_family(NANO)
        patches = family.preprocess(torch.from_numpy(frames))
        if hasattr(family, "encode"):
            video = family.encode(patches, family.settings.override(keep_ratio=keep_ratio, scorer=scorer))
        else:  # before settings were objects
            video = family.encode_video(patches, keep_ratio=keep_ratio, scorer=scorer)
    return {
        "scores": None if video.scores is None else video.scores.tolist(),
        "kept": ["".join("01"[kept] for kept in row) for row in video.keep_mask.tolist()],
        "sha256": hashlib.sha256(video.visual_tokens.contiguous().numpy().tobytes()).hexdigest(),
    }


def run(*arguments: str) -> Any:
    """Run one command in this process.

    Returns:
        The JSON document on its stdout; {"error": ...} where it fails.
    """
    from stts_cli.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([*arguments, "--json"])
        except SystemExit as stop:
            code = int(stop.code or 0)
    if code:
        last = (err.getvalue().strip().splitlines() or [""])[-1]
        return {"error": f"stts {' '.join(arguments)}: exit code {code}: {last}"}
    return json.loads(out.getvalue())


def ask(*arguments: str) -> Any:
    return run("ask", DEMO, *arguments, "--device", "cpu")


def asks(ratios: Sequence[str]) -> dict[str, Any]:
    """Answer the same questions with every scorer and keep ratio, and options, two arms and other frames once."""
    cases = {
        f"{scorer}@{ratio}": ask(*QUESTIONS, "--scorer", scorer, "--keep-ratio", ratio)
        for scorer in SCORERS
        for ratio in ratios
    }
    if "1" not in ratios:
        cases["learned@1"] = ask(*QUESTIONS, "--scorer", "learned", "--keep-ratio", "1")
    cases["options"] = ask("What color is the circle?", "--options", "red", "green", "blue")
    cases["compare"] = ask(*QUESTIONS, "--compare", "--frames", "6", "--prune-layer", "5")
    return cases


def demo_frames(timestamps_s: list[float]) -> Any:
    """Return the demo clip's frames at some times: uint8 (T, H, W, 3)."""
    import decord

    reader = decord.VideoReader(DEMO)
    return reader.get_batch([round(time * reader.get_avg_fps()) for time in timestamps_s]).asnumpy()


def masks(asked: dict[str, Any], ratios: Sequence[str], work: Path) -> dict[str, Any]:
    """Return scores and kept windows of the demo clip; what --save-kept writes has to agree with them."""
    frames = demo_frames(asked["learned@1"]["video"]["timestamps_s"])
    cases = {}
    for scorer in SCORERS[:-1]:
        for ratio in [ratio for ratio in ratios if ratio != "1"]:
            case = cases[f"{scorer}@{ratio}"] = probe(scorer, float(ratio), frames)
            counts = [row.count("1") for row in case["kept"]]
            case["agrees with ask"] = counts == asked[f"{scorer}@{ratio}"]["arms"][0]["kept_per_frame"]
    picture = work / "kept.png"
    ask(QUESTIONS[0], "--scorer", "learned", "--keep-ratio", "0.5", "--save-kept", str(picture))
    drawn = json.loads(picture.with_suffix(".json").read_text(encoding="utf-8"))["frames"]
    kept = [[window for window, mark in enumerate(row) if mark == "1"] for row in cases["learned@0.5"]["kept"]]
    cases["learned@0.5"]["agrees with --save-kept"] = [frame["kept"] for frame in drawn] == kept
    return cases


def read_lines(path: Path) -> list[Any]:
    """Return the documents of a JSON Lines file; none where a failed command left no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def rows_of(folder: Path) -> dict[str, Any]:
    """Return the answers of an evaluation, by arm and question, without the question itself."""
    rows = read_lines(folder / "samples.jsonl")[1:]
    given = ("arm", "id", "video", "segment", "groups", "question", "answer", "chance", "backend")
    return {f"{r['arm']}, {r['id']}": {k: v for k, v in r.items() if k not in given} for r in rows}


def evaluation(work: Path) -> dict[str, Any]:
    """Ask 40 questions of the built-in world of four arms."""
    flags = ("--limit", "40", "--frames", "8", "--keep-ratio", "0.5", "--scorer", "learned", "--device", "cpu")
    arms = ("--compare", "dense", "--compare", "random@0.3", "--compare", "tome@0.5@6f")
    document = run("eval", "--bench", "shapes", *flags, *arms, "--output", str(work / "eval"))
    document.pop("samples", None)  # the rows
    return {"document": document, "rows": rows_of(work / "eval")}


def profiles() -> dict[str, Any]:
    """Count tokens, FLOPs and memory of some architectures at two frame counts."""
    shapes = {"mini": "mini", "nano": "nano", "molmo2-4b": "molmo2-4b", "own": str(FIXTURES / "architecture.yaml")}
    flags = ("--analytic", "--sweep-frames", "8,64", "--keep-ratio", "0.5,0.2")
    return {
        f"{name}{', training' if train else ''}": run("profile", "--shape", shape, *flags, *train)
        for name, shape in shapes.items()
        for train in ((), ("--train",))
    }


def log_of(folder: Path) -> list[Any]:
    """Return the lines of a run's log that training steps wrote."""
    return [event for event in read_lines(folder / "log.jsonl") if event["event"] == "log"]


def weights_hash(folder: Path) -> str:
    """Return a hash of the tensors in a folder's safetensors files, whatever the files' order and headers."""
    import torch
    from safetensors.torch import load_file

    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in sorted(load_file(path).items()):
            content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            digest.update(f"{path.name} {name} {tensor.dtype} {list(tensor.shape)}".encode() + content)
    return digest.hexdigest()


def training(work: Path, only: Sequence[str]) -> dict[str, Any]:
    """Train six steps of some kinds."""
    cases = {}
    for number, (name, flags) in enumerate(TRAINING.items()):
        if name not in only:
            continue
        folder = work / f"train{number}"
        common = () if "--preset" in flags else TRAINING_FLAGS
        document = run("finetune", *common, *flags, "--device", "cpu", "--output", str(folder))
        cases[name] = {"document": document, "log": log_of(folder), "sha256": weights_hash(folder)}
    return cases


def reads_training(work: Path, earlier: Path) -> dict[str, Any]:
    """Ask models that were trained before, and go on with a run that stopped after three steps."""
    cases = {
        f"model of {name}": ask(*QUESTIONS, "--model", str(earlier / f"train{number}"))
        for number, name in enumerate(("scorer", "lora", "full"))
    }
    stopped = work / "stopped"
    shutil.copytree(earlier / "train0", stopped)
    shutil.rmtree(stopped / "checkpoints" / "checkpoint-6", ignore_errors=True)
    (stopped / "log.jsonl").unlink()
    model = json.loads((stopped / "run.json").read_text(encoding="utf-8"))["model"]
    flags = (*TRAINING_FLAGS, *TRAINING["scorer"], "--model", model, "--device", "cpu")
    document = run("finetune", *flags, "--output", str(stopped), "--resume")
    cases["resumed"] = {"document": document, "log": log_of(stopped), "sha256": weights_hash(stopped)}
    return cases


def reads_answers(work: Path, earlier: Path) -> dict[str, Any]:
    """Go on with an evaluation that was stopped, by a suite of the same settings."""
    half = work / "half"
    half.mkdir()
    lines = (earlier / "eval" / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (half / "samples.jsonl").write_bytes(b"".join(lines[:81]))
    document = run("eval", "--suite", str(FIXTURES / "suite.yaml"), "--device", "cpu", "--output", str(half))
    document.pop("samples", None)
    return {"document": document, "rows": rows_of(half)}


def reads_settings(work: Path) -> dict[str, Any]:
    """Read checkpoints of both formats of stts.json, and a user's preset that the user's config file names."""
    import torch
    from safetensors.torch import load_file, save_file

    (work / "nano").symlink_to(NANO.resolve())
    cases = {}
    for number in (1, 2):
        folder = work / f"format{number}"
        folder.mkdir()
        shutil.copy(FIXTURES / f"stts-format-{number}.json", folder / "stts.json")
        weights = load_file(NANO / "scorer.safetensors")
        weights["mlp.fc2.weight"] = -weights["mlp.fc2.weight"]  # so that the base model's own scorer is told from it
        if number == 1:  # its first layer read [current, previous]
            old = weights["mlp.fc1.weight"]
            half = old.shape[1] // 2
            weights["mlp.fc1.weight"] = torch.cat([old[:, half:], old[:, :half]], dim=1)
        save_file(weights, folder / "scorer.safetensors")
        cases[f"format {number}"] = ask(*QUESTIONS, "--model", str(folder))
    config = Path(os.environ["XDG_CONFIG_HOME"]) / "stts"
    config.mkdir(parents=True)
    (config / "nano").symlink_to(NANO.resolve())
    for name in ("config.yaml", "preset.yaml"):
        shutil.copy(FIXTURES / name, config / name)
    cases["preset"] = ask(*QUESTIONS)
    shutil.rmtree(config)
    return cases


def plain(value: Any, places: dict[str, str]) -> Any:
    """Leave out what differs in every run and put names for folders.

    Args:
        value: JSON data.
        places: folder -> name for it.
    """
    if isinstance(value, dict):
        left_out = MEASURED | PROSE | OF_THE_INSTALLATION
        return {key: plain(one, places) for key, one in value.items() if key not in left_out}
    if isinstance(value, list):
        return [plain(one, places) for one in value]
    if isinstance(value, str):
        for folder, name in places.items():
            value = value.replace(folder, name)
    return value


def main() -> None:
    import stts_cli

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--earlier", type=Path)
    parser.add_argument("--quick", action="store_true", help="one keep ratio, one training, and nothing that reads one")
    given = parser.parse_args()
    work, earlier = given.work, given.earlier or given.work
    assert Path(stts_cli.__file__).is_relative_to(Path.cwd()), f"{stts_cli.__file__} is not of {Path.cwd()}"
    ratios = QUICK_RATIOS if given.quick else RATIOS
    asked = asks(ratios)
    found = {
        "ask": asked,
        "masks": masks(asked, ratios, work),
        "eval": evaluation(work),
        "profile": profiles(),
        "finetune": training(work, QUICK if given.quick else tuple(TRAINING)),
        "reads settings": reads_settings(work),
    }
    if not given.quick:
        found |= {"reads training": reads_training(work, earlier), "reads answers": reads_answers(work, earlier)}
    # Of a model trained earlier, the base is named by a folder of the other tree, which lies beside that tree's WORK.
    places = {str(work): "WORK", str(earlier): "WORK", str(FIXTURES): "FIXTURES", str(Path.cwd()): "TREE"}
    places[str(earlier.with_name("tree"))] = "TREE"
    given.record.write_text(json.dumps(plain(found, places)), encoding="utf-8")


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).resolve().parent))
    main()
