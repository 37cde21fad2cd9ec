"""What a method brings to be trained, and what training hands to it. The trainer knows nothing else of a method."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench import registry
from bench.evaluation.validation import Validate
from bench.grounding import ImageSource, Pipeline, PipelineContext, Scene
from bench.runs.files import write_atomically
from bench.settings import RunSettings
from bench.training.config import TrainConfig

log = logging.getLogger("bench.train")


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What `bench train` hands over: the split's scenes and images, the config's table, and where to write.

    `validate` scores a pipeline on the validation split. `fingerprint` is that of the rows trained on, for refusing to
    resume with other data; `fresh` starts anew whatever lies under `out`. `labels` names the files that the expressions
    come from where they are not the split's own: {"file", "sha256", "rows"} each. `settings` is [run]. `shared` lets
    trainings of one process reuse what they have in common, such as the features of a frozen encoder. `saves` is False
    where nothing will be written (the gradient check).

    Under torchrun or Slurm every process gets the same job, with a device of its own.
    """

    scenes: Sequence[Scene]
    images: ImageSource
    validation: Sequence[Scene]
    validation_images: ImageSource
    recipe: Mapping[str, Any]
    out: Path
    context: PipelineContext
    validate: Validate
    split_name: str = ""
    validation_name: str = ""
    validation_command: str = ""  # the split as `bench run` takes it
    fingerprint: str = ""
    labels: Sequence[Mapping[str, Any]] = ()
    fresh: bool = False
    settings: RunSettings = field(default_factory=RunSettings)
    shared: dict[Any, Any] = field(default_factory=dict, compare=False)
    saves: bool = True


@dataclass(frozen=True, slots=True)
class Trained:
    """One part's weights file, the config that was in force, its validation score, and notes for the record (JSON)."""

    path: Path
    recipe: Mapping[str, Any]
    score: Mapping[str, float]
    notes: Mapping[str, Any] = field(default_factory=dict)


class MapDataset(Protocol):
    """The samples of a training, drawn by index; what a sample looks like depends on (seed, epoch, index) alone."""

    def __len__(self) -> int: ...

    def sample(self, epoch: int, index: int) -> Any:
        """Return one sample, on the host. Raises DataError or ImageError naming the file."""
        ...

    def name(self, index: int) -> str:
        """Return the sample's id, for messages."""
        ...


@runtime_checkable
class GroupedDataset(MapDataset, Protocol):
    """Samples that can be drawn image by image. `groups` (N,) is the number of each sample's image, from 0."""

    groups: NDArray[np.int64]

    def samples(self, epoch: int, indices: Sequence[int]) -> list[Any]:
        """Return samples, those of one image with one augmentation; it depends on (seed, epoch, image) alone."""
        ...


class Batch:
    """Samples of one forward pass, collated on the host: the base of frozen dataclasses whose tensors move together."""

    def to(self, device: torch.device) -> Self:
        """Return the batch on the device; copies from pinned memory do not block."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Return the batch in memory that a GPU copies from by itself; the loader calls it."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, move: Callable[[Tensor], Tensor]) -> Self:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        moved = {name: move(value) for name, value in tensors.items() if isinstance(value, Tensor)}
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters trained alike, by checkpoint name. `lr_scale` is their share of the learning rate, `warm_up` a share
    of all steps; None takes the config's weight decay, schedule or warm-up."""

    parameters: Mapping[str, nn.Parameter]
    lr_scale: float = 1.0
    weight_decay: float | None = None
    schedule: Literal["constant", "cosine", "linear", "drop"] | None = None
    warm_up: float | None = None


class TrainTask(ABC):
    """One method's training; the trainer owns loop, devices, resuming, EMA, validation and logs.

    `model` is wrapped for several processes; its only use in a step is inside `losses`. Parameters that are in no group
    are frozen. `loss_scope` "batch" means that a loss depends on the whole batch (contrastive): accumulating means is
    wrong there, and refused. `metric` is the score that the best weights are chosen by. `loss_weights` gives each loss
    its weight; a term without one is only logged. `step` is the number of the step that is taken, from 0. With
    `alternates` a step may leave out some of what is trained, and have other losses than the one before.
    """

    config: TrainConfig
    model: nn.Module
    loss_weights: Mapping[str, float]
    loss_scope: ClassVar[Literal["sample", "batch"]] = "sample"
    metric: str = "accuracy"
    alternates: ClassVar[bool] = False
    step: int = 0
    shorter_side: int = 0  # pixels: no image has to have more; 0 = images have to be as they are
    cannot_group: str = "its samples are not grouped by image"  # why, in the message for one who asks for it

    def __init__(self, job: TrainingJob) -> None:
        self.job = job

    @abstractmethod
    def dataset(self, augment: bool = True) -> MapDataset:
        """Return the samples; without `augment` each as in evaluation."""

    @abstractmethod
    def collate(self, samples: Sequence[Any]) -> Batch:
        """Join samples into a batch, on the host (in a worker process)."""

    @abstractmethod
    def losses(self, batch: Any, rng: torch.Generator) -> dict[str, Tensor]:
        """Return each loss: (B,) for scope "sample", scalars for "batch".

        All randomness comes from `rng`. "boxes" and "targets", both (B, 4), are no losses: where they are given, the
        trainer can detect a collapse.
        """

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """Return what is trained."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the weights in training as a file that the pipeline opens; whole or not at all."""

    def publish(self, best: Path, out: Path) -> None:
        """Write the file of the training's end, `out`, given the best weights; whole or not at all."""
        write_atomically(out, best.read_bytes())

    def options(self, path: Path) -> dict[str, Any]:
        """Return the pipeline's options that open the weights file `path`."""
        return {"weights": str(path.resolve())}

    @abstractmethod
    def evaluate(self, path: Path | None = None, **share: Any) -> dict[str, float]:
        """Score the weights in training, or those of the file `path`, on the validation split; `metric` among them."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What a step file has to agree with besides config, rows and seed."""
        return {}

    @property
    def notes(self) -> Mapping[str, Any]:
        """What the record should say besides (plain JSON)."""
        return {}


class GrounderTask(TrainTask):
    """The training of a whole grounder: its weights are validated by the harness's own evaluation."""

    def count_cut(self, cut: Callable[[str], Any], tokens: int) -> int:
        """Count texts for which `cut` is true, those of more than `tokens` tokens, and warn of them."""
        count = sum(bool(cut(text)) for text in {e.text for scene in self.job.scenes for e in scene.expressions})
        if count:
            log.warning("%s: %s texts are cut at %d tokens", self.job.context.name, f"{count:,}", tokens)
        return count

    @abstractmethod
    def pipeline(self) -> Pipeline:
        """Return the grounder made of the weights in training."""

    def evaluate(self, path: Path | None = None, **share: Any) -> dict[str, float]:
        """Score the weights in training, or those of the file `path`, on the validation split."""
        if path is None:
            return self.job.validate(self.pipeline(), **share)
        context = replace(self.job.context, options=self.options(path))
        return self.job.validate(registry.pipeline_factory(context.name)(context), **share)


class Training(ABC):
    """A training that is more, or other, than one task for the trainer."""

    def __init__(self, job: TrainingJob) -> None:
        self.job = job

    @abstractmethod
    def run(self) -> Trained | None:
        """Train and write the weights; return them on the first process, None on others."""


class ExternalTraining(Training):
    """A training by another package's own trainer: one process, started anew each time."""

    trainer: ClassVar[str]  # whose, for messages


TaskFactory = Callable[[], TrainTask | Training]
