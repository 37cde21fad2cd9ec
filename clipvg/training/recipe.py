"""[train.clipvg] of bench.toml: the paper's recipe (spec clipvg.md 2.1) and what else can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from clipvg.curriculum.options import CurriculumOptions
from clipvg.model.config import ClipVGConfig
from clipvg.training.lesson import Lesson
from pipelines.augmentation import Augment
from pipelines.clip.encoder import ClipOptions


class NetworkOptions(BaseModel):
    """[train.clipvg.network]: the sizes of a network from nothing; the CLIP is [train.clipvg.clip]'s."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    taps: tuple[int, ...] = (0, 3, 7, 11)
    image_size: int = 224
    hidden: int = 512
    heads: int = 8
    feedforward: int = 2048
    layers: int = 6
    dropout: float = 0.1

    def config(self, clip: str) -> ClipVGConfig:
        """The network's sizes on the CLIP of that name."""
        return ClipVGConfig(clip=clip, **self.model_dump())


class ClipVGRecipe(BaseModel):
    """[train.clipvg]. `batch` is the rows of one process's forward pass; more make an optimiser's step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("clipvg", pattern=r"^[\w.-]+$", description="of the files that are written")
    start_from: str = Field("", description="weights to go on from; empty = a network from nothing")
    start: Literal["random", "clip"] = Field("random", description="clip: words and patches begin in CLIP's own space")
    clip: ClipOptions = ClipOptions(model="ViT-B-16-quickgelu", pretrained="openai")
    network: NetworkOptions = NetworkOptions()
    lesson: Lesson = Lesson()
    preprocessing: Literal["official", "clean"] = "official"
    augment: Augment = Augment()

    epochs: int = Field(110, ge=1)
    steps: int = Field(0, ge=0, description="length of the training, whatever the number of rows; 0 = so many epochs")
    batch: int = Field(64, ge=1)
    reference_batch: int = Field(320, ge=1, description="rows in a step; 384 for pseudo-labels")
    adapt: Literal["accumulate", "scale", "off"] = Field(
        "accumulate",
        description="to reference_batch: accumulate gradients, scale the learning rate, or neither",
    )
    learning_rate: float = Field(2.5e-4, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["epoch", "step"] = Field("epoch", description="how often the cosine moves; the paper's: epoch")
    warm_up: int = Field(0, ge=0, description="steps")
    clip_norm: float = Field(0.0, ge=0, description="of the gradient; 0 = off")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of an average of the weights; 0 = off")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="autocast; auto = bfloat16 on a GPU")
    l1: float = Field(1.0, ge=0)
    giou: float = Field(1.0, ge=0)
    auxiliary: Literal["off", "patches"] = Field("off", description="patches: [REG] is told where to look")
    auxiliary_weight: float = Field(1.0, ge=0)
    train_positions: bool = Field(True, description="CLIP's visual position embedding, as the official code does")
    cache_features: bool = Field(False, description="keep what CLIP sees: nothing may augment, nor train_positions")
    recompute: bool = Field(False, description="the image tower's activations in the backward pass: less memory")

    workers: int = Field(8, ge=0, description="processes that decode and augment; 0 = none")
    save_every: int = Field(500, ge=1, description="steps between step files, beside one at the end of an epoch")
    validate_every: int = Field(1, ge=1, description="epochs")
    early_stop: int = Field(0, ge=0, description="epochs without a better one after which to stop; 0 = off")
    collapse_window: int = Field(300, ge=10, description="steps the collapse detector looks back")
    log_every: int = Field(50, ge=1, description="steps")
    track: Literal["", "tensorboard", "trackio"] = ""
    curriculum: CurriculumOptions = CurriculumOptions()

    @property
    def augmentation(self) -> Augment:
        """`augment`; where it does not say which crops, clean preprocessing takes those that keep the referent."""
        if self.preprocessing == "clean" and "crop" not in self.augment.model_fields_set:
            return self.augment.model_copy(update={"crop": "safe"})
        return self.augment


@dataclass(frozen=True, slots=True)
class Pace:
    """How many rows make a step, and the learning rate for it."""

    processes: int
    batch: int
    accumulate: int
    learning_rate: float

    @property
    def effective(self) -> int:
        """Rows in an optimiser step, over all processes."""
        return self.processes * self.batch * self.accumulate

    def said(self) -> str:
        """One line for the log."""
        parts = f"{self.processes} processes x {self.batch} rows x {self.accumulate} accumulated"
        return f"effective batch {self.effective} ({parts}), learning rate {self.learning_rate:.3g}"


def pace_of(recipe: ClipVGRecipe, processes: int) -> Pace:
    """The step of a recipe on so many processes: accumulated to the reference batch, or the learning rate scaled to it.

    On one GPU the official recipe's learning rate with a fifth of its batch does not learn (spec clipvg.md 2.1).
    """
    at_once = processes * recipe.batch
    accumulate = max(1, round(recipe.reference_batch / at_once)) if recipe.adapt == "accumulate" else 1
    share = 1.0 if recipe.adapt == "off" else accumulate * at_once / recipe.reference_batch
    return Pace(processes, recipe.batch, accumulate, recipe.learning_rate * share)
