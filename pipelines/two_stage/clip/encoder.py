"""CLIP through open_clip: any of its models, published weights or a file, on the inference engine."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench import imports
from bench.errors import UnknownName, WeightsError, first_line
from bench.fetching import network, sources
from bench.grounding import PipelineContext
from bench.hashing import sha256_file
from bench.settings import Table
from pipelines import hub, weights
from pipelines.engine import Engine, Rows
from pipelines.two_stage.clip.as_published import fold_quick_gelu, statistics

with imports.lean():
    import open_clip as open_clip  # for whoever wants it: imported otherwise it takes twice as long
    from open_clip.tokenizer import SimpleTokenizer

open_clip.add_model_config(Path(__file__).parent / "models")
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}  # open_clip's names
PAD = 0  # padding's token id; also that of "!" inside a word
WORDS = 100_000  # different words whose token ids are kept
# Printable ASCII without "&" and "<", which begin entities and special tokens.
_plain = re.compile("[ -%'-;=-~]*").fullmatch


class ClipOptions(Table):
    """[pipelines.*.clip]."""

    model: str = Field("ViT-B-16", description="a name of open_clip.list_models()")
    pretrained: str = Field("openai", description="a tag open_clip publishes for the model, or a file")
    bucket: int = Field(0, ge=0, description="views in one forward pass; 0 = 256 on a GPU, 32 on a CPU")


class Preprocessing:
    """The size and the normalisation that a CLIP's image tower takes."""

    def __init__(self, model: Any) -> None:
        table = open_clip.get_model_preprocess_cfg(model)
        size, device = table["size"], model.logit_scale.device
        self.size = int(size if isinstance(size, int) else size[0])
        self._mean, self._std = (torch.tensor(table[key], device=device).view(3, 1, 1) for key in ("mean", "std"))

    def normalised(self, views: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normalise (N, 3, H, W) in 0..1 for the image tower."""
        return ((views - self._mean) / self._std).to(dtype)


class ClipEncoder:
    """Encode region views and texts to unit vectors, float32 on the device; `model` is one in training."""

    def __init__(self, options: ClipOptions, context: PipelineContext, model: Any = None) -> None:
        self.options = options
        self.device = torch.device(context.device)
        self.dtype = getattr(torch, context.dtype)
        # A CPU is fastest with what stays in its cache: 32 views beat 256 by about 15 %.
        bucket = options.bucket or (256 if self.device.type == "cuda" else 32)
        self.engine = Engine(context, self._encode_texts, bucket, bucket)
        self.sha256, self.accelerated = dict[str, str](), frozenset[str]()
        if model is None:
            # In float32 at first: weights that were scaled in 16 bits would be rounded twice.
            model, sha256 = open_model(options, replace(context, dtype="float32"))
            self.sha256 |= sha256
            if context.dtype != "float32":
                model = in_16_bits(model, options.model, context.dtype)
            # The text tower is a module of its own in open_clip's newer classes, else the model's own transformer.
            text = getattr(model.eval().to(self.device), "text", None) or model.transformer
            self.accelerated = context.acceleration.apply(model, [model.visual, text])
        self.model = model.eval()
        self.tokenizer = open_tokenizer(options.model, context)
        self.causal = is_causal(self.model, self.tokenizer)
        self.context_length = int(getattr(self.model, "context_length", 77))
        self.preprocessing = Preprocessing(self.model)
        self.image_size = self.preprocessing.size
        self.scale = float(self.model.logit_scale.detach().exp())

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @torch.inference_mode()
    def encode_images(self, views: Tensor) -> Tensor:
        """Encode views, (N, 3, S, S) in 0..1 -> (N, D) unit vectors; N may be 0, which no tower takes."""
        if not len(views):
            return self.encode_texts([""])[:0]

        def vectors(some: Tensor) -> Tensor:
            out: Tensor = self.model.encode_image(
                self.preprocessing.normalised(some, self.dtype), normalize=True
            ).float()
            return out

        return torch.cat(list(self.engine.chunked("images", views, vectors)))

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts, (N,) strings -> (N, D) unit vectors; each different one once in the pipeline's life."""
        vectors = self.engine.encode_texts(texts)
        return torch.cat([vectors[text][0] for text in texts])

    def _encode_texts(self, texts: Sequence[str]) -> list[Rows]:
        if self.causal:
            ids = token_ids(self.tokenizer, texts)
            ends = self.engine.to_device(ids.argmax(dim=1) + torch.arange(len(ids)) * ids.shape[1])
            vectors = encode_causally(self.model, self.engine.to_device(ids), ends)
        else:
            vectors = self.model.encode_text(self.engine.to_device(self.tokenizer(list(texts))), normalize=True)
        return list(zip(vectors.float()[:, None], strict=True))

    def forget_texts(self) -> None:
        """Empty the text cache."""
        self.engine.forget_texts()

    def cut(self, text: str) -> str:
        """Return a note when the tokenizer cuts `text` at the context length, else nothing."""
        return cut_note(self.tokenizer, text, self.context_length)


def is_causal(clip: Any, tokenizer: Any) -> bool:
    """Tell whether no token depends on a later one, so that a batch of texts may end with its longest."""
    return (
        type(clip) is open_clip.CLIP
        and type(tokenizer) is SimpleTokenizer
        and clip.attn_mask is not None
        and clip.text_pool_type == "argmax"
        and isinstance(clip.text_projection, nn.Parameter)
    )


def encode_causally(clip: Any, ids: Tensor, ends: Tensor) -> Tensor:
    """Encode token ids (B, L) to unit vectors (B, D) as `clip.encode_text` does, L up to the context length.

    `ends` (B,) are the places of the texts' last tokens among all B * L.
    """
    last = clip.ln_final(text_states(clip, ids).flatten(0, 1).index_select(0, ends))
    return F.normalize(last @ clip.text_projection, dim=-1)


def text_states(clip: Any, ids: Tensor) -> Tensor:
    """Compute the text tower's last states of token ids (B, L), L up to the context length -> (B, L, W).

    The tower is causal: a pass that stops at the longest text of a batch gives the states of one over the full context.
    """
    length, kind = ids.shape[1], clip.transformer.get_cast_dtype()
    x = clip.token_embedding(ids).to(kind) + clip.positional_embedding[:length].to(kind)
    out: Tensor = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length].to(kind))
    return out


def cut_note(tokenizer: Any, text: str, context_length: int) -> str:
    """Return a note when a tokenizer of open_clip cuts `text` at the context length, else nothing."""
    if len(text.encode()) + 2 <= context_length or not isinstance(tokenizer, SimpleTokenizer):
        return ""  # a token is at least one byte
    tokens = len(encode(tokenizer, text)) + 2
    return f"text cut from {tokens} to {context_length} tokens" if tokens > context_length else ""


def open_tokenizer(model: str, context: PipelineContext) -> Any:
    """Open a model's tokenizer: open_clip's own, or one of the hub, cached or fetched. Raises WeightsError."""
    name = (open_clip.get_model_config(model) or {}).get("text_cfg", {}).get("hf_tokenizer_name")
    if not name:
        return open_clip.get_tokenizer(model)
    source = sources.source_of(name, "tokenizer", context)._replace(cache=context.home / "weights" / "open_clip")
    why = network.why_not(context.offline)
    try:
        return open_clip.get_tokenizer(model, cache_dir=str(source.cache), local_files_only=bool(why))
    except Exception as error:  # transformers and the hub raise many kinds
        raise sources.not_there(source, context, why or first_line(error)) from None


def encode(tokenizer: SimpleTokenizer, text: str) -> Sequence[int]:
    """Encode a text as `tokenizer.encode` does: the ids of its tokens, neither framed nor cut.

    Of plain English text open_clip's tokenizer encodes each word alone: its cleaning (ftfy, HTML) only lowers such a
    text and joins its words by one space, and no token spans a space. So each different word is encoded once, by
    open_clip itself; any other text is open_clip's as a whole.
    """
    if not _plain(text):
        return tokenizer.encode(text)  # type: ignore[no-any-return]
    return list(chain.from_iterable(map(_words(tokenizer), text.split())))


@lru_cache(8)
def _words(tokenizer: SimpleTokenizer) -> Callable[[str], tuple[int, ...]]:
    """Return the function that encodes a word, which remembers what it did."""
    return lru_cache(WORDS)(lambda word: tuple(tokenizer.encode(word)))


def token_ids(tokenizer: SimpleTokenizer, texts: Sequence[str]) -> Tensor:
    """Encode texts as `tokenizer(texts)` does, up to the longest of them, (N, L); cut at the context length."""
    first, last, most = tokenizer.sot_token_id, tokenizer.eot_token_id, tokenizer.context_length - 2
    rows = [(first, *encode(tokenizer, text)[:most], last) for text in texts]
    columns = list(zip_longest(*rows, fillvalue=PAD))
    return torch.from_numpy(np.array(columns, np.int64).reshape(-1, len(rows)).T.copy())


def in_16_bits(model: Any, name: str, dtype: str) -> Any:
    """Rebuild a float32 model, called `name`, in bfloat16 or float16 with QuickGELU folded; `model` is changed too."""
    folded = fold_quick_gelu(model)
    half = empty_model(name, PRECISIONS[dtype], force_quick_gelu=folded > 0)
    fold_quick_gelu(half)
    half.load_state_dict(model.state_dict())
    half.visual.preprocess_cfg = model.visual.preprocess_cfg
    return half


def open_model(options: ClipOptions, context: PipelineContext) -> tuple[Any, Mapping[str, str]]:
    """Open a CLIP in the context's precision, and hash its file. Raises WeightsError, UnknownName."""
    if options.model not in open_clip.list_models():
        raise UnknownName("open_clip model", options.model, open_clip.list_models())
    precision = PRECISIONS[context.dtype]
    how = "put the file there, or name a tag that open_clip publishes"
    published = not weights.looks_like_path(options.pretrained)
    path = weights.find_local(options.pretrained, context, how, published)
    if path is not None:
        state, made = _read(path)
        model = empty_model(options.model, precision, force_quick_gelu=bool(made.get("quick_gelu")))
        weights.load_strictly(model, state, str(path))
        model.visual.preprocess_cfg = {**model.visual.preprocess_cfg, **statistics(made, path)}
        return model, {path.name: sha256_file(path)}
    tags = open_clip.list_pretrained_tags_by_model(options.model)
    if options.pretrained not in tags:
        raise UnknownName(f"published weights of {options.model}", options.pretrained, tags)
    return _published(options, precision, context)


def empty_model(name: str, precision: str = "fp32", device: str = "cpu", force_quick_gelu: bool = False) -> Any:
    """Build the architecture with random weights (with none on "meta"), without open_clip's warning about them."""
    imports.complete(open_clip, name)
    root = logging.getLogger()  # open_clip logs to it
    root.addFilter(_from_others)
    try:
        return open_clip.create_model(
            name, precision=precision, load_weights=False, device=device, force_quick_gelu=force_quick_gelu
        )
    finally:
        root.removeFilter(_from_others)


def _from_others(record: logging.LogRecord) -> bool:
    """Tell whether a log record is an error, or not open_clip's."""
    return record.levelno > logging.WARNING or "open_clip" not in record.pathname


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read weights, and what a file that was tuned here says of the model that it was tuned from."""
    if path.suffix == ".safetensors":
        state, metadata = weights.read_safetensors(path)
        made = metadata.get("open_clip")
        return state, made if isinstance(made, dict) else {}
    state = weights.read_state_dict(path)
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}, {}


def _published(options: ClipOptions, precision: str, context: PipelineContext) -> tuple[Any, Mapping[str, str]]:
    """Open weights by tag, cached or downloaded. OpenAI's need QuickGELU, as the tag's card has it."""
    card = open_clip.get_pretrained_cfg(options.model, options.pretrained)
    what = f"CLIP {options.model} {options.pretrained}"
    key = weights.option_of(options.pretrained, context)
    source = sources.source_of(options.pretrained, options.model, context, key)
    path = hub.find_weights(source, context, what)
    imports.complete(open_clip, options.model)
    try:
        model = open_clip.create_model(  # given the tag, it would ask the hub once more
            options.model,
            pretrained=str(path),
            precision=precision,
            force_quick_gelu=bool(card.get("quick_gelu")),
            force_preprocess_cfg={key: value for key, value in card.items() if key != "size"},
        )
    except Exception as error:  # open_clip raises several kinds
        raise WeightsError(f"{what}: {path} cannot be loaded ({first_line(error)})") from None
    return model, {path.name: sha256_file(path.resolve())}
