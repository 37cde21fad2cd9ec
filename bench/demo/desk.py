"""The desk behind the page: pipelines built once and kept, run in turn. No Gradio in here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from bench import registry
from bench.datasets.load import load_split
from bench.doctor.readiness import ready
from bench.errors import BenchError, UsageError
from bench.evaluation.opening import OpenPipeline, open_pipeline
from bench.grounding import Expression, ImageArray, Scene
from bench.predicting.one import SingleAnswer, as_image, ground_texts, warned
from bench.settings import Resolved

EMBEDDED, OWN = "shapes", "file"
WARM_UP = "warm up"  # no user's expression, so no cache of texts has the real one

Answered = tuple[str, SingleAnswer | None, float | None, str]  # pipeline, answer, milliseconds; else an error


class Desk:
    """Pipelines by data set and name. Safe to use from several threads: one pipeline works at a time."""

    def __init__(self, resolved: Resolved, only: Sequence[str] = ()) -> None:
        """Offer the pipelines in `only`, by default all that are ready. Raises UnknownName."""
        for name in only:
            registry.origin(registry.PIPELINES, name)
        self.resolved = resolved
        self._only = tuple(only)
        self._ready: dict[str, list[str]] = {}
        self._built: dict[tuple[str, str], OpenPipeline] = {}
        self._samples: set[str] = set()
        self._lock = threading.RLock()
        self._split = load_split("shapes-val", resolved)

    def offered(self, dataset: str) -> list[str]:
        """List the pipelines that are ready with the weights for a data set, or `only` those that were named."""
        with self._lock:
            if dataset not in self._ready:
                self._ready[dataset] = list(self._only) or ready(dataset, self.resolved)
            return self._ready[dataset]

    def chosen(self, dataset: str) -> list[str]:
        """Choose the pipelines that a page starts with: trainable ones, baselines only where there is nothing else."""
        learning = [name for name in self.offered(dataset) if registry.has(name, "tasks")]
        return list(self._only) or learning or self.offered(dataset)[:3]

    def samples(self, scenes: int = 12) -> list[tuple[Scene, Expression]]:
        """Choose an expression about each of the first embedded scenes, of a new kind where there is one."""
        samples, kinds = [], set[str | None]()
        for scene in self._split.scenes[:scenes]:
            fresh = next((e for e in scene.expressions if e.kind not in kinds), scene.expressions[0])
            kinds.add(fresh.kind)
            samples.append((scene, fresh))
        return samples

    def image(self, scene: Scene) -> ImageArray:
        """Load the image of an embedded scene: RGB uint8 (H, W, 3)."""
        return self._split.images.load(scene)

    def _is_sample(self, source: str) -> bool:
        """Return whether `source` (of `as_image`) is an embedded scene that the page offers."""
        if not self._samples:
            self._samples = {as_image(self.image(scene))[0] for scene, _ in self.samples()}
        return source in self._samples

    def answers(self, image: ImageArray | None, text: str, names: Sequence[str], dataset: str) -> Iterator[Answered]:
        """Ground one expression by each pipeline in turn; the failure of one stops no other.

        The milliseconds leave loading and a warm-up call out. Raises UsageError for a missing input.
        """
        if image is None:
            raise UsageError("upload an image, or take one of the embedded scenes")
        if not text.strip():
            raise UsageError("type what to look for")
        if not names:
            raise UsageError("choose a pipeline")
        # Never locked at a yield: the next answer may be taken by another thread.
        yield from (self._answer(name, image, text.strip(), dataset) for name in names)

    def _answer(self, name: str, image: ImageArray, text: str, dataset: str) -> Answered:
        with self._lock:
            try:
                if (dataset, name) not in self._built:
                    self._built[dataset, name] = open_pipeline(name, dataset, self.resolved)
                opened = self._built[dataset, name]
                source, pixels = as_image(image)
                ground_texts(opened, f"{source} {WARM_UP}", pixels, [WARM_UP], name)
                started = time.perf_counter()
                answer = ground_texts(opened, source, pixels, [text], name)[0]
                milliseconds = 1000 * (time.perf_counter() - started)
                return name, answer if self._is_sample(source) else warned(answer, opened.card), milliseconds, ""
            except BenchError as error:
                return name, None, None, str(error)
            except Exception as error:  # a pipeline of somebody's may fail in any way: the page continues
                return name, None, None, f"{type(error).__name__}: {error}"
