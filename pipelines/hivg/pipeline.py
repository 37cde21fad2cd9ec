"""HiVG as a pipeline. The image tower takes in the text, so most of it runs once a pair of image and expression.

Shared are the patches and all that comes before the first bridge, once an image (one attention of 12 blocks with
ViT-B/16, 4 of 24 blocks and one attention with ViT-L/14), and the text tower with what the bridges take of it, once a
text. Padding is left out of the V-L transformer, which masks it, and whose last layer computes [REG] alone where no
mask is answered. In the bridges padding counts, as official weights learned. `fast = false` computes everything for
each expression.

The official code mixes the texts of a batch in the bridges: sample b of B takes position r // B of the text of sample
r % B, r = 77 b + position. `bridge = "correct"` gives each pair its own text and keeps the harness's contract: the same
box at any batch size. `bridge = "official"` mixes as the authors' evaluation does, in groups of `batch` expressions of
the scenes in a call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bench.errors import SettingsError
from bench.grounding import Box, ImageArray, PipelineContext, Prediction, Query
from bench.hashing import sha256_file
from bench.settings import Table, parse_table, takes
from pipelines import weights
from pipelines.canvas import Canvas, covered, normalised
from pipelines.card import CardOptions, make_card
from pipelines.engine import Engine, Rows, prepare
from pipelines.hivg.checkpoint import HOW, open_network
from pipelines.hivg.network import HEADS, PAD, HiVG
from pipelines.on_canvas import CanvasPipeline, masked
from pipelines.two_stage.clip.encoder import cut_note, encode, open_clip, token_ids

TEXTS = 256  # kept; what the bridges take of one is a megabyte


class HiVGOptions(Table):
    """[pipelines.hivg]."""

    weights: str = Field("hivg.pth", description="an official file, here or in BENCH_HOME/weights")
    clip: str = Field("", description="clip_lora_stage_with_bridge.pth, whose CLIP takes the place of the file's own")
    preprocessing: Literal["auto", "official"] = Field("auto", description="both are the official one")
    bridge: Literal["correct", "official"] = Field("correct", description="official = texts of a batch are mixed")
    batch: int = Field(60, ge=1, description="expressions that are mixed where bridge is official")
    mask_head: bool = Field(
        False, description="answer with masks too; a file's head may have been trained on boxes as masks, or not at all"
    )
    fast: bool = Field(True, description="skip computations that do not change the prediction")
    images: int = Field(0, ge=0, description="in a pass of the image tower; 0 = 64 on a GPU, 4 on a CPU")
    pairs: int = Field(0, ge=0, description="in a pass of the rest; 0 = 128 on a GPU, 8 on a CPU")
    letterbox_threads: int = Field(4, ge=1)
    card: CardOptions = CardOptions()


class HiVGPipeline(CanvasPipeline):
    """Ground expressions with one network."""

    def __init__(self, options: HiVGOptions, context: PipelineContext, training: HiVG | None = None) -> None:
        """`training` is a network in training, used as it is."""
        super().__init__(context, options.letterbox_threads)
        self.options = options
        files, accelerated = {}, frozenset[str]()
        if training is None:
            files["hivg"] = weights.find(options.weights, context, HOW)
            if options.clip:
                files["clip"] = weights.find(options.clip, context, HOW)
            training = network = open_network(files["hivg"], files.get("clip"))
            towers = network.clip.vision_model.encoder.layers, network.clip.text_model.encoder.layers
            parts = [*towers[0], *towers[1], network.vl_transformer["encoder"]]
            accelerated = prepare(network, context, HEADS, parts)
        self.network = network = training
        self.size = network.config.image_size
        where = f"bench.toml [pipelines.{context.name}]"
        if options.mask_head and not network.config.mask_head:
            raise SettingsError(f"{where}: mask_head: the weights have no mask head; leave mask_head out")
        if options.bridge == "official" and not options.fast:
            raise SettingsError(f'{where}: fast = false gives each pair its own text; set bridge = "correct"')
        gpu = torch.device(context.device).type == "cuda"
        images, pairs = options.images or (64 if gpu else 4), options.pairs or (128 if gpu else 8)
        self.engine = Engine(context, self._encode_texts, images, pairs, kept=TEXTS)
        self.tokenizer = open_tokenizer(network.config.context)
        mixed = f", texts mixed in groups of {options.batch}" if options.bridge == "official" else ""
        self.card = make_card(
            context,
            options.card,
            summary=f"HiVG, patches of {network.config.patch} at {self.size} px, bridge {options.bridge}{mixed}",
            paper="Xiao et al., HiVG, ACM MM 2024",
            weights={"hivg": options.weights} | ({"clip": options.clip} if "clip" in files else {}),
            sha256={part: sha256_file(path) for part, path in files.items()},
            parameters=sum(p.numel() for p in network.parameters()),
            accelerated=accelerated,
        )

    def cut(self, text: str) -> str:
        """Return a note when a text has more tokens than CLIP takes, else nothing."""
        return cut_note(self.tokenizer, text, self.network.config.context)

    def rows(self, canvases: Sequence[Canvas], pairs: Sequence[tuple[int, str]]) -> Tensor:
        """Ground pairs -> (N, 4) cxcywh in 0..1 of the canvas, and the mask's logits where they are answered."""
        if not self.options.fast:
            return self._plain(canvases, pairs)
        owners, texts = np.array([index for index, _ in pairs]), [text for _, text in pairs]
        # 1. Images up to the first bridge, (N, 1 + P, W), their masked patches, and each different text once.
        with self.clock.stage("image encode"):
            begun, masked = zip(*self.engine.chunked("images", canvases, self._begin), strict=True)
            images = [torch.cat(parts) for parts in zip(*begun, strict=True)]
            patches = torch.cat(masked)
        with self.clock.stage("text encode"):
            rows = self.engine.encode_texts(texts)
            memories, tokens, ids = (torch.stack(parts) for parts in zip(*rows.values(), strict=True))
        # 2. Pairs whose texts are of like length together: the rest of 77 tokens is masked padding.
        place = {text: n for n, text in enumerate(rows)}
        number = np.array([place[text] for text in texts])
        lengths = np.array([len(encode(self.tokenizer, text)) + 2 for text in texts]).clip(max=ids.shape[1])
        order = lengths.argsort(kind="stable")
        sample, position = self._mixing(len(texts), ids.shape[1])

        def work(chunk: NDArray[np.int64]) -> Tensor:
            length = int(lengths[chunk].max())
            image, text = self.engine.to_device(torch.from_numpy(np.stack([owners[chunk], number[chunk]])))
            of, at = self.engine.to_device(torch.from_numpy(np.stack([number[sample[chunk]], position[chunk]])))
            taken = memories[of, :, at].transpose(1, 2)  # (n, bridges, 77, W)
            tokens_of = self.network.encode_image([part[image] for part in images], taken)
            return self._answer(tokens_of, patches[image], tokens[text, :length], ids[text, :length])

        with self.clock.stage("fusion"):
            out = torch.cat(list(self.engine.chunked("pairs", order, work)))
            return out.index_select(0, self.engine.to_device(torch.from_numpy(order.argsort())))

    def _plain(self, canvases: Sequence[Canvas], pairs: Sequence[tuple[int, str]]) -> Tensor:
        """Compute everything for every pair, with all tokens of padding."""

        def work(some: Sequence[tuple[int, str]]) -> Tensor:
            begun, patches = self._begin([canvases[index] for index, _ in some])
            ids = self.engine.to_device(padded_ids(self.tokenizer, [text for _, text in some]))
            text = self.network.encode_text(ids)
            image = self.network.encode_image(begun, text.memories)
            return self._answer(image, patches, text.tokens, ids, only_first=False)

        with self.clock.stage("forward"):
            return torch.cat(list(self.engine.chunked("pairs", pairs, work)))

    def _answer(self, image: Tensor, masked: Tensor, text: Tensor, ids: Tensor, only_first: bool = True) -> Tensor:
        """Fuse (n, 1 + P, d) and (n, L, d) -> boxes (n, 4), and the mask's logits where they are answered."""
        only_first = only_first and not self.options.mask_head
        fused = self.network.fuse(image, masked, text, ids == PAD, only_first)
        boxes = self.network.box(fused[:, 0])
        if not self.options.mask_head:
            return boxes
        return torch.cat([boxes, self.network.mask(fused, ids.argmax(dim=1)).flatten(1).float()], dim=1)

    def prediction(
        self, query: Query, box: Box, rest: NDArray[np.float32], canvas: Canvas, image: ImageArray
    ) -> Prediction:
        """Make the prediction of a box, with its mask where masks are answered."""
        note = self.cut(query.text)
        if not self.options.mask_head:
            return Prediction(query.id, box, note=note)
        side = math.isqrt(len(rest))
        return replace(masked(query, rest.reshape(side, side), canvas, image.shape[:2], note), box=box)

    def _mixing(self, pairs: int, context: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which pair's text, and which of its positions, each position of a pair takes, (N, 77) twice."""
        own = np.arange(pairs)[:, None]
        if self.options.bridge == "correct":
            return np.broadcast_arrays(own, np.arange(context))  # type: ignore[return-value]
        start = own // self.options.batch * self.options.batch  # of the pair's group
        size = np.minimum(self.options.batch, pairs - start)
        row = (own - start) * context + np.arange(context)
        return start + row % size, row // size

    def _begin(self, canvases: Sequence[Canvas]) -> tuple[tuple[Tensor, ...], Tensor]:
        raw, edges = self.stacked(canvases)
        inside = covered(edges, self.size)
        pixels = normalised(raw, inside, "official")
        return self.network.clip.vision_model.begin(pixels), masked_patches(~inside, self.network.side)

    def _encode_texts(self, texts: Sequence[str]) -> list[Rows]:
        ids = self.engine.to_device(padded_ids(self.tokenizer, texts))
        memories, tokens, _ = self.network.encode_text(ids)
        return list(zip(memories, tokens, ids, strict=True))


def open_tokenizer(context: int) -> Any:
    """Open CLIP's tokenizer, for texts of so many tokens."""
    return open_clip.get_tokenizer("ViT-B-16", context_length=context)


def padded_ids(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Encode texts to token ids (N, 77), padding included: all places count in the bridges."""
    ids = token_ids(tokenizer, texts)
    return F.pad(ids, (0, tokenizer.context_length - ids.shape[1]), value=PAD)


def masked_patches(padding: Tensor, side: int) -> Tensor:
    """Mark the patches to ignore, (B, S, S) True outside the image -> (B, side * side).

    The official code resizes the mask with antialiasing, as its torchvision does, and rounds.
    """
    shares = F.interpolate(padding[:, None].float(), size=(side, side), mode="bilinear", antialias=True)
    return shares.flatten(1).round().bool()


@takes(HiVGOptions)
def hivg(context: PipelineContext) -> HiVGPipeline:
    """Open HiVG. Raises SettingsError, WeightsError."""
    return HiVGPipeline(parse_table(HiVGOptions, context.options, f"bench.toml [pipelines.{context.name}]"), context)
