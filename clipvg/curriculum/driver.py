"""`bench train --curriculum single|multi`: select rows of pseudo-labels by reliability, and train on them.

    for every source i      M_i <- train(S_i)                          scorer
    for every i, j          H_ij <- IoU(M_i(image, phrase), box)       reliability of S_j under M_i
    search                  P(D) <- selection metric(train(D))         trials (search.py: SSA, MSA)
    train(D*)                                                          the last training, by the full config

Each line consists of nodes of finished work (bench/runs/memo.py), so a killed curriculum resumes with equal decisions.
What is trained is the task of any method with one part (bench/training/task.py).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import registry
from bench.datasets.fingerprint import fingerprint
from bench.datasets.readers.label_sources import SourceRows
from bench.errors import DataError, SettingsError, UsageError
from bench.evaluation.reliability import measure
from bench.grounding import Box, Pipeline, Scene
from bench.hashing import sha256_file
from bench.runs.files import write_atomically
from bench.runs.memo import DryRunStop, Memo, Result, digest
from bench.runs.shards import from_environment
from bench.settings import parse_table
from bench.training.task import Trained, TrainingJob
from bench.training.trainer import BEST, LAST, launch, train
from clipvg.curriculum import pools as metrics
from clipvg.curriculum.plan import CurriculumOptions, Recipe, Tasks, make_plan, make_recipe, only_task
from clipvg.curriculum.pools import Pool, pool_of, sampled, selected
from clipvg.curriculum.record import CurriculumLog
from clipvg.curriculum.search import Selection, multi_source, single_source

log = logging.getLogger("bench.train")
NAME = "network"  # of a node's weights


def curriculum(
    kind: str,
    job: TrainingJob,
    sources: Sequence[SourceRows],
    tasks: Tasks,
    options: Mapping[str, Any],
    dry_run: bool = False,
) -> Mapping[str, Trained]:
    """Select rows by SSA ("single") or MSA ("multi"), and train on them; a dry run only announces its plan.

    Writes under `job.out` NAME.safetensors, NAME.curriculum/ with the rows it chose and its decisions as JSON, tables
    and drawings, and nodes/, which all curricula of that folder share. Raises UsageError, SettingsError, DataError and
    what a training raises.
    """
    if kind == "single" and len(sources) != 1:
        names = ", ".join(source.name for source in sources)
        raise UsageError(f"--curriculum single takes one source, and these are {len(sources)}: {names}; take multi")
    if kind == "multi" and len(sources) < 2:
        raise UsageError(f"--curriculum multi needs two sources at least, and this is {sources[0].name} alone")
    return Curriculum(kind, job, sources, tasks, options, dry_run).run()


single, multi = partial(curriculum, "single"), partial(curriculum, "multi")


class Curriculum:
    """One curriculum: its settings, rows and finished work."""

    def __init__(
        self,
        kind: str,
        job: TrainingJob,
        sources: Sequence[SourceRows],
        tasks: Tasks,
        options: Mapping[str, Any],
        dry_run: bool,
    ) -> None:
        # 1. Settings: the options, and a recipe for each kind of training.
        self.kind, self.job, self.tasks = kind, job, tasks
        where = f"bench.toml [train.{job.context.name}.curriculum]"
        self.options = parse_table(CurriculumOptions, options, where)
        if self.options.criterion == "agreement" and kind == "single":
            raise SettingsError(f"{where}: criterion = agreement needs scorers that can agree: --curriculum multi")
        if unknown := self.options.scorers.keys() - {source.name for source in sources}:
            raise SettingsError(f"{where}: scorers names {', '.join(sorted(unknown))}, which is no source")
        proxy, scorer = self.options.proxy, self.options.scorer
        self.full = make_recipe(job, tasks)
        self.trial = make_recipe(job, tasks, "proxy", proxy) if proxy else self.full
        self.measuring = make_recipe(job, tasks, "scorer", scorer) if scorer else self.full
        # 2. Rows, from sources with few entities in a phrase to those with many; equals stay as they were given.
        aside = 0.0 if self.options.criterion == "labelled" else self.options.held_out
        pools = sorted((pool_of(source, aside) for source in sources), key=lambda pool: pool.entities)
        self.pools = {pool.name: pool for pool in pools}
        # Text features do not depend on which rows a training has, if all texts are known beforehand.
        job.shared["texts"] = {e.text for source in sources for scene in source.scenes for e in scene.expressions}
        self.metric = metrics.held_out(job, pools) if aside else metrics.labelled(job)
        # 3. Processes and finished work.
        rank = from_environment()
        self.index, self.processes, self.accelerator = rank.index, rank.size, None
        if self.processes > 1:
            self.accelerator = launch(job, self.full.task.config.model_copy(update={"track": ""}), job.out)
        self.memo = Memo(job.out / "nodes", self._agree, self.index == 0, dry_run, "curriculum")
        self.record = CurriculumLog(kind, self.options, {source.name: source for source in sources}, self.pools)
        self.boxes: dict[str, dict[str, Box | None]] = {}

    def run(self) -> Mapping[str, Trained]:
        """Announce the plan, and carry it out; a dry run stops at the first node that is not done."""
        kinds = {"scorer": self.measuring, "trial": self.trial, "last": self.full}
        configs = {name: recipe.task.config for name, recipe in kinds.items()}
        plan = make_plan(tuple(self.pools.values()), configs, self.options, self.memo.records())
        self.record.plan = plan.table()
        for line in plan.lines():
            log.info("curriculum: %s", line)
        try:
            return self._run()
        except DryRunStop as stop:
            log.info("curriculum: a dry run ends here; next would be %s", stop)
            return {}

    def _run(self) -> Mapping[str, Trained]:
        # 1. A scorer of each source, and the reliability of all rows under it.
        scorers = {name: self._scorer(pool) for name, pool in self.pools.items()}
        for name, (identity, options) in scorers.items():
            self._score(name, identity, options)
        # 2. The search.
        if self.options.criterion == "agreement":
            self.metric = metrics.agreement(self.job, self.pools.values(), self.boxes)
        self.record.metric = self.metric.chosen_on
        if self.kind == "single":
            self.record.rounds = [single_source(next(iter(self.pools)), self.performance, self.options)]
        else:
            self.record.rounds = multi_source(list(self.pools), self.performance, self.options)
        # 3. The last training.
        if not self.record.chosen:
            raise DataError(
                f"no row of any source is reliable to {self.options.start:g}; lower curriculum.start, or look at the "
                "labels with `bench label stats` and `bench label score`"
            )
        rows = self.record.kept(*self.record.chosen)
        what = f"the last training, on {len(rows):,} rows"
        node, result = self._train(selected(rows, self.pools.values()), self.full, what)
        if self.accelerator is not None:
            self.accelerator.end_training()
        return self._finish(node, result) if self.memo.lead else {}

    def performance(self, selection: Selection) -> float | None:
        """Return P(D), the score of a network trained on a selection; None where its last choice keeps no row."""
        last = selection[-1]
        choice = f"{last.source} by {last.scorer} from {last.threshold:g}"
        if not sampled(self.record.kept(last), self.options.proxy_rows):
            log.warning("curriculum: %s keeps no row", choice)
            self.record.trials[selection] = {"rows": 0, "performance": None, "node": None}
            return None
        rows = sampled(self.record.kept(*selection), self.options.proxy_rows)
        what = f"trial: {choice}, {len(rows):,} rows"
        node, result = self._train(selected(rows, self.pools.values()), self.trial, what)
        accuracy = float(result["score"]["accuracy"])
        self.record.trials[selection] = {"rows": len(rows), "performance": accuracy, "node": node}
        log.info("curriculum: %s: %.2f", what, 100 * accuracy)
        return accuracy

    def _scorer(self, pool: Pool) -> tuple[str, Mapping[str, Any]]:
        """What identifies a source's scorer, and the options that open it: trained on the whole source, or given."""
        if given := self.options.scorers.get(pool.name):
            path = Path(given).expanduser()
            if not path.is_file():
                raise SettingsError(f"curriculum.scorers.{pool.name}: {path} is not there")
            if warning := warning_about(path, self.job.context.dataset):
                log.warning("curriculum: %s", warning)
                self.record.warnings.append(warning)
            self.record.scorers[pool.name] = {"weights": str(path), "given": True}
            return sha256_file(path), {"weights": str(path.resolve())}
        what = f"the scorer of {pool.name}, {len(pool.rows) - len(pool.held_out):,} rows"
        node, result = self._train(pool.to_train, self.measuring, what)
        self.record.scorers[pool.name] = {"node": node, **result["score"]}
        return node, self.measuring.task.options(self.memo.folder / node / f"{NAME}.safetensors")

    def _score(self, scorer: str, identity: str, options: Mapping[str, Any]) -> None:
        """Add H_ij for every source j: all rows under one scorer, each image encoded once."""
        pools = self.pools.values()
        scenes = selected([row for pool in pools for row in pool.rows], pools)
        names = digest({"rows": [list(pool.rows) for pool in pools]})
        key = {"measurer": identity, "rows": fingerprint(scenes), "names": names}
        what = f"the reliability of {sum(len(pool.rows) for pool in pools):,} rows under the scorer of {scorer}"

        def work(folder: Path) -> Result:
            from accelerate.utils import gather_object

            share = (self.index, self.processes, gather_object if self.processes > 1 else None)
            scored = measure(self._open(options), scenes, self.job.images, self.job.settings, *share)
            return {"rows": {name: [round(row.iou, 6), row.box] for name, row in scored.rows.items()}}

        rows = self.memo.run("score", key, what, work)[1]["rows"]
        held_out = frozenset[str]().union(*(pool.held_out for pool in pools))
        self.boxes[scorer] = {row: box and tuple(box) for row, (_, box) in rows.items() if row in held_out}
        for pool in pools:
            self.record.reliabilities[scorer, pool.name] = {row: rows[row][0] for row in pool.rows}

    def _train(self, scenes: tuple[Scene, ...], recipe: Recipe, what: str) -> tuple[str, Result]:
        """Train from scratch on these rows, as a node."""
        rows = fingerprint(scenes)
        key = {**recipe.identity, "rows": rows, "metric": [self.metric.name, self.metric.data]}

        def work(folder: Path) -> Result:
            job = replace(
                self.job,
                scenes=scenes,
                recipe={**recipe.table, "name": NAME},
                out=folder,
                validate=self.metric.validate,
                validation_name=self.metric.name,
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

    def _finish(self, node: str, result: Result) -> Mapping[str, Trained]:
        """Give the chosen weights the config's name, score them, and write the record."""
        name = self.full.task.config.name
        out = self.job.out / f"{name}.safetensors"
        write_atomically(out, (self.memo.folder / node / f"{NAME}.safetensors").read_bytes())
        score = self.job.validate(self._open(self.full.task.options(out)))
        self.record.finish(node, result, score, self.memo.done)
        self.record.write(self.job.out / f"{name}.curriculum")
        notes = {**result["notes"], "chosen_on": self.metric.chosen_on, "curriculum": self.record.summary()}
        table = self.full.task.config.model_dump(mode="json") | {"curriculum": self.options.model_dump(mode="json")}
        (part,) = self.tasks(self.job)
        return {part: Trained(out, table, {key: round(value, 4) for key, value in score.items()}, notes)}

    def _open(self, options: Mapping[str, Any]) -> Pipeline:
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
    return f"{weights}: trained on {split}, and measures labels of {dataset}"
