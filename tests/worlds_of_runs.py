"""Runs made for tests of comparing: folders with run.json and outcomes.jsonl, from tables of hits."""

from __future__ import annotations

from fake_world import make_identity

from bench.evaluation.metrics import compute
from bench.evaluation.outcomes import outcomes, store_outcomes
from bench.evaluation.protocols import protocol as protocol_named
from bench.grounding import Expression, Prediction, Scene
from bench.runs.predictions import SceneAnswers
from bench.runs.record import RunRecord, runs_of, signature
from bench.runs.store import store_rows, write_record

SIDE = 40.0
TEXTS = ("the man", "the dog on the left of the big red house", "a cup")


def scenes_of(sizes, empty=()):
    """A scene per size; after each position of `empty` one without expressions."""
    scenes, number = [], 0
    for position, size in enumerate(sizes):
        expressions = tuple(
            Expression(f"e{number + k}", TEXTS[(number + k) % 3], (0.0, 0.0, SIDE, SIDE), kind=f"k{k % 2}")
            for k in range(size)
        )
        number += size
        scenes.append(Scene(f"p{position}", f"p{position}.jpg", 100, 100, expressions))
        if position in empty:
            scenes.append(Scene(f"x{position}", f"x{position}.jpg", 100, 100, ()))
    return tuple(scenes)


def make_run(
    results,
    name,
    scenes,
    hits,
    split="mine-val",
    protocol="iou",
    settings_hash="s" * 12,
    finished="2026-11-22T10:00:00+00:00",
    status="complete",
    proposals="",
    keep=True,
    masks=None,
    **data,
):
    """A run whose answer to expression i is right where hits[i]; wrong answers overlap by a third; masks by id."""
    marks, masks = iter(hits), masks or {}
    rows = [
        SceneAnswers(
            scene.id,
            tuple(
                Prediction(e.id, (0.0, 0.0, SIDE, SIDE if next(marks) else SIDE / 3), mask=masks.get(e.id))
                for e in scene.expressions
            ),
        )
        for scene in scenes
    ]
    rule = protocol_named(protocol)
    counts = {"expressions": len(hits), "images": len(scenes)}
    identity = make_identity(name, {"split": split, "fingerprint": "f" * 16, **counts, **data})
    folder = runs_of(results, name, split) / f"{finished[:10]}-{settings_hash[:8]}-{finished[11:13]}"
    folder.mkdir(parents=True)
    store_rows(folder, rows)
    if keep:
        store_outcomes(folder, outcomes(scenes, rows, rule))
    record = RunRecord(
        status=status, provenance="run", name=name, protocol=rule.name,
        signature=signature(rule.name, identity.data, rule.hits_at, proposals), proposals=proposals, identity=identity,
        settings_hash=settings_hash, argv=("bench", "run"), started=finished, finished=finished, git={},
        environment={}, card={}, sessions=1, notes=(), errors={}, metrics=compute(scenes, rows, rule), throughput=None,
    )  # fmt: skip
    write_record(folder, record)
    return folder
