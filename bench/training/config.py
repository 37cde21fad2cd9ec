"""What every training's table of bench.toml holds, and how many samples make an optimiser's step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

from bench.errors import UsageError

Schedule = Literal["constant", "cosine", "linear", "drop"]
Dtype = Literal["auto", "float32", "bfloat16"]


class TrainConfig(BaseModel):
    """[train.NAME]: the fields that every method shares. `batch` is the largest that one process takes at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    # What may change when a training is resumed: none of it changes the weights.
    FREE: ClassVar[frozenset[str]] = frozenset(
        {
            "workers",
            "save_every",
            "validate_every",
            "early_stop",
            "collapse_window",
            "log_every",
            "track",
            "batch",
            "cache_images",
        }
    )
    eps: ClassVar[float] = 1e-8  # of AdamW

    name: str = Field("weights", pattern=r"^[\w.-]+$", description="name of the files that are written")
    start_from: str = Field("", description="weights to start from; empty = random weights")
    epochs: int = Field(10, ge=1)
    steps: int = Field(0, ge=0, description="length of the training, whatever the number of samples; 0 = the epochs")
    batch: int = Field(64, ge=1, description="most samples that one process takes at once")
    reference_batch: int = Field(64, ge=1, description="samples in a step, over all processes and passes")
    adapt: Literal["accumulate", "scale", "off"] = Field(
        "accumulate",
        description="to reference_batch: accumulate gradients, scale the learning rate, or neither",
    )
    group: Literal["row", "image"] = Field(
        "row",
        description="a step takes rows in any order, or image by image: faster, with fewer images in a step, and one "
        "augmentation for the rows of an image",
    )
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = Field("cosine", description="of the learning rate; drop multiplies it by `drop` at `drop_at`")
    schedule_by: Literal["epoch", "step"] = Field("epoch", description="how often the schedule moves")
    drop_at: float = Field(2 / 3, gt=0, le=1, description="share of the training after which the rate drops")
    drop: float = Field(0.1, gt=0, le=1)
    warm_up: int = Field(0, ge=0, description="steps")
    warm_up_epochs: float = Field(0.0, ge=0, description="epochs; added to warm_up")
    clip_norm: float = Field(0.0, ge=0, description="of the gradient; 0 = off")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of an average of the weights; 0 = off")
    dtype: Dtype = Field("auto", description="autocast; auto = bfloat16 on a GPU")
    workers: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="processes that decode and augment; 0 = none; auto = all cores for a GPU, at most 32; 4 for a CPU",
    )
    cache_images: Literal["off", "auto"] | ByteSize = Field(
        "off",
        description='decoded images in memory that all processes share: bytes, or "16GB"; auto = half of what is free',
    )
    save_every: int = Field(500, ge=1, description="steps between step files, beside one at the end of an epoch")
    validate_every: int = Field(1, ge=1, description="epochs")
    early_stop: int = Field(0, ge=0, description="stop after so many epochs without improvement; 0 = off")
    collapse_window: int = Field(300, ge=10, description="steps the collapse detector looks back")
    log_every: int = Field(50, ge=1, description="steps")
    track: Literal["", "tensorboard", "trackio", "wandb"] = ""

    @model_validator(mode="before")
    @classmethod
    def _old_schedule(cls, table: Any) -> Any:
        """Accept `schedule = "epoch" | "step"`, which meant a cosine moved that often."""
        if isinstance(table, dict) and table.get("schedule") in ("epoch", "step"):
            return table | {"schedule": "cosine", "schedule_by": table["schedule"]}
        return table

    def precision(self, device_type: str) -> Literal["float32", "bfloat16"]:
        """Return the autocast type on a device."""
        if self.dtype == "auto":
            return "bfloat16" if device_type == "cuda" else "float32"
        return self.dtype


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How many samples make a step, and the learning rate for it."""

    processes: int
    batch: int
    accumulate: int
    learning_rate: float

    @property
    def effective(self) -> int:
        """Samples in an optimiser step, over all processes."""
        return self.processes * self.batch * self.accumulate

    def __str__(self) -> str:
        parts = f"{self.processes} processes x {self.batch} rows x {self.accumulate} accumulated"
        return f"effective batch {self.effective} ({parts}), learning rate {self.learning_rate:.3g}"


def batch_plan(config: TrainConfig, processes: int) -> BatchPlan:
    """Return the step of a config on so many processes.

    With adapt = "accumulate" processes x batch x accumulation is the reference exactly: the batch of a process shrinks
    to the largest number of rows that divides its share. With "scale" the learning rate follows the batch instead; on
    one GPU CLIP-VG's learning rate with a fifth of its batch does not learn. Raises UsageError where it cannot be met.
    """
    if config.adapt != "accumulate":
        effective = processes * config.batch
        share = 1.0 if config.adapt == "off" else effective / config.reference_batch
        return BatchPlan(processes, config.batch, 1, config.learning_rate * share)
    share_of_one, rest = divmod(config.reference_batch, processes)
    if rest:
        below, above = config.reference_batch - rest, config.reference_batch - rest + processes
        near = " or ".join(str(n) for n in (below, above) if n > 0)
        counts = [n for n in range(1, config.reference_batch + 1) if config.reference_batch % n == 0]
        close = sorted(sorted(counts, key=lambda n: abs(n - processes))[:2])
        raise UsageError(
            f"reference_batch = {config.reference_batch} cannot be shared by {processes} processes: set "
            f"reference_batch={near}, or start {' or '.join(map(str, close))} processes"
        )
    batch = max(n for n in range(1, min(config.batch, share_of_one) + 1) if share_of_one % n == 0)
    return BatchPlan(processes, batch, share_of_one // batch, config.learning_rate)
