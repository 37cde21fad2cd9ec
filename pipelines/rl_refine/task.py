"""Training rl-refine: features of every image and the boxes to begin with once, then episodes in each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.grounding import LoadedScene, Scene
from bench.settings import parse_table, takes
from bench.training.feature_cache import AT_ONCE
from bench.training.optimiser import decay_split
from bench.training.stages import StagedTraining
from bench.training.task import GrounderTask, ParameterGroup, TaskFactory, TrainingJob
from pipelines import weights
from pipelines.card import parse_options
from pipelines.rl_refine import checkpoint, learning, pipeline
from pipelines.rl_refine.network import Observation, Policy
from pipelines.rl_refine.recipe import RLRefineTraining
from pipelines.rows import Rows
from pipelines.two_stage.clip.encoder import ClipEncoder


class Observed:
    """Every expression of a job's scenes, observed once; a sample is its number."""

    in_memory = True

    def __init__(self, rows: Rows, seen: Observation) -> None:
        self.rows, self.seen, self.name = rows, seen, rows.name

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, epoch: int, index: int) -> int:
        """Return the number itself: nothing changes from epoch to epoch."""
        return index


class RLRefineTask(GrounderTask):
    """A policy in training: one stage. CLIP, the proposer and the pipeline before it are frozen."""

    config: RLRefineTraining
    model: learning.Learner
    metric = "mean_iou"
    cannot_group = "each image is encoded once"

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        where = f"bench.toml [train.{job.context.name}]"
        self.config = config = parse_table(RLRefineTraining, dict(job.recipe), where)
        every = {"imitation": 1.0} if config.method == "imitation" else {"policy": 1.0, "kl": config.kl}
        self.loss_weights = every | ({"entropy": config.entropy} if config.method == "grpo" else {})
        # 1. The policy, and with it the pipeline that is trained and validated.
        options = parse_options(pipeline.RLRefineOptions, job.context)
        policy = start(config, options, job).to(job.context.device)
        self.grounder = pipeline.RLRefinePipeline(options, job.context, policy)
        self.model = learning.Learner(policy).to(job.context.device)
        # 2. The policy at the start, from which the optimised one does not go far.
        self.reference = deepcopy(policy).requires_grad_(False)

    def dataset(self, augment: bool = True) -> Observed:
        """Return one sample an expression; images are encoded, and first boxes predicted, once for all stages."""
        rows = Rows(self.job, self.grounder.size, "clean", None)
        key = ("rl-refine", tuple(self.grounder.card.sha256.values()), self.grounder.policy.config.proposals)
        if key not in self.job.shared:
            self.job.shared[key] = observe_all(rows, self.grounder)
        self.observed = Observed(rows, self.job.shared[key])
        return self.observed

    def collate(self, samples: Sequence[int]) -> Observation:
        """Join samples into a batch."""
        return self.observed.seen.rows(torch.tensor(samples))

    def losses(self, batch: Observation, rng: torch.Generator) -> dict[str, Tensor]:
        """Play episodes and return the terms of each sample, (B,)."""
        model, config, most = self.model, self.config, self.grounder.moves
        with torch.autocast(batch.start.device.type, enabled=False):  # the policy is small, and its odds are compared
            if config.method == "imitation":
                return learning.imitate(model, batch, config, most, rng)
            left = max(0.0, 1 - float(model.samples) / self.total)
            model.samples += len(batch)
            return learning.optimise(model, self.reference, batch, config, most, left, rng)

    @property
    def total(self) -> float:
        """Return the samples of the whole training."""
        return self.config.steps * self.config.reference_batch or self.config.epochs * len(self.observed)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the policy."""
        return decay_split({f"policy.{name}": p for name, p in self.model.policy.named_parameters()})

    def pipeline(self) -> pipeline.RLRefinePipeline:
        """Return the pipeline of the policy in training."""
        self.model.eval()
        return self.grounder

    def options(self, path: Path) -> dict[str, Any]:
        """Return the options that open the policy, with what it looks at and starts from."""
        return {**self.job.context.options, **super().options(path)}

    def save(self, path: Path) -> None:
        """Write the policy in float16."""
        checkpoint.save(path, self.model.policy, self.grounder.encoder.sha256, self.config.model_dump(mode="json"))

    @property
    def identity(self) -> Mapping[str, str]:
        return {"features": " ".join(digest[:12] for digest in self.grounder.card.sha256.values())}


def start(config: RLRefineTraining, options: pipeline.RLRefineOptions, job: TrainingJob) -> Policy:
    """Return the policy to train: of a file, or with random weights. Raises WeightsError."""
    torch.manual_seed(job.context.seed)
    clip = ClipEncoder(options.clip, job.context)
    if config.start_from:
        return checkpoint.open_policy(weights.find(config.start_from, job.context, checkpoint.HOW), clip.sha256)
    sizes = config.network.model_copy(update={"embed": pipeline.check_clip(clip)})
    return Policy(sizes if options.proposals.proposer else sizes.model_copy(update={"proposals": 0}))


def observe_all(rows: Rows, grounder: pipeline.RLRefinePipeline) -> Observation:
    """Observe every expression of some rows, with its target; each image is decoded once. Raises ImageError."""
    features, begin, targets, owners, texts = [], [], [], [], []

    def load(scene: Scene) -> LoadedScene:
        return LoadedScene(scene.id, rows.load(scene), tuple(e.query for e in scene.expressions))

    scenes = [scene for scene in rows.scenes if scene.expressions]
    for first in range(0, len(scenes), AT_ONCE):
        some = scenes[first : first + AT_ONCE]
        batch = list(grounder.pool.map(load, some))
        # 1. What does not depend on a text; the map in 16 bits, for it is most of the memory.
        canvases = grounder.canvases(batch)
        features += [each._replace(map=each.map.half()) for each in grounder.features(batch, canvases)]
        # 2. The box to begin with; where there is none, the whole image.
        mine = np.array([n for n, scene in enumerate(some) for _ in scene.expressions])
        boxes = pipeline.on_canvas(grounder.before(batch), canvases, mine)
        whole = np.array([each.to_canvas((0.0, 0.0, *size)) for each, size in zip(canvases, sizes(batch), strict=True)])
        begin.append(np.where(np.isfinite(boxes).all(axis=1, keepdims=True), boxes, whole[mine]))
        # 3. Texts and targets.
        texts += [expression.text for scene in some for expression in scene.expressions]
        targets += [rows.target(canvases[n], e) for n, scene in enumerate(some) for e in scene.expressions]
        owners.append(first + mine)
    seen = pipeline.observe(features, np.concatenate(owners), grounder.texts(texts), np.concatenate(begin))
    return seen.with_targets(torch.tensor(np.array(targets), dtype=torch.float32))


def sizes(batch: Sequence[LoadedScene]) -> list[tuple[float, float]]:
    """List width and height of images."""
    return [(float(scene.image.shape[1]), float(scene.image.shape[0])) for scene in batch]


def training(job: TrainingJob) -> RLRefineTask | StagedTraining:
    """Make the training of a job: in stages, or of one stage. Raises SettingsError."""
    config = parse_table(RLRefineTraining, dict(job.recipe), f"bench.toml [train.{job.context.name}]")
    stages = [{"stages": (), **stage.model_dump(mode="json", exclude_none=True)} for stage in config.stages]
    files = [config.start_from] if config.start_from else []
    return StagedTraining(job, config, stages, files, RLRefineTask) if stages else RLRefineTask(job)


@takes(RLRefineTraining)
def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return rl-refine's one part."""
    return {"policy": partial(training, job)}
