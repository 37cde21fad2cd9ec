"""The recipe of a TransVG's training, and the DETR and BERT that it starts from (Deng et al. 2021, section 4.2).

Numbers are those of the official code (github.com/djiajunustc/TransVG: train.py and its README).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import BertModel

from bench.errors import WeightsError
from bench.training.config import Schedule, TrainConfig
from bench.training.task import TrainingJob
from pipelines import hub, weights
from pipelines.augmentation import Augment
from pipelines.backbones import backbone_of
from pipelines.deconfounder import DeconfounderOptions, attach_new
from pipelines.tokens import small_tokenizer
from pipelines.transvg.branches import BERT_BASE, Branches, ImageBranch
from pipelines.transvg.checkpoint import Loaded, open_network
from pipelines.transvg.network import TransVGConfig

log = logging.getLogger("bench.train")
DETR = (
    "the published TransVGs start from DETRs that were trained without the val and test images of the data set "
    "(detr-r50-{unc,gref,referit}.pth, linked in the README of github.com/djiajunustc/TransVG)"
)
AT_ONCE = 32  # texts in a pass without gradients
LEAST = 0.5  # of the image branch's tensors that a DETR has to bring


class TransVGAugment(Augment):
    """The augmentation of TransVG's paper: that of CLIP-VG, which followed it, and a flip."""

    flip_share: float = Field(0.5, ge=0, le=1)
    flip_words: Literal["whole", "inside"] = "inside"


class TransVGTraining(TrainConfig):
    """[train.transvg]: the paper's recipe, and a network from nothing where `detr` and `bert` are empty."""

    name: str = Field("transvg", pattern=r"^[\w.-]+$", description="name of the files that are written")
    start_from: str = Field("", description="weights of a whole network; empty = `detr`, `bert` and random fusion")
    detr: str = Field("detr-r50-unc.pth", description="DETR that the image branch starts from; empty = random weights")
    bert: str = Field("bert-base-uncased", description="a folder or a hub id; empty = a random text branch")
    tokenizer: str = Field("bert-base-uncased", description="for weights that bring none: a folder or a hub id")
    network: TransVGConfig = TransVGConfig()
    vocabulary: int = Field(400, ge=8, description="words of the small tokenizer of a random text branch")
    preprocessing: Literal["auto", "official", "clean"] = Field("auto", description="auto = as start_from, or official")
    augment: TransVGAugment = TransVGAugment()
    deconfounder: DeconfounderOptions = DeconfounderOptions()

    epochs: int = Field(90, ge=1, description="180 on RefCOCO+")
    batch: int = Field(8, ge=1, description="most samples in one process's forward pass")
    reference_batch: int = Field(64, ge=1, description="samples in a step: 8 GPUs of 8")
    learning_rate: float = Field(1e-4, gt=0)
    backbone_share: float = Field(0.1, ge=0, description="of the learning rate, for the ResNet")
    encoder_share: float = Field(0.1, ge=0, description="of the learning rate, for DETR's encoder")
    text_share: float = Field(0.1, ge=0, description="of the learning rate, for BERT")
    schedule: Schedule = "drop"
    l1: float = Field(1.0, ge=0)
    giou: float = Field(1.0, ge=0)


def start(kind: type[Branches], config: TransVGTraining, job: TrainingJob) -> tuple[Loaded, dict[str, Any]]:
    """Return the network to train, float32, and what its image branch took of a DETR. Raises WeightsError."""
    wanted = None if config.preprocessing == "auto" else config.preprocessing
    if config.start_from:
        loaded = open_network(kind, config.start_from, config.tokenizer, job.context)
        return replace(loaded, style=wanted or loaded.style), {}
    # 1. The text branch's sizes and tokenizer.
    torch.manual_seed(job.context.seed)
    sizes, table, bert = config.network, "", None
    if config.bert:
        bert = hub.load_model(BertModel, config.bert, job.context, "the text encoder")
        text = {key: getattr(bert.config, key) for key in BERT_BASE}
    else:
        table = small_tokenizer([e.text for scene in job.scenes for e in scene.expressions], config.vocabulary)
        text = BERT_BASE | sizes.text_encoder
    sizes = sizes.model_copy(update={"text_encoder": text})
    tokenizer = kind.tokenizer(table, config.tokenizer, sizes, job.context, config.bert)
    if table:
        sizes.text_encoder["vocab_size"] = len(tokenizer)
    # 2. The network, with what others have trained.
    network = kind(sizes)
    if bert is not None:
        network.textmodel.bert.load_state_dict(bert.state_dict())
    taken = take_detr(network.visumodel, sizes.backbone, config.detr, job) if config.detr else {}
    return Loaded(network, tokenizer, wanted or "official", table), taken


def add_deconfounder(loaded: Loaded, config: TransVGTraining, job: TrainingJob) -> None:
    """Give a network to train the deconfounder of its config. Raises SettingsError."""
    network, training = loaded.network, loaded.network.training
    device = next(network.parameters()).device
    texts = [e.text for scene in job.scenes for e in scene.expressions]

    def features() -> Tensor:
        network.eval()
        means: dict[str, Tensor] = {}
        ordered = sorted(set(texts), key=lambda text: (len(text), text))
        for start in range(0, len(ordered), AT_ONCE):
            some = ordered[start : start + AT_ONCE]
            ids, padding = (part.to(device) for part in loaded.tokenizer(some))
            kept = (~padding)[..., None]
            sums = (network.text_features(ids, padding) * kept).sum(dim=1)
            means |= zip(some, sums / kept.sum(dim=1).clamp(min=1), strict=True)
        network.train(training)
        return torch.stack([means[text] for text in texts])

    attach_new(loaded.network, config.deconfounder, features, job.context.seed)


def take_detr(branch: ImageBranch, backbone: str, name: str, job: TrainingJob) -> dict[str, Any]:
    """Load a DETR's backbone and encoder into an image branch -> the file's name and how many tensors it took.

    The decoder and the heads of the DETR are left. Raises WeightsError where the file has another backbone, or less
    than half of the branch.
    """
    path = weights.find(name, job.context, DETR)
    given = weights.read_safetensors(path)[0] if path.suffix == ".safetensors" else weights.read_state_dict(path)
    state = {key.removeprefix("module."): tensor for key, tensor in given.items()}
    own = branch.state_dict()
    matching = {k: t for k, t in state.items() if k in own and own[k].shape == t.shape}
    if len(matching) < LEAST * len(own):
        raise WeightsError(
            f"{path}: no DETR for this network: {len(matching)} of the image branch's {len(own)} tensors are in it "
            f"with the same name and shape; {DETR}"
        )
    if (its := backbone_of(state, "backbone.0.body.")[0]) != backbone:
        raise WeightsError(f"{path}: a DETR on {its}, but network.backbone is {backbone}; set network.backbone={its}")
    branch.load_state_dict(matching, strict=False)
    log.info("%s: %d of the image branch's %d tensors come from it", path.name, len(matching), len(own))
    return {"file": path.name, "taken": len(matching), "of": len(own)}
