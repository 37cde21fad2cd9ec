"""`bench speed` from the command line, on the embedded data with pipelines that need no network."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fake_world import HashPipeline
from typer.testing import CliRunner

from bench import registry
from bench.cli.main import app
from bench.grounding import LoadedScene, Prediction

QUICK = (
    "--split shapes-val --limit 12 --min-seconds 0 --min-batches 2 --warmup-seconds 0 --warmup-batches 1 --repeats 2"
)
Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        from bench.errors import BenchError

        result = CliRunner().invoke(app, ["speed", *words, *QUICK.split(), "-o", str(tmp_path / "results")])
        if isinstance(result.exception, BenchError):
            return result.exception.exit_code, result.stdout, f"{result.stderr}{result.exception}"
        return result.exit_code, result.stdout, result.stderr

    return call


def test_a_table_and_a_record_each(bench: Bench, tmp_path: Path) -> None:
    code, said, _ = bench("--pipeline", "centre-box,whole-image")
    assert code == 0
    assert "centre-box" in said and "cold" in said and "unsupported" in said
    assert "smaller rules than the protocol's, or a limited split: in no table" in said
    assert len(list(tmp_path.glob("results/runs/*/shapes-val/speed-*.json"))) == 2


def test_json_is_what_the_file_holds(bench: Bench) -> None:
    code, said, _ = bench("--pipeline", "centre-box", "--json")
    (row,) = json.loads(said.splitlines()[-1])["rows"]
    assert code == 0
    assert json.loads(Path(row.pop("file")).read_text()) == row
    assert row["valid"] and not row["full"] and row["energy"]["joules"] is None and row["offline"][0]["cache"] == "cold"


def test_in_turn(bench: Bench, tmp_path: Path) -> None:
    code, said, _ = bench("-p", "centre-box", "-p", "whole-image", "--interleave", "--rounds", "4", "--json")
    (row,) = json.loads(said.splitlines()[-1])["rows"]
    assert code == 0 and len(row["ratio"]["rounds"]) == 4 and row["first"]["name"] == "centre-box"
    assert row["ratio"]["low"] <= row["ratio"]["quartiles"][0] <= row["ratio"]["median"] <= row["ratio"]["high"]
    assert [p.name[:5] for p in tmp_path.glob("results/runs/whole-image/shapes-val/*.json")] == ["pair-"]
    code, _, error = bench("-p", "centre-box", "--interleave")
    assert code == 2 and "--interleave: give two pipelines or more" in error


def test_what_cannot_be_measured_is_said_and_the_rest_is_measured(bench: Bench, tmp_path: Path) -> None:
    code, _, error = bench("-p", "centre-box,whole-image", "--preprocessing", "official")
    assert code == 2 and "centre-box: --preprocessing: centre-box takes none" in error
    code, _, error = bench("-p", "centre-box", "--compile")
    assert code == 2 and "--compile: centre-box compiles nothing" in error
    code, _, error = bench("-p", "centre-bix")
    assert code == 2 and "did you mean 'centre-box'" in error
    assert not (tmp_path / "results").exists()


def test_other_boxes_when_timed_leave_with_1_and_are_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cheat(HashPipeline):
        def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
            answers = super().ground(batch)
            if len(self.batches) < 5 or "#" not in batch[0].id:
                return answers
            return [Prediction(answer.id, (0.0, 0.0, 9.0, 9.0)) for answer in answers]

    monkeypatch.setattr(registry, "pipeline_factory", lambda name: Cheat)
    code, said, _ = bench("-p", "centre-box")
    assert code == 1 and "INVALID" in said and "boxes are not those of the accuracy pass" in said
    assert "val-0000" in said.split("boxes are not those of")[1]


def test_a_chart_needs_something_to_show(bench: Bench, tmp_path: Path) -> None:
    code, _, error = bench("-p", "centre-box", "--chart", str(tmp_path / "c.svg"))
    assert code == 2 and "has a valid speed record of the full rules beside it yet" in error
    assert not (tmp_path / "c.svg").exists()


def test_the_verb_imports_nothing_heavy() -> None:
    script = "import sys, bench.cli.main; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
