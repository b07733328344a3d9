"""Addresses and pipes become temporary files."""

from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.media import fetch

BODY = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    """Serves a file, and faults by the address."""

    def do_GET(self):
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        if self.path == "/gone":
            self.send_error(404, "Not Found")
            return
        self.send_response(200)
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(BODY) + 5 * (self.path == "/short")))
        self.end_headers()
        self.wfile.write(b"" if self.path == "/empty" else BODY)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.mark.parametrize("path", ["/my%20clip.mp4", "/endless", "/to?/my%20clip.mp4"])
def test_an_address_becomes_a_file_that_goes_again(server, path):
    with fetch.fetched(server + path) as found:
        assert found.read_bytes() == BODY
        assert found.name in ("my clip.mp4", "endless", "to")
    assert not found.parent.exists()


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("/gone", InputError, r"/gone: the server answers 404 Not Found; check the address\.$"),
        ("/short", EnvironmentFailure, r"/short: ended after 10240 of 10245 bytes; try again\.$"),
        ("/to?file:///etc/passwd", EnvironmentFailure, "cannot be fetched|answers 302"),
        ("/to?ftp://127.0.0.1/a", EnvironmentFailure, "cannot be fetched"),
    ],
)
def test_a_fault_of_the_server_is_one_line(server, path, error, words):
    with pytest.raises((error, InputError), match=words), fetch.fetched(server + path):
        pass


@pytest.mark.parametrize("path", ["/a", "/endless"])
def test_what_is_too_large_is_refused(server, path, monkeypatch):
    monkeypatch.setattr(fetch, "MOST_BYTES", 9000)
    with (
        pytest.raises(InputError, match=r": is larger than 0 GiB; must be at most that\.$"),
        fetch.fetched(server + path),
    ):
        pass


def test_no_server_is_a_failure_of_the_environment():
    address = "http://127.0.0.1:9/a.mp4"
    with pytest.raises(EnvironmentFailure, match=r"a\.mp4: cannot be fetched \("), fetch.fetched(address):
        pass


def test_a_pipe_is_read_to_its_end(monkeypatch):
    pipe = SimpleNamespace(buffer=io.BytesIO(BODY), isatty=lambda: False)
    monkeypatch.setattr("sys.stdin", pipe)
    with fetch.fetched("-") as found:
        assert found.read_bytes() == BODY
    with pytest.raises(InputError, match=r"^standard input: is empty \(0 bytes\)"), fetch.fetched("-"):
        pass
    pipe.isatty = lambda: True
    with pytest.raises(InputError, match=r"^-: standard input is a terminal"), fetch.fetched("-"):
        pass
