"""Where weights come from, and the error when they are missing: at once, with option, places and remedy."""

import json
import os
import subprocess
import sys
import textwrap
import tomllib
from functools import partial

import pytest

from bench import registry
from bench.cli.options import assignments
from bench.errors import MissingPackage, WeightsError
from bench.evaluation.opening import open_pipeline
from bench.fetching.sources import _of_open_clip, at_hand, missing, named, not_there, source_of
from bench.install import bring_module, pip_install
from bench.settings import PROJECT, load_settings
from bench.training.jobs import train_pipeline


@pytest.fixture
def resolved(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return load_settings()


def error_of(name, resolved, *set_):
    with pytest.raises(WeightsError) as caught:
        open_pipeline(name, "file", resolved, assignments(set_))
    return str(caught.value)


def test_options_are_named_as_they_are_set():
    clips = [{"model": model, "pretrained": "openai"} for model in ("RN50", "RN101")]
    segments = {"method": "slic", "masks": {"weights": "sam"}}  # superpixels: no masks are opened
    options = {"proposer": {"weights": "a.pt"}, "clip": clips[0], "ensemble": clips[1:], "segments": segments}
    assert list(named(options)) == [
        ("proposer.weights", "a.pt", ""),
        ("clip.pretrained", "openai", "RN50"),
        ("ensemble.pretrained", "openai", "RN101"),
    ]
    assert list(named({"masks": {"weights": "sam"}})) == [("masks.weights", "sam", "")]
    assert list(named({"weights": "a.pth", "tokenizer": "roberta-base"})) == [
        ("weights", "a.pth", ""), ("tokenizer", "roberta-base", "tokenizer"),
    ]  # fmt: skip


def test_a_missing_clip_names_the_key_that_is_read_and_what_brings_it(resolved, tmp_path):
    message = error_of("seg-clip", resolved)
    cache = tmp_path / "home" / "weights" / "open_clip"
    by_hand = "hf download timm/vit_base_patch16_clip_224.openai open_clip_model.safetensors"
    for part in (
        "the weights ViT-B-16 openai are not there",
        f"looked in: {cache}\n",
        "bench fetch 'ViT-B-16 openai'",
        f"{by_hand} --cache-dir {cache}",
        "--set clip.pretrained=FILE",
    ):
        assert part in message
    assert "HF_HUB_OFFLINE is set" in message


def test_a_missing_file_lists_the_working_folder_and_every_place_by_name(resolved, tmp_path):
    message = error_of("clipvg", resolved, "weights=mine.pth")
    assert f"{tmp_path / 'mine.pth'} (the working folder), {PROJECT / 'mine.pth'} (where bench is installed)" in message
    assert (
        f"{tmp_path / 'home' / 'weights' / 'mine.pth'} (BENCH_HOME/weights)" in message and "--weights FILE" in message
    )
    assert "looked for: /nowhere/mine.pth\n" in error_of("clipvg", resolved, "weights=/nowhere/mine.pth")


def test_nothing_is_refused_that_is_there_or_another_package_brings(resolved, tmp_path):
    (tmp_path / "mine.pth").touch()
    assert missing({"weights": "mine.pth"}, resolved) == []
    assert registry.is_ours(registry.PIPELINES, "clipvg") and not registry.is_ours(registry.PIPELINES, "small")
    assert missing({"weights": "IDEA-Research/grounding-dino-tiny"}, resolved)
    snapshot = tmp_path / "home/weights/huggingface/models--IDEA-Research--grounding-dino-tiny/snapshots/1"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    assert missing({"weights": "IDEA-Research/grounding-dino-tiny"}, resolved) == []


def test_a_training_from_weights_that_are_missing_is_refused_at_once(resolved, tmp_path):
    train = partial(train_pipeline, split_name="shapes-train", part=None, validate=None, out=tmp_path, limit=2)
    small = load_settings(flags={"data.shapes.train": 4, "run.device": "cpu"})
    with pytest.raises(WeightsError, match=r"(?s)mine\.pth are not there.*--set start_from=FILE"):
        train("clipvg", resolved=small, recipe={"start_from": "mine.pth"})
    with pytest.raises(WeightsError, match=r"yolo11n\.pt are not there.*HF_HUB_OFFLINE"):
        train("yolo-clip", resolved=small, recipe={"detector": {"start_from": "yolo11n.pt"}})
    assert list(named({"clip": {"start_from": "laion2b_s34b_b88k"}})) == []  # a tag without its model


@pytest.mark.slow
def test_an_error_waits_neither_for_torch_nor_for_the_network(tmp_path):
    """Every pipeline whose weights have to come from elsewhere; a torch and a socket that raise stand in the way."""
    (tmp_path / "torch.py").write_text("raise AssertionError('torch takes seconds')")
    program = """
        import json, socket, sys
        def refused(*_, **__): raise AssertionError("a socket was opened")
        socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
        from bench import registry
        from bench.errors import WeightsError
        from bench.evaluation.opening import open_pipeline
        from bench.fetching.sources import missing
        from bench.settings import load_settings
        resolved, messages = load_settings(flags={"run.offline": True, "run.device": "cpu"}), {}
        for name in registry.names(registry.PIPELINES):
            if missing(resolved.table("pipelines", name, "file"), resolved):
                try: open_pipeline(name, "file", resolved)
                except WeightsError as error: messages[name] = str(error)
        print(json.dumps(messages))
    """
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"} | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "BENCH_HOME": str(tmp_path / "home"),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True,
                          cwd=tmp_path, env=environment)  # fmt: skip
    messages = json.loads(done.stdout)
    ours = "yolo-clip detr-clip ssd-clip seg-clip mdetr clipvg grounding-dino owlv2 florence-2 qwen-vl"
    assert set(ours.split()) <= set(messages)
    assert all("are not there" in message for message in messages.values())
    assert all("offline" in messages[name] for name in set(ours.split()) - {"mdetr", "clipvg"})


@pytest.mark.slow
def test_the_clips_of_the_table_are_open_clips_own():
    table = tomllib.loads((PROJECT / "bench/fetching/sources.toml").read_text("utf-8"))["source"]
    clips = {name: entry["clip"] for entry in table if "clip" in entry for name in entry["names"]}
    assert len(clips) >= 4 and clips == {name: _of_open_clip(*name.split()) for name in clips}


def test_where_weights_come_from(resolved):
    quick = source_of("openai", "ViT-B-32-quickgelu", resolved)
    assert quick.hub == "timm/vit_base_patch32_clip_224.openai" and quick.cache.name == "open_clip"
    vitamin = source_of("datacomp1b", "ViTamin-S", resolved)
    assert (vitamin.hub, vitamin.files) == ("jienengchen/ViTamin-S", ("pytorch_model.safetensors", "pytorch_model.bin"))
    assert source_of("yolov8n.pt", "", resolved).url.endswith("/v8.4.0/yolov8n.pt")
    assert source_of("mine.pt", "", resolved).fetch_line == "" == source_of("a/mine.pt", "", resolved).hub
    assert source_of("me/model/best.pth", "", resolved).files == ("best.pth",)
    tokenizer = not_there(source_of("roberta-base", "tokenizer", resolved), resolved)
    assert str(tokenizer).startswith("the tokenizer roberta-base is not there")


def test_pip_lines_work_as_they_stand(monkeypatch, tmp_path):
    assert pip_install("yolo") == f'pip install -e "{PROJECT}[yolo]"'
    monkeypatch.setattr("bench.install.PROJECT", tmp_path)  # installed from a wheel
    url = "https://example.org/grounding-bench.git"
    for record, line in (
        ({"url": url, "vcs_info": {"vcs": "git", "commit_id": "abc"}}, f'"grounding-bench[yolo] @ git+{url}@abc"'),
        ({"url": "file:///clone", "dir_info": {}}, '"grounding-bench[yolo] @ file:///clone"'),
        ({}, '"grounding-bench[yolo]"'),
    ):
        read_text = lambda _, name, record=record: json.dumps(record) if name == "direct_url.json" else None  # noqa: E731
        found = type("Distribution", (), {"read_text": read_text})()
        monkeypatch.setattr("bench.install.distribution", lambda _, found=found: found)
        assert pip_install("yolo") == f"pip install {line}"


def test_a_missing_module_is_no_strangers_package(monkeypatch):
    assert bring_module("ultralytics.nn", "x") == pip_install("yolo")
    assert bring_module("timm", "x").startswith('pip install "timm')
    assert bring_module("cv2", "their-grounder") == "the documentation of their-grounder says which package brings it"
    entry = type("Entry", (), {"name": "theirs", "value": "theirs:build", "dist": None})()
    monkeypatch.setattr(entry, "load", lambda: __import__("module_that_is_nowhere"), raising=False)
    with pytest.raises(MissingPackage, match=r"the module 'module_that_is_nowhere'.*documentation of its package"):
        registry._import(entry, registry.PIPELINES)


def test_a_folder_with_a_vocabulary_alone_is_at_hand(resolved, tmp_path):
    folder, source = tmp_path / "bert", source_of(str(tmp_path / "bert"), "tokenizer", resolved)
    folder.mkdir()
    assert not at_hand(source, resolved)
    (folder / "vocab.txt").write_text("[PAD]\n")
    assert at_hand(source, resolved)
