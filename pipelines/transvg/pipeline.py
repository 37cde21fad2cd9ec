"""TransVG as a pipeline, and what all pipelines of its family share: an image is encoded once for all its expressions.

The fast way, on by default, leaves out what does not change the boxes: cells of the canvas that are masked are dropped
behind the ResNet, padding of texts never enters the V-L transformer, whose last layer computes [REG] alone, and a text
is encoded once in the pipeline's life. `fast = false` computes everything for each expression.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from bench.attention import AttentionMap
from bench.grounding import Box, ImageArray, PipelineContext, Prediction, Query
from bench.hashing import sha256_file
from bench.settings import Table, parse_table, takes
from pipelines.canvas import Canvas, covered, stack_pixels
from pipelines.card import CardOptions, make_card
from pipelines.engine import PairEngine, Rows, prepare
from pipelines.folding import fold_norms
from pipelines.on_canvas import CanvasPipeline, Fused
from pipelines.transvg.branches import Branches, masked_cells
from pipelines.transvg.checkpoint import Loaded, open_network
from pipelines.transvg.network import TransVG

QUIRKS = {
    "official": "official preprocessing: targets cut to integers, windows tested with swapped axes, words in words",
    "clean": "clean preprocessing: targets as annotated, windows that hold the referent, whole words",
}


class BranchesOptions(Table):
    """Options of every pipeline of the family; `weights` is a subclass's."""

    weights: str = Field("", description="a file, here or in BENCH_HOME/weights")
    tokenizer: str = Field(
        "bert-base-uncased", description="a folder or a hub id; a weights file that has its own wins"
    )
    preprocessing: Literal["auto", "official", "clean"] = Field(
        "auto", description="auto = as the weights were trained"
    )
    fast: bool = Field(True, description="skip computations that do not change the prediction")
    images: int = Field(0, ge=0, description="in a pass of the image branch; 0 = 32 on a GPU, 2 on a CPU")
    texts: int = Field(0, ge=0, description="in a pass of the transformer; 0 = 256 on a GPU, 8 on a CPU")
    letterbox_threads: int = Field(4, ge=1)
    card: CardOptions = CardOptions()


class BranchesPipeline(CanvasPipeline):
    """Ground expressions with one network of the family; a subclass names it and says how it is run the fast way."""

    kind: ClassVar[type[Branches]]
    paper: ClassVar[str]
    Options: ClassVar[type[BranchesOptions]]

    def __init__(self, options: Any, context: PipelineContext, loaded: Loaded | None = None) -> None:
        """`options` are `Options`; `loaded` is a network in training, used as it is."""
        super().__init__(context, options.letterbox_threads)
        self.fast = options.fast
        training = loaded is not None
        loaded = loaded or open_network(self.kind, options.weights, options.tokenizer, context)
        self.network, self.tokenizer = loaded.network, loaded.tokenizer
        self.style = loaded.style if options.preprocessing == "auto" else options.preprocessing
        accelerated, parameters = frozenset[str](), sum(p.numel() for p in self.network.parameters())
        if not training:
            if self.fast:
                fold_norms(self.network)  # in float32: in 16 bits each frozen norm would round once more
            accelerated = prepare(self.network, context, self.network.heads, self.network.parts)
        gpu = torch.device(context.device).type == "cuda"
        self.engine: PairEngine[Canvas] = PairEngine(
            context,
            self.encode_images,
            self.encode_texts,
            self.fuse,
            images=options.images or (32 if gpu else 2),
            texts=options.texts or (256 if gpu else 8),
            kind=self.cells,
        )
        config = self.network.config
        self.size = config.image_size
        self.card = make_card(
            context,
            options.card,
            summary=f"{self.kind.title} on {config.backbone} at {self.size} px, {QUIRKS[self.style]}"
            + self.network.deconfounder.label,
            paper=self.paper,
            weights={context.name: options.weights},
            sha256={} if training else {context.name: sha256_file(loaded.path)},
            parameters=parameters,
            accelerated=accelerated,
        )

    def rows(self, canvases: Sequence[Canvas], pairs: Sequence[tuple[int, str]]) -> Tensor:
        """Ground pairs -> (N, 4) cxcywh in 0..1 of the canvas, and what the fast way gives beside them."""
        return self.engine.ground(canvases, pairs) if self.fast else self._plain(canvases, pairs)

    def cut(self, text: str) -> str:
        """Return a note when a text has more tokens than the network takes, else nothing."""
        note: str = self.tokenizer.cut(text)
        return note

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """List what empties the text cache; the plain way has none."""
        return super().caches if self.fast else {}

    def cells(self, canvas: Canvas) -> Hashable:
        """Return what canvases that share a pass of the image branch have in common."""
        return None

    @abstractmethod
    def encode_images(self, canvases: Sequence[Canvas]) -> list[Rows]:
        """Encode canvases -> the rows of each that `fuse` takes."""

    def encode_texts(self, texts: Sequence[str]) -> list[Rows]:
        """Encode texts -> their tokens without padding, and what `beside` gives each."""
        ids, padding = self.tokenizer(texts)
        tokens = self.network.encode_text(self.engine.to_device(ids), self.engine.to_device(padding))
        beside = self.beside(padding.shape[1])
        lengths = (~padding).sum(dim=1).tolist()  # counted on the host
        return [(row[:length], beside[:length]) for row, length in zip(tokens, lengths, strict=True)]

    @abstractmethod
    def beside(self, length: int) -> Tensor:
        """Return what the first `length` tokens of a text have in the second of `fuse`'s rows."""

    @abstractmethod
    def fuse(self, rows: Rows, padding: Tensor | None) -> Tensor:
        """Fuse N joint sequences -> (N, 4 + M) as `rows`; see `PairEngine`."""

    def _plain(self, canvases: Sequence[Canvas], pairs: Sequence[tuple[int, str]]) -> Tensor:
        """Compute everything for every pair, all tokens and every cell -> (N, 4) cxcywh in 0..1 of the canvas."""

        def boxes(some: Sequence[tuple[int, str]]) -> Tensor:
            raw, edges = (self.engine.to_device(part) for part in stack_pixels([canvases[i] for i, _ in some]))
            pixels, masked = self.network.inputs(raw, edges, self.style)
            ids, padding = self.tokenizer([text for _, text in some], whole=True)
            with self.clock.stage("forward"):
                out: Tensor = self.network(pixels, masked, self.engine.to_device(ids), self.engine.to_device(padding))
            return out

        return torch.cat(list(self.engine.chunked("images", pairs, boxes)))


class TransVGOptions(BranchesOptions):
    """[pipelines.transvg]."""

    weights: str = Field("transvg-r50.pth", description="a file, here or in BENCH_HOME/weights")
    attention: bool = Field(False, description="give how [REG] attends to the image, for drawings")

    @model_validator(mode="after")
    def _fits_together(self) -> TransVGOptions:
        if self.attention and not self.fast:
            raise ValueError("attention needs fast = true: the plain way gives boxes alone; leave fast out")
        return self


class TransVGPipeline(BranchesPipeline):
    """Ground expressions with a TransVG."""

    kind, paper, Options = TransVG, "Deng et al., TransVG, ICCV 2021", TransVGOptions

    def __init__(self, options: TransVGOptions, context: PipelineContext, loaded: Loaded | None = None) -> None:
        super().__init__(options, context, loaded)
        self.attention = options.attention
        self.side, self.width = self.network.side, self.network.config.hidden

    def prediction(
        self, query: Query, box: Box, rest: NDArray[np.float32], canvas: Canvas, image: ImageArray
    ) -> Prediction:
        """Make the prediction of a box, with the attention behind it where it is wanted."""
        attention = self._over_image(rest, canvas) if self.attention else None
        return Prediction(query.id, box, note=self.cut(query.text), attention=attention)

    def _over_image(self, weights: NDArray[np.float32], canvas: Canvas) -> AttentionMap:
        """Cut weights of the cells of a canvas (P,) to its image, of about as many cells."""
        side = self.network.side
        part = np.array((canvas.left, canvas.top, canvas.right, canvas.bottom)) / self.network.stride
        columns, rows = (max(1, round(part[axis + 2] - part[axis])) for axis in (0, 1))
        whole = Image.fromarray(weights.reshape(side, side).astype(np.float32))
        return AttentionMap.of(np.asarray(whole.resize((columns, rows), Image.Resampling.BILINEAR, box=tuple(part))))

    def cells(self, canvas: Canvas) -> tuple[int, ...]:
        """List the cells that are not masked; canvases that agree in them share a pass."""
        edges = torch.tensor([[canvas.left, canvas.top, canvas.right, canvas.bottom]])
        kept = ~masked_cells(~covered(edges, self.size), self.network.stride, self.style)[0]
        return tuple(kept.nonzero()[:, 0].tolist())

    def encode_images(self, canvases: Sequence[Canvas]) -> list[Rows]:
        """Encode canvases -> the tokens that are not masked, and their slots."""
        pixels, masked = self.network.inputs(*self.stacked(canvases), self.style)
        kept = self.engine.to_device(torch.tensor(self.cells(canvases[0])))
        slots = kept + self.network.registers + self.network.config.tokens
        return [(tokens, slots) for tokens in self.network.encode_image(pixels, masked, kept)]

    def beside(self, length: int) -> Tensor:
        """Return the slots of text tokens, (length,)."""
        first = int(self.network.registers)
        return torch.arange(first, first + length, device=self.engine.device)

    def fused(self, rows: Rows, padding: Tensor | None) -> Fused:
        """Compute every token of the V-L transformer; the hook of FusesTokens."""
        tokens, slots = rows
        ignored = None if padding is None else F.pad(padding, (1, 0))
        out = self.network.fuse_tokens(tokens, F.pad(slots, (1, 0)), ignored)
        cells = slots - (self.network.registers + self.network.config.tokens)
        return Fused(out, tokens, cells, padding, self.network.box(out[:, 0]))

    def fuse(self, rows: Rows, padding: Tensor | None) -> Tensor:
        """Fuse tokens and slots -> (N, 4), and (N, P) the attention to the cells where it is wanted."""
        tokens, slots = rows
        ignored = None if padding is None else F.pad(padding, (1, 0))  # [REG] comes first
        slots = F.pad(slots, (1, 0))
        out: Tensor
        if self.attention:
            out = self.network.box_and_attention(tokens, slots, ignored)
        else:
            out = self.network.box(self.network.fuse_tokens(tokens, slots, ignored, only_first=True)[:, 0])
        return out


@takes(TransVGOptions)
def transvg(context: PipelineContext) -> TransVGPipeline:
    """Open TransVG. Raises SettingsError, WeightsError."""
    options = parse_table(TransVGOptions, context.options, f"bench.toml [pipelines.{context.name}]")
    return TransVGPipeline(options, context)
