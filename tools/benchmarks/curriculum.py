"""Compare uncurated training, SSA and MSA on `shapes`: same length, same start, several seeds.

    python -m tools.benchmarks.curriculum --clip FILE --out FOLDER [--labels known,honest] [--seeds 0,1,2] [--at-once 2]

known   pseudo-labels of the generator, half of them spoilt at stated rates (`bench data noisy-labels`)
honest  those of the real label path: detector, tiny CLIP, and the three sources (`bench label`)

`python -m tools.tiny_weights clipvg-clip` makes the CLIP. A run that did not take off is repeated from another start
and counted, on both sides alike: another network, the same rows in the same order. What is done is not done again.
Prints Acc@0.5 on shapes-val as a Markdown table. One seed takes about 30 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from bench.settings import load_settings
from bench.training.jobs import train_pipeline
from bench.training.task import TaskFactory, TrainingJob
from tools.tiny_weights.clipvg import tasks

SOURCES = ("template", "relation", "caption")
SIDES = {"single": (1, None), "ssa": (1, "single"), "multi": (3, None), "msa": (3, "multi")}  # sources, curriculum
SCENES = "2500"
LOST, STARTS = 0.15, 5  # a run under this accuracy did not take off; so many starts are tried
# A network so small, on a CLIP with 6 x 6 patches, that a training takes a minute on one core. Every training has so
# many steps, however many rows it is given.
RECIPE: dict[str, Any] = {
    "clip": {"model": "tiny-clip-120-20"},
    "network": {
        "taps": [0, 1, 2, 3], "image_size": 120, "hidden": 96, "heads": 3, "feedforward": 192, "layers": 2,
        "dropout": 0.0,
    },
    "preprocessing": "clean",
    "start": "clip",
    "auxiliary": 1.0,
    "cache_features": True,
    "train_positions": False,
    "dtype": "float32",
    "batch": 32,
    "reference_batch": 32,
    "learning_rate": 1.2e-3,
    "schedule": "step",
    "warm_up": 50,
    "clip_norm": 1.0,
    "steps": 1200,
    "validate_every": 1000,
    "log_every": 200,
}  # fmt: skip
CURRICULUM = {"proxy": {"steps": 600}}


def labels(out: Path, kind: str) -> list[Path]:
    """Return the label files of a kind, one a source; make what is missing."""
    files = [out / "labels" / kind / f"{source}.jsonl" for source in SOURCES]
    for source, file in zip(SOURCES, files, strict=True):
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            command = ("data", "noisy-labels", "--kind") if kind == "known" else ("label", "--source")
            common = ("--split", "shapes-train", "--limit", SCENES, "--out", str(file))
            subprocess.run([sys.executable, "-m", "bench.cli.main", *command, source, *common], check=True)
    return files


def started(start: int) -> Callable[[TrainingJob], Mapping[str, TaskFactory]]:
    """Return the tasks with another start: the network's seed moves; that of rows, order and dropout stays."""

    def make(job: TrainingJob, part: str) -> Any:
        moved = replace(job, context=replace(job.context, seed=job.context.seed + 1000 * start))
        task = tasks(moved)[part]()
        task.job = job
        return task

    return lambda job: {part: partial(make, job, part) for part in tasks(job)}


def run(out: Path, clip: Path, kind: str, seed: int) -> dict[str, Any]:
    """Train every side of one kind of labels and one seed; return side -> accuracy, repeats and manifest."""
    files = labels(out, kind)
    resolved = load_settings(None, {"run.seed": seed, "run.device": "cpu"})
    # The recipe is this file's alone, whatever bench.toml holds.
    resolved = replace(resolved, settings=resolved.settings.model_copy(update={"train": {"clipvg": RECIPE}}))
    results = {}
    for side, (count, curriculum) in SIDES.items():
        for start in range(STARTS):
            folder = out / f"{kind}-{seed}" / f"start-{start}"  # a start has nodes of its own
            record = folder / f"{side}.json"
            if not record.is_file():
                changes = {"name": side, "clip": {"pretrained": str(clip)}, "curriculum": CURRICULUM}
                chosen = None, None, folder, None, changes, files[:count]
                train_pipeline(
                    "clipvg", "shapes-train", resolved, *chosen, curriculum=curriculum, tasks=started(start)
                )  # fmt: skip
            accuracy = json.loads(record.read_text())["score"]["accuracy"]
            if accuracy >= LOST:
                break
        rows = [part for file in sorted((folder / f"{side}.curriculum").glob("selected/*")) for part in rows_of(file)]
        results[side] = {"accuracy": accuracy, "repeats": start, "kept": rows}
    return results


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def spoilt(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the share of rows whose words or box the generator spoilt; of honest rows it is unknown."""
    faults = [row["provenance"].get("noise") for row in rows]
    return "" if None in faults else f" ({sum(fault != 'none' for fault in faults) / max(1, len(faults)):.0%} spoilt)"


def table(out: Path, results: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    """Return the results as Markdown: a row a seed, then the means and what the curriculum gains."""
    heads = ("labels", "seed", "template alone", "SSA", "all three", "MSA", "repeats", "SSA keeps", "MSA keeps")
    lines = [f"| {' | '.join(heads)} |", "| --- | --- | ---: | ---: | ---: | ---: | --- | --- | --- |"]
    for kind in dict.fromkeys(kind for kind, _ in results):
        mine = {seed: result for (k, seed), result in results.items() if k == kind}
        every = [rows_of(file) for file in labels(out, kind)]
        for seed, result in mine.items():
            scores = [f"{100 * result[side]['accuracy']:.2f}" for side in SIDES]
            repeats = ", ".join(f"{side} {result[side]['repeats']}" for side in SIDES if result[side]["repeats"])
            totals = {"ssa": len(every[0]), "msa": sum(map(len, every))}
            kept = [
                f"{len(result[side]['kept']):,} of {totals[side]:,}{spoilt(result[side]['kept'])}" for side in totals
            ]
            lines.append(f"| {' | '.join([kind, str(seed), *scores, repeats or 'none', *kept])} |")
        means = {side: 100 * sum(result[side]["accuracy"] for result in mine.values()) / len(mine) for side in SIDES}
        gains = {"ssa": means["ssa"] - means["single"], "msa": means["msa"] - means["multi"]}
        scores = [f"{mean:.2f}" + (f", {gains[side]:+.2f}" if side in gains else "") for side, mean in means.items()]
        count = sum(result[side]["repeats"] for result in mine.values() for side in SIDES)
        lines.append(f"| {' | '.join([kind, 'mean', *scores, f'{count} in all', '', ''])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True, help="made by python -m tools.tiny_weights clipvg-clip")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labels", default="known,honest")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--at-once", type=int, default=2)
    options = parser.parse_args()
    out, clip = options.out.resolve(), options.clip.resolve()
    kinds, seeds = options.labels.split(","), [int(seed) for seed in options.seeds.split(",")]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes share the cores
    for kind in kinds:
        labels(out, kind)
    keys = list(product(kinds, seeds))
    with ProcessPoolExecutor(options.at_once, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = dict(zip(keys, pool.map(partial(run, out, clip), *zip(*keys, strict=True)), strict=True))
    print(table(out, results))


if __name__ == "__main__":
    main()
