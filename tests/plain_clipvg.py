"""CLIP-VG written down plainly over a table of official key names: files, preprocessing, forward pass, loss, gradients.

It shares nothing with clipvg/ or with open_clip's towers: sections III-A and III-B of the paper in a few functions, one
image and one text at a time, every token and every mask kept. Slow and obvious: what the fast one is compared with.
"""

import argparse
import math
import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image


@dataclass(frozen=True)
class Sizes:
    """The defaults are ViT-B/16's."""

    vision: int = 768
    patch: int = 16
    depth: int = 12
    taps: tuple[int, ...] = (0, 3, 7, 11)
    vision_heads: int = 12
    text: int = 512
    text_depth: int = 12
    text_heads: int = 8
    embed: int = 512
    hidden: int = 512
    feedforward: int = 2048
    layers: int = 6
    heads: int = 8
    image: int = 224
    context: int = 77
    words: int = 49408


OFFICIAL = {
    "ViT-B/16": Sizes(),
    "ViT-B/32": Sizes(patch=32),
    "ViT-L/14": Sizes(
        vision=1024, patch=14, depth=24, taps=(0, 7, 15, 23), vision_heads=16, text=768, text_heads=12, embed=768,
        hidden=768,
    ),
}  # fmt: skip


# --- files


def shapes(s):
    """Every key of an official state dict without its aliases -> (shape, dtype of a file trained on a GPU)."""
    half, single, patches = torch.float16, torch.float32, (s.image // s.patch) ** 2
    out = {
        "clip.positional_embedding": ((s.context, s.text), single),
        "clip.text_projection": ((s.text, s.embed), half),
        "clip.logit_scale": ((), single),
        "clip.visual.class_embedding": ((s.vision,), single),
        "clip.visual.positional_embedding": ((1 + patches, s.vision), single),
        "clip.visual.proj": ((s.vision, s.embed), half),
        "clip.visual.conv1.weight": ((s.vision, 3, s.patch, s.patch), half),
        "clip.token_embedding.weight": ((s.words, s.text), single),
        "reg_token.weight": ((1, s.hidden), single),
        "vl_pos_embed.weight": ((1 + s.context + 1 + patches, s.hidden), single),
    }

    def pair(key, dtype, *shape):
        out[f"{key}.weight"], out[f"{key}.bias"] = (shape, dtype), (shape[:1], dtype)

    def attention(key, dtype, d):
        out[f"{key}.in_proj_weight"], out[f"{key}.in_proj_bias"] = ((3 * d, d), dtype), ((3 * d,), dtype)
        pair(f"{key}.out_proj", dtype, d, d)

    for tower, d, depth in (("clip.visual", s.vision, s.depth), ("clip", s.text, s.text_depth)):
        for i in range(depth):
            block = f"{tower}.transformer.resblocks.{i}"
            attention(f"{block}.attn", half, d)
            pair(f"{block}.ln_1", single, d)
            pair(f"{block}.mlp.c_fc", half, 4 * d, d)
            pair(f"{block}.mlp.c_proj", half, d, 4 * d)
            pair(f"{block}.ln_2", single, d)
    for key, d in (("clip.visual.ln_pre", s.vision), ("clip.visual.ln_post", s.vision), ("clip.ln_final", s.text)):
        pair(key, single, d)
    pair("visu_proj", single, s.hidden, 512)
    pair("text_proj", single, s.hidden, s.embed)
    pair("ml_visu_proj", single, s.hidden, len(s.taps) * s.vision)
    for i in range(s.layers):
        layer = f"vl_transformer.encoder.layers.{i}"
        attention(f"{layer}.self_attn", single, s.hidden)
        pair(f"{layer}.linear1", single, s.feedforward, s.hidden)
        pair(f"{layer}.linear2", single, s.hidden, s.feedforward)
        pair(f"{layer}.norm1", single, s.hidden)
        pair(f"{layer}.norm2", single, s.hidden)
    for i, rows in enumerate((s.hidden, s.hidden, 4)):
        pair(f"bbox_embed.layers.{i}", single, rows, s.hidden)
    return out


def aliases(key):
    """The second names under which an official file holds the same tensor."""
    if key.startswith("clip.visual."):
        return ["image_encoder_clip_vg." + key.removeprefix("clip.visual.")]
    if key.startswith("clip.") and key != "clip.logit_scale":
        return ["text_encoder_clip_vg." + key.removeprefix("clip.")]
    return []


def official_state(sizes, seed=0):
    """The whole official state dict, aliases and the dead projection included, filled by a formula of key and index."""
    out = {}
    for key, (shape, dtype) in shapes(sizes).items():
        tensor = filled(key, shape, seed).to(dtype)
        out |= dict.fromkeys([key, *aliases(key)], tensor)
    return out


def filled(key, shape, seed=0):
    """Numbers like those of trained weights: norms near one, matrices that keep the size of what they multiply.

    The fractions of large sines, for the sines alone would make matrices of rank two.
    """
    place = torch.arange(math.prod(shape), dtype=torch.float64)
    waves = torch.sin(place * 12.9898 + zlib.crc32(key.encode()) % 1000 + 7919 * seed) * 43758.5453
    numbers = ((waves - waves.floor()) * 2 - 1) * math.sqrt(3)  # mean 0, deviation 1
    norm = any(part.startswith(("ln_", "norm")) for part in key.split("."))
    if key == "clip.logit_scale":
        numbers = numbers * 0 + math.log(100)
    elif norm:
        numbers = 0.1 * numbers + key.endswith("weight")
    elif key.endswith(("bias", "in_proj_bias")):
        numbers = numbers * 0.1
    elif "positional" in key or "class_embedding" in key:
        numbers = numbers * 0.3
    elif "embed.weight" in key or "embedding" in key or "reg_token" in key:
        numbers = numbers * 0.7
    else:
        fan_in = shape[0] if key.endswith(("text_projection", "visual.proj")) else math.prod(shape[1:])
        gain = 2.0 if "in_proj" in key else 0.5 if "c_proj" in key else 1.2
        numbers = numbers * gain / math.sqrt(fan_in)
    return numbers.view(shape).float()


def write_official(path, state, **changes):
    """A file as the official training leaves it; `changes` replace or add top-level entries."""
    file = {
        "model": state,
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 2.5e-4}]},
        "lr_scheduler": {"last_epoch": 4, "base_lrs": [2.5e-4]},
        "epoch": 4,
        "args": argparse.Namespace(model="ViT-B/16", imsize=224, max_query_len=77, lr=2.5e-4, device="cuda"),
        "val_accu": 0.5,
    }
    torch.save(file | changes, path)
    return path


# --- images and texts


def preprocessed(image, side=224, patch=16):
    """RGB uint8 (H, W, 3) -> (3, side, side) normalised, (P,) masked patches, (ratio, left, top)."""
    height, width = image.shape[:2]
    ratio = side / max(height, width)
    w, h = round(width * ratio), round(height * ratio)
    pixels = np.asarray(Image.fromarray(image).resize((w, h), Image.BILINEAR), dtype=np.float32) / np.float32(255)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    left, top = round((side - w) / 2 - 0.1), round((side - h) / 2 - 0.1)
    canvas, padding = np.zeros((side, side, 3), np.float32), np.ones((side, side), np.int64)
    canvas[top : top + h, left : left + w] = (pixels - mean) / std
    padding[top : top + h, left : left + w] = 0
    return torch.from_numpy(canvas).permute(2, 0, 1), masked_patches(padding, side // patch), (ratio, left, top)


def masked_patches(padding, count):
    """(S, S) of 0 and 1 -> (count * count,): bilinear between the pixels beside each patch's centre, then rounded."""
    step = len(padding) / count
    out = torch.zeros(count, count, dtype=torch.bool)
    for row in range(count):
        for column in range(count):
            value = 0.0
            for y, by in beside((row + 0.5) * step - 0.5):
                for x, bx in beside((column + 0.5) * step - 0.5):
                    value += padding[y, x] * by * bx
            out[row, column] = round(value) == 1
    return out.flatten()


def beside(place):
    """The two whole numbers around a place, with their shares."""
    low = math.floor(place)
    return (low, low + 1 - place), (low + 1 if place > low else low, place - low)


def token_ids(text, context=77):
    """(context,) CLIP's ids; those of a text that is too long end at the context, the last one closing it."""
    return tokenizer()([text.lower()], context_length=context)[0]


@cache
def tokenizer():
    return open_clip.get_tokenizer("ViT-B-16")


def in_image(box, placement, side=224):
    """cxcywh in 0..1 of the canvas -> xyxy in pixels of the image, unclipped."""
    ratio, left, top = placement
    cx, cy, w, h = (side * float(number) for number in box)
    edges = (cx - w / 2 - left, cy - h / 2 - top, cx + w / 2 - left, cy + h / 2 - top)
    return tuple(edge / ratio for edge in edges)


def ground_truth(box, placement, form="xywh", side=224):
    """An annotation's box in pixels, xywh or xyxy as its list holds it -> cxcywh in 0..1 of the canvas.

    Its four numbers are cut to integers first.
    """
    ratio, left, top = placement
    x0, y0, x1, y1 = (int(number) for number in box)
    if form == "xywh":
        x1, y1 = x0 + x1, y0 + y1
    x0, y0, x1, y1 = x0 * ratio + left, y0 * ratio + top, x1 * ratio + left, y1 * ratio + top
    return torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]) / side


# --- the network


def forward(w, sizes, pixels, masked, ids):
    """State dict, (3, S, S), (P,) bool, (77,) -> (4,) cxcywh in 0..1 of the canvas."""
    image = linear(under(w, "ml_visu_proj."), image_tower(under(w, "clip.visual."), sizes, pixels))  # (1 + P, d)
    text = linear(under(w, "text_proj."), text_tower(under(w, "clip."), sizes, ids))  # (77, d)
    x = torch.cat([w["reg_token.weight"], text, image])
    no = torch.tensor([False])
    ignored = torch.cat([no, ids == 0, no, masked])
    position = w["vl_pos_embed.weight"]
    barrier = torch.zeros(len(x), len(x), dtype=x.dtype).masked_fill(ignored, -math.inf)
    for layer in layers(w, "vl_transformer.encoder.layers."):
        placed = x + position
        x = norm(under(layer, "norm1."), x + attention(under(layer, "self_attn."), placed, x, sizes.heads, barrier))
        inner = linear(under(layer, "linear2."), linear(under(layer, "linear1."), x).relu())
        x = norm(under(layer, "norm2."), x + inner)
    box = x[0]
    for i in range(3):
        box = linear(under(w, f"bbox_embed.layers.{i}."), box)
        box = box.relu() if i < 2 else box.sigmoid()
    return box


def image_tower(w, sizes, pixels):
    """(3, S, S) -> (1 + P, taps * W), the residual stream behind each tapped block."""
    patches = F.unfold(pixels[None], sizes.patch, stride=sizes.patch)[0].T  # (P, 3 * patch * patch)
    x = patches @ w["conv1.weight"].flatten(1).T
    x = torch.cat([w["class_embedding"][None], x]) + w["positional_embedding"]
    x = norm(under(w, "ln_pre."), x)
    taps = []
    for block in layers(w, "transformer.resblocks."):
        x = clip_block(block, x, sizes.vision_heads, None)
        taps.append(x)
    return torch.cat([taps[i] for i in sizes.taps], dim=1)


def text_tower(w, sizes, ids):
    """(77,) -> (77, E), every token."""
    x = w["token_embedding.weight"][ids] + w["positional_embedding"]
    later = torch.full((len(x), len(x)), -math.inf, dtype=x.dtype).triu(1)
    for block in layers(w, "transformer.resblocks."):
        x = clip_block(block, x, sizes.text_heads, later)
    return norm(under(w, "ln_final."), x) @ w["text_projection"]


def clip_block(w, x, heads, barrier):
    y = norm(under(w, "ln_1."), x)
    x = x + attention(under(w, "attn."), y, y, heads, barrier)
    inner = linear(under(w, "mlp.c_fc."), norm(under(w, "ln_2."), x))
    return x + linear(under(w, "mlp.c_proj."), inner * (1.702 * inner).sigmoid())


def attention(w, placed, x, heads, barrier):
    """(L, d) for queries and keys, (L, d) for values, what is added to the (L, L) weights -> (L, d)."""
    matrices, biases = w["in_proj_weight"].chunk(3), w["in_proj_bias"].chunk(3)
    parts = (y @ a.T + b for y, a, b in zip((placed, placed, x), matrices, biases, strict=True))
    q, k, v = (y.view(len(x), heads, -1).transpose(0, 1) for y in parts)
    weights = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    weights = weights if barrier is None else weights + barrier
    return linear(under(w, "out_proj."), (weights.softmax(-1) @ v).transpose(0, 1).flatten(1))


def linear(w, x):
    return x @ w["weight"].T + w["bias"]


def norm(w, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w["weight"] + w["bias"]


def under(w, prefix):
    return {key[len(prefix) :]: value for key, value in w.items() if key.startswith(prefix)}


def layers(w, prefix):
    w = under(w, prefix)
    return [under(w, f"{i}.") for i in range(1 + max(int(key.partition(".")[0]) for key in w))]


# --- a step of training


def losses(boxes, targets):
    """(B, 4) twice, cxcywh in 0..1 -> the L1 term and the GIoU term."""
    l1 = (boxes - targets).abs().sum() / len(boxes)
    giou = sum(1 - generalised_iou(a, b) for a, b in zip(boxes, targets, strict=True)) / len(boxes)
    return l1, giou


def generalised_iou(a, b):
    """cxcywh twice -> a number in -1..1."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (
        (c[0] - c[2] / 2, c[1] - c[3] / 2, c[0] + c[2] / 2, c[1] + c[3] / 2) for c in (a, b)
    )
    shared = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp(min=0)
    shared = shared * (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp(min=0)
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared
    hull = (torch.maximum(ax1, bx1) - torch.minimum(ax0, bx0)) * (torch.maximum(ay1, by1) - torch.minimum(ay0, by0))
    return shared / union - (hull - union) / hull


def trained(key):
    """Whether the official recipe trains the tensor of this key; the dead projection gets no gradient."""
    return key == "clip.visual.positional_embedding" or not key.startswith(("clip.", "image_", "text_enc", "visu_"))


def trained_steps(w, sizes, batches, rate, decay):
    """Take AdamW's step a batch of (pixels, masked, ids, target), without dropout -> each step's loss, the weights."""
    w = {key: tensor.clone().requires_grad_() if trained(key) else tensor for key, tensor in w.items()}
    adamw = torch.optim.AdamW([t for t in w.values() if t.requires_grad], lr=rate, weight_decay=decay, foreach=False)
    out = []
    for batch in batches:
        boxes = torch.stack([forward(w, sizes, pixels, masked, ids) for pixels, masked, ids, _ in batch])
        loss = sum(losses(boxes, torch.stack([target for *_, target in batch])))
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        out.append(loss.item())
    return out, {key: tensor.detach() for key, tensor in w.items() if tensor.requires_grad}


def first_step(w, sizes, batch):
    """A batch of (pixels, masked, ids, target) -> the L1 term, the GIoU term, {key: gradient}; dropout is off."""
    w = {key: tensor.clone().requires_grad_() if trained(key) else tensor for key, tensor in w.items()}
    boxes = torch.stack([forward(w, sizes, pixels, masked, ids) for pixels, masked, ids, _ in batch])
    l1, giou = losses(boxes, torch.stack([target for *_, target in batch]).to(boxes.dtype))
    (l1 + giou).backward()
    return l1.item(), giou.item(), {key: tensor.grad for key, tensor in w.items() if tensor.requires_grad}
