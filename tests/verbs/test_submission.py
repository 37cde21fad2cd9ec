"""Somebody else's run: taken when all of it holds, refused with every reason, and nothing of it left behind."""

import json
import os
import shutil
from pathlib import Path

import pytest

from bench.datasets.load import load_split
from bench.errors import CheckFailed, UnknownName, UsageError
from bench.evaluation.rescored import rescore
from bench.imported.scoring import import_boxes
from bench.reporting import leaderboard
from bench.reporting.boards import SUBMISSION, collect
from bench.runs.record import read_record
from bench.settings import load_settings
from bench.verbs import submitted_files
from bench.verbs.submission import submit

SIZE = {"width": 100, "height": 80}
SPLIT = "file:mine"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A split of 6 pictures with 12 expressions, as a file, and nothing else."""
    monkeypatch.chdir(tmp_path)
    lines = [
        {"image": f"p{n % 6}.jpg", "text": "man on the left", "box_xyxy": [0, 0, 40, 40], "id": f"e{n}", **SIZE}
        for n in range(12)
    ]
    Path("mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.fixture
def theirs(world):
    """theirs(hits, **changes): a run made elsewhere; words change its run.json, dotted as `metrics__hits`."""

    def make(hits=7, called="theirs", **changes):
        boxes = {f"e{n}": [0, 0, 40, 40 if n < hits else 10] for n in range(12)}
        Path("boxes.json").write_text(json.dumps(boxes))
        split = load_split("file:mine.jsonl", load_settings())
        _, folder = import_boxes(Path("boxes.json"), split, world / "elsewhere", name=called)
        record = json.loads((folder / "run.json").read_text())
        record["git"] = {"commit": "0123456789abcdef", "dirty": False}
        for dotted, value in changes.items():
            *path, last = dotted.split("__")
            table = record
            for key in path:
                table = table[key]
            table[last] = value
        (folder / "run.json").write_text(json.dumps(record))
        return folder

    return make


def take(folder):
    return submit(folder, Path("results"), load_settings(), "file:mine.jsonl")


def refused(folder, *reasons):
    """It is refused with all of these reasons, and nothing is left behind."""
    with pytest.raises(CheckFailed) as error:
        take(folder)
    said = str(error.value)
    assert all(reason in said for reason in reasons), said
    assert not [path for path in Path("results").rglob("*") if path.name != "runs"]
    return said


def rewritten(folder, change):
    """predictions.jsonl with its rows changed."""
    path = folder / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in change(rows) or rows))
    return folder


def test_a_sound_run_is_taken(theirs):
    folder = theirs(7)
    for extra in ("malware.sh", "outcomes.jsonl", "batches.jsonl", "speed-20260101-000000-abc.json"):
        (folder / extra).write_text("something else")
    (folder / "deeper").mkdir()
    taken = take(folder)
    assert taken.parent == Path("results/runs/theirs/file-mine")
    assert sorted(path.name for path in taken.iterdir()) == sorted(
        ["run.json", "predictions.jsonl", "outcomes.jsonl", SUBMISSION]
    )
    assert read_record(taken) == read_record(folder)  # the signature with it
    assert (taken / "outcomes.jsonl").read_text().startswith('{"scene":')
    said = json.loads((taken / SUBMISSION).read_text())
    assert said["from"] == folder.name and said["rescored"]["hits"] == 7
    assert set(said["sha256"]) == {"run.json", "predictions.jsonl"}
    again = rescore(taken, load_settings(), split="file:mine.jsonl")
    assert again.metrics == read_record(taken).metrics
    (row,) = collect(Path("results")).boards[0].rows
    assert row["rank"] == [1, 1] and row["submitted"] == said["accepted"][:10]
    leaderboard.write(Path("results"))
    leaderboard.check(Path("results"))
    assert not list(Path("results").rglob(".*"))


def test_only_our_own_keys_are_kept(theirs):
    def spoil(rows):
        for row in rows:
            row["note_to_self"] = "x" * 100
            row["predictions"][0]["secret"] = 1

    taken = take(rewritten(theirs(), spoil))
    assert "secret" not in (taken / "predictions.jsonl").read_text()
    assert "note_to_self" not in (taken / "predictions.jsonl").read_text()


def test_once_is_enough(theirs):
    folder = theirs(7)
    taken = take(folder)
    before = {path: path.read_bytes() for path in taken.iterdir()}
    with pytest.raises(CheckFailed, match="it is here already"):
        take(folder)
    assert {path: path.read_bytes() for path in taken.iterdir()} == before
    with pytest.raises(UsageError, match="already; --submit takes in runs from elsewhere"):
        take(taken)
    assert take(theirs(8)) != taken


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "running"}, "not finished"),
        ({"metrics": None}, "not finished"),
        ({"git__dirty": True}, "dirty: made by code that is in no commit"),
        ({"git__commit": "<script>"}, "git.commit: expected a commit's id"),
        (
            {"signature": "acc@0.5|iou>=0.5|other-val|n:12|data:1a2b3c4d|top1|v1"},
            "but its parts make 'acc@0.5|iou>=0.5",
        ),
        ({"protocol": "generous"}, "no protocol is called 'generous'"),
        ({"identity__data__partial": True}, "partial: 6 pictures only"),
        ({"name": "a\nb"}, "name: expected"),
        ({"name": ""}, "name: expected"),
        ({"settings_hash": "../.."}, "settings_hash"),
        ({"finished": "2999-01-01T00:00:00+00:00"}, "a time that has passed"),
        ({"finished": "yesterday"}, "a time that has passed"),
        ({"finished": None}, "a time that has passed"),
        ({"metrics__bootstrap__draws": 10**9}, "1,000 to 100,000 draws"),
        ({"metrics__bootstrap__confidence": 0.5}, "0.95 confidence"),
        ({"metrics__errors": 2}, "2 pictures could not be read there"),
        ({"card": {"parameters": float("inf")}}, "infinite or none"),
        ({"unknown_key": 1}, "not a run record of schema 1: unknown_key"),
    ],
)
def test_a_record_that_does_not_hold(theirs, changes, reason):
    refused(theirs(**changes), reason)


def test_every_reason_at_once(theirs):
    refused(theirs(git__dirty=True, signature="x", finished="never"), "dirty", "signature: says 'x'", "finished:")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metrics__hits": 12, "metrics__acc@0.5": 1.0}, "metrics.hits: 12, but its predictions give 7"),
        ({"metrics__mean_iou": 0.9}, "metrics.mean_iou: 0.9, but its predictions give"),
        ({"metrics__ci95": [0.9, 1.0]}, "metrics.ci95.0: 0.9"),
        ({"metrics__oracle@0.5": 1.0}, "metrics.oracle@0.5: 1.0, but its predictions give None"),
        ({"metrics__strata": {}}, "strata"),
    ],
)
def test_numbers_that_the_predictions_do_not_give(theirs, changes, reason):
    refused(theirs(**changes), reason)


def test_float_noise_is_no_difference(theirs):
    folder = theirs()
    record = json.loads((folder / "run.json").read_text())
    record["metrics"]["mean_iou"] += 1e-14
    (folder / "run.json").write_text(json.dumps(record))
    assert take(folder).is_dir()


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (lambda rows: rows[1:], ["scenes without a line: 1"]),
        (lambda rows: [*rows, rows[0]], ["scenes with several lines: 1"]),
        (lambda rows: [*rows, rows[0] | {"scene": "p99", "predictions": []}], ["no scene of the split: 1 (p99)"]),
        (lambda rows: rows[0]["predictions"].pop(), ["expressions without an answer: 1"]),
        (lambda rows: rows[0]["predictions"].append(rows[0]["predictions"][0]), ["with several answers: 1"]),
        (lambda rows: rows[0]["predictions"].extend(rows[1]["predictions"]), ["no expression of their scene: 2"]),
        (lambda rows: rows[0].update(error="unreadable"), ["pictures that could not be read: 1"]),
        (lambda rows: [rows[0] | {"predictions": []}, *rows[2:]], ["without a line: 1", "without an answer: 2"]),
    ],
)
def test_every_expression_is_answered_once(theirs, change, reasons):
    def changed(rows):
        said = change(rows)
        return said if isinstance(said, list) else rows

    refused(rewritten(theirs(), changed), *reasons)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("box", [0, 0, float("nan"), 1], "not four finite numbers"),
        ("box", [0, 0, "9", 1], "not four finite numbers"),
        ("box", [0, 0, True, 1], "not four finite numbers"),
        ("box", [0, 0, 1], "not a row of predictions"),
        ("score", float("inf"), "no finite number"),
        ("score", "high", "no finite number"),
        ("id", ["e0"], "no text"),
        ("id", "", "no text"),
        ("id", "e" * 5000, "no text"),
        ("note", {"a": 1}, "no text"),
    ],
)
def test_answers_of_other_types(theirs, key, value, reason):
    def change(rows):
        rows[2]["predictions"][0][key] = value

    said = refused(rewritten(theirs(), change), reason)
    assert "predictions.jsonl, line 3" in said and ".tmp" not in said


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"scene": "p0"', "cut short"),
        (b"\xff\xfe\n", "predictions.jsonl"),
        (b"[" * 100_000 + b"\n", "predictions.jsonl"),
        (b'{"scene": {}, "predictions": []}\n', "no text"),
        (b'{"scene": "p0", "predictions": [], "size": [0, 10]}\n', "size is not positive"),
        (b'{"scene": "p0", "predictions": [], "proposals": [[0, 0, 1, NaN]]}\n', "a proposal"),
        (b"", "scenes without a line: 6"),
    ],
)
def test_files_that_are_no_predictions(theirs, content, reason):
    folder = theirs()
    (folder / "predictions.jsonl").write_bytes(content)
    refused(folder, reason)


def test_records_that_are_no_records(theirs):
    for content in (b"{", b"[" * 100_000, b"null", b"\xff", b""):
        folder = theirs()
        (folder / "run.json").write_bytes(content)
        refused(folder, "not a run record")


@pytest.mark.parametrize("name", ["run.json", "predictions.jsonl"])
def test_links_and_pipes_are_not_opened(theirs, world, name):
    folder = theirs()
    outside = world / "outside"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)
    refused(folder, f"{name} is a link")
    (folder / name).unlink()
    refused(folder, f"{name} is not there")
    os.mkfifo(folder / name)
    refused(folder, f"{name} is no regular file")
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, name)


def test_files_larger_than_any(theirs, monkeypatch):
    monkeypatch.setattr(submitted_files, "MOST", {"run.json": 100, "predictions.jsonl": 2**20})
    refused(theirs(), "run.json is larger than 0 MB")


def test_a_name_leads_nowhere_else(theirs):
    taken = take(theirs(called="../../../etc/cron.d/x"))
    assert taken.resolve().is_relative_to(Path("results/runs").resolve())


def test_other_data(theirs, world):
    folder = theirs()
    text = Path("mine.jsonl").read_text()
    Path("mine.jsonl").write_text(text.replace("man", "woman"))
    refused(folder, "identity.data.fingerprint")
    Path("mine.jsonl").write_text(text.partition("\n")[2])
    refused(folder, "identity.data.fingerprint", "identity.data.expressions: '12', but file:mine here has 11")


def test_data_that_is_not_at_hand(theirs):
    folder = theirs()
    with pytest.raises(UsageError, match=r"--split file:PATH\.jsonl"):
        submit(folder, Path("results"), load_settings())
    text = (folder / "run.json").read_text()
    renamed = text.replace("|file:mine|", "|refcocoo-val|").replace('"split": "file:mine"', '"split": "refcocoo-val"')
    (folder / "run.json").write_text(renamed)
    with pytest.raises(UnknownName, match="refcoco-val"):
        submit(folder, Path("results"), load_settings())
    with pytest.raises(CheckFailed, match=r"identity\.data\.split"):
        take(folder)
    assert not [path for path in Path("results").rglob("*") if path.name != "runs"]


def test_a_strangers_words_do_not_reach_the_terminal(theirs):
    def change(rows):
        rows[0]["scene"] = "\x1b[2J\u202eevil\n"

    said = refused(rewritten(theirs(), change), "no scene of the split: 1")
    assert "evil" in said and not {"\x1b", "\u202e"} & set(said)
    said = refused(theirs(**{"\x1b[31mred": 1}), "not a run record")
    assert "red" in said and "\x1b" not in said


def test_what_is_on_its_way_in_is_in_no_table(theirs):
    taken = take(theirs())
    shutil.copytree(taken, "results/runs/.submission.x.tmp")
    assert len(collect(Path("results")).boards[0].rows) == 1


def test_a_folder_that_is_none(world):
    with pytest.raises(CheckFailed, match="give the folder of a run"):
        take(Path("nowhere"))
