"""MDETR's forward pass and losses for one image and one text, plainly, over a table of official key names.

It shares nothing with pipelines/mdetr: Kamath et al. 2021, sections 2 and 3, in a few functions, sequence first, no
batches, no modules. Slow and obvious, it is what the fast one is compared with.
"""

import math

import torch
import torch.nn.functional as F
from PIL import Image

STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of an EfficientNet's seven stages


def forward(w, pixels, tokens, heads=8):
    """State dict, (3, H, W) normalised image, (T,) token ids -> (N, S + 1) logits, (N, 4) cxcywh boxes in 0..1."""
    logits, boxes, _ = every_layer(w, pixels, tokens, heads)[0][-1]
    return logits, boxes


def every_layer(w, pixels, tokens, heads=8):
    """As `forward`: logits, boxes and unit vectors (N, c) of each decoder layer, and those of the tokens (T, c)."""
    body = under(w, "backbone.0.body.")
    network = efficientnet if "conv_stem.weight" in body else resnet if "conv1.weight" in body else small
    features = network(body, pixels[None])
    features = F.conv2d(features, w["input_proj.weight"], w["input_proj.bias"])[0]  # (d, h, w)
    d, rows, columns = features.shape
    text = roberta(under(w, "transformer.text_encoder."), tokens)
    text = linear(under(w, "transformer.resizer.fc."), text)
    text = norm(under(w, "transformer.resizer.layer_norm."), text, 1e-12)
    memory = torch.cat([features.flatten(1).T, text])  # (h w + T, d)
    place = torch.cat([sine(rows, columns, d), torch.zeros_like(text)])
    for layer in layers(w, "transformer.encoder.layers."):
        q = memory + place
        memory = norm(under(layer, "norm1."), memory + attention(under(layer, "self_attn."), q, q, memory, heads))
        inner = linear(under(layer, "linear2."), linear(under(layer, "linear1."), memory).relu())
        memory = norm(under(layer, "norm2."), memory + inner)
    query = w["query_embed.weight"]
    x, outputs = torch.zeros_like(query), []
    for layer in layers(w, "transformer.decoder.layers."):
        q = x + query
        x = norm(under(layer, "norm1."), x + attention(under(layer, "self_attn."), q, q, x, heads))
        attended = attention(under(layer, "cross_attn_image."), x + query, memory + place, memory, heads)
        x = norm(under(layer, "norm3."), x + attended)
        inner = linear(under(layer, "linear2."), linear(under(layer, "linear1."), x).relu())
        x = norm(under(layer, "norm4."), x + inner)
        last = norm(under(w, "transformer.decoder.norm."), x)
        box = last
        for i in range(3):
            box = linear(under(w, f"bbox_embed.layers.{i}."), box)
            box = box.relu() if i < 2 else box.sigmoid()
        unit = F.normalize(linear(under(w, "contrastive_align_projection_image."), last), dim=-1)
        outputs.append((linear(under(w, "class_embed."), last), box, unit))
    return outputs, F.normalize(linear(under(w, "contrastive_align_projection_text."), memory[-len(text) :]), dim=-1)


def losses(w, pixels, tokens, target, positive, heads=8):
    """The paper's losses of one expression, each summed over decoder layers: a cxcywh target, indices of its tokens."""
    outputs, text = every_layer(w, pixels, tokens, heads)
    sums = {"token": 0.0, "l1": 0.0, "giou": 0.0, "contrastive": 0.0}
    for logits, boxes, unit in outputs:
        wanted = torch.zeros(logits.shape[1])
        wanted[positive] = 1 / len(positive)
        costs = []  # no gradient goes through the match
        for query in range(len(logits)):
            probability = (logits[query].softmax(-1) * wanted).sum()
            box = boxes[query]
            costs.append((5 * (box - target).abs().sum() - 2 * giou(box, target) - probability).item())
        best = costs.index(min(costs))
        for query in range(len(logits)):
            chances = logits[query].log_softmax(-1)
            sums["token"] = sums["token"] - (chances @ wanted.to(chances) if query == best else 0.1 * chances[-1])
        sums["l1"] = sums["l1"] + (boxes[best] - target).abs().sum()
        sums["giou"] = sums["giou"] + 1 - giou(boxes[best], target)
        alike = unit @ text.T / 0.07
        both = -alike[best].log_softmax(0)[positive].mean()
        for token in positive:
            both = both - alike[:, token].log_softmax(0)[best]
        sums["contrastive"] = sums["contrastive"] + both / 2
    return sums


def giou(a, b):
    """Two cxcywh boxes."""
    edges = [((box[i] - box[i + 2] / 2), (box[i] + box[i + 2] / 2)) for i in (0, 1) for box in (a, b)]
    inner = outer = 1.0
    for (low, high), (other_low, other_high) in (edges[:2], edges[2:]):
        inner = inner * (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp(min=0)
        outer = outer * (torch.maximum(high, other_high) - torch.minimum(low, other_low))
    union = a[2] * a[3] + b[2] * b[3] - inner
    return inner / union - (outer - union) / outer


def best(logits, boxes, width, height):
    """The query that is least likely no object: its index, its score, its box xyxy in pixels."""
    scores = 1 - logits.softmax(-1)[:, -1]
    index = int(scores.argmax())
    cx, cy, w, h = boxes[index].tolist()
    box = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
    return index, float(scores[index]), box


def preprocessed(image, short=800, long=1333):
    """RGB uint8 (H, W, 3) -> (3, h, w)."""
    pil_image = Image.fromarray(image)
    w, h = pil_image.size
    if max(w, h) / min(w, h) * short > long:
        short = round(long * min(w, h) / max(w, h))
    if min(w, h) != short:
        pil_image = pil_image.resize(
            (short, int(short * h / w)) if w < h else (int(short * w / h), short), Image.BILINEAR
        )
    pixels = (
        torch.frombuffer(bytearray(pil_image.tobytes()), dtype=torch.uint8).view(pil_image.height, pil_image.width, 3)
        / 255
    )
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((pixels - mean) / std).permute(2, 0, 1)


def under(w, prefix):
    return {key[len(prefix) :]: value for key, value in w.items() if key.startswith(prefix)}


def layers(w, prefix):
    w = under(w, prefix)
    return [under(w, f"{i}.") for i in range(1 + max(int(key.partition(".")[0]) for key in w))]


def linear(w, x):
    return x @ w["weight"].T + w["bias"]


def norm(w, x, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * w["weight"] + w["bias"]


def attention(w, q, k, v, heads):
    """(L, d), (M, d), (M, d) -> (L, d)."""
    parts = zip((q, k, v), w["in_proj_weight"].chunk(3), w["in_proj_bias"].chunk(3), strict=True)
    return linear(under(w, "out_proj."), attend(*(x @ a.T + b for x, a, b in parts), heads))


def attend(q, k, v, heads):
    q, k, v = (x.view(len(x), heads, -1).transpose(0, 1) for x in (q, k, v))
    weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(0, 1).flatten(1)


def sine(rows, columns, d):
    """(rows * columns, d): the row's waves, then the column's; places run from 1 and end at 2 pi."""
    half = d // 2
    out = torch.zeros(rows, columns, d)
    for i in range(half):
        wave = 10_000 ** (2 * (i // 2) / half)
        f = math.cos if i % 2 else math.sin
        for r in range(rows):
            out[r, :, i] = f((r + 1) / (rows + 1e-6) * 2 * math.pi / wave)
        for c in range(columns):
            out[:, c, half + i] = f((c + 1) / (columns + 1e-6) * 2 * math.pi / wave)
    return out.flatten(0, 1)


def roberta(w, tokens):
    """(T,) -> (T, width). Positions count from 2; heads are 64 wide."""
    table = under(w, "embeddings.")
    x = table["word_embeddings.weight"][tokens] + table["token_type_embeddings.weight"][0]
    x = norm(under(table, "LayerNorm."), x + table["position_embeddings.weight"][2 : 2 + len(tokens)])
    heads = max(1, x.shape[1] // 64)
    for layer in layers(w, "encoder.layer."):
        q, k, v = (linear(under(layer, f"attention.self.{part}."), x) for part in ("query", "key", "value"))
        attended = linear(under(layer, "attention.output.dense."), attend(q, k, v, heads))
        x = norm(under(layer, "attention.output.LayerNorm."), x + attended)
        inner = linear(under(layer, "intermediate.dense."), x)
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        x = norm(under(layer, "output.LayerNorm."), x + linear(under(layer, "output.dense."), inner))
    return x


def frozen(w, x):
    """Batch norm with fixed statistics, eps 1e-5 whatever the backbone's own."""
    scale = w["weight"] / (w["running_var"] + 1e-5).sqrt()
    return x * scale.view(-1, 1, 1) + (w["bias"] - w["running_mean"] * scale).view(-1, 1, 1)


def resnet(w, x):
    """torchvision's: the stride is in the 3x3 convolution of a bottleneck, in the first of a basic block."""
    x = F.max_pool2d(frozen(under(w, "bn1."), F.conv2d(x, w["conv1.weight"], stride=2, padding=3)).relu(), 3, 2, 1)
    for stage in (1, 2, 3, 4):
        for i, block in enumerate(layers(w, f"layer{stage}.")):
            stride = 2 if stage > 1 and i == 0 else 1
            strides = (1, stride, 1) if "conv3.weight" in block else (stride, 1)
            inner = x
            for n, s in enumerate(strides, 1):
                kernel = block[f"conv{n}.weight"]
                inner = frozen(
                    under(block, f"bn{n}."), F.conv2d(inner, kernel, stride=s, padding=kernel.shape[-1] // 2)
                )
                inner = inner.relu() if n < len(strides) else inner
            if "downsample.0.weight" in block:
                x = frozen(under(block, "downsample.1."), F.conv2d(x, block["downsample.0.weight"], stride=stride))
            x = (x + inner).relu()
    return x


def efficientnet(w, x):
    """timm's tf_ models: TensorFlow's padding, SiLU after every norm but a block's last."""
    x = F.silu(frozen(under(w, "bn1."), same(x, w["conv_stem.weight"], 2)))
    for stage, stride in enumerate(STRIDES):
        for i, block in enumerate(layers(w, f"blocks.{stage}.")):
            s = stride if i == 0 else 1
            inner, last = x, "conv_pwl" if "conv_pwl.weight" in block else "conv_pw"
            norms = iter(("bn1.", "bn2.", "bn3."))
            if last == "conv_pwl":
                inner = F.silu(frozen(under(block, next(norms)), same(inner, block["conv_pw.weight"], 1)))
            depthwise = same(inner, block["conv_dw.weight"], s, groups=inner.shape[1])
            inner = F.silu(frozen(under(block, next(norms)), depthwise))
            gate = inner.mean((2, 3), keepdim=True)
            gate = F.silu(F.conv2d(gate, block["se.conv_reduce.weight"], block["se.conv_reduce.bias"]))
            inner = inner * F.conv2d(gate, block["se.conv_expand.weight"], block["se.conv_expand.bias"]).sigmoid()
            inner = frozen(under(block, next(norms)), same(inner, block[f"{last}.weight"], 1))
            x = x + inner if s == 1 and x.shape == inner.shape else inner
    return x


def small(w, x):
    """The project's own, for training from nothing: stages halve; all but the first have a residual block."""
    for i, stage in enumerate(layers(w, "stages.")):
        halving, block = (under(stage, "0."), under(stage, "1.")) if i else (stage, None)
        x = frozen(under(halving, "1."), F.conv2d(x, halving["0.weight"], stride=2, padding=1)).relu()
        if block:
            inner = frozen(under(block, "bn1."), F.conv2d(x, block["conv1.weight"], padding=1)).relu()
            x = (x + frozen(under(block, "bn2."), F.conv2d(inner, block["conv2.weight"], padding=1))).relu()
    return x


def same(x, kernel, stride, groups=1):
    """A convolution whose output has ceil(side / stride) pixels; an odd pixel of padding goes right and below."""
    size = kernel.shape[-1]
    pads = [max((math.ceil(n / stride) - 1) * stride + size - n, 0) for n in x.shape[-2:]]
    (top, bottom), (left, right) = ((p // 2, p - p // 2) for p in pads)
    return F.conv2d(F.pad(x, (left, right, top, bottom)), kernel, stride=stride, groups=groups)
