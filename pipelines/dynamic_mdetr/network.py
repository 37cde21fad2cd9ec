"""Dynamic MDETR (Shi et al., TPAMI 2024): a decoder that samples a few points of the image, in stages.

                 image | text                        (B, 400 + 20, 256)
                 encoder, vl_pos_embed, 3 layers     (B, 420, 256)
    3 stages:    36 points around the last box       (B, 36, 2)
                 image tokens at the points, encoder (B, 36, 256)
                 text tokens attend to the points    (B, 20, 256)
                 their mean -> box head -> sigmoid   (B, 4)  cxcywh in 0..1 of the canvas

Points are anywhere, in the padding of the canvas too: all cells are computed, and masked ones are no keys. Sizes are
those of the published model on ResNet-50 with texts of 20 tokens (section 3 of the paper). The model on CLIP has CLIP's
towers for branches, 40 x 40 cells of 512 channels and 160 points.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipelines.backbones import count_modules
from pipelines.canvas import Style, covered, masked_patches, normalised
from pipelines.dynamic_mdetr import clip
from pipelines.layers import MLP, Encoder, attend, xavier
from pipelines.transvg.branches import Branches, BranchesConfig

FUSION = "vl_encoder.encoder.layers."


class DynamicMdetrConfig(BranchesConfig):
    """Sizes of the network; the defaults are the published model's on ResNet-50."""

    clip: dict[str, Any] = Field({}, description='of open_clip\'s CLIP, for the backbone "clip"; BERT is then not used')
    layers: int = Field(3, ge=1, description="of the encoder over image and text")
    stages: int = Field(3, ge=1)
    points: int = Field(36, ge=1, description="that a stage samples")
    stage_layers: tuple[int, int] = Field((1, 1), description="of each stage's encoder and decoder")
    own_transformers: bool = Field(True, description="one for each stage")


class DecoderLayer(nn.Module):
    """Attend from text tokens to each other, then to the sampled points."""

    def __init__(self, hidden: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(hidden, heads, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(hidden, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(hidden, feedforward), nn.Linear(feedforward, hidden)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(hidden), nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, place: Tensor, padding: Tensor, memory: Tensor, memory_place: Tensor) -> Tensor:
        """(B, L, d) text, its positions (L, d), True on padding (B, L), (B, P, d) points and theirs -> (B, L, d)."""
        x = self.norm1(x + self.dropout(attend(self.self_attn, x + place, x + place, x, padding)))
        attended = attend(self.multihead_attn, x + place, memory + memory_place, memory, None)
        x = self.norm2(x + self.dropout(attended))
        out: Tensor = self.norm3(x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x))))))
        return out


class Decoder(nn.Module):
    """Apply decoder layers, and a norm."""

    def __init__(self, depth: int, hidden: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(hidden, heads, feedforward, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor, place: Tensor, padding: Tensor, memory: Tensor, memory_place: Tensor) -> Tensor:
        """As a layer."""
        for layer in self.layers:
            x = layer(x, place, padding, memory, memory_place)
        out: Tensor = self.norm(x)
        return out


class DynamicMdetr(Branches):
    """Compute boxes from images and texts."""

    Config = DynamicMdetrConfig
    title, format, registers = "Dynamic MDETR", "bench-dynamic-mdetr", 0
    heads = ("bbox_embed", "offset_generators", "init_reference_point")
    how = (
        "the authors' checkpoints are linked in the README of github.com/MCG-NJU/Dynamic-MDETR; "
        "`bench train --pipeline dynamic-mdetr` makes one"
    )
    config: DynamicMdetrConfig

    def __init__(self, config: DynamicMdetrConfig) -> None:
        super().__init__(config)
        d, sizes = config.hidden, (config.hidden, config.heads, config.feedforward, config.dropout)
        self.vl_encoder: Any = nn.ModuleDict({"encoder": Encoder(config.layers, *sizes)})

        def transformer() -> nn.ModuleDict:
            encoder, decoder = config.stage_layers
            return nn.ModuleDict({"encoder": Encoder(encoder, *sizes), "decoder": Decoder(decoder, *sizes)})

        every = range(config.stages)
        several = config.own_transformers
        self.vl_transformer: Any = nn.ModuleList(transformer() for _ in every) if several else transformer()
        self.offset_generators = nn.ModuleList(nn.Linear(d, 2 * config.points) for _ in every)
        self.init_reference_point = nn.Embedding(1, 2)
        # Official names of the two variants.
        self.word = "content" if config.clip else "sampling"
        self.add_module(f"init_{self.word}_feature", nn.Embedding(1, d))
        self.add_module(f"update_{self.word}_queries", nn.ModuleList(MLP(2 * d, d, d, 2) for _ in every))
        xavier(self.vl_encoder)
        xavier(self.vl_transformer)
        # Points start spread over the canvas, around its middle.
        nn.init.constant_(self.init_reference_point.weight, 0.5)
        for generator in self.offset_generators:
            nn.init.zeros_(generator.weight)  # type: ignore[arg-type]
            nn.init.uniform_(generator.bias, -0.5, 0.5)  # type: ignore[arg-type]

    def add_branches(self, config: BranchesConfig) -> None:
        """Add ResNet and BERT, or CLIP."""
        assert isinstance(config, DynamicMdetrConfig)
        if not config.clip:
            return super().add_branches(config)
        self.clip = clip.build(config.clip)
        self.text_proj: Any = nn.Identity()  # its tokens are projected
        self.stride = int(config.clip["vision_cfg"]["patch_size"])
        return None

    @classmethod
    def own_sizes(cls, state: Mapping[str, Tensor], args: Namespace) -> dict[str, Any]:
        """Return the sizes of encoder and stages, and all sizes of a network on CLIP. Raises KeyError, ValueError."""
        own = any(key.startswith("vl_transformer.0.") for key in state)
        first = f"vl_transformer.{'0.' if own else ''}"
        sizes = {
            "layers": count_modules(state, FUSION),
            "stages": count_modules(state, "offset_generators."),
            "points": len(state["offset_generators.0.weight"]) // 2,
            "stage_layers": [count_modules(state, f"{first}{part}.layers.") for part in ("encoder", "decoder")],
            "own_transformers": own,
        }
        if clip.PATCHES not in state:
            return sizes
        table = clip.sizes(state)
        image = table["vision_cfg"]["image_size"]
        slots, hidden = state["vl_pos_embed.weight"].shape
        return sizes | {
            "backbone": "clip",
            "clip": table,
            "image_size": image,
            "tokens": slots - (image // table["vision_cfg"]["patch_size"]) ** 2,
            "hidden": hidden,
            "heads": getattr(args, "vl_nheads", 8),
            "feedforward": len(state[f"{FUSION}0.linear1.weight"]),
        }

    @classmethod
    def tokenizer(cls, table: str, name: str, config: BranchesConfig, *rest: Any) -> Any:
        """Open BERT's tokenizer, or CLIP's, which needs no name. Raises WeightsError."""
        if not isinstance(config, DynamicMdetrConfig) or not config.clip:
            return super().tokenizer(table, name, config, *rest)
        return clip.ClipTokenizer(config.tokens, config.clip["text_cfg"]["context_length"])

    @property
    def parts(self) -> list[Any]:
        """Return the modules of the branches that are called, for torch.compile."""
        return [self.clip.visual, self.clip.transformer] if self.config.clip else super().parts

    def restore_tables(self) -> None:
        """Fill the tables that are in no file."""
        if self.config.clip:
            self.clip.attn_mask = clip.causal_mask(self.clip.context_length)
        else:
            super().restore_tables()

    def inputs(self, raw: Tensor, edges: Tensor, style: Style) -> tuple[Tensor, Tensor]:
        """Normalise pixels and find masked cells, as the branches do.

        On CLIP, `official` takes ImageNet's statistics and masks no cell; `clean` takes CLIP's, and masks padding.
        """
        if not self.config.clip:
            return super().inputs(raw, edges, style)
        inside = covered(edges, raw.shape[1])
        masked = masked_patches(~inside, self.stride, "clean")
        return normalised(raw, inside, style), masked & (style == "clean")

    def encode_image(self, pixels: Tensor, masked: Tensor, kept: Tensor | None = None) -> Tensor:
        """Encode canvases (B, 3, S, S), projected: (B, P, d); masked cells (B, P) are computed too."""
        assert kept is None
        return clip.image_tokens(self.clip, pixels) if self.config.clip else super().encode_image(pixels, masked)

    def text_features(self, ids: Tensor, padding: Tensor) -> Tensor:
        """Encode token ids, True on padding (B, L): (B, L, W)."""
        if self.config.clip:
            tokens = clip.text_tokens(self.clip, ids)
            return F.pad(tokens, (0, 0, 0, padding.shape[1] - tokens.shape[1]))  # cut, or zeros behind the end
        return super().text_features(ids, padding)

    def boxes(self, image: Tensor, masked: Tensor, text: Tensor, padding: Tensor) -> Tensor:
        """Compute boxes (B, 4) cxcywh in 0..1 of the canvas: the last stage's."""
        return self.decode(image, masked, text, padding)[0][:, -1]

    def decode(self, image: Tensor, masked: Tensor, text: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """Compute each stage's boxes (B, K, 4) cxcywh and points (B, K, P, 2) x and y, in 0..1 of the canvas.

        Points may lie outside; there the image is as at its edge.
        """
        last = self.config.stages - 1
        cells, words = self.vl_pos_embed.weight[: image.shape[1] + text.shape[1]].tensor_split([image.shape[1]])
        # 1. Image and text together.
        fused = self.vl_encoder.encoder(
            torch.cat([image, text], dim=1),
            torch.cat([cells, words]).expand(len(image), -1, -1),
            torch.cat([masked, padding], dim=1),
        )
        image, text = fused.tensor_split([image.shape[1]], dim=1)
        counted = (~padding / (~padding).sum(dim=1, keepdim=True))[..., None].to(text.dtype)
        # 2. The stages: each samples around the box of the one before.
        query = getattr(self, f"init_{self.word}_feature").weight.expand(len(image), -1)
        centre = self.init_reference_point.weight.expand(len(image), -1)
        boxes, points = [], []
        for stage in range(self.config.stages):
            transformer: Any = self.vl_transformer[stage] if self.config.own_transformers else self.vl_transformer
            points.append(centre[:, None] + self._offsets(stage, query))
            # a. Image tokens and their positions at the points.
            sampled, places = self._sample(image, points[-1]), self._sample(cells[None], points[-1])
            memory = transformer["encoder"](sampled, places, None)
            # b. What the text takes of them; its mean is the box.
            text = transformer["decoder"](text, words, padding, memory, places)
            pooled = (text * counted).sum(dim=1)
            boxes.append(self.box(pooled))
            centre = boxes[-1][:, :2]
            if stage < last:
                query = getattr(self, f"update_{self.word}_queries")[stage](torch.cat([pooled, query], dim=1))
        return torch.stack(boxes, dim=1), torch.stack(points, dim=1)

    def _offsets(self, stage: int, query: Tensor) -> Tensor:
        """Compute the points' offsets of queries, (B, d) -> (B, P, 2), in float32."""
        with torch.autocast(query.device.type, enabled=False):
            generator: Any = self.offset_generators[stage]
            out: Tensor = generator(query.to(generator.weight.dtype)).unflatten(1, (-1, 2))
        return out

    def _sample(self, cells: Tensor, points: Tensor) -> Tensor:
        """Interpolate tokens of cells (B or 1, side * side, d) at points (B, P, 2) -> (B, P, d)."""
        table = cells.transpose(1, 2).unflatten(2, (self.side, self.side)).float()
        # One table for all is sampled at all points at once.
        grid = 2 * (points if len(cells) > 1 else points.flatten(0, 1)[None]) - 1
        with torch.autocast(points.device.type, enabled=False):
            out = F.grid_sample(table, grid[:, None].float(), padding_mode="border", align_corners=False)
        return out[:, :, 0].transpose(1, 2).reshape(*points.shape[:2], -1).to(cells.dtype)
