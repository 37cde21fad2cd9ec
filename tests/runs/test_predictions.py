"""Stored predictions: notes, one box or several with masks, and the lines of both schemas."""

import io
import json
import math

import numpy as np
import pytest
from fake_world import HashPipeline, make_settings, make_split

from bench import registry
from bench.attention import AttentionMap
from bench.errors import RunError
from bench.evaluation.loop import evaluate
from bench.evaluation.rescored import rescore
from bench.grounding import Prediction, ScoredBox
from bench.masks import encode
from bench.runs.answers import answers_of, dump_answers
from bench.runs.packed import stored_bytes
from bench.runs.predictions import (
    SceneAnswers,
    count_notes,
    dump_line,
    from_predictions,
    parse_lines,
    parse_row,
    read_lines,
    rounded_boxes,
)

MASK = dict(encode(np.arange(24 * 32).reshape(24, 32) < 40))
BOX, FAR = (1.0, 2.0, 9.0, 8.0), (20.0, 10.0, 30.0, 20.0)


def test_notes_of_answers_are_counted():
    def row(scene, *notes):
        box = (0, 0, 1, 1)
        return SceneAnswers(scene, tuple(Prediction(str(i), box, note=note) for i, note in enumerate(notes)))

    rows = [row("a", "text cut from 95 to 77 tokens", ""), row("b", "text cut from 80 to 77 tokens; alone")]
    assert count_notes(rows) == ["2 answers: text cut from 95 to 77 tokens", "1 answer: alone"]
    assert count_notes([row("a", "")]) == []


def test_a_single_box_is_the_line_it_always_was(tmp_path):
    line = (
        '{"scene":"s","proposals":null,"error":null,"predictions":[{"id":"0","box":[1.0,2.0,9.0,8.0],"score":0.5}]}\n'
    )
    (tmp_path / "old.jsonl").write_text(line)
    (row,) = read_lines(tmp_path / "old.jsonl")
    assert row == SceneAnswers("s", (Prediction("0", BOX, 0.5),)) and dump_line(row) == line
    assert row.answers[0].boxes == (ScoredBox(BOX, 0.5),) and Prediction("0", None).boxes == ()


def test_several_boxes_and_masks_are_read_back(tmp_path):
    given = Prediction(
        "0", BOX, 0.5, mask={"size": (24, 32), "counts": MASK["counts"].encode()},
        others=(ScoredBox(FAR), ScoredBox((1, 1, float("nan"), 2))),
    )  # fmt: skip
    row = from_predictions("s", [given, Prediction("1", None, others=(ScoredBox(FAR, 0.25, MASK),))])
    (tmp_path / "new.jsonl").write_text(dump_line(row))
    assert list(read_lines(tmp_path / "new.jsonl")) == [row]
    assert json.loads(dump_line(row))["schema"] == 2
    assert row.answers[0].boxes == (ScoredBox(BOX, 0.5, MASK), ScoredBox(FAR))  # no box for one with a NaN
    (tmp_path / "new.jsonl").write_text(dump_line(row).replace('"schema":2', '"schema":3'))
    with pytest.raises(RunError, match=r"line 1.*schema 3, and this version reads up to 2"):
        list(read_lines(tmp_path / "new.jsonl"))


def plainly_rounded(box):
    if box is None or not all(math.isfinite(v) for v in box):
        return None
    return tuple(round(float(v), 6) for v in box)


def many_boxes(dtype):
    rng = np.random.default_rng(0)
    values = rng.uniform(-50, 700, (4000, 4)).astype(dtype)
    values[:400] = (rng.integers(0, 2**22, (400, 4)) / 2**13).astype(dtype)  # many end in a half of the last decimal
    values[400:800] = ((rng.integers(0, 10**8, (400, 4)) + 0.5) / 1e6).astype(dtype)  # nearly all do
    values[800:806, 0] = (np.nan, np.inf, -np.inf, 1e300 if dtype is np.float64 else 1e30, -1e-7, -0.0)
    values[806] = 1e12
    return values


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_boxes_rounded_at_once_are_those_rounded_one_by_one(dtype):
    values = many_boxes(dtype)
    given = [None, *map(tuple, values.tolist()), None]
    expected = list(map(plainly_rounded, given))
    for boxes, want in ((given, expected), (values, expected[1:-1])):
        rounded = list(rounded_boxes(boxes))
        assert repr(rounded) == repr(want)  # -0.0 is not 0.0 in a file
    assert list(rounded_boxes([])) == [] and list(rounded_boxes(np.empty((0, 4)))) == []


def test_a_box_that_is_not_four_numbers_raises_when_its_turn_comes():
    boxes = rounded_boxes([BOX, (1, 2, 3), FAR])
    assert next(boxes) == BOX
    with pytest.raises(ValueError, match="unpack"):
        next(boxes)


def plain_line(row):
    """Write a line as json.dumps does."""
    predictions = []
    for p in row.answers:
        others = [{"box": o.box, "score": o.score} | ({"mask": o.mask} if o.mask else {}) for o in p.others]
        extra = {"note": p.note, "mask": p.mask, "others": others}
        predictions.append({"id": p.id, "box": p.box, "score": p.score} | {k: v for k, v in extra.items() if v})
    line = {"schema": 2} if any(p.others or p.mask for p in row.answers) else {}
    line |= {"scene": row.scene} | ({} if row.size is None else {"size": row.size})
    line |= {"proposals": row.proposals, "error": row.error, "predictions": predictions}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"


def test_stored_lines_are_those_of_json():
    boxes, proposals = many_boxes(np.float32)[::40], many_boxes(np.float32)[790:811]
    predictions = [
        Prediction(f'é"{i}\\', box, [None, np.float32(0.1), 1][i % 3], proposals, note=["", "cut\n", '"'][i % 3])
        for i, box in enumerate(boxes)
    ]
    row = from_predictions("s", predictions, (640, 480))
    assert row.proposals == tuple(b for b in map(plainly_rounded, proposals) if b)
    assert [p.box for p in row.answers] == list(map(plainly_rounded, boxes))
    several = from_predictions("t", [Prediction("0", BOX, mask=MASK, others=(ScoredBox(FAR, 0.25, MASK),))])
    for each in (row, several, SceneAnswers("u", (), error="u.jpg: no such file")):
        assert dump_line(each) == plain_line(each)


class Three(HashPipeline):
    """The best box of HashPipeline with a mask, and two further ones."""

    stop_after = 99

    def ground(self, batch):
        if len(self.batches) == type(self).stop_after:
            raise KeyboardInterrupt
        others = (ScoredBox(BOX, 0.1, MASK), ScoredBox(FAR))
        return [Prediction(p.id, p.box, p.score, p.proposals, mask=MASK, others=others) for p in super().ground(batch)]


@pytest.mark.slow
def test_a_pipeline_with_three_boxes_and_a_mask_is_stored_resumed_and_scored_by_its_first(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: HashPipeline)
    one = evaluate("hash", make_split(), make_settings(tmp_path / "one", batch_size=2))
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: Three)
    whole = evaluate("hash", make_split(), make_settings(tmp_path / "whole", batch_size=2))
    monkeypatch.setattr(Three, "stop_after", 4)
    with pytest.raises(KeyboardInterrupt):
        evaluate("hash", make_split(), make_settings(tmp_path / "half", batch_size=2))
    monkeypatch.setattr(Three, "stop_after", 99)
    resumed = evaluate("hash", make_split(), make_settings(tmp_path / "half", batch_size=2))
    stored = stored_bytes(whole.folder, "predictions")
    assert resumed.record.sessions == 2 and stored_bytes(resumed.folder, "predictions") == stored
    assert all(
        len(p.others) == 2 and p.mask == MASK
        for row in parse_lines(io.BytesIO(stored), whole.folder, parse_row)
        for p in row.answers
    )
    assert whole.record.metrics == one.record.metrics and whole.record.signature.endswith("|v1")
    monkeypatch.setattr("bench.evaluation.rescored.load_split", lambda name, resolved: make_split())
    assert rescore(whole.folder, make_settings(tmp_path)).metrics == one.record.metrics


def test_a_rejection_and_further_boxes_are_kept_and_no_other_line_changes(tmp_path):
    others = (ScoredBox((1.0, 2.0, 3.0, 4.0), 0.5), ScoredBox((5.0, 6.0, 7.0, 8.0), None))
    several = Prediction("0", (0, 0, 9, 9), 0.75, others=others, answer="two of them", usage=(1, 2, 0.0))
    row = from_predictions("s", [several, Prediction("1", None, none=1), Prediction("2", None)])
    line = dump_line(row)
    assert json.loads(line)["schema"] == 2 and [p.get("none") for p in json.loads(line)["predictions"]] == [
        None,
        1,
        None,
    ]
    assert row.answers[0].answer == "two of them" and row.answers[0].usage == (1, 2, 0.0)
    path = tmp_path / "kept.jsonl"
    path.write_text(line)
    assert list(read_lines(path)) == [row]
    columns = answers_of([row])
    assert columns.none == {1: 1.0} and columns.others == {0: others}
    (again,) = dump_answers(columns, {})
    path.write_text(again)
    (back,) = read_lines(path)
    assert [(p.boxes, p.none) for p in back.answers] == [(p.boxes, p.none) for p in row.answers]
    assert "schema" not in dump_line(from_predictions("s", [Prediction("2", None)]))
    for bad in ("true", '"x"', "NaN"):
        path.write_text(line.replace('"none":1.0', f'"none":{bad}'))
        with pytest.raises(RunError, match="line 1: not a row of predictions"):
            list(read_lines(path))
    with pytest.raises(ValueError, match="which is no score"):
        from_predictions("s", [Prediction("0", None, none=math.nan)])


def test_an_attention_map_is_kept(tmp_path):
    row = from_predictions("s", [Prediction("0", (0, 0, 9, 9), attention=AttentionMap(1, 2, "A/"))])
    line = dump_line(row)
    assert json.loads(line)["schema"] == 2
    (tmp_path / "kept.jsonl").write_text(line)
    assert list(read_lines(tmp_path / "kept.jsonl")) == [row]
    (tmp_path / "kept.jsonl").write_text(line.replace("A/", "A"))
    with pytest.raises(RunError, match=r"line 1: not a row of predictions.*1 x 2 cells"):
        list(read_lines(tmp_path / "kept.jsonl"))


@pytest.mark.parametrize("mask", ["x", 7, [], {}, {"size": [1, 2]}, {"size": [3, 3], "counts": "~"}])
def test_a_stored_mask_that_is_none_is_named(tmp_path, mask):
    line = {"schema": 2, "scene": "s", "predictions": [{"id": "0", "box": None, "mask": mask}]}
    (tmp_path / "p.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(RunError, match=r"p\.jsonl, line 1: not a row of predictions \(a mask is not in COCO's"):
        list(read_lines(tmp_path / "p.jsonl"))


def test_a_chat_models_answer_and_its_tokens_are_kept_and_counted():
    given = [Prediction("0", BOX, answer="[1, 2] \ud800", usage=(900, 20, 0.5)), Prediction("1", None)]
    row = from_predictions("s", given)
    line = dump_line(row)
    assert parse_row(json.loads(line)) == row and '"schema"' not in line
    assert row.answers[0].answer == "[1, 2] ?" and row.answers[0].usage == (900, 20, 0.5)
    assert count_notes([row, row]) == ["2 answers: 1,800 tokens in, 40 tokens out, cost 1.0000"]
    for wrong in ([1, 2], [1, 2, "x"], "abc"):
        plain = json.loads(line)
        plain["predictions"][0]["usage"] = wrong
        with pytest.raises((ValueError, TypeError)):
            parse_row(plain)
