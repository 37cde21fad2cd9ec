"""Compare two or more runs pair by pair: the difference, its interval, and the strata it comes from.

A pair (A, B) is about A - B: a negative difference says that B is better. Every interval is from one set of draws of
images (bench/comparison/paired.py), so results of one call go together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.comparison.compared_runs import MOST_NAMED, ComparedRun, read_runs, run_notes
from bench.comparison.mask_pairs import mask_differences, mask_notes
from bench.comparison.paired import (
    FEW_DIFFERENT,
    detectable,
    difference_interval,
    excluded,
    few_different,
    holm,
    mcnemar,
    paired_interval,
    paired_p,
    standard_error,
)
from bench.comparison.sample import MILLION, Sample
from bench.evaluation.statistics import Interval

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pair:
    """A against B; fractions, A - B. `p` is of the paired bootstrap, `p_holm` corrected for the number of pairs.

    `cells` counts the expressions that both hit, A only, B only, neither. `strata` have cut, label, n, a_only, b_only,
    difference, ci95 (not corrected for the number of strata), few_different: images on which the numbers of hits
    differ where these are few, else None. `flips` are what one of the two hits: id, scene, right (label), iou (A, B).
    `masks` are the numbers of `mask_differences`, None unless both runs have masks.
    """

    a: str
    b: str
    difference: float
    ci95: Interval
    few_different: int | None
    p: float
    p_holm: float
    significant: bool
    standard_error: float | None
    detectable: float | None
    cells: Mapping[str, int]
    images_flipped: int
    mcnemar_p: float
    mean_iou_difference: float
    mean_iou_ci95: Interval
    strata: tuple[Mapping[str, Any], ...]
    flips: tuple[Mapping[str, Any], ...]
    masks: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything `bench compare` says. `images` are those with an expression; `notes` what a reader must know.

    `runs` have label, pipeline, name, run_dir, hits, acc@0.5, mean_iou, and their record's own ci95 and confidence.
    """

    split: str
    protocol: str
    signature: str
    n: int
    images: int
    draws: int
    seed: int
    confidence: float
    runs: tuple[Mapping[str, Any], ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    def as_object(self, texts: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return plain values for JSON; `texts` (id -> expression) go with the flips where the split is at hand."""
        whole = asdict(self)
        for pair in whole["pairs"]:
            pair["flips"] = [_with_text(flip, texts) for flip in pair["flips"]]
        return whole

    def flips(self, texts: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Return every flip of every pair as one plain row, with the names of the runs for their labels."""
        names = {run["label"]: run["name"] for run in self.runs}
        return [
            _with_text({"a": names[pair.a], "b": names[pair.b], **flip, "right": names[flip["right"]]}, texts)
            for pair in self.pairs
            for flip in pair.flips
        ]


def _with_text(flip: Mapping[str, Any], texts: Mapping[str, str] | None) -> dict[str, Any]:
    return {**flip} if texts is None else {**flip, "text": texts.get(flip["id"])}


def compare(
    folders: Sequence[Path],
    draws: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
    baseline_only: bool = False,
    labels: Sequence[str] | None = None,
) -> Comparison:
    """Compare the runs in these folders: every pair, or with `baseline_only` each with the first.

    `labels` name the runs in the result and its notes; by default they are A, B, C ...
    Reads run.json and outcomes.jsonl alone. Raises RunError, with the reason, for runs that cannot be compared.
    """
    runs = read_runs(folders, labels)
    sample = Sample(runs)
    # 1. One set of draws of images for all pairs and strata.
    totals = sample.resampled(draws, seed)
    chosen = [pair for pair in combinations(range(len(runs)), 2) if pair[0] == 0 or not baseline_only]
    pairs = [_pair(runs, a, b, sample, totals, confidence) for a, b in chosen]
    # 2. Holm's correction for the number of pairs, and the verdict.
    corrected = holm([pair.p for pair in pairs])
    masks = mask_differences(runs, sample, chosen, draws, seed, confidence)
    settled = tuple(
        replace(pair, p_holm=p, significant=p <= 1 - confidence, masks=own)
        for pair, p, own in zip(pairs, corrected, masks, strict=True)
    )
    first = runs[0].record
    return Comparison(
        split=first.identity.data.split,
        protocol=first.rule,
        signature=first.comparable,
        n=runs[0].metrics.n,
        images=sample.images,
        draws=draws,
        seed=seed,
        confidence=confidence,
        runs=tuple(
            {
                "label": run.label,
                "pipeline": run.record.name,
                "name": run.name,
                "run_dir": run.folder.as_posix(),
                "hits": run.metrics.hits,
                "ci95": run.metrics.ci95,
                "ci95_note": run.metrics.ci95_note,
                "confidence": run.metrics.bootstrap.confidence,
                "mean_iou": run.metrics.mean_iou,
                "acc@0.5": run.metrics.accuracy,
            }
            for run in runs
        ),
        pairs=settled,
        notes=(*run_notes(runs), *mask_notes(runs), *pair_notes(settled, sample.images, draws, confidence)),
    )


def _pair(runs: Sequence[ComparedRun], a: int, b: int, sample: Sample, totals: Float, confidence: float) -> Pair:
    hit_a, hit_b = sample.hit[:, a], sample.hit[:, b]
    n, images = len(hit_a), sample.images
    # 1. The four cells of the pair, and its difference.
    a_only, b_only = hit_a & ~hit_b, hit_b & ~hit_a
    cells = {"both": hit_a & hit_b, "a_only": a_only, "b_only": b_only, "neither": ~hit_a & ~hit_b}
    gain = hit_a.astype(np.int64) - hit_b
    # 2. The clustered standard error, from the sums of each image.
    gains, counts = sample.per_image(gain), sample.per_image(np.ones(n))
    error = standard_error(gains, counts) if n else math.nan
    # 3. Interval and p from the same draws.
    drawn = sample.hit_differences(totals, a, b)
    p = paired_p(drawn, gains, counts) if n else 1.0
    gained = int(sample.iou[:, a].sum()) - int(sample.iou[:, b].sum())
    return Pair(
        a=runs[a].label,
        b=runs[b].label,
        difference=_part(int(gain.sum()), n),
        ci95=paired_interval(drawn, gains, counts, confidence),
        few_different=few_different(gains),
        p=p,
        p_holm=p,  # of one pair; `compare` corrects for their number
        significant=p <= 1 - confidence,
        standard_error=None if math.isnan(error) else error,
        detectable=detectable(error, images, confidence),
        cells={name: int(which.sum()) for name, which in cells.items()},
        images_flipped=len(np.unique(sample.image[a_only | b_only])),
        mcnemar_p=mcnemar(int(a_only.sum()), int(b_only.sum())),
        mean_iou_difference=_part(gained, n * MILLION),
        mean_iou_ci95=difference_interval(sample.iou_differences(totals, a, b), images, confidence),
        strata=tuple(
            {
                "cut": cut,
                "label": label,
                "n": len(rows),
                "a_only": int(a_only[rows].sum()),
                "b_only": int(b_only[rows].sum()),
                "difference": _part(int(gain[rows].sum()), len(rows)),
                "ci95": paired_interval(sample.hit_differences(totals, a, b, number), *within, confidence),
                "few_different": few_different(within[0]),
            }
            for number, (cut, label, rows) in enumerate(sample.strata)
            for within in [sample.within(gain, rows)]
        ),
        flips=tuple(_flips(runs[a], runs[b], a_only, b_only)),
    )


def _part(count: int, whole: int) -> float:
    return count / whole if whole else 0.0


def _flips(a: ComparedRun, b: ComparedRun, a_only: Bool, b_only: Bool) -> Iterator[Mapping[str, Any]]:
    """Yield the flips in the order of the split."""
    ids, scenes, image = a.outcomes.ids, a.outcomes.scenes, a.outcomes.image.tolist()
    for at in np.flatnonzero(a_only | b_only).tolist():
        iou = (float(a.outcomes.iou[at]), float(b.outcomes.iou[at]))
        yield {"id": ids[at], "scene": scenes[image[at]], "right": (a if a_only[at] else b).label, "iou": iou}


def pair_notes(pairs: Sequence[Pair], images: int, draws: int, confidence: float) -> Iterator[str]:
    """Yield what limits the intervals of these pairs."""
    if excluded(draws, images, confidence) < 1:
        yield f"{images} images and {draws:,} draws are too few for a bootstrap over images"
    if few := [pair for pair in pairs if pair.few_different is not None]:
        named = [f"{pair.a} and {pair.b} on {pair.few_different}" for pair in few[:MOST_NAMED]]
        more = f" and {len(few) - MOST_NAMED:,} more pairs" if len(few) > MOST_NAMED else ""
        yield (
            f"runs that differ on fewer than {FEW_DIFFERENT} images, so their interval is Student's and wide: "
            f"{', '.join(named)}{more}; see McNemar's exact test too"
        )
