"""Text features of CLIP-VG: every token of CLIP's text tower, in the space that CLIP shares with images.

The tower is causal: a token attends to no later one, so a pass that stops at the longest text of a batch gives the
same tokens as one over the full context.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

PAD = 0  # also the id of "!" inside a word, which the official code masks along with the padding


def text_features(clip: Any, ids: Tensor) -> Tensor:
    """Encode token ids (B, L), L up to the context length -> (B, L, E); padding is encoded too, and not masked."""
    length = ids.shape[1]
    x = clip.token_embedding(ids).to(clip.transformer.get_cast_dtype())
    x = x + clip.positional_embedding[:length].to(x.dtype)
    x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
    out: Tensor = clip.ln_final(x) @ clip.text_projection.to(x.dtype)
    return out


def up_to_longest(ids: Tensor) -> Tensor:
    """Drop the columns in which every text is padding, (B, 77) -> (B, L)."""
    used = (ids != PAD).any(dim=0).nonzero()
    return ids[:, : int(used.max()) + 1 if len(used) else 1]
