"""A server gets exactly the frames, their times and the words; whatever it does in return is one line or an answer."""

import dataclasses

import numpy as np
import pytest

from stts_cli.engine import server as module
from stts_cli.engine.remote import TICKS, Engine, RemoteModel, load_remote
from stts_cli.engine.server import KEY_VARIABLE, Server
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.media.clip import Clip
from stts_cli.settings import Answering, Arm
from tests.engine.fake_server import FakeServer, picture, sent_frames
from tests.families.tiny_qwen3_vl import save_qwen3_vl

TIMES = [0.0, 1 / 3, 0.5, 9.96]


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(module, "PAUSES_S", (0.0, 0.0))
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def clip():
    frames = np.random.default_rng(0).integers(0, 256, (4, 17, 30, 3), dtype=np.uint8)
    return Clip.from_frames(frames, TIMES)


def model_of(fake, send="video", **arm):
    return RemoteModel(Server(fake.url, 5.0), Arm("served", "tiny", **arm), send, None)


def ask(fake, clip, **arm):
    model = model_of(fake, **arm)
    return model.ask(model.encode(clip), "What?", context="subtitle\n", max_new_tokens=7)


def test_frames_arrive_bit_for_bit_with_their_times_and_the_words(fake, clip):
    answer = ask(fake, clip)
    (body,) = fake.bodies
    frames, text = sent_frames(body)
    np.testing.assert_array_equal(frames, clip.frames)
    assert text == "subtitle\nWhat?"
    assert (body["model"], body["max_tokens"]) == ("tiny", 7)
    assert body["temperature"] == 0
    assert "mm_processor_kwargs" not in body  # the server's own keep ratio holds
    told = body["media_io_kwargs"]["video"]
    assert told["num_frames"] == -1  # otherwise vLLM takes 32 and cuts the others
    assert told["do_sample_frames"] is False
    assert [index / told["fps"] for index in told["frames_indices"]] == pytest.approx(TIMES, abs=0.5 / TICKS)
    assert told["total_num_frames"] / told["fps"] == pytest.approx(clip.duration_s, abs=0.5 / TICKS)
    assert told["duration"] == clip.duration_s
    assert (answer.text, answer.finished) == ("A.", True)
    assert answer.num_prompt_tokens is None
    assert 0 < answer.ttft_s <= answer.seconds["answer"]


def test_wording_goes_with_the_request(fake, clip):
    how = Answering("Be brief.", 0.5, 0.9, ("\n",))
    model = RemoteModel(Server(fake.url), Arm("served", "tiny", seed=3), "video", None, how)
    model.ask(model.encode(clip), "What?")
    body = fake.bodies[0]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert [body[key] for key in ("temperature", "top_p", "seed", "stop")] == [0.5, 0.9, 3, ["\n"]]


def test_images_are_a_list_with_times_before_them(fake, clip):
    ask(fake, clip, send="images")
    *content, last = fake.bodies[0]["messages"][0]["content"]
    assert last == {"type": "text", "text": "subtitle\nWhat?"}
    assert [part["text"] for part in content[::2]] == ["0.0 s:", "0.3 s:", "0.5 s:", "10.0 s:"]
    pictures = [picture(part["image_url"]["url"].removeprefix("data:image/png;base64,")) for part in content[1::2]]
    np.testing.assert_array_equal(pictures, clip.frames)
    assert "media_io_kwargs" not in fake.bodies[0]


def test_a_keep_ratio_goes_with_the_request(fake, clip):
    ask(fake, clip, keep_ratio=0.3)
    assert fake.bodies[0]["mm_processor_kwargs"] == {"stts": {"keep_ratio": 0.3}}


def test_an_answer_at_the_limit_is_cut_and_counts_are_the_servers(fake, clip):
    fake.finish, fake.usage = "length", lambda body: {"prompt_tokens": 123, "completion_tokens": 7}
    answer = ask(fake, clip)
    assert (answer.finished, answer.num_prompt_tokens, answer.num_new_tokens) == (False, 123, 7)


def test_a_known_models_prompt_is_counted(tmp_path, fake, clip):
    folder = str(save_qwen3_vl(tmp_path / "model") or tmp_path / "model")
    fake.models = [folder]
    from stts_cli.engine.model import load_arm

    arm = Arm("served", folder)
    local = load_arm(arm.override(scorer="none"), "cpu")
    video = local.encode(clip)
    dense = local.ask(video, "What?", max_new_tokens=1).num_prompt_tokens
    (model,) = load_remote(Engine(fake.url), [arm])
    assert model.notes == []
    fake.usage = lambda body: {"prompt_tokens": dense - 3, "completion_tokens": 1}
    sent = model.encode(clip)
    answer = model.ask(sent, "What?")
    assert (answer.num_expected, answer.num_dropped) == (dense, 3)
    assert sent.num_dense == video.keep_mask.numel()
    assert sent.costs(answer)["visual_tokens"] == video.keep_mask.numel() - 3
    pruned = load_arm(dataclasses.replace(arm, keep_ratio=0.4), "cpu")
    kept = pruned.ask(pruned.encode(clip), "What?", max_new_tokens=1).num_prompt_tokens
    (model,) = load_remote(Engine(fake.url), [dataclasses.replace(arm, keep_ratio=0.4)])
    assert model.ask(model.encode(clip), "What?").num_expected == kept < dense


@pytest.mark.parametrize("plan", [[500], [503, 429], ["broken"], ["half", 502]])
def test_what_may_pass_is_tried_again(fake, clip, plan):
    fake.plan = [*plan]
    assert ask(fake, clip).text == "A."
    assert len(fake.bodies) == len(plan) + 1


@pytest.mark.parametrize(
    ("plan", "kind", "says"),
    [
        ([500] * 3, InputError, r"answers 500 \(no\)\."),
        ([400], InputError, r"answers 400 \(no\)\."),
        (["broken"] * 3, InputError, "broke off after 1 characters"),
        ([404], EnvironmentFailure, "check --engine and --model"),
        ([401], EnvironmentFailure, f"set {KEY_VARIABLE}"),
        ([302], EnvironmentFailure, "answers 302"),  # the key would go elsewhere
    ],
)
def test_failures_are_a_line(fake, clip, plan, kind, says):
    fake.plan = [*plan]
    with pytest.raises(kind, match=says):
        ask(fake, clip)
    assert len(fake.bodies) == len(plan)


def test_a_server_that_takes_no_settings_says_which_flag_it_needs(fake, clip):
    fake.plan, fake.said = [400], {"message": "... Start the server with --trust-request-mm-kwargs only when ..."}
    with pytest.raises(EnvironmentFailure, match="serve with --trust-request-mm-kwargs"):
        ask(fake, clip)


def test_an_error_inside_a_stream_is_one(fake, clip):
    fake.answer, said = [], '{"error": {"message": "too long", "code": 400}}'
    fake.usage = lambda body: None
    with pytest.raises(InputError, match=r"answers 400 \(too long\)"):
        Server(fake.url)._read(said.encode())


def test_a_silent_server_is_given_up_at_once(fake, clip):
    fake.plan = ["hang"]
    model = RemoteModel(Server(fake.url, 0.2), Arm("served", "tiny"), "video", None)
    with pytest.raises(InputError, match=r"sent nothing for 0\.2 s"):
        model.ask(model.encode(clip), "What?")
    assert len(fake.bodies) == 1


def test_nobody_there(fake, clip):
    model = model_of(fake)
    fake.close()
    with pytest.raises(EnvironmentFailure, match="no server answers there"):
        model.ask(model.encode(clip), "What?")
    with pytest.raises(EnvironmentFailure, match="no server answers there"):
        load_remote(Engine(fake.url), [Arm("served", "tiny")])


def test_a_model_that_is_not_served_is_refused(fake):
    with pytest.raises(InputError, match=r"--model other: is not served by .*; it serves tiny\."):
        load_remote(Engine(fake.url), [Arm("served", "other")])


def test_the_key_is_sent_and_never_said(fake, clip, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret")
    fake.plan, fake.said = [400], {"message": "the key sk-secret is bad"}
    with pytest.raises(InputError) as caught:
        ask(fake, clip)
    assert fake.keys == ["Bearer sk-secret"]
    assert "sk-secret" not in str(caught.value)
    assert "***" in str(caught.value)
    monkeypatch.setenv(KEY_VARIABLE, "sk\nsecret")
    with pytest.raises(EnvironmentFailure, match=KEY_VARIABLE) as refused:
        Server(fake.url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://a/v1", "http://user:sk-secret@a/v1", "http://a/v1?key=sk-secret"]
)
def test_addresses_that_are_refused(url):
    with pytest.raises(InputError, match="--engine") as caught:
        Server(url)
    assert "sk-secret" not in str(caught.value)


def test_pieces_are_shown_once_and_a_shown_answer_is_not_asked_again(fake, clip):
    model, pieces = model_of(fake), []
    model.ask(model.encode(clip), "What?", on_text=pieces.append)
    assert pieces == ["A", "."]
    fake.plan = ["broken"]
    with pytest.raises(InputError, match="broke off"):
        model.ask(model.encode(clip), "What?", on_text=pieces.append)
    assert pieces == ["A", ".", "A"]
