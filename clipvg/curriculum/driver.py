"""`bench train --curriculum single|multi`: select rows of pseudo-labels by reliability, and train on them.

    for every source i      M_i <- train(S_i)                          its scorer
    for every i, j          H_ij <- IoU(M_i(image, phrase), box)       reliability of S_j under M_i
    search                  P(D) <- selection metric(train(D))         trials (search.py: SSA, MSA)
    train(D*)                                                          the last training, by the full config

Each line consists of nodes of finished work (nodes.py), so a killed curriculum resumes with equal decisions. What is
trained is the task of any method with one part (bench/training/task.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.datasets.readers.labels import SourceRows
from bench.errors import DataError, SettingsError, UsageError
from bench.grounding import Box
from bench.hashing import sha256_file
from bench.runs.memo import DryRunStop, Result
from bench.settings import parse_table
from bench.training.task import Trained, TrainingJob
from clipvg.curriculum import pools as metrics
from clipvg.curriculum.nodes import Nodes, warning_about
from clipvg.curriculum.plan import Recipe, Tasks, make_plan, make_recipe, plan_lines
from clipvg.curriculum.pools import Pool, SelectionMetric, pool_of, sampled, selected
from clipvg.curriculum.record import CurriculumRecord
from clipvg.curriculum.search import CurriculumOptions, Selection, multi_source, single_source

log = logging.getLogger("bench.train")


def curriculum(
    kind: str,
    job: TrainingJob,
    sources: Sequence[SourceRows],
    tasks: Tasks,
    table: Mapping[str, Any],
    dry_run: bool = False,
) -> Mapping[str, Trained]:
    """Select rows by SSA ("single") or MSA ("multi"), and train on them; a dry run stops at the first new node.

    Writes under `job.out` NAME.safetensors, NAME.curriculum/ with the rows it chose and its decisions as JSON, tables
    and drawings, and nodes/, which all curricula of that folder share. Raises UsageError, SettingsError, DataError and
    what a training raises.
    """
    # 1. Options, a recipe for each kind of training, and rows: sources with few entities in a phrase come first.
    options = _options(kind, job, sources, table)
    full = make_recipe(job, tasks)
    trial = make_recipe(job, tasks, "proxy", options.proxy) if options.proxy else full
    scorer = make_recipe(job, tasks, "scorer", options.scorer) if options.scorer else full
    recipes = {"scorer": scorer, "trial": trial, "last": full}
    aside = 0.0 if options.criterion == "labelled" else options.held_out
    pools = sorted((pool_of(source, aside) for source in sources), key=lambda pool: pool.entities)
    order = [pool.name for pool in pools]
    # Text features do not depend on which rows a training has, if all texts are known beforehand.
    job.shared["texts"] = {e.text for source in sources for scene in source.scenes for e in scene.expressions}
    metric = metrics.pseudo(job, pools) if aside else metrics.labelled(job)
    nodes = Nodes(job, tasks, full, dry_run)
    record = CurriculumRecord(kind, options, {s.name: s for s in sources}, {pool.name: pool for pool in pools})
    record.plan = make_plan(pools, {name: task.config for name, (task, _) in recipes.items()}, options)
    log.info("%s", "\n".join(plan_lines(record.plan, nodes.memo.records())))
    try:
        # 2. A scorer M_i for each source: trained on the whole source, or given.
        scorers = {pool.name: _scorer(pool, scorer, metric, nodes, record) for pool in pools}
        # 3. Reliability H_ij: the IoU of M_i's box with the row's own, for every row of every source.
        boxes = {name: _reliabilities(name, *opened, pools, nodes, record) for name, opened in scorers.items()}
        # 4. The search; what it asks for, P(D), is the score of one training on D. None: D's last choice keeps no row.
        if options.criterion == "agreement":
            metric = metrics.agreement(job, pools, boxes)
        record.metric = f"selected on {metric[0]}"
        performance = partial(_performance, pools, trial, metric, nodes, record)
        if kind == "single":
            record.rounds = [single_source(order[0], performance, options)]
        else:
            record.rounds = multi_source(order, performance, options)
        # 5. The last training, on the chosen rows D* by the full config.
        if not record.chosen:
            raise DataError(
                f"no row of any source is reliable to {options.start:g}; lower curriculum.start, or look at the labels "
                "with `bench label stats` and `bench label score`"
            )
        rows = record.kept(*record.chosen)
        what = f"the last training, on {len(rows):,} rows"
        node, result = nodes.train(selected(rows, pools), full, metric, what)
    except DryRunStop as stop:
        log.info("curriculum: a dry run ends here; next would be %s", stop)
        return {}
    # 6. Its weights under the config's name, scored on validation once, with the record of all decisions.
    if nodes.accelerator is not None:
        nodes.accelerator.end_training()
    return _finish(node, result, full, nodes, record) if nodes.memo.lead else {}


single, multi = partial(curriculum, "single"), partial(curriculum, "multi")


def _options(kind: str, job: TrainingJob, sources: Sequence[SourceRows], table: Mapping[str, Any]) -> CurriculumOptions:
    """Parse the options, and refuse what does not go with the sources."""
    names = [source.name for source in sources]
    if kind == "single" and len(names) != 1:
        raise UsageError(f"--curriculum single takes one source, not {len(names)} ({', '.join(names)}); use multi")
    if kind == "multi" and len(names) < 2:
        raise UsageError(f"--curriculum multi needs at least two sources; {names[0]} is the only one")
    where = f"bench.toml [train.{job.context.name}.curriculum]"
    options = parse_table(CurriculumOptions, table, where)
    if options.criterion == "agreement" and kind == "single":
        raise SettingsError(f"{where}: criterion = agreement needs scorers that can agree: --curriculum multi")
    if unknown := options.scorers.keys() - set(names):
        raise SettingsError(f"{where}: scorers names {', '.join(sorted(unknown))}, which is no source")
    return options


def _scorer(
    pool: Pool, recipe: Recipe, metric: SelectionMetric, nodes: Nodes, record: CurriculumRecord
) -> tuple[str, Mapping[str, Any]]:
    """Train a source's scorer, or take the given one -> its identity and the options that open it."""
    if given := record.options.scorers.get(pool.name):
        path = Path(given).expanduser()
        if not path.is_file():
            raise SettingsError(f"curriculum.scorers.{pool.name}: {path} is not there")
        if warning := warning_about(path, nodes.job.context.dataset):
            log.warning("curriculum: %s", warning)
            record.warnings.append(warning)
        record.scorers[pool.name] = {"weights": str(path), "given": True}
        return sha256_file(path), {"weights": str(path.resolve())}
    what = f"the scorer of {pool.name}, {len(pool.rows) - len(pool.held_out):,} rows"
    node, result = nodes.train(pool.to_train, recipe, metric, what)
    record.scorers[pool.name] = {"node": node, **result["score"]}
    return node, recipe[0].options(nodes.weights(node))


def _reliabilities(
    scorer: str,
    identity: str,
    options: Mapping[str, Any],
    pools: Sequence[Pool],
    nodes: Nodes,
    record: CurriculumRecord,
) -> dict[str, Box | None]:
    """Add H_ij for every source j to the record -> the scorer's boxes of the rows set aside."""
    what = f"the reliability of {sum(len(pool.rows) for pool in pools):,} rows under the scorer of {scorer}"
    rows = nodes.score(identity, options, pools, what)
    for pool in pools:
        record.reliabilities[scorer, pool.name] = {row: rows[row][0] for row in pool.rows}
    aside = frozenset[str]().union(*(pool.held_out for pool in pools))
    return {row: box and tuple(box) for row, (_, box) in rows.items() if row in aside}


def _performance(
    pools: Sequence[Pool],
    recipe: Recipe,
    metric: SelectionMetric,
    nodes: Nodes,
    record: CurriculumRecord,
    selection: Selection,
) -> float | None:
    """Return P(D), the score of a network trained on a selection; None where its last choice keeps no row."""
    last, share = selection[-1], record.options.proxy_rows
    choice = f"{last.source} by {last.scorer} from {last.threshold:g}"
    if not sampled(record.kept(last), share):
        log.warning("curriculum: %s keeps no row", choice)
        record.trials[selection] = {"rows": 0, "performance": None, "node": None}
        return None
    rows = sampled(record.kept(*selection), share)
    what = f"trial: {choice}, {len(rows):,} rows"
    node, result = nodes.train(selected(rows, pools), recipe, metric, what)
    accuracy = float(result["score"]["accuracy"])
    record.trials[selection] = {"rows": len(rows), "performance": accuracy, "node": node}
    log.info("curriculum: %s: %.2f", what, 100 * accuracy)
    return accuracy


def _finish(node: str, result: Result, recipe: Recipe, nodes: Nodes, record: CurriculumRecord) -> Mapping[str, Trained]:
    """Give the chosen weights the config's name, score them, and write the record."""
    job, task = nodes.job, recipe[0]
    config = task.config
    out = job.out / f"{config.name}.safetensors"
    nodes.publish(node, out)
    score = job.validate(nodes.open(task.options(out)))
    record.finish(node, result, score, nodes.memo.done)
    record.write(job.out / f"{config.name}.curriculum")
    notes = {**result["notes"], "chosen_on": record.metric, "curriculum": record.summary()}
    table = config.model_dump(mode="json") | {"curriculum": record.options.model_dump(mode="json")}
    (part,) = nodes.tasks(job)
    return {part: Trained(out, table, {key: round(value, 4) for key, value in score.items()}, notes)}
