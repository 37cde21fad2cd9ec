"""Stored runs that a command left behind, with errors and proposals, scored again."""

import json
from types import SimpleNamespace

import pytest

from bench.datasets.split import Split
from bench.errors import RunError
from bench.evaluation import rescored as module
from bench.evaluation.metrics import compute
from bench.evaluation.rescored import rescore
from bench.grounding import Expression, Prediction, Scene
from bench.imported.scoring import import_boxes
from bench.runs.numbers import OLD
from bench.runs.predictions import SceneAnswers, dump_line
from bench.runs.record import read_record
from bench.runs.store import write_record
from bench.settings import load_settings

BOX = (0.0, 0.0, 40.0, 40.0)


@pytest.fixture
def split(monkeypatch):
    scenes = tuple(Scene(f"p{n}", f"p{n}.jpg", 100, 100, (Expression(f"e{n}", "x", BOX),)) for n in range(5))
    whole = Split("mine-val", "Mine", scenes, SimpleNamespace())
    monkeypatch.setattr(module, "load_split", lambda name, resolved: whole)
    return whole


def stored(tmp_path, split, lines, **identity):
    """A run with these lines, its metrics computed from them."""
    (tmp_path / "b.json").write_text(json.dumps({scene.expressions[0].id: [0, 0, 40, 40] for scene in split.scenes}))
    record, folder = import_boxes(tmp_path / "b.json", split, tmp_path)
    (folder / "predictions.jsonl").write_text("".join(map(dump_line, lines)))
    data = record.identity.data.model_copy(update=identity)
    record = record.model_copy(
        update={
            "metrics": compute(split, lines),
            "identity": record.identity.model_copy(update={"data": data}),
            "provenance": "run",
            "files": {},
        }
    )
    write_record(folder, record)
    return folder


def lines_of(split):
    lines = [
        SceneAnswers(s.id, (Prediction(s.expressions[0].id, BOX),), (BOX, (1.0, 1.0, 2.0, 2.0))) for s in split.scenes
    ]
    lines[2] = SceneAnswers("p2", (), None, "truncated")
    return lines


def test_an_older_versions_interval_of_few_images_is_left_out_until_it_is_computed_anew(tmp_path, split):
    folder = stored(tmp_path, split, lines_of(split))
    record = read_record(folder)
    raw = json.loads((folder / "run.json").read_text())
    parts = [raw["metrics"], *(part for cut in raw["metrics"]["strata"].values() for part in cut.values())]
    for part in parts:
        del part["ci95_note"]
        part["ci95"] = [0.75, 0.85]  # as the bootstrap of five images would be
    del raw["sha256"]
    (folder / "run.json").write_text(json.dumps(raw))
    old = read_record(folder)
    assert (old.metrics.ci95, old.metrics.ci95_note) == (None, OLD) and "--keep" in OLD
    assert {(p.ci95, p.ci95_note) for cut in old.metrics.strata.values() for p in cut.values()} == {(None, OLD)}
    assert rescore(folder, load_settings()).metrics == record.metrics and read_record(folder) == old
    assert rescore(folder, load_settings(), keep=True) == read_record(folder)
    assert read_record(folder).model_copy(update={"files": {}, "sha256": record.sha256}) == record
    # Of many images it is the bootstrap's, and stays; not that of a stratum surely of few, or without a miss.
    raw["identity"]["data"] |= {"images": 400, "expressions": 1000}
    raw["metrics"] |= {"n": 1000, "hits": 800, "acc@0.5": 0.8}
    some, same = {"n": 300, "hits": 240, "acc@0.5": 0.8}, {"n": 300, "hits": 300, "acc@0.5": 1.0}
    few = {"n": 20, "hits": 16, "acc@0.5": 0.8}
    raw["metrics"]["strata"] = {"cut": {k: parts[1] | v for k, v in {"a": some, "b": same, "c": few}.items()}}
    (folder / "run.json").write_text(json.dumps(raw))
    many = read_record(folder).metrics
    assert (many.ci95, many.ci95_note) == ((0.75, 0.85), None)
    assert [part.ci95 for part in many.strata["cut"].values()] == [(0.75, 0.85), None, None]


def test_errors_and_ceiling_come_back(tmp_path, split):
    folder = stored(tmp_path, split, lines_of(split))
    again = rescore(folder, load_settings())
    assert again == read_record(folder)
    assert (again.metrics.errors, again.metrics.hits, again.metrics.oracle) == (1, 4, 0.8)


def test_a_partial_run_is_scored_on_its_part(tmp_path, split):
    part = split.limited(3)
    folder = stored(tmp_path, part, lines_of(split)[:3])
    assert rescore(folder, load_settings()).metrics == compute(part, lines_of(split)[:3])
    assert rescore(folder, load_settings(), "giou").metrics.n == 3


def test_other_data_names_both(tmp_path, split):
    folder = stored(tmp_path, split, lines_of(split), fingerprint="0123456789")
    with pytest.raises(RunError, match=f"01234567.*{split.fingerprint[:8]}"):
        rescore(folder, load_settings())
