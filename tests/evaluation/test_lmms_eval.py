"""The lmms-eval plug-in: its class on fake requests always; the real registry where lmms-eval is installed."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import types
from dataclasses import dataclass

import pytest

from stts_cli.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib

MODULE = "stts_cli.evaluation.lmms_eval_model"
ENTRY_POINT = "stts_cli.evaluation.lmms_eval_plugin:manifest"


@pytest.fixture
def stts_class(monkeypatch):
    """The model's class on a stand-in for lmms-eval's base class, which is as bare as the real one."""

    class Base:
        is_simple = True

        def __init__(self):
            self.rank, self.task_dict, self.cached = 0, {}, []
            self.cache_hook = types.SimpleNamespace(add_partial=lambda *given: self.cached.append(given))

    model = types.ModuleType("lmms_eval.api.model")
    model.lmms = Base
    for name, module in (
        ("lmms_eval", types.ModuleType("lmms_eval")), ("lmms_eval.api", types.ModuleType("lmms_eval.api")),
        ("lmms_eval.api.model", model),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield importlib.import_module(MODULE).Stts
    del sys.modules[MODULE]


@dataclass
class Request:
    args: tuple


def requests(model, clips, **options):
    model.task_dict = {"task": {"test": clips}}
    options = {"max_new_tokens": 3, "temperature": 0, **options}
    return [
        Request((f"Question {index}?", dict(options), lambda doc: [doc], doc_id, "task", "test"))
        for index, doc_id in enumerate((0, 1, 0))
    ]


def test_requests_are_answered_in_order_and_a_video_is_encoded_once(
    stts_class, tiny_checkpoint, clip_file, write_video, monkeypatch
):
    from stts_cli.engine.model import VideoModel, load

    seen = []
    real = VideoModel.encode
    monkeypatch.setattr(VideoModel, "encode", lambda self, video: seen.append(video) or real(self, video))
    model = stts_class(pretrained=str(tiny_checkpoint), keep_ratio="0.5", max_frames="4", batch_size=1, device="cpu")
    clips = [str(clip_file), str(write_video("other.mp4", num_frames=20))]
    texts = model.generate_until(requests(model, clips))
    assert seen == clips
    other = load(str(tiny_checkpoint), frames=4, keep_ratio=0.5, max_new_tokens=3)
    for index, doc in enumerate((0, 1, 0)):
        assert texts[index] == other.ask(clips[doc], f"Question {index}?").text
    assert [given[1][0] for given in model.cached] == ["Question 0?", "Question 2?", "Question 1?"]
    assert {given[2] for given in model.cached} == set(texts)
    assert model.device.type == "cpu"
    given = {"max_fps": "3", "prune_layer": "2", "scorer": "random", "dtype": "bfloat16", "keep_ratio": None}
    arm = stts_class(pretrained=str(tiny_checkpoint), max_batch_size=None, **given).video_model.arm
    assert (arm.frames, arm.max_fps, arm.prune_layer, arm.scorer, arm.dtype) == (64, 3.0, 2, "random", "bfloat16")
    assert arm.keep_ratio is None


def test_stop_words_cut_and_sampling_warns(stts_class, tiny_checkpoint, clip_file):
    model = stts_class(pretrained=str(tiny_checkpoint), max_frames=2)
    whole = model.generate_until(requests(model, [str(clip_file)] * 2))[0]
    assert len(whole) > 1
    stopped = model.generate_until(requests(model, [str(clip_file)] * 2, until=["", whole[1]]))[0]
    assert stopped == whole.split(whole[1])[0]
    with pytest.warns(UserWarning, match=r"temperature 0\.7 has no effect"):
        model.generate_until(requests(model, [str(clip_file)] * 2, temperature=0.7))


def test_what_is_not_offered_says_so(stts_class, tiny_checkpoint, clip_file):
    with pytest.raises(InputError, match="--model_args max_frame: is not known; did you mean 'max_frames'"):
        stts_class(pretrained=str(tiny_checkpoint), max_frame=3)
    with pytest.raises(InputError, match=r"^--model_args max_frames=many: must be a number\.$"):
        stts_class(pretrained=str(tiny_checkpoint), max_frames="many")
    model = stts_class(pretrained=str(tiny_checkpoint))
    requests(model, [str(clip_file)])
    for call in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="generate_until tasks only"):
            call([])
    with pytest.raises(InputError, match="task 0: shows str, str, must show one video file"):
        model.generate_until([Request(("?", {}, lambda doc: [doc, doc], 0, "task", "test"))])


def test_the_payload_is_light_and_announced(request):
    program = (
        "import sys, stts_cli.evaluation.lmms_eval_plugin\n"
        "assert not {'torch', 'numpy', 'lmms_eval'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    if sys.version_info < (3, 11):
        pytest.skip("tomllib comes with Python 3.11")
    project = tomllib.loads((request.config.rootpath / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lmms_eval.models"] == {"stts": ENTRY_POINT}


@pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None,
    reason="lmms-eval is not installed: it wants av<16 and some sixty packages (pip install lmms-eval)",
)
def test_the_installed_lmms_eval_finds_the_model():
    from lmms_eval.api.model import lmms
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.load_entrypoint_manifests(overwrite=True)
    found = registry.get_model_class("stts")
    assert issubclass(found, lmms)
    assert found.__name__ == "Stts"
