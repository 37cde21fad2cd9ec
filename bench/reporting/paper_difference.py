"""Compare a stored run with a published number, of which nothing but a percentage is known.

What the paper does not say is assumed, and printed: the same expressions; hits as its rounded percentage gives them; a
design effect of images as the run's own; and either independence, or the correlation of the run with other stored runs
of the split. Runs on the same expressions are alike, so independence makes the interval too wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.comparison.compared_runs import stored_records
from bench.comparison.paired import NORMAL, standard_error
from bench.errors import RunError, UnknownName, UsageError
from bench.reporting.boards import supervision
from bench.reporting.cells import interval, percent, signed
from bench.reporting.published import Published, find_published_split, on_split
from bench.runs.integrity import checked_record
from bench.runs.outcomes import read_outcomes
from bench.runs.record import RunRecord

ENOUGH = 3  # stored runs of the split, this one included, from which a correlation is taken
Float = NDArray[np.float64]


def against_published(folder: Path, name: str, results: Path, confidence: float = 0.95) -> list[dict[str, Any]]:
    """Compare a run (A) with the published values of a method (B) -> their differences, A - B, as fractions.

    Raises UnknownName with the nearest methods, UsageError where every value is a mean of IoU or of another protocol,
    RunError for a run that is unfinished or partial.
    """
    record, outcomes = checked_record(folder), read_outcomes(folder)
    if record.status != "complete" or record.identity.data.partial or not outcomes.ids:
        raise RunError(f"{folder}: is unfinished or a part of its split; papers are about the whole split")
    entries = _entries(record, name)
    own, counts = outcomes.per_image(outcomes.hit)
    n, rate = len(outcomes.ids), float(outcomes.hit.mean())
    error = standard_error(own, counts)
    error = 0.0 if math.isnan(error) else error
    effect = max(1.0, error**2 / (rate * (1 - rate) / n)) if 0 < rate < 1 else 1.0
    alike = _correlations(folder, record, results, outcomes.ids, own, counts)
    correlation = float(np.mean(alike)) if len(alike) + 1 >= ENOUGH else 0.0
    z = NORMAL.inv_cdf(1 - (1 - confidence) / 2)
    rows = []
    for entry in entries:
        value = entry.values[find_published_split(record.identity.data.split)]
        theirs, rounding = value / 100, 0.005 / 10 ** len(str(value).partition(".")[2])
        error_b = math.sqrt(effect * theirs * (1 - theirs) / n)
        spread = math.sqrt(max(0.0, error**2 + error_b**2 - 2 * correlation * error * error_b))
        half = z * spread + rounding
        gap = rate - theirs
        rows.append(
            {
                **entry.model_dump(
                    mode="json", include={"method", "backbone", "training", "protocol", "source", "how"}
                ),
                "value": value,
                "hits": [math.ceil((theirs - rounding) * n - 1e-9), math.floor((theirs + rounding) * n + 1e-9)],
                "n": n,
                "acc@0.5": rate,
                "difference": gap,
                "ci95": (gap - half, gap + half),
                "confidence": confidence,
                "significant": abs(gap) > half,
                "design_effect": effect,
                "correlation": correlation,
                "correlations": sorted(alike) if correlation else [],
                "notes": list(_notes(record, entry)),
            }
        )
    return rows


def _entries(record: RunRecord, name: str) -> list[Published]:
    """Return the values that `name` means and a run can be compared with."""
    split = find_published_split(record.identity.data.split)
    listed = on_split(split)
    wanted = name.casefold()
    named = [entry for entry in listed if entry.method.casefold() == wanted]
    named = named or [entry for entry in listed if wanted in f"{entry.method}, {entry.backbone}".casefold()]
    if not named:
        hint = f"`bench leaderboard published {split}` lists them"
        raise UnknownName(
            f"method with a published value for {split}", name, {e.method.partition(", ")[0] for e in listed}, hint
        )
    fitting = [e for e in named if e.metric == "acc@0.5" and e.protocol in ("unknown", record.protocol)]
    if not fitting:
        reasons = {"a mean of IoU" if e.metric != "acc@0.5" else f"of protocol {e.protocol!r}" for e in named}
        raise UsageError(
            f"{named[0].method} on {split} is {' or '.join(sorted(reasons))}, the run is Acc@0.5 of protocol "
            f"{record.protocol!r}; run or import it again with --protocol, or name another method"
        )
    return fitting


def _correlations(
    folder: Path, record: RunRecord, results: Path, ids: Sequence[str], own: Float, counts: Float
) -> list[float]:
    """Correlate the run's hits with those of every other stored run of the same signature, over images."""
    mine = own - own.sum() / counts.sum() * counts
    alike = []
    for path, other in stored_records(results / "runs"):
        if other.comparable != record.comparable or other.status != "complete" or path.resolve() == folder.resolve():
            continue
        try:
            outcomes = read_outcomes(path)
        except RunError:
            continue
        hits, other_counts = outcomes.per_image(outcomes.hit)
        if outcomes.ids != ids or not np.array_equal(other_counts, counts):
            continue
        rest = hits - hits.sum() / counts.sum() * counts
        scale = math.sqrt(float(mine @ mine) * float(rest @ rest))
        if scale and not np.array_equal(hits, own):  # the same run once more is no other pipeline
            alike.append(float(mine @ rest) / scale)
    return alike


def _notes(record: RunRecord, entry: Published) -> Iterator[str]:
    if entry.protocol == "unknown":
        yield f"its protocol is unknown, the run's is {record.protocol}"
    training = supervision(record)
    if training != entry.training:
        yield f"its training is {entry.training}, the run's {training}"
    if entry.how in ("recalled", "third-party", "inferred"):
        yield f"the value is {entry.how}: nobody looked it up at its source"


def sentences(record: RunRecord, row: Mapping[str, Any]) -> Iterator[str]:
    """Word a comparison with a published value, the verdict first."""
    verdict = "too close to call"
    if row["significant"]:
        verdict = "A is better" if row["difference"] > 0 else "B is better"
    gap = f"A - B = {signed(100 * row['difference'])} points {interval(row['ci95'])}"
    yield f"A {percent(row['acc@0.5'])}, B {row['value']:.2f}: {verdict}, {gap}"
    yield f"  A = {record.name}; B = {', '.join(filter(None, (row['method'], row['backbone'])))}: {row['source']}"
    low, high = row["hits"]
    hits = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    alike = row["correlations"]
    related = (
        f"they correlate over images as A with {len(alike)} other stored runs of the split, {row['correlation']:.2f} "
        f"({alike[0]:.2f} to {alike[-1]:.2f})"
        if alike
        else f"they are independent, which makes the interval wide: fewer than {ENOUGH} stored runs of the split"
    )
    yield (
        f"  assumed: B has {hits} hits of the same {row['n']:,} expressions; images vary as for A (design effect "
        f"{row['design_effect']:.2f}); {related}"
    )
    for note in row["notes"]:
        yield f"  {note}"
