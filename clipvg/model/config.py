"""Sizes of a CLIP-VG: its CLIP, the tapped blocks and the V-L transformer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ClipVGConfig(BaseModel):
    """Hold the network's sizes; the defaults are the paper's ViT-B/16."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip: str = Field("ViT-B-16-quickgelu", description="a name of open_clip.list_models()")
    taps: tuple[int, ...] = Field((0, 3, 7, 11), min_length=1, description="visual blocks whose output is taken, from 0")
    image_size: int = Field(224, ge=16, description="side of the square canvas in pixels")
    hidden: int = Field(512, ge=8)
    heads: int = Field(8, ge=1)
    feedforward: int = Field(2048, ge=8)
    layers: int = Field(6, ge=1, description="of the V-L transformer")
    dropout: float = Field(0.1, ge=0, lt=1)


OFFICIAL = {  # (vision width, patch) of a checkpoint -> the variant that `--model` of the official code selects
    (768, 16): ClipVGConfig(),
    (768, 32): ClipVGConfig(clip="ViT-B-32-quickgelu"),
    (1024, 14): ClipVGConfig(clip="ViT-L-14-quickgelu", taps=(0, 7, 15, 23), hidden=768),
}
