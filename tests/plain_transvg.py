"""TransVG written down plainly over a table of official key names: files, preprocessing, forward pass, loss, gradients.

It shares nothing with pipelines/: section 3 of Deng et al. 2021 in a few functions over torchvision's ResNet and
transformers' BertModel, one image and one text at a time, every token and every mask kept. Slow and obvious: what the
fast one is compared with.
"""

import argparse
import math
import zlib
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.func import functional_call
from torchvision.ops import FrozenBatchNorm2d
from transformers import BertConfig, BertModel, BertTokenizer


@dataclass(frozen=True)
class Sizes:
    """The defaults are those of R50 with texts of 20 tokens."""

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    image: int = 640
    tokens: int = 20
    hidden: int = 256
    heads: int = 8
    feedforward: int = 2048
    encoder_layers: int = 6
    layers: int = 6
    words: int = 30522
    text: int = 768
    text_layers: int = 12
    text_inner: int = 3072


R101 = (3, 4, 23, 3)
SMALL = Sizes(
    image=160, tokens=12, hidden=64, feedforward=96, encoder_layers=2, layers=2, words=120, text=128, text_layers=2,
    text_inner=96,
)  # fmt: skip


# --- files


def shapes(s):
    """Every key of an official state dict -> shape."""
    out = {}

    def pair(key, *shape):
        out[f"{key}.weight"], out[f"{key}.bias"] = shape, shape[:1]

    def norm(key, width):
        for part in ("weight", "bias", "running_mean", "running_var"):
            out[f"{key}.{part}"] = (width,)

    def encoder(prefix, depth):
        for i in range(depth):
            layer = f"{prefix}.encoder.layers.{i}"
            out[f"{layer}.self_attn.in_proj_weight"] = (3 * s.hidden, s.hidden)
            out[f"{layer}.self_attn.in_proj_bias"] = (3 * s.hidden,)
            pair(f"{layer}.self_attn.out_proj", s.hidden, s.hidden)
            pair(f"{layer}.linear1", s.feedforward, s.hidden)
            pair(f"{layer}.linear2", s.hidden, s.feedforward)
            pair(f"{layer}.norm1", s.hidden)
            pair(f"{layer}.norm2", s.hidden)

    body = "visumodel.backbone.0.body"
    out[f"{body}.conv1.weight"] = (64, 3, 7, 7)
    norm(f"{body}.bn1", 64)
    before = 64
    for stage, (depth, width) in enumerate(zip(s.blocks, (64, 128, 256, 512), strict=True), 1):
        for i in range(depth):
            block = f"{body}.layer{stage}.{i}"
            for n, (into, width_out, kernel) in enumerate(
                ((before, width, 1), (width, width, 3), (width, 4 * width, 1)), 1
            ):
                out[f"{block}.conv{n}.weight"] = (width_out, into, kernel, kernel)
                norm(f"{block}.bn{n}", width_out)
            if i == 0:
                out[f"{block}.downsample.0.weight"] = (4 * width, before, 1, 1)
                norm(f"{block}.downsample.1", 4 * width)
            before = 4 * width
    pair("visumodel.input_proj", s.hidden, 2048, 1, 1)
    encoder("visumodel.transformer", s.encoder_layers)
    bert = "textmodel.bert"
    for name, rows in (("word", s.words), ("position", 512), ("token_type", 2)):
        out[f"{bert}.embeddings.{name}_embeddings.weight"] = (rows, s.text)
    pair(f"{bert}.embeddings.LayerNorm", s.text)
    for i in range(s.text_layers):
        layer = f"{bert}.encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            pair(f"{layer}.attention.{part}", s.text, s.text)
        pair(f"{layer}.attention.output.LayerNorm", s.text)
        pair(f"{layer}.intermediate.dense", s.text_inner, s.text)
        pair(f"{layer}.output.dense", s.text, s.text_inner)
        pair(f"{layer}.output.LayerNorm", s.text)
    pair(f"{bert}.pooler.dense", s.text, s.text)
    out["vl_pos_embed.weight"] = (1 + s.tokens + (s.image // 32) ** 2, s.hidden)
    out["reg_token.weight"] = (1, s.hidden)
    pair("visu_proj", s.hidden, s.hidden)
    pair("text_proj", s.hidden, s.text)
    encoder("vl_transformer", s.layers)
    for i, rows in enumerate((s.hidden, s.hidden, 4)):
        pair(f"bbox_embed.layers.{i}", rows, s.hidden)
    return out


def official_state(sizes, seed=0):
    """The whole official state dict, filled by a formula of key and index."""
    return {key: filled(key, shape, seed) for key, shape in shapes(sizes).items()}


def filled(key, shape, seed=0):
    """Numbers like those of trained weights: norms near one, matrices that keep the size of what they multiply.

    The fractions of large sines, for the sines alone would make matrices of rank two.
    """
    place = torch.arange(math.prod(shape), dtype=torch.float64)
    waves = torch.sin(place * 12.9898 + zlib.crc32(key.encode()) % 1000 + 7919 * seed) * 43758.5453
    numbers = ((waves - waves.floor()) * 2 - 1) * math.sqrt(3)  # mean 0, deviation 1
    if key.endswith("running_var"):
        numbers = 1 + 0.2 * numbers
    elif "norm" in key.lower() or ".bn" in key or "downsample.1" in key:
        gain = 0.3 if ".bn3." in key else 1.0  # a block adds little to what goes past it
        numbers = 0.1 * numbers + gain * key.endswith("weight")
    elif key.endswith("bias"):
        numbers = numbers * 0.1
    elif "embeddings" in key or "pos_embed" in key or "reg_token" in key:
        numbers = numbers * 0.7
    else:
        gain = 2.0 if "in_proj" in key or ".self." in key or "bbox_embed" in key else 1.4
        numbers = numbers * gain / math.sqrt(math.prod(shape[1:]))
    return numbers.view(shape).float()


def write_official(path, state, sizes=Sizes(), **changes):
    """A file as the official training leaves it; `changes` replace or add top-level entries."""
    args = {"backbone": "resnet50", "imsize": sizes.image, "max_query_len": sizes.tokens, "nheads": sizes.heads}
    args |= {"vl_nheads": sizes.heads, "bert_enc_num": 12, "lr": 1e-4, "device": "cuda"}
    file = {
        "model": state,
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
        "lr_scheduler": {"last_epoch": 4, "base_lrs": [1e-4]},
        "epoch": 4,
        "args": argparse.Namespace(**args),
        "val_accu": 0.5,
    }
    torch.save(file | changes, path)
    return path


def write_vocabulary(folder, words, size):
    """A BERT vocabulary of `size` entries: its special tokens, letters and signs, and whole words."""
    rows = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz[],.!|'"]
    rows += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + list(words)
    rows += [f"[unused{i}]" for i in range(size - len(rows))]
    assert len(set(rows)) == size
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(rows) + "\n")
    return folder


# --- images and texts


def preprocessed(image, side=640):
    """RGB uint8 (H, W, 3) -> (3, side, side) normalised, (side, side) True on padding, (ratio, left, top)."""
    height, width = image.shape[:2]
    ratio = side / max(height, width)
    w, h = round(width * ratio), round(height * ratio)
    pixels = np.asarray(Image.fromarray(image).resize((w, h), Image.BILINEAR), dtype=np.float32) / np.float32(255)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    left, top = round((side - w) / 2 - 0.1), round((side - h) / 2 - 0.1)
    canvas, padding = np.zeros((side, side, 3), np.float32), np.ones((side, side), bool)
    canvas[top : top + h, left : left + w] = (pixels - mean) / std
    padding[top : top + h, left : left + w] = False
    return torch.from_numpy(canvas).permute(2, 0, 1), torch.from_numpy(padding), (ratio, left, top)


@cache
def tokenizer(folder):
    return BertTokenizer.from_pretrained(folder)


def token_ids(text, folder, length=20):
    """(length,) ids, and True where a token is real: [CLS], the first pieces, [SEP], then padding."""
    wordpiece = tokenizer(str(folder))
    pieces = wordpiece.tokenize(text.lower().strip())[: length - 2]
    ids = wordpiece.convert_tokens_to_ids(["[CLS]", *pieces, "[SEP]"])
    rest = length - len(ids)
    return torch.tensor(ids + [0] * rest), torch.tensor([True] * len(ids) + [False] * rest)


def in_image(box, placement, side=640):
    """cxcywh in 0..1 of the canvas -> xyxy in pixels of the image, unclipped."""
    ratio, left, top = placement
    cx, cy, w, h = (side * float(number) for number in box)
    edges = (cx - w / 2 - left, cy - h / 2 - top, cx + w / 2 - left, cy + h / 2 - top)
    return tuple(edge / ratio for edge in edges)


def ground_truth(box, placement, side=640):
    """An annotation's xywh in pixels -> cxcywh in 0..1 of the canvas; its four numbers are cut to integers first."""
    ratio, left, top = placement
    x0, y0, w, h = (int(number) for number in box)
    x0, y0, x1, y1 = x0 * ratio + left, y0 * ratio + top, (x0 + w) * ratio + left, (y0 + h) * ratio + top
    return torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]) / side


# --- the network


@lru_cache(1)  # one of full size fills half a GB
def resnet(blocks):
    net = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, list(blocks), norm_layer=FrozenBatchNorm2d)
    net.avgpool, net.fc = torch.nn.Identity(), torch.nn.Identity()
    return net


@lru_cache(1)
def bert(s):
    config = BertConfig(
        vocab_size=s.words, hidden_size=s.text, num_hidden_layers=s.text_layers, num_attention_heads=s.text // 64,
        intermediate_size=s.text_inner, layer_norm_eps=1e-12,
    )  # fmt: skip
    return BertModel(config).eval()


def forward(w, s, pixels, padding, ids, real):
    """State dict, (3, S, S), (S, S) True on padding, (L,) ids, which are real -> (4,) cxcywh in 0..1 of the canvas."""
    fused, _ = joint(w, s, pixels, padding, ids, real)
    box = fused[0]
    for i in range(3):
        box = linear(under(w, f"bbox_embed.layers.{i}."), box)
        box = box.relu() if i < 2 else box.sigmoid()
    return box


def joint(w, s, pixels, padding, ids, real):
    """As `forward` -> the fused sequence (1 + L + P, d), and the last layer's attention of [REG] (1 + L + P,)."""
    side = s.image // 32
    masked = padding[::32, ::32]  # a cell is padding when the pixel in its corner is
    # 1. The image: ResNet, 1 x 1 convolution, DETR's encoder.
    features = functional_call(resnet(s.blocks), under(w, "visumodel.backbone.0.body."), (pixels[None],))
    features = features.view(2048, side * side).T  # (P, 2048)
    projection = w["visumodel.input_proj.weight"].flatten(1)
    x = features @ projection.T + w["visumodel.input_proj.bias"]
    place = sine(masked, s.hidden).to(x.dtype)
    image, _ = encoder(under(w, "visumodel.transformer.encoder."), x, place, masked.flatten(), s.heads)
    # 2. The text: BERT's last layer.
    table = under(w, "textmodel.bert.")
    text = functional_call(bert(s), table, (), {"input_ids": ids[None], "attention_mask": real[None].long()})
    # 3. Both in one sequence behind [REG].
    x = torch.cat([
        w["reg_token.weight"],
        linear(under(w, "text_proj."), text.last_hidden_state[0]),
        linear(under(w, "visu_proj."), image),
    ])  # fmt: skip
    ignored = torch.cat([torch.tensor([False]), ~real, masked.flatten()])
    return encoder(under(w, "vl_transformer.encoder."), x, w["vl_pos_embed.weight"], ignored, s.heads)


def sine(masked, d):
    """(h, w) True on padding -> (h * w, d): the code of the row, then that of the column."""
    half = d // 2
    rows, columns = (~masked).cumsum(0).double(), (~masked).cumsum(1).double()
    codes = []
    for count, last in ((rows, rows[-1:, :]), (columns, columns[:, -1:])):
        angle = count / (last + 1e-6) * 2 * math.pi
        code = torch.zeros(*masked.shape, half, dtype=torch.float64)
        for k in range(half):
            wave = angle / 10000 ** (2 * (k // 2) / half)
            code[..., k] = wave.cos() if k % 2 else wave.sin()
        codes.append(code)
    return torch.cat(codes, dim=-1).flatten(0, 1)


def encoder(w, x, place, ignored, heads):
    """(L, d) twice, (L,) True on what is no key -> (L, d), and the first token's weights in the last layer (L,)."""
    barrier = torch.zeros(len(x), dtype=x.dtype).masked_fill(ignored, -math.inf)
    weights = barrier
    for layer in layers(w, "layers."):
        matrices = under(layer, "self_attn.")["in_proj_weight"].chunk(3)
        biases = under(layer, "self_attn.")["in_proj_bias"].chunk(3)
        parts = (y @ a.T + b for y, a, b in zip((x + place, x + place, x), matrices, biases, strict=True))
        q, k, v = (y.view(len(x), heads, -1).transpose(0, 1) for y in parts)
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + barrier).softmax(-1)
        attended = linear(under(layer, "self_attn.out_proj."), (weights @ v).transpose(0, 1).flatten(1))
        x = norm(under(layer, "norm1."), x + attended)
        inner = linear(under(layer, "linear2."), linear(under(layer, "linear1."), x).relu())
        x = norm(under(layer, "norm2."), x + inner)
    return x, weights[:, 0].mean(0)


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
    """Whether the official recipe moves the tensor of this key: no norm of the ResNet, not its first layers."""
    body = "visumodel.backbone.0.body."
    frozen = key.startswith((f"{body}conv1", f"{body}layer1", "textmodel.bert.pooler"))
    return not frozen and not (key.startswith(body) and (".bn" in key or "downsample.1" in key))


def first_step(w, sizes, batch, forward=forward, trained=trained):
    """A batch of (pixels, padding, ids, real, target) -> the L1 term, the GIoU term, {key: gradient}; no dropout."""
    w = {key: tensor.clone().requires_grad_() if trained(key) else tensor for key, tensor in w.items()}
    boxes = torch.stack([forward(w, sizes, *inputs) for *inputs, _ in batch])
    targets = torch.stack([target for *_, target in batch]).to(boxes.dtype)
    l1 = (boxes - targets).abs().sum() / len(boxes)
    giou = sum(1 - generalised_iou(a, b) for a, b in zip(boxes, targets, strict=True)) / len(boxes)
    (l1 + giou).backward()
    return l1.item(), giou.item(), {key: tensor.grad for key, tensor in w.items() if tensor.requires_grad}
