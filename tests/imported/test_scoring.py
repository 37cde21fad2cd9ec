"""Imported predictions become runs: whole, repeatable, and with the published numbers where the real files are."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bench.datasets.split import Split
from bench.errors import BenchError, DataError, RunError, UnknownName, UsageError
from bench.evaluation.metrics import compute, summary
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import protocol
from bench.grounding import Expression, Scene
from bench.imported import scoring as module
from bench.imported.alignment import align
from bench.imported.box_files import read_boxes
from bench.imported.scoring import import_boxes
from bench.masks import encode
from bench.reporting.boards import collect
from bench.reporting.leaderboard import render
from bench.reporting.marks import marks
from bench.reporting.paper_table import paper_table
from bench.reporting.terminal import remarks
from bench.runs.answers import dump_answers
from bench.runs.record import read_record
from bench.runs.store import stored_rows
from bench.settings import EvaluationSettings

BOX = (0.0, 0.0, 40.0, 40.0)


def split(images=6):
    scenes = tuple(
        Scene(f"p{n}", f"p{n}.jpg", 100, 100, tuple(Expression(f"{2 * n + k}", "the man", BOX) for k in range(2)))
        for n in range(images)
    )
    return Split("mine-val", "Mine", scenes, SimpleNamespace())


def boxes(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def file(tmp_path):
    rows = {str(n): [0, 0, 40, 40 if n % 3 else 10] for n in range(11)} | {"99": None}
    return boxes(tmp_path / "theirs.json", rows)


@pytest.mark.slow
def test_a_full_record(tmp_path, file):
    record, folder = import_boxes(file, split(), tmp_path / "results", name="Their model / v2")
    assert folder.parent == tmp_path / "results" / "runs" / "Their-model-v2" / "mine-val"
    assert read_record(folder) == record
    assert (record.provenance, record.name, record.status) == ("imported", "Their model / v2", "complete")
    assert record.signature == f"acc@0.5|iou>=0.5|mine-val|n:12|data:{split().fingerprint[:8]}|top1|v1"
    assert (record.metrics.n, record.metrics.hits, record.metrics.no_box) == (12, 7, 1)
    imported = record.imported
    assert (imported.missing, imported.extra, imported.other_image, imported.duplicates) == (1, 1, 0, 0)
    assert imported.examples == {"missing": ("11",), "extra": ("99",), "other_image": ()}
    assert imported.sha256 == record.identity.weights["predictions"]
    again = outcomes(split().scenes, stored_rows(folder).values(), protocol("iou"), partial=True)
    assert summary(again, EvaluationSettings()) == record.metrics
    for name in ("../../out", "/etc/x", "..", "模型"):  # a name cannot leave the results
        assert folder.parents[2] in import_boxes(file, split(), tmp_path / "results", name=name)[1].resolve().parents


@pytest.mark.slow
def test_the_same_boxes_land_in_the_same_folder(tmp_path, file):
    record, folder = import_boxes(file, split(), tmp_path)
    assert record.name == "theirs"
    again, same = import_boxes(file, split(), tmp_path)
    assert (same, again.metrics) == (folder, record.metrics)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]  # nothing left beside it
    _, strict = import_boxes(file, split(), tmp_path, protocol="strict")
    boxes(file, {str(n): [0, 0, 30, 30] for n in range(12)})
    _, other = import_boxes(file, split(), tmp_path)
    assert len({folder, strict, other}) == 3


def test_a_failure_leaves_nothing(tmp_path, file, monkeypatch):
    results = tmp_path / "results"

    def full(folder, record):
        raise RunError("disk full")

    monkeypatch.setattr(module, "write_packed", full)
    with pytest.raises(RunError, match="disk full"):
        import_boxes(file, split(), results)
    assert not [p for p in results.rglob("*") if p.is_file()]
    monkeypatch.undo()
    (tmp_path / "a file").write_text("")
    with pytest.raises(BenchError, match="a file"):
        import_boxes(file, split(), tmp_path / "a file")


def test_nothing_is_written_when_it_cannot_be_aligned(tmp_path):
    strange = boxes(tmp_path / "strange.json", {"x": [0, 0, 1, 1]})
    with pytest.raises(DataError, match="0 of 1 keys"):
        import_boxes(strange, split(), tmp_path / "results")
    with pytest.raises(UnknownName):
        import_boxes(strange, split(), tmp_path / "results", protocol="gious")
    assert not (tmp_path / "results").exists()


def test_a_file_that_lacks_rows_is_a_partial_run(tmp_path, file):
    some = boxes(tmp_path / "some.json", {"3": [0, 0, 40, 40], "4": None})
    with pytest.raises(DataError, match=r"rows for 2 of the 12 expressions of mine-val.*'0'.*null.*--partial"):
        import_boxes(some, split(), tmp_path / "results")
    assert not (tmp_path / "results").exists()
    record, folder = import_boxes(some, split(), tmp_path / "results", partial=True)
    assert (record.metrics.n, record.metrics.hits, record.imported.missing) == (12, 1, 10)
    assert record.identity.data.partial and "|n:12,partial|" in record.signature
    board = collect(tmp_path / "results")
    part = "rows for 2 of 12 expressions of mine-val only"
    assert board.boards == () and [reason for _, reason in board.left_out] == [f"partial: {part}"]
    assert f"some: partial: {part}, so in no leaderboard" in remarks([("some", record)])
    whole, other = import_boxes(file, split(), tmp_path / "results", partial=True)  # one row is missing here, too
    assert whole.identity.data.partial and folder != other
    rows = boxes(tmp_path / "all.json", {str(n): [0, 0, 40, 40] for n in range(12)})
    assert not import_boxes(rows, split(), tmp_path / "results", partial=True)[0].identity.data.partial


def test_examples_say_what_they_are(tmp_path, file):
    texts = remarks([("A", import_boxes(file, split(), tmp_path / "results")[0])])
    assert "A: expressions without a row, counted as misses: 1 (row 11)" in texts
    assert "A: rows about no expression of the split: 1 (id 99)" in texts


@pytest.fixture(scope="module")
def refcoco_val(real):
    from bench.datasets.readers.index_lists import read_index_list

    scenes = tuple(read_index_list(real / "index" / "unc_val.pth", "refcoco"))
    return Split("refcoco-val", "RefCOCO val", scenes, SimpleNamespace())


@pytest.mark.slow
@pytest.mark.parametrize(("model", "hits"), [("bert", 8634), ("lstm", 8505)])
def test_published_boxes_give_the_known_number(real, tmp_path, refcoco_val, model, hits):
    file = real / "predictions" / f"lbyl_{model}_unc_val.json"
    record, _ = import_boxes(file, refcoco_val, tmp_path, name=f"LBYL-Net {model}")
    assert (record.metrics.n, record.metrics.hits, record.metrics.no_box) == (10834, hits, 1)
    imported = record.imported
    assert (imported.missing, imported.extra, imported.other_image) == (1, 0, 0)
    assert imported.examples["missing"] == ("10833",) and record.metrics.accuracy == hits / 10834
    assert record.metrics.ci95[0] < record.metrics.accuracy < record.metrics.ci95[1]


@pytest.mark.slow
def test_published_boxes_in_the_wrong_format_are_refused(real, tmp_path, refcoco_val):
    """The lists have no sizes of images: some box of 1,500 images ends at 640, the longest side."""
    file = real / "predictions" / "lbyl_bert_unc_val.json"
    with pytest.raises(DataError, match=r"4,981 of 10,833 boxes \(46\.0 %\).*as 'pixels': leave --xywh out"):
        import_boxes(file, refcoco_val, tmp_path / "results", xywh=True)
    theirs = {key: entry["pred_bbox"] for key, entry in json.loads(file.read_text()).items()}
    sides = {key: [x1, y1, x2 - x1, y2 - y1] for key, (x1, y1, x2, y2) in theirs.items()}
    with pytest.raises(DataError, match=r"6,111 of 10,833 boxes.*: 6,111 inverted.*pass --xywh"):
        import_boxes(boxes(tmp_path / "sides.json", sides), refcoco_val, tmp_path / "results")
    thousandths = {key: [v / 0.64 for v in box] for key, box in theirs.items()}
    with pytest.raises(DataError, match=r"6,1\d\d outside the image.*as '0-1000'"):
        import_boxes(boxes(tmp_path / "thousandths.json", thousandths), refcoco_val, tmp_path / "results")
    one = boxes(tmp_path / "one.json", {"0": theirs["0"]})
    with pytest.raises(DataError, match=r"rows for 1 of the 10,834 expressions.*'1'.*--partial"):
        import_boxes(one, refcoco_val, tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("model", "no_box"), [("qwen25vl", 45), ("internvl", 27), ("dino", 412)])
def test_real_answers_of_chat_models_pass(real, tmp_path, model, no_box):
    from bench.datasets.readers.jsonl import read_jsonl

    folder = real / "predictions" / "rec_eval"
    data = Split("file:testA", "", tuple(read_jsonl(folder / "refcoco-testA.jsonl")), SimpleNamespace())
    record, _ = import_boxes(folder / f"{model}.jsonl", data, tmp_path)
    assert (record.metrics.n, record.metrics.no_box) == (1975, no_box)


@pytest.mark.slow
def test_why_the_authors_say_79_72(real, refcoco_val):
    """Their 8,637 hits are against a ground truth cut to integers, and two of them are pairs of boxes that do not meet:
    their IoU multiplies two negative sides of an empty intersection (one of these "IoUs" is 13.9)."""
    path = real / "predictions" / "lbyl_bert_unc_val.json"
    theirs = {key: entry["iou"] for key, entry in json.loads(path.read_text()).items()}
    sized = tuple(replace(scene, width=640, height=640) for scene in refcoco_val.scenes)  # no box leaves that square
    answers = align(read_boxes(path), refcoco_val).answers
    ours = outcomes(sized, answers, protocol("letterbox-clamped"), partial=True)
    assert sum(iou >= 0.5 for iou in theirs.values()) == 8637 and int(ours.hit.sum()) == 8635
    differ = [n for n, e in enumerate(ours.expressions) if ours.hit[n] != (theirs.get(e.id, 0) >= 0.5)]
    assert [ours.expressions[n].id for n in differ] == ["6908", "7558"]
    assert [ours.iou[n] for n in differ] == [0, 0]


def left_part(width, height=100):
    return encode((np.arange(100) < height)[:, None] & (np.arange(100) < width))


def masked_split(left=10):
    """Each expression means the left part of its image."""
    data = split()
    scenes = [
        replace(s, expressions=tuple(replace(e, mask=left_part(left)) for e in s.expressions)) for s in data.scenes
    ]
    return replace(data, scenes=tuple(scenes))


def test_masks_are_imported_scored_and_stored(tmp_path):
    rows = [{"id": str(n), "mask": left_part(10, 100 if n % 2 else 50)} for n in range(11)]
    rows.append({"id": "11", "box": [0, 0, 40, 40], "segmentation": None})
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record, folder = import_boxes(tmp_path / "m.jsonl", masked_split(), tmp_path / "results")
    masks = record.metrics.masks
    assert (masks.n, masks.no_mask) == (12, 1)
    assert masks.ciou.value == (5 * 1000 + 6 * 500) / 12_000 and masks.miou.value == pytest.approx((5 + 6 / 2) / 12)
    assert masks.precision["0.5"].value == 11 / 12 and masks.precision["0.6"].value == 5 / 12
    # A box where none was given is the one around the mask; what is stored gives the same numbers.
    answers = {a.id: a for row in stored_rows(folder).values() for a in row.answers}
    assert answers["0"].box == (0, 0, 10, 50) and answers["0"].mask == left_part(10, 50) and answers["11"].mask is None
    assert compute(masked_split(), stored_rows(folder).values()) == record.metrics
    # Boxes alone are stored as before.
    alone = align(read_boxes(boxes(tmp_path / "b.json", {"0": [0, 0, 4, 4]})), split())
    plain = json.loads(next(dump_answers(alone.answers, {})))
    assert "schema" not in plain and plain["predictions"] == [{"id": "0", "box": [0.0, 0.0, 4.0, 4.0], "score": None}]


@pytest.mark.parametrize(("mask", "says"), [
    (["x"], r"entry 0 \(id '0'\): its mask is"),
    ({"size": [3, 4], "counts": "~"}, r"entry 0 \(id '0'\): a mask's counts"),
])  # fmt: skip
def test_a_bad_mask_is_named(tmp_path, mask, says):
    with pytest.raises(DataError, match=says):
        read_boxes(boxes(tmp_path / "bad.json", [{"id": "0", "mask": mask}]))


def test_a_table_never_mixes_ground_truth_masks(tmp_path, monkeypatch):
    monkeypatch.setattr(module.provenance, "git_state", lambda: {"commit": "1" * 40, "dirty": False})
    file = boxes(tmp_path / "m.json", {str(n): {"mask": left_part(10 + n % 2)} for n in range(12)})
    for name, left in (("a", 10), ("b", 10), ("c", 20)):
        import_boxes(file, masked_split(left), tmp_path / "results", name=name)
    bare = boxes(tmp_path / "b.json", {str(n): [0, 0, 40, 40] for n in range(12)})
    import_boxes(bare, split(), tmp_path / "results", name="d")
    leaders = collect(tmp_path / "results")
    assert {r["pipeline"]: ("masks" in r, marks(r)[-1][1]) for r in leaders.boards[0].rows} == {
        "a": (True, "test images unknown"), "b": (True, "test images unknown"), "c": (False, "other masks"),
        "d": (False, "test images unknown"),
    }  # fmt: skip
    # The table of papers has a row for each that was scored by them.
    table = paper_table(tmp_path / "results", ["mine-val"], metric="mask_miou")
    assert [row.name for row in table.ours] == ["a", "b"]
    assert table.notes == ("left out: 1 run scored by other ground-truth masks",)
    wanted = pytest.approx(100 * (0.5 + 0.5 * 10 / 11))
    assert all(row.values["mine-val"] == wanted for row in table.ours)
    with pytest.raises(UsageError, match="--metric ciou: runs keep the outcome of each box"):
        paper_table(tmp_path / "results", ["mine-val"], "a", "ciou")
    files = render(leaders)
    assert b"cIoU" in files["LEADERBOARD.md"] and b"ciou_value" in files["LEADERBOARD.csv"].splitlines()[0]
