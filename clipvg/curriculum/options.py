"""[train.clipvg.curriculum]: how a curriculum searches, by what it judges, and what its inner trainings may cost."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from clipvg.curriculum.search import Grid

Criterion = Literal["labelled", "held-out", "agreement"]


class CurriculumOptions(BaseModel):
    """The paper's search is the default: labelled val decides, and inner trainings are as long as the last one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    criterion: Criterion = Field(
        "labelled",
        description="what a trial is worth: Acc@0.5 on labelled val, as in the paper; or, without any label, on "
        "pseudo-labels of pictures held out of every training: on their boxes (held-out), or on the boxes that the "
        "measurers give for their phrases (agreement)",
    )
    held_out: float = Field(0.05, gt=0, lt=1, description="share of the pictures held out, where no label decides")
    start: float = Field(0.5, ge=0, le=1, description="the threshold at which a search begins")
    step: float = Field(0.1, gt=0, le=0.5)
    low: float = Field(0.0, ge=0, le=1)
    high: float = Field(0.9, ge=0, le=1)
    proxy: dict[str, Any] = Field(default_factory=dict, description="laid over the recipe of trials: { epochs = 10 }")
    proxy_rows: float = Field(1.0, gt=0, le=1, description="share of a selection's rows that a trial trains on")
    measurer: dict[str, Any] = Field(default_factory=dict, description="laid over the recipe of measurers")
    measurers: dict[str, str] = Field(default_factory=dict, description="source -> weights that measure it already")

    @model_validator(mode="after")
    def _start_within(self) -> CurriculumOptions:
        if not self.low <= self.start <= self.high:
            raise ValueError(f"start = {self.start:g} should lie between low = {self.low:g} and high = {self.high:g}")
        return self

    @property
    def grid(self) -> Grid:
        """The thresholds there are."""
        return Grid(self.start, self.step, self.low, self.high)
