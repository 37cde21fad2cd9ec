"""Training Dynamic MDETR: TransVG's task, on the box of the last stage (Shi et al. 2024).

Numbers are those of the official code (github.com/MCG-NJU/Dynamic-MDETR), for the model on CLIP those that its authors
gave in answer to a question there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench.errors import SettingsError, WeightsError
from bench.settings import Table, takes
from bench.training.task import TaskFactory, TrainingJob
from pipelines.dynamic_mdetr.network import DynamicMdetr, DynamicMdetrConfig
from pipelines.dynamic_mdetr.pipeline import DynamicMdetrPipeline
from pipelines.transvg.checkpoint import Loaded
from pipelines.transvg.recipe import TransVGTraining
from pipelines.transvg.task import TransVGTask
from pipelines.two_stage.clip.encoder import ClipOptions, open_clip, open_model

ON_CLIP = {"feedforward": 4096, "points": 160, "tokens": 80}  # sizes that differ from those on ResNet and BERT
POSITIONS = "visual.positional_embedding"


class ClipStart(Table):
    """[train.dynamic-mdetr.clip]: the CLIP that a network on CLIP starts from."""

    model: str = Field("ViT-B-16-quickgelu", description="a name of open_clip.list_models()")
    pretrained: str = Field("", description="a tag (openai) or a file; empty = a network on ResNet and BERT")


class DynamicMdetrTraining(TransVGTraining):
    """[train.dynamic-mdetr]: the paper's recipe, and a network from nothing where `detr` and `bert` are empty."""

    name: str = Field("dynamic-mdetr", pattern=r"^[\w.-]+$", description="name of the files that are written")
    clip: ClipStart = ClipStart()
    network: DynamicMdetrConfig = DynamicMdetrConfig()  # type: ignore[assignment]
    reference_batch: int = Field(128, ge=1, description="samples in a step: 8 GPUs of 16")
    clip_norm: float = Field(1.0, ge=0)
    clip_share: float = Field(0.1, ge=0, description="of the learning rate, for CLIP")


class DynamicMdetrTask(TransVGTask):
    """A Dynamic MDETR in training."""

    Config, Pipeline, kind = DynamicMdetrTraining, DynamicMdetrPipeline, DynamicMdetr
    config: DynamicMdetrTraining

    def start(self) -> tuple[Loaded, dict[str, Any]]:
        """Return the network to train, and what its image branch took of a DETR. Raises WeightsError."""
        config, context = self.config, self.job.context
        if config.start_from or not config.clip.pretrained:
            return super().start()
        # 1. The published CLIP, and a network of its sizes.
        torch.manual_seed(context.seed)
        options = ClipOptions(model=config.clip.model, pretrained=config.clip.pretrained)
        published, _ = open_model(options, replace(context, dtype="float32"))
        state, table = published.state_dict(), dict(open_clip.get_model_config(options.model) or {})
        if POSITIONS not in state or not isinstance(published, open_clip.CLIP):
            raise WeightsError(
                f"clip.model = {options.model}: Dynamic MDETR needs a CLIP of two plain transformers, such as ViT-B-16"
            )
        if (size := config.network.image_size) % table["vision_cfg"]["patch_size"]:
            raise SettingsError(f"network.image_size = {size}: no multiple of the patches of {options.model}")
        table["vision_cfg"] = table["vision_cfg"] | {"image_size": size}
        table["quick_gelu"] = any(isinstance(module, open_clip.transformer.QuickGELU) for module in published.modules())
        own = {"backbone": "clip", "clip": table, "hidden": table["embed_dim"]}
        given = config.network.model_dump(exclude_unset=True)
        network = DynamicMdetr(DynamicMdetrConfig.model_validate(ON_CLIP | given | own))
        # 2. Its weights in it, the positions resized.
        state[POSITIONS] = resized(state[POSITIONS], network.side)
        network.clip.load_state_dict(state)
        tokenizer = network.tokenizer("", "", network.config)
        style = "official" if config.preprocessing == "auto" else config.preprocessing
        return Loaded(network, tokenizer, style), {}

    @property
    def frozen(self) -> tuple[str, ...]:
        """Return TransVG's, the first reference point, and what changes no box: the last stage's next query."""
        last = f"update_{self.model.word}_queries.{self.model.config.stages - 1}."
        return (*super().frozen, "init_reference_point.", last, "clip.logit_scale")

    @property
    def shares(self) -> tuple[tuple[str, float], ...]:
        """Return TransVG's, or CLIP's."""
        return (("clip.", self.config.clip_share),) if self.model.config.clip else super().shares


def resized(positions: Tensor, side: int) -> Tensor:
    """Resize a CLIP's positions (1 + P, W) -> (1 + side * side, W), bicubic; the class token's row stays."""
    before = round((len(positions) - 1) ** 0.5)
    grid = positions[1:].T.reshape(1, -1, before, before)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], grid[0].flatten(1).T])


@takes(DynamicMdetrTraining)
def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return dynamic-mdetr's one part."""
    return {"network": partial(DynamicMdetrTask, job)}
