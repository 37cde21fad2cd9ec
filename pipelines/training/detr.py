"""The detector of detr-clip: a small RT-DETRv2 (Lv et al., 2024) trained from nothing on a split's objects.

Plain DETR needs hundreds of epochs; queries picked from the encoder's own best places and denoised boxes (Zhang et al.,
DINO, ICLR 2023) make a transformer of this size learn in a few. Architecture, matching and losses are transformers'.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torchvision.ops import box_convert

from bench.grounding import Picture
from bench.settings import parse_table
from bench.training.task import Trained, TrainingJob
from pipelines import weights
from pipelines.proposers.detr import FORMAT, DetrOptions, DetrProposer, build, square
from pipelines.training.objects import gather
from pipelines.training.optimisation import optimise
from pipelines.training.recall import recall


class DetrRecipe(BaseModel):
    """[train.detr-clip.detector]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenes: int = Field(6000, ge=1, description="pictures of the split to train on")
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warm_up: int = Field(200, ge=1, description="steps")
    bfloat16: bool = Field(True, description="autocast: half the time on CPUs and GPUs that know it")
    log_every: int = Field(200, ge=1)
    image_size: int = Field(192, ge=32, multiple_of=32, description="pictures are squashed to this square")
    width: int = Field(64, ge=16, multiple_of=16, description="channels of encoder and decoder")
    decoder_layers: int = Field(3, ge=2, description="each refines the boxes of the one before")
    queries: int = Field(24, ge=1)


def train_detr(job: TrainingJob) -> Trained:
    """Train, and write tiny-detr.safetensors (float16, configuration in its metadata) under `job.out`."""
    recipe = parse_table(DetrRecipe, dict(job.recipe), f"bench.toml [train.{job.context.name}.detector]")
    torch.manual_seed(job.context.seed)
    device, processor = torch.device(job.context.device), square(recipe.image_size)

    def resized(picture: Picture) -> Tensor:
        image = torch.tensor(picture).permute(2, 0, 1)
        out = processor(images=image, input_data_format="channels_first", do_rescale=False, return_tensors="pt")
        pixels: Tensor = out["pixel_values"][0]
        return pixels

    objects = gather(job.scenes[: recipe.scenes], job.pictures, resized)
    config = architecture(recipe, objects.names)
    model = build(config).to(device)
    dice = torch.Generator().manual_seed(job.context.seed)

    def loss_of(batch: tuple[Tensor, list[Tensor], list[Tensor]]) -> Tensor:
        pictures, boxes, labels = batch
        targets = [
            {"boxes": box_convert(b, "xyxy", "cxcywh").to(device), "class_labels": c.to(device)}
            for b, c in zip(boxes, labels, strict=True)
        ]
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
            loss: Tensor = model(pixel_values=pictures.to(device).float() / 255, labels=targets).loss
        return loss.float()

    optimise(
        model,
        objects.batches(recipe.epochs, recipe.batch_size, dice),
        loss_of,
        objects.steps(recipe.epochs, recipe.batch_size),
        name="detr",
        **recipe.model_dump(include={"learning_rate", "weight_decay", "warm_up", "log_every"}),
    )
    out = job.out / "tiny-detr.safetensors"
    metadata = {"format": FORMAT, "config": config, "image_size": recipe.image_size, "recipe": recipe.model_dump()}
    weights.write_safetensors(out, model.state_dict(), metadata)
    options = DetrOptions(weights=str(out.resolve()), whole_picture=False)
    return Trained(out, recipe.model_dump(), recall(DetrProposer(options, job.context), job))


def architecture(recipe: DetrRecipe, names: list[str]) -> dict[str, Any]:
    """A configuration of transformers: a ResNet of one basic block a stage, and its maps at strides 16 and 32."""
    width, levels = recipe.width, 2
    channels = [width // 4, 3 * width // 4, width, 3 * width // 2]
    backbone = {
        "model_type": "rt_detr_resnet",
        "embedding_size": channels[0],
        "hidden_sizes": channels,
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_indices": [3, 4],
    }
    return {
        "model_type": "rt_detr_v2",
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "backbone_config": backbone,
        "freeze_backbone_batch_norms": False,
        "encoder_in_channels": channels[-levels:],
        "feat_strides": [16, 32],
        "encode_proj_layers": [levels - 1],
        "encoder_hidden_dim": width,
        "encoder_ffn_dim": 2 * width,
        "encoder_attention_heads": 4,
        "hidden_expansion": 0.5,
        "d_model": width,
        "num_feature_levels": levels,
        "decoder_n_levels": levels,
        "decoder_in_channels": [width] * levels,
        "decoder_ffn_dim": 2 * width,
        "decoder_layers": recipe.decoder_layers,
        "decoder_attention_heads": 4,
        "num_queries": recipe.queries,
        "num_denoising": recipe.queries,
    }
