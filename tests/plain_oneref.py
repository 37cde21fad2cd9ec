"""OneRef written down plainly over a table of official key names: files, the forward pass of boxes and of masks.

It shares nothing with pipelines/oneref: one image and one text at a time, 64 tokens of text with their padding, every
module by hand. The filling formula, norms and linear layers are plain_clipvg's, another plain page.
"""

import argparse
import math
import struct
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from plain_clipvg import filled, layers, linear, norm, under


@dataclass(frozen=True)
class Sizes:
    """The defaults are the base model's."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    image: int = 384
    patch: int = 16
    words: int = 64010
    positions: int = 1024
    masks: bool = False
    codes: int = 0


OFFICIAL = {
    "base REC": Sizes(),
    "base RES": Sizes(masks=True),
    "large REC": Sizes(width=1024, depth=24, heads=16),
}


def shapes(s):
    """Every key of an official state dict -> its shape."""
    d, out = s.width, {"logit_scale": ()}

    def pair(key, *shape):
        out[f"{key}.weight"], out[f"{key}.bias"] = shape, shape[:1]

    out["beit3.text_embed.weight"] = (s.words, d)
    out |= {f"beit3.vision_embed.{token}_token": (1, 1, d) for token in ("mask", "cls")}
    pair("beit3.vision_embed.proj", d, 3, s.patch, s.patch)
    out["beit3.encoder.embed_positions.A.weight"] = (3 + (s.image // s.patch) ** 2, d)
    out["beit3.encoder.embed_positions.B.weight"] = (s.positions, d)
    for expert in "AB":
        for i in range(s.depth):
            layer = f"beit3.encoder.layers.{i}"
            for name in ("k", "v", "q", "out"):
                pair(f"{layer}.self_attn.{name}_proj.{expert}", d, d)
            pair(f"{layer}.self_attn.inner_attn_ln.{expert}", d)
            pair(f"{layer}.self_attn_layer_norm.{expert}", d)
            pair(f"{layer}.ffn.{expert}.fc1", 4 * d, d)
            pair(f"{layer}.ffn.{expert}.fc2", d, 4 * d)
            pair(f"{layer}.ffn.{expert}.ffn_layernorm", 4 * d)
            pair(f"{layer}.final_layer_norm.{expert}", d)
        pair(f"beit3.encoder.layer_norm.{expert}", d)
    out |= {"language_head.weight": (d, d), "vision_head.weight": (d, d)}
    for i, rows in enumerate((d, d, 4)):
        pair(f"bbox_embed.layers.{i}", rows, d)
    pair("visu_proj", d, d)
    pair("text_proj", d, d)
    for i in (1, 2, 3) if s.masks else ():
        out[f"seg_conv{i}.weight"] = (d, d, 2, 2)
        pair(f"bn{i}", d)
        out |= {f"bn{i}.running_mean": (d,), f"bn{i}.running_var": (d,), f"bn{i}.num_batches_tracked": ()}
    if s.codes:  # MRefM
        pair("mim_head", s.codes, d)
        pair("mlm_head", s.words, d)
        for head, last in (("mim_vts_head", 4), ("mlm_sts_head", 1)):
            for i, rows in enumerate((d, d, last)):
                pair(f"{head}.layers.{i}", rows, d)
    return out


def official_state(sizes, seed=0):
    """The whole state dict, filled by a formula of key and index."""
    out = {}
    for key, shape in shapes(sizes).items():
        tensor = filled(key, shape, seed)
        if "layer_norm" in key or "_ln." in key or "layernorm" in key or key.startswith("bn"):
            tensor = filled(f"norm.{key}", shape, seed)  # the formula of norms goes by the key
        if key.endswith("running_var"):
            tensor = tensor.abs() + 1
        out[key] = torch.tensor(7) if key.endswith("tracked") else tensor
    return out


def write_official(path, state, **changes):
    """A file as the official training leaves it."""
    file = {"model": state, "optimizer": {}, "epoch": 3, "args": argparse.Namespace(dataset="unc"), "val_accu": 0.5}
    torch.save(file | changes, path)
    return path


def write_spm(path, pieces, characters=b""):
    """A sentencepiece file of (piece, score), whose first three are the special ones; returns the path."""

    def field(number, kind, data):
        return varint(number << 3 | kind) + (varint(len(data)) if kind == 2 else b"") + data

    def varint(number):
        out = b""
        while number > 127:
            out, number = out + bytes([number & 127 | 128]), number >> 7
        return out + bytes([number])

    def piece(name, score, kind):
        parts = field(1, 2, name.encode()) + field(2, 5, struct.pack("<f", score)) + field(3, 0, varint(kind))
        return field(1, 2, parts)

    special = b"".join(piece(name, 0.0, kind) for name, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3)))
    trainer = field(2, 2, field(4, 0, varint(len(pieces) + 3)))
    body = special + b"".join(piece(name, score, 1) for name, score in pieces)
    path.write_bytes(body + trainer + field(3, 2, field(1, 2, b"nmt_nfkc") + field(2, 2, characters)))
    return path


def encoded(w, s, pixels, ids, padding, hidden=()):
    """Pixels (3, S, S), (L,) ids, (L,) True on pads, numbers of hidden patches -> image (1 + P, D), text (L, D)."""
    e = under(w, "beit3.encoder.")
    patches = F.unfold(pixels[None], s.patch, stride=s.patch)[0].T
    patches = patches @ w["beit3.vision_embed.proj.weight"].flatten(1).T + w["beit3.vision_embed.proj.bias"]
    for n in hidden:
        patches[n] = w["beit3.vision_embed.mask_token"][0, 0]
    image = torch.cat([w["beit3.vision_embed.cls_token"][0], patches])
    image = image + e["embed_positions.A.weight"][2 : 2 + len(image)]
    text = w["beit3.text_embed.weight"][ids] + e["embed_positions.B.weight"][2 : 2 + len(ids)]
    x, count = torch.cat([image, text * ~padding[:, None]]), len(image)
    barrier = torch.cat([torch.zeros(count), torch.zeros(len(ids)).masked_fill(padding, -math.inf)])

    def experts(module, f, y):
        """Apply `f` with the weights of either expert to its rows."""
        return torch.cat([f(under(module, "A."), y[:count]), f(under(module, "B."), y[count:])])

    for layer in layers(e, "layers."):
        a = under(layer, "self_attn.")
        y = experts(under(layer, "self_attn_layer_norm."), norm, x)
        q, k, v = (
            experts(under(a, f"{name}_proj."), linear, y).view(len(y), s.heads, -1).transpose(0, 1) for name in "qkv"
        )
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2) + barrier
        y = (weights.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + experts(under(a, "out_proj."), linear, experts(under(a, "inner_attn_ln."), norm, y))
        y = experts(under(layer, "final_layer_norm."), norm, x)
        x = x + experts(under(layer, "ffn."), feed_forward, y)
    x = experts(under(e, "layer_norm."), norm, x)
    return x[:count], x[count:]


def forward(w, s, pixels, ids, padding):
    """State dict, (3, S, S), (L,) ids, (L,) True on pads -> (4,) cxcywh in 0..1, and the mask's cosines or None."""
    image, text = encoded(w, s, pixels, ids, padding)
    patches, first = image[1:], w["language_head.weight"] @ text[0]
    first = first / first.norm()
    cosines = torch.stack([(v / v.norm()) @ first for v in patches @ w["vision_head.weight"].T])
    box = (cosines.softmax(0)[:, None] * linear(under(w, "visu_proj."), patches)).sum(0)
    for i in range(3):
        box = linear(under(w, f"bbox_embed.layers.{i}."), box)
        box = box.relu() if i < 2 else box.sigmoid()
    return box, mask(w, s, patches, first) if s.masks else None


def mask(w, s, patches, first):
    """(P, D) and a unit vector (D,) -> cosines (8 S, 8 S)."""
    grid = patches.T.reshape(1, s.width, s.image // s.patch, -1)
    for i in (1, 2, 3):
        grid, b = F.conv_transpose2d(grid, w[f"seg_conv{i}.weight"], stride=2), under(w, f"bn{i}.")
        scale = b["weight"] / (b["running_var"] + 1e-5).sqrt()
        grid = (grid - b["running_mean"][:, None, None]) * scale[:, None, None] + b["bias"][:, None, None]
        grid = grid.relu() if i < 3 else grid
    grid = grid[0] / grid[0].norm(dim=0)
    return (grid * first[:, None, None]).sum(0)


def feed_forward(w, x):
    inner = linear(under(w, "fc1."), x)
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    return linear(under(w, "fc2."), norm(under(w, "ffn_layernorm."), inner))
