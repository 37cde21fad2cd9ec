"""The leaderboard: nothing mixed, nothing hidden, the same bytes from the same runs, and names that cannot break it."""

import csv
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import CheckFailed
from bench.reporting import leaderboard
from bench.reporting.boards import collect
from bench.reporting.markdown import escape, grid
from bench.runs.record import read_record
from bench.settings import load_settings

MARKDOWN, CSV, JSON = leaderboard.NAMES


@pytest.mark.slow
def test_one_table_a_signature_best_first(tmp_path, store, split):
    leaderboard.write(tmp_path / "empty")
    assert "No complete run yet" in (tmp_path / "empty" / MARKDOWN).read_text()
    for name, hits in (("low", 1), ("high", 5), ("middle", 3)):
        store(name, hits)
    store("strict", 3, protocol="strict")
    store("elsewhere", 3, on=split("other-val"))
    store("later", 3, on=split(text="the woman"))  # other data of the same name
    boards = [(b.split, b.protocol, [r["pipeline"] for r in b.rows]) for b in collect(tmp_path).boards]
    assert sorted(boards) == [
        ("mine-val", "iou", ["high", "middle", "low"]),
        ("mine-val", "iou", ["later"]),
        ("mine-val", "strict", ["strict"]),
        ("other-val", "iou", ["elsewhere"]),
    ]
    text = leaderboard.render(collect(tmp_path))[MARKDOWN].decode()
    assert text.count("another table holds runs on other data of the same name") == 2


@pytest.mark.slow
def test_what_is_left_out_and_why(tmp_path, store):
    kept = store("kept")
    reasons = {
        store("part", data={"partial": True, "images": 3}): "partial: the first 3 images of mine-val only",
        store("dirty", git={"commit": "1", "dirty": True}): "dirty: made by code that is in no commit",
        store("running", status="running", metrics=None): "not finished: stopped",
    }
    broken = tmp_path / store("broken")
    (broken / "run.json").write_text("{")
    leaderboard_of = collect(tmp_path)
    assert [r["run_dir"] for b in leaderboard_of.boards for r in b.rows] == [kept]
    assert {run: reason for run, reason in leaderboard_of.left_out if run in reasons} == reasons
    ((run, reason),) = (entry for entry in leaderboard_of.left_out if entry[0] not in reasons)
    assert run == broken.relative_to(tmp_path).as_posix() and str(tmp_path) not in reason
    text = leaderboard.render(leaderboard_of)[MARKDOWN].decode()
    assert "## Left out, and why" in text
    assert all(reason in text for reason in reasons.values())


@pytest.mark.slow
def test_the_latest_of_equal_runs_is_shown(tmp_path, store):
    old = store("a", 1, finished="2026-01-01T00:00:00+00:00", settings_hash="s")
    clean = {"commit": "77", "dirty": False}
    middle = store("a", 5, finished="2026-02-01T00:00:00+00:00", settings_hash="s", git=clean)
    new = store("a", 2, finished="2026-03-01T00:00:00+00:00", settings_hash="s")
    other_settings = store("a", 3, settings_hash="t")
    other_device = store("a", 4, settings_hash="s", environment={"gpu": {"name": "NVIDIA A100"}})
    leaderboard_of = collect(tmp_path)
    rows = {r["run_dir"]: r for r in leaderboard_of.boards[0].rows}
    assert set(rows) == {new, other_settings, other_device} and not leaderboard_of.left_out
    assert [(h["run_dir"], h["date"], h["commit"], h["acc@0.5"]) for h in rows[new]["history"]] == [
        (middle, "2026-02-01", "77", 1.0),
        (old, "2026-01-01", "0123456789abcdef", 0.2),
    ]
    assert [round(h["difference"], 9) for h in rows[new]["history"]] == [-0.6, 0.2]
    text = leaderboard.render(leaderboard_of)[MARKDOWN].decode()
    section = text.partition("### History")[2].partition("\n## ")[0].splitlines()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section if line.startswith("|")][2:]
    assert lines == [
        ["a", "2026-02-01", "`77`", "100.00", "−60.00"],
        ["a", "2026-01-01", "`0123456`", "20.00", "+20.00"],
    ]


@pytest.mark.slow
def test_the_same_bytes_and_a_check_that_knows(tmp_path, store):
    store("a", 1)
    with pytest.raises(CheckFailed, match=r"LEADERBOARD\.md, LEADERBOARD\.csv, LEADERBOARD\.json"):
        leaderboard.check(tmp_path, load_settings())
    leaderboard.write(tmp_path)
    before = [(tmp_path / name).read_bytes() for name in leaderboard.NAMES]
    leaderboard.check(tmp_path, load_settings())
    leaderboard.write(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in leaderboard.NAMES] == before
    assert str(tmp_path).encode() not in b"".join(before)
    (tmp_path / CSV).write_bytes(before[1] + b"x")
    with pytest.raises(CheckFailed, match=r": LEADERBOARD\.csv;"):
        leaderboard.check(tmp_path, load_settings())


def test_full_precision(tmp_path, store):
    store("a", 2)
    leaderboard.write(tmp_path)
    (line,) = csv.DictReader(io.StringIO((tmp_path / CSV).read_text()))
    (entry,) = json.loads((tmp_path / JSON).read_text())["tables"][0]["rows"]
    metrics = read_record(tmp_path / entry["run_dir"]).metrics
    assert float(line["mean_iou"]) == entry["mean_iou"] == metrics.mean_iou
    assert [float(line["ci95_low"]), float(line["ci95_high"])] == entry["ci95"] == list(metrics.ci95)
    assert line["device"] == entry["device"] == "NVIDIA H200"
    assert entry["strata"]["people"]["yes"]["acc@0.5"] == 0.4
    assert json.loads(line["weights"]) == entry["weights"]


@pytest.mark.slow
def test_marks_and_footnotes(tmp_path, store):
    store("clean", 5)
    text = leaderboard.render(collect(tmp_path))[MARKDOWN].decode()
    assert not set("†‡§¶◊") & set(text)
    store("theirs", 4, provenance="imported", card={})
    store("saw", 3, card={"saw_test_images": "yes"})
    text = leaderboard.render(collect(tmp_path))[MARKDOWN].decode()
    table = text.partition("### Behind")[0].splitlines()
    names = [line.split("|")[2].strip() for line in table if line.startswith("|")][2:]
    assert names == ["clean", "theirs † §", "saw ‡"]
    assert "‡ its training included test images" in text and "◊" not in text
    assert "¶" not in text


@pytest.mark.slow
def test_the_weights_behind_the_rows(tmp_path, store, split):
    store("blind", 1, card={"trained_on": "nothing", "saw_test_images": "no"}, identity={"weights": {}})
    assert "The weights behind the rows" not in leaderboard.render(collect(tmp_path))[MARKDOWN].decode()
    facts = {"trained_on": "COCO train2017", "licence": "AGPL-3.0", "saw_test_images": "yes"}
    for on in (None, split("other-val")):
        store("saw", 3, on=on, card=facts)
    store("saw", 3, on=split("third-val"), card=facts | {"licence": "", "saw_test_images": "no"})
    leaderboard.write(tmp_path)
    section = (tmp_path / MARKDOWN).read_text().partition("## The weights behind the rows")[2]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line][2:]
    assert cells == [
        ["saw", "third-val", "COCO train2017", "–", "no"],
        ["saw", "mine-val, other-val", "COCO train2017", "AGPL-3.0", "yes"],
    ]


HOSTILE = "a|b\n| c | <script>alert(1)</script> [x](http://e) `code` *b* \u202e\x1b[31m"


@pytest.mark.slow
def test_hostile_names_stay_in_their_cell(tmp_path, store):
    store(HOSTILE, 3)
    store("tame", 2)
    leaderboard.write(tmp_path)
    text = (tmp_path / MARKDOWN).read_text()
    for table in re.split("^##+ ", text, flags=re.MULTILINE)[2:]:
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len(rows) == 4
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {len(re.findall(r"\|", rows[1]))}
    assert not any(part in text for part in ("<script>", "\u202e", "\x1b"))
    names = [line["pipeline"] for line in csv.DictReader(io.StringIO((tmp_path / CSV).read_text(), newline=""))]
    assert names == [HOSTILE.replace("\x1b", ""), "tame"]
    assert json.loads((tmp_path / JSON).read_text())["tables"][0]["rows"][0]["pipeline"] == HOSTILE


@given(st.text(max_size=40))
def test_escaped_text_is_one_cell_without_markup(text):
    cell = escape(text)
    assert "\n" not in cell
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*\[\]]", cell.replace("\\\\", "")) and "<" not in cell


def test_columns_line_up_in_plain_text():
    lines = grid(("name", "n"), [("模型", "1"), ("é", "1,000")], right=[1]).splitlines()
    assert lines == ["| name |     n |", "|:-----|------:|", "| 模型 |     1 |", "| é    | 1,000 |"]
