"""Training rl-refine: features of every image and the boxes to begin with once, then episodes in each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.settings import parse_table, takes
from bench.training.optimiser import decay_split
from bench.training.stages import StagedTraining
from bench.training.task import GrounderTask, ParameterGroup, TaskFactory, TrainingJob
from pipelines.rl_refine import checkpoint, learning, pipeline
from pipelines.rl_refine.network import Observation, Policy
from pipelines.rl_refine.observing import check_clip, observe_all
from pipelines.rl_refine.recipe import RLRefineTraining
from pipelines.rows import Rows
from pipelines.two_stage.clip.encoder import ClipEncoder


class Observed:
    """Every expression of a job's scenes, observed once; a sample is its number."""

    in_memory = True

    def __init__(self, rows: Rows, observation: Observation) -> None:
        self.rows, self.observation, self.name = rows, observation, rows.name

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
        # 1. The pipeline that is validated, around the policy.
        self.grounder = pipeline.RLRefinePipeline(pipeline.options_of(job.context), job.context, self._first)
        self.model = learning.Learner(self.grounder.policy).to(job.context.device)
        # 2. The policy at the start, from which the optimised one does not go far.
        self.reference = deepcopy(self.grounder.policy).requires_grad_(False)

    def _first(self, encoder: ClipEncoder) -> Policy:
        """Make the policy to begin with: of a file, or with random weights. Raises WeightsError."""
        config, context = self.config, self.job.context
        if config.start_from:
            return checkpoint.open_policy(config.start_from, encoder.sha256, context)[0]
        torch.manual_seed(context.seed)
        count = config.network.proposals if pipeline.options_of(context).proposals.proposer else 0
        return Policy(config.network.model_copy(update={"embed": check_clip(encoder), "proposals": count}))

    def dataset(self, augment: bool = True) -> Observed:
        """Return one sample an expression; images are encoded, and first boxes predicted, once for all stages."""
        rows = Rows(self.job, self.grounder.observer.size, "clean", None)
        key = ("rl-refine", tuple(self.grounder.card.sha256.values()), self.grounder.policy.config.proposals)
        if key not in self.job.shared:
            self.job.shared[key] = observe_all(rows, self.grounder.observer, self.grounder.before)
        self.observed = Observed(rows, self.job.shared[key])
        return self.observed

    def collate(self, samples: Sequence[int]) -> Observation:
        """Join samples into a batch."""
        return self.observed.observation.rows(torch.tensor(samples))

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
        recipe = self.config.model_dump(mode="json", exclude={"start_from"})  # a path, for a later stage
        checkpoint.save(path, self.model.policy, self.grounder.observer.encoder.sha256, recipe)

    @property
    def identity(self) -> Mapping[str, str]:
        return {"features": " ".join(digest[:12] for digest in self.grounder.card.sha256.values())}


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
