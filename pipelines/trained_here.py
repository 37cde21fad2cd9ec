"""What `bench train` wrote beside weights that it made: what they were trained on, as a card says it.

The record (WEIGHTS.json) names the split, the files of pseudo-labels if there were any, and under `started_from` the
record of the weights that the training went on from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.grounding import PipelineContext, Supervision
from bench.hashing import find_file


def trained_here(name: str, context: PipelineContext) -> tuple[str, Supervision] | None:
    """(`trained_on`, `supervision`) of weights that this program trained; None for others.

    Annotations of the data set's own split anywhere on the way are full supervision, else pseudo-labels are pseudo.
    """
    path = find_file(name, context)
    steps = list(_steps(_read(path.with_suffix(".json")))) if path else []
    if not steps:
        return None
    said = [f"pseudo-labels of {split}" if labels else split for split, labels in reversed(steps)]
    own = any(not labels and split.rpartition("-")[0] == context.dataset for split, labels in steps)
    pseudo = any(labels for _, labels in steps)
    return "; ".join(dict.fromkeys(said)), "full" if own else "pseudo" if pseudo else "unknown"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _steps(record: Any) -> Iterator[tuple[str, bool]]:
    """(split, whether by pseudo-labels) of each training, the last one first."""
    while isinstance(record, Mapping) and isinstance(record.get("trained_on"), Mapping):
        data = record["trained_on"]
        yield str(data.get("split") or "not known"), bool(data.get("labels"))
        record = record.get("started_from")
