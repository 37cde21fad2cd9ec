"""Makes tiny-mdetr: a small MDETR for `shapes`, trained from nothing in three stages.

Published MDETRs start from a backbone trained on ImageNet. A small one learns on scenes of `shapes`, which know every
object: each place that an object covers predicts the object's words and its box. With the set losses alone the whole
network then stays long at a box in the middle, for the queries attend to every place alike. So the places of the joint
encoder's output predict which of them the target covers, and its box. The heads of places are no part of the network.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import box_convert

from bench.grounding import Box, Scene
from bench.settings import load_settings, merged
from bench.training.jobs import train_pipeline
from bench.training.task import ParameterGroup, TrainingJob
from pipelines.mdetr.data import Expressions, MdetrBatch
from pipelines.mdetr.task import MdetrTask, MdetrTraining

RECIPE = Path(__file__).with_name("mdetr.toml")
STAGES = ("backbone", "first", "second")


def run(out: Path, seed: int = 0, device: str = "auto", changes: Mapping[str, Any] | None = None) -> Path:
    """Train the stages in turn; return the last one's weights file, under `out`.

    `changes` are laid over mdetr.toml. Stages that are done are not repeated. Raises what training raises.
    """
    table = merged(tomllib.loads(RECIPE.read_text(encoding="utf-8")), changes or {})
    stages, path = table.pop("stages"), Path()
    for stage in STAGES:
        recipe = merged(table, stages[stage])
        scenes = recipe.pop("shapes", None)  # of the train split; None = as bench.toml says
        if path.name:
            recipe["start_from"] = str(path.resolve())
        folder = out if stage == STAGES[-1] else out / stage
        resolved = load_settings(flags={"run.seed": seed, "run.device": device, "data.shapes.train": scenes})
        kind = BackboneTask if stage == "backbone" else TinyTask

        def tasks(job: TrainingJob, kind: Any = kind, recipe: Mapping[str, Any] = recipe) -> dict[str, Any]:
            return {"mdetr": lambda: kind(job, recipe)}

        path = train_pipeline("mdetr", "shapes-train", resolved, None, None, folder, None, {}, tasks=tasks)["mdetr"]
    return path


class TinyTraining(MdetrTraining):
    """mdetr.toml: the fine-tuning's config, and the weights of two further losses."""

    places: float = Field(0.0, ge=0, description="of what the encoder's places predict of the target")
    naming: float = Field(0.0, ge=0, description="of what the backbone's places predict of every object")


@dataclass(frozen=True, slots=True)
class TinyBatch(MdetrBatch):
    """With the places of the feature map (h, w): which the target covers (B, h, w); of the object in front, words
    (B, h, w, W + 1) in {0, 1}, the last "an object is here", and its box (B, h, w, 4) cxcywh in 0..1 of the image."""

    here: Tensor
    words: Tensor
    boxes: Tensor


class PlaceHead(nn.Module):
    """Predict from features of places (..., d) logits (..., K) and a box (..., 4) cxcywh in 0..1."""

    def __init__(self, width: int, logits: int) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(width, width), nn.Linear(width, logits + 4)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(features)
        out = self.out(x + F.relu(self.inner(x)))
        return out[..., :-4], out[..., -4:].sigmoid()


class SceneSamples(Expressions):
    """Expressions, or the first of each scene alone; a sample comes with its scene."""

    def __init__(self, job: TrainingJob, sizes: tuple[int, int], whole_scenes: bool) -> None:
        super().__init__(job, sizes, augment=False)
        if whole_scenes:
            self.places = [(scene, scene.expressions[0]) for scene in job.scenes if scene.expressions]

    def sample(self, epoch: int, index: int) -> Any:
        """Return the sample, with its scene."""
        return super().sample(epoch, index), self.places[index][0]


def described(scene: Scene) -> list[tuple[list[str], Box]]:
    """Return the words and the xyxy box of every object, those in front last."""
    return [(one.description.split(), one.box) for one in scene.objects]


class TinyTask(MdetrTask):
    """The fine-tuning with heads for places beside the network."""

    Config = TinyTraining
    config: TinyTraining
    whole_scenes: ClassVar[bool] = False

    def __init__(self, job: TrainingJob, recipe: Mapping[str, Any]) -> None:
        super().__init__(replace(job, recipe=recipe))  # nothing of bench.toml's own recipe counts
        scenes = (*job.scenes, *job.validation)
        self.words = sorted({word for scene in scenes for words, _ in described(scene) for word in words})
        torch.manual_seed(job.context.seed)
        width, weights = self.network.config.hidden, {"places": self.config.places, "naming": self.config.naming}
        sizes = {"places": 1, "naming": len(self.words) + 1}
        heads = {name: PlaceHead(width, sizes[name]) for name, weight in weights.items() if weight}
        self.heads = nn.ModuleDict(heads).to(job.context.device)
        self.loss_weights = {**self.loss_weights, **weights}
        self.model = nn.ModuleDict({"network": self.network, "heads": self.heads})

    def dataset(self, augment: bool = True) -> SceneSamples:
        """Return one sample an expression, or a scene."""
        return SceneSamples(self.job, self.loaded.sizes, self.whole_scenes)

    def collate(self, samples: Sequence[Any]) -> TinyBatch:
        """Join samples into a batch, with what each place is to predict."""
        batch = super().collate([sample for sample, _ in samples])
        strides = 2 ** len(self.network.config.widths)
        height, width = batch.pixels.shape[-2:]
        grid = (-(-height // strides), -(-width // strides))
        here = torch.zeros(len(samples), *grid, dtype=torch.bool)
        words, boxes = torch.zeros(*here.shape, len(self.words) + 1), torch.zeros(*here.shape, 4)
        for row, ((pixels, target, _), scene) in enumerate(samples):
            share = torch.tensor([pixels.shape[2] / width, pixels.shape[1] / height] * 2)
            here[row] = covered(target[None] * share, grid)[0]
            known = described(scene)
            corners = torch.tensor([box for _, box in known]) / torch.tensor([scene.width, scene.height] * 2)
            objects = box_convert(corners.float(), "xyxy", "cxcywh")
            for (names, _), box, cells in zip(known, objects, covered(objects * share, grid), strict=True):
                vector = torch.zeros(len(self.words) + 1)
                vector[[*(self.words.index(name) for name in names), -1]] = 1
                words[row][cells], boxes[row][cells] = vector, box
        fields = (batch.pixels, batch.image_padding, batch.targets, batch.tokens, batch.text_padding, batch.positive)
        return TinyBatch(*fields, here, words, boxes)

    def losses(self, batch: Any, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the set losses, and those of the heads."""
        output, image = self.forward(batch)
        losses, grid = self.losses_of(output, batch), batch.here.shape[1:]
        if "places" in self.heads:
            logits, boxes = self.heads["places"](output.memory[:, : image[0].shape[1]].unflatten(1, grid))
            present = F.binary_cross_entropy_with_logits(logits[..., 0], batch.here.float(), reduction="none")
            reach = (boxes - batch.targets[:, None, None]).abs().sum(dim=-1)
            losses["places"] = 10 * present.mean(dim=(1, 2)) + 2 * mean_over(reach, batch.here)
        if "naming" in self.heads:
            losses["naming"] = self.naming(image[0].unflatten(1, grid), batch)
        return losses

    def naming(self, features: Tensor, batch: TinyBatch) -> Tensor:
        """Return the loss of what the backbone's places predict of every object, (B,)."""
        logits, boxes = self.heads["naming"](features)
        wrong = F.binary_cross_entropy_with_logits(logits, batch.words, reduction="none")
        something = batch.words[..., -1] > 0
        reach = (boxes - batch.boxes).abs().mean(dim=-1)
        named, anything = mean_over(wrong.mean(dim=-1), something), wrong[..., -1].mean(dim=(1, 2))
        return 3 * named + anything + 5 * mean_over(reach, something)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the fine-tuning's groups, and the heads."""
        heads = {f"heads.{name}": p for name, p in self.heads.named_parameters()}
        return [*super().parameter_groups(), ParameterGroup(heads)]


class BackboneTask(TinyTask):
    """The backbone and its projection alone, on whole scenes; `accuracy` counts places whose words are all right."""

    whole_scenes = True

    def __init__(self, job: TrainingJob, recipe: Mapping[str, Any]) -> None:
        super().__init__(job, {**recipe, "naming": 1.0})

    def losses(self, batch: Any, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of places, (B,)."""
        return {"naming": self.naming(self._features(batch), batch)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the backbone, its projection and the head."""
        trained = ("network.backbone.", "network.input_proj.", "heads.")
        return [ParameterGroup({n: p for n, p in self.model.named_parameters() if n.startswith(trained)})]

    @torch.no_grad()
    def evaluate(self, path: Path | None = None, **share: Any) -> dict[str, float]:
        """Score the weights in training on the validation split, whatever `path`: the head is in no file."""
        right, count = 0, 0
        job = replace(self.job, scenes=self.job.validation, images=self.job.validation_images)
        data = SceneSamples(job, self.loaded.sizes, whole_scenes=True)
        for index in range(len(data)):
            batch = self.collate([data.sample(0, index)]).to(torch.device(self.job.context.device))
            logits, _ = self.heads["naming"](self._features(batch))
            something = batch.words[..., -1] > 0
            right += int((((logits > 0) == (batch.words > 0)).all(dim=-1) & something).sum())
            count += int(something.sum())
        return {"accuracy": right / max(1, count)}

    def _features(self, batch: TinyBatch) -> Tensor:
        """The image tokens of places, (B, h, w, d)."""
        tokens: Tensor = self.encode_image(batch)[0]
        features: Tensor = tokens.unflatten(1, batch.here.shape[1:])
        return features


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Average values (B, h, w) where the mask is True -> (B,); 0 where it nowhere is."""
    return (values * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2)).clamp(min=1)


def covered(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mark the cells of an h x w grid whose centre lies in a box, (M, 4) cxcywh in 0..1 -> (M, h, w).

    A box between centres has the one cell that its own centre lies in.
    """
    inside = []
    for axis, cells in zip((1, 0), grid, strict=True):
        centre, half = boxes[:, axis, None], boxes[:, axis + 2, None] / 2
        index = torch.arange(cells, device=boxes.device)
        own = (centre * cells).long().clamp(max=cells - 1) == index
        inside.append((((index + 0.5) / cells - centre).abs() <= half) | own)
    rows, columns = inside
    return rows[:, :, None] & columns[:, None, :]
