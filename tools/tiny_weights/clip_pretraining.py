"""CLIP pre-training on whole scenes of `shapes`: what CLIP-VG needs of the CLIP under it.

OpenAI's CLIP comes from four hundred million captions. A small one from nothing is trained at CLIP-VG's own image size,
on a split that names and describes its objects. An object's vector is the mean of the patches it covers:

    expression     expression -> object, among the objects of the expression's own scene
    description    object -> description, among all descriptions in the batch
    patch          patch -> the description of what covers it, or "nothing"
    box            covered patch -> the box of what covers it, by a linear layer that is thrown away
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.errors import DataError
from bench.grounding import ImageSource, Scene
from bench.settings import parse_table
from bench.training.config import TrainConfig
from bench.training.optimiser import decay_split
from bench.training.task import Batch, ParameterGroup, TaskFactory, TrainingJob, TrainTask
from clipvg.network import check_clip, multi_level_features, text_features
from pipelines import weights
from pipelines.canvas import letterboxed, normalise_and_mask, stack_pixels
from pipelines.two_stage.clip.encoder import PAD, ClipOptions, open_model, token_ids
from pipelines.two_stage.proposers.objects import referent, scene_descriptions, scene_objects
from tools.tiny_weights.architectures import small_clip
from tools.tiny_weights.clipvg import coverage

NOTHING = "nothing"
COVERED, BARE = 0.5, 0.05  # a patch is an object's from this share on, and no object's below that one
LARGEST_SCALE = 50.0  # of the logits
STYLE: Literal["clean"] = "clean"


class Pretraining(TrainConfig):
    """[clipvg-clip] of shapes.toml."""

    model: str = Field("tiny-clip-120", description="a name of open_clip's table")
    batch: int = Field(16, ge=1, description="scenes in a step")
    adapt: Literal["accumulate", "scale", "off"] = "off"
    schedule_by: Literal["epoch", "step"] = "step"
    patch: float = Field(1.0, ge=0, description="weight of the patches' descriptions")
    box: float = Field(5.0, ge=0, description="weight of the patches' boxes")


@dataclass(frozen=True, slots=True)
class SceneSample:
    """A scene on its canvas: pixels (S, S, 3), edges of the image (4,), boxes of its objects (R, 4) cxcywh in 0..1,
    their descriptions, the texts, and which object each text refers to."""

    pixels: Tensor
    edges: Tensor
    boxes: Tensor
    descriptions: list[str]
    texts: list[str]
    referents: list[int]


@dataclass(frozen=True, slots=True)
class Scenes(Batch):
    """Canvases (B, S, S, 3) uint8 with edges (B, 4), token ids of all texts, and of all descriptions and "nothing"."""

    scenes: tuple[SceneSample, ...]
    pixels: Tensor
    edges: Tensor
    texts: Tensor
    names: tuple[str, ...]
    descriptions: Tensor


class SceneDataset:
    """A job's scenes with expressions, kept in memory."""

    in_memory = True

    def __init__(self, job: TrainingJob, size: int) -> None:
        self.images, self.size = job.images, size
        self.scenes = [scene for scene in job.scenes if scene.expressions]
        if not self.scenes:
            raise DataError("no expression to pre-train a CLIP on")
        self._kept: dict[int, SceneSample] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def name(self, index: int) -> str:
        """Return the scene's id."""
        return self.scenes[index].id

    def sample(self, epoch: int, index: int) -> SceneSample:
        """Return a scene; nothing augments it. Raises ImageError, DataError."""
        if index not in self._kept:
            self._kept[index] = scene_sample(self.scenes[index], self.images, self.size)
        return self._kept[index]


def scene_sample(scene: Scene, images: ImageSource, size: int) -> SceneSample:
    """Return a scene on its canvas, with its objects. Raises ImageError, DataError."""
    canvas = letterboxed(images.load(scene), size, STYLE)
    objects = scene_objects(scene)
    known = [box for _, box in objects]
    boxes = torch.tensor(np.array([canvas.to_canvas(box) for box in known]), dtype=torch.float32).reshape(-1, 4)
    described = scene_descriptions(scene) or [name for name, _ in objects]
    referents = [referent(scene, number, known) for number in range(len(scene.expressions))]
    pixels, edges = stack_pixels([canvas])
    return SceneSample(pixels[0], edges[0], boxes, described, [e.text for e in scene.expressions], referents)


class Pretrained(nn.Module):
    """A CLIP, and the linear layer that reads boxes off its patches."""

    def __init__(self, clip: Any, width: int) -> None:
        super().__init__()
        self.clip = clip
        self.boxes = nn.Linear(width, 4)


class PretrainingTask(TrainTask):
    """A CLIP in pre-training. Texts are compared over the batch: scope "batch"."""

    Config: ClassVar[type[Pretraining]] = Pretraining
    loss_scope = "batch"
    metric = "region_accuracy"
    config: Pretraining
    model: Pretrained

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        self.config = parse_table(self.Config, dict(job.recipe), f"shapes.toml, for {job.context.name}")
        self.loss_weights = {"expression": 1.0, "description": 1.0, "patch": self.config.patch, "box": self.config.box}
        texts = [e.text for scene in job.scenes for e in scene.expressions] + [NOTHING]
        texts += [text for scene in job.scenes for text in scene_descriptions(scene)]
        self.device = torch.device(job.context.device)
        self.model = self.build(texts).to(self.device)
        self.side = self.size // self.patch

    def build(self, texts: list[str]) -> Pretrained:
        """Return the network for these texts, and set tokenizer and sizes."""
        clip = small_clip(self.config.model, texts, self.job.context.seed)
        check_clip(clip, self.config.model)
        self.tokenizer: Any = open_clip.get_tokenizer(self.config.model)
        self.size, self.patch = clip.visual.image_size[0], clip.visual.conv1.weight.shape[-1]
        return Pretrained(clip, clip.visual.conv1.weight.shape[0])

    def dataset(self, augment: bool = True) -> SceneDataset:
        """Return one sample a scene."""
        return SceneDataset(self.job, self.size)

    def collate(self, samples: Sequence[SceneSample]) -> Scenes:
        """Join scenes into a batch."""
        names = tuple(sorted({name for scene in samples for name in scene.descriptions}))
        texts = self.tokens([text for scene in samples for text in scene.texts])
        pixels, edges = (torch.stack([getattr(s, name) for s in samples]) for name in ("pixels", "edges"))
        return Scenes(tuple(samples), pixels, edges, texts, names, self.tokens([*names, NOTHING]))

    def losses(self, batch: Scenes, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the four losses, scalars."""
        self._limit_scale()
        clip = self.model.clip
        stream, patches = self.encode_patches(clip, batch.pixels, batch.edges)
        texts, described = self.encode_texts(clip, batch.texts), self.encode_texts(clip, batch.descriptions)
        with torch.autocast(self.device.type, enabled=False):
            return self._losses(batch, stream, patches, texts, described)

    def _losses(
        self, batch: Scenes, stream: Tensor, patches: Tensor, texts: Tensor, described: Tensor
    ) -> dict[str, Tensor]:
        scale, names = self.model.clip.logit_scale.exp(), batch.names
        terms: dict[str, list[Tensor]] = defaultdict(list)
        objects, classes = [], []
        by_scene = texts.split([len(scene.texts) for scene in batch.scenes])
        for number, (scene, queries) in enumerate(zip(batch.scenes, by_scene, strict=True)):
            boxes = scene.boxes.to(self.device)
            share = coverage(boxes, self.side)  # (R, P)
            # 1. Expressions against the scene's objects.
            vectors = mean_over(share, patches[number])
            target = torch.tensor(scene.referents, device=self.device)
            terms["expression"].append(F.cross_entropy(scale * queries @ vectors.T, target, reduction="sum"))
            known = torch.tensor([names.index(name) for name in scene.descriptions], device=self.device)
            objects.append(vectors)
            classes.append(known)
            # 2. Each patch against the descriptions; one that is half covered counts for nothing.
            most, owner = share.max(dim=0)
            label = torch.where(most > COVERED, known[owner], torch.where(most < BARE, len(names), -100))
            logits = scale * F.normalize(patches[number], dim=1) @ described.T
            terms["patch"].append(F.cross_entropy(logits, label, ignore_index=-100))
            # 3. Each covered patch gives the box of its object.
            covered = most > COVERED
            away = (self.model.boxes(stream[number][covered].float()).sigmoid() - boxes[owner[covered]]).abs()
            terms["box"].append(away.sum(dim=1).mean() if covered.any() else away.sum())
        logits = scale * torch.cat(objects) @ described[:-1].T
        return {
            "expression": torch.stack(terms["expression"]).sum() / len(texts),
            "description": F.cross_entropy(logits, torch.cat(classes)),
            "patch": torch.stack(terms["patch"]).mean(),
            "box": torch.stack(terms["box"]).mean(),
        }

    def encode_patches(self, clip: Any, pixels: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last block's output for every patch (B, P, W), and it in the space of texts (B, P, E)."""
        visual = clip.visual
        inputs, _ = normalise_and_mask(pixels, edges, self.patch, STYLE)
        stream = multi_level_features(visual, inputs, (len(visual.transformer.resblocks) - 1,))[:, 1:]
        return stream, (visual.ln_post(stream) @ visual.proj).float()

    def encode_texts(self, clip: Any, ids: Tensor) -> Tensor:
        """Return unit vectors (N, E) of token ids (N, L)."""
        ends = (ids != PAD).sum(dim=1) - 1
        vectors = text_features(clip, ids)[torch.arange(len(ids), device=ids.device), ends]
        return F.normalize(vectors.float(), dim=1)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return everything."""
        return decay_split(dict(self.model.named_parameters()))

    @torch.inference_mode()
    def evaluate(self, path: Path | None = None, **share: Any) -> dict[str, float]:
        """Return the share of expressions whose own object ranks first among its scene's, in all and by kind."""
        clip = self.model.clip if path is None else self.open(path)
        hits = defaultdict[str, list[bool]](list)
        clip.eval()
        for scene in (scene for scene in self.job.validation if scene.expressions):
            batch = self.collate([scene_sample(scene, self.job.validation_images, self.size)]).to(self.device)
            _, patches = self.encode_patches(clip, batch.pixels, batch.edges)
            objects = mean_over(coverage(batch.scenes[0].boxes.to(self.device), self.side), patches[0])
            chosen = (self.encode_texts(clip, batch.texts) @ objects.T).argmax(dim=1).tolist()
            for expression, choice, own in zip(scene.expressions, chosen, batch.scenes[0].referents, strict=True):
                for kind in (self.metric, expression.kind or "other"):
                    hits[kind].append(choice == own)
        return {kind: sum(values) / len(values) for kind, values in sorted(hits.items())}

    def open(self, path: Path) -> Any:
        """Return the CLIP of a file."""
        options = ClipOptions(model=self.config.model, pretrained=str(path.resolve()))
        return open_model(options, self.job.context)[0].to(self.device)

    def save(self, path: Path) -> None:
        """Write the CLIP in float16."""
        self._limit_scale()
        metadata = {"recipe": self.config.model_dump(mode="json")}
        weights.write_safetensors(path, self.model.clip.state_dict(), metadata)

    @torch.no_grad()
    def _limit_scale(self) -> None:
        self.model.clip.logit_scale.clamp_(0, math.log(LARGEST_SCALE))

    def tokens(self, texts: list[str]) -> Tensor:
        """Return token ids (N, L), padded."""
        return token_ids(self.tokenizer, texts)


def mean_over(share: Tensor, patches: Tensor) -> Tensor:
    """Return unit vectors of objects (R, E): the mean of patches (P, E) by the shares (R, P) that they cover."""
    return F.normalize(share @ patches / share.sum(dim=1, keepdim=True).clamp(min=1e-6), dim=1)


def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return the one part, for `train_pipeline(..., tasks=tasks)`."""
    return {"clip": lambda: PretrainingTask(job)}
