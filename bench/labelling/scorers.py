"""Scorers: the weights that score pseudo-labels, with what their records say they were trained on.

A scorer is {"name", "weights", "sha256", "trained_on"}: `sha256` is that of its file, None for an id of the hub;
`trained_on` is that part of the record beside the file ({"split", "labels", ...}), None where there is no record.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from bench.datasets.split import Split
from bench.errors import WeightsError
from bench.evaluation.reliability import Measured, measure
from bench.grounding import Pipeline
from bench.hashing import looked_at, places_of, sha256_file
from bench.settings import Resolved, RunSettings

log = logging.getLogger("bench.label")
NO_NAME = re.compile(r"[^\w.+-]+")  # what is replaced in names
Scorer = Mapping[str, Any]


def find_scorers(weights: Sequence[str], pipeline: str, resolved: Resolved) -> list[Scorer]:
    """Find the scorers, in order, under unique names; an id of the hub is left to the pipeline to find.

    Raises WeightsError for a file that is nowhere, with the command that makes one.
    """
    # 1. Their files.
    files = []
    for name in weights:
        tried = places_of(name, resolved)
        file = next((path for path in tried if path.is_file()), None)
        if file is None and (Path(name).suffix or name.count("/") != 1):
            raise WeightsError(
                f"--scorer {name}: no such weights (looked at {looked_at(name, resolved)}); a scorer is made by "
                f"`bench train --pipeline {pipeline} --split NAME --labels FILE --out FOLDER`"
            )
        files.append(file)
    # 2. Files' names without their suffix; where two are the same, the names of their folders, if these differ.
    stems = [file.stem if file else given.rpartition("/")[2] for given, file in zip(weights, files, strict=True)]
    folders = [file.resolve().parent.name if file else stem for file, stem in zip(files, stems, strict=True)]
    stems, folders = ([NO_NAME.sub("_", name) for name in names] for names in (stems, folders))
    names = [folder if stems.count(stem) > 1 and folder else stem for stem, folder in zip(stems, folders, strict=True)]
    unique = unique_names(names if len(set(names)) == len(names) else stems)
    return [
        {
            "name": name,
            "weights": str(file or given),
            "sha256": sha256_file(file) if file else None,
            "trained_on": _trained_on(file) if file else None,
        }
        for name, given, file in zip(unique, weights, files, strict=True)
    ]


def kind_of(scorer: Scorer, source: Mapping[str, Any]) -> Literal["SR", "CR", ""]:
    """Return SR when trained on this label file ({"file", "sha256"}), CR on others, "" when unknown.

    Files are compared by sha256, by name only where the record has no sha256. Weights trained on annotations are
    cross-source to every label file.
    """
    if scorer["trained_on"] is None:
        return ""
    for file in scorer["trained_on"].get("labels") or ():
        known = "sha256" if file.get("sha256") else "file"
        if file.get(known) == source[known]:
            return "SR"
    return "CR"


def record_of(scorer: Scorer, dataset: str) -> dict[str, Any]:
    """Make the scorer's entry of a record; other or unknown training data goes to the log as well."""
    record = scorer["trained_on"] or {}
    split = str(record.get("split", ""))
    own = "file" if split.startswith("file:") else split.rpartition("-")[0]
    data = "unknown" if not own else "same" if own == dataset else "other"
    if data == "other":
        log.warning("scorer %s was trained on %s, and these labels are about %s", scorer["name"], own, dataset)
    elif data == "unknown":
        log.warning("scorer %s: nothing beside its weights says what they were trained on", scorer["name"])
    return {
        "name": scorer["name"],
        "weights": Path(scorer["weights"]).name if scorer["sha256"] else scorer["weights"],
        "sha256": scorer["sha256"],
        "trained_on": record.get("split"),
        "labels": record.get("labels"),
        "scorer_data": data,
    }


def measure_rows(
    pipeline: Pipeline, split: Split, title: str, run: RunSettings, under: str, store: Path | None = None
) -> Measured:
    """Measure the reliability of every row of `split`, with a progress line called `title`.

    Answers are stored in the file `store` as they come, and taken from there where they are.
    """
    return measure(pipeline, split.scenes, split.images, run, under=under, title=title, store=store)


def unique_names(names: Sequence[str]) -> list[str]:
    """Number names that occur more than once: template, relation, template -> template-1, relation, template-2.

    No two of the result are the same.
    """
    often = Counter(names)
    used = {name for name in names if often[name] == 1}
    numbers: Counter[str] = Counter()
    out = []
    for name in names:
        new = name
        while often[name] > 1 and (new == name or new in used):
            numbers[name] += 1
            new = f"{name}-{numbers[name]}"
        used.add(new)
        out.append(new)
    return out


def _trained_on(weights: Path) -> Mapping[str, Any] | None:
    try:
        record = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    trained_on = record.get("trained_on") if isinstance(record, dict) else None
    return trained_on if isinstance(trained_on, dict) else None
