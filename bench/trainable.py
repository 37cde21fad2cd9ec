"""What training is handed and what it gives back, and the other doors to a pipeline's weights: export, first step.

`bench.grounding` is what every pipeline keeps; this is for those that can be trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.grounding import PictureSource, Pipeline, PipelineContext, Scene
from bench.settings import RunSettings


class Validate(Protocol):
    """Scores a pipeline on the validation split by the evaluation of `bench run` (bench/evaluation/validation.py)."""

    def __call__(
        self,
        pipeline: Pipeline,
        *,
        index: int = 0,
        count: int = 1,
        gather: Callable[[list[Any]], list[Any]] | None = None,
    ) -> dict[str, float]:
        """ "accuracy", "mean_iou", "n" and "accuracy/KIND" for each kind; fractions, unrounded.

        Of `count` processes each asks its own share, and `gather` (accelerate's gather_object) joins the shares.
        """
        ...


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What `bench train` hands over: the split's scenes and pictures, the recipe from bench.toml, and where to write.

    `part` names the one part to train, None all of them. `validate` scores a pipeline on the validation split.
    `fingerprint` is that of the rows trained on, for refusing to go on with other data; with `fresh` a trainer begins
    anew whatever lies under `out`. `labels` says which files the expressions come from where they are not the split's
    own: {"file", "sha256", "rows"} each. `settings` is [run], for who asks a pipeline besides.

    Under torchrun or Slurm every process is handed the same job, with a device of its own.
    """

    scenes: Sequence[Scene]
    pictures: PictureSource
    validation: Sequence[Scene]
    validation_pictures: PictureSource
    recipe: Mapping[str, Any]
    part: str | None
    out: Path
    context: PipelineContext
    validate: Validate
    split_name: str = ""
    validation_name: str = ""
    fingerprint: str = ""
    labels: Sequence[Mapping[str, Any]] = ()
    fresh: bool = False
    settings: RunSettings = field(default_factory=RunSettings)


@dataclass(frozen=True, slots=True)
class Trained:
    """One part's weights file, the recipe that was in force, and its score on the validation scenes.

    `notes` go into the record as they are (plain JSON), for example how the weights were chosen:
    {"best": {"epoch": 7, "chosen_on": "shapes-val", "accuracy": 0.81}}.
    """

    path: Path
    recipe: Mapping[str, Any]
    score: Mapping[str, float]
    notes: Mapping[str, Any] = field(default_factory=dict)


class Trainable(Protocol):
    """What an entry point of the group `bench.trainers` names: trains, writes under `job.out`, returns each part.

    Of several processes only rank 0 writes the weights and returns them; the others return {}.
    """

    def __call__(self, job: TrainingJob) -> Mapping[str, Trained]: ...


@dataclass(frozen=True, slots=True)
class Source:
    """One source of pseudo-labels: its rows as scenes, what each row says of its making (expression id -> plain JSON,
    empty where the file says nothing), and the files it came from."""

    name: str
    scenes: Sequence[Scene]
    provenance: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: Sequence[Mapping[str, Any]] = ()


class Curriculum(Protocol):
    """What an entry point of the group `bench.curricula` names: chooses among pseudo-labels, and trains on the choice.

    `kind` is "single" or "multi". With `dry_run` it only says what it would do, on the log and in its plan, and
    returns {}.
    """

    def __call__(
        self, job: TrainingJob, sources: Sequence[Source], kind: str, dry_run: bool = False
    ) -> Mapping[str, Trained]: ...


class Exporter(Protocol):
    """What an entry point of the group `bench.exporters` names: the weights in force, as the official code has them."""

    def __call__(self, context: PipelineContext, out: Path) -> Path:
        """Writes `out`, whole or not at all, in place of what is there, and returns it. Raises BenchError."""
        ...


class TrainStep(Protocol):
    """What an entry point of the group `bench.train_steps` names: one step on a fixed batch, to hold against others'.

    Nothing is updated, and nothing is left to chance: no dropout, no augmentation.
    """

    def __call__(self, context: PipelineContext, scenes: Sequence[Scene], pictures: PictureSource) -> Mapping[str, Any]:
        """At least "loss" with its terms, "rows", "gradient_norms" (parameter -> norm) and "boxes_cxcywh"."""
        ...
