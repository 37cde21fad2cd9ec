"""The config of a policy's training: imitation of the greedy oracle, then group-relative optimisation."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bench.training.config import TrainConfig
from pipelines.rl_refine.network import PolicyConfig

Method = Literal["imitation", "grpo"]


class Stage(BaseModel):
    """One stage of [train.rl-refine]: what differs from the table around it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method
    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=0)
    learning_rate: float | None = Field(None, gt=0)
    episodes: int | None = Field(None, ge=2)
    validate_every: int | None = Field(None, ge=1)


STAGES = (
    Stage(method="imitation", epochs=3, learning_rate=1e-3, episodes=4),
    Stage(method="grpo", epochs=2, learning_rate=1e-4, episodes=16),
)


class RLRefineTraining(TrainConfig):
    """[train.rl-refine]. What the policy looks at and starts from is the pipeline's own table."""

    name: str = Field("rl-refine", pattern=r"^[\w.-]+$", description="name of the files that are written")
    start_from: str = Field("", description="policy to start from; empty = random weights")
    network: PolicyConfig = Field(PolicyConfig(), description="of a new policy; embed is its CLIP's")
    stages: tuple[Stage, ...] = Field(STAGES, description="trained in turn; empty = one, of the fields below")
    method: Method = Field("imitation", description="of the oracle, or grpo: reward against the group's")

    batch: int = Field(64, ge=1, description="most expressions that one process takes at once")
    reference_batch: int = Field(64, ge=1, description="expressions in a step")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    schedule_by: Literal["epoch", "step"] = "step"
    clip_norm: float = Field(1.0, ge=0)
    episodes: int = Field(16, ge=2, description="of each expression in a step: a group")
    explore: float = Field(0.5, ge=0, le=1, description="imitation: share of moves that are the policy's own")
    cost: float = Field(0.005, ge=0, description="of a move, in reward")
    ratio: float = Field(0.2, gt=0, description="grpo: how far a move's probability may go before its gradient ends")
    refresh: int = Field(4, ge=1, description="grpo: forward passes after which the policy that plays is the newest")
    kl: float = Field(0.04, ge=0, description="grpo: weight of the distance to the policy it started from")
    entropy: float = Field(0.01, ge=0, description="grpo: weight of the entropy, which falls to 0")
    jitter: float = Field(0.3, ge=0, le=1, description="grpo: share of episodes, falling to 0, that start near the "
                          "truth while more than half of the groups tell nothing")  # fmt: skip
