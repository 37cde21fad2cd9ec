"""MRefM's two steps and the visual tokenizer written down plainly: what is hidden is given, one row at a time."""

import math

import torch
import torch.nn.functional as F
from plain_clipvg import filled, linear, under
from plain_hivg_losses import dice, focal
from plain_oneref import encoded

DECODER = ("decoder.cls_token", "decode_task_layer.0.weight", "quantize.cluster_size", "quantize.embedding.initted")


def vqkd_state(width=64, layers=2, patch=8, side=2, codes=12, code=4, seed=0):
    """A file's table as BEiT v2 wrote it, the parts included that nobody here reads."""
    shapes = {
        "encoder.cls_token": (1, 1, width),
        "encoder.pos_embed": (1, 1 + side * side, width),
        "encoder.patch_embed.proj.weight": (width, 3, patch, patch),
        "encoder.patch_embed.proj.bias": (width,),
        "encoder.fc_norm.weight": (width,),
        "encoder.fc_norm.bias": (width,),
        "encode_task_layer.0.weight": (width, width),
        "encode_task_layer.0.bias": (width,),
        "encode_task_layer.2.weight": (code, width),
        "encode_task_layer.2.bias": (code,),
        "quantize.embedding.weight": (codes, code),
        "quantize.embedding.embed_avg": (codes, code),
        **dict.fromkeys(DECODER, (3,)),
    }
    for i in range(layers):
        for name, shape in (
            ("norm1.weight", (width,)), ("norm1.bias", (width,)), ("attn.q_bias", (width,)), ("attn.v_bias", (width,)),
            ("attn.qkv.weight", (3 * width, width)), ("attn.proj.weight", (width, width)), ("attn.proj.bias", (width,)),
            ("norm2.weight", (width,)), ("norm2.bias", (width,)), ("mlp.fc1.weight", (4 * width, width)),
            ("mlp.fc1.bias", (4 * width,)), ("mlp.fc2.weight", (width, 4 * width)), ("mlp.fc2.bias", (width,)),
        ):  # fmt: skip
            shapes[f"encoder.blocks.{i}.{name}"] = shape
    out = {key: filled(f"norm.{key}" if "norm" in key else key, shape, seed) for key, shape in shapes.items()}
    out["quantize.embedding.weight"] = F.normalize(torch.randn(codes, code, generator=torch.Generator().manual_seed(1)))
    return out


def write_vqkd(path, **sizes):
    torch.save({"model": vqkd_state(**sizes)}, path)
    return path


def names_of(w, pixels, patch, head=64):
    """State dict, one image (S, S, 3) of 0..255 -> the number of each patch's nearest code, row by row."""
    e, side = under(w, "encoder."), len(pixels) // patch
    cells = [
        pixels[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].permute(2, 0, 1).flatten() / 255 * 2 - 1
        for r in range(side)
        for c in range(side)
    ]
    rows = torch.stack(cells) @ e["patch_embed.proj.weight"].flatten(1).T + e["patch_embed.proj.bias"]
    table = e["pos_embed"][0]
    before = math.isqrt(len(table) - 1)
    if before != side:
        grid = table[1:].T.reshape(1, -1, before, before)
        # As the official code enlarges it: a tenth of a patch too much.
        grid = F.interpolate(grid, scale_factor=((side + 0.1) / before,) * 2, mode="bicubic")
        assert grid.shape[-1] == side
        table = torch.cat([table[:1], grid[0].flatten(1).T])
    x = torch.cat([e["cls_token"][0], rows]) + table
    for i in range(sum(key.endswith("norm1.bias") for key in e)):
        b = under(e, f"blocks.{i}.")
        y = norm(under(b, "norm1."), x)
        q, k, v = (y @ m.T for m in b["attn.qkv.weight"].chunk(3))
        q, v = q + b["attn.q_bias"], v + b["attn.v_bias"]
        parts = []
        for at in range(0, q.shape[1], head):
            scores = q[:, at : at + head] @ k[:, at : at + head].T / math.sqrt(min(head, q.shape[1]))
            parts.append(scores.softmax(-1) @ v[:, at : at + head])
        x = x + linear(under(b, "attn.proj."), torch.cat(parts, dim=1))
        inner = linear(under(b, "mlp.fc1."), norm(under(b, "norm2."), x))
        x = x + linear(under(b, "mlp.fc2."), inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))))
    out = []
    for row in norm(under(e, "fc_norm."), x[1:]):
        z = linear(under(w, "encode_task_layer.2."), torch.tanh(linear(under(w, "encode_task_layer.0."), row)))
        z = z / z.norm()
        out.append(int(((w["quantize.embedding.weight"] - z) ** 2).sum(1).argmin()))
    return out


def norm(w, x):
    """The tokenizer's: its epsilon is not the encoder's."""
    return F.layer_norm(x, x.shape[-1:], w["weight"], w["bias"], 1e-6)


def unit(x):
    return x / x.norm()


def mlp(w, x):
    for i in range(3):
        x = linear(under(w, f"layers.{i}."), x)
        x = x.relu() if i < 2 else x
    return x


def constraint(w, s, image, text, box):
    """Focal and dice of cosines, as logits, against the patches whose first pixel lies in the box (cxcywh)."""
    first, side = unit(w["language_head.weight"] @ text[0]), s.image // s.patch
    cosines = torch.stack([unit(w["vision_head.weight"] @ x) @ first for x in image[1:]])
    cx, cy, bw, bh = (float(x) for x in box)
    inside = [
        cx - bw / 2 <= (c * s.patch + 0.5) / s.image < cx + bw / 2
        and cy - bh / 2 <= (r * s.patch + 0.5) / s.image < cy + bh / 2
        for r in range(side)
        for c in range(side)
    ]
    inside = torch.tensor(inside).float()
    return focal(cosines, inside), dice(cosines, inside)


def image_step(w, s, rows, codes):
    """Rows of (pixels, ids, padding, box, hidden patches), codes of all patches -> each loss's mean."""
    focals, dices, tokens, relations, side = [], [], [], [], s.image // s.patch
    for (pixels, ids, padding, box, hidden), own in zip(rows, codes, strict=True):
        image, text = encoded(w, s, pixels, ids, padding, hidden)
        a, b = constraint(w, s, image, text, box)
        focals.append(a)
        dices.append(b)
        first = unit(w["language_head.weight"] @ text[0])
        cx, cy, bw, bh = (float(x) * side for x in box)
        for n in range(side * side):
            both = unit(w["vision_head.weight"] @ image[1 + n]) * first
            if n in hidden:
                logits = linear(under(w, "mim_head."), unit(both))
                tokens.append(logits.logsumexp(0) - logits[own[n]])
            wanted = [(n % side - cx) / side, (n // side - cy) / side, 1 / max(bw, 1), 1 / max(bh, 1)]
            relations.append((mlp(under(w, "mim_vts_head."), both) - torch.tensor(wanted)).abs().sum())
    names = ("patch_focal", "patch_dice", "image_tokens", "image_relation")
    return {name: torch.stack(x).mean() for name, x in zip(names, (focals, dices, tokens, relations), strict=True)}


def text_step(w, s, rows, scores=None, dropped=0.0):
    """Rows of (pixels, ids, padding, box, given ids, replaced places) -> each loss's mean."""
    focals, dices, tokens, relations = [], [], [], []
    for n, (pixels, ids, padding, box, given, places) in enumerate(rows):
        image, text = encoded(w, s, pixels, given, padding)
        a, b = constraint(w, s, image, text, box)
        focals.append(a)
        dices.append(b)
        for place in places:
            p = linear(under(w, "mlm_head."), text[place]).log_softmax(0)
            q = torch.full_like(p, 0.1 / (len(p) - 1))
            q[ids[place]] = 0.9
            tokens.append((q * (q.log() - p)).sum())
        if scores is not None:
            view = unit(w["vision_head.weight"] @ image[0])
            each = [mlp(under(w, "mlm_sts_head."), unit(w["language_head.weight"] @ x) * view) for x in text[1:-1]]
            p, q = torch.cat(each).softmax(0).log_softmax(0), scores[n].softmax(0)
            relations.append((q * (q.log() - p)).sum())
    tokens = sorted(tokens, key=float)[: int(len(tokens) * (1 - dropped))]
    out = {"patch_focal": focals, "patch_dice": dices, "text_tokens": tokens} | (
        {"text_relation": relations} if scores is not None else {}
    )
    return {name: torch.stack(x).mean() for name, x in out.items()}
