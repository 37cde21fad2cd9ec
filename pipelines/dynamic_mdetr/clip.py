"""CLIP as both branches of a Dynamic MDETR: all tokens of its towers, projected into their common space.

No padding is masked in the towers. Of a text's tokens those between its ends are used, whose features come from a
causal pass over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.backbones import count_modules
from pipelines.two_stage.clip.encoder import PAD, encode, open_clip, text_states, token_ids

PATCHES = "clip.visual.conv1.weight"
HEAD_WIDTH = 64  # of both towers


class ClipTokenizer:
    """Turn texts, lower-cased, into CLIP's token ids. The first `limit` tokens of a text are used; `cut` says so."""

    pad = PAD

    def __init__(self, limit: int, context: int) -> None:
        """`context` is the length of the text tower's passes."""
        self.inner = open_clip.get_tokenizer("ViT-B-16", context_length=context)
        self.limit = min(limit, self.inner.context_length - 2)
        self.whole = limit
        self.words = lru_cache(maxsize=100_000)(self._words)

    def __len__(self) -> int:
        """Return the number of different tokens."""
        return int(self.inner.vocab_size)

    def __call__(self, texts: Sequence[str], whole: bool = False) -> tuple[Tensor, Tensor]:
        """Encode (N,) texts -> (N, T) token ids with both ends, (N, L) True on what is no used token behind the first.

        L is the longest's length, or with `whole` that of the network, T the context's. A text without a token keeps
        one place, its end's, so that all is finite.
        """
        ids = token_ids(self.inner, [text.lower() for text in texts])
        used = (ids.argmax(dim=1) - 1).clamp(1, self.limit)  # the end has the largest id
        length = self.whole if whole else int(used.max())
        if whole:
            ids = F.pad(ids, (0, self.inner.context_length - ids.shape[1]), value=PAD)
        return ids, torch.arange(length)[None] >= used[:, None]

    def cut(self, text: str) -> str:
        """Return a note when a text has more tokens than are used, else nothing."""
        words = self.words(text)
        return f"text cut from {words} to {self.limit} tokens" if words > self.limit else ""

    def _words(self, text: str) -> int:
        """Count the tokens of a text, without its ends."""
        return len(encode(self.inner, text.lower()))


def build(table: Mapping[str, Any]) -> Any:
    """Build a CLIP of open_clip with OpenAI's kind of towers, with random weights, in float32."""
    clip: Any = open_clip.CLIP
    made = clip(table["embed_dim"], dict(table["vision_cfg"]), dict(table["text_cfg"]), quick_gelu=table["quick_gelu"])
    made.visual.output_tokens = True
    return made


def sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Find what `build` takes in an official table, of OpenAI's CLIP. Raises KeyError."""
    width, _, patch, _ = state[PATCHES].shape
    side = round((len(state["clip.visual.positional_embedding"]) - 1) ** 0.5)
    words, text_width = state["clip.token_embedding.weight"].shape
    return {
        "quick_gelu": True,
        "embed_dim": state["clip.text_projection"].shape[1],
        "vision_cfg": {
            "image_size": side * patch,
            "layers": count_modules(state, "clip.visual.transformer.resblocks."),
            "width": width,
            "patch_size": patch,
            "head_width": HEAD_WIDTH,
        },
        "text_cfg": {
            "context_length": len(state["clip.positional_embedding"]),
            "vocab_size": words,
            "width": text_width,
            "heads": max(1, text_width // HEAD_WIDTH),
            "layers": count_modules(state, "clip.transformer.resblocks."),
        },
    }


def causal_mask(length: int) -> Tensor:
    """Return what the text tower adds to its scores, (length, length): a word attends to none after it."""
    return torch.full((length, length), -torch.inf).triu(1)


def image_tokens(clip: Any, pixels: Tensor) -> Tensor:
    """Encode canvases (B, 3, S, S) -> (B, P, E): all patches through the last norm and the projection."""
    tokens: Tensor = clip.visual(pixels.to(clip.visual.conv1.weight.dtype))[1]
    out: Tensor = tokens @ clip.visual.proj.to(tokens.dtype)
    return out


def text_tokens(clip: Any, ids: Tensor) -> Tensor:
    """Encode token ids with both ends (B, T) -> (B, T - 1, E): all tokens behind the first."""
    states = clip.ln_final(text_states(clip, ids))[:, 1:]
    out: Tensor = states @ clip.text_projection.to(states.dtype)
    return out
