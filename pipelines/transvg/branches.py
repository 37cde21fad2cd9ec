"""Branches of the TransVG family: ResNet and DETR's encoder for the image, BERT for the text, into one space.

    image (B, 3, 640, 640)                        text ids (B, L)
    ResNet, 1x1 convolution  (B, 400, 256)        BERT       (B, L, 768)
    DETR's encoder           (B, 400, 256)
    visu_proj                (B, 400, 256)        text_proj  (B, L, 256)

Sizes are those of the published models. Parameter names are the official checkpoints'; what fuses both is a subclass's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from bench.errors import WeightsError
from bench.grounding import PipelineContext
from bench.settings import Table
from pipelines.backbones import Backbone
from pipelines.canvas import Style, covered, masked_patches, normalised
from pipelines.deconfounder import NoDeconfounder
from pipelines.layers import MLP, Encoder, sine_position, xavier
from pipelines.tokens import Tokenizer

BERT_BASE: dict[str, Any] = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}  # fmt: skip
VISUAL, TEXT = "visumodel.", "textmodel.bert."


class BranchesConfig(Table):
    """Sizes of both branches; the defaults are the published models' on ResNet-50."""

    backbone: str = Field("resnet50", description='resnet50, resnet101, or "small"')
    widths: tuple[int, ...] = Field((), description='channels at strides 2, 4, 8, ... of the backbone "small"')
    image_size: int = Field(640, ge=16, description="side of the square canvas in pixels")
    hidden: int = Field(256, ge=8)
    heads: int = Field(8, ge=1)
    feedforward: int = Field(2048, ge=8)
    encoder_layers: int = Field(6, ge=1, description="of DETR's encoder")
    tokens: int = Field(20, ge=3, description="of a text, both ends included; 40 for RefCOCOg")
    dropout: float = Field(0.1, ge=0, lt=1)
    text_encoder: dict[str, Any] = Field(default_factory=lambda: dict(BERT_BASE), description="of a BertConfig")


class ImageBranch(nn.Module):
    """Compute image tokens: a ResNet, and DETR's encoder over its last stage."""

    def __init__(self, config: BranchesConfig) -> None:
        super().__init__()
        d = config.hidden
        backbone = Backbone(config.backbone, config.widths)
        self.stride = backbone.stride
        self.backbone = nn.ModuleList([backbone])
        self.input_proj = nn.Conv2d(backbone.channels, d, kernel_size=1)
        encoder = Encoder(config.encoder_layers, d, config.heads, config.feedforward, config.dropout)
        self.transformer: Any = nn.ModuleDict({"encoder": encoder})
        xavier(self.transformer)

    def forward(self, pixels: Tensor, masked: Tensor, kept: Tensor | None = None) -> Tensor:
        """Encode normalised canvases (B, 3, S, S), True on padding (B, P) -> (B, P, d).

        With `kept` (K,), the cells that no canvas of the batch has masked: those alone are encoded, (B, K, d). Where
        all canvases mask the same cells, nothing else changes: a masked cell is no key.
        """
        features = self.input_proj(self.backbone[0](pixels))  # (B, d, h, w)
        position = sine_position(masked.unflatten(1, features.shape[-2:]), features.shape[1])
        x, position = features.flatten(2).transpose(1, 2), position.flatten(1, 2).to(features.dtype)
        ignored: Tensor | None = masked
        if kept is not None:
            x, position, ignored = x.index_select(1, kept), position.index_select(1, kept), None
        out: Tensor = self.transformer.encoder(x, position, ignored)
        return out


class TextBranch(nn.Module):
    """Compute text tokens with a BERT, whose pooler is in every file and used by nothing."""

    def __init__(self, config: BranchesConfig) -> None:
        super().__init__()
        self.bert = BertModel(BertConfig(**config.text_encoder))

    def forward(self, ids: Tensor, padding: Tensor) -> Tensor:
        """Encode token ids (B, L), True on padding (B, L) -> (B, L, W)."""
        # (B, 1, L, L) is taken as it is; of (B, L) transformers asks whether it is all ones, and waits for a GPU.
        mask = (~padding)[:, None, None].expand(-1, -1, padding.shape[1], -1)
        out: Tensor = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        return out


class Branches(nn.Module, ABC):
    """Both branches, their projections, the slots of the joint sequence, and the box head.

    A subclass names itself, the format of its own files, how to get published ones, and how many slots of
    `vl_pos_embed` are neither text nor image. `heads` are the children that stay in float32; `stride` is the side of a
    cell in pixels.
    """

    Config: ClassVar[type[BranchesConfig]]
    title: ClassVar[str]
    format: ClassVar[str]
    how: ClassVar[str]
    registers: ClassVar[int]
    heads: ClassVar[tuple[str, ...]] = ("bbox_embed",)
    stride: int

    def __init__(self, config: BranchesConfig) -> None:
        super().__init__()
        self.config, d = config, config.hidden
        self.add_branches(config)
        self.side = config.image_size // self.stride
        self.deconfounder: Any = NoDeconfounder()
        self.vl_pos_embed = nn.Embedding(self.registers + config.tokens + self.side**2, d)
        self.bbox_embed = MLP(d, d, 4, 3)

    def add_branches(self, config: BranchesConfig) -> None:
        """Add what encodes images and texts, and set `stride`."""
        d = config.hidden
        self.visumodel, self.textmodel = ImageBranch(config), TextBranch(config)
        self.stride = self.visumodel.stride
        self.visu_proj, self.text_proj = nn.Linear(d, d), nn.Linear(int(self.textmodel.bert.config.hidden_size), d)

    @classmethod
    def own_sizes(cls, state: Mapping[str, Tensor], args: Namespace) -> dict[str, Any]:
        """Return the fields of `Config` that are a subclass's own, off an official table. Raises KeyError."""
        return {}

    @classmethod
    def tokenizer(
        cls, table: str, name: str, config: BranchesConfig, context: PipelineContext, weights_name: str
    ) -> Any:
        """Open the tokenizer of a JSON, or where that is empty of a name, for lower case. Raises WeightsError."""
        opened = (
            Tokenizer.from_json(table, config.tokens, lower=True)
            if table
            else Tokenizer.open(name, context, config.tokens, lower=True)
        )
        if len(opened) > (known := int(config.text_encoder["vocab_size"])):
            raise WeightsError(
                f"{name}: a tokenizer of {len(opened)} tokens, but {weights_name} knows {known} of them; give the one "
                "that the weights were trained with"
            )
        return opened

    @property
    def parts(self) -> list[Any]:
        """Return the modules of the branches that are called, for torch.compile."""
        return [self.visumodel.backbone[0], self.textmodel.bert]

    def restore_tables(self) -> None:
        """Fill the fixed tables of BERT, which are in no file."""
        table: Any = self.textmodel.bert.embeddings
        table.position_ids = torch.arange(table.position_ids.shape[1])[None]
        table.token_type_ids = torch.zeros_like(table.position_ids)

    def inputs(self, raw: Tensor, edges: Tensor, style: Style) -> tuple[Tensor, Tensor]:
        """Normalise pixels (B, S, S, 3) uint8 and find the masked cells (B, P) of canvases on any device.

        `edges` (B, 4) are left, top, right, bottom of each image. Both styles take ImageNet's statistics: the
        backbone's.
        """
        inside = covered(edges, raw.shape[1])
        return normalised(raw, inside, "official"), masked_cells(~inside, self.stride, style)

    def encode_image(self, pixels: Tensor, masked: Tensor, kept: Tensor | None = None) -> Tensor:
        """Encode canvases as the image branch does, projected: (B, P, d), or (B, K, d) with `kept`."""
        pixels = pixels.to(self.visu_proj.weight.dtype)
        out: Tensor = self.visu_proj(self.visumodel(pixels, masked, kept))
        return out

    def encode_text(self, ids: Tensor, padding: Tensor) -> Tensor:
        """Encode token ids (B, L), True on padding (B, L), projected: (B, L, d)."""
        out: Tensor = self.deconfounder(self.text_proj(self.text_features(ids, padding)))
        return out

    def text_features(self, ids: Tensor, padding: Tensor) -> Tensor:
        """Encode token ids (B, L), True on padding (B, L), before the projection: (B, L, W)."""
        out: Tensor = self.textmodel(ids, padding)
        return out

    @abstractmethod
    def boxes(self, image: Tensor, masked: Tensor, text: Tensor, padding: Tensor) -> Tensor:
        """Fuse image tokens (B, P, d), masked cells (B, P), text tokens (B, L, d), True on padding (B, L).

        Returns boxes (B, 4) cxcywh in 0..1 of the canvas.
        """

    def forward(self, pixels: Tensor, masked: Tensor, ids: Tensor, padding: Tensor) -> Tensor:
        """Ground one text in one image a row, nothing shared.

        pixels (B, 3, S, S), masked cells (B, P), ids (B, L), True on padding (B, L) -> (B, 4) cxcywh in 0..1 of the
        canvas.
        """
        return self.boxes(self.encode_image(pixels, masked), masked, self.encode_text(ids, padding), padding)

    def box(self, token: Tensor) -> Tensor:
        """Compute boxes of tokens, (..., d) -> (..., 4) cxcywh in 0..1 of the canvas, in float32."""
        with torch.autocast(token.device.type, enabled=False):
            out: Tensor = self.bbox_embed(token.to(next(self.bbox_embed.parameters()).dtype)).sigmoid()
        return out


def masked_cells(padding: Tensor, stride: int, style: Style) -> Tensor:
    """Mark the cells to ignore, (B, S, S) True outside the image -> (B, P).

    `official`: a cell is masked when the pixel in its corner is padding; `clean`: when all its pixels are.
    """
    if style == "official":
        return padding[:, ::stride, ::stride].flatten(1)
    return masked_patches(padding, stride, style)
