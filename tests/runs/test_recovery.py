"""Damage inside a file, and a folder that goes away: the same command goes on, or ends at once."""

import json
import shutil
import time

import pytest
from fake_world import HashPipeline, MemoryImages, make_settings, make_split

from bench import registry
from bench.errors import RunError
from bench.evaluation.loop import evaluate
from bench.runs.packed import stored_bytes
from bench.runs.predictions import read_lines
from bench.runs.record import read_record
from bench.runs.store import DAMAGED, write_continued

LINE = json.dumps({"scene": "s0", "predictions": [{"id": "0", "box": [0, 0, 1, 1], "score": 0.5}]}) + "\n"


@pytest.fixture
def at_batch(monkeypatch):
    """Does something in the pipeline's batch of that number."""
    todo = {}

    class Acting(HashPipeline):
        def ground(self, batch):
            if (act := todo.get(len(self.batches))) is not None:
                act()
            return super().ground(batch)

    monkeypatch.setattr(registry, "pipeline_factory", lambda name: Acting)
    return todo


def run(results, images=12, source=None):
    return evaluate("hash", make_split(images, source), make_settings(results, batch_size=2, rank_timeout_s=600))


def stop():
    raise KeyboardInterrupt


def hole(lines):
    """Two lines run together, as after a lost block."""
    return [lines[0][:20] + lines[1], *lines[2:]]


@pytest.mark.parametrize("damage", [
    lambda lines: [lines[0], bytes(512) + b"\n", *lines[2:]],
    lambda lines: [bytes(100) + lines[0], *lines[1:]],
    lambda lines: [lines[0].replace(b'"box":[', b'"box":["1",'), *lines[1:]],
    lambda lines: [b"\xff\n", b"[]\n", b"[" * 100_000 + b"\n", *lines[2:]],
    hole,
], ids=["NULs", "NULs before a line", "a text for a number", "bytes", "a hole"])  # fmt: skip
def test_damaged_lines_are_set_aside_and_their_images_grounded_again(tmp_path, at_batch, caplog, damage):
    whole = run(tmp_path / "a")
    at_batch[3] = stop
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b")
    at_batch.clear()
    (path,) = tmp_path.glob("b/runs/*/*/*/predictions.jsonl")
    good = path.read_bytes().splitlines(keepends=True)
    damaged = damage(good)
    path.write_bytes(b"".join(damaged))
    bad = [line for line in damaged if line not in good]
    source = MemoryImages()
    done = run(tmp_path / "b", source=source)
    assert done.folder == path.parent and (path.parent / DAMAGED).read_bytes() == b"".join(bad)
    assert len(source.loaded) == 12 - len([line for line in damaged if line in good])
    for stem in ("predictions", "outcomes"):
        assert stored_bytes(done.folder, stem) == stored_bytes(whole.folder, stem)
    assert DAMAGED in caplog.text and any(DAMAGED in note for note in done.record.notes)


def test_a_finished_run_of_an_older_version_goes_on_where_a_line_is_damaged_or_cut(tmp_path, at_batch):
    whole = run(tmp_path)
    wanted = stored_bytes(whole.folder, "predictions")
    for change in (lambda text: text.replace(b'"scene":"s3"', b'"scene":\x00s3"'), lambda text: text[: len(text) // 2]):
        write_continued(whole.folder, read_record(whole.folder), read_record(whole.folder))
        path = whole.folder / "predictions.jsonl"
        path.write_bytes(change(path.read_bytes()))
        again = run(tmp_path)
        assert (again.folder, again.already_done) == (whole.folder, False)
        assert stored_bytes(again.folder, "predictions") == wanted and run(tmp_path).already_done


def test_a_row_without_an_answer_to_every_expression_is_no_answer(tmp_path, at_batch):
    whole = run(tmp_path)
    write_continued(whole.folder, read_record(whole.folder), read_record(whole.folder))
    path = whole.folder / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["predictions"].pop()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = MemoryImages()
    again = run(tmp_path, source=source)
    assert source.loaded == ["s3"] and again.record.metrics == whole.record.metrics


def test_packed_predictions_that_are_gone_are_made_again(tmp_path, at_batch):
    whole = run(tmp_path)
    (whole.folder / "predictions.packed").unlink()
    again = run(tmp_path)
    assert again.folder == whole.folder and again.record.metrics == whole.record.metrics


def test_a_line_of_a_later_version_is_not_damaged(tmp_path, at_batch):
    at_batch[3] = stop
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    (path,) = tmp_path.glob("runs/*/*/*/predictions.jsonl")
    text = path.read_text().replace("{", '{"schema":3,', 1)
    path.write_text(text)
    with pytest.raises(RunError, match=r"line 1: not a row of predictions \(schema 3"):
        run(tmp_path)
    assert path.read_text() == text


@pytest.mark.parametrize("away", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("elsewhere"))])
def test_a_folder_that_goes_away_ends_the_run_at_once(tmp_path, at_batch, away):
    at_batch[2] = lambda: [away(path.parent) for path in tmp_path.glob("runs/*/*/*/run.json")]
    since = time.monotonic()
    with pytest.raises(RunError, match=r"moved or deleted meanwhile; start the same command again"):
        run(tmp_path)
    assert time.monotonic() - since < 20


def test_predictions_that_go_away_at_the_end_are_noticed_at_once(tmp_path, at_batch, monkeypatch):
    from bench.runs import store

    gather = store.Run.gather

    def gone(self, timeout_s):
        (self.folder / "predictions.jsonl").unlink()
        return gather(self, timeout_s)

    monkeypatch.setattr(store.Run, "gather", gone)
    since = time.monotonic()
    with pytest.raises(RunError, match="predictions of 12 images are gone since they were stored"):
        run(tmp_path)
    assert time.monotonic() - since < 20


@pytest.mark.parametrize("change", [
    ("[0, 0, 1, 1]", '["0", "0", "1", "1"]'),
    ("[0, 0, 1, 1]", f"[0, 0, 1, 1{'0' * 400}]"),
    ("[0, 0, 1, 1]", "[0, 0, 1, Infinity]"),
    ("[0, 0, 1, 1]", "[0, 0, 1, NaN]"),
    ("[0, 0, 1, 1]", "[0, 0, 1]"),
    ("[0, 0, 1, 1]", '"0011"'),
    ('{"scene": "s0",', '{"scene": "s0", "size": [1e999, 1],'),
    ('{"scene": "s0",', '{"scene": "s0", "proposals": ["abcd"],'),
    ('"s0"', "7"),
    ('"id": "0"', '"id": []'),
    (LINE.strip(), "[1]"),
    (LINE.strip(), "[" * 100_000),
])  # fmt: skip
def test_what_is_no_row_is_refused_with_its_place(tmp_path, change):
    path = tmp_path / "predictions.jsonl"
    path.write_text(LINE)
    assert [row.scene for row in read_lines(path)] == ["s0"]
    path.write_text(LINE + LINE.replace(*change))
    with pytest.raises(RunError, match=r"predictions\.jsonl, line 2: not a row of predictions"):
        list(read_lines(path))
