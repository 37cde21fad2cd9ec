"""Region-based attention pooling: one forward pass of CLIP over the whole image gives a vector for every region
("Adapting CLIP for Phrase Localization Without Further Training", Li et al. 2022).

ViT      a copy of the class token for each region goes through the blocks beside the ordinary tokens. It attends to the
         region's patches and to itself; nobody attends to it, so the ordinary tokens do not change. A copy
         that may attend to every patch is the class token: the whole mechanism is an attention mask.
ResNet   the attention pool's query is the mean over the region's cells, and it attends to these cells and to itself.

Patches are finer than CLIP's own: the patches of a ViT overlap (stride patch / `fine`), a ResNet gets the image
`fine` times as large, and the grid of position embeddings is enlarged bilinearly. With `fine` 1 nothing changes.
Regions are superpixels (clip-pooling) or the boxes of proposals (the ranker's view "roi").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench.errors import SettingsError
from bench.grounding import Boxes, ImageArray, PipelineContext
from bench.settings import Table
from pipelines.engine import to_device
from pipelines.two_stage.clip.encoder import Preprocessing, open_clip
from pipelines.two_stage.clip.views import Resize, coverage_of, frames_of, inside, make_views, widened


class PoolingOptions(Table):
    """[pipelines.*.pooling]."""

    fine: int = Field(2, ge=1, description="patches along each side, times CLIP's own")
    from_block: int = Field(0, ge=0, description="ViT: the first block whose attention is masked")


class RegionPooling:
    """Unit vectors of regions of images, by one CLIP, also one in training."""

    def __init__(self, model: Any, name: str, options: PoolingOptions) -> None:
        """Check the CLIP. Raises SettingsError where its image vector is no class token's and no attention pool's."""
        self.options, self.preprocessing = options, Preprocessing(model)
        self.visual: Any = model.visual
        if self._vit:
            if self.visual.attn_pool is not None or self.visual.pool_type != "tok":
                raise SettingsError(f"{name}: attention pooling needs an image vector that is a class token's")
            blocks = len(self.visual.transformer.resblocks)
            if options.from_block >= blocks:
                raise SettingsError(f"pooling.from_block = {options.from_block}: {name} has {blocks} blocks, from 0")
            if self.visual.patch_size[0] % options.fine:
                raise SettingsError(
                    f"pooling.fine = {options.fine} does not divide the {self.visual.patch_size[0]} pixels of a patch "
                    f"of {name}"
                )
        elif not isinstance(self.visual, open_clip.modified_resnet.ModifiedResNet):
            raise SettingsError(
                f"{name}: attention pooling knows open_clip's own VisionTransformer and ModifiedResNet, not "
                f"{type(self.visual).__name__}; ViT-B-16 or RN50 would do"
            )

    def accelerate(self, context: PipelineContext) -> frozenset[str]:
        """Apply the context's acceleration to what is called, in place; return what it took."""
        return context.acceleration.apply(self.visual, self.called)

    @property
    def called(self) -> list[Any]:
        """Return the modules of the image tower that are called; the tower itself never is."""
        if self._vit:
            return list(self.visual.transformer.resblocks)
        return [self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4]

    @property
    def side(self) -> int:
        """Return how many cells there are along each side of an image."""
        return self.options.fine * int(self.visual.grid_size[0] if self._vit else self.preprocessing.size // 32)

    def encode_boxes(
        self, images: Sequence[ImageArray], boxes: Sequence[Boxes], margin: float, resize: Resize
    ) -> Tensor:
        """Encode boxes (R, 4) xyxy pixels of each image -> (sum of R, D); `margin` and `resize` as of views."""
        covered = []
        for image, own in zip(images, boxes, strict=True):
            frame = frames_of(torch.tensor([[0.0, 0.0, *image.shape[1::-1]]]), resize)
            corners = inside(widened(torch.from_numpy(own).float().reshape(-1, 4), margin), frame, self.side)
            covered.append(coverage_of(corners, self.side).flatten(1))
        return self.encode(images, covered, resize)

    def encode(self, images: Sequence[ImageArray], covered: Sequence[Tensor], resize: Resize = "squash") -> Tensor:
        """Encode regions of images RGB uint8 (H, W, 3) -> (sum of R, D), float32; each image is encoded once.

        `covered` (R, side * side) on the host is the share of each cell that a region covers.
        """
        weight: Tensor = self.visual.conv1.weight
        size = self.preprocessing.size * (1 if self._vit else self.options.fine)
        whole = [np.array([[0.0, 0.0, *image.shape[1::-1]]]) for image in images]
        views = make_views(images, whole, ["crop"], size, 0.0, weight.device, resize)[0]  # (B, 3, S, S)
        pixels = self.preprocessing.normalised(views, weight.dtype)
        counts = [len(own) for own in covered]
        belongs = torch.ones(len(images), max(counts), self.side**2, dtype=torch.bool)  # (B, R, N)
        for own, place in zip(covered, belongs, strict=True):
            place[: len(own)] = members(own)
        cells = to_device(belongs, weight.device)
        pooled = self._pool_tokens(pixels, cells) if self._vit else self._pool_cells(pixels, cells)  # (B, R, D)
        vectors = torch.cat([own[:count] for own, count in zip(pooled, counts, strict=True)])
        return F.normalize(vectors.float(), dim=-1)

    @property
    def _vit(self) -> bool:
        return isinstance(self.visual, open_clip.transformer.VisionTransformer)

    def _pool_tokens(self, pixels: Tensor, belongs: Tensor) -> Tensor:
        """Encode (B, 3, S, S) and (B, R, N) bool -> (B, R, D)."""
        visual, fine = self.visual, self.options.fine
        batch, regions = belongs.shape[:2]
        # 1. Overlapping patches and enlarged position embeddings.
        stride = visual.patch_size[0] // fine
        # Padded so that the patches stay centred on the cells that they stand for.
        margin = -(-(visual.patch_size[0] - stride) // 2)
        patches = F.conv2d(pixels, visual.conv1.weight, stride=stride, padding=margin)  # (B, C, side, side)
        patches = patches[..., : self.side, : self.side].flatten(2).transpose(1, 2)  # (B, N, C)
        first = visual.class_embedding.to(patches.dtype).expand(batch, 1, -1)
        places = _enlarged(visual.positional_embedding, fine).to(patches.dtype)
        tokens = visual.ln_pre(torch.cat([first, patches], dim=1) + places)  # (B, 1 + N, C)
        # 2. The first blocks as they are, then with a copy of the class token for each region.
        blocks = visual.transformer.resblocks
        for block in blocks[: self.options.from_block]:
            tokens = block(tokens)
        ordinary = tokens.shape[1]
        tokens = torch.cat([tokens, tokens[:, :1].expand(-1, regions, -1)], dim=1)  # (B, 1 + N + R, C)
        # 3. Ordinary tokens attend to each other, a copy to its region's patches and to itself.
        attends = belongs.new_zeros(batch, tokens.shape[1], tokens.shape[1])
        attends[:, :ordinary, :ordinary] = True
        attends[:, ordinary:, 1:ordinary] = belongs
        attends[:, ordinary:, ordinary:] = torch.eye(regions, dtype=torch.bool, device=tokens.device)
        mask = torch.zeros(attends.shape, dtype=tokens.dtype, device=tokens.device).masked_fill_(~attends, -torch.inf)
        heads = blocks[0].attn.num_heads
        mask = mask[0] if batch == 1 else mask.repeat_interleave(heads, dim=0)  # as torch's attention takes it
        for block in blocks[self.options.from_block :]:
            tokens = block(tokens, attn_mask=mask)
        copies: Tensor = visual.ln_post(tokens[:, ordinary:])
        return copies if visual.proj is None else copies @ visual.proj

    def _pool_cells(self, pixels: Tensor, belongs: Tensor) -> Tensor:
        """Encode (B, 3, S, S) and (B, R, N) bool -> (B, R, D)."""
        visual, pool = self.visual, self.visual.attnpool
        cells = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
        cells = cells.flatten(2).transpose(1, 2)  # (B, N, C)
        weight = belongs.to(cells.dtype)
        means = weight @ cells / weight.sum(dim=2, keepdim=True)  # (B, R, C)
        places = _enlarged(pool.positional_embedding, self.options.fine).to(cells.dtype)
        queries = means + places[0]
        keys = torch.cat([queries, cells + places[1:]], dim=1)  # (B, R + N, C)
        itself = torch.eye(belongs.shape[1], dtype=torch.bool, device=belongs.device).expand(len(belongs), -1, -1)
        allowed = torch.cat([itself, belongs], dim=2)[:, None]

        def heads(tokens: Tensor) -> Tensor:
            some: Tensor = tokens.unflatten(2, (pool.num_heads, -1))
            return some.transpose(1, 2)  # (B, heads, N, C / heads)

        pooled = F.scaled_dot_product_attention(
            heads(pool.q_proj(queries)), heads(pool.k_proj(keys)), heads(pool.v_proj(keys)), attn_mask=allowed
        )
        out: Tensor = pool.c_proj(pooled.transpose(1, 2).flatten(2))
        return out


def members(covered: Tensor) -> Tensor:
    """Choose the patches of each region: those it covers by half, or else its best covered. (R, N) -> (R, N) bool."""
    best = covered.amax(dim=1, keepdim=True)
    return (covered >= 0.5).logical_or(covered == best)


def _enlarged(places: Tensor, fine: int) -> Tensor:
    """Enlarge position embeddings, (1 + n * n, C) -> (1 + (fine n)^2, C), the first one as it is."""
    if fine == 1:
        return places
    side = round((len(places) - 1) ** 0.5)
    grid = places[1:].T.reshape(1, -1, side, side).float()
    grid = F.interpolate(grid, scale_factor=fine, mode="bilinear", align_corners=False)
    return torch.cat([places[:1], grid.flatten(2)[0].T.to(places.dtype)])
