"""`bench train --pipeline clipvg` from the command line: its files, its record, its labels, its mistakes."""

import json

import pytest
from typer.testing import CliRunner

from bench.cli.main import app
from bench.datasets.shapes import SCENES
from bench.errors import DataError, RunError, SettingsError, UnknownName, UsageError, WeightsError
from pipelines.weights import read_safetensors


@pytest.fixture
def config(settings_file, monkeypatch):
    """A bench.toml with three scenes to train on and the small network; shapes-val has two scenes."""
    monkeypatch.setitem(SCENES, "val", 2)
    return settings_file(3, epochs=1)


@pytest.fixture
def bench(config, tmp_path):
    """bench(verb, *arguments): the last line of its stdout, as JSON."""

    def run(verb, *arguments):
        common = ["--config", str(config), "--device", "cpu", "--json"]
        result = CliRunner().invoke(app, [verb, "--pipeline", "clipvg", *arguments, *common], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout.strip().splitlines()[-1])

    return run


@pytest.fixture
def train(bench, tmp_path):
    """train(*arguments): the folder after `bench train --split shapes-train`, and the weights by part."""

    def run(*arguments, split="shapes-train"):
        found = bench("train", "--split", split, "--out", str(tmp_path / "w"), *arguments)
        return tmp_path / "w", found["weights"]

    return run


def test_a_run_its_record_and_its_weights(train, bench):
    out, made = train()
    assert made == {"network": str(out / "small.safetensors")}
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    run = {f"small.run/{name}" for name in ("last.pt", "best.safetensors", "training.jsonl", "curves.svg")}
    assert files == {"small.safetensors", "small.json"} | run
    record = json.loads((out / "small.json").read_text())
    assert (record["pipeline"], record["part"], record["processes"]) == ("clipvg", "network", 1)
    assert record["trained_on"]["split"] == "shapes-train" and record["trained_on"]["expressions"] == 17
    assert record["training"]["chosen_on"] == record["validated_on"]["split"] == "shapes-val"
    assert record["training"]["best"]["epoch"] == 1 and record["training"]["effective_batch"] == 8
    assert record["recipe"]["learning_rate"] == 1e-3 and record["score"]["n"] == 6
    answer = bench(
        "predict", "--weights", made["network"], "--image", "tests/own/test-000008.jpg", "--text", "the left star"
    )
    assert len(answer["box_xyxy"]) == 4


def test_the_score_of_the_record_is_that_of_a_run(train, bench, tmp_path):
    out, made = train()
    record = json.loads((out / "small.json").read_text())
    # bench.toml names another CLIP for shapes; the file says which one is its own
    asked = ("--split", "shapes-val", "--weights", made["network"], "--results", str(tmp_path / "r"))
    (row,) = bench("run", *asked)["rows"]
    assert row["acc@0.5"] == pytest.approx(record["score"]["accuracy"], abs=1e-4)
    assert row["mean_iou"] == pytest.approx(record["score"]["mean_iou"], abs=1e-4)


def test_again_and_anew(train, capsys):
    out, _ = train()
    last, log = (out / "small.run/last.pt"), (out / "small.run/training.jsonl")
    before = last.stat().st_mtime_ns, log.read_text()
    train()  # nothing is left to do
    assert (last.stat().st_mtime_ns, log.read_text()) == before
    with pytest.raises(RunError, match=r"learning_rate: 0\.001 there, 0\.5 now"):
        train("--set", "learning_rate=0.5")
    train("--set", "learning_rate=0.5", "--fresh")
    assert json.loads((out / "small.json").read_text())["recipe"]["learning_rate"] == 0.5
    assert last.stat().st_mtime_ns != before[0]


def test_pseudo_labels(train, tmp_path):
    lines = [{"image": f"train-00000{n % 3}.png", "text": f"thing {n}", "box_xyxy": [1, 2, 30, 40]} for n in range(9)]
    path = tmp_path / "pseudo.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out, _ = train("--labels", str(path))
    record = json.loads((out / "small.json").read_text())
    assert record["trained_on"]["expressions"] == 9 and record["training"]["steps"] == 2
    assert record["trained_on"]["labels"][0]["file"] == "pseudo.jsonl"
    with pytest.raises(RunError, match=r"rows: \w+ there"):  # the split itself is another training
        train()
    lines[4]["box_xyxy"] = [900, 2, 930, 40]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"pseudo\.jsonl: line 5.*outside"):
        train("--labels", str(path), "--fresh")


def test_the_parts(train, config):
    said = ("lesson.epochs=1", "lesson.scenes_in_batch=2", "clip.pretrained=''")
    small = [word for assignment in said for word in ("--set", assignment)]
    lesson = [*small, "--set", "network.image_size=64"]
    with pytest.raises(UnknownName, match="part of clipvg"):
        train("--part", "clip")  # of a recipe without a lesson
    with pytest.raises(UnknownName, match=r"detector.*clip, network"):
        train("--part", "detector", *lesson)
    with pytest.raises(SettingsError, match=r"of tiny-clip in open_clip.s table, 64 pixels"):
        train("--part", "clip", *small)
    with pytest.raises(WeightsError, match=r"small-clip\.safetensors"):
        train("--part", "network", *lesson)  # before its CLIP is there
    out, made = train("--part", "clip", *lesson)
    assert made == {"clip": str(out / "small-clip.safetensors")}
    assert {"all", "attribute"} <= json.loads((out / "small-clip.json").read_text())["score"].keys()
    clip = (out / "small-clip.safetensors").stat().st_mtime_ns
    out, made = train("--part", "network", *lesson)
    assert made == {"network": str(out / "small.safetensors")}
    record = (out / "small-clip.json").read_text()
    out, made = train(*lesson)
    assert set(made) == {"network"} and (out / "small-clip.json").read_text() == record
    assert (out / "small-clip.safetensors").stat().st_mtime_ns == clip  # it has had this lesson
    said = read_safetensors(out / "small.safetensors")[1]["clip"]
    assert said["pretrained"] == str(out / "small-clip.safetensors")


def test_mistakes(train):
    with pytest.raises(SettingsError, match="epok"):
        train("--set", "epok=3")
    with pytest.raises(UsageError, match="--validate"):
        train(split="shapes-val")
    with pytest.raises(UnknownName, match="tiny-clop"):
        train("--set", "clip.model=tiny-clop")
