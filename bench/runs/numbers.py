"""Numbers of a run as models: what they mean, and what they cannot be.

A file is data that anybody may have edited, so an accuracy that is not hits / n, an interval that does not hold its
accuracy, strata of more expressions than there are, and a rate that is infinite or negative are refused when read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

FEW = 30  # images, or expressions: an older version's interval of fewer is left out
OLD = "few images, and an older version; `bench score RUN --keep` computes it"
EXACT = 1e-9
ROUNDED = 1e-6  # intervals of few images have 6 decimals
SURE = (1000, 0.8)  # draws and confidence from which a bootstrap's interval holds the accuracy
FASTEST = 1e9  # a second: no pipeline is so fast

Interval = tuple[float, float]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PerSecond = Annotated[float, Field(ge=0, le=FASTEST)]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Stratum(Model):
    """One row of a breakdown, for example kind=relation; its interval is None where too few images tell of it.

    `ci95_note` says which images inform an interval of few images ("4 images"; bench/evaluation/statistics.py).
    """

    n: Count
    hits: Count
    accuracy: float = Field(alias="acc@0.5")
    ci95: Interval | None
    ci95_note: str | None = Field(None, description="empty for the bootstrap's; None where an older version made it")

    @model_validator(mode="after")
    def _adds_up(self) -> Stratum:
        if self.hits > self.n:
            raise ValueError(f"{self.hits:,} hits of {self.n:,} expressions")
        if not math.isclose(self.accuracy, self.hits / max(self.n, 1), rel_tol=0, abs_tol=EXACT):
            raise ValueError(f"acc@0.5 is {self.accuracy!r}, but {self.hits:,} hits of {self.n:,} give another")
        if self.ci95 is not None and not 0 <= self.ci95[0] <= self.ci95[1] <= 1:
            raise ValueError(f"ci95 {list(self.ci95)} is no interval of fractions")
        return self

    @property
    def is_inside(self) -> bool:
        """Tell whether the interval holds the accuracy."""
        return self.ci95 is None or self.ci95[0] - ROUNDED <= self.accuracy <= self.ci95[1] + ROUNDED


class Bootstrap(Model):
    """Settings of the intervals' bootstrap, so that a re-score draws the same ones."""

    draws: int = Field(ge=1)
    seed: int = Field(ge=0)
    confidence: float = Field(gt=0, lt=1)


class Ratio(Model):
    """A share with its interval over images."""

    value: Fraction
    ci95: Interval | None
    ci95_note: str = ""


class MaskMetrics(Model):
    """The numbers of a run's masks (docs/masks.md); the last three are None where every expression has a target.

    `n` expressions have a ground-truth mask or no target (`no_target` of them); `no_mask` counts those with a target
    and without a predicted pixel; `data` is the hash of the ground-truth masks; `precision` is by threshold.
    """

    n: Count
    no_target: Count
    no_mask: Count
    data: str
    ciou: Ratio
    miou: Ratio
    precision: Mapping[str, Ratio]
    giou: Ratio | None = None
    no_target_accuracy: Ratio | None = None
    target_accuracy: Ratio | None = None


class SeveralMetrics(Model):
    """The numbers of a run under a protocol over sets of boxes (docs/several.md).

    `exact` is the share with F1 = 1, which is the run's accuracy; the two accuracies are None where no expression is of
    their kind. `no_target` expressions refer to nothing, `several` to more than one object; `boxes` counts predicted
    ones; `one_box` says that no prediction had more than one; `threshold` is the score below which boxes are left out.
    """

    no_target: Count
    several: Count
    boxes: Count
    one_box: bool
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None
    exact: Ratio
    mean_f1: Ratio
    no_target_accuracy: Ratio | None = None
    target_accuracy: Ratio | None = None


class Metrics(Stratum):
    """The numbers of a run under one protocol; accuracies are fractions, `oracle` None without proposals.

    `no_box` counts expressions about readable images without a usable box, `errors` images that could not be read,
    `duplicates` dropped second answers to one expression.
    """

    ci95_note: str | None = None
    accuracy_70: Fraction = Field(alias="acc@0.7")
    accuracy_90: Fraction = Field(alias="acc@0.9")
    mean_iou: Fraction
    oracle: Fraction | None = Field(alias="oracle@0.5")
    proposals_per_image: Amount | None
    no_box: Count
    errors: Count
    duplicates: Count = 0
    bootstrap: Bootstrap = Bootstrap(draws=10_000, seed=0, confidence=0.95)
    masks: MaskMetrics | None = Field(None, description="where the split and the answers have masks")
    several: SeveralMetrics | None = Field(None, description="under a protocol over sets of boxes")
    strata: Mapping[str, Mapping[str, Stratum]]

    @model_validator(mode="after")
    def _holds_its_parts(self) -> Metrics:
        parts = {f"strata.{cut}.{label}": part for cut, own in self.strata.items() for label, part in own.items()}
        if self.bootstrap.draws >= SURE[0] and self.bootstrap.confidence >= SURE[1]:
            for where, part in {"metrics": self, **parts}.items():
                if not part.is_inside:
                    raise ValueError(f"{where}: acc@0.5 {part.accuracy!r} lies outside ci95 {list(part.ci95 or ())}")
        for cut, own in self.strata.items():
            n, hits = sum(part.n for part in own.values()), sum(part.hits for part in own.values())
            if n > self.n or hits > self.hits:
                raise ValueError(f"strata.{cut}: {hits:,} hits of {n:,}, more than the {self.hits:,} of {self.n:,}")
        if self.several is not None and not math.isclose(self.several.exact.value, self.accuracy, abs_tol=EXACT):
            raise ValueError(f"several.exact is {self.several.exact.value!r}, but acc@0.5 {self.accuracy!r}")
        if self.no_box > self.n:
            raise ValueError(f"no_box is {self.no_box:,} of {self.n:,} expressions")
        return self


class Throughput(Model):
    """Seconds of the evaluation itself, loading left out, summed over every session of the run."""

    seconds: Amount
    images_per_s: PerSecond | None
    expressions_per_s: PerSecond | None
    stages: Mapping[str, Amount]
    peak_memory_mb: Amount | None
    device_memory_mb: Amount | None
    load_seconds: Amount | None


def without_old_intervals(metrics: Any, images: int) -> Any:
    """Return raw metrics without the too narrow intervals that older versions gave to few images."""
    if not isinstance(metrics, dict) or "ci95_note" in metrics or "ci95" not in metrics:
        return metrics
    few = images < FEW
    strata = {
        cut: {label: _without_interval(part, few) for label, part in labels.items()}
        for cut, labels in metrics["strata"].items()
    }
    return _without_interval(metrics, few) | {"strata": strata}


def _without_interval(part: dict[str, Any], few: bool) -> dict[str, Any]:
    return part | {"ci95": None, "ci95_note": OLD} if few or part["n"] < FEW or part["hits"] in (0, part["n"]) else part
