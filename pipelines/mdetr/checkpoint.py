"""MDETR's weights: the official checkpoints, plain state dicts, and this project's own small models.

An official file (Zenodo record 4721981) is a pickle of `model`, `model_ema`, `optimizer`, `epoch` and `args`. It is
read as plain tensors, with argparse.Namespace the one class allowed, and mapped rather than read, so that the
optimiser's two thirds of it are never touched. How large the model is, the shapes say; nothing else is ever fetched. A
file of ours is a .safetensors whose metadata has the sizes, the tokenizer and the size of the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from bench.errors import WeightsError, first_line
from bench.grounding import PipelineContext
from pipelines import weights
from pipelines.backbones import backbone_of, count_modules, text_encoder_of
from pipelines.mdetr.config import ROBERTA_BASE, MdetrConfig
from pipelines.mdetr.model import Mdetr
from pipelines.tokens import PAD, Tokenizer

BODY = "backbone.0.body."
TEXT = "transformer.text_encoder."
FORMAT = "bench-mdetr"
HOW = (
    "the published ones are {pretrained,refcoco,refcoco+,refcocog}_{resnet101,EB3,EB5}_checkpoint.pth of "
    "https://zenodo.org/records/4721981 (2.4 to 3 GB each)"
)
SIZES = (800, 1333)  # of the published models
PREFERRED = ("model_ema", "model")
# Kept by older libraries, computed by newer ones: they carry no training.
DEAD = ("transformer.text_encoder.embeddings.position_ids", "num_batches_tracked")
# Heads of checkpoints that were trained for other tasks.
OTHER_TASKS = {
    "answer_": "question answering",
    "qa_": "question answering",
    "isfinal_embed": "phrase segmentation",
    "detr.": "segmentation",
    "mask_head": "segmentation",
}


@dataclass(frozen=True, slots=True)
class LoadedMdetr:
    """A network in eval mode with its tokenizer and the (short, long) sides of its images.

    `tokenizer_json` goes into a weights file; "" where the tokenizer has a name. `path` and `note` describe the file.
    """

    network: Mdetr
    tokenizer: Tokenizer
    sizes: tuple[int, int]
    tokenizer_json: str = ""
    path: Path = Path()
    note: str = ""


def open_network(name: str | Path, tokenizer: str, context: PipelineContext) -> LoadedMdetr:
    """Open a weights file; `tokenizer` names a folder or a hub id for a file that brings none. Raises WeightsError."""
    path = weights.find(str(name), context, HOW)
    state, config, about = unpack(path)
    limit = int(config.text_encoder["max_position_embeddings"]) - PAD - 1
    if about.get("tokenizer"):
        opened = Tokenizer.from_json(about["tokenizer"], limit)
    else:
        opened = Tokenizer.open(tokenizer, context, limit)
    if len(opened) > int(config.text_encoder["vocab_size"]):
        raise WeightsError(
            f"{tokenizer}: a tokenizer of {len(opened)} tokens, but {path.name} knows "
            f"{config.text_encoder['vocab_size']} of them; give the one that the weights were trained with"
        )
    left_out = f"without {', '.join(about['dropped'][:3])}" if about.get("dropped") else ""
    note = ", ".join(part for part in (about.get("part"), left_out) if part)
    network = build(path, state, config)
    return LoadedMdetr(network, opened, about.get("sizes", SIZES), about.get("tokenizer") or "", path, note)


def save(path: Path, loaded: LoadedMdetr, recipe: Mapping[str, Any]) -> None:
    """Write a .safetensors of ours (float16); it appears whole or not at all. Raises RunError."""
    short, long = loaded.sizes
    metadata = {"format": FORMAT, "config": loaded.network.config.model_dump(), "short": short, "long": long}
    metadata |= {"tokenizer": loaded.tokenizer_json or None, "recipe": dict(recipe)}
    weights.write_safetensors(path, loaded.network.state_dict(), metadata)


def unpack(path: Path) -> tuple[Mapping[str, Tensor], MdetrConfig, Mapping[str, Any]]:
    """Take a weights file apart: its tensors, the network's sizes, and what it says besides.

    That is "tokenizer" (a JSON) and "sizes", the images' (short, long) sides, for a file of ours; "part", the entry of
    the file that was taken, and "dropped", its dead keys, for an official one. Raises WeightsError for anything that is
    no weights of an MDETR for grounding.
    """
    if path.suffix == ".safetensors":
        state, metadata = weights.read_safetensors(path)
        return _own(path, state, metadata) if metadata.get("format") == FORMAT else _foreign(path, state)
    return _foreign(path, *_unpickled(path))


def build(path: Path, state: Mapping[str, Tensor], config: MdetrConfig) -> Mdetr:
    """Build the model in eval mode, loaded strictly. Raises WeightsError with the keys that differ."""
    with torch.device("meta"):
        model = Mdetr(config)
    # Drawing 185 million random numbers only to overwrite them would take longer than reading the file.
    model.to_empty(device="cpu")
    # The fixed tables of RoBERTa are in no file.
    embeddings: Any = model.transformer.text_encoder.embeddings
    embeddings.position_ids.copy_(torch.arange(embeddings.position_ids.shape[1])[None])
    embeddings.token_type_ids.zero_()
    weights.load_strictly(model, state, str(path))
    return model.eval()


def _own(
    path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> tuple[Mapping[str, Tensor], MdetrConfig, Mapping[str, Any]]:
    try:
        config = MdetrConfig.model_validate(metadata["config"])
        sizes = (int(metadata["short"]), int(metadata["long"]))
        tokenizer = metadata["tokenizer"]
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise WeightsError(f"{path}: its metadata is not that of a small MDETR ({first_line(error)})") from None
    return state, config, {"tokenizer": tokenizer, "sizes": sizes}


def _foreign(
    path: Path, state: Mapping[str, Tensor], part: str = "", heads: int = 8
) -> tuple[Mapping[str, Tensor], MdetrConfig, Mapping[str, Any]]:
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    # The small backbone's norms are not frozen: they do count their batches.
    dead = tuple(key for key in state if key.endswith(DEAD) and not key.startswith(f"{BODY}stages."))
    state = {key: tensor for key, tensor in state.items() if key not in dead}
    for start, task in OTHER_TASKS.items():
        if any(key.startswith(start) for key in state):
            raise WeightsError(f"{path}: a checkpoint for {task} (it has {start}*), not for grounding; {HOW}")
    return state, config_of(state, heads, path), {"part": part, "dropped": dead}


def _unpickled(path: Path) -> tuple[Mapping[str, Tensor], str, int]:
    """Return the state dict, its entry in the file, and the number of attention heads that the file names."""
    content = weights.read_checkpoint(path)
    part = next((p for p in PREFERRED if isinstance(content, dict) and isinstance(content.get(p), dict)), "")
    state = content[part] if part else content
    if not isinstance(state, dict) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise WeightsError(
            f"{path}: holds no weights of an MDETR; expected a table of tensors, or one under {' or '.join(PREFERRED)}"
        )
    heads = getattr(content.get("args"), "nheads", None) if part else None
    return state, part, heads if isinstance(heads, int) and heads > 0 else 8


def config_of(state: Mapping[str, Tensor], heads: int, path: Path) -> MdetrConfig:
    """Find the sizes of a state dict under the official key names. Raises WeightsError, naming `path`, when it is none.

    The number of attention heads leaves no trace in the shapes: `heads` is the transformer's, and the text encoder's
    heads are 64 channels wide, as in every published RoBERTa.
    """
    try:
        backbone, widths = backbone_of(state, BODY)
        queries, hidden = state["query_embed.weight"].shape
        return MdetrConfig(
            backbone=backbone,
            widths=widths,
            hidden=hidden,
            heads=heads,
            feedforward=len(state["transformer.encoder.layers.0.linear1.weight"]),
            encoder_layers=count_modules(state, "transformer.encoder.layers."),
            decoder_layers=count_modules(state, "transformer.decoder.layers."),
            queries=queries,
            tokens=len(state["class_embed.weight"]) - 1,
            contrastive=len(state["contrastive_align_projection_image.weight"]),
            text_encoder=ROBERTA_BASE | text_encoder_of(state, TEXT),
        )
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: not the weights of an MDETR, or only a part of them ({error})") from None
