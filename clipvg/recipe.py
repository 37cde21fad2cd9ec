"""The recipe of a CLIP-VG's training, and the network that it starts from (paper section III-C).

Numbers are those of the script of the official code.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from bench.errors import WeightsError
from bench.training.config import TrainConfig
from bench.training.feature_cache import TextFeatureCache
from bench.training.task import TrainingJob
from clipvg.checkpoint import ClipSource, at_size, find, open_frozen, open_network, values_hash
from clipvg.network import ClipVG, ClipVGConfig
from pipelines.augmentation import Augment
from pipelines.canvas import Style
from pipelines.deconfounder import DeconfounderOptions, attach_new
from pipelines.two_stage.clip.encoder import ClipOptions


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
        """Return the network's sizes on the CLIP of that name."""
        return ClipVGConfig(clip=clip, **self.model_dump())


class ClipVGTraining(TrainConfig):
    """[train.clipvg]: the paper's recipe (script of the official code), and further options."""

    name: str = Field("clipvg", pattern=r"^[\w.-]+$", description="name of the files that are written")
    clip: ClipOptions = ClipOptions()
    network: NetworkOptions = NetworkOptions()
    preprocessing: Literal["auto", "official", "clean"] = Field("auto", description="auto = as start_from, or official")
    augment: Augment = Augment()
    deconfounder: DeconfounderOptions = DeconfounderOptions()

    epochs: int = Field(110, ge=1)
    reference_batch: int = Field(320, ge=1, description="rows in a step; 384 for pseudo-labels")
    learning_rate: float = Field(2.5e-4, gt=0)
    l1: float = Field(1.0, ge=0)
    giou: float = Field(1.0, ge=0)
    train_positions: bool = Field(True, description="CLIP's visual position embedding, as the official code does")
    cache_features: bool = Field(False, description="encode each image once: nothing may augment, nor train_positions")
    recompute: bool = Field(False, description="the image tower's activations in the backward pass: less memory")


def start(config: ClipVGTraining, job: TrainingJob) -> tuple[ClipVG, ClipSource, Style]:
    """Return the network to train, float32, with its CLIP and style. Raises WeightsError, UnknownName."""
    style: Style | None = None if config.preprocessing == "auto" else config.preprocessing
    if config.start_from:
        path, named = find(config.start_from, job.context), config.clip if config.clip.pretrained else None
        network, its_style, clip = open_network(path, job.context, named)
        clip = clip or _own_clip(network, config, job)
        return at_size(network, config.network.image_size), clip, style or its_style
    model, values = open_frozen(config.clip, job.context)
    torch.manual_seed(job.context.seed)
    network = ClipVG(config.network.config(config.clip.model), model)
    return network, (config.clip, values), style or "official"


def add_deconfounder(network: ClipVG, encode: TextFeatureCache, config: ClipVGTraining, job: TrainingJob) -> None:
    """Give a network to train the deconfounder of its config, from CLIP's tokens of texts. Raises SettingsError."""
    texts = [e.text for scene in job.scenes for e in scene.expressions]

    def features() -> Tensor:
        return torch.stack([tokens.float().mean(dim=0) for tokens, _ in encode(texts)])

    attach_new(network, config.deconfounder, features, job.context.seed)


def _own_clip(network: ClipVG, config: ClipVGTraining, job: TrainingJob) -> ClipSource:
    """The CLIP that came with an official file, by the name under which the trained weights will look for it."""
    values = values_hash(network.clip.state_dict())
    # Where nothing is saved, nothing will look for it.
    if job.saves and (open_frozen(config.clip, job.context)[1] != values or config.clip.model != network.config.clip):
        raise WeightsError(
            f"{config.start_from} has a CLIP {network.config.clip} of its own, but [train.clipvg.clip] names "
            f"{config.clip.model} {config.clip.pretrained}, where the trained weights would look for it; name its own "
            "with --set clip.model=... and clip.pretrained=..."
        )
    return config.clip, values
