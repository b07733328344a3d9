"""The model card's words and numbers, and the upload, with a hub that only writes down what it is given."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from stts_cli.config.presets import presets_folder
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.training.model_card import check_push, license_of, model_card, push_to_hub

NANO = str(presets_folder() / "nano")
RUN = {
    "model": NANO,
    "train": "scorer",
    "data": "the procedural world, training seeds",
    "is_demonstration": True,
    "steps": 1200,
    "seconds": 301.0,
    "before": {
        "dense": {"accuracy": 0.981, "loss": 0.1234, "answers": 500, "flops_ratio": 1.0, "kept": 1.0},
        "pruned": {"accuracy": 0.5, "loss": 2.1, "answers": 500, "flops_ratio": 0.5312, "kept": 0.5},
        "temporal": {"accuracy": 0.8, "loss": 1.0, "answers": 500, "flops_ratio": 0.5, "kept": 0.5},
    },
    "after": {"pruned": {"accuracy": 0.904, "loss": 0.3, "answers": 500, "flops_ratio": 0.5312, "kept": 0.5}},
    "settings": {
        "model": NANO,
        "keep_ratio": "0.5",
        "scorer": "learned",
        "frames": 16,
        "cache": None,
        "lora_vit": False,
    },
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def front_matter(card):
    start, fields, rest = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(fields), rest


def test_what_a_card_says():
    fields, text = front_matter(model_card(RUN))
    assert fields == {
        "license": "apache-2.0",  # the embedded model's own card says so
        "library_name": "stts",
        "pipeline_tag": "video-text-to-text",
        "tags": ["stts", "token-pruning", "video", "demonstration"],
    }
    assert "# nano, trained to be pruned with stts\n" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[:6] == [
        "| | accuracy | loss (nats a token) | windows kept | FLOPs, dense = 1 |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| dense, before | 98.1% | 0.123 | 100% | 1.000 |",
        "| pruned, before | 50.0% | 2.100 | 50% | 0.531 |",
        "| pruned by the temporal scorer, before | 80.0% | 1.000 | 50% | 0.500 |",
        "| pruned, after | 90.4% | 0.300 | 50% | 0.531 |",
    ]
    assert "| frames | 16 |" in table
    assert "500 held-out answers" in text
    assert "1,200 steps, 5 min" in text
    assert "A demonstration" in text
    assert "no real video" in text
    assert "cache" not in text
    assert "lora_vit" not in text
    assert "stts ask video.mp4" in text
    assert "arXiv 2603.18004" in text


@pytest.mark.parametrize("train", ["scorer", "lora", "full"])
def test_a_card_for_every_kind(train):
    card = model_card({"model": "allenai/Molmo2-4B", "train": train})
    fields, text = front_matter(card)
    assert fields["base_model"] == "allenai/Molmo2-4B"
    assert fields["base_model_relation"] == ("adapter" if train == "lora" else "finetune")
    assert fields["library_name"] == {"scorer": "stts", "lora": "peft", "full": "transformers"}[train]
    assert "license" not in fields  # not known without the network
    assert "[allenai/Molmo2-4B](https://huggingface.co/allenai/Molmo2-4B)" in text
    assert ("which is loaded with it" in text) == (train != "full")
    assert "Nothing was measured" in text
    assert "emonstration" not in card


def test_a_dense_training_is_not_called_pruned():
    text = model_card({**RUN, "train": "full", "settings": {"scorer": "none", "keep_ratio": "1"}})
    assert "trained dense" in text
    assert "No scorer was trained" in text
    assert "token scorer" not in text
    assert "keep ratios" not in text


def test_no_place_on_this_machine_is_told(tmp_path):
    data = tmp_path / "secret" / "rows.jsonl"
    data.parent.mkdir()
    data.write_text("")
    settings = {
        "model": str(tmp_path),
        "video_root": "~/films",
        "data": str(data),
        "eval_data": "hf:a/b",
        "cache": "./x",
    }
    text = model_card({"model": str(tmp_path / "secret"), "train": "full", "data": str(data), "settings": settings})
    assert str(tmp_path) not in text
    assert "~" not in text
    assert "Data: rows.jsonl." in text
    assert "| eval_data | hf:a/b |" in text
    assert "base_model:" not in text  # the hub refuses a path there


def test_license_of_the_model_underneath(tmp_path):
    base, run = tmp_path / "base", tmp_path / "run"
    for folder in (base, run):
        folder.mkdir()
    (base / "config.json").write_text("{}")
    (base / "README.md").write_text("---\nlicense: mit\n---\n# base\n")
    (run / "stts.json").write_text(json.dumps({"format": 2, "base_model": str(base)}))
    assert license_of(str(run)) == "mit"
    (run / "README.md").write_text("no front matter\n---\nlicense: x\n---\n")
    assert license_of(str(run)) == "mit"
    (base / "README.md").write_text("---\nlicense: [\n---\n")
    assert license_of(str(run)) is None
    assert license_of(str(tmp_path / "nowhere")) is None
    (run / "stts.json").write_text(json.dumps({"format": 2, "base_model": str(run)}))
    assert license_of(str(run)) is None


def test_license_on_the_hub(monkeypatch):
    class Api:
        def model_info(self, repo, timeout):
            return SimpleNamespace(card_data=SimpleNamespace(license={"someone/base": "mit"}[repo]))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert license_of("someone/base") == "mit"
    assert license_of("someone/else") is None


# --- the hub


@pytest.fixture
def hub(monkeypatch):
    """A hub that one is logged in to and that takes everything."""
    calls = []

    class Api:
        def create_repo(self, repo, **options):
            calls.append(("create", repo, options))
            return f"https://huggingface.co/{repo}"

        def upload_folder(self, **options):
            from huggingface_hub.utils import filter_repo_objects

            folder = Path(options["folder_path"])
            paths = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
            sent = list(filter_repo_objects(paths, ignore_patterns=options["ignore_patterns"]))
            calls.append(("upload", options["repo_id"], sent))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_token")
    return SimpleNamespace(calls=calls, api=Api)


@pytest.fixture
def result(tmp_path):
    """A run's output folder."""
    files = (
        "README.md", "scorer.safetensors", "run.json", "log.jsonl", "checkpoints/before.json",
        "checkpoints/checkpoint-4/scorer.safetensors", "checkpoints/runs/events", ".saving/x",
    )  # fmt: skip
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    document = {"format": 2, "train": "lora", "base_model": "someone/base"}
    (tmp_path / "stts.json").write_text(json.dumps(document))
    return tmp_path


def test_the_result_goes_up_without_the_runs_own_files(hub, result):
    assert push_to_hub(result, "me/mine") == "https://huggingface.co/me/mine"
    assert hub.calls == [
        ("create", "me/mine", {"private": True, "exist_ok": True}),
        ("upload", "me/mine", ["README.md", "scorer.safetensors", "stts.json"]),
    ]


def test_a_hub_that_cannot_be_reached(hub, result, monkeypatch):
    class ConnectError(Exception):
        """Of the hub's client, whichever its version uses: no OSError."""

    def fail(self, repo, **options):
        raise ConnectError("[Errno -2] Name or service not known\nTry again")

    monkeypatch.setattr(hub.api, "create_repo", fail)
    with pytest.raises(EnvironmentFailure) as error:
        push_to_hub(result, "me/mine")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(
        "--push-to-hub me/mine: cannot be written ([Errno -2] Name or service not known), "
    )
    assert f"the result is whole in {result}" in str(error.value)


def test_offline(result, monkeypatch):
    """The hub's own client, kept offline by `no_network`."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_token")
    with pytest.raises(EnvironmentFailure, match=r"cannot be written \(.*offline mode is enabled"):
        push_to_hub(result, "me/mine")


def test_nobody_is_logged_in(hub, result, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(
        EnvironmentFailure, match=r"--push-to-hub me/mine: nobody is logged in to the hub; run hf auth login\."
    ):
        push_to_hub(result, "me/mine")
    assert not hub.calls


@pytest.mark.parametrize("repo", ["mine", "me/mine/yours", "me/mi ne", "me/-mine", ""])
def test_no_name_of_a_repository(hub, repo):
    with pytest.raises(InputError, match=r"is no name of a hub repository; must be OWNER/NAME\."):
        check_push(repo, "someone/base", "full")


def test_small_folders_need_a_base_that_others_have(hub, tmp_path):
    for train in ("scorer", "lora"):
        with pytest.raises(InputError, match=f"is on this machine only, and what --train {train} writes is of no use"):
            check_push("me/mine", NANO, train)
    check_push("me/mine", NANO, "full")
    check_push("me/mine", "someone/base", "lora")
    between = tmp_path / "between"
    between.mkdir()
    (between / "stts.json").write_text(json.dumps({"format": 2, "train": "lora", "base_model": "someone/base"}))
    with pytest.raises(InputError, match="is on this machine only"):
        check_push("me/mine", str(between), "scorer")
