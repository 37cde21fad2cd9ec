"""Answers: every scene of a sequence grounded by a pipeline, batch by batch, its answers checked.

    scenes ─► decoded ahead ─► batches ─► ground ─► checked ─► one row a scene

A run (loop.py) stores the batches of `answers` as they come; `gathered` joins the rows of several processes in memory.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from bench.datasets.images import check_size
from bench.errors import BenchError, DataError, DeviceError, ImageError
from bench.grounding import ImageArray, ImageSource, LoadedScene, Pipeline, Prediction, Scene, StageClock
from bench.memory import in_chunks, out_of_memory
from bench.runs.predictions import SceneAnswers, from_predictions
from bench.settings import RunSettings


@dataclass(frozen=True, slots=True)
class Decoded:
    """One scene with its image, or with why there is none. `seconds` is what its decoding took in its thread."""

    scene: Scene
    image: ImageArray | None
    error: str
    seconds: float


def decoded_ahead(scenes: Sequence[Scene], source: ImageSource, threads: int, ahead: int) -> Iterator[Decoded]:
    """Every scene in order, at most `ahead` of them decoded and not yet taken. A bad image raises nothing."""
    waiting: deque[Future[Decoded]] = deque()
    left = iter(scenes)
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            waiting.extend(pool.submit(_decode, scene, source) for scene in islice(left, ahead))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(_decode, scene, source) for scene in islice(left, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _decode(scene: Scene, source: ImageSource) -> Decoded:
    start = time.perf_counter()
    image: ImageArray | None = None
    error = ""
    try:
        image = source.load(scene)
        check_size(scene, image)
    except ImageError as bad:
        image, error = None, str(bad)
    except Exception as bad:  # another data set's source may raise anything: still only one image's error
        image, error = None, f"{scene.file}: {type(bad).__name__}: {bad}"
    return Decoded(scene, image, error, time.perf_counter() - start)


Gather = Callable[[list[Any]], list[Any]]
Advance = Callable[[int], None]


class Batch(NamedTuple):
    """Some scenes, one row for each, and a note on what happened; empty where nothing did."""

    decoded: Sequence[Decoded]
    rows: list[SceneAnswers]
    note: str


def answers(
    pipeline: Pipeline,
    scenes: Sequence[Scene],
    images: ImageSource,
    settings: RunSettings,
    clock: StageClock | None = None,
) -> Iterator[Batch]:
    """Ground every scene, images decoded ahead; yields batches in order.

    A batch holds at most `settings.batch_size` scenes; where memory runs out it is halved for good, with a note. An
    image that cannot be decoded is a row with an error. `clock` gets the stage "decode": what the loop waited. Raises
    BenchError for answers that do not fit the queries, DeviceError where the memory is too small for a single scene.
    """
    size = settings.batch_size
    decoded = decoded_ahead(scenes, images, settings.decode_threads, settings.decode_threads + 2 * size)
    while True:
        with clock.stage("decode") if clock else nullcontext():
            batch = list(islice(decoded, size))
        if not batch:
            return
        rows, size, note = _rows(pipeline, batch, size)
        yield Batch(batch, rows, note)


def checked(pipeline: Pipeline, scenes: Sequence[LoadedScene], name: str = "") -> list[Prediction]:
    """Ground a batch once; one prediction a query, in order. Running out of memory is raised as it is.

    Raises BenchError, naming the pipeline (by default as its card does), when it fails or its answers do not fit.
    """
    name = name or pipeline.card.name
    try:
        given: list[object] = list(pipeline.ground(scenes))
    except BenchError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        where = ", ".join(scene.id for scene in scenes[:3]) + (", ..." if len(scenes) > 3 else "")
        raise BenchError(f"pipeline {name!r} failed on the scenes {where}: {type(error).__name__}: {error}") from error
    ids = [query.id for scene in scenes for query in scene.queries]
    if len(given) != len(ids):
        raise BenchError(f"pipeline {name!r} gave {len(given)} answers to {len(ids)} queries")
    predictions = []
    for want, prediction in zip(ids, given, strict=True):
        if not isinstance(prediction, Prediction):
            kind = type(prediction).__name__
            raise BenchError(f"pipeline {name!r} answered query {want!r} with {kind}, not with a Prediction")
        if prediction.id != want:
            raise BenchError(
                f"pipeline {name!r} answered {prediction.id!r} where {want!r} was due; "
                "answers go in the order of the queries"
            )
        predictions.append(prediction)
    return predictions


def gathered(
    pipeline: Pipeline,
    scenes: Sequence[Scene],
    images: ImageSource,
    settings: RunSettings,
    what: str,
    log: logging.Logger,
    index: int = 0,
    count: int = 1,
    gather: Gather | None = None,
    advance: Advance | None = None,
) -> tuple[Sequence[Scene], list[SceneAnswers]]:
    """Ground scenes in memory, by one process or several -> the scenes, and one row for each.

    Process `index` of `count` grounds scenes index, index + count, ... `gather` (accelerate's gather_object) joins the
    lists of all processes; without it a share stands for itself. `what` names the work in messages; `advance` is called
    with the number of scenes of each batch. An image that cannot be decoded is a row with an error.

    Raises DataError without an expression or a readable image, BenchError when the gathered shares are not all scenes,
    and what `answers` raises.
    """
    mine = scenes[index::count]
    rows: list[SceneAnswers] = []
    for batch in answers(pipeline, mine, images, settings):
        rows += batch.rows
        if advance is not None:
            advance(len(batch.rows))
    if gather is not None:
        mine, rows = scenes, gather(rows)
        if missing := {scene.id for scene in scenes} - {row.scene for row in rows}:
            raise BenchError(
                f"{what}: {len(missing)} of {len(scenes)} scenes were answered by no process, {min(missing)!r} among "
                f"them; each of the {count} processes should ask with its own index"
            )
    if not any(scene.expressions for scene in mine):
        raise DataError(f"{what}: there are no expressions to ask about")
    if bad := [row.error for row in rows if row.error is not None]:
        if len(bad) == len(mine):
            raise DataError(f"none of the {len(bad):,} {what} images can be read; the first one: {bad[0]}")
        if index == 0:
            log.warning("%s: %d images cannot be read and count as misses; one: %s", what, len(bad), bad[0])
    return mine, rows


def _rows(pipeline: Pipeline, batch: Sequence[Decoded], size: int) -> tuple[list[SceneAnswers], int, str]:
    """One row a scene, the batch size to go on with, and a note for each halving."""
    loaded = [_loaded(d) for d in batch if d.image is not None and d.scene.expressions]
    notes: list[str] = []
    tried: Sequence[LoadedScene] = loaded

    def work(some: Sequence[LoadedScene]) -> list[SceneAnswers]:
        nonlocal tried
        tried = some
        return _stored(pipeline.card.name, some, checked(pipeline, some))

    def halved(before: int, now: int) -> None:
        nonlocal size
        size = min(size, now)
        notes.append(f"out of memory with {before} scenes in a batch: went on with {now}")

    try:
        answered = [row for some in in_chunks(loaded, size, work, halved) for row in some]
    except DeviceError as error:
        raise DeviceError(
            f"pipeline {pipeline.card.name!r}, scene {tried[0].id}: {error}; use --dtype float16 or bfloat16, a "
            "smaller model, or --device cpu"
        ) from error
    left, rows = iter(answered), []
    for decoded in batch:
        if decoded.image is None or not decoded.scene.expressions:
            rows.append(SceneAnswers(decoded.scene.id, (), error=decoded.error or None))
            continue
        # Where the annotations do not say, predictions are clipped to the decoded image.
        height, width = decoded.image.shape[:2]
        rows.append(replace(next(left), size=None if decoded.scene.width is not None else (width, height)))
    return rows, size, "; ".join(notes)


def _loaded(decoded: Decoded) -> LoadedScene:
    """Make what a pipeline is given of a scene: never the annotated boxes."""
    assert decoded.image is not None
    return LoadedScene(decoded.scene.id, decoded.image, tuple(e.query for e in decoded.scene.expressions))


def _stored(name: str, scenes: Sequence[LoadedScene], predictions: Sequence[Prediction]) -> list[SceneAnswers]:
    """Predictions as rows. Raises BenchError for a box that is not four numbers."""
    rows, left = [], iter(predictions)
    for scene in scenes:
        try:
            rows.append(from_predictions(scene.id, list(islice(left, len(scene.queries)))))
        except (TypeError, ValueError, AttributeError) as error:
            raise BenchError(
                f"pipeline {name!r}, scene {scene.id}: an answer that is not a box of 4 numbers, xyxy pixels, "
                f"with proposals (N, 4): {error}"
            ) from error
    return rows
