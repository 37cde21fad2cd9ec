"""The detector of yolo-clip: a small YOLO trained from nothing on a split's objects, by ultralytics' own trainer."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from bench.boxes import box_xyxy_to_cxcywh
from bench.grounding import PictureSource, Scene
from bench.settings import parse_table
from bench.training.task import Trained, TrainingJob
from pipelines import weights
from pipelines.proposers.yolo import YoloOptions, YoloProposer, read_model, ultralytics
from pipelines.training.objects import class_names, scene_objects
from pipelines.training.recall import recall


class YoloRecipe(BaseModel):
    """[train.yolo-clip.detector]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenes: int = Field(4000, ge=1, description="pictures of the split to train on")
    epochs: int = Field(12, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = 2e-3
    image_size: int = Field(192, ge=32)
    width: float = Field(0.5, gt=0, description="channels, relative to 32-64-128-192-256")


def train_yolo(job: TrainingJob) -> Trained:
    """Train, and write tiny-yolo.safetensors (float16, plan and class names in its metadata) under `job.out`."""
    recipe = parse_table(YoloRecipe, dict(job.recipe), f"bench.toml [train.{job.context.name}.detector]")
    package = ultralytics()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = _export(job.scenes[: recipe.scenes], job.pictures, root / "train")
        plan_file, data_file = root / "plan.yaml", root / "data.yaml"
        # JSON is YAML, and ultralytics wants files.
        plan_file.write_text(json.dumps(plan(recipe.width, len(names))), encoding="utf-8")
        data = {"path": str(root), "train": "train/images", "val": "train/images", "names": dict(enumerate(names))}
        data_file.write_text(json.dumps(data), encoding="utf-8")
        package.YOLO(str(plan_file), task="detect").train(
            data=str(data_file),
            epochs=recipe.epochs,
            batch=recipe.batch_size,
            imgsz=recipe.image_size,
            lr0=recipe.learning_rate,
            optimizer="AdamW",
            cos_lr=True,
            warmup_epochs=1,
            mosaic=0.0,
            scale=0.3,
            hsv_h=0.0,  # colours carry meaning
            seed=job.context.seed,
            device=job.context.device,
            workers=2,
            cache="ram",
            amp=False,
            val=False,
            plots=False,
            pretrained=False,
            project=folder,
            name="run",
            verbose=True,
        )
        model = read_model(root / "run" / "weights" / "last.pt")
    out = job.out / "tiny-yolo.safetensors"
    metadata = {"format": "bench-yolo", "plan": plan(recipe.width, len(names)), "names": names}
    weights.write_safetensors(out, model.state_dict(), metadata | {"recipe": recipe.model_dump()})
    options = YoloOptions(weights=str(out.resolve()), image_size=recipe.image_size, whole_picture=False)
    return Trained(out, recipe.model_dump(), recall(YoloProposer(options, job.context), job))


def plan(width: float, classes: int) -> dict[str, Any]:
    """A small YOLO11 as ultralytics' model plan: rows of (from, repeats, module, arguments)."""

    def c(channels: int) -> int:
        return max(8, int(channels * width) // 8 * 8)

    def block(source: int, channels: int) -> list[Any]:
        return [source, 1, "C3k2", [c(channels), False]]

    def halve(source: int, channels: int) -> list[Any]:
        return [source, 1, "Conv", [c(channels), 3, 2]]

    double: list[Any] = [-1, 1, "nn.Upsample", [None, 2, "nearest"]]
    backbone = [halve(-1, 32), halve(-1, 64), block(-1, 64), halve(-1, 128), block(-1, 128)]
    backbone += [halve(-1, 192), block(-1, 192), halve(-1, 256), block(-1, 256), [-1, 1, "SPPF", [c(256), 5]]]
    head = [double, [[-1, 6], 1, "Concat", [1]], block(-1, 192)]
    head += [double, [[-1, 4], 1, "Concat", [1]], block(-1, 128)]
    head += [halve(-1, 128), [[-1, 12], 1, "Concat", [1]], block(-1, 192)]
    head += [halve(-1, 192), [[-1, 9], 1, "Concat", [1]], block(-1, 256)]
    head += [[[15, 18, 21], 1, "Detect", ["nc"]]]
    return {"nc": classes, "backbone": backbone, "head": head}


def _export(scenes: Sequence[Scene], pictures: PictureSource, folder: Path) -> list[str]:
    """Write pictures and labels as ultralytics reads them (class, cx, cy, w, h in 0..1); the class names in order."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    objects = [scene_objects(scene, pictures) for scene in scenes]
    names = class_names(objects)
    for number, (scene, found) in enumerate(zip(scenes, objects, strict=True)):
        picture = pictures.load(scene)
        height, width = picture.shape[:2]
        boxes = box_xyxy_to_cxcywh([box for _, box in found]) / [width, height, width, height]
        rows = (
            f"{names.index(name)} {' '.join(f'{v:.6f}' for v in b)}" for (name, _), b in zip(found, boxes, strict=True)
        )
        (folder / "labels" / f"{number:06d}.txt").write_text("\n".join(rows), encoding="utf-8")
        Image.fromarray(picture).save(folder / "images" / f"{number:06d}.jpg", quality=95)
    return names
