"""What vLLM makes of the cases, in vLLM's own environment: `python worker.py FOLDER CHECK`, one line of JSON.

FOLDER is what reference.py wrote. Each check is a function here; an engine is started for each.
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2",
    "VLLM_LOGGING_LEVEL": "WARNING",
}  # fmt: skip
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from tests.serving.cases import CASES, FPS, QUESTION, STEPS, clip

FOLDER = Path(sys.argv[1])
MODEL, SCORER = str(FOLDER / "model"), str(FOLDER / "scorer")
ARCHITECTURE = "Qwen3VLSttsForConditionalGeneration"
VIDEO, IMAGE = (f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("video", "image"))


class Engine:
    """vLLM with a model; `stts` None is vLLM's own class. `given` goes to vLLM."""

    def __init__(self, stts=None, *, model=MODEL, architecture=ARCHITECTURE, **given):
        from vllm import LLM

        pruned = {} if stts is None else {
            "video_pruning_rate": 0.5, "hf_overrides": {"architectures": [architecture], "stts": stts}
        }  # fmt: skip
        limits = {"max_model_len": 2048, "max_num_batched_tokens": 4096}
        self.llm = LLM(
            model, dtype="float32", enforce_eager=True, limit_mm_per_prompt={"video": 2, "image": 2},
            disable_log_stats=True, **{**limits, **pruned, **given},
        )  # fmt: skip
        self.positions = []
        model = self.llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
        forward = model.forward

        def noted(*args, **given):
            self.positions.append(given["positions"].clone().numpy())
            return forward(*args, **given)

        model.forward = noted

    def ask(self, *requests):
        """Return tokens, log-probabilities and positions of the first step; a request is (text, media, settings)."""
        from vllm import SamplingParams

        self.positions.clear()
        prompts = [
            {"prompt": f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", "multi_modal_data": media}
            | ({"mm_processor_kwargs": {"stts": own}} if own else {})
            for text, media, own in requests
        ]
        sampling = SamplingParams(temperature=0, max_tokens=STEPS, logprobs=1, ignore_eos=True)
        outs = self.llm.generate(prompts, sampling, use_tqdm=False)
        answers = []
        for out in outs:
            log_probs = [next(iter(step.values())).logprob for step in out.outputs[0].logprobs]
            steps = len(self.positions) - STEPS + 1  # that read the prompt
            answers.append({"tokens": list(out.outputs[0].token_ids), "log_probs": log_probs, "steps": steps})
        return answers


def video(name, seed=0):
    number, height, width, _ = CASES[name]
    about = {
        "total_num_frames": number, "fps": FPS, "duration": number / FPS, "video_backend": "opencv",
        "frames_indices": list(range(number)), "do_sample_frames": False,
    }  # fmt: skip
    return clip(number, height, width, seed), about


def request(name, question=QUESTION, seed=0):
    return VIDEO + question, {"video": [video(name, seed)]}, {"keep_ratio": CASES[name][3]["keep_ratio"]}


def picture():
    return np.ascontiguousarray(clip(1, 64, 96, seed=5)[0])


def mixed():
    """Requests of every kind, each of which must be answered as if alone."""
    from PIL import Image

    photo = Image.fromarray(picture())
    return {
        "two videos": (VIDEO + "and" + VIDEO + QUESTION, {"video": [video("learned"), video("learned low", 1)]}, None),
        "adjacent": (VIDEO + VIDEO + QUESTION, {"video": [video("learned", 2), video("learned", 3)]}, None),
        "image and video": (IMAGE + VIDEO + QUESTION, {"image": [photo], "video": [video("learned")]}, None),
        "video and image": (VIDEO + QUESTION + IMAGE, {"image": [photo], "video": [video("learned")]}, None),
        "text": (QUESTION, {}, None),
        "image": (IMAGE + QUESTION, {"image": [photo]}, None),
        "other tail": request("learned", "And what happens in the end?"),
        "long": request("long"),
    }


def cases(scorer):
    """Every case of a scorer, each request with its own keep ratio."""
    engine = Engine({"keep_ratio": 0.6, "scorer": SCORER if scorer == "learned" else scorer, "prune_layer": 1})
    found = {}
    for name, (*_, settings) in CASES.items():
        if settings["scorer"] == scorer:
            (answer,) = engine.ask(request(name))
            found[name] = {**answer, "positions": engine.positions[0].tolist()}
    return found


def experts():
    """Cases of the model with experts, by its learned scorer."""
    model = str(FOLDER / "experts")
    engine = Engine({"keep_ratio": 0.6, "scorer": model}, model=model, architecture=ARCHITECTURE.replace("VL", "VLMoe"))
    return {f"experts/{name}": engine.ask(request(name))[0] for name in ("learned", "long")}


def stock():
    """Dense: our class at keep ratio 1, as the server's setting, and vLLM's own."""
    requests = {"video": request("learned"), **mixed()}
    requests = {name: (text, media, None) for name, (text, media, _) in requests.items()}
    found = []
    for stts in (None, {"keep_ratio": 1.0, "scorer": SCORER}):
        engine = Engine(stts)
        found.append({name: engine.ask(each)[0] for name, each in requests.items()})
    return found


def alone():
    """Mixed requests alone, together, again (from vLLM's caches), and in chunks that split a video."""
    settings = {"keep_ratio": 0.4, "scorer": SCORER}
    engine = Engine(settings)
    requests = mixed()
    found = {"alone": {name: engine.ask(each)[0] for name, each in requests.items()}}
    found["again"] = {name: engine.ask(each)[0] for name, each in requests.items()}
    together = engine.ask(*requests.values())
    found["together"] = dict(zip(requests, together, strict=True))
    for size in (48, 64):
        # a chunk may hold no more than the encoder's largest item
        chunked = Engine(settings, max_num_batched_tokens=size, enable_prefix_caching=False)
        found[f"chunks of {size}"] = {name: chunked.ask(each)[0] for name, each in requests.items()}
    return found


def keys(scorer="temporal"):
    """The names under which vLLM keeps a video's features, by settings."""
    engine = Engine({"keep_ratio": 0.5, "scorer": scorer})
    found = {}
    seen = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner.encoder_cache
    for own in (None, {"keep_ratio": 0.5}, {"keep_ratio": 0.3}):
        before = set(seen)
        engine.ask((*request("learned")[:2], own))
        found[str(own)] = sorted(set(seen) - before)
    return found


def refused():
    """What each wrong setting says."""
    wrong = {
        "key": ({"keep": 0.5}, {}),
        "ratio": ({"keep_ratio": 2}, {}),
        "scorer": ({"scorer": "tome"}, {}),
        "layer": ({"prune_layer": 9}, {}),
        "rate": ({"keep_ratio": 0.5}, {"video_pruning_rate": None}),
        "data parallel": ({"keep_ratio": 0.5}, {"mm_encoder_tp_mode": "data"}),
    }
    found = {}
    for name, (stts, given) in wrong.items():
        try:
            Engine(stts, **given)
        except Exception as error:
            found[name] = str(error)
    return found


def bad_requests():
    """What a request's wrong setting says, and that the engine lives on."""
    engine = Engine({"keep_ratio": 0.5, "scorer": "temporal"})
    found = {}
    for own in ({"keep_ratio": 0}, {"scorer": "random"}, {"keep_ratio": "half"}):
        try:
            engine.ask((*request("learned")[:2], own))
        except Exception as error:
            found[str(own)] = str(error)
    found["then"] = engine.ask(request("learned"))[0]["tokens"]
    return found


if __name__ == "__main__":
    name, *given = sys.argv[2:]
    print("RESULT " + json.dumps(globals()[name](*given)))
