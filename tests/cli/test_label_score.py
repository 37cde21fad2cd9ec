"""`bench label score`: every scorer on every file, printed, drawn, stored, and not done twice."""

import hashlib
import json
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from fake_world import HashPipeline
from typer.testing import CliRunner

from bench import registry
from bench.cli.label import score
from bench.datasets.load import load_split
from bench.datasets.readers.index_lists import read_index_list
from bench.datasets.readers.labels import source_name
from bench.errors import BenchError, DataError, RunError, UnknownName, UsageError, WeightsError
from bench.evaluation import answering
from bench.labelling.scorer_files import read_iou_result
from bench.labelling.scorers import unique_names
from bench.reporting.reliability_table import BINS, summary
from bench.settings import PROJECT, load_settings

TINY = PROJECT / "clipvg" / "weights" / "tiny-clipvg.safetensors"


class CountedPipeline(HashPipeline):
    """Answer by the name of its weights, and keep the scenes that any of its kind grounded."""

    scenes: list[str] = []  # noqa: RUF012 - of all of them, on purpose

    def __init__(self, context):
        weights = Path(context.options["weights"])
        super().__init__(replace(context, options={"salt": weights.stem + weights.parent.name}))

    def ground(self, batch):
        self.scenes.extend(scene.id for scene in batch)
        return super().ground(batch)

    def _box(self, scene, word):
        return tuple(9 * v for v in super()._box(scene, word))  # these images are larger


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Six images of shapes, two label files about them, two scorers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: CountedPipeline)
    CountedPipeline.scenes.clear()
    (tmp_path / "bench.toml").write_text("[data.shapes]\ntrain = 6\n[run]\ndevice = 'cpu'\n")
    template = labels(tmp_path, "template", source="template")
    labels(tmp_path, "relation", source="relation", first=1)
    scorer(tmp_path, "m1", labels=[{"file": "template.jsonl", "sha256": sha256(template), "rows": 9}])
    scorer(tmp_path, "m2", split="refcoco-train", labels=[{"file": "relation.jsonl"}])
    return tmp_path


def labels(folder, name, source=None, first=0):
    scenes = load_split("shapes-train", load_settings(None)).scenes
    rows = [
        {"image": s.file, "text": e.text, "box_xyxy": e.box, "id": e.id}
        | ({"provenance": {"source": source}} if source else {})
        for s in scenes[first:]
        for e in s.expressions
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / f"{name}.jsonl"


def scorer(folder, name, split="shapes-train", labels=None):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / f"{name}.safetensors").write_text(name)
    (folder / f"{name}.json").write_text(json.dumps({"trained_on": {"split": split, "labels": labels}}))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(*argv):
    app = typer.Typer()
    app.command()(score)
    result = CliRunner().invoke(app, list(map(str, argv)))
    if result.exception is not None:
        raise result.exception
    return result


def scored(*argv):
    table = run(*argv).stdout
    assert "≥ 0.5" in table and "reliability/reliability.svg" in table
    return json.loads(Path("reliability/reliability.json").read_text())


BOTH = ("template.jsonl", "relation.jsonl", "-m", "m1.safetensors", "-m", "m2.safetensors", "-s", "shapes-train")


@pytest.mark.slow
def test_every_scorer_scores_every_file(world, caplog):
    record = scored(*BOTH)
    pairs = {(pair["scorer"], pair["source"]): pair for pair in record["pairs"]}
    assert list(pairs) == [("m1", "template"), ("m1", "relation"), ("m2", "template"), ("m2", "relation")]
    assert [pair["kind"] for pair in record["pairs"]] == ["SR", "CR", "CR", "SR"]
    for (m, s), pair in pairs.items():
        rows = [json.loads(line) for line in Path(f"reliability/{m}--{s}.jsonl").read_text().splitlines()]
        given = [json.loads(line)["id"] for line in Path(f"{s}.jsonl").read_text().splitlines()]
        assert [row["id"] for row in rows] == given
        assert len(rows) == pair["rows"] == sum(pair["counts"]) + pair["at_0"]
        assert pair["mean"] == pytest.approx(np.mean([row["reliability"] for row in rows]))
        assert pair["no_box"] == sum(row["box_xyxy"] is None for row in rows)
    assert pairs["m1", "template"]["mean"] != pairs["m2", "template"]["mean"]
    assert [m["scorer_data"] for m in record["scorers"]] == ["same", "other"]
    assert "m2 was trained on refcoco, and these labels are about shapes" in caplog.text
    assert [(s["name"], s["file"], s["sha256"]) for s in record["sources"]] == [
        (name, f"{name}.jsonl", sha256(world / f"{name}.jsonl")) for name in ("template", "relation")
    ]
    assert record["scorers"][0]["sha256"] == sha256(world / "m1.safetensors")
    root = ElementTree.parse("reliability/reliability.svg").getroot()
    names = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text") if " on " in (t.text or "")]
    assert names == ["m1 on template", "m1 on relation", "m2 on template", "m2 on relation"]


@pytest.mark.slow
def test_nothing_is_scored_twice(world, caplog):
    def scored_again(*words):
        CountedPipeline.scenes.clear()
        return scored(*BOTH, *words), len(CountedPipeline.scenes)

    first, count = scored_again()
    assert count == 2 * (6 + 5)
    rows = Path("reliability/m1--template.jsonl").read_bytes()
    again, count = scored_again()
    assert count == 0 and "m2 on relation: done before" in caplog.text and again["pairs"] == first["pairs"]
    # What changed is scored again, and nothing else: another file, lost rows, other weights, another protocol.
    labels(world, "relation", source="relation", first=2)
    again, count = scored_again()
    assert count == 2 * 4 and again["pairs"][1]["rows"] < first["pairs"][1]["rows"]
    Path("reliability/m1--template.jsonl").write_text("")
    assert scored_again()[1] == 6 and Path("reliability/m1--template.jsonl").read_bytes() == rows
    (world / "m2.safetensors").write_text("other weights")
    assert scored_again()[1] == 6 + 4 and scored_again("--batch-size", "3")[1] == 0
    again, count = scored_again("--protocol", "letterbox-clamped")
    assert count == 2 * (6 + 4) and again["protocol"] == "letterbox-clamped"


@pytest.mark.slow
def test_a_stopped_scoring_continues(world, monkeypatch):
    class Stopped(CountedPipeline):
        def ground(self, batch):
            if len(self.scenes) == 14:  # in the middle of the third pair
                raise KeyboardInterrupt
            return super().ground(batch)

    monkeypatch.setattr(registry, "pipeline_factory", lambda name: Stopped)
    monkeypatch.setattr(answering, "BLOCK", 2)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(*BOTH, "--batch-size", 1)
    record = json.loads(Path("reliability/reliability.json").read_text())
    assert [(p["scorer"], p["source"]) for p in record["pairs"]] == [("m1", "template"), ("m1", "relation")]
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: CountedPipeline)
    CountedPipeline.scenes.clear()
    resumed = scored(*BOTH)
    assert len(CountedPipeline.scenes) == 4 + 5 and not list(Path("reliability").rglob("answers.jsonl"))
    rows = Path("reliability/m2--template.jsonl").read_bytes()
    shutil.rmtree("reliability")
    own = ("seconds", "command")
    for pairs in zip(resumed["pairs"], scored(*BOTH)["pairs"], strict=True):
        one, other = ({key: value for key, value in pair.items() if key not in own} for pair in pairs)
        assert one == other
    assert Path("reliability/m2--template.jsonl").read_bytes() == rows


@pytest.mark.slow
def test_official_files_and_back(world):
    args = ("template.jsonl", "-m", "m1.safetensors", "-s", "shapes-train")
    (pair,) = scored(*args)["pairs"]
    CountedPipeline.scenes.clear()
    scored(*args, "--official-files")  # from the rows that are there
    assert CountedPipeline.scenes == []
    folder = Path("reliability/m1--template")
    assert len(list(folder.glob("*.pth"))) == 14
    kept = read_index_list(folder / "shapes_train_pseudo_refine_0_1.pth", "shapes")
    rows = [json.loads(line) for line in Path("reliability/m1--template.jsonl").read_text().splitlines()]
    assert sum(len(scene.expressions) for scene in kept) == sum(row["reliability"] > 0.1 for row in rows) > 0
    official = folder / "shapes_train_pseudo_iou_result.pth"
    assert [iou for *_, iou in read_iou_result(official)] == [row["reliability"] for row in rows]
    (line,) = run("--from", official, "--out", "drawn", "--json").stdout.splitlines()
    (drawn,) = json.loads(line)["pairs"]
    assert "counts" not in drawn and json.loads(line)["folder"] == "drawn"
    assert all(drawn[key] == pair[key] for key in ("rows", "mean", "at_0", "at_least", "no_box"))
    assert drawn["source"] == "shapes" and Path("drawn/reliability.svg").is_file()
    index = run(folder / "shapes_train_pseudo_refine_0_1.pth", "-m", "m1.safetensors", "-s", "shapes-train", "--json")
    (again,) = json.loads(index.stdout.splitlines()[-1])["pairs"]
    assert again["rows"] == sum(row["reliability"] > 0.1 for row in rows)


@pytest.mark.slow
def test_names(world, caplog):
    other = labels(world, "more", source="template")
    scorer(world, "a/same")
    scorer(world, "b/same")
    scorers = ("-m", "a/same.safetensors", "-m", "b/same.safetensors")
    record = scored("template.jsonl", other, *scorers, "-s", "shapes-train")
    assert [m["name"] for m in record["scorers"]] == ["a", "b"]
    assert [s["name"] for s in record["sources"]] == ["template-1", "template-2"]
    assert "template.jsonl is template-1" in caplog.text and "more.jsonl is template-2" in caplog.text
    assert unique_names(["a", "b", "a", "a-1"]) == ["a-2", "b", "a-3", "a-1"]
    provenance = {"1": {"source": "caption"}, "2": {"source": "caption"}}
    assert source_name(Path("x.jsonl"), 2, provenance) == "caption"
    assert source_name(Path("x.jsonl"), 3, provenance) == "x"
    assert source_name(Path("x.jsonl"), 2, provenance | {"2": {"source": "a"}}) == "x"
    assert source_name(Path("1_unc_train_pseudo_template_0_5.pth"), 3, {}) == "template"
    assert source_name(Path("unc_train_pseudo.pth"), 3, {}) == "unc_train_pseudo"


@pytest.mark.slow
def test_weights_without_a_record(world, caplog):
    (world / "m1.json").unlink()
    (world / "m2.json").write_text("no json")
    record = scored(*BOTH)
    assert [pair["kind"] for pair in record["pairs"]] == [""] * 4
    assert [m["scorer_data"] for m in record["scorers"]] == ["unknown"] * 2
    assert caplog.text.count("nothing beside its weights says") == 2


@pytest.mark.slow
@pytest.mark.parametrize(("argv", "error", "message"), [
    ((), UsageError, "a label file and --scorer and --split missing"),
    (("template.jsonl", "--from", "x.pth"), UsageError, "--from"),
    (("--from", "gone_iou_result.pth"), DataError, "gone_iou_result"),
    (("template.jsonl", "-m", "gone.pth", "-s", "shapes-train"), WeightsError, "--scorer gone.pth.*bench train "),
    (("gone.jsonl", "-m", "m1.safetensors", "-s", "shapes-train"), DataError, r"gone\.jsonl"),
    (("empty.jsonl", "-m", "m1.safetensors", "-s", "shapes-train"), DataError, "no expressions"),
    (("template.jsonl", "-m", "m1.safetensors", "-s", "shapes-tain"), UnknownName, "shapes-train"),
    (("template.jsonl", "-m", "m1.safetensors", "-s", "shapes-train", "--protocol", "iu"), UnknownName, "iou"),
    (("template.jsonl", "-m", "m1.safetensors", "-s", "shapes-train", "--out", "m1.json"), RunError, r"m1\.json"),
])  # fmt: skip
def test_mistakes_are_explained(world, argv, error, message):
    (world / "empty.jsonl").touch()
    with pytest.raises(error, match=message):
        run(*argv)
    assert issubclass(error, BenchError) and CountedPipeline.scenes == []


def test_the_summary_by_hand():
    numbers = summary([0.0, 0.0005, 0.3, 0.5, 0.7, 1.0])
    assert numbers["rows"] == 6 and numbers["at_0"] == 1 and numbers["mean"] == pytest.approx(2.5005 / 6)
    assert [numbers["at_least"][h] for h in ("0.0", "0.3", "0.5", "0.9")] == [1, 4 / 6, 3 / 6, 1 / 6]
    assert [place for place, count in enumerate(numbers["counts"]) if count] == [0, 299, 499, 699, BINS - 1]
    assert summary([])["mean"] is None and summary([0.0])["at_least"]["0.1"] == 0


@pytest.mark.slow
def test_the_tiny_weights_agree_with_the_truth(tmp_path, monkeypatch):
    """End to end, with the network: rows that are right are reliable, the same rows with other boxes are not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bench.toml").write_text("[data.shapes]\ntrain = 3\n[run]\ndevice = 'cpu'\n")
    right = labels(tmp_path, "right")
    rows = [json.loads(line) for line in right.read_text().splitlines()]
    wrong = [row | {"box_xyxy": [0, 0, 12, 9]} for row in rows]
    (tmp_path / "wrong.jsonl").write_text("".join(json.dumps(row) + "\n" for row in wrong))
    record = scored("right.jsonl", "wrong.jsonl", "-m", TINY, "-s", "shapes-train")
    good, bad = record["pairs"]
    assert good["mean"] > 0.5 > 0.1 > bad["mean"] and good["kind"] == bad["kind"] == "CR"
    assert good["scorer_sha256"]["clipvg"] == sha256(TINY)
