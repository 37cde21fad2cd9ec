"""What each part is made of, and with which recipe of shapes.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.datasets.load import load_split
from bench.errors import SettingsError
from bench.settings import Resolved, load_settings, merged
from bench.training.jobs import train_pipeline
from bench.training.task import TaskFactory, TrainingJob
from pipelines.diffusion import task as diffusion
from pipelines.rl_refine import task as rl_refine
from pipelines.two_stage import pipeline as two_stage
from pipelines.two_stage.proposers.objects import class_names, scene_descriptions
from tools.tiny_weights import (
    architectures,
    clip_pretraining,
    clipvg,
    dynamic_mdetr,
    hivg,
    oneref,
    oneref_pretraining,
    transvg,
)

RECIPES = Path(__file__).with_name("shapes.toml")
SPLIT = "shapes-train"
TABLES: Mapping[str, Any] = tomllib.loads(RECIPES.read_text(encoding="utf-8"))
PARTS = tuple(TABLES)
Tasks = Callable[[TrainingJob], Mapping[str, TaskFactory]]
# Parts that one training makes from what their table says: pipeline, its part, its tasks.
WHOLE: Mapping[str, tuple[str, str, Tasks]] = {
    "clipvg-clip": ("clipvg", "clip", clip_pretraining.tasks),
    "transvg": ("transvg", "network", transvg.tasks),
    "dynamic-mdetr": ("dynamic-mdetr", "network", dynamic_mdetr.tasks),
    "rl-refine": ("rl-refine", "policy", rl_refine.tasks),
    "diffusion": ("diffusion", "head", diffusion.tasks),
    "oneref-pretraining": ("oneref", "network", oneref_pretraining.tasks),
}


def run(part: str, out: Path, seed: int = 0, device: str = "auto", changes: Mapping[str, Any] | None = None) -> Path:
    """Make one part; return its weights file under `out`. `changes` are laid over its recipe.

    Raises SettingsError, and what training raises.
    """
    if part == "mdetr":
        made: Path = import_module("tools.tiny_weights.mdetr").run(out, seed, device, changes or {})
        return made
    table = recipe(part, changes or {})
    scenes = table.pop("shapes", None)  # of the train split; None = as bench.toml says
    data = {"data.shapes.train": scenes, "data.shapes.seed": table.pop("shapes_seed", None)}
    resolved = load_settings(flags={"run.seed": seed, "run.device": device, **data})
    if part in WHOLE:
        return _train(*WHOLE[part], table, resolved, out)
    if part == "clipvg":
        table = _with_clip(table, out, seed, device)
    if part == "oneref":
        table = _after(table, "oneref-pretraining", out, seed, device)
    if part in (halves := {"clipvg": clipvg.tasks, "hivg": hivg.tasks, "oneref": oneref.tasks}):
        return _in_turn(part, halves[part], table, resolved, out, seed, device)
    start = out / "start" / f"{table['name']}.safetensors"
    _write_start(part, start, table, resolved, seed)
    name = "clip" if part == "clip" else "detector"
    pipeline = "yolo-clip" if part == "clip" else f"{part}-clip"
    table["start_from"] = str(start.resolve())
    return _train(pipeline, name, two_stage.tasks, {name: table}, resolved, out)


def recipe(part: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part's table of shapes.toml with the changes laid over it. Raises SettingsError."""
    if part not in TABLES:
        raise SettingsError(f"{part}: no part of {RECIPES.name}; there are {', '.join(TABLES)}")
    return merged(TABLES[part], changes)


def _with_clip(table: dict[str, Any], out: Path, seed: int, device: str) -> dict[str, Any]:
    """Name the CLIP under CLIP-VG, made first where it is missing."""
    if table["clip"].get("pretrained"):
        return table
    clip = out / f"{recipe('clipvg-clip', {})['name']}.safetensors"
    if not clip.is_file():
        run("clipvg-clip", out, seed, device)
    return merged(table, {"clip": {"pretrained": str(clip.resolve())}})


def _after(table: dict[str, Any], part: str, out: Path, seed: int, device: str) -> dict[str, Any]:
    """Start from another part, made first where it is missing."""
    if table.get("start_from"):
        return table
    before = out / f"{recipe(part, {})['name']}.safetensors"
    if not before.is_file():
        run(part, out, seed, device)
    return merged(table, {"start_from": str(before.resolve())})


def _in_turn(
    part: str, tasks: Tasks, table: dict[str, Any], resolved: Resolved, out: Path, seed: int, device: str,
    first: str = "first",
) -> Path:  # fmt: skip
    """Train by a table, then go on by its `second`, laid over it, which may have a `second` of its own."""
    second = table.pop("second", None)
    if not second:
        return _train(part, "network", tasks, table, resolved, out)
    before = _train(part, "network", tasks, table, resolved, out / first)
    table = merged(table, second | {"start_from": str(before.resolve())})
    scenes = table.pop("shapes", None)
    resolved = load_settings(flags={"run.seed": seed, "run.device": device, "data.shapes.train": scenes})
    return _in_turn(part, tasks, table, resolved, out, seed, device, first=f"{first}-second")


def _train(pipeline: str, part: str, tasks: Tasks, table: Mapping[str, Any], resolved: Resolved, out: Path) -> Path:
    """Train by the product's trainer; nothing of bench.toml's own recipe counts."""
    made = train_pipeline(
        pipeline, SPLIT, resolved, part, None, out, None, {}, tasks=lambda job: tasks(replace(job, recipe=table))
    )
    return made[part] if made else out / f"{table['name']}.safetensors"  # of several processes the first alone has it


def _write_start(part: str, start: Path, table: dict[str, Any], resolved: Resolved, seed: int) -> None:
    """Write the small network that a training starts from, and take its architecture out of the table."""
    split = load_split(SPLIT, resolved)
    if part == "clip":
        texts = [e.text for scene in split.scenes for e in scene.expressions]
        texts += [text for scene in split.scenes for text in scene_descriptions(scene)]
        architectures.write_clip(start, table["model"], texts, seed)
        return
    write: Any = {"detr": architectures.write_detr, "ssd": architectures.write_ssd, "yolo": architectures.write_yolo}
    write[part](start, class_names(split.scenes), seed, **table.pop("architecture", {}))
