"""A whole run: what is refused before anything is trained, and that its result answers."""

import dataclasses
import json
import re
import shutil

import pytest
import torch

from stts_cli.config.training import read_stages
from stts_cli.data.conversations import Conversation
from stts_cli.data.items import Cue
from stts_cli.engine.model import load
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.families import load_family
from stts_cli.training import finetune as module
from stts_cli.training.datasets import check_rows, fingerprint
from stts_cli.training.finetune import finetune
from stts_cli.training.model import TrainingModel
from stts_cli.training.run_folder import RunLog
from stts_cli.training.samples import VideoSample, read_samples
from stts_cli.training.settings import FinetuneSettings, adam_betas
from tests.training.conftest import base_settings, noise_clip


@pytest.fixture
def untrained(monkeypatch):
    """Fail where a run gets as far as its trainer."""

    def trainer(*arguments):
        raise AssertionError("got to the training")

    monkeypatch.setattr(module, "_trainer", trainer)


def rows_file(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def good(videos_jsonl):
    """Rows that nothing is wrong with."""
    return [json.loads(line) for line in videos_jsonl.read_text().splitlines()]


def refused(one, output, message, **options):
    """The run is refused with exactly this message, and leaves no trace in its folder."""
    before = sorted(output.rglob("*")) if output.exists() else None
    with pytest.raises(InputError) as caught:
        finetune(one, output, device="cpu", **options)
    assert re.fullmatch(message, " ".join(str(caught.value).split())), str(caught.value)
    assert caught.value.exit_code == 2
    assert (sorted(output.rglob("*")) if output.exists() else None) == before


def test_a_line_that_is_no_json(untrained, base, good, tmp_path):
    data = rows_file(tmp_path, good[0], "{'video': 1}\n", good[1])
    message = (
        rf"{data}:2: no JSON \(Expecting property name enclosed in double quotes at column 2\): must be a JSON object "
        r"a line\."
    )
    refused(base_settings(base, data), tmp_path / "run", message)


def test_missing_videos_and_empty_answers_are_listed_by_line(untrained, base, good, tmp_path):
    lost = {"video": "lost.mp4", "question": "Where?", "answer": "gone"}
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    talk = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": " "}]
    bad = [lost, {"video": good[1]["video"], "conversations": talk}, {**lost, "video": str(broken)}]
    data = rows_file(tmp_path, good[0], *bad)
    message = (
        rf"line 2: {tmp_path}/lost.mp4: does not exist\. line 3: .*train_1.mp4: the answer is empty\. line 4: "
        rf"{broken}: cannot be read as a video.* missing video: 1, empty answer: 1, unreadable video: 1; "
        r"correct the data, or add --skip-invalid to train without them\."
    )
    refused(base_settings(base, data), tmp_path / "run", message)


def test_an_answer_longer_than_the_sequence(untrained, base, good, tmp_path):
    data = rows_file(tmp_path, good[0], {**good[1], "answer": "long " * 100})
    message = r"line 2: .*: (\d+) tokens with 4 frames, a sequence takes 400\. too long: 1; correct the data, or add .*"
    refused(base_settings(base, data, seq_len=400), tmp_path / "run", message)


def test_an_answer_longer_than_the_model_takes(untrained, base, good, tmp_path):
    data = rows_file(tmp_path, good[0], {**good[1], "answer": "x" * 2100})
    refused(base_settings(base, data), tmp_path / "run", r"line 2: .* tokens with 4 frames, a sequence takes 2048\. .*")


def test_rows_that_cannot_be_read_are_left_out_too_and_counted(base, good, tmp_path):
    data = rows_file(tmp_path, *good, {"video": good[0]["video"], "question": "Q"})
    with data.open("a") as file:
        file.write("{not json\n")
    fewer = base_settings(base, data, steps=1)
    refused(fewer, tmp_path / "run", f"{data}:{len(good) + 1}: field 'answer' is missing; it has video, question.")
    document = finetune(fewer, tmp_path / "run", skip_invalid=True, device="cpu")
    total = len(good) + 2
    (note,) = document["notes"]
    assert note.startswith(f"left out: 2 of {total} rows cannot be read:\n{data}:{len(good) + 1}: field 'answer' is")
    assert f"\n{data}:{total}: no JSON (" in note


@pytest.mark.parametrize("seq_len", [None, 230])
@pytest.mark.parametrize("start", [0.0, 3600.0])
def test_what_passes_the_check_fits_the_sequence(base, good, tmp_path, seq_len, start):
    """The check does not know the times of frames yet; it counts no fewer tokens than a row then has."""
    family = load_family(base)
    limit = seq_len or 2048
    clip = noise_clip(4, times_from=start)
    everything = torch.ones(4, family.shape().num_windows, dtype=torch.bool)
    row = TrainingModel(family).write([clip], everything).input_ids.shape[1]
    spare = limit - (row - len("red"))  # letters of an answer that fills a row to the brim

    def passes(letters):
        question = {"video": good[5]["video"], "question": "What color?", "answer": "x" * letters}
        samples = read_samples(str(rows_file(tmp_path, question)))
        try:
            check_rows(base_settings(base, "x", seq_len=seq_len), family, samples, False, RunLog(None, print))
        except InputError:
            return False
        return True

    assert not passes(spare + 1)
    assert passes(spare - 4 * 4)  # at most three digits and a half a frame on the safe side


def test_a_text_that_cannot_be_tokenized_is_refused_with_its_line(untrained, base, good, tmp_path):
    data = rows_file(tmp_path, {**good[0], "subtitles": [[0, 9, "he said \ufdd0"]]})
    refused(
        base_settings(base, data),
        tmp_path / "run",
        r"line 1: .*: text before the question: holds U\+FDD0, which is not a character. .* unusable text: 1; .*",
    )


def test_what_is_wrong_can_be_left_out(base, good, tmp_path):
    lost = {"video": "lost.mp4", "question": "Where?", "answer": "gone"}
    data = rows_file(tmp_path, *good, lost)
    events = []
    document = finetune(
        base_settings(base, data, steps=1), tmp_path / "run", skip_invalid=True, device="cpu", report=events.append
    )
    assert document["steps"] == 1
    training = json.loads((tmp_path / "run" / "stts.json").read_text())["training"]
    assert str(tmp_path) not in json.dumps(training), "the result may be published"
    (note,) = [event["text"] for event in events if event["event"] == "note"]
    assert note.startswith(f"left out: line {len(good) + 1}: ")
    (start,) = [event for event in events if event["event"] == "start"]
    assert start["items"] == 6
    assert document["notes"] == [note]
    only_bad = rows_file(tmp_path, lost)
    refused(
        base_settings(base, only_bad),
        tmp_path / "other",
        rf"--data {only_bad}: no sample is left; correct the data\.",
        skip_invalid=True,
    )


def test_a_base_model_that_no_family_handles(untrained, base, videos_jsonl, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(base, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "molmo3"}))
    message = rf"model {other} of type molmo3: no family handles it; did you mean 'molmo2'\?"
    refused(base_settings(other, videos_jsonl), tmp_path / "run", message)
    refused(
        base_settings(tmp_path / "nowhere", videos_jsonl),
        tmp_path / "run",
        rf"--model {tmp_path}/nowhere: is no folder; .*",
    )


def test_no_data_and_no_model(untrained, base):
    message = "--{}: is missing; give a model to start from and data to train on, or a --preset."
    for given, missing in (({"model": str(base)}, "data"), ({"data": "shapes"}, "model")):
        with pytest.raises(InputError, match=message.format(missing)):
            finetune(FinetuneSettings(**given), "nowhere")


def test_shapes_without_an_end(untrained, base, tmp_path):
    refused(base_settings(base, "shapes", steps=0), tmp_path / "run", r"--data shapes: has no end; give --steps\.")


def test_output_folders_that_hold_something_else(untrained, base, videos_jsonl, tmp_path):
    one = base_settings(base, videos_jsonl)
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    refused(one, full, rf"--output {full}: is not empty and holds no run; choose another, or empty it\.")
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(EnvironmentFailure, match=r"file: cannot be written, it is a file\."):
        finetune(one, file, device="cpu")
    assert file.read_text() == "mine"


@pytest.fixture(scope="module")
def done(base, videos_jsonl, tmp_path_factory):
    """A run that has ended, its document and its settings."""
    folder = tmp_path_factory.mktemp("done") / "run"
    one = base_settings(base, videos_jsonl, steps=2, eval_videos=2)
    return folder, one, finetune(one, folder, device="cpu")


@pytest.mark.parametrize(
    ("change", "key", "values"),
    [
        ({"lr_scorer": 0.5}, "lr_scorer", "0.001 there, 0.5 here"),
        ({"steps": 9}, "steps", "2 there, 9 here"),
        ({"seed": 3}, "seed", "0 there, 3 here"),
        ({"resize": "decoder"}, "resize", "'model' there, 'decoder' here"),
    ],
)
def test_a_folder_that_holds_another_run(untrained, done, change, key, values):
    folder, one, _ = done
    message = rf"--output {folder}: holds another run \({key} {values}\); choose another, or give the same settings\."
    for resume in (False, True):
        refused(one.override(**change), folder, message, resume=resume)


def test_another_runs_rows(untrained, done, good, tmp_path, videos_jsonl):
    folder, one, _ = done
    changed = rows_file(tmp_path, *good[:-1], {**good[-1], "answer": "blue"})
    shutil.copy(videos_jsonl, tmp_path / "before.jsonl")
    try:
        videos_jsonl.write_text(changed.read_text())
        refused(one, folder, rf"--output {folder}: holds another run \(rows '\w+' there, '\w+' here\); .*", resume=True)
    finally:
        shutil.copy(tmp_path / "before.jsonl", videos_jsonl)


def test_the_fingerprint_of_rows_is_that_of_runs_that_have_begun():
    """With another value none of them could be resumed: neither a name of a field nor its order may change."""
    talk = Conversation((("Q?", "A"),), "group", "text", 3, (Cue(0.0, 1.5, "cue"),), frozenset({0}))
    rows = [VideoSample("a.mp4", None, 2.0, (talk,))]
    assert fingerprint((rows, [])) == "f9eb404885d33e95"
    assert fingerprint((None, None)) == "shapes"


def test_the_same_run_again_wants_resume(untrained, done):
    folder, one, _ = done
    refused(one, folder, rf"--output {folder}: holds this run already; add --resume, or choose another\.")


def test_a_run_that_has_ended_can_be_resumed_and_stays_what_it_is(done):
    folder, one, document = done
    weights = (folder / "scorer.safetensors").read_bytes()
    again = finetune(one.override(log_every=7, keep_checkpoints=4), folder, resume=True, device="cpu")
    assert again["resumed_from"] == "checkpoint-2"
    assert again["after"] == document["after"]
    assert again["before"] == document["before"]
    assert (folder / "scorer.safetensors").read_bytes() == weights


def test_data_that_was_refused_can_be_mended(base, good, tmp_path):
    """A run that never began does not keep its folder."""
    data = rows_file(tmp_path, *good, {"video": "lost.mp4", "question": "Where?", "answer": "gone"})
    with pytest.raises(InputError, match=r"lost\.mp4: does not exist"):
        finetune(base_settings(base, data, steps=1), tmp_path / "run", device="cpu")
    rows_file(tmp_path, *good)
    finetune(base_settings(base, data, steps=1), tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "stts.json").is_file()


@pytest.fixture(scope="module")
def trained(base, videos_jsonl, tmp_path_factory):
    """The result folders of two steps of each kind, by kind."""
    folder = tmp_path_factory.mktemp("kinds")
    for kind in ("scorer", "lora", "full"):
        one = base_settings(base, videos_jsonl, train=kind, steps=2, eval_videos=1, lora_rank=2)
        finetune(one, folder / kind, device="cpu")
    return folder


@pytest.mark.parametrize("kind", ["scorer", "lora", "full"])
def test_a_result_answers(trained, kind, good, base):
    folder = trained / kind
    model = load(str(folder), frames=4, max_new_tokens=3)
    video = model.encode(good[3]["video"])
    assert not model.ask(video, "What is it?").finished
    assert model.name == kind
    assert model.family.is_demonstration
    assert video.pruning.scorer == "learned"
    assert int(video.keep_mask.sum()) == video.keep_mask.numel() // 2
    document = json.loads((folder / "stts.json").read_text())
    assert document["train"] == kind
    assert document["training"]["steps"] == 2
    assert (folder / "model.safetensors").exists() == (kind == "full")
    assert (folder / "adapter_model.safetensors").exists() == (kind == "lora")
    assert (kind == "full") == ("base_model" not in document)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")


def test_finetune_says_what_it_clamps(good, base, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in good[:1]))
    events = []
    settings = base_settings(base, rows, frames=2, keep_ratio="0.2", steps=2)
    document = finetune(settings, tmp_path / "run", device="cpu", report=events.append)
    note = "keep ratio 0.2 of 2 frames: the first frame always stays, so 9 of 18 windows were kept instead of 4"
    assert [event["text"] for event in events if event["event"] == "note"] == document["notes"] == [note]


def test_a_prune_layer_out_of_range_ends_a_training_before_it_starts(videos_jsonl, base, tmp_path):
    with pytest.raises(InputError, match=r"^--prune-layer 5: must be 0 to 4; 7 ViT blocks run"):
        finetune(base_settings(base, videos_jsonl, prune_layer=5), tmp_path / "run", device="cpu")


def test_a_result_is_measured_by_eval(trained, good, tmp_path):
    from typer.testing import CliRunner

    from stts_cli import cli

    items = rows_file(tmp_path, *(row for row in good if "question" in row))
    arguments = ["eval", "--model", str(trained / "scorer"), "--bench", str(items), "--frames", "4", "--workers", "0"]
    result = CliRunner().invoke(cli.app, [*arguments, "--output", str(tmp_path / "out"), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "rows" in result.output


def test_a_result_can_be_trained_on(trained, videos_jsonl, tmp_path):
    """Scorer-only and LoRA folders are base models too; what is trained whole keeps the dtype of the model under it."""
    one = base_settings(trained / "scorer", videos_jsonl, train="full", steps=1)
    finetune(one, tmp_path / "run", device="cpu")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dtype"] == "float32"
    load(str(tmp_path / "run"))
    once_more = base_settings(trained / "lora", videos_jsonl, train="scorer", steps=1)
    finetune(once_more, tmp_path / "scorer", device="cpu")
    document = json.loads((tmp_path / "scorer" / "stts.json").read_text())
    assert document["base_model"].endswith("/lora")


def test_before_and_after_are_measured_on_the_held_out_videos(done):
    _, _, document = done
    assert document["before"].keys() == document["after"].keys() == {"dense", "pruned"}
    for when in ("before", "after"):
        dense, pruned = document[when]["dense"], document[when]["pruned"]
        assert dense["answers"] == pruned["answers"] > 1
        assert (dense["kept"], pruned["kept"]) == (1.0, 0.5)
        assert dense["flops_ratio"] == 1.0
        assert 0.3 < pruned["flops_ratio"] < 1.0
    dense = [document[when]["dense"] for when in ("before", "after")]
    assert dense[0] == dense[1], "only the scorer was trained"
    assert document["before"]["pruned"]["loss"] != document["after"]["pruned"]["loss"]


def test_an_untrained_scorer_is_also_compared_with_what_needs_no_training(base, videos_jsonl, tmp_path):
    one = base_settings(base, videos_jsonl, steps=1, eval_videos=1, new_scorer=True)
    document = finetune(one, tmp_path / "run", device="cpu")
    assert document["before"].keys() == {"dense", "pruned", "temporal"}
    assert document["after"].keys() == {"dense", "pruned"}


def test_the_shipped_presets_are_settings():
    from stts_cli.config.presets import presets_folder

    (values,) = read_stages(presets_folder() / "training" / "nano-quick.yaml").values()
    one = FinetuneSettings(**values)
    assert (one.data, one.train, one.new_scorer, one.keep_ratio) == ("shapes", "scorer", True, "0.5")
    assert one.model == "nano"


def test_the_papers_recipe_is_the_references():
    from stts_cli.config.presets import presets_folder

    (values,) = read_stages(presets_folder() / "training" / "molmo2-paper.yaml").values()
    one = FinetuneSettings(**values)
    assert (one.train, one.scorer, one.keep_ratio, one.prune_layer) == ("full", "learned", "0.5", 3)
    assert (one.lr_connector, one.lr_vit, one.lr_llm, one.lr_scorer) == (5e-6, 5e-6, 1e-5, 1e-4)
    assert (one.optimizer, adam_betas(one), one.adam_eps, one.weight_decay) == ("adamw", (0.9, 0.95), 1e-6, 0)
    assert (one.schedule, one.warmup, one.lr_floor, one.steps) == ("cosine-after-warmup", 200, 0.1, 6250)
    assert (one.clip, one.clip_by, one.z_loss, one.answer_weights) == (1, "part", 1e-4, "root-length")
    assert (one.global_batch, one.frames, one.seq_len, one.temporal_weight) == (64, 64, 9686, 0.5)
    assert (one.target_gradient, one.clamp_scorer_gradient) == (True, False)


def test_the_presets_of_the_embedded_model_clamp_the_scorers_gradient_as_they_did():
    from stts_cli.config.presets import presets_folder

    for path in ("nano", "nano-paper"):
        for name, values in read_stages(presets_folder() / "training" / f"{path}.yaml").items():
            one = FinetuneSettings(**values)
            assert one.clamp_scorer_gradient == (one.scorer == "learned"), f"{path} {name}"


@pytest.mark.parametrize(
    ("processes", "passes"),
    [(1, 32), (8, 4), (32, 1), (3, None), (64, None)],
)
def test_a_global_batch_is_dealt_out(processes, passes):
    one = FinetuneSettings(model="x", data="y", global_batch=64, batch_size=2)
    if passes:
        assert module._divide_batch(one, processes) == dataclasses.replace(one, accumulate=passes)
    else:
        message = rf"--global-batch 64: must be a multiple of --batch-size 2 x {processes} processes\."
        with pytest.raises(InputError, match=message):
            module._divide_batch(one, processes)
    for other, named in (({"data": "shapes"}, "--data shapes"), ({"accumulate": 4}, "--accumulate 4")):
        with pytest.raises(InputError, match=f"--global-batch 64: cannot go with {named}, which"):
            module._divide_batch(dataclasses.replace(one, **other), 1)


def test_what_has_no_effect_and_what_is_left_out_is_said(base, videos_jsonl, tmp_path):
    events = []
    one = base_settings(base, videos_jsonl, train="full", scorer="random", lr_scorer=0.5, steps=1)
    document = finetune(one, tmp_path / "run", device="cpu", report=events.append)
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert notes == document["notes"]
    assert "--lr-scorer: no effect on this run with --scorer random." in notes
    assert "--scorer random: the trained scorer of tiny is left out of the result." in notes
    assert not (tmp_path / "run" / "scorer.safetensors").exists()


def test_a_tracker_that_is_unknown(untrained, base, videos_jsonl, tmp_path):
    one = base_settings(base, videos_jsonl, report_to="tensorbord")
    refused(one, tmp_path / "run", r"--report-to tensorbord: is unknown; did you mean 'tensorboard'\?")
