"""A pipeline in a process of its own: a crash, a leak or a hang costs the image that caused it, and not the run.

    run ── images, texts ──► worker: the pipeline        started again where it was ended
        ◄── predictions, seconds of the stages ──

A batch that fails is tried once more image by image; an image that fails alone is counted as one without predictions.
The worker has no annotation in its memory, but it may read any file that its user may: this is no guard against fraud.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import psutil

from bench.clock import Clock
from bench.errors import BenchError, SettingsError, first_line
from bench.evaluation.answering import ground_checked
from bench.evaluation.decoding import Preparing
from bench.evaluation.opening import OpenPipeline, build, pipeline_context
from bench.evaluation.progress import message
from bench.grounding import Boxes, Candidates, LoadedScene, Pipeline, PipelineCard, PipelineContext, Prediction
from bench.memory import out_of_memory, peak_memory_mb
from bench.settings import Resolved

LOADING = 20  # times the limit of an image is what building the pipeline may take
IN_A_ROW = 5  # images that fail with none between that does not: then the pipeline is at fault, not they
LOOK_S = 0.1  # between two looks at the worker's memory
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux
GIB = 2**30


@dataclass(frozen=True)
class Request:
    """What a worker makes its pipeline from: arguments of `pipeline_context`, the split's name, the level of logs."""

    name: str
    split: str
    dataset: str
    device: str
    resolved: Resolved
    flags: Mapping[str, Any]
    level: int
    several: bool


class Gone(Exception):
    """The worker was ended, by itself or by us; the message is why."""


class IsolatedPipeline:
    """A pipeline in a worker. `failed_scenes` are the scenes of the last batch that it failed on, with the reason."""

    def __init__(self, request: Request, clock: Clock) -> None:
        run = request.resolved.settings.run
        self.request, self.clock, self.failed_scenes = request, clock, dict[str, str]()
        self.memory_mb: float | None = None
        self._limit_s, self._in_a_row = run.image_timeout_s, 0
        self._most = run.memory_gb * GIB or 0.9 * psutil.virtual_memory().total
        self._worker: Any = None
        self._pipe: Connection
        self.card = self._start()

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Return one prediction a query, without a box for the scenes in `failed_scenes`.

        Raises MemoryError for a batch that does not fit, BenchError where image after image fails.
        """
        self.failed_scenes.clear()
        return self._ground(batch)

    def _ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        try:
            predictions = self._try(batch)
        except (Gone, MemoryError, BenchError) as error:
            if len(batch) > 1 and isinstance(error, MemoryError):
                raise
            if len(batch) > 1:
                return [prediction for scene in batch for prediction in self._ground([scene])]
            why = str(error)
        else:
            self._in_a_row = 0
            return predictions
        (scene,), self._in_a_row = batch, self._in_a_row + 1
        message(f"{scene.id}: {why}; it is counted as an error", error=True)
        if self._in_a_row == IN_A_ROW:
            name = self.request.name
            raise BenchError(f"pipeline {name!r} failed on {IN_A_ROW} images in a row, the last time because {why}")
        self.failed_scenes[scene.id] = f"pipeline {self.request.name!r}: {why}"
        return [Prediction(query.id, None) for query in scene.queries]

    def _try(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Have the worker ground a batch, a new one where the last was ended. Raises Gone, and as grounding."""
        if self._worker is None:
            self._start()
        try:
            self._pipe.send(batch)
        except OSError:
            raise self._end() from None
        predictions, stages, self.memory_mb = self._answer(len(batch) * self._limit_s)
        self.clock.add(stages)
        return list(predictions)

    def _start(self) -> PipelineCard:
        """Start a worker and wait until its pipeline is built -> its card. Raises what building it raises."""
        # Not forked: the worker has none of this process's threads and locks, and no annotation.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._worker = context.Process(target=_work, args=(theirs, self.request), daemon=True)
        self._worker.start()
        theirs.close()
        try:
            card: PipelineCard = self._answer(LOADING * self._limit_s)
        except Gone as error:
            raise BenchError(f"pipeline {self.request.name!r} could not be built: {error}") from None
        return card

    def _answer(self, limit_s: float) -> Any:
        """Wait for what the worker sends. Raises Gone, and the error that it sent."""
        until = time.monotonic() + limit_s
        while not self._pipe.poll(LOOK_S):
            if time.monotonic() > until:
                raise self._end(f"it took longer than {limit_s:g} s")
            with suppress(psutil.NoSuchProcess):
                used = psutil.Process(self._worker.pid).memory_info().rss
                if used > self._most:
                    raise self._end(f"it took {used / GIB:.2f} GiB of memory; {self._most / GIB:.2f} are allowed")
        try:
            value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._end() from None
        except Exception as error:  # somebody's object that cannot be made here
            raise self._end(f"it sent what cannot be read ({first_line(error)})") from None
        if isinstance(value, (BenchError, MemoryError)):
            raise value
        return value

    def _end(self, why: str = "") -> Gone:
        """End the worker and what it started; returns the error that says why it is gone."""
        worker, self._worker = self._worker, None
        if not why:
            worker.join(1)  # it is about to leave
            code = worker.exitcode
            how = f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"left with exit code {code}"
            why = f"its process {how}"
        with suppress(OSError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.kill()
        worker.join()
        self._pipe.close()
        return Gone(why)

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._end("closed")


def isolated(context: PipelineContext, split: str, resolved: Resolved, flags: Mapping[str, Any] | None) -> OpenPipeline:
    """Open a pipeline in a process of its own; in the end its `pipeline` is to be closed. Raises as `build` does."""
    begun, clock = time.perf_counter(), Clock()  # the stages are the worker's; this process has no GPU
    level = logging.getLogger("bench").level
    request = Request(
        context.name, split, context.dataset, context.device, resolved, flags or {}, level, context.several
    )
    pipeline = IsolatedPipeline(request, clock)
    return OpenPipeline(pipeline, replace(context, clock=clock), resolved, time.perf_counter() - begun)


@contextmanager
def closing_isolated(pipeline: Pipeline) -> Iterator[Callable[[], dict[str, float]]]:
    """Close an isolated pipeline after the block; yields a function that returns its {"memory_mb"}, {} for others."""
    if not isinstance(pipeline, IsolatedPipeline):
        yield dict
        return
    with closing(pipeline):
        yield lambda: {} if pipeline.memory_mb is None else {"memory_mb": pipeline.memory_mb}


class _CandidatesOf(Candidates):
    """The annotated boxes of a split, which is loaded for a pipeline that takes them, and for no other."""

    def __init__(self, request: Request) -> None:
        super().__init__(None)
        self._request = request

    def take(self) -> tuple[str, Callable[[str], Boxes]]:
        from bench.datasets.load import load_split

        self._scenes = load_split(self._request.split, self._request.resolved).scenes
        return super().take()


def _work(pipe: Connection, request: Request) -> None:
    """Be the worker: build the pipeline, then ground batches until nobody asks any more."""
    # Ctrl-C is the parent's; what the pipeline prints must not come between the lines of a JSON.
    with suppress(OSError, AttributeError):
        os.setsid()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)
    logging.getLogger("bench").setLevel(request.level)

    def opened_pipeline() -> OpenPipeline:
        context = pipeline_context(
            *(request.name, request.dataset, request.resolved, request.flags, request.device), several=request.several
        )
        return build(replace(context, candidates=_CandidatesOf(request)), request.resolved)

    opened = _sent(pipe, opened_pipeline, lambda opened: opened.card)
    with ThreadPoolExecutor(request.resolved.settings.run.decode_threads or 4) as threads:
        while opened is not None:
            try:
                batch = pipe.recv()
            except EOFError:
                return
            _sent(pipe, lambda batch=batch: _grounded(opened, batch, threads), lambda answer: answer)  # type: ignore[misc]


def _sent(pipe: Connection, work: Callable[[], Any], part: Callable[[Any], Any]) -> Any:
    """Do some work and send a part of its result, or the error; returns the result, None for an error."""
    try:
        result = work()
        pipe.send(part(result))
    except BaseException as error:
        if out_of_memory(error):
            pipe.send(MemoryError(first_line(error)))
        elif type(error) is SettingsError:  # its keys are for the message
            pipe.send(error)
        else:
            pipe.send(BenchError(str(error) if isinstance(error, BenchError) else first_line(error)))
        return None
    return result


def _grounded(
    opened: OpenPipeline, batch: Sequence[LoadedScene], threads: ThreadPoolExecutor
) -> tuple[list[Prediction], dict[str, float], float | None]:
    """Ground a batch -> predictions, seconds of each stage, the worker's peak of memory in MB."""
    pipeline = opened.pipeline
    if isinstance(pipeline, Preparing):
        prepared = threads.map(pipeline.prepare, [scene.image for scene in batch])
        batch = [replace(scene, prepared=made) for scene, made in zip(batch, prepared, strict=True)]
    predictions = ground_checked(pipeline, batch, opened.name)
    return predictions, opened.clock.take(wait=True), peak_memory_mb()
