"""Gives a small CLIP its first lesson, and keeps it in a file of its own beside CLIP-VG's."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

from bench.errors import DataError, SettingsError, UnknownName
from bench.grounding import Box, Expression, PictureSource, Scene
from bench.training.task import Trained, TrainingJob
from clipvg.frozen import checked
from clipvg.loss import coverage
from pipelines.canvas import Style, letterboxed, together
from clipvg.training.lesson import PatchReader, Shown, mean_over
from clipvg.training.recipe import ClipVGRecipe
from pipelines import weights
from pipelines.clip.encoder import empty_model, open_model
from pipelines.training.objects import scene_objects
from pipelines.training.optimisation import optimise

log = logging.getLogger("bench.train")


def taught_clip(job: TrainingJob, recipe: ClipVGRecipe) -> Trained | None:
    """Gives the lesson and writes NAME-clip.safetensors under `job.out`; None where the same lesson made one before.

    Raises UnknownName, SettingsError, WeightsError, DataError, RunError.
    """
    out = clip_file(job.out, recipe)
    said = {
        "lesson": recipe.lesson.model_dump(mode="json"),
        "clip": recipe.clip.model_dump(mode="json"),
        "image_size": recipe.network.image_size,
        "rows": job.fingerprint,
        "seed": job.context.seed,
    }
    if not job.fresh and out.is_file():
        metadata = weights.read_safetensors(out)[1]
        if {key: metadata.get(key) for key in said} == said:
            log.info("clipvg: the CLIP of %s has had this lesson", out)
            return None
    torch.manual_seed(job.context.seed)
    reader = PatchReader(
        _beginning(job, recipe),
        recipe.lesson,
        recipe.network.image_size,
        recipe.preprocessing,
        open_clip.get_tokenizer(recipe.clip.model),
    ).to(job.context.device)
    known = looked_at(job.scenes, job.pictures, recipe.network.image_size, recipe.preprocessing)
    lesson = recipe.lesson
    optimise(
        reader,
        _batches(known, recipe, job.context.seed),
        reader.loss,
        lesson.epochs * -(-len(known) // lesson.scenes_in_batch),
        name="clipvg's CLIP",
        **lesson.model_dump(include={"learning_rate", "weight_decay", "warm_up", "log_every"}),
    )
    with torch.no_grad():  # words it never saw are noise: zeros keep the file small
        reader.clip.token_embedding.weight[~reader.seen] = 0
    score = ranking(reader, job.validation, job.validation_pictures, recipe)
    log.info("clipvg's CLIP: accuracy among the true objects: %s", score)
    weights.write_safetensors(out, reader.clip.state_dict(), said | {"score": score})
    return Trained(out, said, score)


def clip_file(out: Path, recipe: ClipVGRecipe) -> Path:
    """Where the CLIP of a recipe with a lesson lies."""
    return out / f"{recipe.name}-clip.safetensors"


@torch.inference_mode()
def ranking(
    reader: PatchReader, scenes: Sequence[Scene], pictures: PictureSource, recipe: ClipVGRecipe
) -> dict[str, float]:
    """Share of expressions whose own object ranks first among the objects of its scene, in all and by kind."""
    reader.eval()
    hits: dict[str, list[bool]] = defaultdict(list)
    for scene in scenes:
        if not scene.expressions:
            continue
        known = look(scene, pictures, recipe.network.image_size, recipe.preprocessing)
        _, patches = reader.places([known])
        objects = mean_over(coverage(known.boxes.to(patches.device), reader.side), patches[0])
        chosen = (reader.vectors(known.texts) @ objects.T).argmax(dim=1).tolist()
        for expression, choice, meant in zip(scene.expressions, chosen, known.meant, strict=True):
            hits["all"].append(choice == meant)
            hits[expression.kind or "other"].append(choice == meant)
    return {kind: round(sum(found) / len(found), 4) for kind, found in sorted(hits.items())}


def looked_at(scenes: Sequence[Scene], pictures: PictureSource, size: int, style: Style) -> list[Shown]:
    """Every scene with expressions, in memory. Raises DataError when there is none."""
    asked = [scene for scene in scenes if scene.expressions]
    if not asked:
        raise DataError("no expression to give CLIP its lesson with")
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda scene: look(scene, pictures, size, style), asked))


def look(scene: Scene, pictures: PictureSource, size: int, style: Style) -> Shown:
    """A scene on its canvas, with what is known of it."""
    canvas = letterboxed(pictures.load(scene), size, style)
    objects = scene_objects(scene, pictures)
    places = [box for _, box in objects]
    describe = getattr(pictures, "descriptions", None)
    said = describe(scene) if describe is not None else [name for name, _ in objects]
    pixels, edges = together([canvas])
    boxes = torch.tensor(np.array([canvas.to_canvas(box) for box in places]), dtype=torch.float32).reshape(-1, 4)
    texts = [expression.text for expression in scene.expressions]
    meant = [_index(places, expression, scene) for expression in scene.expressions]
    return Shown(pixels[0], edges[0], boxes, said, texts, meant)


def _index(places: Sequence[Box], expression: Expression, scene: Scene) -> int:
    if expression.box not in places:
        raise DataError(
            f"{scene.file}, expression {expression.id}: its box is that of no known object of the picture, which a "
            "lesson needs; set lesson.epochs = 0 and name a CLIP in clip.pretrained"
        )
    return places.index(expression.box)


def _beginning(job: TrainingJob, recipe: ClipVGRecipe) -> Any:
    if recipe.clip.pretrained:
        clip, _ = open_model(recipe.clip, replace(job.context, dtype="float32"))
    elif recipe.clip.model in open_clip.list_models():
        clip = empty_model(recipe.clip.model)
    else:
        raise UnknownName("open_clip model", recipe.clip.model, open_clip.list_models())
    checked(clip, recipe.clip.model)
    patch, places = clip.visual.conv1.weight.shape[-1], len(clip.visual.positional_embedding) - 1
    if (recipe.network.image_size // patch) ** 2 != places:  # what is taught has to load as open_clip's table says it
        raise SettingsError(
            f"network.image_size = {recipe.network.image_size}: a lesson is given at the size of {recipe.clip.model} "
            f"in open_clip's table, {round(places**0.5) * patch} pixels"
        )
    return clip


def _batches(known: Sequence[Shown], recipe: ClipVGRecipe, seed: int) -> Iterator[list[Shown]]:
    size = recipe.lesson.scenes_in_batch
    for epoch in range(recipe.lesson.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(known))
        for start in range(0, len(order), size):
            yield [known[i] for i in order[start : start + size]]
