"""The OpenAI-compatible server of vLLM with the plug-in: one that is used, and one that must not start."""

import base64
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest

from stts_cli.media.writer import write_video
from tests.serving.cases import clip
from tests.serving.conftest import NEEDS_VLLM, PYTHON

pytestmark = [pytest.mark.serving, NEEDS_VLLM]
NUMBER = 6  # different clips
BROKEN = b"\x00\x00\x00\x18ftypmp42" + bytes(200)


def command(folder, port, stts):
    overrides = {"architectures": ["Qwen3VLSttsForConditionalGeneration"], "stts": stts}
    return [
        PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model"), "--port", str(port),
        "--dtype", "float32", "--enforce-eager", "--video-pruning-rate", "0.5", "--hf-overrides", json.dumps(overrides),
        "--max-model-len", "2048", "--max-num-batched-tokens", "2048", "--max-num-seqs", "8",
        "--limit-mm-per-prompt", '{"video": 1, "image": 0}', "--served-model-name", "tiny", str(folder / "model"),
        "--trust-request-mm-kwargs", "--allowed-local-media-path", str(folder), "--disable-uvicorn-access-log",
    ]  # fmt: skip


def environment():
    return os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}


@pytest.fixture(scope="module")
def clips(folder):
    """Files of moving pictures."""
    paths = []
    for k in range(NUMBER):
        paths.append(folder / f"clip-{k}.mp4")
        write_video(paths[-1], list(clip(16, 96, 128, seed=k)), Fraction(2))
    return paths


@pytest.fixture(scope="module")
def server(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(folder, port, {"keep_ratio": 0.5, "scorer": str(folder / "scorer")}),
            stdout=file, stderr=subprocess.STDOUT, env=environment(), start_new_session=True,
        )  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(300):
                assert process.poll() is None, log.read_text()[-3000:]
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=2)
                    break
                except OSError:
                    time.sleep(1)
            yield address, log, process.pid
        finally:
            os.killpg(process.pid, 15)
            process.wait(60)


def body(url, **more):
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
    fixed = {"model": "tiny", "temperature": 0, "max_tokens": 4, "logprobs": True, "ignore_eos": True}
    return {**fixed, "messages": [{"role": "user", "content": content}], **more}


def post(server, document):
    data = json.dumps(document).encode()
    request = urllib.request.Request(
        f"{server[0]}/v1/chat/completions", data, {"Content-Type": "application/json"}
    )  # fmt: skip
    return urllib.request.urlopen(request, timeout=120)


def answer(server, document):
    """Return the status, and what was said with its log-probabilities, or the error's text."""
    try:
        with post(server, document) as response:
            found = json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    steps = found["choices"][0]["logprobs"]["content"]
    return 200, [(step["token"], step["logprob"]) for step in steps], found["usage"]["prompt_tokens"]


def alike(one, other):
    return [token for token, _ in one] == [token for token, _ in other] and all(
        abs(a - b) < 1e-3 for (_, a), (_, b) in zip(one, other, strict=True)
    )


def inline(path):
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def test_a_video_is_answered_in_every_way(server, clips):
    status, said, tokens = answer(server, body(inline(clips[0])))
    assert status == 200
    assert alike(answer(server, body(clips[0].as_uri()))[1], said)
    assert alike(answer(server, body(inline(clips[0])))[1], said), "again, from the caches"
    with post(server, body(inline(clips[0]), stream=True)) as response:
        lines = [line[6:] for line in response.read().decode().splitlines() if line.startswith("data: {")]
    pieces = [json.loads(line)["choices"][0]["logprobs"] for line in lines]
    assert alike([(s["token"], s["logprob"]) for piece in pieces if piece for s in piece["content"]], said)
    _, other, more = answer(server, body(inline(clips[0]), mm_processor_kwargs={"stts": {"keep_ratio": 1}}))
    windows = more - tokens
    assert windows > 0
    assert not alike(other, said)
    _, _, fewer = answer(server, body(inline(clips[0]), mm_processor_kwargs={"stts": {"keep_ratio": 0.25}}))
    assert tokens - fewer == pytest.approx(windows / 2, abs=2)
    log = server[1].read_text()
    assert "videos are pruned: learned scorer after block 1, keep ratio 0.5" in log
    assert "stts: a video keeps " in log


def test_what_is_wrong_is_a_400_and_the_server_lives_on(server, clips, tmp_path):
    whole = inline(clips[1])
    wrong = {
        "not a video": body("data:video/mp4;base64," + base64.b64encode(BROKEN).decode()),
        "a file that is not allowed": body((tmp_path / "other.mp4").as_uri()),
        "a ratio of 2": body(whole, mm_processor_kwargs={"stts": {"keep_ratio": 2}}),
    }
    for name, document in wrong.items():
        status, text, *_ = answer(server, document)
        assert status == 400, (name, text)
    assert answer(server, body(whole))[0] == 200


def test_two_hundred_requests_at_eight_clients(server, clips):
    """Some broken, some left by their client: no wrong answer, and memory does not grow."""
    urls = [inline(path) for path in clips]
    alone = [answer(server, body(url))[1] for url in urls]
    broken = body("data:video/mp4;base64," + base64.b64encode(BROKEN).decode())
    draw, done, wrong, memory = random.Random(0), [0], [], {}
    lock = threading.Lock()

    def one(number):
        kind = draw.random()
        k = draw.randrange(NUMBER)
        if kind < 0.1:
            if answer(server, broken)[0] != 400:
                wrong.append((number, "broken"))
        elif kind < 0.2:
            data = json.dumps(body(urls[k], max_tokens=200)).encode()
            host, port = server[0].removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as left:
                head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                left.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        else:
            status, said, *_ = answer(server, body(urls[k]))
            if status != 200 or not alike(said, alone[k]):
                wrong.append((number, status, said))
        with lock:
            done[0] += 1
            if done[0] in (50, 200):
                memory[done[0]] = held(server[2])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(200)))
    assert not wrong
    assert memory[200] <= 1.05 * memory[50]


def held(pid):
    """Return the resident bytes of a process and all that it started."""
    children: dict[int, list[int]] = {}
    pages = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(path.name))
        pages[int(path.name)] = int(fields[21])
    found, waiting = 0, [pid]
    while waiting:
        now = waiting.pop()
        found += pages.get(now, 0)
        waiting += children.get(now, [])
    return found * os.sysconf("SC_PAGE_SIZE")


def test_a_server_with_a_wrong_setting_does_not_start(folder):
    done = subprocess.run(
        command(folder, 1, {"keep_ratio": 3}), capture_output=True, text=True, timeout=300, env=environment()
    )  # fmt: skip
    assert done.returncode != 0
    assert "stts: keep_ratio 3: must be greater than 0 and at most 1." in done.stdout + done.stderr


def test_eval_asks_it_the_same_as_a_loaded_model(server, folder, clips):
    """The same frames, times and words: the same counts and answers as on transformers, at its own keep ratio too."""
    rows = [{"id": f"{k}", "video": path.name, "question": "What is it?"} for k, path in enumerate(clips)]
    items = folder / "items.jsonl"
    items.write_text("".join(json.dumps({**row, "answer": "it"}) + "\n" for row in rows))

    def evaluate(model, *words):
        asked = ["--bench", str(items), "--model", str(model), "--keep-ratio", "0.3", "--compare", "dense"]
        command = [sys.executable, "-m", "stts_cli.cli", "eval", *asked, "--max-new-tokens", "6", "--json", *words]
        document = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)
        shown = ("arm", "id", "prompt", "num_frames", "tokens_in", "visual_tokens", "visual_tokens_dense")
        # a stream leaves out the first bytes of a character whose last ones were not decoded any more
        found = [(row["text"].rstrip("\ufffd"), *(row[name] for name in shown)) for row in document["samples"]]
        return found, document["notes"]

    served, notes = evaluate(folder / "model", "--engine", server[0], "--in-flight", "3")
    assert not any("another length" in note or "cannot be checked" in note for note in notes)
    assert served == evaluate(folder / "whole")[0]
