"""`bench doctor`: what is missing and what brings it, splits, estimates that follow from their parts, and hints."""

import json
import re

import pytest
from typer.testing import CliRunner

from bench import registry
from bench.cli.main import app
from bench.datasets.load import datasets
from bench.doctor import machine, readiness
from bench.doctor.readiness import Lack, at_hand, costs, lacks
from bench.settings import PROJECT, load_settings

SPEED = {
    "device": "cpu",
    "dtype": "float32",
    "matmul_gflops": {"float32": 100.0, "bfloat16": 110.0},
    "memory_free_gb": 2.0,
    "memory_gb": 8.0,
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "weights"


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def whats(name, dataset=""):
    return {lack.what: lack for lack in lacks(name, dataset, load_settings())}


def test_what_is_missing_and_what_brings_it(home):
    found = whats("yolo-clip")
    assert set(found) == {"yolo11x.pt", "ViT-B-16 openai"} and all(lack.by_itself for lack in found.values())
    command = found["ViT-B-16 openai"].how
    assert command == f"hf download timm/vit_base_patch16_clip_224.openai --cache-dir {home / 'open_clip'}"
    put(home / "yolo11x.pt")
    snapshot = home / "open_clip" / "models--timm--vit_base_patch16_clip_224.openai" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    assert set(whats("yolo-clip")) == {"ViT-B-16 openai"}  # an empty folder is no download
    put(snapshot / "open_clip_model.safetensors")
    assert whats("yolo-clip") == {} and whats("yolo-clip", "shapes") == {}


def test_files_that_somebody_has_to_put_there(home):
    found = whats("mdetr", "refcocog")
    file = "refcocog_resnet101_checkpoint.pth"
    url = f"https://zenodo.org/records/4721981/files/{file}"
    assert found[file] == Lack(file, f"curl -L --create-dirs -o {home / file} {url}")
    assert "--local-dir" in found["tokenizer roberta-base"].how
    put(home / file)
    put(home / "roberta-base" / "config.json")
    assert whats("mdetr", "refcocog") == {}
    assert str(home / "clipvg-refcoco.pth") in whats("clipvg", "refcoco")["clipvg-refcoco.pth"].how
    assert "refcoco_dets_dict.json" in whats("reclip", "refcoco")
    put(home / "refcoco_dets_dict.json")
    assert "refcoco_dets_dict.json" not in whats("reclip", "refcoco")


def test_hub_ids_and_torchvision(home):
    assert whats("owlv2")["google/owlv2-base-patch16-ensemble"].how.startswith("hf download google/owlv2")
    put(home / "huggingface" / "models--google--owlv2-base-patch16-ensemble" / "snapshots" / "a" / "config.json")
    assert whats("owlv2") == {}
    assert "ssd300_vgg16" in whats("ssd-clip")
    put(home / "torchvision" / "ssd300_vgg16_coco-b556d3b4.pth")
    assert at_hand("ssd300_vgg16", "", load_settings())


def test_a_package_that_is_not_there(home, monkeypatch):
    monkeypatch.setattr(readiness, "find_spec", lambda name: None)
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    found = whats("yolo-clip", "shapes")
    assert found == {"the package ultralytics": Lack("the package ultralytics", 'pip install "grounding-bench[yolo]"')}
    assert any('"grounding-bench[demo]"' in line for line in machine.faster(SPEED))


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


def test_where_no_share_was_measured_the_rate_is_a_bound():
    gpu = {row["pipeline"]: row for row in machine.estimates(SPEED | {"device": "cuda:0"})}
    cost = costs()["cost"]["clipvg"]
    bound = 100 / (cost["image"] / 7 + cost["expression"])
    assert gpu["clipvg"]["within"] is None and gpu["clipvg"]["expressions_per_s"] == pytest.approx(bound, rel=0.06)


def test_the_rate_of_this_machine_is_plausible():
    found = machine.measured("cpu")
    assert found["dtype"] == "float32" and set(found["matmul_gflops"]) == {"float32", "bfloat16"}
    assert 0.1 < found["matmul_gflops"]["float32"] < 100_000
    assert 0 < found["memory_free_gb"] <= found["memory_gb"]
    used, cores = machine.threads()
    assert used >= 1 and cores >= 1


def test_a_faster_number_type_is_worth_a_word():
    quick = SPEED | {"matmul_gflops": {"float32": 100.0, "bfloat16": 250.0}}
    assert any(line.startswith("--dtype bfloat16: matrix products are 2.5 times") for line in machine.faster(quick))
    assert not any("--dtype" in line for line in machine.faster(SPEED))


def test_the_whole_of_it(home):
    result = CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False)
    found = json.loads(result.stdout.splitlines()[-1])
    assert set(found) == {"machine", "pipelines", "speed", "estimates", "splits", "faster"}
    states = {row["pipeline"]: row for row in found["pipelines"]}
    assert states["yolo-clip"]["elsewhere"] == "to be fetched: yolo11x.pt, ViT-B-16 openai"
    assert states["clipvg"]["elsewhere"] == "missing: clipvg.pth" and set(states["clipvg"]["how"]) == {"clipvg.pth"}
    assert {row["dataset"]: row["ready"] for row in found["splits"]}["shapes"] == ["train", "val", "test"]
    assert next(row for row in found["splits"] if row["dataset"] == "refcoco+")["how"].startswith("bench data prepare")
    assert len(found["splits"]) == len(list(datasets()))
    said = CliRunner().invoke(app, ["doctor"], catch_exceptions=False).stdout
    assert "within a factor of 3" in said and "zenodo.org/records/4721981" in said
    assert re.search(r"^shapes +train, val, test", said, re.MULTILINE)


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
