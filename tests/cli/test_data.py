"""`bench data`, driven from the command line on a data set of a few expressions."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from bench.cli.data import app
from bench.datasets import catalog
from bench.datasets.catalog import Catalogued
from bench.datasets.split import Part
from bench.errors import CheckFailed, DataError, UsageError

TINY = Catalogued(
    "refcoco", "Tiny", (Part("val", 2, None, 2), Part("testA", 1)), "no terms", "there", "there", stem="unc"
)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A JSONL of the tiny refcoco-val; the catalogue has it in the real one's place."""
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(catalog, "refcoco", TINY)
    rows = [
        {"image": f"{n:012}.jpg", "text": f"[bold]thing {n}", "box_xyxy": [0, 0, 5, 5], "width": 8, "height": 6}
        for n in (1, 2)
    ]
    path = tmp_path / "val.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def images(path: Path, size: tuple[int, int] = (8, 6)) -> Path:
    out = io.BytesIO()
    Image.new("RGB", size).save(out, "JPEG")
    with zipfile.ZipFile(path, "w") as archive:
        for n in (1, 2):
            archive.writestr(f"train2014/COCO_train2014_{n:012}.jpg", out.getvalue())
    return path


def bench_data(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def last_line(result: Result) -> Any:
    assert result.exception is None or isinstance(result.exception, CheckFailed), result.exception
    return json.loads(result.stdout.splitlines()[-1])


def test_prepare_verify_list(tiny: Path, tmp_path: Path) -> None:
    result = bench_data("prepare", "refcoco-val", "--annotations", tiny, "--images", images(tmp_path / "p.zip"))
    assert result.exit_code == 0, result.output
    assert "2 expressions" in result.stdout
    result = bench_data("verify", "refcoco", "--threads", 2)
    assert result.exit_code == 0, result.output
    assert "ok" in result.stdout
    result = bench_data("list")
    assert result.exit_code == 0, result.output
    assert "ready" in result.stdout
    assert "no terms" in result.stdout
    assert "bench data prepare refcoco --annotations PATH" in result.stdout  # testA is still missing
    assert "bench data prepare flickr30k" in result.stdout


def test_json_is_one_object_on_stdout(tiny: Path, tmp_path: Path) -> None:
    result = bench_data("prepare", "refcoco-val", "--annotations", tiny, "--json")
    (row,) = last_line(result)["splits"]
    assert result.stdout.count("\n") == 1
    assert "reading" in result.stderr
    assert row["split"] == "refcoco-val"
    assert (row["expressions"], row["refs"], row["images"]) == (2, None, 2)
    assert (row["partial"], row["format"], row["missing_images"]) == (False, "jsonl", None)
    found = last_line(bench_data("list", "--json"))
    val = next(s for s in found["splits"] if s["split"] == "refcoco-val")
    assert (val["ready"], val["fingerprint"], val["images_at"]) == (True, row["fingerprint"], [])
    assert val["terms"] == "no terms"
    assert found["home"] == str(tmp_path / "home")
    (row,) = last_line(bench_data("prepare", "refcoco", "--images", images(tmp_path / "p.zip"), "--json"))["splits"]
    assert row["missing_images"] == 0
    found = last_line(bench_data("verify", "refcoco-val", "--json"))
    assert found["ok"]
    assert found["splits"][0]["images_checked"] == 2


def test_verify_fails_with_one(tiny: Path, tmp_path: Path) -> None:
    archive = images(tmp_path / "p.zip", (6, 8))
    bench_data("prepare", "refcoco-val", "--annotations", tiny, "--images", archive)
    result = bench_data("verify", "refcoco-val")
    assert isinstance(result.exception, CheckFailed)
    assert result.exception.exit_code == 1
    assert "6 x 8" in result.stdout
    found = last_line(bench_data("verify", "refcoco-val", "--json"))
    assert not found["ok"]
    assert len(found["splits"][0]["other_size"]) == 2
    assert bench_data("verify", "refcoco-val", "--no-images").exit_code == 0
    archive.unlink()
    found = last_line(bench_data("verify", "refcoco-val", "--json"))
    assert found["splits"][0]["missing"] == ["000000000001.jpg", "000000000002.jpg"]


def test_wrong_counts_and_subset(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().splitlines()[0] + "\n")
    result = bench_data("prepare", "refcoco-val", "--annotations", tiny)
    assert isinstance(result.exception, DataError)
    assert "2 expected, 1 counted" in str(result.exception)
    result = bench_data("prepare", "refcoco-val", "--annotations", tiny, "--subset", "--json")
    assert last_line(result)["splits"][0]["partial"]
    assert "a part of it" in bench_data("list").stdout


def test_what_changed_is_shown(tiny: Path) -> None:
    bench_data("prepare", "refcoco-val", "--annotations", tiny)
    tiny.write_text(tiny.read_text().replace("thing 2", "other"))
    result = bench_data("prepare", "refcoco-val", "--annotations", tiny)
    assert "differs from before" in result.stdout
    assert "'[bold]other'" in result.stdout


def test_mistakes(tiny: Path, tmp_path: Path) -> None:
    assert isinstance(bench_data("prepare", "refcoco", "--protocol", "all").exception, UsageError)
    assert isinstance(bench_data("prepare", "refcoco").exception, UsageError)
    result = bench_data("prepare", "refcoco-val", "--annotations", tiny, "--keep", tmp_path / "gone")
    assert isinstance(result.exception, DataError)
    assert "gone" in str(result.exception)


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, bench.cli.data; print([m for m in ('numpy', 'pydantic', 'torch', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
