"""What CLIP-VG reads: every token of CLIP's text tower, in the space that CLIP shares with pictures.

The tower is causal: a token never looks at what stands behind it, so a run that stops at the longest text of a batch
gives the same tokens as one over the full context (spec clipvg.md 1.5).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

PAD = 0  # also the id of "!" inside a word, which the official code masks along with the padding


def text_features(clip: Any, ids: Tensor) -> Tensor:
    """(B, L) token ids, L up to the context length -> (B, L, E); padding has tokens too, for others to mask."""
    length = ids.shape[1]
    x = clip.token_embedding(ids).to(clip.transformer.get_cast_dtype())
    x = x + clip.positional_embedding[:length].to(x.dtype)
    x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
    out: Tensor = clip.ln_final(x) @ clip.text_projection.to(x.dtype)
    return out


def up_to_longest(ids: Tensor) -> Tensor:
    """(B, 77) -> (B, L): without the columns in which every text is padding."""
    used = (ids != PAD).any(dim=0).nonzero()
    return ids[:, : int(used.max()) + 1 if len(used) else 1]
