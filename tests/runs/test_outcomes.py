"""outcomes.jsonl: what a run, an import and `--keep` write, read back as it was; anything else is refused."""

import json

import numpy as np
import pytest
from fake_world import HashPipeline, MemoryImages, make_settings, make_split

from bench import registry
from bench.errors import RunError
from bench.evaluation.loop import evaluate
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import protocol
from bench.imported.scoring import import_boxes
from bench.runs.outcomes import read_outcomes, write_outcomes
from bench.runs.store import stored_rows

LABELS = {"kind": ["k", None], "length": ["1-5", "6-7"]}
ROWS = [
    {"scene": "s0", "ids": ["a", "b"], "iou": [0.91204349, -0.2], "hit": [True, False], "strata": LABELS},
    {"scene": "s1", "ids": [], "iou": [], "hit": [], "strata": {}},
    {"scene": "鳥", "ids": ["ü"], "iou": [0.5], "hit": [True], "strata": {"length": ["11+"]}},
]


def test_written_and_read(tmp_path):
    write_outcomes(tmp_path, ROWS)
    stored = read_outcomes(tmp_path)
    assert (stored.ids, stored.scenes) == (("a", "b", "ü"), ("s0", "s1", "鳥"))
    assert stored.image.tolist() == [0, 0, 2]
    assert stored.iou.tolist() == [0.912043, 0.0, 0.5]  # 6 decimals; a GIoU below 0 is no overlap
    assert stored.hit.tolist() == [True, False, True] and stored.hit.dtype == np.bool_
    assert stored.strata == {"kind": ("k", None, None), "length": ("1-5", "6-7", "11+")}
    lines = (tmp_path / "outcomes.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0])
    assert (list(first), first["hit"]) == (["scene", "ids", "iou", "hit", "strata"], [1, 0])


def test_a_split_without_expressions_and_a_file_without_strata(tmp_path):
    write_outcomes(tmp_path, [ROWS[1]])
    stored = read_outcomes(tmp_path)
    assert (stored.ids, stored.image.tolist(), stored.hit.tolist()) == ((), [], [])
    (tmp_path / "outcomes.jsonl").write_text('{"scene": "s", "ids": ["a"], "iou": [1], "hit": [1]}\n')
    assert read_outcomes(tmp_path).strata == {}


@pytest.mark.slow
@pytest.mark.parametrize("line", [
    "no json",
    "[]",
    '{"scene": "s", "ids": ["a"], "iou": [0.5]}',
    '{"scene": "s", "ids": ["a"], "iou": [0.5, 0.5], "hit": [1]}',
    '{"scene": "s", "ids": [1], "iou": [0.5], "hit": [1]}',
    '{"scene": "s", "ids": "a", "iou": [0.5], "hit": [1]}',
    '{"scene": 3, "ids": ["a"], "iou": [0.5], "hit": [1]}',
    '{"scene": "s", "ids": ["a"], "iou": [NaN], "hit": [1]}',
    '{"scene": "s", "ids": ["a"], "iou": [1.5], "hit": [1]}',
    '{"scene": "s", "ids": ["a"], "iou": ["0.5"], "hit": [1]}',
    '{"scene": "s", "ids": ["a"], "iou": [0.5], "hit": [2]}',
    '{"scene": "s", "ids": ["a"], "iou": [0.5], "hit": [1], "strata": {"kind": []}}',
    '{"scene": "s", "ids": ["a"], "iou": [0.5], "hit": [1], "strata": {"kind": [[]]}}',
    '{"scene": "s", "ids": ["a"], "iou": [0.5], "hit": [1], "strata": 4}',
    '{"scene": "s", "ids": ["a"], "iou": [0.5], "hit": [1], "masks": []}',
    '{"scene": "s", "ids": ["a"], "iou": [0.5], "hit": [1], "masks": [[0.5, 3]]}',
    '{"scene": "s", "ids": ["a"], "iou": [0.5], "hit": [1], "masks": [[0.5, 4, 3]]}',
    '{"scene": "s", "ids": ["a"], "iou": [0.5], "hit": [1], "masks": 4}',
    '{"scene": "s", "ids": ["a"], "iou": [0.5], "hi',
])  # fmt: skip
def test_what_is_no_row_is_refused(tmp_path, line):
    write_outcomes(tmp_path, ROWS[:1])
    with (tmp_path / "outcomes.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RunError, match=r"outcomes\.jsonl, line 2: .* bench score .* --keep"):
        read_outcomes(tmp_path)


def test_a_missing_file(tmp_path):
    with pytest.raises(RunError, match="not the folder of a run"):
        read_outcomes(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match=f"bench score {tmp_path} --keep"):
        read_outcomes(tmp_path)


def same_as_computed(folder, split):
    """The stored outcomes are those that the stored predictions give."""
    stored = read_outcomes(folder)
    fresh = outcomes(split.scenes, stored_rows(folder).values(), protocol("iou"), partial=True)
    assert stored.ids == tuple(e.id for e in fresh.expressions)
    assert stored.hit.tolist() == fresh.hit.tolist()
    assert stored.iou.tolist() == [round(v, 6) for v in fresh.iou.tolist()]
    assert stored.image.tolist() == fresh.image.tolist()
    assert stored.scenes == tuple(scene.id for scene in split.scenes)
    assert stored.strata == {cut: tuple(column.labels()) for cut, column in fresh.strata.items()}
    assert {"length", "spatial words", "people"} <= set(stored.strata)
    return stored


@pytest.mark.slow
def test_a_run_stores_its_outcomes_also_when_images_are_read_later(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: HashPipeline)
    stored = []
    for bad in ({"3.png"}, set()):
        done = evaluate("hash", make_split(source=MemoryImages(bad=bad)), make_settings(tmp_path))
        stored.append(same_as_computed(done.folder, make_split()))
        assert (len(stored[-1].ids), int(stored[-1].hit.sum())) == (done.record.metrics.n, done.record.metrics.hits)
    assert stored[0].iou.tolist() != stored[1].iou.tolist() and len(list(tmp_path.rglob("run.json"))) == 1


def test_imported_boxes_store_theirs(tmp_path):
    split = make_split()
    boxes = {e.id: list(e.box) for scene in split.scenes for e in scene.expressions if e.id[-1] in "02468"}
    (tmp_path / "theirs.json").write_text(json.dumps(boxes))
    record, folder = import_boxes(tmp_path / "theirs.json", split, tmp_path / "results", partial=True)
    assert int(same_as_computed(folder, split).hit.sum()) == record.metrics.hits > 0
