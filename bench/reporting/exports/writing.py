"""`bench leaderboard --export FORMAT --out PATH`: the tables as a file, or as the files of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

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

Format = Literal["md", "csv", "latex", "hub", "fiftyone"]
FILES = ("md", "csv", "latex")  # the others are folders of files
INTRO = "# Leaderboard\n"  # LEADERBOARD.md leads to files that an export has not beside it


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
    boards = collect(results).boards
    if not boards:
        raise UsageError(f"{results}: no complete run yet, so there is nothing to export")
    splits = {board.split for board in boards}
    if split is not None and split not in splits:
        raise UnknownName("split with runs", split, splits)
    boards = tuple(board for board in boards if split in (None, board.split))
    if form in FILES and out.is_dir():
        raise UsageError(f"--out {out} is a folder; name the file to write")
    if form not in FILES and out.is_file():
        raise UsageError(f"--out {out} is a file; {form} writes several into a folder")
    match form:
        case "md":
            files = {out: leaderboard_markdown(Leaderboard(boards, ()), INTRO)}
        case "csv":
            files = {out: leaderboard_csv(boards)}
        case "latex":
            files = {out: leaderboard_latex(boards)}
        case "hub":
            files = {out / name: text for name, text in hub_files(boards, hub_dataset).items()}
        case "fiftyone":
            board = _only(boards)
            texts = fiftyone_files(results, board, load_split(board.split, resolved))
            files = {out / name: text for name, text in texts.items()}
    if there := next((path for path in files if path.exists() and not force), None):
        raise UsageError(f"{there} is there already; --force replaces it")
    for path, text in files.items():
        make_folder(path.parent)
        write_atomically(path, text.encode())
    return list(files)


def _only(boards: Sequence[Board]) -> Board:
    """The one table that FiftyOne takes: of one split, under the usual protocol where there are several."""
    if len({board.split for board in boards}) > 1:
        several = ", ".join(f"{board.split} ({board.protocol})" for board in boards)
        raise UsageError(f"fiftyone takes one split, and there are runs on {several}; choose one with --split")
    return next((board for board in boards if board.protocol == "iou" and not board.proposals), boards[0])
