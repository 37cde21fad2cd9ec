"""A server on the loopback that speaks the protocol of chat models, with faults where a test wants them.

As a script it evaluates `api` on painted images, to be killed and started again:

    python tests/chat_server.py RESULTS HOME URL IMAGES CONCURRENCY
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

KEY = "sk-a-secret-for-tests-123456"  # looks like a key, and is none


class ChatServer(ThreadingHTTPServer):
    """Answers with a box that follows from image and text; `faults` are drawn with `share` for each request.

    `answered` counts each different request that was answered whole, `most` is how many were in hand at once.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, faults=(), share=1.0, most_faults=10**9, delay=0.0, reply=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.share, self.left, self.delay = list(faults), share, most_faults, delay
        self.reply = reply or box_of
        self.answered, self.headers, self.times, self.bodies = Counter(), [], [], []
        self.inside = self.most = 0
        self.lock, self.random = threading.Lock(), random.Random(0)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def draw(self):
        """The fault of this request, or None."""
        with self.lock:
            if not self.faults or not self.left or self.random.random() >= self.share:
                return None
            self.left -= 1
            return self.faults[self.left % len(self.faults)]

    def handle_error(self, request, client_address):
        pass  # a client that gave up


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.inside += 1
            server.most = max(server.most, server.inside)
            server.headers.append(dict(self.headers))
            server.times.append(time.monotonic())
            server.bodies.append(body)
        try:
            time.sleep(server.delay)
            self.answer(body, server.draw())
        finally:
            with server.lock:
                server.inside -= 1

    def answer(self, body, fault):
        if fault == "429":
            return self.send(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.05"})
        if isinstance(fault, int):
            # Some servers quote the key.
            return self.send(fault, {"error": {"message": f"no, {self.headers.get('Authorization')}"}})
        if fault == "timeout":
            time.sleep(0.6)
            self.close_connection = True
            return None
        if fault == "nonsense":
            return self.send(200, {"choices": []})
        text = self.server.reply(body)
        text, finish = text if isinstance(text, tuple) else (text, "stop")
        content = {"choices": [{"message": {"content": text}, "finish_reason": finish}]}
        content["usage"] = {"prompt_tokens": 100, "completion_tokens": 20}
        if fault == "half":
            return self.send(200, content, cut=True)
        with self.server.lock:
            self.server.answered[hashlib.sha256(json.dumps(body).encode()).hexdigest()] += 1
        return self.send(200, content)

    def send(self, status, content, headers=(), cut=False):
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True

    def log_message(self, *words):
        pass


def image_of(body):
    """The image of a request, decoded."""
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def box_of(body):
    """A box in thousandths, which follows from the text of a request."""
    x, y, *_ = hashlib.sha256(body["messages"][0]["content"][1]["text"].encode()).digest()
    return json.dumps({"bbox_2d": [x, y, x + 500, y + 400]})


@contextmanager
def serving(**options):
    server = ChatServer(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def split_of(images):
    """A split in memory, four expressions an image, no two of them alike."""
    from fake_world import make_split

    from bench.grounding import Expression

    split, scenes = make_split(images), []
    for scene in split.scenes:
        names = [f"{scene.id}-{k}" for k in range(4)]
        scenes.append(replace(scene, expressions=tuple(Expression(name, name, (2, 2, 20, 14)) for name in names)))
    return replace(split, scenes=tuple(scenes))


def evaluate_api(results, home, url, images, concurrency, **options):
    """One run of `api` on a split made in memory."""
    from bench.evaluation.loop import evaluate
    from bench.settings import load_settings

    os.environ["BENCH_HOME"] = str(home)
    resolved = load_settings(flags={"results": str(results), "run.device": "cpu"})
    client = {"concurrency": concurrency, "timeout_s": 5.0, "wait_s": 0.02, "attempts": 12}
    client |= options.pop("client", {})
    flags = {"base_url": url, "model": "small", "preset": "qwen3", "client": client, **options}
    return evaluate("api", split_of(images), resolved, flags)


if __name__ == "__main__":
    evaluate_api(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
