"""Training MDETR: fine-tuning published weights on a split, or a small one from nothing.

From nothing, a first lesson teaches the backbone what stands where (mdetr_backbone.py); then the whole network learns
to find what an expression says (mdetr_grounding.py). Published weights go straight to the second.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from bench.errors import UnknownName
from bench.grounding import Scene
from bench.settings import merged, parse_table
from bench.training.task import Trained, TrainingJob
from pipelines import weights
from pipelines.mdetr import checkpoint
from pipelines.mdetr.config import MdetrConfig
from pipelines.mdetr.loss import Weights
from pipelines.mdetr.model import Mdetr
from pipelines.mdetr.pipeline import mdetr
from pipelines.mdetr.text import Tokenizer, small_tokenizer
from pipelines.training.mdetr_backbone import FirstLesson
from pipelines.training.mdetr_data import Scenes
from pipelines.training.mdetr_grounding import Grounding
from pipelines.training.optimisation import optimise

log = logging.getLogger("bench.train")


class MdetrRecipe(BaseModel):
    """[train.mdetr]. Learning rates of the text encoder and the backbone are shares of `learning_rate`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_from: str = Field("", description="weights to fine-tune; empty = a network from nothing, of the size below")
    tokenizer: str = Field("", description="for weights that bring none: a folder or a hub id")
    network: MdetrConfig = MdetrConfig()
    vocabulary: int = Field(400, ge=8, description="words of the small tokenizer of a network from nothing")
    short: int = Field(800, ge=16)
    long: int = Field(1333, ge=16)
    lesson_epochs: int = Field(0, ge=0, description="of the backbone's first lesson")
    lesson_learning_rate: float = 2e-3
    lesson: float = Field(0.0, ge=0, description="weight with which the lesson goes on beside the grounding")
    epochs: int = Field(5, ge=1)
    scenes_in_batch: int = Field(2, ge=1)
    learning_rate: float = 5e-5
    text_share: float = Field(0.2, ge=0)
    backbone_share: float = Field(0.2, ge=0)
    weight_decay: float = 1e-4
    warm_up: int = Field(200, ge=1, description="steps")
    loss: Weights = Weights()
    places: float = Field(0.0, ge=0, description="weight of what the encoder's places are told; 0 = the paper's loss")
    bfloat16: bool = Field(True, description="autocast of the backbone")
    keep_pictures: bool = Field(False, description="hold every resized picture in memory")
    log_every: int = Field(100, ge=1)


def train(job: TrainingJob) -> Mapping[str, Trained]:
    """Train, and write mdetr.safetensors (float16; sizes and tokenizer in its metadata) under `job.out`.

    Raises UnknownName, SettingsError, WeightsError, DataError.
    """
    if job.part is not None:
        raise UnknownName("part of mdetr", job.part, ())
    recipe = parse_table(MdetrRecipe, dict(job.recipe), f"bench.toml [train.{job.context.name}]")
    torch.manual_seed(job.context.seed)
    device = torch.device(job.context.device)
    model, tokenizer, said = begin(recipe, job)
    model.to(device).to(memory_format=torch.channels_last)
    scenes = Scenes(job.scenes, job.pictures, (recipe.short, recipe.long), recipe.keep_pictures)
    dtype = torch.bfloat16 if recipe.bfloat16 else torch.float32
    dice = torch.Generator().manual_seed(job.context.seed)

    def batches(epochs: int) -> Iterator[tuple[list[Scene], Tensor]]:
        for some, pixels in scenes.batches(epochs, recipe.scenes_in_batch, dice):
            yield some, pixels.to(device, memory_format=torch.channels_last)

    common: dict[str, Any] = recipe.model_dump(include={"weight_decay", "warm_up", "log_every"})
    per_epoch = scenes.steps(recipe.scenes_in_batch)
    lesson = FirstLesson(model, job.scenes, job.pictures).to(device)
    if recipe.lesson_epochs:
        optimise(
            lesson,
            batches(recipe.lesson_epochs),
            lambda batch: lesson.loss(batch[0], batch[1], dtype),
            per_epoch * recipe.lesson_epochs,
            name="mdetr backbone",
            learning_rate=recipe.lesson_learning_rate,
            **common,
        )
    goes_on = lesson if recipe.lesson else None
    grounding = Grounding(model, tokenizer, job.pictures, recipe.loss, recipe.places, goes_on, recipe.lesson).to(device)
    optimise(
        grounding,
        batches(recipe.epochs),
        lambda batch: grounding.loss(batch[0], batch[1], dtype),
        per_epoch * recipe.epochs,
        name="mdetr",
        learning_rate=recipe.learning_rate,
        shares={
            "model.transformer.text_encoder.": recipe.text_share if recipe.start_from else 1.0,
            "model.backbone.": recipe.backbone_share,
            "model.input_proj.": recipe.backbone_share if recipe.lesson_epochs or recipe.lesson else 1.0,
        },
        **common,
    )
    out = job.out / f"{'tiny-' if model.config.backbone == 'small' else ''}mdetr.safetensors"
    metadata: dict[str, Any] = {"format": checkpoint.FORMAT, "config": model.config.model_dump(), "tokenizer": said}
    metadata |= {"short": recipe.short, "long": recipe.long, "recipe": recipe.model_dump()}
    weights.write_safetensors(out, model.state_dict(), metadata)
    score = validate(out, job)
    log.info("mdetr: accuracy on the validation split: %s", score)
    return {"mdetr": Trained(out, recipe.model_dump(), score)}


def begin(recipe: MdetrRecipe, job: TrainingJob) -> tuple[Mdetr, Tokenizer, str | None]:
    """The network to train, its tokenizer, and the tokenizer's JSON where the weights file must carry it."""
    if recipe.start_from:
        model, said, _ = checkpoint.read(recipe.start_from, job.context)
        if said is None:
            return model, Tokenizer.open(recipe.tokenizer or "roberta-base", job.context), None
        return model, Tokenizer.from_json(said), said
    said = small_tokenizer([e.text for scene in job.scenes for e in scene.expressions], recipe.vocabulary)
    tokenizer = Tokenizer.from_json(said)
    sizes = merged(recipe.network.model_dump(), {"text_encoder": {"vocab_size": len(tokenizer)}})
    return Mdetr(MdetrConfig(**sizes)), tokenizer, said


def validate(path: Path, job: TrainingJob) -> dict[str, float]:
    """Acc@0.5 of the file that was written, by the pipeline's own way, in all and by kind."""
    table = {key: value for key, value in job.context.options.items() if key != "card"}
    pipeline = mdetr(replace(job.context, options=table | {"weights": str(path.resolve())}))
    found = job.validate(pipeline)
    kinds = {key.removeprefix("accuracy/"): v for key, v in found.items() if key.startswith("accuracy/")}
    return {kind: round(part, 4) for kind, part in sorted(({"all": found["accuracy"]} | kinds).items())}
