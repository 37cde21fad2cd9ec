"""HiVG written down plainly over a table of official key names: files, the forward pass, the maps of its mask losses.

It shares nothing with pipelines/hivg: one image and one text at a time, every token and every mask kept, adapters
beside their matrices. Preprocessing, ids, norms and the filling formula are plain_clipvg's, another plain page.
"""

import argparse
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from plain_clipvg import filled, layers, linear, norm, under


@dataclass(frozen=True)
class Sizes:
    """The defaults are ViT-B/16's on RefCOCO."""

    vision: int = 768
    patch: int = 16
    depth: int = 12
    vision_heads: int = 12
    taps: tuple[int, ...] = (0, 3, 7, 11)
    bridges: tuple[int, ...] = (0, 3, 7, 11)
    text: int = 512
    text_depth: int = 12
    text_heads: int = 8
    embed: int = 512
    states: tuple[int, ...] = (12,)
    mixup: bool = False
    hidden: int = 512
    heads: int = 8
    feedforward: int = 2048
    layers: int = 6
    inner: int = 3072
    rank: int = 32
    image: int = 224
    context: int = 77
    words: int = 49408


LARGE = {
    "vision": 1024, "patch": 14, "depth": 24, "vision_heads": 16, "taps": (5, 11, 17, 23), "bridges": (4, 10, 16, 22),
    "text": 768, "text_heads": 12, "embed": 768, "hidden": 768,
}  # fmt: skip
OFFICIAL = {
    "B/16 unc": Sizes(),
    "B/16 unc+": Sizes(states=(6, 12)),
    "B/16 gref": Sizes(states=tuple(range(1, 13))),
    "B/16 mixup": Sizes(mixup=True),
    "L/14 unc": Sizes(**LARGE),
}


# --- files


def shapes(s):
    """Every key of an official state dict with CLIP's at no level of `base_model.model.` -> its shape."""
    patches = (s.image // s.patch) ** 2
    out = {"clip.logit_scale": ()}

    def pair(key, *shape, adapted=False):
        out[f"{key}.weight"], out[f"{key}.bias"] = shape, shape[:1]
        if adapted:
            out[f"{key}.lora_A.default.weight"] = (s.rank, shape[1])
            out[f"{key}.lora_B.default.weight"] = (shape[0], s.rank)

    def attention(key, d):
        for name in ("k", "v", "q", "out"):
            pair(f"{key}.{name}_proj", d, d, adapted=True)

    def perceptron(key, d, inner):
        pair(f"{key}.fc1", inner, d)
        pair(f"{key}.fc2", d, inner)

    text, vision = "clip.text_model", "clip.vision_model"
    out[f"{text}.embeddings.token_embedding.weight"] = (s.words, s.text)
    out[f"{text}.embeddings.position_embedding.weight"] = (s.context, s.text)
    out[f"{vision}.embeddings.class_embedding"] = (s.vision,)
    out[f"{vision}.embeddings.patch_embedding.weight"] = (s.vision, 3, s.patch, s.patch)
    out[f"{vision}.embeddings.position_embedding.weight"] = (1 + patches, s.vision)
    for tower, d, depth in ((text, s.text, s.text_depth), (vision, s.vision, s.depth)):
        for i in range(depth):
            block = f"{tower}.encoder.layers.{i}"
            attention(f"{block}.self_attn", d)
            pair(f"{block}.layer_norm1", d)
            perceptron(f"{block}.mlp", d, 4 * d)
            pair(f"{block}.layer_norm2", d)
    for i in s.bridges:
        block = f"{vision}.encoder.layers.{i}"
        pair(f"{block}.cross_norm", s.vision)
        attention(f"{block}.cross_attn", s.vision)
        perceptron(f"{block}.cross_mlp", s.vision, 4 * s.vision)
        pair(f"{block}.cross_gate", s.vision, len(s.states) * s.text)
        for k in range(len(s.states)):
            out[f"{block}.cross_adaptive_weights.{k}.weight"] = (s.context, s.text)
    pair(f"{text}.final_layer_norm", s.text)
    pair(f"{vision}.pre_layrnorm", s.vision)
    pair(f"{vision}.post_layernorm", s.vision)
    out["clip.visual_projection.weight"] = (s.embed, s.vision)
    out["clip.text_projection.weight"] = (s.embed, s.text)
    d = s.hidden
    pair("visu_proj", d, d)
    pair("condition_text_proj", s.vision, s.embed)
    pair("ml_text_feat_perceiver", s.vision, len(s.states) * s.text)
    pair("text_proj", d, s.embed)
    pair("ml_visual_projection", d, len(s.taps) * s.vision)
    out |= {"reg_token.weight": (1, d), "reg_pos_embed.weight": (1, d)}
    out["condition_text_pos_embed.weight"] = (s.context, s.vision)
    out["vl_pos_embed.weight"] = (2 + patches + s.context, d)
    for i in range(s.layers):
        layer = f"vl_transformer.encoder.layers.{i}"
        out[f"{layer}.self_attn.in_proj_weight"], out[f"{layer}.self_attn.in_proj_bias"] = (3 * d, d), (3 * d,)
        pair(f"{layer}.self_attn.out_proj", d, d)
        pair(f"{layer}.linear1", s.feedforward, d)
        pair(f"{layer}.linear2", d, s.feedforward)
        pair(f"{layer}.norm1", d)
        pair(f"{layer}.norm2", d)
    pair("vl_transformer.encoder.norm", d)
    for i, rows in enumerate((d, d, 4)):
        pair(f"bbox_embed.layers.{i}", rows, d)
    pair("visu_token_norm", d)
    perceptron("visu_token_mlp", d, s.inner)
    return out | {f"seg_conv{i}.weight": (d, d, 2, 2) for i in (1, 2, 3)}


def official_state(sizes, seed=0):
    """The whole state dict but for nesting and tables of positions, filled by a formula of key and index."""
    return {key: filled(key, shape, seed) * size_of(key) for key, shape in shapes(sizes).items()}


def size_of(key):
    """What keeps numbers in range: adapters and the bridge's own weights count, and nothing explodes."""
    return 0.4 if ".lora_" in key or "mlp.fc2.weight" in key else 1.0


def nested(state, level):
    """The state dict as a file of a stage has it: CLIP's keys `level` times wrapped, and CLIP's tables of positions."""
    start = "clip." + "base_model.model." * level
    out = {start + k.removeprefix("clip.") if k.startswith("clip.") else k: t for k, t in state.items()}
    for tower in ("text_model", "vision_model"):
        count = len(state[f"clip.{tower}.embeddings.position_embedding.weight"])
        out[f"{start}{tower}.embeddings.position_ids"] = torch.arange(count)[None]
    return out


def write_official(path, state, level=4, **arguments):
    """A file as the official training leaves it."""
    names = {"dataset": "unc", "mixup_pretrain": False, "model": "ViT-B/16", "imsize": 224, "hi_lora_stage": 3}
    file = {
        "model": nested(state, level),
        "optimizer": {"state": {}, "param_groups": [{"lr": 2.5e-5}]},
        "lr_scheduler": {"last_epoch": 4},
        "epoch": 4,
        "args": argparse.Namespace(**names | arguments),
        "val_accu": torch.tensor(0.5),
    }
    torch.save(file, path)
    return path


# --- the network


def forward(w, s, pixels, masked, ids):
    """State dict, (3, S, S), (P,) bool, (77,) -> (4,) cxcywh in 0..1 of the canvas."""
    return forward_batch(w, s, [(pixels, masked, ids)], mixed=False)[0]


def forward_batch(w, s, samples, mixed):
    """The boxes of a batch (B, 4); `mixed` lets each bridge take the wrong rows, as the official code does."""
    texts = [text_tower(under(w, "clip."), s, ids) for _, _, ids in samples]
    bridges = bridged(w, s, texts, mixed)
    parts = zip(samples, texts, bridges, strict=True)
    return torch.stack([box(w, fused(w, s, *sample, last, bridge)[0]) for sample, (_, last), bridge in parts])


def bridged(w, s, texts, mixed):
    """What each sample's bridges take, a (77, W) for each bridge."""
    bridges = [memories(w, s, *text) for text in texts]
    for k in range(len(s.bridges) if mixed else 0):
        flat = torch.stack([bridge[k] for bridge in bridges], dim=1).flatten(0, 1)  # position by position
        for b in range(len(texts)):
            bridges[b] = [*bridges[b][:k], flat[b * s.context : (b + 1) * s.context], *bridges[b][k + 1 :]]
    return bridges


def box(w, x):
    for i in range(3):
        x = linear(under(w, f"bbox_embed.layers.{i}."), x)
        x = x.relu() if i < 2 else x.sigmoid()
    return x


def fused(w, s, pixels, masked, ids, last, bridge):
    """All tokens behind the V-L transformer and its final norm, (2 + P + 77, d)."""
    image = image_tower(under(w, "clip.vision_model."), s, pixels, bridge)
    image = linear(under(w, "visu_proj."), linear(under(w, "ml_visual_projection."), image))
    text = linear(under(w, "text_proj."), last @ w["clip.text_projection.weight"].T)
    x = torch.cat([w["reg_token.weight"], image, text])
    position = w["vl_pos_embed.weight"]
    ignored = torch.cat([torch.tensor([False, False]), masked, ids == 0])
    for layer in layers(w, "vl_transformer.encoder.layers."):
        y = norm(under(layer, "norm1."), x)
        x = x + joint_attention(under(layer, "self_attn."), y + position, y, s.heads, ignored)
        y = norm(under(layer, "norm2."), x)
        x = x + linear(under(layer, "linear2."), linear(under(layer, "linear1."), y).relu())
    return norm(under(w, "vl_transformer.encoder.norm."), x)


def text_tower(w, s, ids):
    """(77,) -> the embeddings and each block's output, and the last one normed, (77, w) each."""
    w = under(w, "text_model.")
    x = w["embeddings.token_embedding.weight"][ids] + w["embeddings.position_embedding.weight"]
    later = torch.full((len(x), len(x)), -math.inf, dtype=x.dtype).triu(1)
    states = [x]
    for block in layers(w, "encoder.layers."):
        x = x + attention(under(block, "self_attn."), norm(under(block, "layer_norm1."), x), None, s.text_heads, later)
        x = x + quick_mlp(under(block, "mlp."), norm(under(block, "layer_norm2."), x))
        states.append(x)
    return states, norm(under(w, "final_layer_norm."), x)


def memories(w, s, states, last):
    """What each bridged block takes of a text, (77, W) each."""
    if s.mixup:
        features = last @ w["clip.text_projection.weight"].T
        return [linear(under(w, "condition_text_proj."), features)] * len(s.bridges)
    out = []
    for i in s.bridges:
        block = under(w, f"clip.vision_model.encoder.layers.{i}.")
        parts = [states[n] * block[f"cross_adaptive_weights.{k}.weight"] + states[n] for k, n in enumerate(s.states)]
        out.append(linear(under(block, "cross_gate."), torch.cat(parts, dim=1)))
    return out


def image_tower(w, s, pixels, bridge):
    """(3, S, S) and a (77, W) for each bridge -> (1 + P, taps * W)."""
    states = image_states(w, s, pixels, bridge)
    return torch.cat([states[number] for number in s.taps], dim=1)


def image_states(w, s, pixels, bridge):
    """The output of every block, (1 + P, W) each."""
    patches = F.unfold(pixels[None], s.patch, stride=s.patch)[0].T @ w["embeddings.patch_embedding.weight"].flatten(1).T
    x = torch.cat([w["embeddings.class_embedding"][None], patches]) + w["embeddings.position_embedding.weight"]
    x, states, left = norm(under(w, "pre_layrnorm."), x), [], list(bridge)
    for number, block in enumerate(layers(w, "encoder.layers.")):
        y = norm(under(block, "layer_norm1."), x)
        x = x + attention(under(block, "self_attn."), y, None, s.vision_heads, None)
        if number in s.bridges:
            y = attention(
                under(block, "cross_attn."), norm(under(block, "cross_norm."), x), left.pop(0), s.vision_heads, None
            )
            x = x + quick_mlp(under(block, "cross_mlp."), y)
        x = x + quick_mlp(under(block, "mlp."), norm(under(block, "layer_norm2."), x))
        states.append(x)
    return states


def quick_mlp(w, x):
    inner = linear(under(w, "fc1."), x)
    return linear(under(w, "fc2."), inner * (1.702 * inner).sigmoid())


def adapted(w, x):
    """A linear layer and its adapter, which counts half."""
    out = linear(w, x)
    if "lora_A.default.weight" in w:
        out = (
            out
            + 16 / len(w["lora_A.default.weight"]) * (x @ w["lora_A.default.weight"].T) @ w["lora_B.default.weight"].T
        )
    return out


def attention(w, x, memory, heads, barrier):
    """(L, d) attends to itself or to (M, d), with what is added to the weights -> (L, d)."""
    source = x if memory is None else memory
    q, k, v = (
        adapted(under(w, f"{name}_proj."), y).view(len(y), heads, -1).transpose(0, 1)
        for name, y in (("q", x), ("k", source), ("v", source))
    )
    weights = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    weights = weights if barrier is None else weights + barrier
    return adapted(under(w, "out_proj."), (weights.softmax(-1) @ v).transpose(0, 1).flatten(1))


def joint_attention(w, placed, x, heads, ignored):
    """Attention whose three matrices are one: (L, d) for queries and keys, (L, d) for values, (L,) True on padding."""
    parts = zip((placed, placed, x), w["in_proj_weight"].chunk(3), w["in_proj_bias"].chunk(3), strict=True)
    q, k, v = ((y @ a.T + b).view(len(x), heads, -1).transpose(0, 1) for y, a, b in parts)
    weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).masked_fill(ignored, -math.inf)
    return linear(under(w, "out_proj."), (weights.softmax(-1) @ v).transpose(0, 1).flatten(1))
