"""Compare the masks of runs pair by pair: the differences of mean IoU and of cIoU, from the draws of a comparison.

The mean is over expressions with a ground-truth mask, mIoU, or where some have no target over these too, gIoU
(docs/masks.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bench.comparison.compared_runs import ComparedRun
from bench.comparison.paired import Float, difference_interval, difference_p, holm, statistic
from bench.comparison.sample import MILLION, Sample
from bench.evaluation.statistics import resampled_sums


def mask_differences(
    runs: Sequence[ComparedRun],
    sample: Sample,
    pairs: Sequence[tuple[int, int]],
    draws: int,
    seed: int,
    confidence: float,
) -> list[dict[str, Any] | None]:
    """Compare the masks of each pair of runs; None where either has none, or theirs are not about the same ones.

    The keys are `miou`, or `giou` where some expressions have no target, and `ciou`; of each a, b, difference, ci95, p
    and p_holm, fractions, and n, the number of expressions.
    """
    which = [run for run, each in enumerate(runs) if each.outcomes.masks is not None]
    place = {run: column for column, run in enumerate(which)}
    chosen = [pair if _comparable(runs[pair[0]], runs[pair[1]]) else None for pair in pairs]
    if not any(chosen):
        return [None] * len(pairs)
    # 1. Each run's expressions with a mask, IoU, intersection and union, summed over images: (m, K, 4).
    stored = np.stack([_columns(runs[run]) for run in which], axis=1)
    table = sample.per_image(stored)
    totals = resampled_sums(table.reshape(len(table), -1), draws, seed).reshape(draws, len(which), 4)
    # 2. Two ratios of sums, of the whole split and of every draw.
    out: list[dict[str, Any] | None] = []
    for pair in chosen:
        if pair is None:
            out.append(None)
            continue
        a, b = (place[run] for run in pair)
        metrics = runs[pair[0]].metrics.masks
        mean = "giou" if metrics is not None and metrics.no_target else "miou"
        one, other = table[:, a], table[:, b]
        t = statistic((one - other)[:, 1], one[:, 0])
        out.append({
            "n": int(one[:, 0].sum()),
            mean: _difference(one, other, totals[:, a], totals[:, b], (1, 0, MILLION), confidence, t),
            "ciou": _difference(one, other, totals[:, a], totals[:, b], (2, 3, 1), confidence, 0.0),
        })  # fmt: skip
    # 3. Holm's correction, of each quantity for the number of its pairs.
    for name in ("miou", "giou", "ciou"):
        parts = [each[name] for each in out if each and name in each]
        for part, p in zip(parts, holm([part["p"] for part in parts]), strict=True):
            part["p_holm"] = p
    return out


def _columns(run: ComparedRun) -> Float:
    """Return whether there is a mask, IoU in millionths, intersection and union of expressions (N, 4)."""
    masks = run.outcomes.masks
    assert masks is not None
    some = np.isfinite(masks[:, :1])
    iou = np.rint(np.nan_to_num(masks[:, :1]) * MILLION)
    return np.hstack([some.astype(np.float64), iou, np.nan_to_num(masks[:, 1:])])


def _difference(
    one: Float, other: Float, drawn: Float, against: Float, of: tuple[int, int, int], confidence: float, t: float
) -> dict[str, Any]:
    """Compare the ratio of two columns, divided by a scale: per image (m, 4) and per draw (draws, 4) of both runs."""
    above, below, scale = of
    a, b = (float(each[:, above].sum()) / (scale * max(float(each[:, below].sum()), 1.0)) for each in (one, other))
    some = (drawn[:, below] > 0) & (against[:, below] > 0)
    drawn, against = drawn[some], against[some]
    differences = (drawn[:, above] / drawn[:, below] - against[:, above] / against[:, below]) / scale
    images = int(np.count_nonzero(one[:, 0]))
    ci95, p = difference_interval(differences, images, confidence), difference_p(differences, images, t)
    return {"a": a, "b": b, "difference": a - b, "ci95": ci95, "p": p}


def _comparable(a: ComparedRun, b: ComparedRun) -> bool:
    """Whether both runs have masks, compared with the same ground-truth masks."""
    if a.outcomes.masks is None or b.outcomes.masks is None:
        return False
    return _data(a) == _data(b) and bool((np.isnan(a.outcomes.masks) == np.isnan(b.outcomes.masks)).all())


def _data(run: ComparedRun) -> str:
    return run.metrics.masks.data if run.metrics.masks else ""


def mask_notes(runs: Sequence[ComparedRun]) -> Iterator[str]:
    """Yield why the masks of runs that have some are not compared."""
    having = [run for run in runs if run.metrics.masks]
    for run in having:
        if run.outcomes.masks is None:
            yield f"the masks of {run.label} are not compared: bench score {run.folder} --keep stores their outcomes"
    if others := [run.label for run in having if _data(run) != _data(having[0])]:
        yield (
            f"masks of {having[0].label} are not compared with those of {', '.join(others)}: the ground-truth masks "
            "are others; prepare the split with masks, and bench score RUN --keep"
        )
