"""Images decoded ahead of the batches, in threads, and prepared there for the pipeline that can."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from bench.datasets.images import check_size
from bench.errors import ImageError
from bench.grounding import ImageArray, ImageSource, Scene, check_box_touches
from bench.inputs import MB, limits

DECODING = 7  # bytes a pixel while an image is decoded: Pillow's copy has 4, the array 3


@runtime_checkable
class Preparing(Protocol):
    """A pipeline that prepares images where they are decoded, ahead of the batch."""

    def prepare(self, image: ImageArray) -> Any:
        """Make the network's input of an image, on the host; called from several threads at once."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """An image source that knows the size of an image before it is decoded."""

    def sides(self, scene: Scene) -> tuple[int, int] | None:
        """Return width and height from the image's header; None where there is none."""
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
    failure: Exception | None = None


def decoded_ahead(
    scenes: Sequence[Scene],
    source: ImageSource,
    threads: int,
    ahead: int,
    batch: Callable[[], int] = lambda: 1,
    prepare: Callable[[ImageArray], Any] | None = None,
) -> Iterator[list[Decoded]]:
    """Yield every scene in order, in batches of at most `batch()` scenes, at most `ahead` of them decoded in advance.

    The images of a batch and those ahead of it take no more than [limits] decoded_mb, unless it is one alone: batches
    of large images have fewer scenes. A bad image raises nothing; a box of people's own data that lies outside its
    image raises DataError.
    """
    most = limits().decoded_mb * MB
    rest = iter(scenes)
    sized: deque[tuple[Scene, Future[int]]] = deque()
    decoding: deque[tuple[int, Future[Decoded]]] = deque()
    done: list[Decoded] = []
    used = before = 0  # bytes of all that is decoded or being decoded; of those, the batch that was yielded last

    def start(pool: ThreadPoolExecutor) -> None:
        """Look up sizes, and start to decode as many images as fit."""
        nonlocal used
        while len(sized) + len(decoding) < ahead and (scene := next(rest, None)) is not None:
            sized.append((scene, _size_of(scene, source, pool)))
        # A size that is not there yet is waited for where there is nothing else to wait for.
        while sized and (sized[0][1].done() or not decoding):
            scene, size = sized[0]
            if (done or decoding) and used + size.result() > most:
                return
            sized.popleft()
            used += size.result()
            decoding.append((size.result(), pool.submit(_decode, scene, source, prepare)))

    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            while True:
                done = []
                start(pool)
                while decoding and len(done) < batch():
                    size, future = decoding.popleft()
                    done.append(future.result())
                    used += _bytes(done[-1]) - size
                    start(pool)
                if not done:
                    return
                used, before = used - before, sum(map(_bytes, done))  # the caller has let go of the last batch
                yield done
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _size_of(scene: Scene, source: ImageSource, pool: ThreadPoolExecutor) -> Future[int]:
    """Find how many bytes decoding an image takes, from its annotation or, in a thread, from its header."""
    if scene.width is None and isinstance(source, Measuring):
        return pool.submit(_measured, scene, source)
    size: Future[int] = Future()
    size.set_result(DECODING * (scene.width or 0) * (scene.height or 0))
    return size


def _measured(scene: Scene, source: Measuring) -> int:
    width, height = source.sides(scene) or (0, 0)
    return DECODING * width * height if width * height <= limits().image_mpixels * 1_000_000 else 0


def _bytes(decoded: Decoded) -> int:
    return 0 if decoded.image is None else decoded.image.nbytes


def _decode(scene: Scene, source: ImageSource, prepare: Callable[[ImageArray], Any] | None) -> Decoded:
    start = time.perf_counter()
    image: ImageArray | None = None
    prepared, error = None, ""
    failure: Exception | None = None
    try:
        image = source.load(scene)
        check_size(scene, image)
    except ImageError as bad:
        image, error = None, str(bad)
    except Exception as bad:  # another data set's source may raise anything: still only one image's error
        image, error = None, f"{scene.file}: {type(bad).__name__}: {bad}"
    decoded = time.perf_counter()
    if image is not None:
        check_own_boxes(scene, image)
    if prepare is not None and image is not None and scene.expressions:
        try:
            prepared = prepare(image)
        except Exception as bad:
            failure = bad
    return Decoded(scene, image, error, decoded - start, prepared, failure)


def check_own_boxes(scene: Scene, image: ImageArray) -> None:
    """Raise DataError for a box of people's own data that lies wholly outside its image."""
    for expression in scene.expressions:
        if expression.held_as is not None:
            check_box_touches(scene, expression, image.shape[1], image.shape[0])


class CachedImages:
    """An ImageSource that keeps what it has decoded, up to `most` bytes; what comes after is decoded again."""

    def __init__(self, source: ImageSource, most: int = 512 << 20) -> None:
        self.source, self.most = source, most
        self._cache: dict[str, ImageArray] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def load(self, scene: Scene) -> ImageArray:
        """Return the scene's image, RGB uint8 (H, W, 3), read-only. Raises ImageError."""
        if (cached := self._cache.get(scene.file)) is not None:
            return cached
        image = self.source.load(scene)
        image.setflags(write=False)
        with self._lock:
            if scene.file not in self._cache and self._bytes + image.nbytes <= self.most:
                self._cache[scene.file] = image
                self._bytes += image.nbytes
        return image

    def missing(self, scenes: Sequence[Scene]) -> list[str]:
        """List files of `scenes` that are missing."""
        return self.source.missing(scenes)
