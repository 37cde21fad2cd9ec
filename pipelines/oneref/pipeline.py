"""OneRef as a pipeline. Image and text share one attention from the first layer on, so each pair has its own pass.

Shared are the embedded patches, once an image. Padding of texts is left out: a pair is computed with pairs of like
length, up to the longest. A file of REC predicts boxes. A file of RES predicts masks, and its box is the one around the
mask: the box head of such a file was not trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bench.errors import WeightsError
from bench.grounding import ImageArray, LoadedScene, PipelineContext, Prediction, Query
from bench.hashing import sha256_file
from bench.settings import Table, parse_table, takes
from pipelines import weights
from pipelines.canvas import Canvas, covered, letterboxed, normalised, to_images
from pipelines.card import CardOptions, make_card
from pipelines.engine import Engine, prepare, prepared_images
from pipelines.oneref.checkpoint import HOW, load_network
from pipelines.oneref.network import HEADS, Answers
from pipelines.oneref.tokenizer import HOW as SPM
from pipelines.oneref.tokenizer import SpmTokenizer


class OneRefOptions(Table):
    """[pipelines.oneref]."""

    weights: str = Field("oneref.pth", description="an official file, here or in BENCH_HOME/weights")
    tokenizer: str = Field("beit3.spm", description="BEiT-3's sentencepiece file, here or in BENCH_HOME/weights")
    preprocessing: Literal["auto", "official"] = Field("auto", description="both are the official one")
    images: int = Field(0, ge=0, description="in a pass of the patches; 0 = 64 on a GPU, 4 on a CPU")
    pairs: int = Field(0, ge=0, description="in a pass of the encoder; 0 = 64 on a GPU, 4 on a CPU")
    letterbox_threads: int = Field(4, ge=1)
    card: CardOptions = CardOptions()


class OneRefPipeline:
    """Ground expressions with one network."""

    def __init__(self, options: OneRefOptions, context: PipelineContext) -> None:
        self.clock = context.clock
        self.pool = ThreadPoolExecutor(options.letterbox_threads, thread_name_prefix="letterbox")
        path, pieces = weights.find(options.weights, context, HOW), weights.find(options.tokenizer, context, SPM)
        self.network = network = load_network(path)
        self.tokenizer = SpmTokenizer(pieces, network.config.text)
        if len(self.tokenizer) > network.config.words:
            raise WeightsError(
                f"{pieces}: {len(self.tokenizer):,} token ids, and {path} has words for {network.config.words:,}"
            )
        self.size = network.config.image_size
        accelerated = prepare(network, context, HEADS, [*network.beit3.encoder.layers])
        gpu = torch.device(context.device).type == "cuda"
        self.engine = Engine(
            context, lambda _: [], options.images or (64 if gpu else 4), options.pairs or (64 if gpu else 4)
        )
        kind = "masks, and boxes around them" if network.config.masks else "boxes"
        self.card = make_card(
            context,
            options.card,
            summary=f"OneRef, {network.config.layers} layers at {self.size} px: {kind}",
            paper="Xiao et al., OneRef, NeurIPS 2024",
            weights={"oneref": options.weights, "tokenizer": options.tokenizer},
            sha256={"oneref": sha256_file(path), "tokenizer": sha256_file(pieces)},
            parameters=sum(p.numel() for p in network.parameters()),
            accelerated=accelerated,
        )

    def prepare(self, image: ImageArray) -> Canvas:
        """Letterbox an image."""
        return letterboxed(image, self.size, "official")

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Ground every query of every scene -> predictions in order."""
        return self.launch(batch)()

    @torch.inference_mode()
    def launch(self, batch: Sequence[LoadedScene]) -> Callable[[], list[Prediction]]:
        """Start a batch without waiting for the device -> the function that waits and returns its predictions."""
        owned = [(index, query) for index, scene in enumerate(batch) for query in scene.queries]
        # 1. Texts without any token have no box: <s> alone refers to nothing.
        pairs = [(index, query) for index, query in owned if self.tokenizer.encode(query.text)]
        empty = {query.id: Prediction(query.id, None, note="the text has no token") for _, query in owned}
        if not pairs:
            return lambda: [empty[query.id] for _, query in owned]
        # 2. Canvases, in threads where nobody made them before.
        with self.clock.stage("letterbox"):
            canvases = prepared_images(batch, self.prepare, self.pool)
        # 3. Boxes and masks on the canvas, on their way to the host.
        owners = np.array([index for index, _ in pairs])
        answers = self._answers(canvases, owners, [query.text for _, query in pairs])
        boxes = self.engine.to_host(answers.boxes)
        masks = None if answers.masks is None else self.engine.to_host(answers.masks)

        def predictions() -> list[Prediction]:
            # 4. Back into each image; here alone a GPU is waited for.
            corners = to_images(boxes().astype(np.float64), canvases, owners)
            cosines = None if masks is None else masks()
            for n, ((index, query), box) in enumerate(zip(pairs, corners.tolist(), strict=True)):
                note = self.tokenizer.cut(query.text)
                empty[query.id] = (
                    Prediction(query.id, tuple(box), note=note)
                    if cosines is None
                    else masked(query, cosines[n], canvases[index], batch[index].image.shape[:2], note)
                )
            return [empty[query.id] for _, query in owned]

        return predictions

    def _answers(self, canvases: Sequence[Canvas], owners: NDArray[np.int64], texts: Sequence[str]) -> Answers:
        """Ground pairs of the image that `owners` (N,) names and a text, in their order."""
        with self.clock.stage("image encode"):
            images = torch.cat(list(self.engine.chunked("images", canvases, self._embed)))
        ids, padding = self.tokenizer(texts)
        lengths = (~padding).sum(dim=1).numpy()
        order = lengths.argsort(kind="stable")

        def work(chunk: NDArray[np.int64]) -> Answers:
            length = int(lengths[chunk].max())
            own, place = torch.from_numpy(chunk), self.engine.to_device(torch.from_numpy(owners[chunk]))
            words, pads = (self.engine.to_device(table[own, :length]) for table in (ids, padding))
            image, text = self.network.encode(images.index_select(0, place), words, pads)
            return self.network.answer(image, text[:, 0])

        with self.clock.stage("fusion"):
            parts = list(self.engine.chunked("pairs", order, work))
            back = self.engine.to_device(torch.from_numpy(order.argsort()))
            boxes = torch.cat([part.boxes for part in parts]).index_select(0, back)
            masks = [part.masks for part in parts if part.masks is not None]
            return Answers(boxes, torch.cat(masks).float().index_select(0, back) if masks else None)

    def _embed(self, canvases: Sequence[Canvas]) -> Tensor:
        raw = self.engine.stack([canvas.pixels for canvas in canvases])
        edges = self.engine.stack([np.array((c.left, c.top, c.right, c.bottom)) for c in canvases])
        return self.network.embed_image(normalised(raw, covered(edges, self.size), "official"))


def masked(query: Query, cosines: NDArray[Any], canvas: Canvas, size: tuple[int, int], note: str) -> Prediction:
    """Make the prediction of a mask: where the cosines (M, M) are above 0, in the image of `size` (height, width)."""
    from pycocotools import mask as coco

    # 1. To the canvas, the image's part of it, and to the image's own size.
    grid = torch.from_numpy(cosines)[None, None]
    grid = F.interpolate(grid, size=(len(canvas.pixels),) * 2, mode="bilinear", align_corners=False)
    grid = grid[..., canvas.top : canvas.bottom, canvas.left : canvas.right]
    inside = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)[0, 0].numpy() > 0
    # 2. Its run-length encoding, and the box around it.
    if not inside.any():
        return Prediction(query.id, None, note="; ".join(filter(None, (note, "the mask is empty"))))
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    encoded = coco.encode(np.asfortranarray(inside, np.uint8))
    return Prediction(query.id, box, note=note, mask={"size": list(size), "counts": encoded["counts"].decode()})


@takes(OneRefOptions)
def oneref(context: PipelineContext) -> OneRefPipeline:
    """Open OneRef. Raises SettingsError, WeightsError."""
    return OneRefPipeline(
        parse_table(OneRefOptions, context.options, f"bench.toml [pipelines.{context.name}]"), context
    )
