"""A column is one entry: whatever is listed is in the terminal, Markdown, CSV, LaTeX and HTML."""

import io
from types import SimpleNamespace

from rich.console import Console

from bench.reporting import table
from bench.reporting.boards import collect
from bench.reporting.exports.latex import leaderboard_latex
from bench.reporting.leaderboard import leaderboard_csv
from bench.reporting.markdown import leaderboard_markdown
from bench.reporting.report.sections import board
from bench.reporting.terminal import print_rows
from bench.runs.record import read_record
from bench.settings import PROJECT


def renderings(results):
    leaderboard = collect(results)
    (row,) = leaderboard.boards[0].rows
    record = read_record(results / row["run_dir"])
    console = Console(file=io.StringIO(), width=200, color_system=None)
    print_rows([record], console)
    html = board([SimpleNamespace(label=record.name, record=record, row=row)])
    page = " ".join(c["name"] for c in html["columns"]) + " ".join(html["rows"][0]["cells"])
    texts = (
        leaderboard_markdown(leaderboard),
        leaderboard_csv(leaderboard.boards),
        leaderboard_latex(leaderboard.boards),
    )
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


def test_the_csv_has_the_fields_of_the_published_one():
    header = (PROJECT / "results" / "LEADERBOARD.csv").read_text().splitlines()[0].replace("picture", "image")
    assert leaderboard_csv(()).splitlines() == [header]
