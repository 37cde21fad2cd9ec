"""Stored results as pandas DataFrames: a row a run, a row of a leaderboard, a row an expression.

They are what `bench list runs`, `bench leaderboard export csv` and the files of a run hold. pandas is imported here.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import RunError

if TYPE_CHECKING:
    from pandas import DataFrame

    from bench.evaluation.scored import Evaluation

RUN_COLUMNS = (
    "run", "pipeline", "split", "status", "protocol", "n", "hits", "acc@0.5", "ci_low", "ci_high", "acc@0.7",
    "acc@0.9", "mean_iou", "no_box", "errors", "expressions_per_s", "device", "dtype", "seed", "provenance", "partial",
    "fingerprint", "settings_hash", "started", "finished",
)  # fmt: skip


def runs(results: str | Path = "results") -> DataFrame:
    """List every run stored under `results`, oldest name first; accuracies are fractions.

    Numbers of a run that is not complete are missing values. Raises RunError for a folder that is not there.
    """
    from bench.comparison.compared_runs import stored_records
    from bench.reporting.rows import run_row

    rows = []
    for folder, record in stored_records(_folder(results) / "runs"):
        row: dict[str, Any] = {**run_row(record, folder)}
        low, high = row["ci95"] or (None, None)
        identity = record.identity
        rows.append(
            row
            | {"run": str(folder), "status": record.status, "ci_low": low, "ci_high": high}
            | {"device": identity.device, "dtype": identity.dtype, "seed": identity.seed}
            | {"fingerprint": identity.data.fingerprint, "settings_hash": record.settings_hash}
            | {"started": record.started, "finished": record.finished}
        )
    return _frame(rows, RUN_COLUMNS)


def leaderboard(results: str | Path = "results", split: str | None = None) -> DataFrame:
    """List the rows of the leaderboards under `results`, or of one split, best first; columns as in its CSV.

    Raises RunError for a folder that is not there.
    """
    from bench.reporting import table
    from bench.reporting.boards import collect

    boards = [board for board in collect(_folder(results)).boards if split in (None, board.split)]
    rows = [row for board in boards for row in board.rows]
    columns = [column for column, _ in table.filled_columns("c", rows)]
    return _frame([{each.name: each.raw(row) for each in columns} for row in rows], [each.name for each in columns])


def outcomes(run: str | Path | Evaluation) -> DataFrame:
    """List every expression of a run's folder, or of an `Evaluation`: scene, id, iou, hit and more.

    An Evaluation knows text, boxes and notes too; a folder has the strata, a column each. Raises RunError.
    """
    if not isinstance(run, (str, Path)):
        return _frame([asdict(row) for row in run.rows])
    from bench.runs.integrity import checked_record
    from bench.runs.outcomes import read_outcomes

    checked_record(Path(run))
    stored = read_outcomes(Path(run))
    scenes = [stored.scenes[place] for place in stored.image.tolist()]
    columns = {"scene": scenes, "id": stored.ids, "iou": stored.iou, "hit": stored.hit}
    if stored.masks is not None:
        columns |= dict(zip(("mask_iou", "mask_intersection", "mask_union"), stored.masks.T, strict=True))
    return _frame(columns | {cut: list(labels) for cut, labels in stored.strata.items()})


def _folder(results: str | Path) -> Path:
    folder = Path(results)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder of results; `bench run --results {folder}` makes it")
    return folder


def _frame(data: Any, columns: Any = None) -> DataFrame:
    import pandas

    return pandas.DataFrame(data, columns=None if columns is None else list(columns))
