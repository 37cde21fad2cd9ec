"""Every pair of two or more runs compared: the difference, its interval, and the strata it comes from.

A pair (A, B) is about B - A: a positive difference says that B is better. Every interval is from one set of draws of
images (bench/comparison/paired.py), so results of one call go together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.comparison.contestants import Contestant, contestants
from bench.comparison.paired import (
    detectable,
    difference_interval,
    difference_p,
    excluded,
    holm,
    mcnemar,
    standard_error,
)
from bench.comparison.results import Cells, Compared, Comparison, Flip, Pair, StratumDifference
from bench.comparison.sample import MILLION, Drawn, Sample, Stratum

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

FEW_FLIPPED = 10  # images; a bootstrap of so few events takes their chance direction for a finding


def compare(
    folders: Sequence[Path], draws: int = 10_000, seed: int = 0, confidence: float = 0.95, baseline_only: bool = False
) -> Comparison:
    """The runs in these folders compared: every pair, or with `baseline_only` each with the first.

    Reads run.json and outcomes.jsonl alone. Raises RunError, with the reason, for runs that cannot be compared.
    """
    runs = contestants(folders)
    sample = Sample.of(runs)
    drawn = sample.drawn(draws, seed)
    wanted = (pair for pair in combinations(range(len(runs)), 2) if pair[0] == 0 or not baseline_only)
    pairs = [_pair(runs, a, b, sample, drawn, confidence) for a, b in wanted]
    corrected = holm([pair.p for pair in pairs])
    settled = tuple(
        replace(pair, p_holm=p, significant=p <= 1 - confidence) for pair, p in zip(pairs, corrected, strict=True)
    )
    first = runs[0].record
    return Comparison(
        split=first.identity.data.split,
        protocol=first.protocol,
        signature=first.signature,
        n=runs[0].metrics.n,
        images=sample.images,
        draws=draws,
        seed=seed,
        confidence=confidence,
        runs=tuple(
            Compared(
                label=run.label,
                pipeline=run.record.name,
                name=run.name,
                run_dir=run.folder.as_posix(),
                confidence=run.metrics.bootstrap.confidence,
                **{key: getattr(run.metrics, key) for key in ("hits", "accuracy", "ci95", "mean_iou")},
            )
            for run in runs
        ),
        pairs=settled,
        notes=tuple(_notes(runs, settled, sample.images, draws, confidence)),
    )


def _pair(runs: Sequence[Contestant], a: int, b: int, sample: Sample, drawn: Drawn, confidence: float) -> Pair:
    hit_a, hit_b = sample.hit[:, a], sample.hit[:, b]
    n, images = len(hit_a), sample.images
    a_only, b_only = hit_a & ~hit_b, hit_b & ~hit_a
    differences = sample.per_image(hit_b.astype(np.int64) - hit_a)
    error = standard_error(differences, sample.per_image(np.ones(n))) if n else math.nan
    difference = drawn.difference(a, b)
    observed = _part(int(b_only.sum()) - int(a_only.sum()), n)
    p = difference_p(difference, images, observed / error if error > 0 else 0.0)
    gained = int(sample.iou[:, b].sum()) - int(sample.iou[:, a].sum())
    return Pair(
        a=runs[a].label,
        b=runs[b].label,
        difference=observed,
        ci95=difference_interval(difference, images, confidence),
        p=p,
        p_holm=p,  # of one pair; `compare` corrects for their number
        significant=p <= 1 - confidence,
        standard_error=None if math.isnan(error) else error,
        detectable=detectable(error, images, confidence),
        cells=Cells(
            both=int((hit_a & hit_b).sum()),
            a_only=int(a_only.sum()),
            b_only=int(b_only.sum()),
            neither=int((~hit_a & ~hit_b).sum()),
        ),
        images_flipped=len(np.unique(sample.image[a_only | b_only])),
        mcnemar_p=mcnemar(int(a_only.sum()), int(b_only.sum())),
        mean_iou_difference=_part(gained, n * MILLION),
        mean_iou_ci95=difference_interval(drawn.iou_difference(a, b), images, confidence),
        strata=tuple(
            _stratum(stratum, a_only, b_only, drawn.difference(a, b, number), confidence)
            for number, stratum in enumerate(sample.strata)
        ),
        flips=tuple(_flips(runs[a], runs[b], a_only, b_only)),
    )


def _part(count: int, whole: int) -> float:
    return count / whole if whole else 0.0


def _stratum(stratum: Stratum, a_only: Bool, b_only: Bool, drawn: Float, confidence: float) -> StratumDifference:
    ahead, behind = int(b_only[stratum.rows].sum()), int(a_only[stratum.rows].sum())
    return StratumDifference(
        cut=stratum.cut,
        label=stratum.label,
        n=len(stratum.rows),
        a_only=behind,
        b_only=ahead,
        difference=_part(ahead - behind, len(stratum.rows)),
        ci95=difference_interval(drawn, stratum.images, confidence),
    )


def _flips(a: Contestant, b: Contestant, a_only: Bool, b_only: Bool) -> Iterator[Flip]:
    """In the order of the split."""
    ids, scenes, image = a.outcomes.ids, a.outcomes.scenes, a.outcomes.image.tolist()
    for at in np.flatnonzero(a_only | b_only).tolist():
        iou = (float(a.outcomes.iou[at]), float(b.outcomes.iou[at]))
        yield Flip(ids[at], scenes[image[at]], (a if a_only[at] else b).label, iou)


def _notes(
    runs: Sequence[Contestant], pairs: Sequence[Pair], images: int, draws: int, confidence: float
) -> Iterator[str]:
    """What a reader must know beside the numbers."""
    data = runs[0].record.identity.data
    if data.partial:
        yield f"partial: the first {data.images:,} images of {data.split} only"
    for run in runs:
        if run.record.git.get("dirty"):
            yield f"{run.label} was made by code that is in no commit"
        if run.metrics.errors:
            yield f"{run.label} could not read {run.metrics.errors:,} images; their expressions are misses"
    if excluded(draws, images, confidence) < 1:
        yield f"{images} images and {draws:,} draws are too few for an interval"
    for pair in pairs:
        if 0 < pair.images_flipped < FEW_FLIPPED:
            yield (
                f"{pair.a} and {pair.b} differ on {pair.images_flipped} images only: too few for the interval to "
                "be trusted; see McNemar's p"
            )
