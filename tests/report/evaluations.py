"""Documents of an evaluation, as `stts eval --json` prints them, for tests of what is made of them."""

from __future__ import annotations


def arm_summary(**values):
    return {
        "n": 4, "n_total": 5, "n_unscored": 0, "n_left_out": 0, "n_errors": 1, "unparsed_rate": 0.25, "accuracy": 0.5,
        "headline": "task", "mean": "macro over task", "micro": 0.75, "interval": (0.5, 1.0), "macro": {"task": 0.5},
        "chance": 0.25,
        "groups": {"task": {"x|y": {"n": 4, "accuracy": 0.75, "chance": 0.25}}}, "videos": 2, "visual_tokens": 36.0,
        "flops": 2e9, "peak_bytes": None, **values,
    }  # fmt: skip


def document(**values):
    seen = {"model": "m", "frames": 4, "max_fps": 2.0, "dtype": "float32"}
    comparison = {
        "arm": "pruned", "against": "dense", "n": 4, "difference": -0.25, "interval": (-0.5, 0.0),
        "accuracy_difference": -0.25, "accuracy_interval": (-0.5, 0.0), "only_a": 0, "only_b": 1,
        "mcnemar_p": 1.0, "flops_ratio": 0.5,
    }  # fmt: skip
    return {
        "bench": "x", "title": "X <bench>", "class": "short", "split": "test", "scoring": "strict", "remark": "read me",
        "is_demonstration": False, "num_missing": 3, "notes": ["a note"], "missing": ["gone.mp4"], "samples": [],
        "arms": {
            "dense": arm_summary(flops=4e9, micro=1.0, accuracy=0.75, peak_bytes=2 << 20), "pruned": arm_summary(),
        },
        "comparisons": [comparison], "failed": {}, "seeds": {},
        "config": {"device": "cpu", "arms": {
            "dense": {**seen, "keep_ratio": 1.0, "scorer": "none"},
            "pruned": {**seen, "keep_ratio": 0.5, "scorer": "learned"},
        }}, **values,
    }  # fmt: skip
