"""`bench speed` from the command line, on the embedded data with pipelines that need no network."""

import json
from pathlib import Path

import pytest
from fake_world import HashPipeline

from bench import registry
from bench.grounding import Prediction

QUICK = "-s shapes-val --limit 12 --min-seconds 0 --min-batches 2 --warmup-seconds 0 --warmup-batches 1 --repeats 2"


@pytest.fixture
def speed(bench):
    return lambda *words: bench("speed", *words, *QUICK.split())


@pytest.mark.slow
def test_a_table_and_a_record_each(speed, tmp_path):
    code, out, _ = speed("--pipeline", "centre-box,whole-image")
    assert code == 0
    assert "centre-box" in out and "cold" in out and "unsupported" in out
    assert "smaller rules than the protocol's, or a limited split: in no table" in out
    assert len(list(tmp_path.glob("results/runs/*/shapes-val/speed-*.json"))) == 2


@pytest.mark.slow
def test_json_is_the_content_of_the_file(speed):
    code, out, _ = speed("--pipeline", "centre-box", "--json")
    (row,) = json.loads(out.splitlines()[-1])["rows"]
    stored = json.loads(Path(row.pop("file")).read_text())
    assert code == 0 and stored.pop("sha256") and stored == {k: v for k, v in row.items() if k != "sha256"}
    assert row["valid"] and not row["full"] and row["energy"]["joules"] is None and row["offline"][0]["cache"] == "cold"


def test_results_that_cannot_be_written_are_refused_before_the_measurement(bench, monkeypatch):
    monkeypatch.setattr("bench.speed.measure.measure", None)
    code, _, err = bench("speed", "-p", "centre-box", "-s", "shapes-val", "--results", "r" * 300)
    assert code == 2 and "--results rrr" in err and "cannot be written" in err


@pytest.mark.slow
def test_in_turn(speed, tmp_path):
    code, out, _ = speed("-p", "centre-box", "-p", "whole-image", "--interleave", "--rounds", "4", "--json")
    (row,) = json.loads(out.splitlines()[-1])["rows"]
    assert code == 0 and len(row["ratio"]["rounds"]) == 4 and row["first"]["name"] == "centre-box"
    assert row["ratio"]["low"] <= row["ratio"]["quartiles"][0] <= row["ratio"]["median"] <= row["ratio"]["high"]
    assert [p.name[:5] for p in tmp_path.glob("results/runs/whole-image/shapes-val/*.json")] == ["pair-"]
    code, _, error = speed("-p", "centre-box", "--interleave")
    assert code == 2 and "--interleave needs two pipelines or more" in error


def test_what_cannot_be_measured_is_said_and_the_rest_is_measured(speed, tmp_path):
    code, _, error = speed("-p", "centre-box,whole-image", "--preprocessing", "official")
    assert code == 2 and "centre-box: --preprocessing: centre-box takes none" in error
    code, _, error = speed("-p", "centre-box", "--compile")
    assert code == 2 and "--compile: centre-box compiles nothing" in error
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_other_boxes_when_timed_exit_with_1_and_are_named(speed, monkeypatch):
    class Cheat(HashPipeline):
        def ground(self, batch):
            answers = super().ground(batch)
            if len(self.batches) < 5 or "#" not in batch[0].id:
                return answers
            return [Prediction(answer.id, (0.0, 0.0, 9.0, 9.0)) for answer in answers]

    monkeypatch.setattr(registry, "pipeline_factory", lambda name: Cheat)
    code, out, _ = speed("-p", "centre-box")
    assert code == 1 and "INVALID" in out and "boxes are not those of the accuracy pass" in out
    assert "val-0000" in out.split("boxes are not those of")[1]


@pytest.mark.slow
def test_a_chart_needs_records(speed, tmp_path):
    code, _, error = speed("-p", "centre-box", "--chart", str(tmp_path / "c.svg"))
    assert code == 2 and "has a valid speed record under the default rules yet" in error
    assert not (tmp_path / "c.svg").exists()
