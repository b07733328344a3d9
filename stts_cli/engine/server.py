"""Ask an OpenAI-compatible server: one question a request, its answer streamed, and every way it can fail in one line.

Standard library only. The key is read from the environment and goes into one header, never into a message. A
redirection is not followed: the key would go with it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib import error, parse, request

from stts_cli import __version__
from stts_cli.errors import EnvironmentFailure, InputError

KEY_VARIABLE = "OPENAI_API_KEY"
SILENCE_S = 600.0  # a server that sends nothing for so long is given up
PAUSES_S = (1.0, 4.0)  # before another try
BUSY = (408, 429)  # to be tried again, as everything from 500 on is
REFUSED = (401, 403)
TRUST = "--trust-request-mm-kwargs"
MOST_SAID = 300  # characters of a server's own words


@dataclass(frozen=True)
class Reply:
    """What a server said to one question.

    Attributes:
        text: the answer.
        finished: False when it was cut at the limit of new tokens.
        num_prompt_tokens: of the whole prompt, the video's included; None where the server does not tell.
        num_new_tokens: of the answer; None where the server does not tell.
        ttft_s: seconds from the request to the first text; None where there was none, or it came in one piece.
        seconds: from the request to the end, tries that failed left out.
    """

    text: str
    finished: bool
    num_prompt_tokens: int | None
    num_new_tokens: int | None
    ttft_s: float | None
    seconds: float


class _Passing(Exception):  # it says what it is
    """A failure that another try may not meet; `is_absent` where nobody answers at the address."""

    def __init__(self, text: str, *, is_absent: bool = False) -> None:
        super().__init__(text)
        self.is_absent = is_absent


class Server:
    """An OpenAI-compatible server.

    Args:
        url: its address, with or without "/v1" at the end.
        silence_s: seconds without a word after which a request is given up.

    Raises:
        InputError: no http(s) address, or one that holds a password.
        EnvironmentFailure: a key that cannot be sent.
    """

    def __init__(self, url: str, silence_s: float = SILENCE_S) -> None:
        parts = parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--engine {url}: must be a server's address, such as http://localhost:8000/v1.")
        if parts.username or parts.password or parts.query:
            raise InputError(f"--engine: the address holds a name, a key or a query; give the key in {KEY_VARIABLE}.")
        base = url.rstrip("/")
        self.url = base if base.endswith("/v1") else f"{base}/v1"
        self.silence_s = silence_s
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not self._key.isascii() or not self._key.isprintable():
            raise EnvironmentFailure(f"{KEY_VARIABLE}: holds characters that no key has; set it again.")

    def check_model(self, name: str) -> None:
        """Refuse a model that the server does not list; one without a list is believed.

        Raises:
            InputError: the server serves others.
            EnvironmentFailure: no server answers, or it refuses the key.
        """
        try:
            with self._open("models") as answer:
                listed = [str(each["id"]) for each in json.load(answer)["data"]]
        except (InputError, _Passing, ValueError, KeyError, TypeError) as problem:
            if isinstance(problem, _Passing) and problem.is_absent:
                raise self._absent(problem) from problem
            return
        if listed and name not in listed:
            raise InputError(f"--model {name}: is not served by {self.url}; it serves {', '.join(listed[:10])}.")

    def chat(self, body: dict[str, Any], on_text: Callable[[str], None] | None = None) -> Reply:
        """Ask for one answer, streamed; what may pass is tried again, unless a part of the answer was shown.

        Args:
            body: of a chat completion.
            on_text: called with each piece of the answer as it comes.

        Raises:
            InputError: this question is refused, timed out, or its answer broke off time after time.
            EnvironmentFailure: the server is not there, or would refuse every question.
        """
        told = {"stream": True, "stream_options": {"include_usage": True}}
        data = json.dumps({**body, **told}).encode()
        shown: list[str] = []

        def show(piece: str) -> None:
            if on_text:
                shown.append(piece)
                on_text(piece)

        for pause_s in (*PAUSES_S, None):
            try:
                return self._ask(data, show)
            except _Passing as problem:
                if pause_s is None or shown:  # what was shown cannot be taken back
                    raise self._absent(problem) if problem.is_absent else InputError(str(problem)) from problem
                time.sleep(pause_s)
        raise AssertionError

    def _ask(self, data: bytes, on_text: Callable[[str], None]) -> Reply:
        started, first, text, reason, ended = time.monotonic(), None, "", None, False
        usage: dict[str, Any] = {}
        with self._open("chat/completions", data) as answer:
            is_stream = "event-stream" in answer.headers.get("Content-Type", "")
            for event in _events(answer) if is_stream else iter([answer.read()]):
                if event == b"[DONE]":
                    ended = True
                    break
                part = self._read(event)
                usage = part.get("usage") or usage
                for choice in part.get("choices") or []:
                    piece = (choice.get("delta") or choice.get("message") or {}).get("content") or ""
                    reason = choice.get("finish_reason") or reason
                    if piece and first is None and is_stream:
                        first = time.monotonic() - started
                    text += piece
                    if piece:
                        on_text(piece)
        if reason is None and not ended:
            raise _Passing(f"{self.url}: the answer broke off after {len(text)} characters.")
        prompt, new = (usage.get(name) for name in ("prompt_tokens", "completion_tokens"))
        return Reply(text, reason != "length", prompt, new, first, time.monotonic() - started)

    def _read(self, event: bytes) -> dict[str, Any]:
        try:
            part = json.loads(event)
        except ValueError as problem:
            raise _Passing(f"{self.url}: sent what is no JSON ({self._clean(event)}).") from problem
        if not isinstance(part, dict):
            raise _Passing(f"{self.url}: sent what is no answer ({self._clean(event)}).")
        if failed := part.get("error"):
            code = failed.get("code") if isinstance(failed, dict) else None
            raise self._failure(code if isinstance(code, int) else 500, event)
        return part

    @contextlib.contextmanager
    def _open(self, path: str, data: bytes | None = None) -> Iterator[http.client.HTTPResponse]:
        """Send a request, and turn what can happen until its answer is read into a message."""
        headers = {"User-Agent": f"stts/{__version__}", "Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        asked = request.Request(f"{self.url}/{path}", data, headers)
        try:
            with _opener().open(asked, timeout=self.silence_s) as answer:
                yield answer
        except error.HTTPError as problem:
            with problem, contextlib.suppress(OSError, http.client.HTTPException):
                said = problem.read(1 << 16)
            raise self._failure(problem.code, said) from problem
        except (http.client.HTTPException, OSError) as problem:
            reason = getattr(problem, "reason", None) or problem
            if isinstance(reason, TimeoutError):
                gave_up = f"sent nothing for {self.silence_s:g} s; the question is given up"
                raise InputError(f"{self.url}: {gave_up}.") from None
            is_absent = isinstance(problem, error.URLError) and not isinstance(reason, ConnectionResetError)
            why = self._clean(str(reason).encode()) or type(problem).__name__
            raise _Passing(f"{self.url}: {why}.", is_absent=is_absent) from problem

    def _failure(self, code: int, said: bytes) -> Exception:
        """Return the error that a status stands for."""
        try:
            document = json.loads(said)
            found = document.get("error", document)
            said = str(found.get("message") if isinstance(found, dict) else found).encode()
        except (ValueError, AttributeError):
            pass
        text = f"{self.url}: answers {code} ({self._clean(said) or http.client.responses.get(code, 'no reason')})"
        if code in BUSY or code >= 500:
            return _Passing(f"{text}.")
        if code in REFUSED:
            return EnvironmentFailure(f"{text}; set {KEY_VARIABLE} to a key that it takes.")
        if TRUST.encode() in said:
            return EnvironmentFailure(
                f"{self.url}: takes no settings with a request; serve with {TRUST}, or give --send images and no keep "
                "ratio."
            )
        if 300 <= code < 400 or code in (404, 405):
            return EnvironmentFailure(f"{text}; check --engine and --model.")
        return InputError(f"{text}.")

    def _absent(self, problem: Exception) -> EnvironmentFailure:
        return EnvironmentFailure(f"{str(problem).rstrip('.')}; no server answers there. Start it, or change --engine.")

    def _clean(self, said: bytes) -> str:
        """Return a server's words in one short line, without the key."""
        text = " ".join(said.decode("utf-8", "replace").split())
        return (text.replace(self._key, "***") if self._key else text)[:MOST_SAID].rstrip(".")


def _opener() -> request.OpenerDirector:
    """Return what opens http(s) addresses and follows no redirection."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


def _events(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the data of a stream's events, a line each."""
    for line in answer:
        if line.startswith(b"data:"):
            yield line[5:].strip()
