"""List one run as a row: the JSON contract of `bench run`, and the leaderboard's row, which adds to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from bench.runs.record import RunRecord

METRICS = (
    "n", "hits", "acc@0.5", "ci95", "ci95_note", "acc@0.7", "acc@0.9", "mean_iou", "oracle@0.5", "no_box", "errors",
    "duplicates", "proposals_per_image",
)  # fmt: skip

MASK_METRICS = {"ciou": "ciou", "mask_miou": "miou"}  # name in tables -> key of `masks`

RunRow = TypedDict(
    "RunRow",
    {
        "pipeline": str,
        "split": str,
        "n": int,
        "hits": int,
        "acc@0.5": float,
        "ci95": Sequence[float] | None,
        "ci95_note": str | None,
        "acc@0.7": float,
        "acc@0.9": float,
        "mean_iou": float,
        "oracle@0.5": float | None,
        "no_box": int,
        "errors": int,
        "duplicates": int,
        "proposals_per_image": float | None,
        # Only under a protocol over sets of boxes: `SeveralMetrics` (bench/runs/numbers.py).
        "several": NotRequired[Mapping[str, Any]],
        # Only where there are some: `MaskMetrics` (bench/runs/numbers.py), and `by`, what made masks of the boxes.
        "masks": NotRequired[Mapping[str, Any]],
        # Only of perturbed scenes: the kind, and what it costs against the plain run (bench/cli/run.py).
        "perturbed": NotRequired[str],
        "drop": NotRequired[Mapping[str, Any] | None],
        "strata": Mapping[str, Mapping[str, Any]],  # cut -> label -> {n, hits, acc@0.5, ci95, ci95_note}
        "expressions_per_s": float | None,  # of the whole evaluation
        "images_per_s": float | None,
        "peak_memory_mb": float | None,
        "run_dir": str,
        "protocol": str,
        "signature": str,
        "provenance": str,
        "partial": bool,
        "missing": int | None,  # the last three are about imported boxes
        "extra": int | None,
        "other_image": int | None,
    },
)


class Row(RunRow):
    """A row of a leaderboard."""

    device: str
    dtype: str
    weights: Mapping[str, str]  # sha256 of each part
    weights_names: Mapping[str, str]
    trained_on: str
    training_data: str  # one word (bench/grounding.py, PipelineCard)
    licence: str
    saw_test_images: str
    parameters: int | None  # of the whole pipeline
    date: str
    commit: str | None
    settings_hash: str
    submitted: str | None  # the date on which another person's run was accepted
    # Of the speed record: expressions_per_s and images_per_s ({median, low, high}), batch_size, p50_ms, p90_ms, p99_ms,
    # joules_per_expression, noisy (reasons), date, commit, record.
    speed: Mapping[str, Any] | None
    latency_ms: float | None  # its p50
    peak_gb: float | None  # its peak memory in 10**9 bytes
    peak_gb_of: str | None  # "device" or "process"
    published: Sequence[Mapping[str, Any]]  # what papers report (bench/reporting/published.py, `compared`)
    # Older runs, newest first: {date, commit, acc@0.5, difference, run_dir}; difference is this row minus theirs.
    history: Sequence[Mapping[str, Any]]
    other_masks: NotRequired[bool]  # its masks were scored by other ground-truth masks than the table's
    rank: Sequence[int] | None  # best and worst, from 1; null with the reason in rank_note
    rank_note: str


def number_of(row: Mapping[str, Any], metric: str) -> float | None:
    """Return a number of a row by its name in tables; None for one of masks in a row without."""
    if metric in MASK_METRICS:
        value: float | None = row["masks"][MASK_METRICS[metric]]["value"] if "masks" in row else None
        return value
    return float(row[metric])


def run_row(record: RunRecord, run_dir: Path | str) -> RunRow:
    """Return a run as the JSON contract has it: fractions with full precision, unknown values null."""
    metrics: dict[str, Any] = {} if record.metrics is None else record.metrics.model_dump(mode="json", by_alias=True)
    speed = record.throughput
    out: dict[str, Any] = {"pipeline": record.name, "split": record.identity.data.split}
    out |= {key: metrics.get(key) for key in METRICS} | {"strata": metrics.get("strata", {})}
    if metrics.get("masks"):
        maker = record.identity.options.get("masks")
        out["masks"] = {**metrics["masks"], "by": maker.get("kind") if isinstance(maker, Mapping) else None}
    if metrics.get("several"):
        out["several"] = metrics["several"]
    if record.perturbed:
        out["perturbed"] = record.perturbed
    for key in ("expressions_per_s", "images_per_s", "peak_memory_mb"):
        out[key] = getattr(speed, key) if speed else None
    out |= {
        "run_dir": str(run_dir),
        "protocol": record.protocol,
        "signature": record.signature,
        "provenance": record.provenance,
        "partial": record.identity.data.partial,
    }
    for key in ("missing", "extra", "other_image"):
        out[key] = None if record.imported is None else getattr(record.imported, key)
    return cast(RunRow, out)
