"""Speed records made by hand, and a pipeline whose caches and batches are logged."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fake_world import HashPipeline

from bench.grounding import LoadedScene, PipelineContext, Prediction
from bench.runs.record import DataIdentity, Identity
from bench.speed.record import BoxCheck, Energy, Images, Memory, Rate, Rules, Single, SpeedRecord, Spread

SHORT = Rules(warmup_seconds=0, warmup_batches=1, min_seconds=0, min_batches=3, repeats=2)


def spread(value: float) -> Spread:
    return Spread(median=value, low=0.9 * value, high=1.1 * value)


def rate(value: float, cache: str = "cold") -> Rate:
    speeds = {"images_per_s": spread(value / 4), "expressions_per_s": spread(value)}
    return Rate(cache=cache, batch_size=8, **speeds, batches=300, images=2400, expressions=9600, seconds=90.0)


def identity(**changes: Any) -> Identity:
    data = DataIdentity(split="tiny-val", fingerprint="f" * 64, expressions=64, refs=None, images=24, partial=False)
    fields: dict[str, Any] = {"pipeline": "hash", "options": {"salt": 1}, "weights": {"model": "ab" * 32}, "data": data}
    fields |= {"device": "cpu", "dtype": "float32", "seed": 0, "deterministic": False}
    return Identity(**(fields | changes))


def make_speed(expressions_per_s: float = 100.0, **changes: Any) -> SpeedRecord:
    """A speed record of the pipeline `hash`; keywords are fields that differ."""
    images = {"count": 24, "expressions": 64, "of": 24, "resident_mb": 1, "cap_mb": 2048, "decode_ms": 0.1}
    fields: dict[str, Any] = {"name": "hash", "identity": identity(), "settings_hash": "c0ffee00" * 8, "card": {}}
    fields |= {"started": "2026-11-22T10:00:00+00:00", "finished": "2026-11-22T10:05:00+00:00"}
    fields |= {"git": {"commit": "a" * 40, "dirty": False}, "argv": ("bench", "speed"), "rules": Rules(), "full": True}
    fields |= {"environment": {"cpu": "Some Processor", "torch": {"threads": 2}}, "conditions": {}, "noisy": ()}
    fields |= {"images": Images(**images, unreadable=0, ids="new"), "batch_search": (), "stages": {"rank": 1.0}}
    fields |= {"single": Single(p50_ms=5, p90_ms=6, p99_ms=9, calls=300, median_ms=spread(5)), "valid": True}
    fields |= {"offline": (rate(2 * expressions_per_s, "texts warm"), rate(expressions_per_s))}
    fields |= {"load_seconds": 1.0, "first_call_seconds": 0.1, "proposals_per_image": 5.0}
    fields |= {"memory": Memory(allocated_mb=None, reserved_mb=None, process_mb=None, host_mb=500.0)}
    fields |= {"energy": Energy(joules_per_expression=None, joules=None, expressions=None, unsupported="a CPU")}
    fields |= {"check": (BoxCheck(against="the accuracy pass", n=100, equal=100, allowed=0, tolerance=1e-4),)}
    return SpeedRecord(**(fields | changes))


class Logged(HashPipeline):
    """Keeps a cache of texts and logs its batches: `log` has (scene ids, texts that were not in the cache)."""

    def __init__(self, context: PipelineContext) -> None:
        super().__init__(context)
        self.context = context
        self.known: set[str] = set()
        self.log: list[tuple[tuple[str, ...], int]] = []
        self.fits = self.options.get("fits", 1000)

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        return {"texts": self.known.clear}

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        if len(batch) > self.fits:
            raise MemoryError("too many scenes")
        texts = {query.text for scene in batch for query in scene.queries}
        self.log.append((tuple(scene.id for scene in batch), len(texts - self.known)))
        self.known |= texts
        return super().ground(batch)
