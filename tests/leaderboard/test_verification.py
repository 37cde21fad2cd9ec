"""Runs that are not what they were: what no reader takes a number from, and what only a re-score tells."""

import json
import shutil
from pathlib import Path

import pytest
from edited_records import edited
from submissions import unpacked

from bench import dataframes
from bench.comparison.compare import compare
from bench.datasets.load import load_split
from bench.errors import CheckFailed, RunError
from bench.evaluation.rescored import rescore
from bench.leaderboard.verification import verify_all, verify_runs
from bench.reporting import leaderboard
from bench.reporting.boards import collect
from bench.reporting.report.gallery import answered
from bench.reporting.report.selection import choose
from bench.runs.packed import pack
from bench.settings import load_settings

PROJECT = Path(__file__).parents[2]


def verdict(folder):
    (one,) = verify_runs([folder], load_settings())
    return one


def spoil(name):
    def change(folder):
        (folder / name).write_bytes(pack(b""))

    return change


DAMAGE = {
    "predictions": (spoil("predictions.packed"), "predictions.packed is not the file that this run wrote"),
    "outcomes": (spoil("outcomes.packed"), "outcomes.packed is not the file that this run wrote"),
    "a missing file": (lambda folder: (folder / "predictions.packed").unlink(), "predictions.packed is missing"),
    "no predictions": (lambda folder: (unpacked(folder) / "predictions.jsonl").unlink(), "predictions are missing"),
    "a float": (lambda folder: edited(folder, seal=False, metrics__mean_iou=0.9), "a value was changed"),
    "a schema": (lambda folder: edited(folder, schema_version=99), "its schema_version is 99"),
    "another file": (lambda folder: edited(folder, files={"../../x": "0"}), "which is no file of a run"),
}


@pytest.mark.parametrize(("change", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_no_reader_takes_a_number_from_a_damaged_run(theirs, tmp_path, change, reason):
    good, bad = theirs(7, "good", packed=True), theirs(9, "bad", packed=True)
    change(bad)
    results = tmp_path / "elsewhere"
    board = collect(results)
    assert [row["pipeline"] for row in board.boards[0].rows] == ["good"]
    ((run, why),) = board.left_out
    assert reason in why and run == bad.relative_to(results).as_posix()
    assert dataframes.runs(results)["pipeline"].to_list() == ["good"]
    split = load_split("file:mine.jsonl", load_settings())
    for read in (
        lambda: compare([good, bad]),
        lambda: rescore(bad, load_settings(), split="file:mine.jsonl"),
        lambda: dataframes.outcomes(bad),
        lambda: choose([str(bad)], split, results),
    ):
        with pytest.raises(RunError, match=reason.replace(".", r"\.")):
            read()
    one = verdict(bad)
    assert one.state == "damaged" and reason in one.faults[0] and verdict(good).state == "intact"
    with pytest.raises(CheckFailed, match=reason.replace(".", r"\.")):
        leaderboard.check(results, load_settings())


def change_rows(folder, change):
    path = unpacked(folder) / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))
    return edited(folder, settings__split=f"file:{Path('mine.jsonl').absolute()}")


def shift(row):
    return row | {"predictions": [each | {"box": [0, 0, 40, 39]} for each in row["predictions"]]}


@pytest.mark.parametrize(("change", "reason"), [
    (lambda rows: rows[:-2], "2 of 6 images lack an answer (4 expressions), so the run has no score"),
    (lambda rows: [rows[0] | {"predictions": []}, *rows[1:]], "1 of 6 images lack an answer (2 expressions)"),
    (lambda rows: [shift(rows[0]), *rows[1:]], "metrics.mean_iou: "),
])  # fmt: skip
def test_predictions_that_do_not_give_the_numbers(theirs, change, reason):
    """Without hashes, as version 0.1 left them: a re-score tells, and a missing answer is no miss."""
    folder = change_rows(theirs(7), change)
    one = verdict(folder)
    assert one.state == "damaged" and reason in one.faults[0] and not one.hashes
    if "lack" in reason:
        split = load_split("file:mine.jsonl", load_settings())
        with pytest.raises(RunError, match="so the run has no score; import its file again"):
            rescore(folder, load_settings())
        with pytest.raises(RunError, match="so the run has no score"):
            answered(choose([str(folder)], split, Path("elsewhere"))[1][0], split.scenes)


def test_outcomes_are_compared_too(theirs):
    folder = change_rows(theirs(7), lambda rows: rows)
    assert verdict(folder).rescore == "equal"
    path = folder / "outcomes.jsonl"
    lines = path.read_text().splitlines()
    hits = [json.loads(line)["hit"] for line in lines]
    assert len(set(map(str, hits))) > 1, "else a shuffle changes nothing"
    turned = [json.dumps(json.loads(line) | {"hit": hit}) for line, hit in zip(lines, reversed(hits), strict=True)]
    path.write_text("\n".join(turned) + "\n")
    assert "outcomes: " in verdict(folder).faults[0]


def test_outcomes_that_are_damaged_are_made_again(theirs):
    folder = theirs(7, packed=True)
    before = (folder / "outcomes.packed").read_bytes()
    for change in (lambda path: path.write_bytes(pack(b"")), Path.unlink):
        change(folder / "outcomes.packed")
        with pytest.raises(RunError, match=r"is damaged: outcomes\.packed .*score .* --keep` makes them again"):
            compare([folder, theirs(8, "other")])
        rescore(folder, load_settings(), split="file:mine.jsonl", keep=True)
        assert (folder / "outcomes.packed").read_bytes() == before and verdict(folder).state == "intact"
    (folder / "predictions.packed").write_bytes(pack(b""))
    with pytest.raises(RunError, match="is not the file that this run wrote"):
        rescore(folder, load_settings(), split="file:mine.jsonl", keep=True)


def test_older_runs_are_read_and_sealed_when_a_re_score_is_equal(theirs):
    folder = change_rows(theirs(7), lambda rows: rows)
    elsewhere = edited(theirs(8, "other"), sha256="", settings={}, argv=[], seal=False)
    assert not verdict(folder).hashes and "without hashes" in verdict(folder).line
    results = Path("elsewhere")
    first, second = verify_all(results, load_settings(), seal=True)
    assert (first.rescore[:12], first.hashes) == ("not possible", False), "not sealed unless scored again"
    assert (second.rescore, second.hashes) == ("equal", True) and verdict(folder).hashes
    assert not list(folder.glob("*.jsonl")) and list(elsewhere.glob("*.jsonl"))


@pytest.mark.slow
def test_one_edited_float_in_a_shipped_run_is_noticed(tmp_path):
    """Whether or not the editor makes the seal and the tables anew."""
    shutil.copytree(PROJECT / "results", tmp_path / "results")
    results = tmp_path / "results"
    states = {(v.state, v.rescore, v.hashes) for v in verify_all(results, load_settings())}
    assert states == {("intact", "equal", True)}
    (folder,) = (path.parent for path in results.glob("runs/yolo-clip/*/*/run.json"))
    speed = json.loads((folder / "run.json").read_text())["throughput"]
    for other in results.glob("runs/*"):  # each check scores all again
        if other.name not in ("yolo-clip", "mdetr"):
            shutil.rmtree(other)
    for seal, change, reason in (
        (False, {"metrics__mean_iou": 0.6}, "a value was changed"),
        (True, {"metrics__mean_iou": 0.6}, r"metrics\.mean_iou: 0\.6, but its predictions give"),
        (True, {"throughput__expressions_per_s": speed["expressions_per_s"] * 0.9}, "throughput is not what batches"),
    ):
        before = (folder / "run.json").read_bytes()
        edited(folder, seal=seal, **change)
        leaderboard.write(results)
        with pytest.raises(CheckFailed, match=rf"yolo-clip/.*{reason}"):
            leaderboard.check(results, load_settings())
        (folder / "run.json").write_bytes(before)
