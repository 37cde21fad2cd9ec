"""MDETR's weights: the official checkpoints, plain state dicts, and this project's own small models.

An official file (Zenodo record 4721981) is a pickle of `model`, `model_ema`, `optimizer`, `epoch` and `args`. It is
read as plain tensors, with argparse.Namespace the one class allowed, and mapped rather than read, so that the
optimiser's two thirds of it are never touched. How large the model is, is read off the shapes; nothing else is ever
fetched. A file of ours is a .safetensors whose metadata holds the sizes, the tokenizer and the size of the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from bench.errors import WeightsError
from bench.grounding import PipelineContext
from pipelines import weights
from pipelines.mdetr.config import BODY, MdetrConfig, config_of
from pipelines.mdetr.model import Mdetr
from pipelines.mdetr.text import PAD, Tokenizer

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
class Unpacked:
    """A weights file taken apart. `part` is the entry of an official file that was taken, `dropped` its dead keys.

    `tokenizer` is a JSON and `sizes` the images' (short, long) sides; official files hold neither.
    """

    path: Path
    state: Mapping[str, Tensor]
    config: MdetrConfig
    part: str = ""
    dropped: tuple[str, ...] = ()
    tokenizer: str | None = None
    sizes: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """Hold a network in eval mode with its tokenizer and the (short, long) sides of its images.

    `tokenizer_json` goes into a weights file; "" where the tokenizer has a name. `path` and `note` describe the file.
    """

    network: Mdetr
    tokenizer: Tokenizer
    sizes: tuple[int, int]
    tokenizer_json: str = ""
    path: Path = Path()
    note: str = ""


def open_network(name: str | Path, tokenizer: str, context: PipelineContext) -> Opened:
    """Open a weights file; `tokenizer` names a folder or a hub id for a file that brings none. Raises WeightsError."""
    unpacked = unpack(weights.find(str(name), context, HOW))
    sizes = unpacked.config.text_encoder
    limit = int(sizes["max_position_embeddings"]) - PAD - 1
    if unpacked.tokenizer:
        opened = Tokenizer.from_json(unpacked.tokenizer, limit)
    else:
        opened = Tokenizer.open(tokenizer, context, limit)
    if len(opened) > int(sizes["vocab_size"]):
        raise WeightsError(
            f"{tokenizer}: a tokenizer of {len(opened)} tokens, but {unpacked.path.name} knows {sizes['vocab_size']} "
            "of them; give the one that the weights were trained with"
        )
    left_out = f"without {', '.join(unpacked.dropped[:3])}" if unpacked.dropped else ""
    note = ", ".join(part for part in (unpacked.part, left_out) if part)
    return Opened(build(unpacked), opened, unpacked.sizes or SIZES, unpacked.tokenizer or "", unpacked.path, note)


def save(path: Path, opened: Opened, recipe: Mapping[str, Any]) -> None:
    """Write a .safetensors of ours (float16); it appears whole or not at all. Raises RunError."""
    short, long = opened.sizes
    metadata = {"format": FORMAT, "config": opened.network.config.model_dump(), "short": short, "long": long}
    metadata |= {"tokenizer": opened.tokenizer_json or None, "recipe": dict(recipe)}
    weights.write_safetensors(path, opened.network.state_dict(), metadata)


def unpack(path: Path) -> Unpacked:
    """What a weights file holds. Raises WeightsError for anything that is no weights of an MDETR for grounding."""
    if path.suffix == ".safetensors":
        state, metadata = weights.read_safetensors(path)
        if metadata.get("format") == FORMAT:
            return _own(path, state, metadata)
        return _foreign(path, state)
    return _foreign(path, *_unpickled(path))


def build(unpacked: Unpacked) -> Mdetr:
    """The model in eval mode, loaded strictly. Raises WeightsError with the keys that differ."""
    with torch.device("meta"):
        model = Mdetr(unpacked.config)
    # Drawing 185 million random numbers only to overwrite them would take longer than reading the file.
    _materialise(model)
    weights.load_strictly(model, unpacked.state, str(unpacked.path))
    return model.eval()


def _own(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Unpacked:
    try:
        config = MdetrConfig.model_validate(metadata["config"])
        sizes = (int(metadata["short"]), int(metadata["long"]))
        tokenizer = metadata["tokenizer"]
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise WeightsError(f"{path}: its metadata is not that of a small MDETR ({weights.first_line(error)})") from None
    return Unpacked(path, state, config, tokenizer=tokenizer, sizes=sizes)


def _foreign(path: Path, state: Mapping[str, Tensor], part: str = "", heads: int = 8) -> Unpacked:
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    # The small backbone's norms are not frozen: they do count their batches.
    dead = tuple(key for key in state if key.endswith(DEAD) and not key.startswith(f"{BODY}stages."))
    state = {key: tensor for key, tensor in state.items() if key not in dead}
    for start, task in OTHER_TASKS.items():
        if any(key.startswith(start) for key in state):
            raise WeightsError(f"{path}: a checkpoint for {task} (it has {start}*), not for grounding; {HOW}")
    return Unpacked(path, state, config_of(state, heads, path), part, dead)


def _unpickled(path: Path) -> tuple[Mapping[str, Tensor], str, int]:
    """The state dict, the entry of the file it came from, and the number of attention heads the file names."""
    held = weights.read_checkpoint(path)
    part = next((p for p in PREFERRED if isinstance(held, dict) and isinstance(held.get(p), dict)), "")
    state = held[part] if part else held
    if not isinstance(state, dict) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise WeightsError(
            f"{path}: holds no weights of an MDETR; expected a table of tensors, or one under {' or '.join(PREFERRED)}"
        )
    heads = getattr(held.get("args"), "nheads", None) if part else None
    return state, part, heads if isinstance(heads, int) and heads > 0 else 8


def _materialise(model: Mdetr) -> None:
    """Memory for a model built on "meta": parameters unset, and the fixed tables of RoBERTa that no file holds."""
    model.to_empty(device="cpu")
    embeddings: Any = model.transformer.text_encoder.embeddings
    embeddings.position_ids.copy_(torch.arange(embeddings.position_ids.shape[1])[None])
    embeddings.token_type_ids.zero_()
