"""The recipe of a training of CLIP: [train.NAME.clip] of bench.toml, and its defaults by the size of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from bench.errors import SettingsError
from bench.settings import parse_table
from bench.training.config import TrainConfig
from bench.training.task import TrainingJob
from pipelines.two_stage.clip.encoder import ClipOptions, open_clip
from pipelines.two_stage.clip.ranking import RankerOptions

Loss = Literal["choose", "choose+batch", "infonce", "siglip"]
Trained = Literal["auto", "all", "last", "lora", "projection", "image", "text"]
Source = Literal["annotations", "proposer", "both"]
RATES = {"lora": 1e-4, "projection": 1e-3}  # of the others 8e-6
LARGE = 1000  # width of an image tower, from which not all of it is trained


class ClipTraining(TrainConfig):
    """[train.NAME.clip]."""

    eps: ClassVar[float] = 1e-6

    name: str = Field("clip", pattern=r"^[\w.-]+$", description="name of the files that are written")
    model: str = Field("", description="a name of open_clip.list_models(); empty = the pipeline's")
    start_from: str = Field("", description="a tag that open_clip publishes for it, or a file; empty = the pipeline's")
    ranker: Mapping[str, Any] = Field(
        default_factory=dict, description="laid over the pipeline's ranker: views, prompt, tint_colour ..."
    )
    train: Trained = Field(
        "auto",
        description="all; last (the last block and what follows); lora; projection (two matrices, over cached "
        "features); image or text (one tower); auto = all, of a large ViT lora, of a large ResNet last",
    )
    loss: Loss = Field(
        "choose+batch",
        description="choose: among the candidates of the image; choose+batch: and among the texts and regions of the "
        "batch; infonce: among those of other images alone; siglip: each candidate by itself",
    )
    candidates: int = Field(8, ge=2, description="boxes of an image, the whole image among them; never fewer than are "
                            "referred to")  # fmt: skip
    candidates_from: Source = Field("both", description="boxes: annotated, of the pipeline's proposer, or both")
    kept_out: Literal["all", "known"] = Field(
        "all",
        description="val and test images of the data sets about the same images never enter; all = refuse where one of "
        "their lists is not prepared; known = go on with those that are",
    )
    jitter: float = Field(0.06, ge=0, description="boxes are moved and scaled by up to this share of their sides")
    paraphrase: float = Field(0.1, ge=0, le=1, description="share of texts that another one of the object replaces")
    batch_weight: float = Field(0.1, ge=0, description="of the batch's loss in choose+batch")
    keep: float = Field(0.0, ge=0, description="weight of staying near the first weights' vectors of texts and images")
    description: float = Field(
        0.0, ge=0, description="weight of region -> its description among the batch's, where the split has them"
    )
    layer_decay: float = Field(0.75, gt=0, le=1, description="rate of a layer, of the one above it")
    lora_rank: int = Field(16, ge=0)
    lora_alpha: float = Field(16.0, gt=0)
    lora_dropout: float = Field(0.1, ge=0, lt=1, description="of the features that a step's adapters take")
    wise: bool = Field(True, description="WiSE-FT: mix first and tuned weights as is best on the validation split")
    wise_images: int = Field(500, ge=1, description="validation images that each mixture is scored on")
    epochs: int = Field(5, ge=1)
    batch: int = Field(16, ge=1, description="scenes in a step")
    adapt: Literal["accumulate", "scale", "off"] = "off"
    learning_rate: float = Field(0.0, ge=0, description="0 = 8e-6; of lora 1e-4, of projection 1e-3")
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    schedule_by: Literal["epoch", "step"] = "step"
    warm_up: int = Field(500, ge=0, description="steps")
    clip_norm: float = Field(1.0, ge=0)
    early_stop: int = Field(2, ge=0, description="stop after so many epochs without improvement; 0 = off")
    largest_scale: float = Field(100.0, gt=1, description="of the logits, as in CLIP")


def recipe_of(job: TrainingJob) -> tuple[ClipTraining, Mapping[str, Any]]:
    """Parse a job's recipe -> the config, nothing left to be chosen, and the pipeline's options with its ranker.

    Raises SettingsError.
    """
    name, options = job.context.name, job.context.options
    config = parse_table(ClipTraining, dict(job.recipe), f"bench.toml [train.{name}.clip]")
    own = parse_table(ClipOptions, options.get("clip", {}), f"[pipelines.{name}.clip]")
    model = config.model or own.model
    train = _by_size(model) if config.train == "auto" else config.train
    if train == "projection" and config.keep:
        raise SettingsError(f"bench.toml [train.{name}.clip]: keep is of whole towers, and train = projection has none")
    chosen = {
        "model": model,
        "start_from": config.start_from or own.pretrained,
        "train": train,
        "learning_rate": config.learning_rate or RATES.get(train, 8e-6),
    }
    ranker = {**options.get("ranker", {}), **config.ranker}
    parse_table(RankerOptions, ranker, f"bench.toml [train.{name}.clip.ranker]")
    return config.model_copy(update=chosen), {**options, "ranker": ranker}


def _by_size(model: str) -> Trained:
    """Choose what is trained of a model: all of a small one."""
    vision = (open_clip.get_model_config(model) or {}).get("vision_cfg", {})
    width, residual = vision.get("width", 0), isinstance(vision.get("layers"), list)
    if residual:
        return "last" if width > 80 else "all"  # RN50x4 has 80, RN50x16 96
    return "lora" if width >= LARGE else "all"


def training_views(options: Mapping[str, Any]) -> RankerOptions:
    """Return a pipeline's ranker as it is trained: annotated boxes have no masks, so the box stands for one."""
    ranker = RankerOptions(**options["ranker"])
    views = ["blur" if view == "mask-blur" else view for view in ranker.views]
    if "tint" not in views and any(key.startswith("tint_") for key in options["ranker"]):
        raise SettingsError('ranker: tint_colour, tint_alpha and tint_line are of the view "tint"; add it to views')
    return ranker.model_copy(update={"views": tuple(dict.fromkeys(views))})
