"""Answers: every scene of a sequence grounded by a pipeline, batch by batch, its predictions checked.

    scenes ─► decoded ahead ─► batches ─► ground ─► checked ─► one row a scene

A run (loop.py) stores the batches of `answers` as they come; `gather_answers` keeps all rows in memory.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bench.clock import Clock
from bench.errors import BenchError, DataError, DeviceError, first_line
from bench.evaluation.decoding import Decoded as Decoded
from bench.evaluation.decoding import Preparing, decoded_ahead
from bench.evaluation.progress import progress
from bench.grounding import ImageSource, LoadedScene, Pipeline, Prediction, Scene
from bench.memory import chunks, memory_failure, out_of_memory
from bench.printing import is_text
from bench.runs.files import Appender
from bench.runs.predictions import SceneAnswers, dump_line, from_predictions, parse_lines, parse_row, rounded_boxes
from bench.settings import RunSettings

BLOCK = 256  # scenes whose rows are stored together
Gather = Callable[[list[Any]], list[Any]]


@runtime_checkable
class Launching(Protocol):
    """A pipeline whose batch can be started before the last one's predictions are read."""

    def launch(self, batch: Sequence[LoadedScene]) -> Callable[[], list[Prediction]]:
        """Start a batch without waiting for the device -> the function that waits and returns what `ground` does."""
        ...


@runtime_checkable
class Isolated(Protocol):
    """A pipeline that counts the scenes of the last batch on which it failed, with the reason (isolation.py)."""

    failed_scenes: dict[str, str]


def answers(
    pipeline: Pipeline,
    scenes: Sequence[Scene],
    images: ImageSource,
    settings: RunSettings,
    clock: Clock | None = None,
) -> Iterator[tuple[list[Decoded], list[SceneAnswers], str]]:
    """Ground every scene; yields batches in order: scenes decoded, one row for each, a note or "".

    A batch holds at most `settings.batch_size` scenes; where memory runs out it is halved for good, with a note. An
    image that cannot be decoded is a row with an error. On a GPU the next batch is launched before the last one's
    predictions are read, where the pipeline can launch. `clock` gets the stage "decode": the loop's waiting. Raises
    BenchError for predictions that do not fit the queries, DeviceError where the memory is too small for one scene.
    """
    size, name = settings.batch_size or 8, pipeline.card.name
    notes: list[str] = []
    launched: deque[_Batch] = deque()  # not read yet
    # A CPU would have computed a batch once it is launched: reading it later would only store it later.
    gpu = settings.device.startswith("cuda")
    launch = pipeline.launch if gpu and isinstance(pipeline, Launching) else None

    def halved(before: int, now: int) -> None:
        nonlocal size
        size = min(size, now)
        notes.append(f"out of memory with {before} scenes in a batch: went on with {now}")

    threads, prepare = settings.decode_threads or 4, pipeline.prepare if isinstance(pipeline, Preparing) else None
    decoded = decoded_ahead(scenes, images, threads, threads + 2 * size, lambda: size, prepare)
    while True:
        # 1. A batch of decoded scenes; what a pipeline gets of them has no annotated box.
        with clock.stage("decode") if clock else nullcontext():
            scenes_of_batch = next(decoded, [])
        if scenes_of_batch:
            launched.append(_launched(launch, name, scenes_of_batch))
        elif not launched:
            return
        if scenes_of_batch and len(launched) == 1 and launch is not None:
            continue
        # 2. The pipeline grounds it, in parts where its memory is too small.
        batch = launched.popleft()
        rows: dict[str, SceneAnswers] = {}
        failed: dict[str, str] = {}
        chunk: Sequence[LoadedScene] = batch.loaded
        failures: list[str] = []
        try:
            for chunk in chunks(batch.loaded, size, failures, halved):
                try:
                    # No frame has the function: it keeps the batch's tensors, which are to be freed.
                    given: list[object] = list(_taken(pipeline, batch, chunk)())
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # a pipeline of somebody's may leave by sys.exit, too
                    failures.append(memory_failure(_readable(name, chunk, error)))
                    for later in launched:  # their memory is needed
                        later.finish = None
                    continue
                rows |= _rows(name, chunk, checked(name, chunk, given))
                failed |= pipeline.failed_scenes if isinstance(pipeline, Isolated) else {}
        except DeviceError as error:
            raise DeviceError(
                f"pipeline {name!r}, scene {chunk[0].id}: {error}; use --dtype float16 or bfloat16, a smaller model, "
                "or --device cpu"
            ) from error
        # 3. One row a scene, also for those that the pipeline did not get.
        yield batch.decoded, [_row_of(one, rows, failed) for one in batch.decoded], "; ".join(notes)
        notes.clear()


@dataclass(slots=True)
class _Batch:
    """A batch, what the pipeline gets of it, and the function that reads the predictions where it was launched."""

    decoded: list[Decoded]
    loaded: list[LoadedScene]
    finish: Callable[[], list[Prediction]] | None


def _launched(
    launch: Callable[[list[LoadedScene]], Callable[[], list[Prediction]]] | None, name: str, decoded: list[Decoded]
) -> _Batch:
    """Launch a batch, where there is `launch`. What `prepare` or `launch` raised is raised when the batch is read.

    Memory that ran out is not raised: the batch is grounded again when its turn comes.
    """
    loaded: list[LoadedScene] = []
    failure: Exception | None = None
    for one in decoded:
        if one.image is not None and one.scene.expressions:
            queries = tuple(expression.query for expression in one.scene.expressions)
            loaded.append(LoadedScene(one.scene.id, one.image, queries, one.prepared))
            if failure is None and one.failure is not None and not out_of_memory(one.failure):
                failure = _readable(name, loaded[-1:], one.failure)
    if failure is None and loaded and launch is not None:
        try:
            return _Batch(decoded, loaded, launch(loaded))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            failure = None if out_of_memory(error) else _readable(name, loaded, error)
    return _Batch(decoded, loaded, None if failure is None else partial(_fail, failure))


def _fail(failure: Exception) -> list[Prediction]:
    raise failure


def _taken(pipeline: Pipeline, batch: _Batch, chunk: Sequence[LoadedScene]) -> Callable[[], list[Prediction]]:
    """Take the function that reads what a batch was launched for, once, or one that grounds a part of it."""
    finish, batch.finish = batch.finish, None
    return finish if finish and len(chunk) == len(batch.loaded) else partial(pipeline.ground, chunk)


def ground_checked(pipeline: Pipeline, scenes: Sequence[LoadedScene], name: str = "") -> list[Prediction]:
    """Ground a batch once; one prediction a query, in order. Running out of memory is raised as it is.

    Raises BenchError, naming the pipeline (by default as its card does), when it fails or its predictions do not fit.
    """
    name = name or pipeline.card.name
    try:
        given: list[object] = list(pipeline.ground(scenes))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _readable(name, scenes, error)  # noqa: B904 (it may be the same error)
    return checked(name, scenes, given)


def checked(name: str, scenes: Sequence[LoadedScene], given: Sequence[object]) -> list[Prediction]:
    """Check what the pipeline called `name` returned: one Prediction a query, in order. Raises BenchError."""
    ids = [query.id for scene in scenes for query in scene.queries]
    if len(given) != len(ids):
        raise BenchError(f"pipeline {name!r} returned {len(given)} predictions for {len(ids)} queries")
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
        if not is_text(prediction.note):
            raise BenchError(
                f"pipeline {name!r} noted {prediction.note!r:.60} on query {want!r}; a note is a text, by default empty"
            )
        predictions.append(prediction)
    return predictions


def _readable(name: str, scenes: Sequence[LoadedScene], error: BaseException) -> Exception:
    """Return a BenchError that names pipeline and scenes; one of ours and out of memory stay as they are."""
    if isinstance(error, Exception) and (isinstance(error, BenchError) or out_of_memory(error)):
        return error
    where = ", ".join(scene.id for scene in scenes[:3]) + (", ..." if len(scenes) > 3 else "")
    readable = BenchError(f"pipeline {name!r} failed on the scenes {where}: {first_line(error)}")
    readable.__cause__ = error
    return readable


def _rows(name: str, scenes: Sequence[LoadedScene], predictions: Sequence[Prediction]) -> dict[str, SceneAnswers]:
    """Make rows of predictions, by scene. Raises BenchError for a box that is not four numbers."""
    rows, rest = {}, iter(predictions)
    boxes = rounded_boxes([prediction.box for prediction in predictions])  # of the batch at once
    for scene in scenes:
        count = len(scene.queries)
        try:
            of_scene = list(islice(rest, count))
            rows[scene.id] = from_predictions(scene.id, of_scene, None, islice(boxes, count), scene.image.shape[:2])
        except (TypeError, ValueError, AttributeError, KeyError, DataError) as error:
            raise BenchError(
                f"pipeline {name!r}, scene {scene.id}: an answer that is not a box of 4 numbers, xyxy pixels, "
                f"with proposals (N, 4) and a mask of the image's size: {error}"
            ) from error
    return rows


def _row_of(one: Decoded, rows: dict[str, SceneAnswers], failed: dict[str, str]) -> SceneAnswers:
    """Return a scene's row; where the annotations have no size, predictions are clipped to the decoded image's."""
    row, why = rows.get(one.scene.id), one.error or failed.get(one.scene.id)
    if row is None or one.image is None or why:
        return SceneAnswers(one.scene.id, (), error=why or None)
    height, width = one.image.shape[:2]
    return row if one.scene.width is not None else replace(row, size=(width, height))


def gather_answers(
    pipeline: Pipeline,
    scenes: Sequence[Scene],
    images: ImageSource,
    settings: RunSettings,
    what: str,
    log: logging.Logger,
    index: int = 0,
    count: int = 1,
    gather: Gather | None = None,
    title: str = "",
    store: Path | None = None,
) -> tuple[Sequence[Scene], list[SceneAnswers]]:
    """Ground scenes in memory, by one process or several -> the scenes, and one row for each.

    Process `index` of `count` grounds scenes index, index + count, ... `gather` (accelerate's gather_object) joins the
    lists of all processes; without it a share stands for itself. `what` names the work in messages; a `title` shows its
    progress. An image that cannot be decoded is a row with an error. Rows are appended to `store`, a file of one
    process, a block of scenes at a time; blocks that it has are not grounded again, and the boxes are the same bytes.

    Raises DataError without an expression or a readable image, BenchError when the gathered shares are not all scenes,
    and what `answers` raises.
    """
    mine = scenes[index::count]
    known = {} if store is None else _stored(store)
    blocks = [mine] if store is None else [mine[at : at + BLOCK] for at in range(0, len(mine), BLOCK)]
    left = [block for block in blocks if any(scene.id not in known for scene in block)]
    with progress(title, len(mine), len(mine) - sum(map(len, left)), quiet=not title) as advance:
        for block in left:
            new: list[SceneAnswers] = []
            # A text that was encoded in another batch gives the same box to float noise only.
            for empty in () if store is None else getattr(pipeline, "caches", {}).values():
                empty()
            for _, answered, _ in answers(pipeline, block, images, settings):
                new += answered
                advance(len(answered))
            known |= {row.scene: row for row in new}
            if store is not None:
                with Appender(store) as file:
                    file.write("".join(map(dump_line, new)))
    rows = [known[scene.id] for scene in mine]
    if gather is not None:
        mine, rows = scenes, gather(rows)
        if missing := {scene.id for scene in scenes} - {row.scene for row in rows}:
            raise BenchError(
                f"{what}: {len(missing)} of {len(scenes)} scenes have predictions from no process, {min(missing)!r} "
                f"among them; each of the {count} processes should call this with its own index"
            )
    if not any(scene.expressions for scene in mine):
        raise DataError(f"{what}: there are no expressions")
    if bad := [row.error for row in rows if row.error is not None]:
        if len(bad) == len(mine):
            raise DataError(f"none of the {len(bad):,} {what} images can be read; the first one: {bad[0]}")
        if index == 0:
            log.warning("%s: %d images cannot be read and count as misses, for example: %s", what, len(bad), bad[0])
    return mine, rows


def _stored(path: Path) -> dict[str, SceneAnswers]:
    """Load the rows that a killed process left, but damaged ones and those of images that could not be decoded."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        return {row.scene: row for row in parse_lines(file, path, parse_row, damaged=[]) if row.error is None}
    return {}
