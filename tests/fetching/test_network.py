"""Whether a server can be reached: one short attempt, whatever stands in the way."""

import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bench.fetching import network


@pytest.fixture(autouse=True)
def online(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    network._refusal.cache_clear()


@contextmanager
def server(status):
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.parametrize("status", [200, 403, 503])
def test_a_server_that_answers_is_there(status):
    with server(status) as address:
        assert network.why_not(False, f"{address}/a/file.pt") == ""


def test_what_stands_in_the_way_is_said(monkeypatch):
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, and never answers
    address = f"http://127.0.0.1:{silent.getsockname()[1]}"
    monkeypatch.setattr(network, "SECONDS", 0.05)
    assert "127.0.0.1" in network.why_not(False, address)
    silent.close()
    network._refusal.cache_clear()
    assert "cannot be reached" in network.why_not(False, address)


def test_a_proxy_that_is_closed_counts(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert network.why_not(False).startswith("huggingface.co cannot be reached (")


def test_offline_asks_nobody(monkeypatch):
    monkeypatch.setattr(network, "_refusal", lambda _: pytest.fail("a request was made"))
    assert "offline is set" in network.why_not(True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in network.why_not(False)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert network.hub_address() == "https://mirror.example"
