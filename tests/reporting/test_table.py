"""Rows of the JSON contract, their table in a terminal, and columns: one entry is in all five formats."""

import io
import json
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from bench.datasets.split import Split
from bench.grounding import Expression, Scene
from bench.imported.scoring import import_boxes
from bench.reporting import table
from bench.reporting.boards import collect
from bench.reporting.cells import interval, percent, rate, signed
from bench.reporting.exports.hub import hub_files
from bench.reporting.exports.latex import SIGNS, leaderboard_latex
from bench.reporting.leaderboard import leaderboard_csv
from bench.reporting.markdown import leaderboard_markdown
from bench.reporting.marks import MARKS
from bench.reporting.report.sections import board
from bench.reporting.rows import run_row
from bench.reporting.terminal import print_rows
from bench.runs.numbers import Throughput
from bench.runs.record import read_record
from bench.runs.store import write_record
from bench.settings import PROJECT

BOX = (0.0, 0.0, 40.0, 40.0)


@pytest.fixture
def record(tmp_path):
    scenes = tuple(
        Scene(f"p{n}", f"p{n}.jpg", 100, 100, (Expression(f"e{n}", "x", BOX, kind=kind),))
        for n, kind in enumerate(("[red]bold", "plain"))
    )
    (tmp_path / "b.json").write_text(json.dumps({"e0": BOX}))
    split = Split("mine-val", "Mine", scenes, SimpleNamespace())
    return import_boxes(tmp_path / "b.json", split, tmp_path, name="[bold]theirs[/bold]")[0]


def printed(records, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_rows(records, console)
    return console.file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_score_is_always_readable(record, width):
    text = printed([record], width)
    assert "50.00" in text
    assert width < 200 or ("[bold]theirs[/bold]" in text and "[red]bold" in text)  # names are data, not markup


def test_columns_without_news_are_left_out(record):
    assert "ceiling" not in printed([record])
    peaks = {"peak_memory_mb": 77.5, "device_memory_mb": None, "load_seconds": None}
    fast = Throughput(seconds=1, images_per_s=2, expressions_per_s=1234.5, stages={}, **peaks)
    timed = record.model_copy(
        update={"throughput": fast, "metrics": record.metrics.model_copy(update={"oracle": 0.975, "errors": 1})}
    )
    text = printed([timed])
    for part in ("ceiling", "97.50", "ex/s", "1,234", "errors", "images without predictions: 1"):
        assert part in text
    assert run_row(timed, "x")["peak_memory_mb"] == 77.5


@pytest.mark.slow
def test_runs_that_do_not_compare_are_in_different_tables(record):
    strict = record.model_copy(update={"protocol": "strict", "signature": record.signature.replace("iou>=", "strict>")})
    assert printed([record, record]).count("2 expressions") == 1
    assert printed([record, strict]).count("2 expressions") == 2


def test_an_unfinished_run_has_a_row_without_numbers(record):
    bare = record.model_copy(update={"metrics": None, "status": "running"})
    assert "unfinished" in printed([bare]) and run_row(bare, "x")["acc@0.5"] is None
    assert printed([]) == ""


def test_zero_has_no_sign_and_a_minus_is_a_minus():
    assert [signed(points) for points in (0.616, -0.286, -0.004, 0.004, -0.0)] == [
        "+0.62",
        "−0.29",
        "0.00",
        "0.00",
        "0.00",
    ]
    assert (signed(-0.04, 1), signed(-0.06, 1)) == ("0.0", "−0.1")
    assert interval((-0.00001, 0.00001)) == interval((-0.0, 0.0)) == "[0.00, 0.00]"
    assert interval((-0.0119, 0.003)) == "[−1.19, 0.30]"


def test_a_remark_about_several_runs_is_printed_once(record):
    text = printed([record, record.model_copy(update={"name": "ours"})], width=200)
    assert text.count("counted as misses") == 1 and "[bold]theirs[/bold], ours: expressions without a row" in text


def test_the_row_is_plain_json(record):
    text = json.dumps(run_row(record, "some/where"), allow_nan=False)
    back = json.loads(text)
    assert back["run_dir"] == "some/where"
    assert back["strata"]["kind"]["plain"] == {"n": 1, "hits": 0, "acc@0.5": 0.0, "ci95": None, "ci95_note": "1 image"}


def test_figures():
    assert (percent(0.79694), percent(None), percent(1)) == ("79.69", "–", "100.00")
    assert interval((0.1, 0.25)) == "[10.00, 25.00]"
    assert (interval((0.1, 0.25), "4 images"), interval(None, "1 image")) == (
        "[10.00, 25.00] (4 images)",
        "– (1 image)",
    )
    assert (rate(1234.5), rate(12.345), rate(0.01234), rate(None)) == ("1,234", "12.3", "0.0123", "–")


def renderings(results):
    leaderboard = collect(results)
    (row,) = leaderboard.boards[0].rows
    record = read_record(results / row["run_dir"])
    console = Console(file=io.StringIO(), width=200, color_system=None)
    print_rows([record], console)
    html = board([SimpleNamespace(label=record.name, record=record, row=row)])
    page = " ".join(
        [*(c["name"] for c in html["columns"]), *(cell for cell, _ in html["rows"][0]["cells"]), *html["notes"]]
    )
    texts = (
        leaderboard_markdown(leaderboard), leaderboard_csv(leaderboard.boards), leaderboard_latex(leaderboard.boards),
    )  # fmt: skip
    return (console.file.getvalue(), *texts, page)


def test_a_new_column_is_in_all_five(tmp_path, store, monkeypatch):
    store("a", 3)
    assert not any("Share" in text or "share" in text for text in renderings(tmp_path)[1:3])
    added = table.Column("share", "Share", "why", lambda value: f"{value:.3f}", value=lambda r: r["hits"] / 8)
    monkeypatch.setattr(table, "COLUMNS", (*table.COLUMNS, added))
    terminal, markdown, csv, latex, page = renderings(tmp_path)
    for text in (terminal, markdown, latex, page):
        assert "Share" in text and "0.375" in text
    assert csv.splitlines()[0].endswith(",share") and csv.splitlines()[1].endswith(",0.375")


def test_few_images_are_said_beside_the_interval_in_every_format(tmp_path, store):
    store("a", 3)
    (row,) = collect(tmp_path).boards[0].rows
    assert re.fullmatch(r"\d images?", row["ci95_note"])
    terminal, markdown, csv, latex, _ = renderings(tmp_path)
    for text in (terminal, markdown, latex, str(hub_files(collect(tmp_path).boards, "o/n"))):
        assert f"{interval(row['ci95'])} ({row['ci95_note']})" in text
    fields, cells = (line.split(",") for line in csv.splitlines()[:2])
    assert cells[fields.index("ci95_note")] == row["ci95_note"]


def test_the_csv_has_the_fields_of_the_published_one():
    """And, since a published run has masks, those of masks."""
    header = (PROJECT / "results" / "LEADERBOARD.csv").read_text().splitlines()[0].split(",")
    always = leaderboard_csv(()).strip().split(",")
    masks = [name for name in header if re.match(r"ciou_|mask_miou_|precision@|masks_", name)]
    assert len(masks) == 23 and [name for name in header if name not in masks] == always


def test_every_format_has_the_same_marks_and_their_legend(tmp_path, store):
    """† ‡ § ¶ ◊ mean one thing everywhere, and only those that occur are explained."""
    folder = tmp_path / store("theirs", 3, provenance="imported", card={})
    (folder / "submission.json").write_text("{}")
    broken = read_record(folder).model_copy(update={"errors": {"p0": "gone"}})
    write_record(folder, broken.model_copy(update={"metrics": broken.metrics.model_copy(update={"errors": 1})}))
    terminal, markdown, csv, latex, page = renderings(tmp_path)
    meanings = {sign: why for sign, _, _, why in MARKS if sign not in "‡○□"}
    assert "theirs † § ¶ ◊" in markdown and r"theirs$^{\dagger\S\P\diamond}$" in latex
    assert "theirs †§¶" in terminal  # a run that is being made is nobody's submission
    assert "imported; test images unknown; unreadable images; submitted" in csv
    for sign, why in meanings.items():
        assert f"{sign} {why}" in markdown and f"{sign} {why}" in page
        assert sign == "◊" or f"{sign} {why}" in terminal
        assert f"${SIGNS[sign]}$ {why}" in latex
    for text in (terminal, markdown, latex, page):
        assert "‡" not in text and "ddagger" not in text
    (board,) = collect(tmp_path).boards
    assert "marks: imported, test images unknown, unreadable images, submitted" in "".join(
        hub_files([board], "me/mine").values()
    )
