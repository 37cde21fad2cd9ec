"""MDETR as a pipeline: referring expressions, and the phrases of captions where a data set has captions.

An image goes through the backbone once for all its expressions, and images of equal size share that pass: no image is
padded. A text goes through RoBERTa once in the pipeline's life, and through the transformer once an image; the phrases
of one caption share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from bench.boxes import box_cxcywh_to_xyxy
from bench.grounding import ImageArray, LoadedScene, PipelineContext, Prediction, Query
from bench.hashing import sha256_file
from bench.settings import Table, parse_table, takes
from pipelines.card import CardOptions, make_card
from pipelines.engine import PairEngine, Rows, prepare, prepared_images
from pipelines.folding import fold_norms
from pipelines.mdetr.checkpoint import LoadedMdetr, open_network
from pipelines.mdetr.inputs import normalised, resized
from pipelines.mdetr.model import HEADS, query_scores, token_slots
from pipelines.sets import scored_set

RESIZE_THREADS = 4


class MdetrOptions(Table):
    """[pipelines.mdetr]."""

    weights: str = Field("pretrained_resnet101_checkpoint.pth", description="a file; here or in BENCH_HOME/weights")
    tokenizer: str = Field("roberta-base", description="a folder or a hub id; a weights file that has its own wins")
    short: int | None = Field(None, ge=1, description="short side in pixels; none = what the weights file says, or 800")
    long: int | None = Field(None, ge=1, description="the most the long side may be; none = the file's, or 1333")
    images: int = Field(0, ge=0, description="of one size in a backbone pass; 0 = 8 on a GPU, 1 on a CPU")
    texts: int = Field(0, ge=0, description="in a pass of the transformer; 0 = 64 on a GPU, 8 on a CPU")
    card: CardOptions = CardOptions()


class MdetrPipeline:
    """Ground expressions with one network."""

    def __init__(self, options: MdetrOptions, context: PipelineContext, loaded: LoadedMdetr | None = None) -> None:
        """`loaded` is a network in training, taken as it is."""
        self.options, self.clock, self.dataset = options, context.clock, context.dataset
        self.several = context.several
        training = loaded is not None
        loaded = loaded or open_network(options.weights, options.tokenizer, context)
        self.model, self.tokenizer = loaded.network, loaded.tokenizer
        self.short, self.long = options.short or loaded.sizes[0], options.long or loaded.sizes[1]
        accelerated, parameters = frozenset[str](), sum(p.numel() for p in self.model.parameters())
        if not training:
            fold_norms(self.model.backbone)  # in float32: in 16 bits each frozen norm would round once more
            called = [self.model.backbone[0], self.model.transformer.text_encoder, self.model.transformer]
            accelerated = prepare(self.model, context, HEADS, called)
        gpu = torch.device(context.device).type == "cuda"
        self.engine: PairEngine[ImageArray] = PairEngine(
            context,
            self._encode_images,
            self._encode_texts,
            self._fuse,
            images=options.images or (8 if gpu else 1),
            texts=options.texts or (64 if gpu else 8),
            kind=lambda image: image.shape,
        )
        self.pool = ThreadPoolExecutor(RESIZE_THREADS, thread_name_prefix="resize")
        self.card = make_card(
            context,
            options.card,
            summary=f"MDETR, backbone {self.model.config.backbone}{f' ({loaded.note})' if loaded.note else ''}",
            paper="Kamath et al., MDETR, ICCV 2021",
            weights={"mdetr": options.weights},
            sha256={} if training else {"mdetr": sha256_file(loaded.path)},
            parameters=parameters,
            accelerated=accelerated,
        )

    def prepare(self, image: ImageArray) -> ImageArray:
        """Resize an image -> (h, w, 3) uint8."""
        return resized(image, self.short, self.long).permute(1, 2, 0).numpy()

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Ground every query of every scene -> predictions in order."""
        return self.launch(batch)()

    @torch.inference_mode()
    def launch(self, batch: Sequence[LoadedScene]) -> Callable[[], list[Prediction]]:
        """Start a batch without waiting for the device -> the function that waits and returns its predictions."""
        owned = [(index, query) for index, scene in enumerate(batch) for query in scene.queries]
        if not owned:
            return list
        # 1. Resized images, in threads where nobody made them before.
        with self.clock.stage("resize"):
            images = prepared_images(batch, self.prepare, self.pool)
        # 2. Every query's logits and box of every pair, and the best query's, on their way to the host.
        output = self.engine.ground(images, [(index, text_of(query)) for index, query in owned])  # (M, N, S + 5)
        with self.clock.stage("rank"):
            captions = [query.caption for _, query in owned]
            masks = [c and self.tokenizer.spans(c.text, [(c.start, c.end)]) for c in captions]  # of phrases alone
            slots = token_slots(masks, output.shape[-1] - 4)
            slots = None if slots is None else self.engine.to_device(slots)
            every = query_scores(output[..., :-4], slots)  # (M, N)
            if self.several:
                return self._sets(batch, owned, output[..., -4:], every)
            scores, best = every.max(dim=-1, keepdim=True)
            boxes = output[..., -4:].take_along_dim(best[..., None], dim=1)[:, 0]
            # float64 holds the indices too.
            rows = self.engine.to_host(torch.cat([boxes.double(), scores.double(), best.double()], dim=1))

        def predictions() -> list[Prediction]:
            # 3. In pixels of the images; here alone a GPU is waited for.
            table = rows()
            sizes = np.array([batch[index].image.shape[1::-1] * 2 for index, _ in owned])
            corners = (box_cxcywh_to_xyxy(table[:, :4]) * sizes).tolist()
            return [
                Prediction(query.id, tuple(box), score, note=self._note(query), query_index=int(number))
                for (_, query), box, (score, number) in zip(owned, corners, table[:, 4:].tolist(), strict=True)
            ]

        return predictions

    def _sets(
        self, batch: Sequence[LoadedScene], owned: Sequence[tuple[int, Query]], boxes: Tensor, scores: Tensor
    ) -> Callable[[], list[Prediction]]:
        """Take every query's box (M, N, 4) cxcywh in 0..1 and score (M, N) -> what waits and returns predictions."""
        rows = self.engine.to_host(torch.cat([boxes.double().flatten(1), scores.double()], dim=1))

        def predictions() -> list[Prediction]:
            table, count = rows(), scores.shape[1]
            made = []
            for (index, query), row in zip(owned, table, strict=True):
                corners = box_cxcywh_to_xyxy(row[: 4 * count].reshape(count, 4))
                size = np.array(batch[index].image.shape[1::-1] * 2)
                made.append(scored_set(query.id, corners * size, row[4 * count :], self._note(query)))
            return made

        return predictions

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """List what empties the text cache."""
        return {"texts": self.engine.forget_texts}

    def _encode_images(self, images: Sequence[ImageArray]) -> list[Rows]:
        """Encode images of one size, (h, w, 3) uint8."""
        # Copied as they lie in memory; on the device their channels come first.
        pixels = normalised(self.engine.stack(images).permute(0, 3, 1, 2).contiguous())
        tokens, position, _ = self.model.encode_image(pixels.to(self.model.input_proj.weight.dtype))
        return list(zip(tokens, position, strict=True))

    def _encode_texts(self, texts: Sequence[str]) -> list[Rows]:
        ids, padding = self.tokenizer(texts)
        tokens = self.model.encode_text(self.engine.to_device(ids), self.engine.to_device(padding))
        nowhere = tokens.new_zeros(1, 1)  # the position of every text token
        rows = zip(tokens, (~padding).sum(dim=1).tolist(), strict=True)  # counted on the host
        return [(row[:length], nowhere.expand(length, row.shape[1])) for row, length in rows]

    def _fuse(self, rows: Rows, padding: Tensor | None) -> Tensor:
        """Fuse -> (B, N, S + 5): each query's logits over token slots and no object, its cxcywh box in 0..1."""
        tokens, position = rows
        hidden, _ = self.model.fuse_tokens(tokens, position, padding)
        return torch.cat(self.model.predict(hidden[-1]), dim=-1)

    def _note(self, query: Query) -> str:
        alone = self.dataset == "flickr30k" and query.caption is None
        lonely = "grounded without its caption, which the index lacks" if alone else ""
        return "; ".join(note for note in (self.tokenizer.cut(text_of(query)), lonely) if note)


@takes(MdetrOptions)
def mdetr(context: PipelineContext) -> MdetrPipeline:
    """mdetr. Raises SettingsError, WeightsError."""
    options = parse_table(MdetrOptions, context.options, f"bench.toml [pipelines.{context.name}]")
    return MdetrPipeline(options, context)


def text_of(query: Query) -> str:
    """Choose the text to encode: the whole caption of a phrase, else the expression."""
    return query.caption.text if query.caption else query.text
