"""`bench fetch`: files whole or not at all, hashes checked, one message with the command by hand where it fails."""

import hashlib
import json
import threading
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError

from bench.fetching import network, sources


class Gone(EntryNotFoundError):
    def __init__(self, name):
        Exception.__init__(self, name)


BODY = b"weights" * 40_000
FILES = {"whole.pt": BODY, "cut.pt": BODY, "other.pt": b"not these", "gone.pt": None}


@pytest.fixture
def requests(monkeypatch, tmp_path):
    """A server of FILES on the loopback, as the place of published weights; yields the paths that were fetched."""
    fetched = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def do_GET(self):
            name = self.path.rpartition("/")[2]
            fetched.append(name)
            body = FILES[name]
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write((body or b"")[: 1000 if name == "cut.pt" else None])

        def log_message(self, *_):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    entry = {"names": list(FILES), "url": f"http://127.0.0.1:{httpd.server_port}/{{name}}", "file": "{name}"}
    published = sources._table()
    entry["sha256"] = hashlib.sha256(BODY).hexdigest()
    monkeypatch.setattr(sources, "_table", lambda: [entry, *published])
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    network._refusal.cache_clear()
    yield fetched
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def weights(tmp_path):
    return tmp_path / "home" / "weights"


def test_weights_are_fetched_once_and_their_place_and_hash_are_printed(bench, requests, weights, killed_left):
    left = killed_left(weights / "whole.pt")
    code, out, _ = bench("fetch", "whole.pt")
    assert not left.exists()
    assert (code, requests) == (0, ["whole.pt"]) and (weights / "whole.pt").read_bytes() == BODY
    assert f"whole.pt: fetched, {weights / 'whole.pt'}" in out and hashlib.sha256(BODY).hexdigest()[:12] in out
    code, out, _ = bench("fetch", "whole.pt", "--json")
    assert requests == ["whole.pt"] and json.loads(out)["weights"][0]["bytes"] == len(BODY)
    assert "is there already" in bench("fetch", "whole.pt")[1]


@pytest.mark.parametrize(("name", "why"), [
    ("cut.pt", "connection ended after 1,000 of 280,000 bytes"), ("other.pt", "its SHA-256 is"), ("gone.pt", "404"),
])  # fmt: skip
def test_what_fails_leaves_nothing_and_says_the_command_by_hand(bench, requests, weights, name, why):
    code, _, err = bench("fetch", name, "whole.pt")
    assert code == 2 and why in err and f"curl -L --create-dirs -o {weights / name}" in err
    assert [path.name for path in weights.iterdir()] == ["whole.pt"]  # the others are fetched all the same


def test_a_list_and_offline_ask_nothing(bench, requests, weights):
    code, out, _ = bench("fetch", "yolo-clip", "mdetr", "clipvg", "--dry-run", "--json", "--offline")
    rows = {row["weights"]: row for row in json.loads(out)["weights"]}
    assert code == 0 and rows["yolo11x.pt"]["state"] == "to be fetched" and rows["clipvg.pth"]["state"] == "by hand"
    assert rows["ViT-B-16 openai"]["to"] == str(weights / "open_clip") and "MIT" in rows["ViT-B-16 openai"]["licence"]
    assert rows["tokenizer roberta-base"]["from"] == "roberta-base"
    code, _, err = bench("fetch", "whole.pt", "--offline")
    assert code == 2 and "--dry-run" in err and requests == []
    assert bench("fetch", "centre-box")[1] == "centre-box: no weights are needed\n"


def test_a_name_that_nothing_has(bench, requests):
    code, _, err = bench("fetch", "yolo-clp")
    assert code == 2 and "did you mean 'yolo-clip'" in err
    code, _, err = bench("fetch", "clipvg")
    assert code == 2 and "best_checkpoint.pth" in err


@pytest.fixture
def hub(monkeypatch, requests):
    """The hub's client, replaced at its calls; OWNER/MODEL has the files of `has`, stored as the client does."""
    has, calls = {}, []

    def store(repo, name, cache_dir):
        folder = Path(cache_dir) / f"models--{repo.replace('/', '--')}"
        blob = folder / "blobs" / hashlib.sha256(has[name][0]).hexdigest()
        link = folder / "snapshots" / "abc" / name
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(has[name][1])
        link.symlink_to(blob)
        return link

    def hf_hub_download(repo, name, cache_dir):
        calls.append((repo, name))
        if name not in has:
            raise Gone(name)
        return str(store(repo, name, cache_dir))

    def snapshot_download(repo, cache_dir, allow_patterns):
        calls.append((repo, *allow_patterns))
        names = [name for name in has if any(fnmatch(name, pattern) for pattern in allow_patterns)]
        made = [store(repo, name, cache_dir) for name in names]
        return str(made[0].parent) if made else cache_dir

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(network, "_refusal", lambda _: "")
    return has, calls


def test_a_clip_and_a_model_of_the_hub(bench, hub, weights):
    has, calls = hub
    has["open_clip_pytorch_model.bin"] = (BODY, BODY)
    code, out, _ = bench("fetch", "ViT-B-16 openai")
    repo = "timm/vit_base_patch16_clip_224.openai"
    assert code == 0 and calls == [(repo, name) for name in sources.CLIP_FILES] and str(weights / "open_clip") in out
    calls.clear()
    assert "is there already" in bench("fetch", "ViT-B-16 openai")[1] and calls == []
    has.update({"config.json": (b"{}", b"{}"), "pytorch_model.bin": (BODY, BODY)})
    code, out, _ = bench("fetch", "me/model")
    assert code == 0 and [call[0] for call in calls] == ["me/model"] * 2 and "*.bin" in calls[1]
    assert {line.split(",")[1].rpartition("/")[2].split(" ")[0] for line in out.splitlines()} >= {"pytorch_model.bin"}


def test_a_file_of_the_hub_that_arrives_broken_is_removed(bench, hub, weights):
    has, _ = hub
    has["open_clip_model.safetensors"] = (BODY, b"cut")
    code, _, err = bench("fetch", "ViT-B-16 openai")
    assert code == 2 and "arrived broken" in err
    assert list(weights.rglob("blobs/*")) == []


def test_a_network_that_is_not_there_is_one_message(bench, monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(network, "_refusal", lambda server: f"{server} cannot be reached")
    code, _, err = bench("fetch", "owlv2")
    assert code == 2 and "huggingface.co cannot be reached" in err and "hf download google/owlv2" in err
