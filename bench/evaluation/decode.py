"""Pictures decoded ahead in threads, in order, never more than a few batches of them in memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from bench.datasets.pictures import check_size
from bench.errors import PictureError
from bench.grounding import Picture, PictureSource, Scene


@dataclass(frozen=True, slots=True)
class Decoded:
    """One scene with its picture, or with why there is none. `seconds` is what its decoding took in its thread."""

    scene: Scene
    picture: Picture | None
    error: str
    seconds: float


def decoded_ahead(scenes: Sequence[Scene], source: PictureSource, threads: int, ahead: int) -> Iterator[Decoded]:
    """Every scene in order, at most `ahead` of them decoded and not yet taken. A bad picture raises nothing."""
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


def _decode(scene: Scene, source: PictureSource) -> Decoded:
    start = time.perf_counter()
    picture: Picture | None = None
    error = ""
    try:
        picture = source.load(scene)
        check_size(scene, picture)
    except PictureError as bad:
        picture, error = None, str(bad)
    except Exception as bad:  # another data set's source may raise anything: still only one picture's error
        picture, error = None, f"{scene.file}: {type(bad).__name__}: {bad}"
    return Decoded(scene, picture, error, time.perf_counter() - start)
