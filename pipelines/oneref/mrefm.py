"""MRefM, the pre-training of OneRef (Xiao et al., NeurIPS 2024, section 3.2): masked modelling of what is referred to.

    even steps   patches are hidden, most of those around the target; their visual tokens are predicted
    odd steps    tokens are replaced, first the words for target and object; they are predicted

Both also train the similarity of text and patches against the box. Means are over all that is hidden in a pass, as on
each GPU of the official code, so `batch` is a part of the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench.errors import SettingsError
from bench.settings import takes
from bench.training.config import TrainConfig
from bench.training.task import TaskFactory, TrainingJob
from pipelines.oneref import masking, vqkd
from pipelines.oneref.checkpoint import load_network
from pipelines.oneref.recipe import OneRefTraining
from pipelines.oneref.task import NO_BOX, OneRefTask
from pipelines.oneref.tokenizer import PAD
from pipelines.rows import RowBatch, Rows, collate


class MRefMTraining(OneRefTraining):
    """[train.oneref] with head = "mrefm": the second phase of the official scripts; the first is freeze = true,
    epochs = 10, learning_rate = 2.5e-4, batch = 64, reference_batch = 512."""

    FREE: ClassVar[frozenset[str]] = TrainConfig.FREE - {"batch"}

    epochs: int = Field(100, ge=1)
    batch: int = Field(32, ge=1)
    reference_batch: int = Field(256, ge=1)
    learning_rate: float = Field(5e-5, gt=0)
    log_every: int = Field(25, ge=1)  # odd: images and texts in turn


class Modelled(NamedTuple):
    """What a pass computes: logits (N, V) of what is hidden, its labels (N,) and rows (N,); and unit vectors.

    `patches` (B, P, D) are the image's, `first` (B, D) the text's; `text` (B, L, D) are its tokens, `image` (B, D) the
    class token.
    """

    logits: Tensor
    labels: Tensor
    rows: Tensor
    patches: Tensor
    first: Tensor
    text: Tensor
    image: Tensor


class MRefMTask(OneRefTask):
    """A OneRef in pre-training."""

    Config = MRefMTraining
    config: MRefMTraining
    alternates = True
    metric = "masked_accuracy"

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        options, where = self.config.mrefm, f"bench.toml [train.{job.context.name}.mrefm]"
        self.loss_weights |= {"image_tokens": 1.0, "text_tokens": 1.0}
        relations = {"image_relation": options.image_relation, "text_relation": options.text_relation}
        self.loss_weights |= {name: weight for name, weight in relations.items() if weight}
        if self.visual.patch != self.model.config.patch:
            raise SettingsError(
                f"{where}: codes: its patches have {self.visual.patch} pixels, the network's {self.model.config.patch}"
            )
        self.words = masking.words_of(options.words)
        self.scores: Mapping[str, Tensor] = {}
        if options.text_relation:
            if not options.scores:
                raise SettingsError(f"{where}: text_relation: it needs the semantic scores: set scores=FILE")
            self.scores = masking.read_scores(Path(options.scores), self.model.config.text - 2)

    def codes(self) -> int:
        """Open the visual tokenizer; return how many tokens it has."""
        self.visual = vqkd.open_tokenizer(self.config.mrefm.codes, self.job.context)
        return len(self.visual.quantize.embedding.weight)

    def dataset(self, augment: bool = True) -> Rows:
        """Return one sample an expression; the smallest of the official sizes is left out, as by the authors."""
        size, moves = self.model.config.image_size, self.config.augment if augment else None
        if moves is not None:
            sides = moves.long_sides(size)
            moves = moves if moves.scales else moves.model_copy(update={"scales": sides[:-1]})
        return (
            masking.ScoredRows(self.job, size, moves, self.scores)
            if self.scores
            else Rows(self.job, size, "official", moves)
        )

    def collate(self, samples: Any) -> RowBatch:
        """Join rows into a batch, with their semantic scores where they are trained."""
        return masking.collate_scored(samples) if self.scores else collate(samples)

    def losses(self, batch: RowBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the terms of each row, (B,): those of the images on even steps, those of the texts on odd ones."""
        images, options = self.step % 2 == 0, self.config.mrefm
        made = self.modelled(batch, rng, images)
        count = len(made.first)
        terms = self.constraint((made.patches @ made.first[..., None])[..., 0], batch.targets)
        if not self.config.constraint:
            terms = {}
        # 1. Hidden patches: cross-entropy over all of the pass.
        if images:
            each = F.cross_entropy(made.logits.float(), made.labels, reduction="none")
            terms["image_tokens"] = shared_out(each, made.rows, count)
            if options.image_relation:
                terms["image_relation"] = self._image_relation(made, batch.targets)
            return terms
        # 2. Replaced tokens: late in training without the worst.
        each = masking.smoothed(made.logits.float(), made.labels, options.smoothing)
        rows = made.rows
        if options.drop_worst and self.step > options.drop_after:
            kept = each.topk(max(1, int(len(each) * (1 - options.drop_worst))), largest=False).indices
            each, rows = each[kept], rows[kept]
        terms["text_tokens"] = shared_out(each, rows, count)
        if options.text_relation:
            terms["text_relation"] = self._text_relation(made, batch)
        return terms

    def modelled(self, batch: RowBatch, rng: torch.Generator, images: bool) -> Modelled:
        """Hide patches or tokens of a batch, and predict them."""
        network, options = self.model, self.config.mrefm
        pixels, ids, padding = self.inputs(batch)
        owners = torch.arange(len(ids), device=ids.device) if batch.owners is None else batch.owners
        if options.text_relation:  # scores are over all positions, pads included
            room = network.config.text - ids.shape[1]
            ids, padding = F.pad(ids, (0, room), value=PAD), F.pad(padding, (0, room), value=True)
        # 1. What is hidden. A text stays whole where patches are hidden, and an image where tokens are replaced.
        given, embedded = ids, network.embed_image(pixels)[owners] if not images else None
        if images:
            hidden = masking.hidden_patches(batch.targets, network.side, options, rng)
            embedded = network.embed_image(pixels[owners], hidden)
            labels = self.visual(batch.images)[owners][hidden]
        else:
            first = masking.first_places(batch.texts, self.loaded.tokenizer, self.words).to(ids.device)
            given, hidden = masking.replaced(ids, padding, first, len(self.loaded.tokenizer), options.text_share, rng)
            labels = ids[hidden]
        # 2. The encoder, and what is compared.
        image, text = network.encode(embedded, given, padding)
        vectors, words = (
            F.normalize(network.vision_head(image), dim=-1),
            F.normalize(network.language_head(text), dim=-1),
        )
        patches, start = vectors[:, 1:], words[:, 0]
        # 3. Predictions: of patches from what they share with the text, of tokens from themselves.
        if images:
            logits = network.mim_head(F.normalize(patches * start[:, None], dim=-1)[hidden])
        else:
            logits = network.mlm_head(text[hidden])
        return Modelled(logits, labels, hidden.nonzero()[:, 0], patches, start, words, vectors[:, 0])

    def _image_relation(self, made: Modelled, targets: Tensor) -> Tensor:
        """The loss (B,) of where each patch lies in the target's frame, and of the target's size."""
        wanted = masking.relations(targets, self.model.side)
        given = self.model.mim_vts_head(made.patches * made.first[:, None])
        away: Tensor = (given.float() - wanted).abs().sum(dim=-1).mean(dim=1)
        return away

    def _text_relation(self, made: Modelled, batch: Any) -> Tensor:
        """The divergence (B,) of the semantic scores; the official code takes the softmax of the prediction twice."""
        given = self.model.mlm_sts_head(made.text[:, 1:-1] * made.image[:, None])[..., 0].float().softmax(dim=-1)
        wanted = batch.scores.softmax(dim=-1)
        return F.kl_div(given.log_softmax(dim=-1), wanted, reduction="none").sum(dim=-1)

    def untrained(self) -> tuple[str, ...]:
        """Return what begins the names of parameters that get no gradient."""
        options = self.config.mrefm
        heads = {"mim_vts_head.": options.image_relation, "mlm_sts_head.": options.text_relation}
        unused = [name for name, weight in heads.items() if not weight]
        return (*NO_BOX, *unused)

    @torch.inference_mode()
    def evaluate(self, path: Path | None = None, **share: Any) -> dict[str, float]:
        """Return the shares of hidden patches and tokens of the validation split that are predicted, and their mean.

        `pointing` is the share of expressions whose most similar patch lies in the box.
        """
        own = self.model
        if path is not None:
            self.model = load_network(path).to(self.job.context.device)
        job = replace(self.job, scenes=self.job.validation, images=self.job.validation_images)
        rows, device = Rows(job, self.model.config.image_size, "official", None), torch.device(job.context.device)
        rng = torch.Generator(device).manual_seed(0)  # every time the same are hidden
        right, all_, pointing = [0, 0], [0, 0], 0
        try:
            self.model.eval()
            for start in range(0, len(rows), self.config.batch):
                drawn = [rows.sample(0, row) for row in range(start, min(start + self.config.batch, len(rows)))]
                batch = collate(drawn).to(device)
                for kind in (0, 1):
                    made = self.modelled(batch, rng, images=kind == 0)
                    right[kind] += int((made.logits.argmax(dim=-1) == made.labels).sum())
                    all_[kind] += len(made.labels)
                best = (made.patches @ made.first[..., None])[..., 0].argmax(dim=1)
                inside = self.inside(batch.targets)
                pointing += int(inside.gather(1, best[:, None]).sum())
        finally:
            self.model = own
        image, text = (r / n for r, n in zip(right, all_, strict=True))
        scores = {"image_tokens": image, "text_tokens": text, "pointing": pointing / len(rows)}
        return {self.metric: (image + text) / 2, **scores}


def shared_out(each: Tensor, rows: Tensor, count: int) -> Tensor:
    """Sum losses (N,) by their rows (N,), -> (B,) whose mean is the mean of all of them."""
    return each.new_zeros(count).index_add(0, rows, each) * (count / len(each))


@takes(OneRefTraining)
def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return oneref's one part: its pre-training where the head is MRefM's, else its fine-tuning."""
    return {"network": partial(MRefMTask if job.recipe.get("head") == "mrefm" else OneRefTask, job)}
