"""Annotated boxes as proposals: all of them, in an order that says nothing, in a run that is taken for no other."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bench import registry
from bench.datasets.shapes import dataset
from bench.datasets.split import Split
from bench.errors import BenchError, UsageError
from bench.evaluation.loop import evaluate
from bench.evaluation.opening import open_pipeline
from bench.evaluation.rescored import rescore
from bench.grounding import Candidates, Expression, LoadedScene, PipelineCard, Scene
from bench.reporting.boards import collect
from bench.reporting.markdown import leaderboard_markdown
from bench.settings import load_settings, merged
from pipelines.two_stage.proposers.ground_truth import open_ground_truth


def small(count=3):
    return dataset.load("val", load_settings()).limited(count)


def test_all_objects_where_they_are_known(context):
    split = small()
    proposer = open_ground_truth({}, "table", context(candidates=Candidates(split.scenes)))
    assert proposer.annotated == "gt"
    scenes = [LoadedScene(s.id, split.images.load(s), ()) for s in split.scenes]
    for scene, given in zip(split.scenes, proposer.propose(scenes), strict=True):
        objects = [each.box for each in scene.objects]
        assert sorted(map(tuple, given.boxes.tolist())) == sorted(objects)
        assert {e.box for e in scene.expressions} <= set(map(tuple, given.boxes.tolist()))
        assert set(given.labels) == {""}  # a class name would be part of the answer


def test_only_referred_objects_where_no_others_are_known():
    boxes = [(50.0, 0.0, 60.0, 10.0), (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)]
    expressions = tuple(Expression(str(n), "man", box, also=((7.0, 7.0, 9.0, 9.0),)) for n, box in enumerate(boxes))
    split = Split("refcoco-val", "", (Scene("5", "5.jpg", 100, 50, expressions),), SimpleNamespace())
    candidates = Candidates(split.scenes)
    mark, boxes_of = candidates.take()
    given = boxes_of("5")
    assert mark == "gt-referred"
    # Each once, sorted by their numbers: not in the order in which the expressions come.
    assert given.tolist() == [[0, 0, 10, 10], [7, 7, 9, 9], [50, 0, 60, 10]]


def test_a_card_must_name_the_annotated_boxes_it_takes(monkeypatch):
    class Silent:
        card = PipelineCard("silent", "", supervision="none")

        def ground(self, batch):
            return []

    def build(context):
        context.candidates.take()
        return Silent()

    monkeypatch.setattr(registry, "pipeline_factory", lambda name: build)
    with pytest.raises(BenchError, match="'silent' takes annotated boxes; its card must name them in `proposals`"):
        open_pipeline("silent", small(), load_settings())


def test_there_are_none_outside_a_run(context):
    for here in (context(candidates=Candidates(None)), context()):
        with pytest.raises(UsageError, match="bench run"):
            open_ground_truth({}, "table", here)


def test_another_kind_of_proposer_begins_its_table_anew():
    base = {"proposer": {"kind": "yolo", "weights": "x.pt", "top_k": 20}, "prompt": "{}"}
    given = {"proposer": {"kind": "ground-truth"}}
    assert merged(base, given) == {**given, "prompt": "{}"}
    assert merged(base, {"proposer": {"kind": "yolo", "top_k": 5}})["proposer"]["weights"] == "x.pt"
    assert merged(base, {"proposer": {"top_k": 5}})["proposer"] == {"kind": "yolo", "weights": "x.pt", "top_k": 5}


@pytest.mark.slow
def test_no_table_mixes_given_and_found_boxes(tmp_path, monkeypatch):
    """The same pipeline on the same scenes, once with boxes of its own and once with the annotated ones."""
    monkeypatch.setattr("bench.evaluation.identity.provenance.git_state", lambda: {"commit": "c", "dirty": False})
    resolved = load_settings(None, {"results": str(tmp_path)})
    split = replace(small(), partial=False)
    own = evaluate("largest-proposal", split, resolved)
    given = evaluate("largest-proposal", split, resolved, {"proposer": {"kind": "ground-truth"}})
    assert (own.record.proposals, given.record.proposals) == ("", "gt")
    assert given.record.signature == own.record.signature + "|proposals:gt"
    assert given.record.metrics.oracle == 1.0
    boards = collect(tmp_path).boards
    assert [board.proposals for board in boards] == ["", "gt"] and all(len(board.rows) == 1 for board in boards)
    text = leaderboard_markdown(collect(tmp_path))
    assert "## shapes-val, proposals gt" in text and "annotated boxes of all" in text


@pytest.mark.slow
def test_scored_again_it_is_still_marked(tmp_path, monkeypatch):
    resolved = load_settings(None, {"results": str(tmp_path)})
    given = evaluate("largest-proposal", small(), resolved, {"proposer": {"kind": "ground-truth"}})
    again = rescore(given.folder, resolved, "strict")
    fingerprint = given.record.identity.data.fingerprint[:8]
    assert again.signature.endswith(f",partial|data:{fingerprint}|top1|v1|proposals:gt")
    assert np.isclose(again.metrics.oracle, 1)
