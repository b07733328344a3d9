"""Requests a second of vLLM's server, dense and pruned: `python -m tests.serving.measure FOLDER`, on any machine.

STTS_VLLM_PYTHON names the interpreter that has vLLM (and this clone, see serving/README.md); everything else runs in
the environment that runs this. The model has random weights and the shape that is printed; every clip is sent once, so
that no cache answers. An arm is a server of its own, so arms are compared across processes: on a machine with other
work take the ratios of several runs. One line of JSON a figure goes to FOLDER/figures.jsonl. Further words are the arms
to measure, else all.
"""

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from fractions import Fraction
from pathlib import Path

from tests.serving.cases import clip
from tests.serving.conftest import PYTHON

FRAMES, SIDE, CLIENTS, LAYER = 32, 224, (1, 4, 8), 3
PROMPTS = {1: 6, 4: 16, 8: 16}
WARM = 2
QUESTION = "What happens in this video?"
PRUNED = {"stts 0.5": 0.5, "stts 0.25": 0.25}
ARMS = ("dense", "evs 0.5", *PRUNED)
# a plug-in of the arm "evs": vLLM 0.32 crashes in its own pruning on a CPU without this flag, which is set on GPUs
# only; its positions are wrong all the same (transformers 5.10 and newer), so the arm is for times alone
EVS = """
def register():
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner
    load = CPUModelRunner.load_model
    def load_model(self, *args, **given):
        load(self, *args, **given)
        self.is_multimodal_pruning_enabled = True
    CPUModelRunner.load_model = load_model
"""


def save_model(folder):
    """Write a Qwen3-VL whose encoder has 24 blocks, as the released ones, narrow enough for a CPU."""
    from tests.serving.reference import make_model

    vision = {"hidden_size": 192, "intermediate_size": 768, "depth": 24, "num_heads": 3, "out_hidden_size": 512,
              "deepstack_visual_indexes": [5, 11, 17]}  # fmt: skip
    text = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 8,
            "num_key_value_heads": 4}  # fmt: skip
    return make_model(folder, vision, text)


def flops(folder, keep_ratio):
    """Count encoder and prefill of one clip, by the sizes of the model."""
    from stts_cli.cost.estimate import count, kept_windows
    from stts_cli.families.random_model import read_architecture

    shape = read_architecture(str(folder)).at(FRAMES, (SIDE, SIDE))
    return count(shape, kept_windows(shape, FRAMES, keep_ratio), LAYER, "temporal").total[1]


def serve(folder, arm, port, log):
    own = {"VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(os.cpu_count())}
    how = ["--video-pruning-rate", "0.5"]
    if arm in PRUNED:
        stts = {"keep_ratio": PRUNED[arm], "scorer": "temporal", "prune_layer": LAYER}
        how += ["--hf-overrides", json.dumps({"architectures": ["Qwen3VLSttsForConditionalGeneration"], "stts": stts})]
    if arm.startswith("evs"):
        about = folder / "evs" / "evs_times-1.dist-info"
        about.mkdir(parents=True, exist_ok=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: evs-times\nVersion: 1\n")
        (about / "entry_points.txt").write_text("[vllm.general_plugins]\nevs = evs_times:register\n")
        (about.parent / "evs_times.py").write_text(EVS)
        own["PYTHONPATH"] = str(about.parent)
    return subprocess.Popen(
        [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model"),
         "--served-model-name", "tiny", "--port", str(port), "--dtype", "float32", "--enforce-eager",
         "--max-model-len", "2048", "--max-num-batched-tokens", "2048", "--max-num-seqs", "8",
         "--no-enable-prefix-caching", "--mm-processor-cache-gb", "0", "--limit-mm-per-prompt",
         '{"video": 1, "image": 0}', "--allowed-local-media-path", str(folder), "--disable-uvicorn-access-log",
         *([] if arm == "dense" else how)],
        stdout=log, stderr=subprocess.STDOUT, env=os.environ | own, start_new_session=True,
    )  # fmt: skip


def wait_for(process, address, log):
    for _ in range(300):
        if process.poll() is not None:
            raise SystemExit(f"the server ended: see {log}")
        try:
            urllib.request.urlopen(f"{address}/health", timeout=2)
            return
        except OSError:
            time.sleep(1)
    raise SystemExit(f"the server did not start in 5 minutes: see {log}")


def bench(folder, address, clients, clips):
    """Return what `vllm bench serve` measured."""
    rows = [
        {
            "id": str(k),
            "video": str(path),
            "conversations": [{"value": "What happens in this video?"}, {"value": "It."}],
        }
        for k, path in enumerate(clips)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    subprocess.run(
        [PYTHON, "-m", "vllm.entrypoints.cli.main", "bench", "serve", "--backend", "openai-chat", "--endpoint",
         "/v1/chat/completions", "--base-url", address, "--model", "tiny", "--tokenizer", str(folder / "model"),
         "--dataset-name", "sharegpt", "--dataset-path", str(folder / "rows.json"), "--enable-multimodal-chat",
         "--sharegpt-output-len", "4", "--disable-shuffle", "--max-concurrency", str(clients), "--num-prompts",
         str(len(clips) - WARM), "--num-warmups", str(WARM), "--ignore-eos", "--percentile-metrics", "ttft",
         "--save-result", "--save-detailed", "--result-dir", str(folder), "--result-filename", "bench.json"],
        check=True, capture_output=True,
    )  # fmt: skip
    return json.loads((folder / "bench.json").read_text())


def main(folder, arms):
    from stts_cli.media.writer import write_video

    shutil.rmtree(folder, ignore_errors=True)
    save_model(folder / "model")
    whole = flops(folder / "model", 1.0)
    ideal = {"dense": 1.0, **{arm: whole / flops(folder / "model", ratio) for arm, ratio in PRUNED.items()}}
    print(f"{FRAMES} frames of {SIDE}x{SIDE} px; FLOPs of encoder and prefill, dense over pruned: {ideal}", flush=True)
    dense, seed = {}, 0
    for arm in arms:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        address, log = f"http://127.0.0.1:{port}", folder / f"{arm.replace(' ', '-')}.log"
        with log.open("wb") as file:
            process = serve(folder, arm, port, file)
        try:
            wait_for(process, address, log)
            for clients in CLIENTS:
                clips = []
                for _ in range(PROMPTS[clients] + WARM):
                    clips.append(folder / f"clip-{seed}.mp4")
                    write_video(clips[-1], list(clip(FRAMES, SIDE, SIDE, seed)), Fraction(2))
                    seed += 1
                found = bench(folder, address, clients, clips)
                rate = found["request_throughput"]
                dense.setdefault(clients, rate)
                figure = {
                    "arm": arm, "clients": clients, "requests_per_s": round(rate, 3),
                    "over_dense": round(rate / dense[clients], 2), "ideal": round(ideal.get(arm, 0), 2) or None,
                    "ttft_median_s": round(found["median_ttft_ms"] / 1000, 2),
                    "ttft_p99_s": round(found["p99_ttft_ms"] / 1000, 2),
                    "prompt_tokens": round(statistics.mean(found["input_lens"])), "failed": found.get("failed", 0),
                    "completed": found["completed"],
                }  # fmt: skip
                with (folder / "figures.jsonl").open("a") as lines:
                    lines.write(json.dumps(figure) + "\n")
                print(figure, flush=True)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:] or ARMS)
