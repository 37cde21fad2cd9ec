"""Images decoded ahead of the batches, in threads, and prepared there for the pipeline that can."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

from bench.datasets.images import check_size
from bench.errors import ImageError, first_line
from bench.grounding import ImageArray, ImageSource, Scene


@runtime_checkable
class Preparing(Protocol):
    """A pipeline that prepares images where they are decoded, ahead of the batch."""

    def prepare(self, image: ImageArray) -> Any:
        """Make the network's input of an image, on the host; called from several threads at once."""
        ...


@dataclass(frozen=True, slots=True)
class Decoded:
    """One scene with its image, or with the reason why there is none; `seconds` of decoding in its thread.

    `prepared` is what the pipeline made of the image there, `failure` what it raised.
    """

    scene: Scene
    image: ImageArray | None
    error: str
    seconds: float
    prepared: Any = None
    failure: BaseException | None = None


def decoded_ahead(
    scenes: Sequence[Scene],
    source: ImageSource,
    threads: int,
    ahead: int,
    prepare: Callable[[ImageArray], Any] | None = None,
) -> Iterator[Decoded]:
    """Yield every scene in order, at most `ahead` of them decoded in advance. A bad image raises nothing."""
    waiting: deque[Future[Decoded]] = deque()
    rest = iter(scenes)
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            waiting.extend(pool.submit(_decode, scene, source, prepare) for scene in islice(rest, ahead))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(_decode, scene, source, prepare) for scene in islice(rest, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _decode(scene: Scene, source: ImageSource, prepare: Callable[[ImageArray], Any] | None) -> Decoded:
    start = time.perf_counter()
    image: ImageArray | None = None
    prepared, error = None, ""
    failure: BaseException | None = None
    try:
        image = source.load(scene)
        check_size(scene, image)
    except ImageError as bad:
        image, error = None, str(bad)
    except BaseException as bad:  # another data set's source may raise anything: still only one image's error
        image, error = None, f"{scene.file}: {first_line(bad)}"
    decoded = time.perf_counter()
    if prepare is not None and image is not None and scene.expressions:
        try:
            prepared = prepare(image)
        except BaseException as bad:  # raised again when its batch comes
            failure = bad
    return Decoded(scene, image, error, decoded - start, prepared, failure)
