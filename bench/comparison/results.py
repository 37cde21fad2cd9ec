"""What a comparison finds, as plain values: the runs, every pair of them, and what a reader must know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.comparison.paired import Interval


@dataclass(frozen=True, slots=True)
class Compared:
    """One of the runs: its own numbers, and the confidence of its own interval, as its record has them."""

    label: str
    pipeline: str
    name: str
    run_dir: str
    hits: int
    accuracy: float
    ci95: Interval
    confidence: float
    mean_iou: float


@dataclass(frozen=True, slots=True)
class Cells:
    """How many expressions both hit, A only, B only, neither."""

    both: int
    a_only: int
    b_only: int
    neither: int


@dataclass(frozen=True, slots=True)
class StratumDifference:
    """A pair within one stratum; the interval is not corrected for the number of strata."""

    cut: str
    label: str
    n: int
    a_only: int
    b_only: int
    difference: float
    ci95: Interval


@dataclass(frozen=True, slots=True)
class Flip:
    """An expression that one of the two hits and the other misses. `iou` is (A's, B's)."""

    id: str
    scene: str
    right: str
    iou: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Pair:
    """B against A; fractions, B - A. `p` is of the paired bootstrap, `p_holm` corrected for the number of pairs."""

    a: str
    b: str
    difference: float
    ci95: Interval
    p: float
    p_holm: float
    significant: bool
    standard_error: float | None
    detectable: float | None
    cells: Cells
    images_flipped: int
    mcnemar_p: float
    mean_iou_difference: float
    mean_iou_ci95: Interval
    strata: tuple[StratumDifference, ...]
    flips: tuple[Flip, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything `bench compare` says. `images` are those with an expression; `notes` what a reader must know."""

    split: str
    protocol: str
    signature: str
    n: int
    images: int
    draws: int
    seed: int
    confidence: float
    runs: tuple[Compared, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    def as_object(self, texts: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Plain values for JSON; `texts` (id -> expression) go with the flips where the split is at hand."""
        whole = asdict(self)
        for run in whole["runs"]:
            run["acc@0.5"] = run.pop("accuracy")
        if texts is not None:
            for pair in whole["pairs"]:
                for flip in pair["flips"]:
                    flip["text"] = texts.get(flip["id"])
        return whole

    def flips(self, texts: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Every flip of every pair as one plain row, the names of the runs beside their labels."""
        names = {run.label: run.name for run in self.runs}
        return [
            {"a": names[pair.a], "b": names[pair.b], **asdict(flip), "right": names[flip.right]}
            | ({} if texts is None else {"text": texts.get(flip.id)})
            for pair in self.pairs
            for flip in pair.flips
        ]
