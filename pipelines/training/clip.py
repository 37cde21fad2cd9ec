"""The small CLIP: trained to do what it is asked in the pipeline, to tell which region a text is about.

Two contrastive losses over the region views that the pipeline's own code makes:

    within a scene    text -> region, among the regions of the text's own scene and the whole picture. Regions of other
                      scenes are no candidates: "the red star" is true of many pictures.
    between scenes    region -> description, among all descriptions in the batch, where the pictures' source can
                      describe its objects ("striped red star"): the same description is the same class.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from bench.grounding import Box, Boxes, PictureSource, Scene
from bench.settings import parse_table
from bench.training.task import Trained, TrainingJob
from pipelines import weights
from pipelines.clip.encoder import empty_model
from pipelines.clip.views import View, make_views
from pipelines.training.objects import scene_objects

log = logging.getLogger("bench.train")
VIEWS: tuple[View, ...] = ("crop", "blur")


class ClipRecipe(BaseModel):
    """[train.yolo-clip.clip]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "tiny-clip"
    epochs: int = Field(4, ge=1)
    scenes_in_batch: int = Field(24, ge=1)
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: int = Field(100, description="steps")
    jitter: float = Field(0.06, description="boxes are moved and scaled by up to this share of their sides")
    bfloat16: bool = Field(True, description="autocast: half the time on CPUs and GPUs that know it")
    log_every: int = 50


def train_clip(job: TrainingJob) -> Trained:
    """Train, and write <model>.safetensors (float16, validation accuracy by kind in its metadata) under `job.out`."""
    recipe = parse_table(ClipRecipe, dict(job.recipe), f"bench.toml [train.{job.context.name}.clip]")
    torch.manual_seed(job.context.seed)
    dice = np.random.default_rng(job.context.seed)
    model = empty_model(recipe.model).to(job.context.device)
    seen = torch.zeros(model.vocab_size, dtype=torch.bool)
    steps = recipe.epochs * math.ceil(len(job.scenes) / recipe.scenes_in_batch)
    optimiser = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _pace(step, steps, recipe.warm_up))
    began, losses = time.monotonic(), []
    for step, scenes in enumerate(_batches(job.scenes, recipe, dice), 1):
        with torch.autocast(torch.device(job.context.device).type, torch.bfloat16, enabled=recipe.bfloat16):
            loss, tokens = _loss(model, scenes, job.pictures, recipe, dice)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(50))
        seen[tokens.flatten()] = True
        losses.append(loss.item())
        if step % recipe.log_every == 0 or step == steps:
            mean, left = sum(losses) / len(losses), (time.monotonic() - began) / step * (steps - step)
            log.info("clip: step %d of %d, loss %.3f, about %.0f min left", step, steps, mean, left / 60)
            losses = []
    with torch.no_grad():  # words it never saw are noise: zeros keep the file small
        model.token_embedding.weight[~seen] = 0
    scores = validate(model, recipe.model, job.validation, job.validation_pictures)
    log.info("clip: accuracy among the true regions: %s", scores)
    out = job.out / f"{recipe.model}.safetensors"
    weights.write_safetensors(out, model.state_dict(), {"recipe": recipe.model_dump(), "accuracy": scores})
    return Trained(out, recipe.model_dump(), scores)


@torch.inference_mode()
def validate(model: Any, name: str, scenes: Sequence[Scene], pictures: PictureSource) -> dict[str, float]:
    """Share of expressions whose own region ranks first among the true regions of its scene, in all and by kind."""
    hits: dict[str, list[bool]] = defaultdict(list)
    still = ClipRecipe(model=name, jitter=0.0)
    model.eval()
    for start in range(0, len(scenes), still.scenes_in_batch):
        some = scenes[start : start + still.scenes_in_batch]
        regions, boxes = _regions(model, some, pictures, still, np.random.default_rng(0))
        texts, _ = _texts(model, name, [e.text for s in some for e in s.expressions])
        for scene, vectors, mine, known in zip(some, regions, texts.split(_asked(some)), boxes, strict=True):
            chosen = (mine @ vectors.transpose(1, 2)).sum(0).argmax(-1).tolist()
            for expression, choice in zip(scene.expressions, chosen, strict=True):
                hit = choice == known.index(expression.box)
                hits["all"].append(hit)
                hits[expression.kind or "other"].append(hit)
    return {kind: round(sum(found) / len(found), 4) for kind, found in sorted(hits.items())}


def _loss(
    model: Any, scenes: Sequence[Scene], pictures: PictureSource, recipe: ClipRecipe, dice: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Text to region with all views together and with each view alone, plus region to description; and the tokens."""
    regions, boxes = _regions(model, scenes, pictures, recipe, dice)
    texts, tokens = _texts(model, recipe.model, [e.text for s in scenes for e in s.expressions])
    scale = model.logit_scale.exp()
    losses = []
    for scene, vectors, mine, known in zip(scenes, regions, texts.split(_asked(scenes)), boxes, strict=True):
        logits = scale * (mine @ vectors.transpose(1, 2)).float()  # (V, Q, R)
        target = torch.tensor([known.index(e.box) for e in scene.expressions], device=logits.device)
        losses.append(F.cross_entropy(logits.sum(0), target, reduction="sum"))
        each = F.cross_entropy(logits.flatten(0, 1), target.repeat(len(VIEWS)), reduction="sum")
        losses.append(each / len(VIEWS))
    loss = torch.stack(losses).sum() / len(texts)
    if all(scene.objects for scene in scenes):
        said = [[each.description for each in scene.objects] for scene in scenes]
        names = sorted({name for names in said for name in names})
        described, more = _texts(model, recipe.model, names)
        things = torch.cat([v[:, :-1] for v in regions], dim=1)  # without the whole pictures
        target = torch.tensor([names.index(name) for found in said for name in found], device=things.device)
        logits = scale * (things @ described.T).float()
        loss = loss + F.cross_entropy(logits.flatten(0, 1), target.repeat(len(VIEWS)))
        tokens = torch.cat([tokens, more])
    return loss, tokens


def _regions(
    model: Any, scenes: Sequence[Scene], pictures: PictureSource, recipe: ClipRecipe, dice: np.random.Generator
) -> tuple[list[Tensor], list[list[Box]]]:
    """Per scene (V, R, D) unit vectors of its objects' boxes and, last, of the whole picture; and the true boxes."""
    device = next(model.parameters()).device
    views, boxes = [], []
    for scene in scenes:
        picture = pictures.load(scene)
        boxes.append([box for _, box in scene_objects(scene, pictures)])
        whole = (0.0, 0.0, float(picture.shape[1]), float(picture.shape[0]))
        shown = np.concatenate([_jittered(np.array(boxes[-1]), recipe.jitter, dice), [whole]])
        views.append(make_views(picture, shown, VIEWS, model.visual.image_size[0], 0.0, device))
    pixels = torch.cat(views, dim=1)  # (V, sum of R, 3, S, S)
    mean, std = (
        torch.tensor(v, device=device).view(3, 1, 1) for v in (model.visual.image_mean, model.visual.image_std)
    )
    vectors = model.encode_image(((pixels - mean) / std).flatten(0, 1), normalize=True).unflatten(0, pixels.shape[:2])
    return list(vectors.split([len(b) + 1 for b in boxes], dim=1)), boxes


def _texts(model: Any, name: str, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(N, D) unit vectors and (N, L) tokens."""
    tokens = _tokenizer(name)([text.lower() for text in texts]).to(next(model.parameters()).device)
    return model.encode_text(tokens, normalize=True), tokens


def _asked(scenes: Sequence[Scene]) -> list[int]:
    return [len(scene.expressions) for scene in scenes]


@cache
def _tokenizer(model: str) -> Any:
    return open_clip.get_tokenizer(model)


def _batches(scenes: Sequence[Scene], recipe: ClipRecipe, dice: np.random.Generator) -> Iterator[list[Scene]]:
    for _ in range(recipe.epochs):
        order = dice.permutation(len(scenes))
        for start in range(0, len(order), recipe.scenes_in_batch):
            yield [scenes[i] for i in order[start : start + recipe.scenes_in_batch]]


def _jittered(boxes: Boxes, share: float, dice: np.random.Generator) -> Boxes:
    """(N, 4) xyxy, every corner moved by up to `share` of the box's sides: what a detector's boxes look like."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return np.asarray(boxes + dice.uniform(-share, share, boxes.shape) * sides)


def _groups(model: Any, decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only, and not for the word table, most of whose rows get no gradient."""
    named = list(model.named_parameters())
    decayed = [p for n, p in named if p.ndim > 1 and "embedding" not in n]
    rest = [p for n, p in named if not (p.ndim > 1 and "embedding" not in n)]
    return [{"params": decayed, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]


def _pace(step: int, steps: int, warm_up: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
