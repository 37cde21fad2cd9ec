"""Scenes asked in memory, by one process or by several: what validation and reliability both begin with.

A run (loop.py) stores its answers line by line and can be continued; these are gone with their process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bench.errors import BenchError, DataError
from bench.evaluation.asking import Asker
from bench.evaluation.decode import decoded_ahead
from bench.grounding import PictureSource, Pipeline, Scene
from bench.runs.predictions import SceneAnswers
from bench.settings import RunSettings

Gather = Callable[[list[Any]], list[Any]]
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Sharing:
    """What is asked for ("validation"), how this process shares it, and who is told how far it is.

    Process `index` of `count` asks about scenes index, index + count, ... `gather` takes this process's list and gives
    every process the lists of all in one, as accelerate's gather_object does. Without it a share stands for itself.
    """

    what: str
    index: int = 0
    count: int = 1
    gather: Gather | None = None
    advance: Advance | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """The scenes that were asked about and one row for each; of a share that stands for itself, only its own."""

    scenes: Sequence[Scene]
    rows: list[SceneAnswers]


def ask(
    pipeline: Pipeline,
    scenes: Sequence[Scene],
    pictures: PictureSource,
    settings: RunSettings,
    sharing: Sharing,
    log: logging.Logger,
) -> Asked:
    """Shows `pipeline` every scene, pictures decoded ahead, and joins what the processes were answered.

    A picture that cannot be read is a row with an error; the first process says on `log` how many there are.

    Raises DataError when no expression is asked about or no picture can be read, BenchError when the gathered shares
    are not all scenes, and what `Asker.rows` raises.
    """
    mine = scenes[sharing.index :: sharing.count]
    asker = Asker(pipeline, pipeline.card.name, settings.batch_size)
    ahead = settings.decode_threads + 2 * settings.batch_size
    decoded = decoded_ahead(mine, pictures, settings.decode_threads, ahead)
    rows: list[SceneAnswers] = []
    while batch := list(islice(decoded, asker.size)):
        rows += asker.rows(batch)
        if sharing.advance is not None:
            sharing.advance(len(batch))
    asked = mine
    if sharing.gather is not None:
        asked, rows = scenes, sharing.gather(rows)
        if missing := {scene.id for scene in scenes} - {row.scene for row in rows}:
            raise BenchError(
                f"{sharing.what}: {len(missing)} of {len(scenes)} scenes were answered by no process, "
                f"{min(missing)!r} among them; each of the {sharing.count} processes should ask with its own index"
            )
    if not any(scene.expressions for scene in asked):
        raise DataError(f"{sharing.what}: there are no expressions to ask about")
    if bad := [row.error for row in rows if row.error is not None]:
        if len(bad) == len(asked):
            raise DataError(f"none of the {len(bad):,} {sharing.what} pictures can be read; the first one: {bad[0]}")
        if sharing.index == 0:
            log.warning("%s: %d pictures cannot be read and count as misses; one: %s", sharing.what, len(bad), bad[0])
    return Asked(asked, rows)
