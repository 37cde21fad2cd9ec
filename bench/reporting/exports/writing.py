"""`bench leaderboard --export FORMAT --out PATH`: the tables as a file, or as the files of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from bench.datasets.load import load_split
from bench.errors import UnknownName, UsageError
from bench.reporting.boards import Board, Leaderboard, collect
from bench.reporting.exports.fiftyone import fiftyone_files
from bench.reporting.exports.hub import hub_files
from bench.reporting.exports.latex import leaderboard_latex
from bench.reporting.leaderboard import leaderboard_csv
from bench.reporting.markdown import leaderboard_markdown
from bench.runs.files import make_folder, write_atomically
from bench.settings import Resolved


class Format(StrEnum):
    """A file: md, csv, latex. A folder of files: hub, fiftyone."""

    md = "md"
    csv = "csv"
    latex = "latex"
    hub = "hub"
    fiftyone = "fiftyone"


INTRO = "# Leaderboard\n"  # LEADERBOARD.md leads to files that an export has not beside it
FILES = (Format.md, Format.csv, Format.latex)


def export(
    form: Format,
    out: Path,
    results: Path,
    resolved: Resolved,
    split: str | None = None,
    hub_dataset: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Writes the tables of the runs under `results`, or those of one split, and returns the paths.

    Everything is made before anything is written. Raises UsageError where a file is there already and `force` is not
    given, where there is nothing to export or more tables than the format takes; UnknownName for a split without runs;
    DataError for FiftyOne where the split is not at hand.
    """
    boards = _boards(collect(results), results, split)
    files = _files(form, out, boards, results, resolved, hub_dataset)
    if there := next((path for path in files if path.exists() and not force), None):
        raise UsageError(f"{there} is there already; --force replaces it")
    for path, text in files.items():
        make_folder(path.parent)
        write_atomically(path, text.encode())
    return list(files)


def _boards(found: Leaderboard, results: Path, split: str | None) -> Sequence[Board]:
    if not found.boards:
        raise UsageError(f"{results}: no complete run yet, so there is nothing to export")
    if split is None:
        return found.boards
    boards = [board for board in found.boards if board.split == split]
    if not boards:
        raise UnknownName("split with runs", split, {board.split for board in found.boards})
    return boards


def _files(
    form: Format,
    out: Path,
    boards: Sequence[Board],
    results: Path,
    resolved: Resolved,
    hub_dataset: str | None,
) -> dict[Path, str]:
    if form in FILES:
        if out.is_dir():
            raise UsageError(f"--out {out} is a folder; name the file to write")
        tables = Leaderboard(tuple(boards), ())
        if form is Format.md:
            return {out: leaderboard_markdown(tables, INTRO)}
        return {out: leaderboard_csv(boards) if form is Format.csv else leaderboard_latex(boards)}
    if out.is_file():
        raise UsageError(f"--out {out} is a file; {form} writes several into a folder")
    if form is Format.hub:
        return {out / name: text for name, text in hub_files(boards, hub_dataset).items()}
    first = boards[0]
    if len(boards) > 1:
        several = ", ".join(f"{board.split} ({board.protocol})" for board in boards)
        if len({board.split for board in boards}) > 1:
            raise UsageError(f"fiftyone takes one split, and there are runs on {several}; choose one with --split")
        first = next((board for board in boards if board.protocol == "iou" and not board.proposals), first)
    data = load_split(first.split, resolved)
    return {out / name: text for name, text in fiftyone_files(results, first, data).items()}
