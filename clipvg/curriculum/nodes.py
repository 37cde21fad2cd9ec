"""The work of a curriculum, each piece done once: trainings on some rows, and scorings of all rows by one scorer.

A piece is a node of the memo of finished work (bench/runs/memo.py), named by a hash of all that its result depends on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import registry
from bench.datasets.fingerprint import fingerprint
from bench.evaluation.reliability import measure
from bench.grounding import Pipeline, Scene
from bench.old_names import HASHED
from bench.runs.files import write_atomically
from bench.runs.memo import Memo, Result, digest
from bench.runs.shards import from_environment
from bench.training.task import TrainingJob
from bench.training.trainer import BEST, LAST, launch, train
from clipvg.curriculum.plan import Recipe, Tasks, only_task
from clipvg.curriculum.pools import Pool, SelectionMetric, selected

NAME = "network"  # of a node's weights


class Nodes:
    """Finished work under `job.out`/nodes, and the processes that share new work. A `dry` run does none."""

    def __init__(self, job: TrainingJob, tasks: Tasks, full: Recipe, dry: bool) -> None:
        self.job, self.tasks = job, tasks
        rank = from_environment()
        self.index, self.processes, self.accelerator = rank.index, rank.size, None
        if self.processes > 1:
            self.accelerator = launch(job, full[0].config.model_copy(update={"track": ""}), job.out)
        self.memo = Memo(job.out / "nodes", self._agree, self.index == 0, dry, "curriculum")

    def train(
        self, scenes: tuple[Scene, ...], recipe: Recipe, metric: SelectionMetric, what: str
    ) -> tuple[str, Result]:
        """Train from scratch on these rows -> the node, and its result: score, notes and the number of rows."""
        (template, identity), (name, data, validate) = recipe, metric
        rows = fingerprint(scenes)
        key = {**identity, "rows": rows, "metric": [HASHED.get(name, name), data]}

        def work(folder: Path) -> Result:
            job = replace(
                self.job,
                scenes=scenes,
                recipe={**template.job.recipe, "name": NAME},
                out=folder,
                validate=validate,
                validation_name=name,
                fingerprint=rows,
            )
            trained = train(only_task(job, self.tasks)[1], last=False)
            if trained is None:
                return {}
            count = sum(len(scene.expressions) for scene in scenes)
            return {"score": dict(trained.score), "notes": dict(trained.notes), "rows": count}

        node, result = self.memo.run("train", key, what, work)
        for heavy in (LAST, BEST) if self.memo.lead else ():  # now that its record is there
            (self.memo.folder / node / f"{NAME}.run" / heavy).unlink(missing_ok=True)
        return node, result

    def score(self, identity: str, options: Mapping[str, Any], pools: Sequence[Pool], what: str) -> Mapping[str, Any]:
        """Score all rows by one scorer, each image encoded once -> row -> its reliability and the scorer's box."""
        scenes = selected([row for pool in pools for row in pool.rows], pools)
        names = digest({"rows": [list(pool.rows) for pool in pools]})
        key = {HASHED["scorer"]: identity, "rows": fingerprint(scenes), "names": names}

        def work(folder: Path) -> Result:
            from accelerate.utils import gather_object

            share = (self.index, self.processes, gather_object if self.processes > 1 else None)
            scored = measure(self.open(options), scenes, self.job.images, self.job.settings, *share)
            return {"rows": {name: [round(row.iou, 6), row.box] for name, row in scored.rows.items()}}

        rows: Mapping[str, Any] = self.memo.run("score", key, what, work)[1]["rows"]
        return rows

    def weights(self, node: str) -> Path:
        """Return where a training left its weights."""
        return self.memo.folder / node / f"{NAME}.safetensors"

    def publish(self, node: str, out: Path) -> None:
        """Copy a training's weights; the file appears whole or not at all."""
        write_atomically(out, self.weights(node).read_bytes())

    def open(self, options: Mapping[str, Any]) -> Pipeline:
        """Open the method's pipeline with other options."""
        context = replace(self.job.context, options=options)
        return registry.pipeline_factory(context.name)(context)

    def _agree(self, value: Any) -> Any:
        """The first process's value."""
        if self.processes == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]


def warning_about(weights: Path, dataset: str) -> str:
    """Return a warning where a given scorer's record names another data set than `dataset`, or is missing."""
    try:
        split = str(json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))["trained_on"]["split"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{weights}: no record beside it says what it was trained on; as a scorer it may know other images"
    if split.rpartition("-")[0] == dataset:
        return ""
    return f"{weights}: trained on {split}, and scores labels of {dataset}"
