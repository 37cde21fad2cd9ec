"""Training the CLIP of a two-stage pipeline to choose among the boxes of an image, as it does there.

    scenes without images of val and test ─► candidates ─► views, as the ranker's ─► regions ─┐
    expressions ─────────────────────────────────────────────────────────────────► texts ─────┴─► losses

Choosing within an image is what grounding asks for; negatives from other images teach classes, which CLIP knows.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.datasets.kept_out import without_kept_out
from bench.errors import DataError
from bench.grounding import Scene
from bench.training.task import Batch, ParameterGroup, TrainingJob, TrainTask
from pipelines.two_stage.proposers.objects import SceneSamples
from pipelines.two_stage.tuning.candidates import RegionSample, jittered, region_sample
from pipelines.two_stage.tuning.losses import POSITIVE, choose, contrast, false_negatives, siglip
from pipelines.two_stage.tuning.recipe import ClipTraining, Source, recipe_of, training_views
from pipelines.two_stage.tuning.towers import Towers
from pipelines.two_stage.tuning.validation import Validation

log = logging.getLogger("bench.train")


@dataclass(frozen=True, slots=True)
class Scenes(Batch):
    """Scenes, with their texts tokenised (N, L), or as features (N, W) where only these are projected."""

    scenes: tuple[RegionSample, ...]
    texts: Tensor
    descriptions: Tensor  # (M, L), the different ones of their objects


class ClipTask(TrainTask):
    """A CLIP in training. A loss compares the samples of a whole batch: scope "batch"."""

    Config = ClipTraining
    loss_scope = "batch"
    config: ClipTraining

    def __init__(self, job: TrainingJob) -> None:
        """Open the CLIP, and drop what no training may have. Raises SettingsError, WeightsError, DataError."""
        self.config, options = recipe_of(job)
        kept, self.kept_out = without_kept_out(job.scenes, job.context.dataset, job.context.home)
        super().__init__(replace(job, scenes=[scene for scene in kept if any(e.targets for e in scene.expressions)]))
        self._refuse_unknown()
        weight, config = {"choose": 1.0, "choose+batch": 1.0}.get(self.config.loss, 0.0), self.config
        self.loss_weights = {
            "choose": weight,
            "view": weight,
            "batch": config.batch_weight if config.loss == "choose+batch" else float(config.loss == "infonce"),
            "siglip": float(config.loss == "siglip"),
            "keep": config.keep,
            "description": config.description,
        }
        self.loss_weights = {name: weight for name, weight in self.loss_weights.items() if weight}
        self.towers = Towers(config, training_views(options), job.context, job.context.seed)
        self.model = self.towers.model
        self.validation = Validation(self.job, config, options, self.towers)
        self.texts = self.towers.text_features(self._every_text()) if self.towers.projects else None

    def dataset(self, augment: bool = True) -> SceneSamples[RegionSample]:
        """Return one sample a scene; boxes are jittered, to resemble a detector's."""
        config, projects = self.config, self.towers.projects
        boxes: Mapping[str, Any] = {}
        if config.candidates_from != "annotations" and config.loss != "infonce":
            boxes = self.validation.proposals(self.job.scenes, self.job.images)
        nothing = (np.zeros((0, 4)), ())
        # Of in-batch negatives alone only what is referred to counts.
        alone = config.loss == "infonce"
        source: Source = "annotations" if alone else config.candidates_from
        count = 1 if alone else config.candidates

        def load(scene: Scene) -> RegionSample:
            sample = region_sample(scene, self.job.images, boxes.get(scene.id, nothing), source, count)
            if not projects:
                return sample
            features = self.towers.image_features(sample.image, sample.boxes)
            return replace(sample, features=features, image=sample.image[:0])

        def varied(sample: RegionSample, rng: np.random.Generator) -> RegionSample:
            return jittered(sample, rng, 0.0 if projects else config.jitter, config.paraphrase)

        return SceneSamples(self.job.scenes, self.job.context.seed, load, varied if augment else None, projects)

    def collate(self, samples: Sequence[RegionSample]) -> Scenes:
        """Join scenes into a batch."""
        texts = [text for scene in samples for text in scene.texts]
        names = sorted({name for scene in samples for _, name in scene.described}) if self.config.description else []
        described = self.towers.tokens(names) if names else torch.zeros(0, 1, dtype=torch.long)
        if self.texts is not None:
            return Scenes(tuple(samples), torch.stack([row for (row,) in self.texts(texts)]), described)
        return Scenes(tuple(samples), self.towers.tokens(texts), described)

    def losses(self, batch: Scenes, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of the recipe, scalars."""
        towers, scenes = self.towers, batch.scenes
        scale = towers.limit_scale().exp()
        # 1. Unit vectors: (V, K, D) of each scene's candidates, (N, D) of all texts.
        if towers.projects:
            regions = [towers.project(scene.features.to(towers.device), True) for scene in scenes]  # type: ignore[union-attr]
            texts = towers.project(batch.texts, False)
        else:
            regions = towers.regions([scene.image for scene in scenes], [scene.boxes for scene in scenes])
            texts = towers.encode_texts(batch.texts)
        queries = texts.split([len(scene.texts) for scene in scenes])
        overlaps = [torch.from_numpy(scene.overlap).to(towers.device) for scene in scenes]
        # 2. Each text among the candidates of its image.
        terms: dict[str, Tensor] = {}
        rows = zip(queries, regions, overlaps, strict=True)
        cosines = [((mine @ own.transpose(1, 2)).float(), overlap) for mine, own, overlap in rows]
        if "choose" in self.loss_weights:
            each = [choose(scale * cosine, overlap) for cosine, overlap in cosines]
            right = torch.cat([(overlap >= POSITIVE).any(dim=1) for _, overlap in cosines]).sum().clamp(min=1)
            together, alone = (torch.cat(losses).sum() / right for losses in zip(*each, strict=True))
            terms |= {"choose": together} | ({"view": alone} if len(regions[0]) > 1 else {})
        if "siglip" in self.loss_weights:
            pairs = [siglip(scale * cosine.mean(0) + towers.bias, overlap) for cosine, overlap in cosines]
            terms["siglip"] = torch.cat(pairs).mean()
        # 3. Texts and objects of the batch.
        if "batch" in self.loss_weights:
            terms["batch"] = self._in_batch(scenes, regions, texts, overlaps, scale)
        if "description" in self.loss_weights and len(batch.descriptions):
            terms["description"] = self._described(batch, regions, scale)
        if "keep" in self.loss_weights:
            terms["keep"] = towers.moved([scene.image for scene in scenes], batch.texts, texts)
        return terms

    def _in_batch(
        self, scenes: Sequence[RegionSample], regions: Sequence[Tensor], texts: Tensor, overlaps: Sequence[Tensor],
        scale: Tensor,
    ) -> Tensor:  # fmt: skip
        """Contrast the texts with the objects that they are about, each once, all over the batch."""
        usable = [(o.amax(dim=1) >= POSITIVE).tolist() for o in overlaps]
        owner = [(n, q) for n, flags in enumerate(usable) for q, flag in enumerate(flags) if flag]
        if not owner:
            return texts.sum() * 0.0
        places = [(n, scenes[n].objects[q]) for n, q in owner]
        objects = list(dict.fromkeys(places))
        first = [owner[places.index(place)] for place in objects]
        best = [regions[n][:, overlaps[n][q].argmax()].sum(0) for n, q in first]
        starts = np.cumsum([0, *(len(scene.texts) for scene in scenes)])
        rows = [int(starts[n]) + q for n, q in owner]
        logits = scale * (texts[rows] @ torch.stack(best).T).float()
        number = {place: at for at, place in enumerate(objects)}
        own = torch.tensor([number[place] for place in places], device=texts.device)
        positive = own[:, None] == torch.arange(len(objects), device=texts.device)
        if self.config.loss == "infonce":  # as in a batch of images at random, which has no two objects of one
            image = torch.tensor([n for n, _ in owner])
            return contrast(
                logits, positive, (image[:, None] == torch.tensor([n for n, _ in objects])).to(positive.device)
            )
        words = [scenes[n].texts[q] for n, q in owner]
        unknown = false_negatives(words, [scenes[n].categories[q] for n, q in owner], [n for n, _ in owner])
        # A pair of text and object is left out where any text about the object makes it doubtful.
        doubtful = unknown.to(texts.device).float() @ positive.float() > 0
        return contrast(logits, positive, doubtful)

    def _described(self, batch: Scenes, regions: Sequence[Tensor], scale: Tensor) -> Tensor:
        """Compare each described object with all descriptions of the batch."""
        names = sorted({name for scene in batch.scenes for _, name in scene.described})
        vectors = [own[:, [n for n, _ in s.described]] for s, own in zip(batch.scenes, regions, strict=True)]
        classes = [names.index(name) for scene in batch.scenes for _, name in scene.described]
        logits = scale * (torch.cat(vectors, dim=1) @ self.towers.encode_texts(batch.descriptions).T).float()
        target = torch.tensor(classes, device=logits.device).repeat(len(logits))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), target)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return what the recipe trains."""
        return self.towers.groups

    def evaluate(self, path: Path | None = None, **share: Any) -> dict[str, float]:
        """Score the whole pipeline with the weights in training, or those of the file, on the validation split."""
        model = self.model if path is None else self.towers.open(str(path.resolve()))[0]
        return self.validation.score(model)

    def options(self, path: Path) -> dict[str, Any]:
        """Return the pipeline's option that opens the weights file `path`."""
        return {"weights": f"clip={path.resolve()}"}

    def save(self, path: Path) -> None:
        """Write the whole CLIP in float16, adapters merged, with what it was trained on."""
        self.towers.save(path, self.metadata)

    def publish(self, best: Path, out: Path) -> None:
        """Write the mixture of first and best weights that the validation split prefers (WiSE-FT)."""
        self.validation.publish(best, out, self.metadata)

    @property
    def metadata(self) -> dict[str, Any]:
        """Return what the file says of itself."""
        config, job = self.config, self.job
        return {
            "recipe": config.model_dump(mode="json"),
            "open_clip": self.towers.made,
            "ranker": self.validation.ranker_table,
            "trained_on": {"split": job.split_name, "fingerprint": job.fingerprint, "labels": list(job.labels)},
            "started_from": config.start_from,
            "base": dict(self.towers.sha256),
            "kept_out": self.kept_out.as_object(),
        }

    @property
    def identity(self) -> Mapping[str, str]:
        scenes = hashlib.sha256("\n".join(scene.id for scene in self.job.scenes).encode()).hexdigest()[:12]
        started = ", ".join(digest[:12] for digest in self.towers.sha256.values())
        return {"started from": started, "scenes": scenes, "proposals": self.validation.proposer_key[:12]}

    @property
    def notes(self) -> Mapping[str, Any]:
        return {"kept_out": self.kept_out.as_object(), **self.validation.notes}

    def _refuse_unknown(self) -> None:
        """Raise DataError where nothing is left, or images could be those of a part whose list is not at hand."""
        gone, name = self.kept_out, self.job.context.name
        if self.config.kept_out == "all":
            gone.refuse_unknown("clip.kept_out=known")
        if gone.images:
            log.info("%s: %s images of val and test parts are left out (%s expressions)", name, f"{gone.images:,}",
                     f"{gone.expressions:,}")  # fmt: skip
        if not self.job.scenes:
            raise DataError(
                f"{name}: no expression to train a CLIP on ({gone.images:,} images of val and test left out)"
            )
        if self.config.candidates_from != "proposer" and not any(scene.objects for scene in self.job.scenes):
            log.warning("%s: only the referred objects of an image are annotated; others come from proposals", name)

    def _every_text(self) -> list[str]:
        return [expression.text for scene in self.job.scenes for expression in scene.expressions]
