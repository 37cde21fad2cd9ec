"""Write the leaderboard: LEADERBOARD.md, .csv and .json of every run under results/runs, and other formats to --out.

The same runs give the same bytes: nothing of the moment or of this machine is written, so a check can tell stale files.

In the CSV every number is as it is. A spreadsheet takes a cell that begins with =, +, -, @, a tab or a carriage return
for a formula and may run it, and names are data of strangers: text cells that begin so get a ' before them, which a
spreadsheet hides. LEADERBOARD.json holds every name exactly as it is.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from bench.datasets.load import load_split
from bench.errors import CheckFailed, UnknownName, UsageError
from bench.leaderboard.verification import verify_all
from bench.reporting import table
from bench.reporting.boards import Board, Leaderboard, collect
from bench.reporting.exports.fiftyone import fiftyone_files
from bench.reporting.exports.hub import hub_files
from bench.reporting.exports.latex import leaderboard_latex
from bench.reporting.markdown import leaderboard_markdown
from bench.runs.files import make_folder, write_atomically
from bench.runs.record import FILE, read_record, split_command
from bench.settings import Resolved

NAMES = ("LEADERBOARD.md", "LEADERBOARD.csv", "LEADERBOARD.json")
SCHEMA = 2
Format = Literal["md", "csv", "latex", "hub", "fiftyone"]
FILES = ("md", "csv", "latex")  # the others are folders of files
INTRO = "# Leaderboard\n"  # LEADERBOARD.md leads to files that an export has not beside it


def render(leaderboard: Leaderboard) -> dict[str, bytes]:
    """Return file name -> content."""
    whole = json.dumps(as_object(leaderboard), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    texts = (leaderboard_markdown(leaderboard), leaderboard_csv(leaderboard.boards), whole)
    return {name: text.encode() for name, text in zip(NAMES, texts, strict=True)}


def write(results: Path) -> Leaderboard:
    """Write the three files into `results` and return what they hold. Raises RunError when they cannot be written."""
    leaderboard = collect(results)
    make_folder(results)
    for name, content in render(leaderboard).items():
        write_atomically(results / name, content)
    return leaderboard


def check(results: Path, resolved: Resolved) -> Leaderboard:
    """Raise CheckFailed where the files are not what the runs give, or a run is damaged; write nothing.

    Where a run's split is at hand its predictions are scored again.
    """
    if damaged := [verdict.line for verdict in verify_all(results, resolved) if verdict.faults]:
        raise CheckFailed("\n  ".join(["stored runs are not what they were:", *damaged]))
    leaderboard = collect(results)
    stale = [name for name, content in render(leaderboard).items() if _stored(results / name) != content]
    if stale:
        raise CheckFailed(f"stale in {results}: {', '.join(stale)}; run `bench leaderboard` and commit the files")
    return leaderboard


def _stored(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def as_object(leaderboard: Leaderboard) -> dict[str, Any]:
    """Return what LEADERBOARD.json holds: every number with full precision, strata included."""
    keys = ("signature", "split", "protocol", "fingerprint", "expressions", "images", "rows")
    tables = [{key: getattr(board, key) for key in keys} for board in leaderboard.boards]
    left_out = [{"run": run, "reason": reason} for run, reason in leaderboard.left_out]
    return {"schema_version": SCHEMA, "tables": tables, "left_out": left_out}


def leaderboard_csv(boards: Iterable[Board], chosen: Collection[str] = ()) -> str:
    """Return the whole of LEADERBOARD.csv, or its `chosen` columns."""
    out = io.StringIO()
    boards = list(boards)
    columns = [
        column for column, _ in table.filled_columns("c", [row for board in boards for row in board.rows], chosen)
    ]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    for board in boards:
        for row in board.rows:
            writer.writerow([table.spreadsheet(column.raw(row)) for column in columns])
    return out.getvalue()


def export(
    form: Format,
    out: Path,
    results: Path,
    resolved: Resolved,
    split: str | None = None,
    hub_dataset: str | None = None,
    force: bool = False,
    columns: Collection[str] = (),
) -> list[Path]:
    """Write the tables of the runs under `results`, or those of one split, to `out`; return the paths.

    `columns` are names of columns for md, csv and latex, all of a format's unless given.
    Everything is made before anything is written. Raises UsageError where a file is there already and `force` is not
    given, where there is nothing to export or more tables than the format takes; UnknownName for a split without runs;
    DataError for FiftyOne where the split is not at hand.
    """
    # 1. The tables that are wanted.
    boards = collect(results).boards
    if not boards:
        raise UsageError(f"{results}: no complete run yet, so there is nothing to export")
    splits, data = {board.split for board in boards}, None
    if split is not None and split.startswith(FILE):
        own = load_split(split, resolved)
        split, data = own.name, own.fingerprint
    boards = tuple(b for b in boards if split in (None, b.split) and data in (None, b.fingerprint))
    if split is not None and not boards:
        raise UnknownName("split with runs", split, splits)
    # 2. The files, made whole.
    if form in FILES and out.is_dir():
        raise UsageError(f"--out {out} is a folder; name the file to write")
    if form not in FILES and out.is_file():
        raise UsageError(f"--out {out} is a file; {form} writes several into a folder")
    match form:
        case "md":
            files = {out: leaderboard_markdown(Leaderboard(boards, ()), INTRO, columns)}
        case "csv":
            files = {out: leaderboard_csv(boards, columns)}
        case "latex":
            files = {out: leaderboard_latex(boards, columns)}
        case "hub":
            files = {out / name: text for name, text in hub_files(boards, hub_dataset).items()}
        case "fiftyone":
            board = _only(boards)
            name = split_command(read_record(results / board.rows[0]["run_dir"]))
            texts = fiftyone_files(results, board, load_split(name, resolved))
            files = {out / name: text for name, text in texts.items()}
    # 3. Nothing is replaced unasked.
    if there := next((path for path in files if path.exists() and not force), None):
        raise UsageError(f"{there} exists; --force replaces it")
    for path, text in files.items():
        make_folder(path.parent)
        write_atomically(path, text.encode())
    return list(files)


def _only(boards: Sequence[Board]) -> Board:
    """Return the one table that FiftyOne takes: of one split, under the usual protocol where there are several."""
    if len({board.split for board in boards}) > 1:
        several = ", ".join(f"{board.split} ({board.protocol})" for board in boards)
        raise UsageError(f"fiftyone takes one split, but there are runs on {several}; choose one with --split")
    return next((board for board in boards if board.usual), boards[0])
