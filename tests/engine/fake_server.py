"""An OpenAI-compatible server in a thread: it keeps what it was sent, and fails as it is told."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


class FakeServer:
    """`url` to ask; `bodies` of the chat requests, in order; `keys` that came with them.

    `plan` holds what befalls the next requests: a status, or one of "broken", "hang", "half"; then all are answered.
    `answer` is what is said, `finish` why it ended, `usage` gives the token counts for a body.
    """

    def __init__(self, models=("tiny",)):
        self.models, self.bodies, self.keys, self.plan = list(models), [], [], []
        self.answer, self.finish, self.usage, self.said = ["A", "."], "stop", lambda body: None, {"message": "no"}
        self.hung, self.lock = threading.Event(), threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.hung.set()
        self.http.shutdown()
        self.http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _json(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 302:
            self.send_header("Location", f"{self.fake.url}/v1/models")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        assert self.path == "/v1/models"
        self._json(200, {"data": [{"id": name} for name in self.fake.models]})

    def do_POST(self):
        fake = self.fake
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with fake.lock:
            fake.bodies.append(body)
            fake.keys.append(self.headers.get("Authorization"))
            fault = fake.plan.pop(0) if fake.plan else None
        if fault == "hang":
            fake.hung.wait(30)
            self.close_connection = True
            return
        if isinstance(fault, int):
            self._json(fault, {"error": fake.said})
            return
        assert self.path == "/v1/chat/completions"
        assert body["stream"] is True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in fake.answer:
            self._event({"choices": [{"delta": {"content": piece}, "finish_reason": None}]})
            if fault in ("broken", "half"):
                if fault == "broken":  # a stream that ends as if it were whole
                    self.wfile.write(b"0\r\n\r\n")
                self.close_connection = True
                return
        self._event({"choices": [{"delta": {}, "finish_reason": fake.finish}]})
        if usage := fake.usage(body):
            self._event({"choices": [], "usage": usage})
        self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, document):
        text = document if isinstance(document, str) else json.dumps(document)
        data = f"data: {text}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def sent_frames(body):
    """Return the frames of a request as uint8 (T, H, W, 3), and the text behind them."""
    video, text = body["messages"][0]["content"]
    kind, _, data = video["video_url"]["url"].partition(",")
    assert kind == "data:video/jpeg;base64"
    return np.stack([picture(part) for part in data.split(",")]), text["text"]


def picture(data):
    """Return a picture in base64 as an array."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
