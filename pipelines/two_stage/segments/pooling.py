"""Region-based attention pooling: one forward pass of CLIP over the whole image gives a vector for every region
("Adapting CLIP for Phrase Localization Without Further Training", Li et al. 2022).

ViT      a copy of the class token for each region goes through the blocks beside the ordinary tokens. It attends to the
         region's patches and to itself; nobody attends to it, so the ordinary tokens do not change. A copy
         that may attend to every patch is the class token: the whole mechanism is an attention mask.
ResNet   the attention pool's query is the mean over the region's cells, and it attends to these cells and to itself.

Patches are finer than CLIP's own: the patches of a ViT overlap (stride patch / `fine`), a ResNet gets the image
`fine` times as large, and the grid of position embeddings is enlarged bilinearly. With `fine` 1 nothing changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bench.errors import SettingsError
from bench.grounding import ImageArray
from bench.settings import Table
from pipelines.two_stage.clip.encoder import ClipEncoder, open_clip
from pipelines.two_stage.clip.views import make_views
from pipelines.two_stage.segments.segmentation import Float, Segmentation


class PoolingOptions(Table):
    """[pipelines.*.pooling]."""

    fine: int = Field(2, ge=1, description="patches along each side, times CLIP's own")
    from_block: int = Field(0, ge=0, description="ViT: the first block whose attention is masked")


class RegionPooling:
    """Unit vectors of the regions of an image, by one CLIP."""

    def __init__(self, encoder: ClipEncoder, options: PoolingOptions) -> None:
        """Check the CLIP. Raises SettingsError where its image vector is no class token's and no attention pool's."""
        self.encoder, self.options = encoder, options
        self.visual: Any = encoder.model.visual
        name = encoder.options.model
        if isinstance(self.visual, open_clip.transformer.VisionTransformer):
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

    @property
    def called(self) -> list[Any]:
        """Return the modules of the image tower that are called; the tower itself never is."""
        if isinstance(self.visual, open_clip.transformer.VisionTransformer):
            return list(self.visual.transformer.resblocks)
        return [self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4]

    @torch.inference_mode()
    def encode(self, image: ImageArray, segmentation: Segmentation) -> Tensor:
        """Encode R regions of RGB uint8 (H, W, 3) -> (R, D), float32; the whole image where there are none."""
        encoder, fine = self.encoder, self.options.fine
        vit = isinstance(self.visual, open_clip.transformer.VisionTransformer)
        size = encoder.image_size * (1 if vit else fine)
        whole = np.array([[0.0, 0.0, image.shape[1], image.shape[0]]])
        view = make_views([image], [whole], ["crop"], size, 0.0, encoder.device)[0]  # (1, 3, S, S)
        side = fine * (self.visual.grid_size[0] if vit else encoder.image_size // 32)
        covered = segmentation.coverage(side, side).reshape(len(segmentation), -1) if len(segmentation) else None
        mask = np.ones((1, side * side), bool) if covered is None else members(covered)
        pixels = encoder.pixels(view)
        inside = torch.tensor(mask, device=encoder.device)
        pooled = self._vit(pixels, inside) if vit else self._resnet(pixels, inside)
        return F.normalize(pooled.float(), dim=-1)

    def _vit(self, pixels: Tensor, inside: Tensor) -> Tensor:
        """Encode (1, 3, S, S) and (R, N) bool -> (R, D)."""
        visual, fine = self.visual, self.options.fine
        # 1. Overlapping patches and enlarged position embeddings.
        stride = visual.patch_size[0] // fine
        # Padded so that the patches stay centred on the cells that they stand for.
        margin = -(-(visual.patch_size[0] - stride) // 2)
        patches = F.conv2d(pixels, visual.conv1.weight, stride=stride, padding=margin)  # (1, C, side, side)
        side = fine * visual.grid_size[0]
        patches = patches[..., :side, :side].flatten(2).transpose(1, 2)  # (1, N, C)
        first = visual.class_embedding.to(patches.dtype).expand(1, 1, -1)
        places = _enlarged(visual.positional_embedding, fine).to(patches.dtype)
        tokens = visual.ln_pre(torch.cat([first, patches], dim=1) + places)  # (1, 1 + N, C)
        # 2. The first blocks as they are, then with a copy of the class token for each region.
        blocks = visual.transformer.resblocks
        for block in blocks[: self.options.from_block]:
            tokens = block(tokens)
        regions, ordinary = len(inside), tokens.shape[1]
        tokens = torch.cat([tokens, tokens[:, :1].expand(-1, regions, -1)], dim=1)  # (1, 1 + N + R, C)
        # 3. Ordinary tokens attend to each other, a copy to its region's patches and to itself.
        attends = torch.zeros(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device)
        attends[:ordinary, :ordinary] = True
        attends[ordinary:, 1:ordinary] = inside
        attends[ordinary:, ordinary:] = torch.eye(regions, dtype=torch.bool, device=tokens.device)
        mask = torch.zeros(attends.shape, dtype=tokens.dtype, device=tokens.device).masked_fill(~attends, -torch.inf)
        for block in blocks[self.options.from_block :]:
            tokens = block(tokens, attn_mask=mask)
        copies: Tensor = visual.ln_post(tokens[0, ordinary:])
        return copies if visual.proj is None else copies @ visual.proj

    def _resnet(self, pixels: Tensor, inside: Tensor) -> Tensor:
        """Encode (1, 3, S, S) and (R, N) bool -> (R, D)."""
        visual, pool = self.visual, self.visual.attnpool
        cells = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
        cells = cells.flatten(2)[0].T  # (N, C)
        weight = inside.to(cells.dtype)
        means = weight @ cells / weight.sum(dim=1, keepdim=True)  # (R, C)
        places = _enlarged(pool.positional_embedding, self.options.fine).to(cells.dtype)
        queries = means + places[0]
        keys = torch.cat([queries, cells + places[1:]])  # (R + N, C)
        allowed = torch.cat([torch.eye(len(inside), dtype=torch.bool, device=inside.device), inside], dim=1)

        def heads(tokens: Tensor) -> Tensor:
            return torch.stack(tokens.chunk(pool.num_heads, dim=1))  # (heads, N, C / heads)

        pooled = F.scaled_dot_product_attention(
            heads(pool.q_proj(queries)), heads(pool.k_proj(keys)), heads(pool.v_proj(keys)), attn_mask=allowed
        )
        out: Tensor = pool.c_proj(pooled.transpose(0, 1).flatten(1))
        return out


def members(coverage: Float) -> NDArray[np.bool_]:
    """Choose the patches of each region: those it covers by half, or else its best covered. (R, N) -> (R, N)."""
    return np.asarray((coverage >= 0.5) | (coverage == coverage.max(axis=1, keepdims=True)))


def _enlarged(places: Tensor, fine: int) -> Tensor:
    """Enlarge position embeddings, (1 + n * n, C) -> (1 + (fine n)^2, C), the first one as it is."""
    if fine == 1:
        return places
    side = round((len(places) - 1) ** 0.5)
    grid = places[1:].T.reshape(1, -1, side, side).float()
    grid = F.interpolate(grid, scale_factor=fine, mode="bilinear", align_corners=False)
    return torch.cat([places[:1], grid.flatten(2)[0].T.to(places.dtype)])
