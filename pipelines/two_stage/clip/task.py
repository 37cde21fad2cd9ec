"""Training the CLIP of a two-stage pipeline to rank regions, as it does there.

Two contrastive losses over the region views that the pipeline's ranker takes:

    region         text -> region, among the regions of the text's own scene and the whole image. Regions of other
                   scenes are no candidates: "the red star" is true of many images.
    description    region -> description, among all descriptions in the batch, where the split describes its objects
                   ("striped red star"): the same description is the same class.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench.errors import DataError
from bench.grounding import Boxes, ImageArray, ImageSource, Scene
from bench.settings import parse_table
from bench.training.config import TrainConfig
from bench.training.task import Batch, ParameterGroup, TrainingJob, TrainTask
from pipelines import weights
from pipelines.two_stage.clip.encoder import ClipOptions, Preprocessing, open_model, open_tokenizer
from pipelines.two_stage.clip.pooling import PoolingOptions, RegionPooling
from pipelines.two_stage.clip.ranking import RankerOptions
from pipelines.two_stage.clip.views import make_views
from pipelines.two_stage.proposers.objects import SceneSamples, referent, scene_descriptions, scene_objects


class ClipTraining(TrainConfig):
    """[train.NAME.clip]."""

    name: str = Field("clip", pattern=r"^[\w.-]+$", description="name of the files that are written")
    model: str = Field("", description="a name of open_clip.list_models(); empty = the pipeline's")
    start_from: str = Field("", description="a tag that open_clip publishes for it, or a file; empty = the pipeline's")
    epochs: int = Field(4, ge=1)
    batch: int = Field(24, ge=1, description="scenes in a step")
    adapt: Literal["accumulate", "scale", "off"] = "off"
    learning_rate: float = Field(1e-5, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    schedule_by: Literal["epoch", "step"] = "step"
    warm_up: int = Field(100, ge=0, description="steps")
    clip_norm: float = Field(1.0, ge=0)
    jitter: float = Field(0.06, ge=0, description="boxes are moved and scaled by up to this share of their sides")
    largest_scale: float = Field(100.0, gt=1, description="of the logits, as in CLIP")


@dataclass(frozen=True, slots=True)
class RegionSample:
    """One scene: its image, boxes (R, 4) xyxy pixels of its objects, their descriptions if any, the texts, and which
    object each text refers to."""

    image: ImageArray
    boxes: Boxes
    descriptions: list[str]
    texts: list[str]
    referents: list[int]


@dataclass(frozen=True, slots=True)
class Regions(Batch):
    """Scenes, with their texts tokenised (N, L), and the different descriptions of their objects (M, L)."""

    scenes: tuple[RegionSample, ...]
    texts: Tensor
    descriptions: Tensor
    classes: Tensor  # of each object among the descriptions; empty where a scene has none


def region_sample(scene: Scene, images: ImageSource) -> RegionSample:
    """Return a scene with its regions as they are annotated. Raises ImageError, DataError."""
    boxes = [box for _, box in scene_objects(scene)]
    referents = [referent(scene, number, boxes) for number in range(len(scene.expressions))]
    texts = [expression.text for expression in scene.expressions]
    described = scene_descriptions(scene)
    return RegionSample(images.load(scene), np.array(boxes, np.float64), described, texts, referents)


class ClipTask(TrainTask):
    """A CLIP in training; all of it is trained. A text is compared with a whole scene: scope "batch"."""

    Config = ClipTraining
    loss_scope = "batch"
    metric = "region_accuracy"
    config: ClipTraining
    model: Any  # a CLIP of open_clip

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        self.loss_weights = {"region": 1.0, "description": 1.0}
        config = parse_table(ClipTraining, dict(job.recipe), f"bench.toml [train.{job.context.name}.clip]")
        own = parse_table(ClipOptions, job.context.options.get("clip", {}), f"[pipelines.{job.context.name}.clip]")
        ranker = parse_table(
            RankerOptions, job.context.options.get("ranker", {}), f"[pipelines.{job.context.name}.ranker]"
        )
        # Annotated objects have no masks: there the box stands for the mask.
        views = ["blur" if view == "mask-blur" else view for view in ranker.views]
        self.ranker = ranker.model_copy(update={"views": tuple(dict.fromkeys(views))})
        names = {"model": config.model or own.model, "start_from": config.start_from or own.pretrained}
        self.config = config.model_copy(update=names)
        torch.manual_seed(job.context.seed)
        self.model, self.sha256 = self._open(self.config.start_from)
        if "roi" in self.ranker.views:
            RegionPooling(self.model, self.config.model, PoolingOptions(fine=1))  # or it is refused here
        self.tokenizer = open_tokenizer(self.config.model, job.context)

    def _open(self, pretrained: str) -> tuple[Any, Mapping[str, str]]:
        options = ClipOptions(model=self.config.model, pretrained=pretrained)
        model, sha256 = open_model(options, replace(self.job.context, dtype="float32"))
        return model.to(self.job.context.device), sha256

    def dataset(self, augment: bool = True) -> SceneSamples[RegionSample]:
        """Return one sample a scene with expressions; boxes are jittered, to resemble a detector's."""
        scenes, jitter = [scene for scene in self.job.scenes if scene.expressions], self.config.jitter
        if not scenes:
            raise DataError("no expression to train a CLIP on")

        def jittered(sample: RegionSample, rng: np.random.Generator) -> RegionSample:
            sides = np.tile(sample.boxes[:, 2:] - sample.boxes[:, :2], 2)
            return replace(sample, boxes=sample.boxes + rng.uniform(-jitter, jitter, sides.shape) * sides)

        load = partial(region_sample, images=self.job.images)
        return SceneSamples(scenes, self.job.context.seed, load, jittered if augment else None)

    def collate(self, samples: Sequence[RegionSample]) -> Regions:
        """Join scenes into a batch."""
        names = sorted({name for scene in samples for name in scene.descriptions})
        classes = [names.index(name) for scene in samples for name in scene.descriptions]
        texts = self._tokens([text for scene in samples for text in scene.texts])
        return Regions(tuple(samples), texts, self._tokens(names), torch.tensor(classes, dtype=torch.long))

    def losses(self, batch: Regions, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the two losses, scalars; without descriptions the second is left out."""
        self._limit_scale()
        scale = self.model.logit_scale.exp()
        regions = encode_regions(self.model, batch.scenes, self.ranker, self.config.model)
        texts = self.model.encode_text(batch.texts, normalize=True)
        queries = texts.split([len(scene.texts) for scene in batch.scenes])
        # 1. Each text against the regions of its scene: all views together, and each view alone.
        losses = []
        for scene, vectors, mine in zip(batch.scenes, regions, queries, strict=True):
            logits = scale * (mine @ vectors.transpose(1, 2)).float()  # (V, Q, R + 1)
            target = torch.tensor(scene.referents, device=logits.device)
            losses.append(F.cross_entropy(logits.sum(0), target, reduction="sum"))
            each = F.cross_entropy(logits.flatten(0, 1), target.repeat(len(vectors)), reduction="sum")
            losses.append(each / len(vectors))
        terms = {"region": torch.stack(losses).sum() / len(texts)}
        # 2. Each object, without the whole images, against all descriptions.
        if len(batch.classes):
            described = self.model.encode_text(batch.descriptions, normalize=True)
            objects = torch.cat([vectors[:, :-1] for vectors in regions], dim=1)
            logits = scale * (objects @ described.T).float()
            terms["description"] = F.cross_entropy(logits.flatten(0, 1), batch.classes.repeat(len(objects)))
        return terms

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return everything; weight decay for matrices, but not for the tables of embeddings."""
        named = dict(self.model.named_parameters())
        decayed = {name: p for name, p in named.items() if p.ndim > 1 and "embedding" not in name}
        rest = {name: p for name, p in named.items() if name not in decayed}
        return [ParameterGroup(decayed), ParameterGroup(rest, weight_decay=0.0)]

    @torch.inference_mode()
    def evaluate(self, path: Path | None = None, **share: Any) -> dict[str, float]:
        """Return the share of expressions whose own region ranks first among its scene's, in all and by kind."""
        model = self.model if path is None else self._open(str(path.resolve()))[0]
        hits = defaultdict[str, list[bool]](list)
        model.eval()
        for scene in (scene for scene in self.job.validation if scene.expressions):
            one = region_sample(scene, self.job.validation_images)
            texts = model.encode_text(self._tokens(one.texts).to(self.job.context.device), normalize=True)
            chosen = (
                (texts @ encode_regions(model, [one], self.ranker, self.config.model)[0].transpose(1, 2))
                .sum(0)
                .argmax(-1)
                .tolist()
            )
            for expression, choice, own in zip(scene.expressions, chosen, one.referents, strict=True):
                for kind in (self.metric, expression.kind or "other"):
                    hits[kind].append(choice == own)
        return {kind: sum(flags) / len(flags) for kind, flags in sorted(hits.items())}

    def save(self, path: Path) -> None:
        """Write the whole CLIP in float16."""
        self._limit_scale()
        weights.write_safetensors(path, self.model.state_dict(), {"recipe": self.config.model_dump(mode="json")})

    @property
    def identity(self) -> Mapping[str, str]:
        return {"started from": ", ".join(digest[:12] for digest in self.sha256.values())}

    @torch.no_grad()
    def _limit_scale(self) -> None:
        self.model.logit_scale.clamp_(0, math.log(self.config.largest_scale))

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        """Tokenise texts in lower case -> (N, L)."""
        ids: Tensor = self.tokenizer([text.lower() for text in texts] or [""])[: len(texts)]
        return ids


def encode_regions(model: Any, scenes: Sequence[RegionSample], options: RankerOptions, name: str) -> list[Tensor]:
    """Return for each scene unit vectors (V, R + 1, D) of its objects' boxes and, last, of the whole image."""
    images, counts = [scene.image for scene in scenes], [len(scene.boxes) + 1 for scene in scenes]
    boxes = [np.concatenate([scene.boxes, [[0.0, 0.0, *scene.image.shape[1::-1]]]]) for scene in scenes]
    preprocessing = Preprocessing(model)
    of_views = []
    if options.drawn:
        # (V, sum of R + 1, 3, S, S)
        views = make_views(images, boxes, options.drawn, preprocessing.size, 0.0, model.logit_scale.device)
        vectors = model.encode_image(preprocessing.normalised(views).flatten(0, 1), normalize=True)
        of_views = list(vectors.unflatten(0, views.shape[:2]))
    if "roi" in options.views:
        of_views.append(RegionPooling(model, name, PoolingOptions(fine=1)).encode_boxes(images, boxes, 0.0, "squash"))
    return list(torch.stack(of_views).split(counts, dim=1))
