"""The recipe of OneRef's fine-tuning, and the BEiT-3 that it starts from (Xiao et al., NeurIPS 2024).

Numbers are those of the official scripts, which train in two phases: with the encoder frozen (`freeze`), then whole.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.errors import WeightsError
from bench.settings import Table
from bench.training.config import TrainConfig
from bench.training.task import TrainingJob
from pipelines import weights
from pipelines.augmentation import Augment
from pipelines.oneref.checkpoint import Loaded, open_network, open_tokenizer
from pipelines.oneref.network import UNUSED, OneRef, OneRefConfig
from pipelines.oneref.tokenizer import small_pieces

log = logging.getLogger("bench.train")
BEIT3 = "beit3_{base,large}_indomain_patch16_224.pth are linked in the README of BEiT-3 (github.com/microsoft/unilm)"
POSITIONS = "beit3.encoder.embed_positions.A.weight"
SPREAD = 0.02  # of new linear layers, cut at one such step


class MRefM(Table):
    """[train.oneref.mrefm]: masked modelling of images and of texts, in turn (head = "mrefm")."""

    codes: str = Field(
        "vqkd_encoder_base_decoder_3x768x12_clip-d5036aa7.pth",
        description="the visual tokenizer: a VQ-KD file of BEiT v2",
    )
    image_share: float = Field(0.35, ge=0, lt=1, description="of all patches that are masked")
    target_share: float = Field(0.75, gt=0, le=1, description="of the patches in the target's box, one patch wider")
    text_share: float = Field(0.4, gt=0, lt=1, description="of the tokens of a text that are replaced")
    words: Literal["rules", "spacy", "off"] = Field(
        "rules", description="what finds a text's subject and object, which are replaced first: our parser, or spaCy's"
    )
    smoothing: float = Field(0.1, ge=0, lt=1, description="of the replaced tokens' labels")
    drop_worst: float = Field(0.2, ge=0, lt=1, description="share of the replaced tokens that is left out, the worst")
    drop_after: int = Field(12_000, ge=0, description="steps before the worst are left out")
    image_relation: float = Field(
        0.0, ge=0, description="weight of the visual target-relation score; 0 = off, as in the released scripts"
    )
    text_relation: float = Field(
        0.0, ge=0, description="weight of the semantic target-relation score; 0 = off, as in the released scripts"
    )
    scores: str = Field("", description="JSON of the semantic scores: expression id -> a number for each token")


class OneRefTraining(TrainConfig):
    """[train.oneref]: the second phase of a single data set; the first is freeze = true, epochs = 10,
    learning_rate = 2.5e-4, constraint = 0."""

    name: str = Field("oneref", pattern=r"^[\w.-]+$", description="name of the files that are written")
    start_from: str = Field("", description="weights of a whole network; empty = `beit3` and new heads")
    beit3: str = Field(
        "beit3_base_indomain_patch16_224.pth", description="BEiT-3 that the encoder starts from; empty = random weights"
    )
    tokenizer: str = Field("beit3.spm", description="BEiT-3's sentencepiece file; empty = a small one of the texts")
    network: OneRefConfig = OneRefConfig()
    vocabulary: int = Field(400, ge=8, description="pieces of the small tokenizer")
    head: Literal["boxes", "masks", "both", "mrefm"] = Field(
        "boxes",
        description="REC; RES, with the ground-truth masks of the split; both in one network; or MRefM's pre-training",
    )
    mrefm: MRefM = MRefM()
    freeze: bool = Field(False, description="train the heads alone")
    drop_path: float = Field(0.1, ge=0, lt=1, description="of the last layer; the first has none")
    augment: Augment = Augment()

    epochs: int = Field(20, ge=1)
    batch: int = Field(24, ge=1, description="most samples in one process's forward pass")
    reference_batch: int = Field(192, ge=1, description="samples in a step: 8 GPUs of 24")
    learning_rate: float = Field(3e-5, gt=0)
    l1: float = Field(1.0, ge=0)
    giou: float = Field(1.0, ge=0)
    focal: float = Field(20.0, ge=0, description="of masks: the mask head's, and of the similarity")
    dice: float = Field(2.0, ge=0, description="of masks: the mask head's, and of the similarity")
    constraint: float = Field(1.0, ge=0, description="boxes: share of focal and dice for the similarity of patches")
    temperature: float = Field(1.0, gt=0, description="cosines are divided by it in focal and dice; 1 = official")
    mask_share: float = Field(1.0, gt=0, le=1, description="of the rows that train the mask head; 1 = official")


def start(config: OneRefTraining, job: TrainingJob, codes: int = 0) -> tuple[Loaded, dict[str, Any]]:
    """Return the network to train, float32, and what its encoder took of a BEiT-3.

    `codes` are the visual tokens of MRefM's heads. Raises WeightsError.
    """
    torch.manual_seed(job.context.seed)
    kind: dict[str, Any] = {"masks": config.head in ("masks", "both"), "both": config.head == "both", "codes": codes}
    taken: dict[str, Any] = {}
    if config.start_from:
        loaded = open_network(config.start_from, config.tokenizer, job.context, pretrained=True)
        if loaded.network.config != (sizes := loaded.network.config.model_copy(update=kind)):
            network = drawn(OneRef(sizes))  # heads come in or go; everything else stays
            own = network.state_dict()
            given = loaded.network.state_dict()
            network.load_state_dict(own | {k: t for k, t in given.items() if k in own and t.shape == own[k].shape})
            loaded = loaded._replace(network=network)
    else:
        sizes, pieces = config.network.model_copy(update=kind), None
        if not config.tokenizer:
            pieces = small_pieces([e.text for scene in job.scenes for e in scene.expressions], config.vocabulary)
            sizes = sizes.model_copy(update={"words": len(pieces) + 5})  # the special ones, and <mask>
        tokenizer = open_tokenizer(config.tokenizer, pieces, sizes, job.context)
        loaded = Loaded(drawn(OneRef(sizes)), tokenizer, pieces)
        tokenizer.check_words(sizes.words, loaded.path)
        if config.beit3:
            taken = take_beit3(loaded.network, config.beit3, job)
    layers = loaded.network.beit3.encoder.layers
    for place, layer in enumerate(layers):
        layer.drop = config.drop_path * place / max(1, len(layers) - 1)
    return loaded, taken


def drawn(network: OneRef) -> OneRef:
    """Draw the encoder and its projections as BEiT-3 does, in place."""
    for name in ("beit3", "language_head", "vision_head", "mlm_head"):
        if hasattr(network, name):
            getattr(network, name).apply(_draw)
    return network


def _draw(module: nn.Module) -> None:
    """Draw linear layers as BEiT-3 does, and tables as small: at torch's size positions would drown patches."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=SPREAD, a=-SPREAD, b=SPREAD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=SPREAD)


def take_beit3(network: OneRef, name: str, job: TrainingJob) -> dict[str, Any]:
    """Load a BEiT-3's encoder and projections -> the file's name and how many tensors it took.

    Its positions of patches are resized, bicubic. Raises WeightsError for a file that lacks a tensor of the encoder.
    """
    path = weights.find(name, job.context, BEIT3)
    given = weights.read_state_dict(path)
    state = {key.removeprefix("module."): tensor for key, tensor in given.items()}
    own = {k: t for k, t in network.state_dict().items() if k.startswith(("beit3.", "language_head", "vision_head"))}
    if POSITIONS in state:
        state[POSITIONS] = _resized(state[POSITIONS], network.side)
    wrong = [key for key, tensor in own.items() if key not in state or state[key].shape != tensor.shape]
    if wrong:
        raise WeightsError(
            f"{path}: no BEiT-3 for this network: {len(wrong)} of its {len(own)} tensors are missing or of another "
            f"shape ({wrong[0]}, ...); network.width, layers and heads are the base model's by default; {BEIT3}"
        )
    network.load_state_dict({key: state[key] for key in own}, strict=False)
    log.info("%s: %d tensors of the encoder come from it", path.name, len(own))
    return {"file": path.name, "taken": len(own)}


def _resized(table: Tensor, side: int) -> Tensor:
    """Resize a table of positions to side x side patches, (2 + 1 + P, D); the rows before the patches stay."""
    head, grid = table[: UNUSED + 1], table[UNUSED + 1 :].float()
    before = round(len(grid) ** 0.5)
    square = grid.T.reshape(1, -1, before, before)
    square = F.interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([head.float(), square[0].flatten(1).T])
