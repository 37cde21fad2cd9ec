"""Training yolo-clip's detector, by ultralytics' own trainer (AGPL-3.0)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from pydantic import Field

from bench.acceleration import Acceleration
from bench.boxes import box_xyxy_to_cxcywh
from bench.grounding import ImageSource, Scene
from bench.settings import Table, parse_table
from bench.training.task import ExternalTraining, Trained, TrainingJob
from pipelines import weights
from pipelines.two_stage.proposers.objects import class_names, recall, scene_objects
from pipelines.two_stage.proposers.yolo import FORMAT, YoloOptions, YoloProposer, find, read_model, ultralytics


class YoloRecipe(Table):
    """[train.yolo-clip.detector]; ultralytics' trainer has its own schedule, and takes no other keys of ours."""

    name: str = Field("yolo", pattern=r"^[\w.-]+$", description="name of the files that are written")
    start_from: str = Field("", description="detection weights of ultralytics or ours; empty = those of the pipeline")
    scenes: int = Field(0, ge=0, description="images of the split to train on; 0 = all")
    epochs: int = Field(10, ge=1)
    batch: int = Field(16, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    image_size: int = Field(0, ge=0, description="the long side the detector gets; 0 = the pipeline's")


class YoloTraining(ExternalTraining):
    """A YOLO, fine-tuned."""

    Config = YoloRecipe
    trainer = "ultralytics"

    def __init__(self, job: TrainingJob) -> None:
        recipe = parse_table(YoloRecipe, dict(job.recipe), f"bench.toml [train.{job.context.name}.detector]")
        table = {key: value for key, value in job.context.options.get("proposer", {}).items() if key != "kind"}
        proposer = parse_table(YoloOptions, table, f"[pipelines.{job.context.name}.proposer]")
        start, side = recipe.start_from or proposer.weights, recipe.image_size or proposer.image_size
        self.recipe = recipe.model_copy(update={"start_from": start, "image_size": side})
        super().__init__(replace(job, scenes=job.scenes[: recipe.scenes or None]))
        self.path = find(start, job.context)

    def run(self) -> Trained:
        """Train, and write NAME.safetensors (float16, plan and class names in its metadata)."""
        recipe, job = self.recipe, self.job
        ultralytics()
        from ultralytics.models.yolo.detect import DetectionTrainer

        start = read_model(self.path)
        names = [start.names[index] for index in sorted(start.names)]
        if not set(needed := class_names(job.scenes)) <= set(names):
            names = needed  # ultralytics keeps the weights whose shapes fit
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            export(job.scenes, job.images, names, root / "train")
            data = {"path": folder, "train": "train/images", "val": "train/images", "names": dict(enumerate(names))}
            (root / "data.yaml").write_text(json.dumps(data), encoding="utf-8")  # JSON is YAML
            settings = {
                "model": "yolo.yaml",  # a name that its checks take; the network is given below
                "data": str(root / "data.yaml"),
                "epochs": recipe.epochs,
                "batch": recipe.batch,
                "imgsz": recipe.image_size,
                "lr0": recipe.learning_rate,
                "optimizer": "AdamW",
                "cos_lr": True,
                "warmup_epochs": 1,
                "mosaic": 0.0,
                "scale": 0.3,
                "hsv_h": 0.0,  # colours carry meaning
                "seed": job.context.seed,
                "device": job.context.device,
                "workers": 2,
                "cache": "ram",
                "amp": False,
                "val": False,
                "plots": False,
                "project": folder,
                "name": "run",
            }
            trainer = DetectionTrainer(overrides=settings)
            trainer.model = trainer.get_model(cfg=start.yaml, weights=start)
            trainer.train()
            model = read_model(root / "run" / "weights" / "last.pt")
        out = job.out / f"{recipe.name}.safetensors"
        metadata = {"format": FORMAT, "plan": {**model.yaml, "nc": len(names)}, "names": names}
        weights.write_safetensors(out, model.state_dict(), metadata | {"recipe": recipe.model_dump()})
        options = YoloOptions(weights=str(out.resolve()), image_size=recipe.image_size, whole_image=False)
        context = replace(job.context, acceleration=Acceleration())
        return Trained(out, recipe.model_dump(), recall(YoloProposer(options, context), job))


def export(scenes: Sequence[Scene], images: ImageSource, names: Sequence[str], folder: Path) -> None:
    """Write images and labels as ultralytics reads them: class, cx, cy, w, h in 0..1. Raises ImageError."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number, scene in enumerate(scenes):
        image, objects = images.load(scene), scene_objects(scene)
        height, width = image.shape[:2]
        boxes = box_xyxy_to_cxcywh([box for _, box in objects]) / [width, height, width, height]
        rows = [
            f"{names.index(name)} {' '.join(f'{v:.6f}' for v in box)}"
            for (name, _), box in zip(objects, boxes, strict=True)
        ]
        (folder / "labels" / f"{number:06d}.txt").write_text("\n".join(rows), encoding="utf-8")
        Image.fromarray(image).save(folder / "images" / f"{number:06d}.jpg", quality=95)
