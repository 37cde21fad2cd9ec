"""The detector of ssd-clip: a small SSD trained from nothing on a split's objects, by torchvision's own loss
(Liu et al., SSD, ECCV 2016, section 2.2: smooth L1 and cross-entropy with three hard negatives for each positive).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torchvision.ops import box_iou

from bench.grounding import Picture
from bench.settings import parse_table
from bench.training.task import Trained, TrainingJob
from pipelines import weights
from pipelines.proposers.small_ssd import SsdPlan, small_ssd
from pipelines.proposers.ssd import FORMAT, SsdOptions, SsdProposer, raw_outputs
from pipelines.training.objects import gather
from pipelines.training.optimisation import optimise
from pipelines.training.recall import recall


class SsdRecipe(BaseModel):
    """[train.ssd-clip.detector]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenes: int = Field(6000, ge=1, description="pictures of the split to train on")
    epochs: int = Field(12, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warm_up: int = Field(100, ge=1, description="steps")
    box_weight: float = Field(2.0, gt=0, description="of the box loss against the class loss: tight boxes rank better")
    bfloat16: bool = Field(True, description="autocast: half the time on CPUs and GPUs that know it")
    log_every: int = Field(100, ge=1)
    plan: SsdPlan = SsdPlan()


def train_ssd(job: TrainingJob) -> Trained:
    """Train, and write tiny-ssd.safetensors (float16, plan and class names in its metadata) under `job.out`."""
    recipe = parse_table(SsdRecipe, dict(job.recipe), f"bench.toml [train.{job.context.name}.detector]")
    torch.manual_seed(job.context.seed)
    side, device = recipe.plan.image_size, torch.device(job.context.device)
    objects = gather(job.scenes[: recipe.scenes], job.pictures, lambda picture: squashed(picture, side))
    model = small_ssd(recipe.plan, len(objects.names)).to(device, memory_format=torch.channels_last)
    dice = torch.Generator().manual_seed(job.context.seed)

    def loss_of(batch: tuple[Tensor, list[Tensor], list[Tensor]]) -> Tensor:
        pictures, boxes, labels = batch
        targets = [
            {"boxes": b.to(device) * side, "labels": c.to(device) + 1} for b, c in zip(boxes, labels, strict=True)
        ]
        images, _ = model.transform(list(pictures.to(device).float() / 255))
        head, anchors = raw_outputs(model, images, torch.bfloat16 if recipe.bfloat16 else torch.float32)
        matched = [model.proposal_matcher(box_iou(target["boxes"], anchors)) for target in targets]
        losses = model.compute_loss(targets, head, [anchors] * len(targets), matched)
        loss: Tensor = recipe.box_weight * losses["bbox_regression"] + losses["classification"]
        return loss

    optimise(
        model,
        objects.batches(recipe.epochs, recipe.batch_size, dice),
        loss_of,
        objects.steps(recipe.epochs, recipe.batch_size),
        name="ssd",
        **recipe.model_dump(include={"learning_rate", "weight_decay", "warm_up", "log_every"}),
    )
    out = job.out / "tiny-ssd.safetensors"
    metadata = {"format": FORMAT, "plan": recipe.plan.model_dump(), "names": objects.names}
    weights.write_safetensors(out, model.state_dict(), metadata | {"recipe": recipe.model_dump()})
    options = SsdOptions(weights=str(out.resolve()), whole_picture=False)
    return Trained(out, recipe.model_dump(), recall(SsdProposer(options, job.context), job))


def squashed(picture: Picture, side: int) -> Tensor:
    """RGB uint8 (H, W, 3) -> (3, side, side) uint8, resized as torchvision's SSD does: bilinear, no antialias."""
    image = torch.tensor(picture).permute(2, 0, 1)[None].float()
    return F.interpolate(image, (side, side), mode="bilinear", align_corners=False)[0].round().to(torch.uint8)
