"""`bench train --curriculum single|multi`: measurers, reliabilities, the search, and the training on what it chose.

    for every source i      M_i <- train(S_i)                          measurer
    for every i, j          H_ij <- IoU(M_i(picture, phrase), box)     reliability of S_j under M_i
    search                  P(D) <- judged(train(D))                   trials (search.py: SSA, MSA)
    train(D*)                                                          the last one, by the full recipe

Every line is made of nodes (nodes.py), so a killed curriculum goes on, with the same decisions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.datasets.fingerprint import fingerprint
from bench.datasets.label_sources import SourceRows
from bench.errors import DataError, SettingsError, UsageError
from bench.evaluation.answering import Gather
from bench.evaluation.reliability import reliability
from bench.grounding import Box, Scene
from bench.hashing import sha256_file
from bench.runs.files import write_atomically
from bench.runs.shards import from_environment
from bench.settings import merged, parse_table
from bench.training.task import Trained, TrainingJob
from clipvg.curriculum import judging
from clipvg.curriculum.given import trained_elsewhere, with_taught_clip
from clipvg.curriculum.manifest import Story, write_story
from clipvg.curriculum.nodes import Found, Nodes, NotDone, digest
from clipvg.curriculum.plan import make_plan
from clipvg.curriculum.rows import Pool, in_order, kept_rows, pool_of, sampled, selected
from clipvg.curriculum.search import Round, Selection, chosen_of, multi_source, single_source
from clipvg.pipeline import ClipVGOptions, ClipVGPipeline
from clipvg.training.beginning import accelerator_for
from clipvg.training.feeding import Shared
from clipvg.training.recipe import ClipVGRecipe, pace_of
from clipvg.training.trainer import train

log = logging.getLogger("bench.train")
NAME = "network"  # of a node's weights
# What a training's weights do not depend on, or depend on through the rows of a step alone.
BESIDE = {"name", "curriculum", "workers", "save_every", "log_every", "track", "collapse_window", "batch"}


def run(job: TrainingJob, sources: Sequence[SourceRows], kind: str, dry_run: bool = False) -> Mapping[str, Trained]:
    """The whole curriculum; `kind` is "single" (SSA) or "multi" (MSA). Writes under `job.out` NAME.safetensors,
    NAME.curriculum/ with the rows it chose and the story of its decisions as JSON, a table and pictures, and nodes/,
    which all curricula of that folder share.

    Raises UsageError, SettingsError, DataError and what a training raises.
    """
    if kind == "single" and len(sources) != 1:
        names = ", ".join(source.name for source in sources)
        raise UsageError(f"--curriculum single is about one source, and these are {len(sources)}: {names}; say multi")
    if kind == "multi" and len(sources) < 2:
        raise UsageError(f"--curriculum multi needs two sources at least, and this is {sources[0].name} alone")
    curriculum = Curriculum(job, sources, kind, dry_run)
    curriculum.announce()
    try:
        return curriculum.run()
    except NotDone as stop:
        log.info("curriculum: a dry run ends here; next would be %s", stop.what)
        return {}


class Curriculum:
    """One curriculum: what it is made of, and the nodes it asks for."""

    def __init__(self, job: TrainingJob, sources: Sequence[SourceRows], kind: str, dry: bool) -> None:
        where = f"bench.toml [train.{job.context.name}]"
        self.job, self.kind, self.recipe = (
            job,
            kind,
            with_taught_clip(parse_table(ClipVGRecipe, dict(job.recipe), where), job),
        )
        self.options = self.recipe.curriculum
        if self.options.criterion == "agreement" and kind == "single":
            raise SettingsError(
                f"{where}: curriculum.criterion = agreement needs measurers that can agree: --curriculum multi"
            )
        base: Mapping[str, Any] = self.recipe.model_dump(mode="json") | {"name": NAME, "curriculum": {}}
        self.full, self.trial, self.measuring = (
            parse_table(ClipVGRecipe, merged(base, changes), f"{where}.curriculum")
            for changes in ({}, self.options.proxy, self.options.measurer)
        )
        aside = 0.0 if self.options.criterion == "labelled" else self.options.held_out
        self.sources = {source.name: source for source in sources}
        pools = [pool_of(source, aside) for source in sources]
        self.pools = {pool.name: pool for pool in (in_order(pools) if kind == "multi" else pools)}
        if unknown := set(self.options.measurers) - set(self.pools):
            raise SettingsError(f"{where}: curriculum.measurers names {', '.join(sorted(unknown))}, which is no source")
        self.folder = job.out / f"{self.recipe.name}.curriculum"
        self.processes = from_environment().size
        lead = from_environment().index == 0
        self.nodes = Nodes(job.out / "nodes", self._agree, lead, dry)
        self.together = None
        if self.processes > 1:
            self.together = accelerator_for(job, self.full.model_copy(update={"track": ""}), self.folder)
        self._shared: dict[str, Shared] = {}
        self.reliabilities: dict[tuple[str, str], dict[str, float]] = {}
        self.boxes: dict[str, dict[str, Box | None]] = {}
        self.story = Story(kind, self.options, self.pools, {s.name: tuple(s.files) for s in sources})
        self.judge = judging.by_labels(job) if aside == 0.0 else judging.by_held_out(job, tuple(self.pools.values()))

    def announce(self) -> None:
        """Says what there is to do, and what it will cost."""
        recipes = {"measurer": self.measuring, "trial": self.trial, "last": self.full}
        plan = make_plan(self.kind, tuple(self.pools.values()), recipes, self.options, self.nodes.records())
        self.story.plan = plan.table()
        for line in plan.lines():
            log.info("curriculum: %s", line)

    def run(self) -> Mapping[str, Trained]:
        """Nodes, decisions, and the last training. Raises NotDone in a dry run."""
        measurers = {name: self._measurer(pool) for name, pool in self.pools.items()}
        for measurer, weights in measurers.items():
            self._score(measurer, weights)
        if self.options.criterion == "agreement":
            self.judge = judging.by_agreement(self.job, tuple(self.pools.values()), self.boxes)
        self.story.judged = self.judge.said
        rounds = self._search()
        self.story.rounds = rounds
        chosen = chosen_of(rounds)
        if not chosen:
            raise DataError(
                f"no row of any source is reliable to {self.options.start:g}; lower curriculum.start, or look at the "
                "labels with `bench label stats` and `bench label score`"
            )
        rows = kept_rows(chosen, self.pools, self.reliabilities)
        what = f"the last training, on {len(rows):,} rows"
        node, found = self._train(selected(rows, self.pools.values()), self.full, self.judge, what)
        if self.together is not None:
            self.together.end_training()
        return self._finish(chosen, rows, node, found) if self.nodes.lead else {}

    def _search(self) -> list[Round]:
        if self.kind == "single":
            return [single_source(next(iter(self.pools)), self.performance, self.options.grid)]
        return multi_source(list(self.pools), self.performance, self.options.grid)

    def performance(self, selection: Selection) -> float | None:
        """P(D): what a network trained on a selection reaches; None where its last choice keeps no row."""
        last = selection[-1]
        said = f"{last.source} by {last.measurer} from {last.threshold:g}"
        new = sampled(kept_rows((last,), self.pools, self.reliabilities), self.options.proxy_rows)
        if not new:
            log.warning("curriculum: %s keeps no row", said)
            self.story.trial(selection, 0, None, None)
            return None
        rows = sampled(kept_rows(selection, self.pools, self.reliabilities), self.options.proxy_rows)
        what = f"trial: {said}, {len(rows):,} rows"
        node, found = self._train(selected(rows, self.pools.values()), self.trial, self.judge, what)
        accuracy = float(found["score"]["accuracy"])
        self.story.trial(selection, len(rows), accuracy, node)
        log.info("curriculum: %s: %.2f", what, 100 * accuracy)
        return accuracy

    def _measurer(self, pool: Pool) -> tuple[str, Path]:
        """What identifies a source's measurer, and its weights: trained on the whole source, or brought along."""
        if given := self.options.measurers.get(pool.name):
            path = Path(given).expanduser()
            if not path.is_file():
                raise SettingsError(f"curriculum.measurers.{pool.name}: {path} is not there")
            warning = trained_elsewhere(path, self.job.context.dataset)
            self.story.measurer(pool.name, {"weights": str(path), "given": True}, warning)
            return sha256_file(path), path
        what = f"the measurer of {pool.name}, {len(pool.rows) - len(pool.held_out):,} rows"
        node, found = self._train(pool.to_train, self.measuring, self.judge, what)
        self.story.measurer(pool.name, {"node": node, **found["score"]})
        return node, self.nodes.folder / node / f"{NAME}.safetensors"

    def _score(self, measurer: str, weights: tuple[str, Path]) -> None:
        """H_ij for every source j: all rows under one measurer, each picture looked at once."""
        identity, path = weights
        pools = self.pools.values()
        scenes = selected([row for pool in pools for row in pool.rows], pools)
        key = {
            "measurer": identity,
            "rows": fingerprint(scenes),
            "names": digest({"rows": [list(p.rows) for p in pools]}),
        }
        what = f"the reliability of {sum(len(pool.rows) for pool in pools):,} rows under the measurer of {measurer}"

        def work(place: Path) -> Found:
            options = ClipVGOptions(weights=str(path.resolve()))
            context = replace(self.job.context, options=options.model_dump())
            pipeline, index = ClipVGPipeline(options, context), from_environment().index
            settings, gather = self.job.settings, gatherer(self.processes)
            found = reliability(pipeline, scenes, self.job.pictures, settings, index, self.processes, gather)
            return {"rows": {name: [round(r.iou, 6), r.box] for name, r in found.items()}}

        _, found = self.nodes.once("score", key, what, work)
        held = frozenset[str]().union(*(pool.held_out for pool in pools))
        self.boxes[measurer] = {
            name: tuple(box) if box else None for name, (_, box) in found["rows"].items() if name in held
        }
        for pool in pools:
            mine = {name: found["rows"][name][0] for name in pool.rows}
            self.reliabilities[measurer, pool.name] = mine
            self.story.score(measurer, pool.name, mine)

    def _train(
        self, scenes: tuple[Scene, ...], recipe: ClipVGRecipe, judge: judging.Judge, what: str
    ) -> tuple[str, Found]:
        """A training from scratch on these rows, as a node."""
        rows = fingerprint(scenes)
        files = [Path(name) for name in (recipe.start_from, recipe.clip.pretrained) if name]
        key = {
            "rows": rows,
            "recipe": recipe.model_dump(mode="json", exclude=BESIDE),
            "rows in a step": pace_of(recipe, self.processes).effective,
            "files": [sha256_file(path) for path in files if path.is_file()],
            "seed": self.job.context.seed,
            "judge": judge.identity,
        }

        def work(place: Path) -> Found:
            job = replace(
                self.job,
                scenes=scenes,
                recipe=recipe.model_dump(mode="json"),
                part=None,
                out=place,
                validate=judge.validate,
                validation_name=judge.said,
                fingerprint=rows,
                fresh=False,
            )
            made = train(job, self._shared_by(recipe))
            if not made:
                return {}
            one = made["network"]
            return {"score": dict(one.score), "notes": dict(one.notes), "rows": sum(len(s.expressions) for s in scenes)}

        node, found = self.nodes.once("train", key, what, work)
        for heavy in ("last.pt", "best.safetensors") if self.nodes.lead else ():  # now that its record is there
            (self.nodes.folder / node / f"{NAME}.run" / heavy).unlink(missing_ok=True)
        return node, found

    def _shared_by(self, recipe: ClipVGRecipe) -> Shared:
        """What trainings on the same CLIP, canvas and style share."""
        network = recipe.network
        same = f"{recipe.clip} {network.image_size} {network.taps} {recipe.preprocessing} {recipe.start_from}"
        texts = frozenset(e.text for pool in self.pools.values() for _, e in pool.rows.values())
        return self._shared.setdefault(same, Shared(texts))

    def _agree(self, value: Any) -> Any:
        """What the first process says."""
        if self.processes == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def _finish(self, chosen: Selection, rows: Sequence[str], node: str, found: Found) -> Mapping[str, Trained]:
        """The chosen weights under the recipe's name, the chosen rows, and the story of how it came to them."""
        weights = self.nodes.folder / node / f"{NAME}.safetensors"
        out = self.job.out / f"{self.recipe.name}.safetensors"
        write_atomically(out, weights.read_bytes())
        context = replace(self.job.context, options={"weights": str(out.resolve())})
        score = self.job.validate(ClipVGPipeline(ClipVGOptions(weights=str(out.resolve())), context))
        self.story.finish(chosen, rows, node, found, score, self.nodes.done)
        write_story(self.story, self.folder, self.sources, self.reliabilities)
        notes = {**found["notes"], "chosen_on": self.judge.said, "curriculum": self.story.summary()}
        return {
            "network": Trained(
                out, self.recipe.model_dump(mode="json"), {k: round(v, 4) for k, v in score.items()}, notes
            )
        }


def gatherer(processes: int) -> Gather | None:
    """What joins the lists of several processes."""
    if processes == 1:
        return None
    from accelerate.utils import gather_object

    joined: Gather = gather_object
    return joined
