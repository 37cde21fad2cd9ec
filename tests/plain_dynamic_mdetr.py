"""Dynamic MDETR written down plainly over a table of official key names: files, forward pass, loss, gradients.

It shares nothing with pipelines/: Shi et al. 2024 on top of the plain TransVG's branches, or of the plain CLIP's
towers, one image and one text at a time, every token and every mask kept. What the fast one is compared with.
"""

import argparse
import math
from dataclasses import dataclass
from functools import partial

import plain_clipvg
import plain_transvg
import torch
from plain_transvg import layers, linear, norm, under
from torch.func import functional_call


@dataclass(frozen=True)
class Sizes(plain_transvg.Sizes):
    """The defaults are those of R50 with texts of 20 tokens."""

    layers: int = 3
    points: int = 36
    stages: int = 3


@dataclass(frozen=True)
class ClipSizes:
    """The defaults are those of ViT-B/16 at 640 pixels with texts of 40 tokens."""

    image: int = 640
    tokens: int = 40
    hidden: int = 512
    heads: int = 8
    feedforward: int = 4096
    layers: int = 3
    points: int = 160
    stages: int = 3
    patch: int = 16
    vision: int = 768
    vision_heads: int = 12
    depth: int = 12
    text: int = 512
    text_heads: int = 8
    text_depth: int = 12
    words: int = 49408
    context: int = 77


SMALL = Sizes(
    image=160, tokens=12, hidden=64, feedforward=96, encoder_layers=2, layers=2, words=120, text=128, text_layers=2,
    text_inner=96, points=9,
)  # fmt: skip
SMALL_CLIP = ClipSizes(
    image=80, tokens=12, hidden=64, feedforward=96, layers=2, points=9, vision=64, vision_heads=1, depth=2, text=64,
    text_heads=1, text_depth=2,
)  # fmt: skip


# --- files


def on_clip(s):
    return isinstance(s, ClipSizes)


def shapes(s):
    """Every key of an official state dict -> shape."""
    out, word = {}, "content" if on_clip(s) else "sampling"
    cells = (s.image // (s.patch if on_clip(s) else 32)) ** 2

    def pair(key, *shape):
        out[f"{key}.weight"], out[f"{key}.bias"] = shape, shape[:1]

    def attention(key, d):
        out[f"{key}.in_proj_weight"], out[f"{key}.in_proj_bias"] = (3 * d, d), (3 * d,)
        pair(f"{key}.out_proj", d, d)

    def layer(key, attentions, norms):
        for name in attentions:
            attention(f"{key}.{name}", s.hidden)
        pair(f"{key}.linear1", s.feedforward, s.hidden)
        pair(f"{key}.linear2", s.hidden, s.feedforward)
        for number in range(norms):
            pair(f"{key}.norm{number + 1}", s.hidden)

    if on_clip(s):
        out = {f"clip.{key}": shape for key, shape in clip_shapes(s).items()}
        for i, rows in enumerate((s.hidden, s.hidden, 4)):
            pair(f"bbox_embed.layers.{i}", rows, s.hidden)
    else:
        others = ("vl_", "reg_token")
        out = {key: shape for key, shape in plain_transvg.shapes(s).items() if not key.startswith(others)}
    out["vl_pos_embed.weight"] = (cells + s.tokens, s.hidden)
    for i in range(s.layers):
        layer(f"vl_encoder.encoder.layers.{i}", ["self_attn"], 2)
    for i in range(s.stages):
        pair(f"offset_generators.{i}", 2 * s.points, s.hidden)
        pair(f"update_{word}_queries.{i}.layers.0", s.hidden, 2 * s.hidden)
        pair(f"update_{word}_queries.{i}.layers.1", s.hidden, s.hidden)
        layer(f"vl_transformer.{i}.encoder.layers.0", ["self_attn"], 2)
        layer(f"vl_transformer.{i}.decoder.layers.0", ["self_attn", "multihead_attn"], 3)
        pair(f"vl_transformer.{i}.decoder.norm", s.hidden)
    out["init_reference_point.weight"], out[f"init_{word}_feature.weight"] = (1, 2), (1, s.hidden)
    return out


def clip_shapes(s):
    """Every key of CLIP's own state dict -> shape."""
    out = {
        "positional_embedding": (s.context, s.text),
        "text_projection": (s.text, s.hidden),
        "logit_scale": (),
        "visual.class_embedding": (s.vision,),
        "visual.positional_embedding": (1 + (s.image // s.patch) ** 2, s.vision),
        "visual.proj": (s.vision, s.hidden),
        "visual.conv1.weight": (s.vision, 3, s.patch, s.patch),
        "token_embedding.weight": (s.words, s.text),
    }
    norms = [("visual.ln_pre", s.vision), ("visual.ln_post", s.vision), ("ln_final", s.text)]
    for tower, d, depth in (("visual.", s.vision, s.depth), ("", s.text, s.text_depth)):
        for i in range(depth):
            block = f"{tower}transformer.resblocks.{i}"
            out |= {f"{block}.attn.in_proj_weight": (3 * d, d), f"{block}.attn.in_proj_bias": (3 * d,)}
            for part, a, b in (("attn.out_proj", d, d), ("mlp.c_fc", 4 * d, d), ("mlp.c_proj", d, 4 * d)):
                out |= {f"{block}.{part}.weight": (a, b), f"{block}.{part}.bias": (a,)}
            norms += [(f"{block}.ln_1", d), (f"{block}.ln_2", d)]
    for key, d in norms:
        out |= {f"{key}.weight": (d,), f"{key}.bias": (d,)}
    return out


def official_state(sizes, seed=0):
    """The whole official state dict, filled by a formula of key and index."""
    return {key: filled(key, shape, seed) for key, shape in shapes(sizes).items()}


def filled(key, shape, seed=0):
    """As the plain TransVG's and CLIP-VG's; points near the middle, the later ones moved by their queries.

    Attention is softer, for in a chain of stages the noise of float32 grows.
    """
    if key.startswith("clip."):
        return plain_clipvg.filled(key, shape, seed)
    numbers = plain_transvg.filled(key, shape, seed)
    if key == "init_reference_point.weight":
        return 0.5 + 0.1 * numbers
    if key.startswith("offset_generators."):
        return numbers * (3 if key.endswith("bias") else 0.1)
    return numbers * (0.6 if key.endswith("in_proj_weight") else 1)


def write_official(path, state, sizes=SMALL, **changes):
    """A file as the official training leaves it; `changes` replace or add top-level entries."""
    args = {"model_type": "CLIP" if on_clip(sizes) else "ResNet", "max_query_len": sizes.tokens}
    args |= {"stages": sizes.stages, "in_points": sizes.points, "nheads": 8, "vl_nheads": sizes.heads}
    return plain_transvg.write_official(path, state, plain_transvg.SMALL, args=argparse.Namespace(**args), **changes)


# --- the network


def inputs_of(sizes, image, text, vocabulary):
    """RGB uint8 (H, W, 3) and a text -> what `forward` takes; (ratio, left, top)."""
    pixels, padding, placement = plain_transvg.preprocessed(image, sizes.image)
    if on_clip(sizes):
        return (pixels, padding, plain_clipvg.token_ids(text), None), placement
    return (pixels, padding, *plain_transvg.token_ids(text, vocabulary, sizes.tokens)), placement


def forward(w, s, pixels, padding, ids, real):
    """As the plain TransVG's -> (4,) cxcywh in 0..1 of the canvas; on CLIP `real` is not used."""
    return stages(w, s, pixels, padding, ids, real)[0][-1]


def stages(w, s, pixels, padding, ids, real):
    """As `forward` -> each stage's box (K, 4), its points (K, P, 2), x and y in 0..1 of the canvas."""
    image, masked, text, real = (clip_branches if on_clip(s) else branches)(w, s, pixels, padding, ids, real)
    count, side = len(image), math.isqrt(len(image))
    # 1. Both in one sequence, the image first.
    places = w["vl_pos_embed.weight"]
    ignored = torch.cat([masked, ~real])
    fused, _ = plain_transvg.encoder(
        under(w, "vl_encoder.encoder."), torch.cat([image, text]), places, ignored, s.heads
    )
    cells, text = fused[:count], fused[count:]
    # 2. Stages.
    word = "content" if on_clip(s) else "sampling"
    query, centre = w[f"init_{word}_feature.weight"][0], w["init_reference_point.weight"][0]
    boxes, points = [], []
    for stage in range(s.stages):
        offsets = linear(under(w, f"offset_generators.{stage}."), query)
        points.append(offsets.view(-1, 2) + centre)
        taken, taken_places = (interpolated(x.view(side, side, -1), points[-1]) for x in (cells, places[:count]))
        nothing = torch.zeros(len(taken), dtype=torch.bool)
        prefix = f"vl_transformer.{stage}."
        memory, _ = plain_transvg.encoder(under(w, f"{prefix}encoder."), taken, taken_places, nothing, s.heads)
        text = decoded(under(w, f"{prefix}decoder."), text, places[count:], real, memory, taken_places, s.heads)
        pooled = text[real].mean(0)
        box = pooled
        for i in range(3):
            box = linear(under(w, f"bbox_embed.layers.{i}."), box)
            box = box.relu() if i < 2 else box.sigmoid()
        boxes.append(box)
        centre = box[:2]
        update = partial(under, w)
        inner = linear(update(f"update_{word}_queries.{stage}.layers.0."), torch.cat([pooled, query])).relu()
        query = linear(update(f"update_{word}_queries.{stage}.layers.1."), inner)
    return torch.stack(boxes), torch.stack(points)


def branches(w, s, pixels, padding, ids, real):
    """ResNet, DETR's encoder and BERT -> (P, d), masked (P,), (L, d), real (L,)."""
    side = s.image // 32
    masked = padding[::32, ::32]
    body = under(w, "visumodel.backbone.0.body.")
    features = functional_call(plain_transvg.resnet(s.blocks), body, (pixels[None],)).view(2048, side * side).T
    x = features @ w["visumodel.input_proj.weight"].flatten(1).T + w["visumodel.input_proj.bias"]
    place = plain_transvg.sine(masked, s.hidden).to(x.dtype)
    encoder = under(w, "visumodel.transformer.encoder.")
    image, _ = plain_transvg.encoder(encoder, x, place, masked.flatten(), s.heads)
    bert = {"input_ids": ids[None], "attention_mask": real[None].long()}
    text = functional_call(plain_transvg.bert(s), under(w, "textmodel.bert."), (), bert).last_hidden_state[0]
    return linear(under(w, "visu_proj."), image), masked.flatten(), linear(under(w, "text_proj."), text), real


def clip_branches(w, s, pixels, padding, ids, real):
    """CLIP's towers -> as `branches`; no cell is masked, and a text has neither its first token nor its end."""
    w = under(w, "clip.")
    tower = under(w, "visual.")
    patches = torch.nn.functional.unfold(pixels[None], s.patch, stride=s.patch)[0].T
    x = patches @ tower["conv1.weight"].flatten(1).T
    x = torch.cat([tower["class_embedding"][None], x]) + tower["positional_embedding"]
    x = norm(under(tower, "ln_pre."), x)
    for block in layers(tower, "transformer.resblocks."):
        x = plain_clipvg.clip_block(block, x, s.vision_heads, None)
    image = norm(under(tower, "ln_post."), x)[1:] @ tower["proj"]
    used = plain_clipvg.text_tower(w, s, ids)[1 : ids.argmax()][: s.tokens]
    text = torch.cat([used, used.new_zeros(s.tokens - len(used), used.shape[1])])
    return image, torch.zeros(len(image), dtype=torch.bool), text, torch.arange(s.tokens) < len(used)


def interpolated(table, points):
    """(h, h, d) cells, (P, 2) x and y in 0..1 -> (P, d); outside the middles of the cells as at the edge."""
    side = len(table)
    x, y = (points * side - 0.5).clamp(0, side - 1).unbind(1)
    left, top = x.detach().floor().long(), y.detach().floor().long()
    right, bottom = (left + 1).clamp(max=side - 1), (top + 1).clamp(max=side - 1)
    x, y = (x - left)[:, None], (y - top)[:, None]
    upper = table[top, left] * (1 - x) + table[top, right] * x
    lower = table[bottom, left] * (1 - x) + table[bottom, right] * x
    return upper * (1 - y) + lower * y


def decoded(w, text, places, real, memory, memory_places, heads):
    """Text tokens to themselves, to the points, and alone; then the last norm."""
    for layer in layers(w, "layers."):
        barrier = torch.zeros(len(text), dtype=text.dtype).masked_fill(~real, -math.inf)
        placed = text + places
        attended = attention(under(layer, "self_attn."), placed, placed, text, barrier, heads)
        text = norm(under(layer, "norm1."), text + attended)
        keys = memory + memory_places
        attended = attention(under(layer, "multihead_attn."), text + places, keys, memory, 0, heads)
        text = norm(under(layer, "norm2."), text + attended)
        inner = linear(under(layer, "linear2."), linear(under(layer, "linear1."), text).relu())
        text = norm(under(layer, "norm3."), text + inner)
    return norm(under(w, "norm."), text)


def attention(w, q, k, v, barrier, heads):
    """(L, d), (M, d) twice, what is added to the weights -> (L, d)."""
    matrices, biases = w["in_proj_weight"].chunk(3), w["in_proj_bias"].chunk(3)
    parts = (x @ a.T + b for x, a, b in zip((q, k, v), matrices, biases, strict=True))
    q, k, v = (x.view(len(x), heads, -1).transpose(0, 1) for x in parts)
    weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + barrier).softmax(-1)
    return linear(under(w, "out_proj."), (weights @ v).transpose(0, 1).flatten(1))


def trained(key):
    """Whether the official recipe moves the tensor of this key: all of CLIP but its scale, not the first point."""
    return key not in ("init_reference_point.weight", "clip.logit_scale") and plain_transvg.trained(key)


def first_step(w, sizes, batch):
    """As the plain TransVG's; gradients of what changes a box."""
    l1, giou, gradients = plain_transvg.first_step(w, sizes, batch, forward, trained)
    return l1, giou, {key: gradient for key, gradient in gradients.items() if gradient is not None}
