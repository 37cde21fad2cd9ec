"""`bench doctor`: what is missing and what brings it, splits, estimates that follow from their parts, and hints."""

import json
import re

import pytest

from bench import registry
from bench.datasets.load import datasets
from bench.doctor import machine, readiness
from bench.doctor.readiness import costs, missing_parts
from bench.fetching.sources import at_hand, source_of
from bench.install import pip_install
from bench.settings import PROJECT, load_settings

SPEED = {
    "device": "cpu", "dtype": "float32", "matmul_gflops": {"float32": 100.0, "bfloat16": 110.0}, "memory_free_gb": 2.0,
    "memory_gb": 8.0,
}  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "weights"


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def missing(name, dataset=""):
    return {what: how for what, how, _ in missing_parts(name, dataset, load_settings())}


def test_what_is_missing_and_what_brings_it(home):
    parts = missing_parts("yolo-clip", "", load_settings())
    by_hand = "hf download timm/vit_base_patch16_clip_224.openai open_clip_model.safetensors"
    clip = f"bench fetch 'ViT-B-16 openai'\n    or: {by_hand} --cache-dir {home / 'open_clip'}"
    assert ("ViT-B-16 openai", clip, True) in parts and {what for what, *_ in parts} == {
        "yolo11x.pt",
        "ViT-B-16 openai",
    }
    put(home / "yolo11x.pt")
    snapshot = home / "open_clip" / "models--timm--vit_base_patch16_clip_224.openai" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    assert set(missing("yolo-clip")) == {"ViT-B-16 openai"}  # an empty folder is no download
    put(snapshot / "open_clip_model.safetensors")
    assert missing("yolo-clip") == {} and missing("yolo-clip", "shapes") == {}


def test_files_that_somebody_has_to_put_there(home):
    file = "refcocog_resnet101_checkpoint.pth"
    url = f"https://zenodo.org/records/4721981/files/{file}"
    parts = missing("mdetr", "refcocog")
    assert parts[file] == f"bench fetch {file}\n    or: curl -L --create-dirs -o {home / file} {url}"
    assert parts["tokenizer roberta-base"].startswith("bench fetch 'tokenizer roberta-base'")
    put(home / file)
    put(home / "roberta-base" / "config.json")
    assert missing("mdetr", "refcocog") == {}
    assert str(home / "clipvg-refcoco.pth") in missing("clipvg", "refcoco")["clipvg-refcoco.pth"]
    assert "refcoco_dets_dict.json" in missing("reclip", "refcoco")
    put(home / "refcoco_dets_dict.json")
    assert "refcoco_dets_dict.json" not in missing("reclip", "refcoco")


def test_hub_ids_and_torchvision(home):
    assert missing("owlv2")["google/owlv2-base-patch16-ensemble"].startswith("bench fetch google/owlv2")
    put(home / "huggingface" / "models--google--owlv2-base-patch16-ensemble" / "snapshots" / "a" / "config.json")
    assert missing("owlv2") == {} and "ssd300_vgg16" in missing("ssd-clip")
    put(home / "torchvision" / "ssd300_vgg16_coco-b556d3b4.pth")
    assert at_hand(source_of("ssd300_vgg16", "", load_settings()), load_settings())


def test_a_package_that_is_not_there(home, monkeypatch):
    monkeypatch.setattr(readiness, "find_spec", lambda name: None)
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert missing("yolo-clip", "shapes") == {"the package ultralytics": pip_install("yolo")}
    assert any(pip_install("demo") in line for line in machine.faster(SPEED))


def test_estimates_follow_from_their_parts():
    rows = {row["pipeline"]: row for row in machine.estimates(SPEED)}
    assert set(rows) == set(costs()["cost"]) <= set(registry.names(registry.PIPELINES))
    cost, row = costs()["cost"]["mdetr"], rows["mdetr"]
    per_expression = cost["image"] / 7 + cost["expression"]
    assert row["expressions_per_s"] == pytest.approx(100 * costs()["share"]["cpu"] / per_expression, rel=0.06)
    assert row["weights_gb"] == pytest.approx(4 * cost["parameters"] / 2**30, abs=0.01) and row["within"] == 3
    assert row["fits"] is False and rows["largest-proposal"]["fits"] is True
    half = {row["pipeline"]: row for row in machine.estimates(SPEED | {"dtype": "bfloat16"})}
    assert half["mdetr"]["weights_gb"] == pytest.approx(row["weights_gb"] / 2, abs=0.01)

    # Where no share was measured, the rate is a bound.
    gpu = {row["pipeline"]: row for row in machine.estimates(SPEED | {"device": "cuda:0"})}["clipvg"]
    bound = 100 / (costs()["cost"]["clipvg"]["image"] / 7 + costs()["cost"]["clipvg"]["expression"])
    assert gpu["within"] is None and gpu["expressions_per_s"] == pytest.approx(bound, rel=0.06)


def test_a_faster_number_type_is_worth_a_word():
    quick = SPEED | {"matmul_gflops": {"float32": 100.0, "bfloat16": 250.0}}
    assert any(line.startswith("--dtype bfloat16: matrix products are 2.5 times") for line in machine.faster(quick))
    assert not any("--dtype" in line for line in machine.faster(SPEED))


@pytest.mark.slow
def test_the_whole_of_it(bench, home):
    code, out, _ = bench("doctor", "--json")
    report = json.loads(out.splitlines()[-1])
    assert code == 0 and set(report) == {"machine", "pipelines", "speed", "estimates", "splits", "faster"}
    assert report["machine"]["cores"] >= 1 and set(report["speed"]["matmul_gflops"]) == {"float32", "bfloat16"}
    assert 0 < report["speed"]["memory_free_gb"] <= report["speed"]["memory_gb"]
    states = {row["pipeline"]: row for row in report["pipelines"]}
    assert states["centre-box"]["shapes"] == states["yolo-clip"]["shapes"] == "ready"
    assert states["yolo-clip"]["elsewhere"] == "to be fetched: yolo11x.pt, ViT-B-16 openai"
    assert states["clipvg"]["elsewhere"] == "missing: clipvg.pth" and set(states["clipvg"]["how"]) == {"clipvg.pth"}
    assert {row["dataset"]: row["ready"] for row in report["splits"]}["shapes"] == ["train", "val", "test"]
    assert next(row for row in report["splits"] if row["dataset"] == "refcoco+")["how"].startswith("bench data prepare")
    assert len(report["splits"]) == len(list(datasets()))
    text = bench("doctor")[1]
    assert "within a factor of 3" in text and "zenodo.org/records/4721981" in text
    assert re.search(r"^shapes +train, val, test", text, re.MULTILINE)


@pytest.mark.slow
def test_one_pipeline_is_tried(bench, tmp_path):
    code, out, _ = bench("doctor", "--pipeline", "yolo-clip", "--json")
    assert code == 0 and json.loads(out)["pipelines"][0]["shapes"] == "works"
    (tmp_path / "bench.toml").write_text('[pipelines.yolo-clip.on.shapes.proposer]\nweights = "./gone.safetensors"\n')
    code, out, _ = bench("doctor", "--pipeline", "yolo-clip", "--json")
    assert code == 1 and "gone.safetensors" in json.loads(out)["pipelines"][0]["shapes"]


def test_the_page_names_every_key():
    section = (PROJECT / "docs" / "machine-output.md").read_text(encoding="utf-8").split("## `bench doctor`\n")[1]
    table = section.split("\n## ")[0]
    keys = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert keys == ["machine", "pipelines", "speed", "estimates", "splits", "faster"]
    inner = {*SPEED, *machine.estimates(SPEED)[0], *machine.split_states(load_settings())[0]}
    assert {name for name in inner if f"`{name}`" not in table} == set()


def test_every_entry_is_documented_where_it_was_counted():
    page = (PROJECT / "tools" / "benchmarks" / "gflops.py").read_text(encoding="utf-8")
    assert "bench/doctor/costs.toml" in page
    for cost in costs()["cost"].values():
        assert set(cost) == {"models", "image", "expression", "parameters"} and cost["parameters"] > 1e7
