"""A method of one file is trained, evaluated, measured and put through a curriculum by the commands that all have."""

import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.cli.main import app
from bench.datasets.load import load_split
from bench.datasets.shapes import SCENES
from bench.errors import DataError, RunError, SettingsError, UnknownName, UsageError
from bench.settings import load_settings
from bench.training.step import OptimisationStep
from tools.benchmarks.kills import killed_at

CONFIG = """
[data.shapes]
train = 4
[train.small]
epochs = 1
batch = 8
reference_batch = 8
log_every = 1
[train.small.on.shapes]
epochs = 2
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setitem(SCENES, "val", 3)
    path = tmp_path / "small.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def bench(config):
    """bench(*words): the last line of its stdout, as JSON."""

    def run(*words):
        common = ["--config", str(config), "--device", "cpu", "--json"]
        result = CliRunner().invoke(app, [*words, *common], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout.strip().splitlines()[-1])

    return run


@pytest.fixture
def train(bench, tmp_path):
    """train(*words): the folder after `bench train`."""

    def run(*words, split="shapes-train", out="w"):
        bench("train", "-p", "small", "-s", split, "--out", str(tmp_path / out), *words)
        return tmp_path / out

    return run


@pytest.fixture
def labels(tmp_path, config):
    """A file of pseudo-labels about two of the four images."""
    scenes = load_split("shapes-train", load_settings(config)).scenes
    path = tmp_path / "pseudo.jsonl"
    lines = [{"image": s.file, "text": f"thing {n}", "box_xyxy": [0, 0, 9, 9]} for s in scenes[:2] for n in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.slow
def test_it_is_trained_evaluated_and_measured(train, bench, tmp_path, config):
    out = train("--set", "learning_rate=0.01", "--seed", "7")
    weights, record = out / "small.safetensors", json.loads((out / "small.json").read_text())
    split = load_split("shapes-train", load_settings(config))
    assert record["trained_on"]["fingerprint"] == split.fingerprint and record["trained_on"]["images"] == 4
    assert (record["seed"], record["part"], record["recipe"]["epochs"]) == (7, "network", 2)
    assert record["environment"]["seeds"]["torch"] == 7 and record["environment"]["deterministic"] is False
    assert record["training"]["chosen_on"] == record["validated_on"]["split"] == "shapes-val"
    results = ("--split", "shapes-val", "--weights", str(weights), "--results", str(tmp_path / "r"))
    (row,) = bench("run", "-p", "small", *results)["rows"]
    assert row["acc@0.5"] == pytest.approx(record["score"]["accuracy"], abs=1e-4)
    assert row["mean_iou"] == pytest.approx(record["score"]["mean_iou"], abs=1e-4)
    quick = [
        "--min-seconds", "0", "--min-batches", "1", "--warmup-seconds", "0", "--warmup-batches", "0", "--repeats", "1",
    ]  # fmt: skip
    speed = bench("speed", "-p", "small", *results, *quick)
    assert "small" in json.dumps(speed) and list((tmp_path / "r").rglob("speed-*.json"))


def test_a_record_claims_the_seeds_that_were_set(train, monkeypatch):
    drawn = []
    monkeypatch.setattr(OptimisationStep, "__init__", lambda *_: drawn.extend([random.random(), np.random.rand()]))
    for _ in range(2):
        with pytest.raises(AttributeError):
            train("--seed", "7", "--fresh")
    random.seed(7), np.random.seed(7)
    assert drawn == [random.random(), np.random.rand()] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "by", [signal.SIGKILL, signal.SIGTERM]
)  # at a time limit Slurm sends the second, then the first
def test_a_killed_command_is_resumed_by_the_same_command(train, by):
    assert killed_at(OptimisationStep, "step", 6, lambda: train(out="killed"), by=by)
    weights = [(train(out=name) / "small.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_labels_of_a_file_and_their_record(train, labels):
    out = train("--labels", str(labels), "--labels", str(labels), "--limit", "1")
    data = json.loads((out / "small.json").read_text())["trained_on"]
    assert [(file["file"], file["rows"]) for file in data["labels"]] == [("pseudo.jsonl", 6)] * 2
    assert data["expressions"] == 6 and len(data["labels"][0]["sha256"]) == 64
    with pytest.raises(RunError, match=r"rows: \w+ there"):  # the split itself is another training
        train()


@pytest.mark.slow
def test_the_record_of_the_start_follows_the_weights(train, monkeypatch, tmp_path):
    first = train()
    home = tmp_path / "home"
    monkeypatch.setenv("BENCH_HOME", str(home))
    (home / "weights").mkdir(parents=True)
    for suffix in (".safetensors", ".json"):
        (home / "weights" / f"begun{suffix}").write_bytes((first / f"small{suffix}").read_bytes())
    for start in (str(first / "small.safetensors"), "begun.safetensors"):
        second = train("--set", f"start_from={start}", "--fresh", out="second")
        start_record = json.loads((second / "small.json").read_text())["started_from"]
        assert start_record["trained_on"]["split"] == "shapes-train"


@pytest.mark.slow
def test_nothing_asks_the_network(train, monkeypatch):
    def refused(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    train("--offline")


@pytest.mark.slow
def test_the_first_line_does_not_wait_for_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('torch takes seconds')")
    words = ["train", "-p", "small", "-s", "shapes-train", "--out", str(tmp_path / "w")]
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli.main", *words], capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )  # fmt: skip
    first, *rest = done.stderr.splitlines()
    assert first == "loading small to train on shapes-train ..." and "torch takes seconds" in "".join(rest)


@pytest.mark.slow
def test_the_end_says_the_score_the_file_and_the_next_command(train, caplog):
    caplog.set_level(logging.INFO, "bench.train")
    weights = train() / "small.safetensors"
    assert f"on shapes-val, weights in {weights}" in caplog.text
    assert f"bench run --pipeline small --split shapes-val --weights {weights}" in caplog.text


@pytest.mark.slow
def test_mistakes(train, labels, tmp_path):
    with pytest.raises(SettingsError, match="epok"):
        train("--set", "epok=3")
    with pytest.raises(UsageError, match="--validate"):
        train(split=f"file:{labels}")
    with pytest.raises(UnknownName, match=r"part of small.*detector.*network"):
        train("--part", "detector")
    with pytest.raises(UnknownName, match=r"no trainable pipeline is called 'centre-box'; known: .*clipvg"):
        CliRunner().invoke(app, ["train", "-p", "centre-box", "-s", "shapes-train"], catch_exceptions=False)
    labels.write_text(labels.read_text() + '{"image": "cat.png", "text": "x", "box_xyxy": [0, 0, 1, 1]}\n')
    with pytest.raises(DataError, match=r"line 7: cat\.png"):
        train("--labels", str(labels))
    assert not list(tmp_path.rglob("*.safetensors"))
