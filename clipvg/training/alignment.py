"""A head start for a small network: words and patches begin in the space that CLIP has put them both into.

At random, the V-L transformer first has to find out that a word and the patches it fits are alike, which CLIP knows.
Here the projections begin with CLIP's own (as HiVG's do; spec clipvg.md 9.1), and queries and keys of every layer with
the same rotation: attention begins by looking for what is alike. Not part of the paper, whose `start` is "random".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipvg.model.network import ClipVG

REST = 0.3  # of the random weights stays where CLIP's come
POSITIONS = 0.2  # of the random position embeddings: at first what stands somewhere counts for more than where


@torch.no_grad()
def into_clip_space(network: ClipVG, features: Tensor, words: Tensor) -> None:
    """Changes the network in place. `features` (B, 1 + P, W * taps) of some pictures and `words` (B, L, E) of some
    texts set the scale: both begin with about unit variance.
    """
    visual = network.clip.visual
    projection = visual.ln_post.weight[:, None] * visual.proj  # (W, E); the stream's own mean and scale are left out
    width, shared = projection.shape
    shared = min(shared, network.config.hidden)
    seen = features[:, 1:, -width:].float() @ projection.float()
    sight, reading = network.ml_visu_proj.weight, network.text_proj.weight
    sight[:shared] *= REST
    sight[:shared, -width:] += (projection.T / seen.std())[:shared]
    reading[:shared] *= REST
    reading[:shared] += torch.eye(*reading.shape, device=reading.device)[:shared] / words.float().std()
    network.vl_pos_embed.weight *= POSITIONS
    network.reg_token.weight *= POSITIONS
    d = network.config.hidden
    for layer in network.vl_transformer.encoder.layers:
        attention: Any = layer.self_attn
        rotation = torch.linalg.qr(torch.randn(d, d))[0].to(reading.device)
        attention.in_proj_weight[: 2 * d] = torch.cat([rotation, rotation])
