"""Intervals and p-values against plain loops and known figures."""

import random
from math import comb

import numpy as np
import pytest

from stts_cli.evaluation import statistics
from stts_cli.evaluation.metrics import compare, summarize
from stts_cli.evaluation.statistics import mcnemar_p, mean_interval


def loop_interval(values, clusters, resamples):
    """The bootstrap over clusters, one draw at a time."""
    names = list(dict.fromkeys(clusters))
    members = {name: [v for v, c in zip(values, clusters, strict=True) if c == name] for name in names}
    rng = random.Random(1)
    means = []
    for _ in range(resamples):
        drawn = [value for _ in names for value in members[rng.choice(names)]]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    return means[int(0.025 * resamples)], means[int(0.975 * resamples)]


def test_the_interval_is_that_of_a_plain_bootstrap_over_videos():
    rng = random.Random(0)
    clusters = [f"v{index // 4}" for index in range(160)]
    luck = {name: rng.choice([0.1, 0.9]) for name in dict.fromkeys(clusters)}
    values = [float(rng.random() < luck[name]) for name in clusters]
    low, high = mean_interval(values, clusters)
    plain_low, plain_high = loop_interval(values, clusters, 4000)
    assert (low, high) == pytest.approx((plain_low, plain_high), abs=0.012)
    alone = mean_interval(values, [str(index) for index in range(160)])
    assert high - low > 1.2 * (alone[1] - alone[0]), "questions of one video go together"
    assert mean_interval(values, clusters) == mean_interval(values, clusters), "seeded"
    assert mean_interval([1.0, 0.0], ["v", "v"]) is None


UNEQUAL = ([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, -1.0, 0.5], ["a", "b", "b", "c", "c", "c", "c", "c"])


def test_videos_of_unequal_length_weigh_by_their_questions():
    values, clusters = UNEQUAL
    means = []
    for drawn in np.random.default_rng(7).integers(3, size=(50, 3)):
        picked = [value for k in drawn for value, name in zip(values, clusters, strict=True) if name == "abc"[k]]
        means.append(sum(picked) / len(picked))
    means.sort()
    # percentiles between two of 50 sorted values: at 0.025 * 49 = 1.225 and 0.975 * 49 = 47.775
    expected = means[1] + 0.225 * (means[2] - means[1]), means[47] + 0.775 * (means[48] - means[47])
    assert mean_interval(values, clusters, seed=7, resamples=50) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "clusters", "groups"),
    [
        (*UNEQUAL, [["x"], ["x", "y"], ["y"], [], ["x"], ["y"], ["y"], ["y"]]),
        ([1.0, 0.25, -1.0], ["a", "b", "c"], [["x"], ["y"], ["z"]]),  # of most draws a group is left out
    ],
)
def test_the_mean_of_the_groups_means_is_resampled_with_the_videos_too(values, clusters, groups):
    means = []
    for drawn in np.random.default_rng(7).integers(3, size=(50, 3)):
        picked = [k for d in drawn for k, name in enumerate(clusters) if name == "abc"[d]]
        of_groups = [[values[k] for k in picked if name in groups[k]] for name in "xyz"]
        of_groups = [sum(own) / len(own) for own in of_groups if own]
        means.append(sum(of_groups) / len(of_groups))
    expected = np.percentile(means, [2.5, 97.5])
    assert mean_interval(values, clusters, groups=groups, seed=7, resamples=50) == pytest.approx(expected, abs=1e-12)
    assert mean_interval(values, clusters, groups=[["x"]] * len(values)) == mean_interval(values, clusters)


@pytest.mark.parametrize("chunk", [1, 10])
def test_the_draws_do_not_depend_on_how_many_are_held_at_a_time(monkeypatch, chunk):
    whole = mean_interval(*UNEQUAL, seed=7, resamples=50)
    sizes = []

    class Recorder:
        def __init__(self, seed):
            self.rng = np.random.Generator(np.random.PCG64(seed))

        def integers(self, high, size):
            sizes.append(size)
            return self.rng.integers(high, size=size)

    monkeypatch.setattr(np.random, "default_rng", Recorder)
    monkeypatch.setattr(statistics, "_CHUNK", chunk)
    assert mean_interval(*UNEQUAL, seed=7, resamples=50) == whole
    assert sizes == ([(1, 3)] * 50 if chunk == 1 else [(3, 3)] * 16 + [(2, 3)])


def test_the_defaults_of_the_bootstrap():
    values = [k * k % 23 / 23 for k in range(40)]
    clusters = [str(k // 3) for k in range(40)]
    assert mean_interval(values, clusters) == mean_interval(values, clusters, seed=0, resamples=10_000)
    assert mean_interval(values, clusters) != mean_interval(values, clusters, seed=1)
    assert mean_interval(values, clusters) != mean_interval(values, clusters, resamples=10_001)
    assert mean_interval([1.0, 0.0], ["a", "b"], resamples=200) == (0.0, 1.0), "two videos are enough"


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (8, 1), (3, 12), (700, 640)])
def test_mcnemar_is_the_exact_binomial(b, c):
    total = b + c
    exact = min(1.0, 2 * sum(comb(total, k) for k in range(min(b, c) + 1)) / 2**total)
    assert mcnemar_p(b, c) == pytest.approx(exact, rel=1e-9)


def row(number, correct, *, arm="a", video=None, error=None, counted=True, parsed="A", **groups):
    return {
        "arm": arm, "id": str(number), "video": video or str(number), "segment": video or str(number),
        "correct": correct, "counted": counted, "parsed": parsed, "chance": 0.25, "visual_tokens": 10, "flops": 100.0,
        "peak_bytes": 5, "finished": True,
        "groups": {name: [value] if isinstance(value, str) else value for name, value in groups.items()},
        **({"error": error} if error else {}),
    }  # fmt: skip


def test_micro_macro_and_what_is_not_counted():
    rows = [
        row(1, 1, task="x"), row(2, 1, task="x"), row(3, 1, task="x"), row(4, 0, task="y", parsed=None),
        row(5, None, task="x"), row(6, 0, task="y", counted=False), {**row(7, None, error="broken")},
    ]  # fmt: skip
    result = summarize(rows, "task")
    assert (result["n"], result["n_total"], result["n_unscored"], result["n_left_out"]) == (4, 7, 1, 1)
    assert result["n_errors"] == 1
    assert (result["micro"], result["accuracy"], result["macro"]["task"]) == (0.75, 0.5, 0.5)
    assert summarize(rows, "micro")["accuracy"] == 0.75
    assert result["unparsed_rate"] == pytest.approx(1 / 6)
    assert result["groups"]["task"]["y"] == {"n": 1, "accuracy": 0.0, "chance": 0.25}


def test_a_question_may_count_in_several_groups_and_durations_are_in_order():
    rows = [
        row(1, 1, ability=["x", "y"]),
        row(2, 0, ability="y"),
        row(3, 1, duration="600 s"),
        row(4, 1, duration="15 s"),
    ]
    result = summarize(rows, "micro")
    assert result["groups"]["ability"]["y"]["n"] == 2
    assert list(result["groups"]["duration"]) == ["15 s", "600 s"]


def test_a_summary_in_full():
    rows = [
        row(1, 1, video="v", task="x"), row(2, 0, video="v", task="y"), row(3, 1, video="w", task="x"),
        row(4, None, video="w", task="x", parsed=None), row(5, 1, video="w", counted=False, task="z"),
        {**row(6, None, video="u", error="broken"), "flops": 1e9, "peak_bytes": 1e9, "visual_tokens": 1e9},
    ]  # fmt: skip
    rows[1]["chance"], rows[2]["flops"], rows[2]["peak_bytes"], rows[3]["peak_bytes"] = 0.5, 200.0, 9, None
    for each in rows[2:5]:
        each["visual_tokens"], each["finished"] = 30, each is rows[2]
    assert summarize(rows, "task") == {
        "n": 3, "n_total": 6, "n_unscored": 1, "n_left_out": 1, "n_errors": 1, "n_cut": 2, "unparsed_rate": 0.2,
        "accuracy": 0.5,
        "headline": "task", "mean": "macro over task", "micro": pytest.approx(2 / 3),
        "interval": mean_interval([1, 0, 1], ["v", "v", "w"]),
        "macro": {"task": 0.5}, "chance": pytest.approx(1 / 3),
        "groups": {
            "task": {"x": {"n": 2, "accuracy": 1.0, "chance": 0.25}, "y": {"n": 1, "accuracy": 0.0, "chance": 0.5}}
        },
        "videos": 2, "visual_tokens": 20.0, "flops": 120.0, "peak_bytes": 9,
    }  # fmt: skip
    assert summarize(rows, "nothing grouped so")["accuracy"] == pytest.approx(2 / 3)
    rows[0]["chance"] = None
    for each in rows:
        each["peak_bytes"] = None
    unknown = summarize(rows, "micro")
    assert (unknown["chance"], unknown["peak_bytes"]) == (None, None)
    nothing = summarize([], "micro")
    assert (nothing["n"], nothing["accuracy"], nothing["peak_bytes"], nothing["flops"]) == (0, None, None, None)


def test_points_are_of_the_same_mean_as_the_accuracies_they_stand_beside():
    """Tasks of unequal size: over questions and over tasks the arms differ by different amounts."""
    right, tasks = {"a": [1, 1, 1, 1, 0, 1], "b": [0, 1, 1, 1, 1, 1]}, [("x",), ("x",), ("x",), ("y",), ("z",), ()]
    a, b = ([row(k, score, task=tasks[k]) for k, score in enumerate(right[arm])] for arm in "ab")
    for headline, points in (("micro", 0.0), ("task", (1 / 3 + 0 - 1) / 3)):
        result = compare(a, b, headline)
        accuracies = [summarize(rows, headline)["accuracy"] for rows in (a, b)]
        assert result["accuracy_difference"] == pytest.approx(accuracies[0] - accuracies[1]) == pytest.approx(points)
        assert result["difference"] == 0.0
        assert summarize(a, headline)["mean"] == ("micro" if headline == "micro" else "macro over task")
    assert compare(a, b, "task")["accuracy_interval"] == mean_interval([1, 0, 0, 0, -1, 0], "012345", groups=tasks)
    lacking = compare(a, b, "no such breakdown")
    for key in ("difference", "interval"):
        assert lacking[f"accuracy_{key}"] == lacking[key]


def test_arms_are_compared_on_what_both_answered():
    a = [row(1, 1), row(2, 1), row(3, 0), row(4, 1), row(5, 1)]
    b = [row(1, 1), row(2, 0), row(3, 1), row(4, 0), {**row(5, None, error="broken")}]
    for each in b:
        each["flops"] = 200.0
    result = compare(a, b)
    assert (result["n"], result["a"], result["b"], result["difference"]) == (4, 0.75, 0.5, 0.25)
    assert (result["only_a"], result["only_b"]) == (2, 1)
    assert result["interval"] == mean_interval([0, 1, -1, 1], list("abcd"))
    assert result["mcnemar_p"] == mcnemar_p(2, 1)
    assert result["flops_ratio"] == 0.5
    assert compare(a, []) == {
        "n": 0, "a": None, "b": None, "difference": None, "interval": None, "accuracy_difference": None,
        "accuracy_interval": None, "only_a": 0, "only_b": 0,
        "mcnemar_p": 1.0, "flops_ratio": None,
    }  # fmt: skip
    b[0]["counted"], a[1]["counted"], a[2]["correct"] = False, False, None
    assert (compare(a, b)["n"], compare(a, b)["only_a"]) == (1, 1)
