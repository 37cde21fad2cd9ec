"""Run the pipeline under measurement on resident images, with caches emptied or kept; its answers are stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.clock import synchroniser
from bench.datasets.split import Split
from bench.errors import BenchError
from bench.evaluation.answering import ground_checked
from bench.evaluation.identity import data_identity, identity_of, weights_of
from bench.evaluation.opening import OpenPipeline, open_pipeline
from bench.grounding import LoadedScene, Prediction
from bench.runs import provenance
from bench.runs.record import Identity
from bench.settings import Resolved
from bench.speed.check import close
from bench.speed.resident import Resident

NEW, REAL = "new", "the split's"
PROBE = 4  # scenes grounded twice, to learn whether ids matter


@dataclass
class Subject:
    """`ids` tells whether every batch gets new scene ids; `answers` are the last answers to each scene, by its id."""

    opened: OpenPipeline
    resident: Resident
    ids: str = NEW
    answers: dict[str, list[Prediction]] = field(default_factory=dict)
    calls: int = 0
    first_call_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.wait = synchroniser(self.opened.context.device)

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """Return what the pipeline keeps between calls -> what empties it."""
        return self.opened.caches

    @property
    def answered(self) -> dict[str, Prediction]:
        """Return expression id -> the last answer to it in a batch."""
        return {prediction.id: prediction for some in self.answers.values() for prediction in some}

    @property
    def proposals_per_image(self) -> float | None:
        """Average over the scenes answered in a batch; None for a pipeline that makes none."""
        firsts = [some[0].proposals for some in self.answers.values()]
        counts = [len(boxes) for boxes in firsts if boxes is not None]
        return sum(counts) / len(counts) if counts else None

    def identity(self, split: Split) -> Identity:
        """Return what of the measurement moves its numbers."""
        context, card = self.opened.context, self.opened.card
        deterministic = self.opened.resolved.settings.run.deterministic
        return identity_of(context, data_identity(split), deterministic, card.weights, weights_of(card))

    def made_by(self) -> dict[str, Any]:
        """Describe commit, machine, packages and command for a record; torch is imported by now."""
        run, device = self.opened.resolved.settings.run, self.opened.context.device
        environment = provenance.environment(device, run.seed, run.deterministic)
        return {"git": provenance.git_state(), "environment": environment, "argv": provenance.redacted()}

    def first_call(self) -> None:
        """Time the first call of all, with one scene: whatever is made ready on first use is in it."""
        start = time.perf_counter()
        self._ground(self.resident.batch(0, 1))
        self.wait()
        self.first_call_seconds = time.perf_counter() - start

    def choose_ids(self) -> None:
        """Choose new ids unless most answers depend on them, as those of boxes looked up by an image's id do."""
        scenes = self.resident.batch(0, min(PROBE, len(self.resident.loaded)))
        marked = self.resident.batch(0, len(scenes), "#new")
        expected = [prediction.box for prediction in self._ground(scenes)]
        try:
            answers = [prediction.box for prediction in self._ground(marked)]
        except BenchError:
            self.ids = REAL
            return
        sides = [max(scene.image.shape[:2]) for scene in scenes for _ in scene.queries]
        apart = sum(not close(*each) for each in zip(expected, answers, sides, strict=True))
        self.ids = NEW if 2 * apart <= len(sides) else REAL

    def empty_caches(self, but: Collection[str] = ()) -> None:
        """Empty every cache but those named."""
        for name, empty in self.caches.items():
            if name not in but:
                empty()

    def ground_batch(self, start: int, size: int, warm: Collection[str] = ()) -> tuple[int, int]:
        """Ground one batch from scene number `start` on; return images and expressions.

        Caches not in `warm` are emptied first.

        Raises BenchError when the pipeline fails; running out of memory leaves as it comes.
        """
        self.empty_caches(but=warm)
        self.calls += 1
        scenes = self.resident.batch(start, size, f"#{self.calls}" if self.ids == NEW else "")
        predictions = self._ground(scenes)
        first = 0
        for number, scene in enumerate(scenes):
            count = len(scene.queries)
            known = self.resident.loaded[(start + number) % len(self.resident.loaded)]
            self.answers[known.id] = predictions[first : first + count]
            first += count
        return len(scenes), first

    def answer_at_least(self, expressions: int, size: int) -> None:
        """Go on with batches of `size` until so many expressions were answered, or all that are resident."""
        start, end = len(self.answers), len(self.resident.loaded)
        while start < end and sum(map(len, self.answers.values())) < expressions:
            self.ground_batch(start, min(size, end - start))
            start += size

    def ground_one(self, scene: LoadedScene, number: int) -> Prediction:
        """Ground one image with the one expression of `scene`, every cache emptied."""
        self.empty_caches()
        new = LoadedScene(f"{scene.id}#one{number}", scene.image, scene.queries) if self.ids == NEW else scene
        return self._ground([new])[0]

    def _ground(self, scenes: Sequence[LoadedScene]) -> list[Prediction]:
        return ground_checked(self.opened.pipeline, scenes, self.opened.name)


def open_subject(
    name: str,
    split: Split,
    resolved: Resolved,
    flags: Mapping[str, Any] | None,
    images: Callable[[], Resident],
    on: str | None = None,
) -> Subject:
    """Open a pipeline and call it once; images are decoded only once it is open. Raises what `open_pipeline` raises."""
    opened = open_pipeline(name, split, resolved, flags, on)
    subject = Subject(opened, images())
    subject.first_call()
    subject.choose_ids()
    return subject
