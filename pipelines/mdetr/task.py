"""Training MDETR: fine-tuning on referring expressions, as in the paper (Kamath et al. 2021, sections 3.2 and 4.2).

Numbers are those of the official code (github.com/ashkamath/mdetr: main.py, configs/refcoco.json, .github/refexp.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.settings import parse_table, takes
from bench.training.config import Schedule, TrainConfig
from bench.training.task import GrounderTask, ParameterGroup, TaskFactory, TrainingJob
from pipelines.backbones import RESNETS
from pipelines.mdetr import checkpoint
from pipelines.mdetr.checkpoint import SIZES, LoadedMdetr, open_network
from pipelines.mdetr.config import ROBERTA_BASE, MdetrConfig
from pipelines.mdetr.data import Expressions, MdetrBatch, Sample, collate, root_finder
from pipelines.mdetr.inputs import normalised
from pipelines.mdetr.losses import LossWeights, set_losses
from pipelines.mdetr.model import ImageTokens, Mdetr, Output, query_scores
from pipelines.mdetr.pipeline import MdetrOptions, MdetrPipeline
from pipelines.tokens import PAD, Tokenizer, small_tokenizer

BACKBONE, TEXT = "backbone.", "transformer.text_encoder."
POOLER = f"{TEXT}pooler."  # RoBERTa's, which nothing uses


class MdetrTraining(TrainConfig):
    """[train.mdetr]: the official fine-tuning, and a network from nothing where `start_from` is empty."""

    name: str = Field("mdetr", pattern=r"^[\w.-]+$", description="name of the files that are written")
    start_from: str = Field("pretrained_resnet101_checkpoint.pth", description="empty = random weights")
    tokenizer: str = Field("roberta-base", description="for weights that bring none: a folder or a hub id")
    network: MdetrConfig = MdetrConfig()
    vocabulary: int = Field(400, ge=8, description="words of the small tokenizer of a network from nothing")
    short: int | None = Field(None, ge=16, description="short side in pixels; none = of start_from, or 800")
    long: int | None = Field(None, ge=16, description="the most the long side may be; none = of start_from, or 1333")
    augment: bool = Field(True, description="random sizes and crops; sizes scale with `short`")
    positive_tokens: Literal["expression", "root"] = Field(
        "expression", description="that refer to the target: all, or the root noun phrase's (needs spaCy)"
    )

    epochs: int = Field(5, ge=1, description="3 on RefCOCOg")
    batch: int = Field(4, ge=1, description="most samples in one process's forward pass")
    reference_batch: int = Field(8, ge=1, description="samples in a step: 2 GPUs of 4")
    learning_rate: float = Field(5e-5, gt=0)
    text_share: float = Field(0.2, ge=0, description="of the learning rate, for the text encoder")
    backbone_share: float = Field(0.2, ge=0, description="of the learning rate, for the backbone")
    schedule: Schedule = "drop"
    drop_at: float = Field(0.6, gt=0, le=1, description="after 3 epochs of 5, and 2 of 3")
    text_schedule: Schedule = "linear"
    text_warm_up: float = Field(0.01, ge=0, lt=1, description="share of the steps, for the text encoder")
    clip_norm: float = Field(0.1, ge=0)
    ema: float = Field(0.9998, ge=0, lt=1, description="its weights are validated and saved")
    loss: LossWeights = LossWeights()


class MdetrTask(GrounderTask):
    """An MDETR in training. `network` is the Mdetr, `model` what is trained: the same, unless a subclass adds heads."""

    Config: type[MdetrTraining] = MdetrTraining
    config: MdetrTraining

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        self.config = config = parse_table(self.Config, dict(job.recipe), f"bench.toml [train.{job.context.name}]")
        names = ("token", "l1", "giou", "contrastive")
        self.loss_weights = {name: getattr(config.loss, name) for name in names}
        self.loaded = start(config, job)
        self.network: Mdetr = self.loaded.network.to(job.context.device)
        self.model: nn.Module = self.network
        self.spans = root_finder() if config.positive_tokens == "root" else lambda text: [(0, len(text))]

    def dataset(self, augment: bool = True) -> Expressions:
        """Return one sample an expression."""
        return Expressions(self.job, self.loaded.sizes, augment and self.config.augment)

    def collate(self, samples: Sequence[Sample]) -> MdetrBatch:
        """Join samples into a batch."""
        return collate(samples, self.loaded.tokenizer, self.spans)

    def losses(self, batch: MdetrBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the set losses of each sample, (B,), and the box that evaluation would choose."""
        output, _ = self.forward(batch)
        return self.losses_of(output, batch)

    def losses_of(self, output: Output, batch: MdetrBatch) -> dict[str, Tensor]:
        """As `losses`, of an output that was computed."""
        losses = set_losses(output, batch.targets, batch.positive, batch.text_padding, self.config.loss)
        rows = torch.arange(len(batch.targets), device=batch.targets.device)
        best = query_scores(output.logits[-1].detach(), None).argmax(dim=1)
        return losses | {"boxes": output.boxes[-1][rows, best], "targets": batch.targets}

    def forward(self, batch: MdetrBatch) -> tuple[Output, ImageTokens]:
        """Compute every decoder layer's output, and the image tokens. Autocast is for the backbone alone."""
        image = self.encode_image(batch)
        # A box in bfloat16 would be rounded to a 256th of the image.
        with torch.autocast(batch.pixels.device.type, enabled=False):
            text = self.network.encode_text(batch.tokens, batch.text_padding)
            return self.network.fuse(image, text, batch.text_padding), image

    def encode_image(self, batch: MdetrBatch) -> ImageTokens:
        """Encode the images, normalised as in evaluation and 0 on padding -> float32."""
        pixels = normalised(batch.pixels).masked_fill(batch.image_padding[:, None], 0)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        tokens, position, padding = self.network.encode_image(pixels, batch.image_padding)
        return tokens.float(), position.float(), padding

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return transformer and heads, backbone, text encoder; a ResNet's first layers and the pooler are frozen."""
        config, network = self.config, self.network
        frozen = (
            (f"{BACKBONE}0.body.conv1.", f"{BACKBONE}0.body.layer1.")
            if network.config.backbone in RESNETS.values()
            else ()
        )
        named = {n: p for n, p in network.named_parameters() if not n.startswith((POOLER, *frozen))}
        backbone, text = ({n: p for n, p in named.items() if n.startswith(prefix)} for prefix in (BACKBONE, TEXT))
        rest = {n: p for n, p in named.items() if not n.startswith((BACKBONE, TEXT))}
        groups = [
            ParameterGroup(rest),
            ParameterGroup(backbone, config.backbone_share),
            ParameterGroup(text, config.text_share, schedule=config.text_schedule, warm_up=config.text_warm_up),
        ]
        return [group for group in groups if group.lr_scale]

    def pipeline(self) -> MdetrPipeline:
        """Return the pipeline of the network in training."""
        self.network.eval()
        options = parse_table(MdetrOptions, self._options, f"bench.toml [pipelines.{self.job.context.name}]")
        return MdetrPipeline(options, self.job.context, self.loaded)

    def options(self, path: Path) -> dict[str, Any]:
        """Return the options that open the weights, with the tokenizer that they were trained with."""
        return self._options | super().options(path)

    @property
    def _options(self) -> dict[str, Any]:
        """The pipeline's own options, such as its chunk sizes, but not what it says of other weights."""
        table = {key: value for key, value in self.job.context.options.items() if key in ("images", "texts")}
        return table | {"tokenizer": self.config.tokenizer}

    def save(self, path: Path) -> None:
        """Write the network in float16, with sizes and tokenizer."""
        checkpoint.save(path, self.loaded, self.config.model_dump(mode="json"))


def start(config: MdetrTraining, job: TrainingJob) -> LoadedMdetr:
    """Return the network to train, float32, at the config's image sizes. Raises WeightsError."""
    if config.start_from:
        loaded = open_network(config.start_from, config.tokenizer, job.context)
    else:
        torch.manual_seed(job.context.seed)
        table = small_tokenizer([e.text for scene in job.scenes for e in scene.expressions], config.vocabulary)
        text = ROBERTA_BASE | config.network.text_encoder
        tokenizer = Tokenizer.from_json(table, int(text["max_position_embeddings"]) - PAD - 1)
        text["vocab_size"] = len(tokenizer)
        loaded = LoadedMdetr(Mdetr(config.network.model_copy(update={"text_encoder": text})), tokenizer, SIZES, table)
    short, long = loaded.sizes
    loaded.network.float()  # files of ours are in float16
    return replace(loaded, sizes=(config.short or short, config.long or long))


@takes(MdetrTraining)
def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return mdetr's one part."""
    return {"mdetr": partial(MdetrTask, job)}
