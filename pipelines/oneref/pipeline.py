"""OneRef as a pipeline. Image and text share one attention from the first layer on, so each pair has its own pass.

Shared are the embedded patches and the first layer's projections of them, once an image. Padding of texts is left out:
a pair is computed with pairs of like length, up to the longest. `fast = false` computes everything for each expression.
A file of REC predicts boxes. A file of RES predicts masks, and its box is the one around the
mask: the box head of such a file was not trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bench.grounding import Box, ImageArray, PipelineContext, Prediction, Query
from bench.hashing import sha256_file
from bench.settings import Table, parse_table, takes
from pipelines.canvas import Canvas, covered, normalised
from pipelines.card import CardOptions, make_card
from pipelines.engine import Engine, prepare
from pipelines.on_canvas import CanvasPipeline, masked
from pipelines.oneref.checkpoint import Loaded, open_network
from pipelines.oneref.network import HEADS, Answers
from pipelines.oneref.tokenizer import PAD


class OneRefOptions(Table):
    """[pipelines.oneref]."""

    weights: str = Field("oneref.pth", description="an official file, here or in BENCH_HOME/weights")
    tokenizer: str = Field("beit3.spm", description="BEiT-3's sentencepiece file, here or in BENCH_HOME/weights")
    preprocessing: Literal["auto", "official"] = Field("auto", description="both are the official one")
    fast: bool = Field(True, description="skip computations that do not change the prediction")
    images: int = Field(0, ge=0, description="in a pass of the patches; 0 = 64 on a GPU, 4 on a CPU")
    pairs: int = Field(0, ge=0, description="in a pass of the encoder; 0 = 64 on a GPU, 4 on a CPU")
    letterbox_threads: int = Field(4, ge=1)
    card: CardOptions = CardOptions()


class OneRefPipeline(CanvasPipeline):
    """Ground expressions with one network."""

    def __init__(self, options: OneRefOptions, context: PipelineContext, loaded: Loaded | None = None) -> None:
        """`loaded` is a network in training, used as it is."""
        super().__init__(context, options.letterbox_threads)
        training = loaded is not None
        loaded = loaded or open_network(options.weights, options.tokenizer, context)
        network, self.tokenizer = loaded.network, loaded.tokenizer
        self.network, self.fast = network, options.fast
        self.size = network.config.image_size
        accelerated = frozenset[str]()
        if not training:
            accelerated = prepare(network, context, HEADS, [*network.beit3.encoder.layers])
        gpu = torch.device(context.device).type == "cuda"
        self.engine = Engine(
            context, lambda _: [], options.images or (64 if gpu else 4), options.pairs or (64 if gpu else 4)
        )
        own = loaded.pieces is not None
        files = {"oneref": loaded.path, **({} if own else {"tokenizer": self.tokenizer.path})}
        kind = "masks, and boxes around them" if network.config.masks else "boxes"
        self.card = make_card(
            context,
            options.card,
            summary=f"OneRef, {network.config.layers} layers at {self.size} px: {kind}",
            paper="Xiao et al., OneRef, NeurIPS 2024",
            weights={"oneref": options.weights, **({} if own else {"tokenizer": options.tokenizer})},
            sha256={part: sha256_file(path) for part, path in files.items() if path.is_file()},
            parameters=sum(p.numel() for p in network.parameters()),
            accelerated=accelerated,
        )

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """List nothing: a text is encoded with its image."""
        return {}

    def cut(self, text: str) -> str:
        """Return a note when a text has more tokens than the network takes, else nothing."""
        return self.tokenizer.cut(text)

    def prediction(
        self, query: Query, box: Box, rest: NDArray[np.float32], canvas: Canvas, image: ImageArray
    ) -> Prediction:
        """Make the prediction of a box or of a mask; a text without any token refers to nothing."""
        if not self.tokenizer.encode(query.text):
            return Prediction(query.id, None, note="the text has no token")
        note = self.cut(query.text)
        if not self.network.config.masks:
            return Prediction(query.id, box, note=note)
        side = math.isqrt(len(rest))
        made = masked(query, rest.reshape(side, side), canvas, image.shape[:2], note)
        return replace(made, box=box) if self.network.config.both else made

    def rows(self, canvases: Sequence[Canvas], pairs: Sequence[tuple[int, str]]) -> Tensor:
        """Ground pairs -> (N, 4) cxcywh in 0..1 of the canvas, and the cosines of the mask where there is a head."""
        if not self.fast:
            return self._plain(canvases, pairs)
        owners, texts = np.array([index for index, _ in pairs]), [text for _, text in pairs]
        with self.clock.stage("image encode"):
            parts = zip(*self.engine.chunked("images", canvases, self._begin), strict=True)
            images, *begun = (torch.cat(part) for part in parts)
        ids, padding = self.tokenizer(texts)
        lengths = (~padding).sum(dim=1).numpy()
        order = lengths.argsort(kind="stable")

        def work(chunk: NDArray[np.int64]) -> Tensor:
            length = int(lengths[chunk].max())
            own, place = torch.from_numpy(chunk), self.engine.to_device(torch.from_numpy(owners[chunk]))
            words, pads = (self.engine.to_device(table[own, :length]) for table in (ids, padding))
            own_parts = [part.index_select(0, place) for part in begun]
            image, text = self.network.encode(images.index_select(0, place), words, pads, own_parts)
            return joined(self.network.answer(image, text[:, 0]))

        with self.clock.stage("fusion"):
            out = torch.cat(list(self.engine.chunked("pairs", order, work)))
            return out.index_select(0, self.engine.to_device(torch.from_numpy(order.argsort())))

    def _plain(self, canvases: Sequence[Canvas], pairs: Sequence[tuple[int, str]]) -> Tensor:
        """Compute everything for every pair, with all tokens of padding."""

        def work(some: Sequence[tuple[int, str]]) -> Tensor:
            ids, padding = self.tokenizer([text for _, text in some])
            room = (0, self.network.config.text - ids.shape[1])
            words, pads = F.pad(ids, room, value=PAD), F.pad(padding, room, value=True)
            pixels = self._pixels([canvases[index] for index, _ in some])
            return joined(self.network(pixels, self.engine.to_device(words), self.engine.to_device(pads)))

        with self.clock.stage("forward"):
            return torch.cat(list(self.engine.chunked("pairs", pairs, work)))

    def _begin(self, canvases: Sequence[Canvas]) -> tuple[Tensor, ...]:
        image = self.network.embed_image(self._pixels(canvases))
        return image, *self.network.begin(image)

    def _pixels(self, canvases: Sequence[Canvas]) -> Tensor:
        raw, edges = self.stacked(canvases)
        return normalised(raw, covered(edges, self.size), "official")


def joined(answers: Answers) -> Tensor:
    """Put answers side by side -> (B, 4 + M)."""
    if answers.masks is None:
        return answers.boxes
    return torch.cat([answers.boxes, answers.masks.flatten(1).float()], dim=1)


@takes(OneRefOptions)
def oneref(context: PipelineContext) -> OneRefPipeline:
    """Open OneRef. Raises SettingsError, WeightsError."""
    options = parse_table(OneRefOptions, context.options, f"bench.toml [pipelines.{context.name}]")
    return OneRefPipeline(options, context)
