"""Pre-training of the lower layers of the small OneRef: an image without a text, a text without an image.

Published OneRefs start from BEiT-3, which knows images alone, texts alone and both together. Here the lower layers
learn the vectors of the CLIP under the small CLIP-VG: of each patch, of <s> for the text, along the axes on which that
CLIP's vectors are longest; and each object's box from its patches, by a linear layer that is thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip import get_tokenizer
from pydantic import Field
from torch import Tensor, nn

from bench.training.task import TaskFactory, TrainingJob
from pipelines.canvas import covered, normalised
from pipelines.oneref import checkpoint
from pipelines.oneref.checkpoint import Loaded, open_tokenizer
from pipelines.oneref.network import UNUSED, OneRef, OneRefConfig
from pipelines.oneref.recipe import drawn
from pipelines.oneref.tokenizer import PAD, small_pieces
from pipelines.two_stage.clip.encoder import token_ids
from tools.tiny_weights.clip_pretraining import COVERED, Pretrained, Pretraining, PretrainingTask, SceneDataset, Scenes
from tools.tiny_weights.clipvg import coverage

BEIT3 = 768  # the width for which the deviation of new layers is meant
CALIBRATION = 64  # scenes that set axes and scales


class TinyOneRefPretraining(Pretraining):
    """[oneref-pretraining] of shapes.toml."""

    network: OneRefConfig = OneRefConfig()
    lower: int = Field(4, ge=1, description="layers that are trained")
    vocabulary: int = Field(400, ge=8, description="pieces of the tokenizer")
    teacher: str = Field("", description="weights of the CLIP")


class TinyOneRefPretrainingTask(PretrainingTask):
    """The lower layers of a OneRef in pre-training: an image without a text, a text without an image."""

    Config = TinyOneRefPretraining
    config: TinyOneRefPretraining

    def build(self, texts: list[str]) -> Pretrained:
        """Return the network for these texts, and set tokenizers, sizes and teacher."""
        self.teacher, self.theirs = super().open(Path(self.config.teacher)).eval(), get_tokenizer(self.config.model)
        self.pieces = small_pieces(texts, self.config.vocabulary)
        sizes = self.config.network.model_copy(update={"words": len(self.pieces) + 5})
        self.tokenizer = open_tokenizer("", self.pieces, sizes, self.job.context)
        self.size, self.patch = sizes.image_size, sizes.patch
        self.known: dict[int, Tensor] = {}
        self.basis = self._basis(sizes.width)
        self.loss_weights = {"patch": 10.0, "text": 10.0, "box": self.config.box}
        torch.manual_seed(self.job.context.seed)
        network = drawn(OneRef(sizes))
        with torch.no_grad():
            for module in network.beit3.encoder.layers.modules():
                if isinstance(module, nn.Linear):
                    module.weight *= (BEIT3 / sizes.width) ** 0.5
        reserve(network, self.config.lower)
        return Pretrained(network, sizes.width)

    @torch.no_grad()
    def _basis(self, width: int) -> Tensor:
        """Return the axes (E, D) along which the CLIP's vectors of patches and of texts are longest."""
        data = SceneDataset(self.job, self.size)
        some = [data.sample(0, row) for row in range(0, len(data), -(-len(data) // CALIBRATION))]
        patches = self._patches(torch.stack([s.pixels for s in some]), torch.stack([s.edges for s in some]))
        both = [patches.flatten(0, 1), self._texts([text for scene in some for text in scene.texts])]
        axes: Tensor = torch.linalg.svd(torch.cat([x / x.norm() for x in both]), full_matrices=False).Vh[:width].T
        return axes

    def _patches(self, pixels: Tensor, edges: Tensor) -> Tensor:
        """The CLIP's unit vectors of patches (B, P, E)."""
        return F.normalize(super().encode_patches(self.teacher, pixels, edges)[1], dim=-1)

    def _texts(self, texts: list[str]) -> Tensor:
        """The CLIP's unit vectors of texts (N, E)."""
        vectors: Tensor = super().encode_texts(self.teacher, token_ids(self.theirs, texts))
        return vectors

    @torch.no_grad()
    def _wanted(self, batch: Scenes, texts: list[str]) -> list[Tensor]:
        """The CLIP's vectors of a batch along the axes, those of images computed once."""
        new = [n for n, scene in enumerate(batch.scenes) if id(scene) not in self.known]
        if new:
            for n, vectors in zip(new, self._patches(batch.pixels[new], batch.edges[new]) @ self.basis, strict=True):
                self.known[id(batch.scenes[n])] = vectors.half()
        images = torch.stack([self.known[id(scene)] for scene in batch.scenes]).float()
        return [F.normalize(images, dim=-1), F.normalize(self._texts(texts) @ self.basis, dim=-1)]

    def losses(self, batch: Scenes, rng: torch.Generator) -> dict[str, Tensor]:
        """Return how far vectors are from the CLIP's, and the loss of boxes read off patches; scalars."""
        clip, texts = self.model.clip, [text for scene in batch.scenes for text in scene.texts]
        texts = [texts[n] for n in torch.randperm(len(texts), generator=rng)[: 2 * len(batch.scenes)].tolist()]
        stream, patches = self.encode_patches(clip, batch.pixels, batch.edges)
        own = [patches, self.encode_texts(clip, self.tokens(texts))]
        away = [(1 - (x * y).sum(dim=-1)).mean() for x, y in zip(own, self._wanted(batch, texts), strict=True)]
        share = [coverage(scene.boxes, self.side).max(dim=0) for scene in batch.scenes]
        on = torch.stack([most > COVERED for most, _ in share])
        boxes = torch.stack([scene.boxes[owner] for scene, (_, owner) in zip(batch.scenes, share, strict=True)])
        read = self.model.boxes(stream[on]).sigmoid()
        return {"patch": away[0], "text": away[1], "box": (read - boxes[on]).abs().sum(dim=1).mean()}

    def encode_patches(self, clip: OneRef, pixels: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lower layers' output for every patch (B, P, D), normed, and unit vectors of it (B, P, D)."""
        image = clip.embed_image(normalised(pixels, covered(edges, self.size), "official"))
        stream = clip.beit3.encoder.layer_norm.A(alone(clip, image, None, self.config.lower))[:, 1:]
        return stream, F.normalize(clip.vision_head(stream), dim=-1)

    def encode_texts(self, clip: OneRef, ids: Tensor) -> Tensor:
        """Return unit vectors (N, D) of token ids (N, L)."""
        text = alone(clip, None, ids, self.config.lower)[:, 0]
        return clip.words(clip.beit3.encoder.layer_norm.B(text))

    def tokens(self, texts: list[str]) -> Tensor:
        """Return token ids (N, L), padded."""
        ids: Tensor = self.tokenizer(texts)[0]
        return ids

    def open(self, path: Path) -> Any:
        """Return the network of a file."""
        return checkpoint.load_network(path).to(self.device)

    @torch.no_grad()
    def save(self, path: Path) -> None:
        """Write the network in float16, its upper layers and heads untrained."""
        loaded = Loaded(self.model.clip, self.tokenizer, self.pieces)
        checkpoint.save(path, loaded, self.config.model_dump(mode="json"))


def alone(network: OneRef, image: Tensor | None, ids: Tensor | None, lower: int) -> Tensor:
    """Run the lower layers on embedded images (B, 1 + P, D) or on token ids (B, L) -> (B, tokens, D)."""
    encoder, width = network.beit3.encoder, network.config.width
    if image is None:
        assert ids is not None
        text = network.beit3.text_embed(ids) + encoder.embed_positions.B.weight[UNUSED : UNUSED + ids.shape[1]]
        image, keep = text.new_zeros(len(ids), 0, width), (ids != PAD)[:, None, None]
    else:
        text, keep = image.new_zeros(len(image), 0, width), None
    for layer in encoder.layers[:lower]:
        image, text = layer(image, text, keep)
    return text if ids is not None else image


def reserve(network: OneRef, lower: int) -> None:
    """Keep the first number of every head of the lower layers free, by zeroing its weights and their gradients."""
    free = torch.arange(network.config.width) % (network.config.width // network.config.heads) == 0
    for layer in network.beit3.encoder.layers[:lower]:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            for expert in (projection.A, projection.B):
                for parameter in (expert.weight, expert.bias):
                    kept = (~free).view(-1, *[1] * (parameter.ndim - 1)).float()
                    parameter.data.mul_(kept)
                    parameter.register_hook(lambda grad, kept=kept: grad * kept)


def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return the one part, for `train_pipeline(..., tasks=tasks)`."""
    return {"network": partial(TinyOneRefPretrainingTask, job)}
