"""HiVG's losses, and the maps they compare, written down plainly: each term of one pass is a mean over its rows."""

import numpy as np
import plain_hivg
import torch
import torch.nn.functional as F
from plain_clipvg import losses as box_losses
from plain_clipvg import norm, under
from pycocotools import mask as coco

WEIGHTS = {
    "l1": 2, "giou": 2, "contrast": 1, "region_focal": 20, "region_dice": 2, "mask_focal": 20, "mask_dice": 2,
}  # fmt: skip


def object_mask(box, image_shape, placement, side):
    """The box, xyxy pixels, as a mask of the image, brought to the canvas (S, S) as the image is."""
    x0, y0, x1, y1 = box
    height, width = image_shape[:2]
    filled = coco.decode(coco.frPyObjects(np.array([[x0, y0, x1 - x0, y1 - y0]]), height, width))[..., 0]
    ratio, left, top = placement
    h, w = round(height * ratio), round(width * ratio)
    canvas = torch.zeros(side, side)
    small = F.interpolate(torch.from_numpy(filled)[None, None].float(), size=(h, w), mode="nearest")[0, 0]
    canvas[top : top + h, left : left + w] = small
    return canvas


def terms(w, s, samples, targets, masks, mixed=False):
    """State dict, sizes, a list of (pixels, masked, ids), boxes (B, 4), masks of (S, S) -> name -> number."""
    texts = [plain_hivg.text_tower(under(w, "clip."), s, ids) for _, _, ids in samples]
    bridges = plain_hivg.bridged(w, s, texts, mixed)
    boxes, words, views, logits = [], [], [], []
    for (pixels, masked, ids), (_, last), bridge in zip(samples, texts, bridges, strict=True):
        x = plain_hivg.fused(w, s, pixels, masked, ids, last, bridge)
        boxes.append(plain_hivg.box(w, x[0]))
        logits.append(maps(w, s, x, ids))
        words.append(last[ids.argmax()] @ w["clip.text_projection.weight"].T)
        tower = under(w, "clip.vision_model.")
        view = norm(under(tower, "post_layernorm."), plain_hivg.image_states(tower, s, pixels, bridge)[-1][0])
        views.append(view @ w["clip.visual_projection.weight"].T)
    l1, giou = box_losses(torch.stack(boxes), torch.stack(targets))
    words, views = (torch.stack([x / x.norm() for x in xs]) for xs in (words, views))
    cosines, own = words @ views.T * w["clip.logit_scale"].exp(), torch.arange(len(samples))
    out = {"l1": l1, "giou": giou}
    out["contrast"] = (F.cross_entropy(cosines, own) + F.cross_entropy(cosines.T, own)) / 2
    side = s.image // s.patch
    for (similarity, mask), truth in zip(logits, masks, strict=True):
        small = F.interpolate(truth[None, None], size=(side, side), mode="nearest").flatten()
        large = F.interpolate(mask[None, None], size=truth.shape, mode="bilinear", align_corners=False).flatten()
        for name, x, y in (("region", similarity, small), ("mask", large, truth.flatten())):
            for kind, loss in (("focal", focal), ("dice", dice)):
                out[f"{name}_{kind}"] = out.get(f"{name}_{kind}", 0) + loss(x, y) / len(samples)
    return out


def maps(w, s, x, ids):
    """All fused tokens and the ids -> logits of patches (P,), logits of the mask (8 S, 8 S)."""
    side = s.image // s.patch
    patches, word = x[2 : 2 + side**2], x[2 + side**2 + int(ids.argmax())]
    word = word / word.norm()
    y = plain_hivg.quick_mlp(under(w, "visu_token_mlp."), norm(under(w, "visu_token_norm."), patches))
    grid = patches.T.reshape(1, -1, side, side)
    for i in (1, 2, 3):
        grid = F.conv_transpose2d(grid, w[f"seg_conv{i}.weight"], stride=2)
    return y @ word, (grid[0] * word[:, None, None]).sum(0)


def focal(x, y):
    p = x.sigmoid()
    each = torch.where(y > 0, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
    return each.mean()


def dice(x, y):
    p = x.sigmoid()
    return 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
