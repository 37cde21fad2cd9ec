"""outcomes.jsonl: what a run, an import and `--keep` write, read back as it was; anything else is refused."""

import json

import numpy as np
import pytest
from fake_world import MemoryImages, make_settings, make_split

from bench import registry
from bench.errors import RunError
from bench.evaluation.loop import evaluate
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import protocol
from bench.evaluation.strata import strata
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
    found = read_outcomes(tmp_path)
    assert (found.ids, found.scenes) == (("a", "b", "ü"), ("s0", "s1", "鳥"))
    assert found.image.tolist() == [0, 0, 2]
    assert found.iou.tolist() == [0.912043, 0.0, 0.5]  # 6 decimals; a GIoU below 0 is no overlap
    assert found.hit.tolist() == [True, False, True] and found.hit.dtype == np.bool_
    assert found.strata == {"kind": ("k", None, None), "length": ("1-5", "6-7", "11+")}
    lines = (tmp_path / "outcomes.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0])
    assert (list(first), first["hit"]) == (["scene", "ids", "iou", "hit", "strata"], [1, 0])


def test_of_a_split_without_expressions(tmp_path):
    write_outcomes(tmp_path, [ROWS[1]])
    found = read_outcomes(tmp_path)
    assert (found.ids, found.image.tolist(), found.hit.tolist()) == ((), [], [])


def test_a_file_without_strata_is_read(tmp_path):
    (tmp_path / "outcomes.jsonl").write_text('{"scene": "s", "ids": ["a"], "iou": [1], "hit": [1]}\n')
    assert read_outcomes(tmp_path).strata == {}


@pytest.mark.parametrize(
    "line",
    [
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
        '{"scene": "s", "ids": ["a"], "iou": [0.5], "hi',
    ],
)
def test_what_is_no_row_is_refused(tmp_path, line):
    write_outcomes(tmp_path, ROWS[:1])
    with (tmp_path / "outcomes.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RunError, match=r"outcomes\.jsonl, line 2: .* bench score .* --keep"):
        read_outcomes(tmp_path)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(RunError, match="not the folder of a run"):
        read_outcomes(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match=f"bench score {tmp_path} --keep"):
        read_outcomes(tmp_path)


@pytest.fixture
def hashing(monkeypatch):
    from fake_world import HashPipeline

    monkeypatch.setattr(registry, "pipeline_factory", lambda name: HashPipeline)


def same_as_computed(folder, split):
    """The stored outcomes are those that the stored predictions give."""
    found = read_outcomes(folder)
    fresh = outcomes(split.scenes, stored_rows(folder).values(), protocol("iou"))
    assert found.ids == tuple(e.id for e in fresh.expressions)
    assert found.hit.tolist() == fresh.hit.tolist()
    assert found.iou.tolist() == [round(v, 6) for v in fresh.iou.tolist()]
    assert found.image.tolist() == fresh.image.tolist()
    assert found.scenes == tuple(scene.id for scene in split.scenes)
    labels = [strata(e, scene) for scene in split.scenes for e in scene.expressions]
    assert found.strata == {cut: tuple(each.get(cut) for each in labels) for cut in found.strata}
    return found


def test_a_run_keeps_its_outcomes(tmp_path, hashing):
    split = make_split()
    done = evaluate("hash", split, make_settings(tmp_path, None, batch_size=2))
    found = same_as_computed(done.folder, split)
    assert done.record is not None and done.record.metrics is not None
    assert (len(found.ids), int(found.hit.sum())) == (done.record.metrics.n, done.record.metrics.hits)
    assert {"length", "spatial words", "people"} <= set(found.strata)


def test_images_read_later_change_the_outcomes(tmp_path, hashing):
    split = make_split()
    broken = evaluate("hash", make_split(source=MemoryImages(bad={"3.png"})), make_settings(tmp_path, None))
    before = same_as_computed(broken.folder, split)
    mended = evaluate("hash", split, make_settings(tmp_path, None))
    assert mended.folder == broken.folder
    after = same_as_computed(mended.folder, split)
    assert before.iou.tolist() != after.iou.tolist()


def test_imported_boxes_keep_theirs(tmp_path):
    split = make_split()
    boxes = {e.id: list(e.box) for scene in split.scenes for e in scene.expressions if e.id[-1] in "02468"}
    (tmp_path / "theirs.json").write_text(json.dumps(boxes))
    record, folder = import_boxes(tmp_path / "theirs.json", split, tmp_path / "results")
    assert record.metrics is not None
    assert int(same_as_computed(folder, split).hit.sum()) == record.metrics.hits > 0
