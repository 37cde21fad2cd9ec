"""The recipe of HiVG's training, its stages, and the CLIP that it starts from (Xiao et al., ACM MM 2024, section 3.3).

Numbers are those of the official scripts for a single data set and ViT-B/16.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from bench.errors import WeightsError
from bench.training.config import TrainConfig
from bench.training.task import TrainingJob
from pipelines import weights
from pipelines.augmentation import Augment
from pipelines.hivg import checkpoint
from pipelines.hivg.clip import Attention
from pipelines.hivg.network import OFFICIAL, HiVG, HiVGConfig
from pipelines.two_stage.clip.encoder import ClipOptions, open_model

log = logging.getLogger("bench.train")
RANK = 32
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
DROPOUT = 0.1
DEBIASED = "the authors' adapters of a detector on COCO are linked in the README of github.com/linhuixiao/HiVG"
# open_clip's names of a tower -> those of the transformers library.
NAMES = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn": "self_attn", "c_fc": "fc1", "c_proj": "fc2",
    "transformer.resblocks": "encoder.layers", "ln_pre": "pre_layrnorm", "ln_post": "post_layernorm",
    "ln_final": "final_layer_norm", "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight", "conv1": "embeddings.patch_embedding",
    "token_embedding": "embeddings.token_embedding",
}  # fmt: skip


class Stage(BaseModel):
    """A stage: which adapters it trains, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bridged: bool = Field(True, description="with bridges; false is the warm-up of ViT-L/14")
    text_adapters: bool = Field(False, description="train those of the text tower")
    image_adapters: int = Field(0, ge=0, description="train those of the first so many blocks of the image tower")
    epochs: int = Field(20, ge=1)
    steps: int = Field(0, ge=0)
    learning_rate: float = Field(1e-4, gt=0)
    batch: int = Field(60, ge=1)
    reference_batch: int = Field(420, ge=1, description="samples in a step: 7 GPUs")


STAGES = (
    Stage(epochs=60, learning_rate=2.5e-4, batch=80, reference_batch=560),
    Stage(text_adapters=True, image_adapters=5),
    Stage(text_adapters=True, image_adapters=8, learning_rate=5e-5),
    Stage(text_adapters=True, image_adapters=12, learning_rate=2.5e-5, batch=40, reference_batch=280),
)


class HiVGTraining(TrainConfig):
    """[train.hivg]: the stages of a single data set with ViT-B/16. Contrast is within a forward pass of `batch`."""

    FREE = TrainConfig.FREE - {"batch"}

    name: str = Field("hivg", pattern=r"^[\w.-]+$", description="name of the files that are written")
    start_from: str = Field("", description="weights of a whole network; empty = `clip`, `adapters` and a new fusion")
    clip: ClipOptions = Field(
        ClipOptions(model="ViT-B-16-quickgelu"), description="CLIP to start from; pretrained = '' = random weights"
    )
    adapters: str = Field(
        "clip_b_ml_cascade_maskrcnn_model_224.pth", description="CLIP's adapters to start from; empty = none"
    )
    network: HiVGConfig = HiVGConfig()
    rank: int = Field(RANK, ge=1, description="of new adapters")
    bridge: Literal["correct", "official"] = Field("correct", description="official = texts of a pass are mixed")
    masks: Literal["boxes", "segmentation"] = Field("boxes", description="what the mask losses take for the object")
    augment: Augment = Augment()
    stages: tuple[Stage, ...] = Field(STAGES, description="trained in turn; empty = one, of the fields below")
    bridged: bool = Field(True, description="with bridges; false is the warm-up of ViT-L/14")
    text_adapters: bool = Field(False, description="train those of the text tower")
    image_adapters: int = Field(0, ge=0, description="train those of the first so many blocks of the image tower")

    epochs: int = Field(60, ge=1)
    batch: int = Field(80, ge=1, description="samples in one process's forward pass, which are contrasted")
    reference_batch: int = Field(560, ge=1, description="samples in a step: 7 GPUs of 80")
    learning_rate: float = Field(2.5e-4, gt=0)
    l1: float = Field(2.0, ge=0)
    giou: float = Field(2.0, ge=0)
    contrast: float = Field(1.0, ge=0, description="of each text with the images of its pass; 0 = off")
    region: float = Field(1.0, ge=0, description="share of focal and dice for the similarity of patches and text")
    mask: float = Field(1.0, ge=0, description="share of focal and dice for the mask head")
    focal: float = Field(20.0, ge=0)
    dice: float = Field(2.0, ge=0)


class Adapted(nn.Linear):
    """A linear layer with an adapter: W x + b + alpha / rank * B A dropout(x); B starts at zero."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__(inputs, outputs)
        self.scale, self.dropout = checkpoint.ALPHA / rank, nn.Dropout(DROPOUT)
        down, up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
        nn.init.zeros_(up.weight)
        self.lora_A, self.lora_B = nn.ModuleDict({"default": down}), nn.ModuleDict({"default": up})

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        out: Tensor = super().forward(x) + self.scale * self.lora_B["default"](self.lora_A["default"](self.dropout(x)))
        return out


def attach(network: HiVG, rank: int) -> None:
    """Give every attention of a network's CLIP its adapters, in place, under peft's names."""
    for attention in [module for module in network.clip.modules() if isinstance(module, Attention)]:
        for name in PROJECTIONS:
            plain: nn.Linear = getattr(attention, name)
            adapted = Adapted(plain.in_features, plain.out_features, rank)
            adapted.weight, adapted.bias = plain.weight, plain.bias
            setattr(attention, name, adapted)


def start(config: HiVGTraining, job: TrainingJob) -> HiVG:
    """Return the network to train, float32, with its adapters. Raises WeightsError, UnknownName."""
    torch.manual_seed(job.context.seed)
    # 1. From a whole network, ours or official. Adapters that it lacks are new; so are bridges, behind the warm-up.
    if config.start_from:
        path = weights.find(config.start_from, job.context, checkpoint.HOW)
        state, sizes = checkpoint.read(path)
        bridges = () if not config.bridged else sizes.bridges or sizes_of(config, state).bridges
        network = HiVG(sizes.model_copy(update={"bridges": bridges}))
        attach(network, next((len(t) for key, t in state.items() if ".lora_A." in key), config.rank))
        new = (".lora_", ".cross_") if not sizes.bridges else (".lora_",)
        own = {key: t for key, t in network.state_dict().items() if any(part in key for part in new)}
        weights.load_strictly(network, {**own, **state}, str(path))
        return network
    # 2. From a CLIP, and the adapters that a detector trained.
    clip = {}
    if config.clip.pretrained:
        model, _ = open_model(config.clip, job.context)
        clip = of_open_clip(model.state_dict())
    sizes = sizes_of(config, clip)
    network = HiVG(sizes if config.bridged else sizes.model_copy(update={"bridges": ()}))
    attach(network, config.rank)
    take_clip(network, clip, config.clip.model)
    if config.adapters:
        take_adapters(network, config.adapters, job)
    # 3. Patches start in the space that CLIP shares with texts, where it is as wide.
    with torch.no_grad():
        shared = network.clip.visual_projection.weight
        if shared.shape[0] == sizes.hidden:
            network.ml_visual_projection.weight.copy_(shared.repeat(1, len(sizes.taps)))
    return network


def sizes_of(config: HiVGTraining, clip: Mapping[str, Tensor]) -> HiVGConfig:
    """Return the official sizes for a CLIP, changed by what `network` sets; `network` itself for other CLIPs."""
    first, sizes = clip.get(checkpoint.FIRST), config.network
    if first is None or (first.shape[0], first.shape[-1]) not in OFFICIAL:
        return sizes
    named = {key: getattr(sizes, key) for key in sizes.model_fields_set}
    return OFFICIAL[first.shape[0], first.shape[-1]].model_copy(update=named)


def of_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a CLIP of open_clip, and take queries, keys and values apart."""
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key in ("visual.proj", "text_projection"):
            out[f"clip.{'visual' if key == 'visual.proj' else 'text'}_projection.weight"] = tensor.T.contiguous()
            continue
        name, tower = key.removeprefix("visual."), "vision_model" if key.startswith("visual.") else "text_model"
        for old, new in NAMES.items():
            name = new.join(name.split(old)) if old in (name.split(".")[0], name) or f".{old}." in f".{name}." else name
        if "in_proj_" in name:
            stem, kind = name.split("in_proj_")
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                out[f"clip.{tower}.{stem}{part}_proj.{kind}"] = piece
        elif name != "attn_mask":
            out[f"clip.{name}" if name == "logit_scale" else f"clip.{tower}.{name}"] = tensor
    return out


def take_clip(network: nn.Module, clip: Mapping[str, Tensor], name: str) -> None:
    """Load a CLIP's tensors into a network. Raises WeightsError for one of other sizes."""
    own = network.state_dict()
    for key, tensor in clip.items():
        if key not in own or own[key].shape != tensor.shape:
            wanted = tuple(own[key].shape) if key in own else "nothing of that name"
            raise WeightsError(
                f"{name}: its {key.removeprefix('clip.')} has the shape {tuple(tensor.shape)}, but the network has "
                f"{wanted}; set network to the sizes of the CLIP"
            )
    network.load_state_dict(dict(clip), strict=False)


def take_adapters(network: nn.Module, name: str, job: TrainingJob) -> None:
    """Load the adapters of both towers, and the tensors of CLIP beside them. Raises WeightsError."""
    path = weights.find(name, job.context, DEBIASED)
    state = {f"clip.{key}": tensor for key, tensor in checkpoint.read_clip(path).items()}
    own = network.state_dict()
    wanted = [key for key in own if ".lora_" in key and ".self_attn." in key]
    missing = [key for key in wanted if key not in state or state[key].shape != own[key].shape]
    if missing:
        raise WeightsError(
            f"{path}: no adapters for this network: {missing[0]} is missing or of another shape; {DEBIASED}, and "
            "adapters='' starts without"
        )
    taken: dict[str, Any] = {k: t for k, t in state.items() if k in own and own[k].shape == t.shape}
    network.load_state_dict(taken, strict=False)
    log.info("%s: %d tensors of CLIP and its adapters come from it", path.name, len(taken))
