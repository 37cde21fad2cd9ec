"""Decode the images of a split once and keep them: a measurement of speed waits for no disk.

As many as fit under a cap, drawn evenly in a fixed order; real images, for the cost depends on what is in them.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.datasets.split import Split
from bench.errors import DataError
from bench.evaluation.decoding import decoded_ahead
from bench.grounding import ImageArray, LoadedScene, Query, Scene
from bench.memory import MB
from bench.speed.record import Images

CAP_MB = 2048.0


@dataclass(frozen=True, slots=True)
class Resident:
    """Decoded scenes with their queries, in the split's order, and the annotated scenes they come from.

    `decode_ms` is the median time of one image, by one thread that does nothing else.
    """

    loaded: tuple[LoadedScene, ...]
    scenes: tuple[Scene, ...]
    of: int
    mb: float
    cap_mb: float
    decode_ms: float
    unreadable: int

    def load(self, scene: Scene) -> ImageArray:
        """Return the scene's image, from memory."""
        return next(loaded.image for loaded in self.loaded if loaded.id == scene.id)

    def missing(self, scenes: Sequence[Scene]) -> list[str]:
        return []

    def batch(self, start: int, size: int, mark: str = "") -> list[LoadedScene]:
        """Return `size` scenes from number `start` on, around and around; `mark` makes their ids new ones."""
        count = len(self.loaded)
        some = [self.loaded[(start + n) % count] for n in range(size)]
        return [LoadedScene(s.id + mark, s.image, s.queries) for s in some] if mark else some

    def pairs(self) -> list[tuple[LoadedScene, Query]]:
        """Return every image with each of its expressions, in a fixed shuffled order."""
        every = [(scene, query) for scene in self.loaded for query in scene.queries]
        random.Random(0).shuffle(every)
        return every

    def facts(self, ids: str) -> Images:
        """Describe them for a record; `ids` is "new" or "the split's"."""
        return Images(
            count=len(self.loaded),
            expressions=sum(len(scene.queries) for scene in self.loaded),
            of=self.of,
            resident_mb=round(self.mb, 1),
            cap_mb=self.cap_mb,
            decode_ms=round(self.decode_ms, 3),
            unreadable=self.unreadable,
            ids=ids,
        )


def make_resident(split: Split, cap_mb: float = CAP_MB) -> Resident:
    """Decode the split's images until `cap_mb` is full; scenes without expressions are left out.

    Raises DataError for a split without expressions and when no image can be read.
    """
    asking = [scene for scene in split.scenes if scene.expressions]
    if not asking:
        raise DataError(f"{split.name}: the split has no expression, so there is nothing to measure")
    order = asking if len(asking) == 1 else random.Random(0).sample(asking, len(asking))
    kept: dict[str, tuple[LoadedScene, Scene]] = {}
    seconds: list[float] = []
    kept_bytes, bad, why = 0, 0, ""
    for (decoded,) in decoded_ahead(order, split.images, threads=1, ahead=2):
        if decoded.image is None:
            bad, why = bad + 1, decoded.error
            continue
        if kept and kept_bytes + decoded.image.nbytes > cap_mb * MB:
            break
        kept_bytes += decoded.image.nbytes
        seconds.append(decoded.seconds)
        queries = tuple(expression.query for expression in decoded.scene.expressions)
        kept[decoded.scene.id] = (LoadedScene(decoded.scene.id, decoded.image, queries), decoded.scene)
    if not kept:
        raise DataError(f"{split.name}: none of its images can be read; the last one: {why}")
    loaded, scenes = zip(*(kept[scene.id] for scene in asking if scene.id in kept), strict=True)
    return Resident(loaded, scenes, len(asking), kept_bytes / MB, cap_mb, 1000 * statistics.median(seconds), bad)
