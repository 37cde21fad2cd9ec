"""CLIP-VG as a pipeline: an image is encoded once for all its expressions.

The fast way, on by default, leaves out what does not change the boxes: padding of texts and of images never enters the
V-L transformer, whose last layer computes [REG] alone, and a text is encoded once in the pipeline's life.
`fast = false` computes everything for each expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bench.grounding import PipelineContext
from bench.hashing import sha256_file
from bench.settings import Table, parse_table, takes
from clipvg.checkpoint import OpenedNetwork, find, open_network
from clipvg.network import HEADS
from clipvg.official import write_official
from pipelines.canvas import Canvas, covered, kept_patches, normalised, stacked
from pipelines.card import CardOptions, make_card
from pipelines.engine import PairEngine, Rows, prepare
from pipelines.on_canvas import CanvasPipeline, Fused
from pipelines.two_stage.clip.as_published import fold_quick_gelu
from pipelines.two_stage.clip.encoder import PAD, ClipOptions, cut_note, open_clip, token_ids


class ClipVGOptions(Table):
    """[pipelines.clipvg]."""

    weights: str = Field("clipvg.pth", description="a file, here or in BENCH_HOME/weights, or an id of the hub")
    preprocessing: Literal["auto", "official", "clean"] = Field(
        "auto", description="auto = as the weights were trained"
    )
    image_size: int = Field(0, ge=0, description="side of the canvas; 0 = as the weights were trained")
    clip: ClipOptions | None = Field(None, description="CLIP of weights that bring none; none = what they name")
    fast: bool = Field(True, description="skip computations that do not change the prediction")
    images: int = Field(0, ge=0, description="in a pass of the image tower; 0 = 64 on a GPU, 4 on a CPU")
    texts: int = Field(0, ge=0, description="in a pass of the transformer; 0 = 512 on a GPU, 16 on a CPU")
    letterbox_threads: int = Field(4, ge=1)
    card: CardOptions = CardOptions()


class ClipVGPipeline(CanvasPipeline):
    """Ground expressions with one network."""

    def __init__(self, options: ClipVGOptions, context: PipelineContext, opened: OpenedNetwork | None = None) -> None:
        """`opened` is a network in training, used as it is."""
        super().__init__(context, options.letterbox_threads)
        self.fast = options.fast
        training = opened is not None
        path = find(options.weights, context) if opened is None else Path()
        opened = opened or open_network(path, context, options.clip, options.image_size)
        self.network, style, source = opened
        self.style = style if options.preprocessing == "auto" else options.preprocessing
        accelerated = frozenset[str]()
        if not training:
            clip = self.network.clip  # the blocks of its image tower are called one by one
            if context.dtype != "float32":  # whose boxes stay as they are, to the last bit
                fold_quick_gelu(clip)
            parts = [*clip.visual.transformer.resblocks, clip.transformer, self.network.vl_transformer.encoder]
            accelerated = prepare(self.network, context, HEADS, parts)
        gpu = torch.device(context.device).type == "cuda"
        self.engine: PairEngine[Canvas] = PairEngine(
            context,
            self._encode_images,
            self._encode_texts,
            self._fuse,
            images=options.images or (64 if gpu else 4),
            texts=options.texts or (512 if gpu else 16),
        )
        self.tokenizer = open_clip.get_tokenizer(self.network.config.clip)
        self.size = self.network.config.image_size
        self.side, self.width = self.network.side, self.network.config.hidden
        self.patch = self.size // self.side
        self.card = make_card(
            context,
            options.card,
            summary=f"CLIP-VG on {self.network.config.clip} at {self.size} px, {self.style} preprocessing"
            + self.network.deconfounder.label,
            paper="Xiao et al., CLIP-VG, IEEE TMM 2023",
            weights={"clipvg": options.weights} | ({"clip": source[0].pretrained} if source else {}),
            sha256={} if training else {"clipvg": sha256_file(path)} | ({"clip": source[1]} if source else {}),
            parameters=sum(p.numel() for p in self.network.parameters()),
            accelerated=accelerated,
        )

    def rows(self, canvases: Sequence[Canvas], pairs: Sequence[tuple[int, str]]) -> Tensor:
        """Ground pairs -> (N, 4) cxcywh in 0..1 of the canvas."""
        return self.engine.ground(canvases, pairs) if self.fast else self._plain(canvases, pairs)

    def cut(self, text: str) -> str:
        """Return a note when a text has more tokens than CLIP takes, else nothing."""
        return cut_note(self.tokenizer, text, self.network.context)

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """List what empties the text cache; the plain way has none."""
        return super().caches if self.fast else {}

    def _plain(self, canvases: Sequence[Canvas], pairs: Sequence[tuple[int, str]]) -> Tensor:
        """Compute everything for every pair, all 77 tokens and every patch -> (N, 4) cxcywh in 0..1 of the canvas."""

        def boxes(some: Sequence[tuple[int, str]]) -> Tensor:
            pixels, masked = stacked([canvases[i] for i, _ in some], self.patch, self.style, self.engine.device)
            ids = self.tokenizer([text for _, text in some]).to(self.engine.device)
            with self.clock.stage("forward"):
                out: Tensor = self.network(pixels, masked, ids)
            return out

        return torch.cat(list(self.engine.chunked("images", pairs, boxes)))

    def _encode_images(self, canvases: Sequence[Canvas]) -> list[Rows]:
        raw, edges = self.stacked(canvases)
        tokens = self.network.encode_image(normalised(raw, covered(edges, self.size), self.style))
        patches = kept_patches(canvases, self.patch, self.style)
        keep = np.pad(patches, ((0, 0), (1, 0)), constant_values=True)  # the class token counts
        return self._kept(tokens, keep, 1 + self.network.context)

    def _encode_texts(self, texts: Sequence[str]) -> list[Rows]:
        ids = token_ids(self.tokenizer, texts)
        return self._kept(self.network.encode_text(self.engine.to_device(ids)), ids.numpy() != PAD, 1)

    def _kept(self, tokens: Tensor, keep: NDArray[np.bool_], slot: int) -> list[Rows]:
        """Drop tokens (B, L, d) where `keep` (B, L) is not; give each other one its slot, the first's being `slot`."""
        places, counts = np.flatnonzero(keep), keep.sum(axis=1).tolist()
        index, slots = self.engine.to_device(torch.from_numpy(np.stack([places, places % keep.shape[1] + slot])))
        return list(zip(tokens.flatten(0, 1).index_select(0, index).split(counts), slots.split(counts), strict=True))

    def fused(self, rows: Rows, padding: Tensor | None) -> Fused:
        """Compute every token of the V-L transformer; the hook of FusesTokens."""
        tokens, slots = rows
        ignored = None if padding is None else F.pad(padding, (1, 0))
        out = self.network.fuse_tokens(tokens, F.pad(slots, (1, 0)), ignored)
        cells = slots - (2 + self.network.context)  # [REG], the text and the class token come before the patches
        return Fused(out, tokens, cells, padding, self.network.box(out[:, 0]))

    def _fuse(self, rows: Rows, padding: Tensor | None) -> Tensor:
        """(N, 4), cxcywh in 0..1 of the canvas."""
        tokens, slots = rows
        ignored = None if padding is None else F.pad(padding, (1, 0))  # [REG] comes first
        fused = self.network.fuse_tokens(tokens, F.pad(slots, (1, 0)), ignored, only_first=True)
        return self.network.box(fused[:, 0])


@takes(ClipVGOptions)
def clipvg(context: PipelineContext) -> ClipVGPipeline:
    """Open CLIP-VG. Raises SettingsError, WeightsError."""
    return ClipVGPipeline(options_of(context), context)


def options_of(context: PipelineContext) -> ClipVGOptions:
    """Parse the pipeline's table. Raises SettingsError."""
    return parse_table(ClipVGOptions, context.options, f"bench.toml [pipelines.{context.name}]")


def export_official(context: PipelineContext, out: Path) -> Path:
    """Write the pipeline's weights as an official checkpoint. Raises WeightsError, UsageError, RunError."""
    options = options_of(context)
    network, _, _ = open_network(find(options.weights, context), context, options.clip)
    write_official(network, options.weights, out)
    return out
