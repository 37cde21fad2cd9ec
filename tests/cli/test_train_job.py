"""What `bench train` hands to a trainer and writes down of it; the trainer here only looks at its job."""

import json
import logging

import pytest
from fake_world import HashPipeline
from typer.testing import CliRunner

from bench import registry
from bench.cli.main import app
from bench.datasets.load import load_split
from bench.datasets.shapes import SCENES
from bench.errors import DataError, UsageError
from bench.runs.shards import from_environment
from bench.settings import load_settings
from bench.trainable import Trained

NOTES = {"best": {"epoch": 7, "chosen_on": "shapes-val", "accuracy": 0.5}}


@pytest.fixture
def jobs(monkeypatch):
    """The jobs that a trainer, registered under every name, was handed. It writes like a good one: on rank 0 alone."""
    seen = []

    def train(job):
        seen.append(job)
        logging.getLogger("bench.train").info("step 1")
        if from_environment().index:
            return {}
        path = job.out / "w.safetensors"
        path.write_bytes(b"w")
        return {"whole": Trained(path, dict(job.recipe), {"all": 0.5}, NOTES)}

    monkeypatch.setattr(registry, "trainer", lambda name: train)
    return seen


@pytest.fixture
def few(tmp_path, monkeypatch):
    """A bench.toml with four scenes to train on; shapes-val has three."""
    monkeypatch.setitem(SCENES, "val", 3)
    config = tmp_path / "few.toml"
    config.write_text("[data.shapes]\ntrain = 4\n[train.any]\nepochs = 3\n[train.any.on.shapes]\nsteps = 5\n")
    return config


@pytest.fixture
def labels(tmp_path, few):
    """A file of pseudo-labels about two of the four pictures."""
    scenes = load_split("shapes-train", load_settings(few)).scenes
    path = tmp_path / "pseudo.jsonl"
    lines = [{"image": s.file, "text": f"thing {n}", "box_xyxy": [0, 0, 9, 9]} for s in scenes[:2] for n in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def train(few, out, *arguments, split="shapes-train"):
    asked = ["train", "-p", "any", "-s", split, "--config", str(few), "--out", str(out), "--device", "cpu", *arguments]
    return CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False)


def test_the_job_and_its_record(tmp_path, few, jobs):
    result = train(few, tmp_path / "o", "--set", "rate=0.1", "--seed", "7")
    assert json.loads(result.stdout.splitlines()[-1]) == {"weights": {"whole": str(tmp_path / "o" / "w.safetensors")}}
    (job,) = jobs
    split = load_split("shapes-train", load_settings(few))
    assert dict(job.recipe) == {"epochs": 3, "steps": 5, "rate": 0.1}
    assert (job.split_name, job.validation_name, job.fresh) == ("shapes-train", "shapes-val", False)
    assert job.fingerprint == split.fingerprint and job.scenes == split.scenes and job.labels == ()
    record = json.loads((tmp_path / "o" / "w.json").read_text())
    assert record["training"] == NOTES and record["score"] == {"all": 0.5} and record["processes"] == 1
    assert (record["seed"], record["device"], record["part"]) == (7, "cpu", "whole")
    data = {"split": "shapes-train", "fingerprint": split.fingerprint, "pictures": 4}
    assert record["trained_on"] == data | {"expressions": split.counts.expressions}
    assert record["validated_on"]["split"] == "shapes-val"


def test_it_validates_on_the_named_split(tmp_path, few, jobs, labels):
    train(few, tmp_path / "o", "--validate", f"file:{labels}", "--labels", str(labels))
    (job,) = jobs
    assert job.validation_name == "file:pseudo" and len(job.validation) == 2
    train(few, tmp_path / "o", "--validate", "shapes-train")
    found = jobs[1].validate(HashPipeline(jobs[1].context))
    assert found["n"] == sum(len(scene.expressions) for scene in jobs[1].validation)
    assert {"accuracy", "mean_iou", "accuracy/attribute"} <= set(found)


def test_labels_of_a_file_and_what_the_record_says_of_them(tmp_path, few, jobs, labels):
    train(few, tmp_path / "o", "--labels", str(labels), "--labels", str(labels), "--limit", "1", "--fresh")
    (job,) = jobs
    assert job.fresh and [e.id for e in job.scenes[0].expressions] == ["1:1", "1:2", "1:3", "2:1", "2:2", "2:3"]
    assert len(job.scenes) == 1 and job.fingerprint != load_split("shapes-train", load_settings(few)).fingerprint
    data = json.loads((tmp_path / "o" / "w.json").read_text())["trained_on"]
    assert [(file["file"], file["rows"]) for file in data["labels"]] == [("pseudo.jsonl", 6)] * 2
    assert (
        data["expressions"] == 6 and data["fingerprint"] == job.fingerprint and len(data["labels"][0]["sha256"]) == 64
    )


def test_another_rank_trains_and_writes_nothing(tmp_path, few, jobs, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = train(few, tmp_path / "o")
    assert result.exit_code == 0 and result.stdout == "" and len(jobs) == 1
    assert list((tmp_path / "o").iterdir()) == [] and "step 1" not in caplog.text
    monkeypatch.setenv("RANK", "0")
    train(few, tmp_path / "o")
    assert json.loads((tmp_path / "o" / "w.json").read_text())["processes"] == 2 and "step 1" in caplog.text


def test_mistakes(tmp_path, few, jobs, labels):
    with pytest.raises(UsageError, match="--validate"):
        train(few, tmp_path / "o", split=f"file:{labels}")
    labels.write_text(labels.read_text() + '{"image": "cat.png", "text": "x", "box_xyxy": [0, 0, 1, 1]}\n')
    with pytest.raises(DataError, match=r"line 7: cat\.png"):
        train(few, tmp_path / "o", "--labels", str(labels))
    assert not jobs and not (tmp_path / "o").exists()
