"""Somebody else's run: taken when all of it holds, refused with every reason, and nothing of it left behind."""

import json
import shutil
from pathlib import Path

import pytest
from edited_records import edited
from submissions import refused, rewritten, take

from bench.errors import CheckFailed, UnknownName, UsageError
from bench.evaluation.rescored import rescore
from bench.leaderboard.submission import submit
from bench.reporting import leaderboard
from bench.reporting.boards import SUBMISSION, collect
from bench.runs.packed import stored_bytes
from bench.runs.record import read_record
from bench.settings import load_settings

OURS = ("files", "sha256")  # what is made anew of a record that is taken
THROUGHPUT = dict.fromkeys(("images_per_s", "peak_memory_mb", "device_memory_mb", "load_seconds"))
THROUGHPUT |= {"seconds": 1.0, "expressions_per_s": 12.0, "stages": {}}


@pytest.mark.slow
def test_a_sound_run_is_taken(theirs):
    folder = theirs(7)
    for extra in ("malware.sh", "outcomes.jsonl", "batches.jsonl", "speed-20260101-000000-abc.json"):
        (folder / extra).write_text("something else")
    (folder / "deeper").mkdir()
    taken = take(rewritten(folder, lambda rows: [row | {"note_to_self": "x"} for row in rows]))
    assert taken.parent.parent == Path("results/runs/theirs") and taken.parent.name.startswith("file-mine-")
    assert b"note_to_self" not in stored_bytes(taken, "predictions")
    assert sorted(path.name for path in taken.iterdir()) == sorted(
        ["run.json", "predictions.packed", "outcomes.packed", SUBMISSION]
    )
    theirs_again = read_record(folder).model_copy(update={name: getattr(read_record(taken), name) for name in OURS})
    assert read_record(taken) == theirs_again  # the signature with it
    assert stored_bytes(taken, "outcomes").startswith(b'{"scene":')
    source = json.loads((taken / SUBMISSION).read_text())
    assert source["from"] == folder.name and source["rescored"]["hits"] == 7
    assert set(source["sha256"]) == {"run.json", "predictions.jsonl"}
    again = rescore(taken, load_settings(), split="file:mine.jsonl")
    assert again.metrics == read_record(taken).metrics
    (row,) = collect(Path("results")).boards[0].rows
    assert row["rank"] == [1, 1] and row["submitted"] == source["accepted"][:10]
    leaderboard.write(Path("results"))
    leaderboard.check(Path("results"), load_settings())
    shutil.copytree(taken, "results/runs/.submission.x.tmp")  # on its way in: in no table
    assert len(collect(Path("results")).boards[0].rows) == 1
    shutil.rmtree("results/runs/.submission.x.tmp")
    assert not list(Path("results").rglob(".*"))


@pytest.mark.slow
def test_once_is_enough(theirs):
    folder = theirs(7)
    taken = take(folder)
    before = {path: path.read_bytes() for path in taken.iterdir()}
    with pytest.raises(CheckFailed, match="it is here already"):
        take(folder)
    assert {path: path.read_bytes() for path in taken.iterdir()} == before
    with pytest.raises(UsageError, match="already; submit takes runs from elsewhere"):
        take(taken)
    assert take(theirs(8)) != taken


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "reason"), [
    ({"status": "running"}, "not finished"),
    ({"metrics": None}, "not finished"),
    ({"git__dirty": True}, "dirty: made by code that is in no commit"),
    ({"git__commit": "<script>"}, "git.commit: expected a commit's id"),
    (
        {"signature": "acc@0.5|iou>=0.5|other-val|n:12|data:1a2b3c4d|top1|v1"},
        "but its parts make 'acc@0.5|iou>=0.5",
    ),
    ({"protocol": "generous"}, "no protocol is called 'generous'"),
    ({"identity__data__partial": True}, "partial: the first 6 images of"),
    ({"name": "a\nb"}, "name: expected"),
    ({"name": ""}, "name: expected"),
    ({"settings_hash": "../.."}, "settings_hash"),
    ({"finished": "2999-01-01T00:00:00+00:00"}, "a time that has passed"),
    ({"finished": "yesterday"}, "finished: expected a time in ISO 8601, not 'yesterday'"),
    ({"finished": None}, "has no time at which it was finished"),
    ({"schema_version": 2}, "its schema_version is 2; use the version of bench that wrote it"),
    ({"metrics__acc@0.5": 0.99}, "metrics: acc@0.5 is 0.99, but 7 hits of 12 give another"),
    ({"metrics__hits": 13}, "metrics: 13 hits of 12 expressions"),
    ({"metrics__ci95": [0.9, 1.0]}, "lies outside ci95 [0.9, 1.0]"),
    ({"metrics__mean_iou": 10**400}, "metrics.mean_iou"),
    ({"throughput": THROUGHPUT | {"expressions_per_s": 1e300}}, "throughput.expressions_per_s"),
    ({"throughput": THROUGHPUT | {"images_per_s": -5}}, "throughput.images_per_s"),
    ({"throughput": THROUGHPUT | {"expressions_per_s": 1000.0}}, "is 1000, more than 12 in 1 s"),
    ({"metrics__bootstrap__draws": 10**9}, "1,000 to 100,000 draws"),
    ({"metrics__bootstrap__confidence": 0.5}, "0.95 confidence"),
    ({"metrics__errors": 2}, "2 images could not be read there"),
    ({"card": {"parameters": float("inf")}}, "infinite or NaN"),
    ({"unknown_key": 1}, "not a run record of schema 1: unknown_key"),
])  # fmt: skip
def test_a_record_that_does_not_hold(theirs, changes, reason):
    refused(theirs(**changes), reason)


@pytest.mark.slow
def test_every_reason_at_once(theirs):
    future = "2999-01-01T00:00:00+00:00"
    refused(theirs(git__dirty=True, signature="x", finished=future), "dirty", "signature: is 'x'", "finished:")


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "reason"), [
    (
        {"metrics__hits": 12, "metrics__acc@0.5": 1.0, "metrics__ci95": [0.9, 1.0]},
        "metrics.hits: 12, but its predictions give 7",
    ),
    ({"metrics__mean_iou": 0.9}, "metrics.mean_iou: 0.9, but its predictions give"),
    ({"metrics__ci95": [0.5, 1.0]}, "metrics.ci95.0: 0.5"),
    ({"metrics__oracle@0.5": 1.0}, "metrics.oracle@0.5: 1.0, but its predictions give None"),
    ({"metrics__strata": {}}, "strata"),
])  # fmt: skip
def test_numbers_that_the_predictions_do_not_give(theirs, changes, reason):
    refused(theirs(**changes), reason)


@pytest.mark.slow
def test_float_noise_is_no_difference(theirs):
    folder = theirs()
    mean = json.loads((folder / "run.json").read_text())["metrics"]["mean_iou"]
    assert take(theirs(metrics__mean_iou=mean + 1e-14)).is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(("change", "reasons"), [
    (lambda rows: rows[1:], ["scenes without a line: 1"]),
    (lambda rows: [*rows, rows[0]], ["scenes with several lines: 1"]),
    (lambda rows: [*rows, rows[0] | {"scene": "p99", "predictions": []}], ["no scene of the split: 1 (p99)"]),
    (lambda rows: rows[0]["predictions"].pop(), ["expressions without an answer: 1"]),
    (lambda rows: rows[0]["predictions"].append(rows[0]["predictions"][0]), ["with several answers: 1"]),
    (lambda rows: rows[0]["predictions"].extend(rows[1]["predictions"]), ["no expression of their scene: 2"]),
    (lambda rows: rows[0].update(error="unreadable"), ["images that could not be read: 1"]),
    (lambda rows: [rows[0] | {"predictions": []}, *rows[2:]], ["without a line: 1", "without an answer: 2"]),
])  # fmt: skip
def test_every_expression_is_answered_once(theirs, change, reasons):
    def changed(rows):
        out = change(rows)
        return out if isinstance(out, list) else rows

    refused(rewritten(theirs(), changed), *reasons)


@pytest.mark.slow
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
    signature = read_record(folder).signature.replace("|file:mine|", "|refcocoo-val|")
    edited(folder, identity__data__split="refcocoo-val", signature=signature)
    with pytest.raises(UnknownName, match="refcoco-val"):
        submit(folder, Path("results"), load_settings())
    with pytest.raises(CheckFailed, match=r"identity\.data\.split"):
        take(folder)
    assert not [path for path in Path("results").rglob("*") if path.name != "runs"]


@pytest.mark.slow
def test_a_strangers_text_does_not_reach_the_terminal(theirs):
    def change(rows):
        rows[0]["scene"] = "\x1b[2J\u202eevil\n"

    message = refused(rewritten(theirs(), change), "no scene of the split: 1")
    assert "evil" in message and not {"\x1b", "\u202e"} & set(message)
    message = refused(theirs(**{"\x1b[31mred": 1}), "not a run record")
    assert "red" in message and "\x1b" not in message


def test_a_folder_that_is_none(world):
    with pytest.raises(CheckFailed, match="give the folder of a run"):
        take(Path("nowhere"))
