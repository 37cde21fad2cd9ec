"""Validation of a CLIP in training by the whole pipeline, with the boxes that its proposer finds; and WiSE-FT.

The published weights are (1 - a) first + a tuned (Wortsman et al., CVPR 2022); a is the best of eleven on the
validation split, where tuned weights that forgot too much lose to a mixture.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.evaluation.validation import on_split
from bench.grounding import Boxes, ImageSource, Scene
from bench.training.task import TrainingJob
from pipelines import weights
from pipelines.two_stage.clip.encoder import ClipEncoder
from pipelines.two_stage.clip.ranking import Ranker
from pipelines.two_stage.pipeline import TRAINED_RANKER, TwoStage, options_of
from pipelines.two_stage.proposers.proposals import open_proposer
from pipelines.two_stage.tuning.candidates import KeptProposals, proposed
from pipelines.two_stage.tuning.recipe import ClipTraining
from pipelines.two_stage.tuning.towers import Towers

log = logging.getLogger("bench.train")
MIXTURES = tuple(step / 10 for step in range(11))


class Validation:
    """The pipeline around a CLIP in training; its proposer proposes for an image once."""

    def __init__(self, job: TrainingJob, config: ClipTraining, options: Mapping[str, Any], towers: Towers) -> None:
        """Open the proposer. Raises what opening the pipeline raises."""
        self.job, self.config, self.towers = job, config, towers
        self.context = replace(towers.context, options=options)
        self.options = options_of(self.context)
        where = f"bench.toml [pipelines.{job.context.name}.proposer]"
        self.proposer = KeptProposals(open_proposer(self.options.proposer, where, self.context))
        self.others = [ClipEncoder(clip, self.context) for clip in self.options.ensemble]
        table = json.dumps(self.options.proposer, sort_keys=True, default=str)
        self.proposer_key = sha256(f"{table} {sorted(self.proposer.sha256.values())}".encode()).hexdigest()
        self.notes: dict[str, Any] = {"compare": self._compared}

    @property
    def ranker_table(self) -> dict[str, Any]:
        """Return the ranker's options that belong to the weights, plain."""
        return self.options.ranker.model_dump(mode="json", include=set(TRAINED_RANKER))

    @property
    def _compared(self) -> dict[str, Any]:
        """Name the pipelines that are compared at the end: label -> what differs from bench.toml."""
        clip = {"model": self.config.model, "pretrained": self.config.start_from}
        ranker = self.options.ranker.model_dump(mode="json", exclude_unset=True)
        own, rows = options_of(self.job.context), dict[str, Any]({"as it stands": {}})
        if own.ranker != self.options.ranker or own.clip != own.clip.model_copy(update=clip):
            rows["zero-shot"] = {"clip": clip, "ranker": ranker}
        return {"split": self.job.validation_command, "pipelines": rows}

    def pipeline(self, model: Any) -> TwoStage:
        """Return the pipeline with a CLIP of the recipe's model."""
        name = self.options.clip.model_copy(update={"model": self.config.model, "pretrained": self.config.start_from})
        encoders = [ClipEncoder(name, self.context, model), *self.others]
        return TwoStage(
            self.proposer, Ranker(self.options.ranker, encoders, self.context.clock), self.options, self.context
        )

    def score(self, model: Any) -> dict[str, float]:
        """Score a CLIP on the validation split, as `bench run` does."""
        return self.job.validate(self.pipeline(model))

    def proposals(self, scenes: Sequence[Scene], images: ImageSource) -> Mapping[str, tuple[Boxes, tuple[str, ...]]]:
        """Return what the proposer proposes for the images of a training."""
        folder = self.job.out / f"{self.config.name}.run" if self.job.saves else None
        return proposed(self.proposer.proposer, scenes, images, self.proposer_key, folder)

    def publish(self, best: Path, out: Path, metadata: Mapping[str, Any]) -> None:
        """Write the best mixture of the first and the tuned weights, with the score of each mixture."""
        tuned = weights.read_safetensors(best)[0]
        model, _ = self.towers.open(self.config.start_from)
        first = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
        some = evenly(self.job.validation, self.config.wise_images)
        validate = on_split(some, self.job.validation_images, self.job.settings)
        curve: dict[float, float] = {}
        for share in MIXTURES if self.config.wise else (0.0, 1.0):
            model.load_state_dict(mixed(first, tuned, share))
            curve[share] = validate(self.pipeline(model))["accuracy"]
            log.info("%s: %.1f of the tuned weights: Acc@0.5 %.2f%%", self.job.context.name, share, 100 * curve[share])
        share = max(curve, key=lambda each: (curve[each], -each)) if self.config.wise else 1.0
        wise = {"share": share, "images": len(some), "accuracy": {f"{a:g}": round(v, 4) for a, v in curve.items()}}
        self.notes["wise"] = wise
        weights.write_safetensors(out, mixed(first, tuned, share), {**metadata, "wise": wise})


def mixed(first: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Mix weights: (1 - share) of the first and `share` of the tuned ones; 0 and 1 are either to the bit."""
    return {
        name: torch.lerp(tensor.float(), tuned[name].float(), share) if tensor.is_floating_point() else tuned[name]
        for name, tensor in first.items()
    }


def evenly(scenes: Sequence[Scene], count: int) -> list[Scene]:
    """Return `count` scenes with expressions, spread over all of them."""
    usable = [scene for scene in scenes if scene.expressions]
    count = min(count, len(usable))
    return [usable[number * len(usable) // count] for number in range(count)]
