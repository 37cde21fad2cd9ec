"""CLIP-VG as a pipeline: a picture is seen once for everything that is asked about it.

The fast way, on by default, leaves out what the plain way computes in vain: padding of texts and of pictures never
enters the V-L transformer, whose last layer works for [REG] alone, and a text is read once in the pipeline's life. The
numbers are the same (spec clipvg.md 1.5); `fast = false` goes the plain way, everything for each expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import numpy as np
import open_clip
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.grounding import LoadedScene, PipelineContext, Prediction
from bench.hashing import sha256_file
from bench.settings import parse_table
from clipvg.checkpoint import Opened, open_network
from clipvg.model.network import ClipVG
from clipvg.model.text import PAD, up_to_longest
from clipvg.preprocessing import Canvas, letterboxed, stacked
from pipelines.card import CardOptions, make_card
from pipelines.clip.encoder import ClipOptions, cut_note

T = TypeVar("T")


class ClipVGOptions(BaseModel):
    """[pipelines.clipvg]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str = Field("clipvg.pth", description="a file, here or in BENCH_HOME/weights, or an id of the hub")
    preprocessing: Literal["auto", "official", "clean"] = Field(
        "auto", description="auto = as the weights were trained"
    )
    image_size: int = Field(0, ge=0, description="side of the canvas; 0 = as the weights were trained")
    clip: ClipOptions | None = Field(None, description="the CLIP of weights that do not bring it; none = as they say")
    fast: bool = Field(True, description="leave out what does not change the answer")
    pictures: int = Field(0, ge=0, description="in a pass of the image tower; 0 = 64 on a GPU, 4 on a CPU")
    texts: int = Field(0, ge=0, description="in a pass of the transformer; 0 = 512 on a GPU, 16 on a CPU")
    letterbox_threads: int = Field(4, ge=1)
    card: CardOptions = CardOptions()


class ClipVGPipeline:
    """A grounder that is one network."""

    def __init__(self, options: ClipVGOptions, context: PipelineContext, opened: Opened | None = None) -> None:
        """`opened` is a network that is at hand already, in training."""
        self.clock, self.fast = context.clock, options.fast
        self.device = torch.device(context.device)
        gpu = self.device.type == "cuda"
        self.pictures, self.texts = options.pictures or (64 if gpu else 4), options.texts or (512 if gpu else 16)
        self.pool = ThreadPoolExecutor(options.letterbox_threads, thread_name_prefix="letterbox")
        training = opened is not None
        opened = opened or open_network(options.weights, context, options.clip, options.image_size)
        self.style = opened.style if options.preprocessing == "auto" else options.preprocessing
        self.network = opened.network
        accelerated = frozenset[str]()
        if not training:
            in_precision(self.network.requires_grad_(False), getattr(torch, context.dtype)).to(self.device)
            clip = self.network.clip  # of whose picture tower the blocks are called one by one
            parts = [*clip.visual.transformer.resblocks, clip.transformer, self.network.vl_transformer]
            accelerated = context.acceleration.apply(self.network, parts)
        self.tokenizer = open_clip.get_tokenizer(self.network.config.clip)
        self.size = self.network.config.image_size
        self.patch = self.size // self.network.side
        self._words: dict[str, tuple[Tensor, Tensor]] = {}
        clip = opened.clip
        self.card = make_card(
            context,
            options.card,
            summary=f"CLIP-VG on {self.network.config.clip} at {self.size} px, {self.style} preprocessing",
            paper="Xiao et al., CLIP-VG, IEEE TMM 2023",
            weights={"clipvg": options.weights} | ({"clip": clip.options.pretrained} if clip else {}),
            sha256={} if training else {"clipvg": sha256_file(opened.path)} | ({"clip": clip.values} if clip else {}),
            parameters=sum(p.numel() for p in self.network.parameters()),
            accelerated=accelerated,
        )

    @torch.inference_mode()
    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """One prediction for every query of every scene, in order."""
        asked = [(index, query.text) for index, scene in enumerate(batch) for query in scene.queries]
        if not asked:
            return []
        with self.clock.stage("letterbox"):
            canvases = list(self.pool.map(lambda s: letterboxed(s.picture, self.size, self.style), batch))
        found = self._fast(canvases, asked) if self.fast else self._plain(canvases, asked)
        boxes = found.double().cpu().numpy()  # the one point where a GPU is waited for
        owners = np.array([index for index, _ in asked])
        corners = np.empty_like(boxes)
        for index, canvas in enumerate(canvases):
            corners[owners == index] = canvas.to_picture(boxes[owners == index])
        queries = [query for scene in batch for query in scene.queries]
        return [
            Prediction(query.id, tuple(box), note=cut_note(self.tokenizer, query.text, self.network.context))
            for query, box in zip(queries, corners.tolist(), strict=True)
        ]

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """The tokens of texts; the plain way keeps nothing."""
        return {"texts": self.forget_texts} if self.fast else {}

    def forget_texts(self) -> None:
        """Empties the cache, so that the next texts are read as if for the first time."""
        self._words.clear()

    def _plain(self, canvases: Sequence[Canvas], asked: Sequence[tuple[int, str]]) -> Tensor:
        """Everything for every expression, all 77 tokens and every patch -> (N, 4) cxcywh in 0..1 of the canvas."""
        found = []
        for some in chunks(asked, self.pictures):
            pixels, masked = stacked([canvases[i] for i, _ in some], self.patch, self.style, self.device)
            ids = self.tokenizer([text for _, text in some]).to(self.device)
            with self.clock.stage("forward"):
                found.append(self.network(pixels, masked, ids))
        return torch.cat(found)

    def _fast(self, canvases: Sequence[Canvas], asked: Sequence[tuple[int, str]]) -> Tensor:
        """Pictures and texts once, and the transformer over what is not padding -> (N, 4), as `_plain`."""
        with self.clock.stage("vision"):
            pictures = self._see(canvases)
        with self.clock.stage("text"):
            self._read(list(dict.fromkeys(text for _, text in asked)))
        with self.clock.stage("fusion"):
            # Neighbours of like length share a pass: little of it is padding.
            order = sorted(range(len(asked)), key=lambda n: self._lengths(pictures, *asked[n]))
            found = torch.cat([self._fuse(pictures, [asked[n] for n in some]) for some in chunks(order, self.texts)])
            return found[torch.tensor(order, device=self.device).argsort()]

    def _see(self, canvases: Sequence[Canvas]) -> list[tuple[Tensor, Tensor]]:
        """For each picture its tokens that count (1 + K, d), the class token first, and their slots (1 + K,)."""
        seen: list[tuple[Tensor, Tensor]] = []
        slots = self.network.picture_slots()
        for some in chunks(canvases, self.pictures):
            pixels, masked = stacked(some, self.patch, self.style, self.device)
            keep = torch.cat([torch.ones_like(masked[:, :1]), ~masked], dim=1)
            counts = keep.sum(dim=1).tolist()
            tokens = self.network.see(pixels)
            seen += zip(tokens[keep].split(counts), slots.expand(len(some), -1)[keep].split(counts), strict=True)
        return seen

    def _read(self, texts: Sequence[str]) -> None:
        """Fills the cache: for each new text its tokens (L, d) and their slots (L,)."""
        slots = self.network.word_slots(self.network.context)[1:]
        for some in chunks([text for text in texts if text not in self._words], self.texts):
            ids = up_to_longest(self.tokenizer(list(some)))
            tokens, keep = self.network.read(ids.to(self.device)), (ids != PAD).to(self.device)
            for text, words, used in zip(some, tokens, keep, strict=True):
                self._words[text] = (words[used], slots[: len(used)][used])

    def _fuse(self, pictures: Sequence[tuple[Tensor, Tensor]], some: Sequence[tuple[int, str]]) -> Tensor:
        """(N, 4), cxcywh in 0..1 of the canvas, for pictures by number and texts."""
        parts = [(*self._words[text], *pictures[index]) for index, text in some]
        tokens = pad_sequence([torch.cat([words, seen]) for words, _, seen, _ in parts], batch_first=True)
        slots = pad_sequence([torch.cat([mine, theirs]) for _, mine, _, theirs in parts], batch_first=True)
        lengths = [len(words) + len(seen) for words, _, seen, _ in parts]
        register = torch.zeros(len(parts), 1, dtype=torch.long, device=self.device)
        ignored = None
        if min(lengths) < max(lengths):
            used = torch.tensor(lengths, device=self.device)[:, None]
            ignored = torch.arange(1 + max(lengths), device=self.device) > used
        slots = torch.cat([register, slots], dim=1)
        return self.network.box(self.network.fuse_tokens(tokens, slots, ignored, only_first=True)[:, 0])

    def _lengths(self, pictures: Sequence[tuple[Tensor, Tensor]], index: int, text: str) -> tuple[int, int]:
        return len(pictures[index][0]), len(self._words[text][0])


def clipvg(context: PipelineContext) -> ClipVGPipeline:
    """clipvg. Raises SettingsError, WeightsError."""
    return ClipVGPipeline(options_of(context), context)


def options_of(context: PipelineContext) -> ClipVGOptions:
    """The pipeline's table, read. Raises SettingsError."""
    return parse_table(ClipVGOptions, context.options, f"bench.toml [pipelines.{context.name}]")


def in_precision(network: ClipVG, dtype: torch.dtype) -> ClipVG:
    """The network in `dtype`, its box head in float32."""
    head = network.bbox_embed
    network.to(dtype)
    head.float()
    return network


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """`items` in runs of at most `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]
