"""Decoded images in memory that all processes of a machine share: an image is decoded once in a training.

The memory has no name in any file system, so nothing is left behind: the kernel takes it back when the last process
that maps it has ended, whether it was killed or not.
"""

from __future__ import annotations

import logging
import mmap
import os
import platform
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.errors import UsageError
from bench.grounding import ImageArray, ImageSource, Scene
from bench.training.task import TrainTask

log = logging.getLogger("bench.train")
HITS, MISSES, USED = range(3)  # what is counted
ABSENT, WRITING, KEPT = range(3)  # states of an image
GIB = 2**30


class SharedImages:
    """An ImageSource that keeps what it has decoded of `files`, up to `most` bytes; what comes after is decoded anew.

    Nothing is ever dropped for another image: an epoch takes all of them, in a new order. Images whose shorter side is
    at least twice `shorter_side` are reduced by a whole number, kept or not; 0 = none. Forked processes share the
    memory, and others that open `path`, another process's. Locks are the kernel's, which a killed process gives back.
    """

    def __init__(
        self, source: ImageSource, files: Sequence[str], most: int, shorter_side: int = 0, path: str = ""
    ) -> None:
        self.source, self.most, self.shorter_side = source, most, shorter_side
        self._number = {file: number for number, file in enumerate(files)}
        descriptor = os.open(path, os.O_RDWR) if path else os.memfd_create("bench-images")
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        head = 8 * (3 + 4 * len(files))
        if not path:
            self._file.truncate(head + most)
        memory = mmap.mmap(descriptor, head + most)
        self._counts = np.frombuffer(memory, np.int64, 3)
        self._table = np.frombuffer(memory, np.int64, 4 * len(files), 24).reshape(-1, 4)  # offset, height, width, state
        self._pixels = np.frombuffer(memory, np.uint8, most, head)
        self._threads = threading.Lock()

    @property
    def path(self) -> str:
        """Where another process of this machine opens the same memory, for as long as this one lives."""
        return f"/proc/{os.getpid()}/fd/{self._file.fileno()}"

    def load(self, scene: Scene) -> ImageArray:
        """Return the scene's image, RGB uint8 (H, W, 3), read-only. Raises ImageError."""
        number = self._number.get(scene.file)
        if number is None:
            return self._decoded(scene)
        # 1. From the memory, where it is there.
        with self._locked():
            place, height, width, state = self._table[number].tolist()
            self._counts[HITS if state == KEPT else MISSES] += 1
        if state == KEPT:
            return self._view(place, height, width)
        # 2. Else decoded, and kept where there is room and no other process is about to.
        image = self._decoded(scene)
        with self._locked():
            place = int(self._counts[USED])
            if self._table[number, 3] != ABSENT or place + image.nbytes > self.most:
                return image
            self._table[number] = (place, *image.shape[:2], WRITING)
            self._counts[USED] += image.nbytes
        view = self._view(place, *image.shape[:2])
        view.setflags(write=True)
        view[:] = image
        with self._locked():
            self._table[number, 3] = KEPT
        return image

    def missing(self, scenes: Sequence[Scene]) -> list[str]:
        """List files of `scenes` that are missing."""
        return self.source.missing(scenes)

    def covers(self, scenes: Sequence[Scene]) -> bool:
        """Return whether the images of all scenes have a place."""
        return all(scene.file in self._number for scene in scenes)

    def rates(self) -> dict[str, float]:
        """Return the share of loads that were hits so far, in all processes, and the GiB in use."""
        hits, misses, used = self._counts.tolist()
        return {"image_cache_hits": round(hits / max(1, hits + misses), 4), "image_cache_gib": round(used / GIB, 3)}

    def close(self) -> None:
        """Give the memory back, once nobody uses an image in it; from now on all images are decoded."""
        self._number, self._pixels = {}, np.empty(0, np.uint8)
        self._counts, self._table = self._counts.copy(), np.empty((0, 4), np.int64)
        self._file.close()

    def _decoded(self, scene: Scene) -> ImageArray:
        image = self.source.load(scene)
        factor = min(image.shape[:2]) // self.shorter_side if self.shorter_side and scene.width and scene.height else 1
        if factor > 1:
            image = np.array(Image.fromarray(image).reduce(factor))
        image.setflags(write=False)
        return image

    def _view(self, place: int, height: int, width: int) -> ImageArray:
        view = self._pixels[place : place + height * width * 3].reshape(height, width, 3)
        view.setflags(write=False)
        return view

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other threads, and other processes."""
        import fcntl  # not on every system

        with self._threads:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)


def use_image_cache(task: TrainTask, accelerator: Any) -> SharedImages | None:
    """Let a task load its images through the cache that its config asks for; None where it asks for none.

    The processes of a machine share one. Trainings of one process reuse it. Raises UsageError where the system has no
    such memory.
    """
    budget, job = task.config.cache_images, task.job
    if budget == "off":
        return None
    if not hasattr(os, "memfd_create"):
        raise UsageError("cache_images needs Linux, for memory that processes share without a file; leave it out")
    key = ("images", budget, task.shorter_side)
    cache: SharedImages | None = job.shared.get(key)
    if cache is None or not cache.covers(job.scenes):
        files = list(dict.fromkeys(scene.file for scene in job.scenes))
        first, path = accelerator.local_process_index == 0, ""
        most = available_memory() // 2 if budget == "auto" else int(budget)
        cache = SharedImages(job.images, files, most, task.shorter_side) if first else None
        if accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            shared = gather_object([(platform.node(), cache.path if cache else "", most)])
            path, most = next(each[1:] for each in shared if each[0] == platform.node() and each[1])
        cache = cache or SharedImages(job.images, files, most, task.shorter_side, path)
        job.shared[key] = cache
        log.info("%s: decoded images are kept in up to %.1f GiB of shared memory", job.context.name, most / GIB)
    task.job = replace(job, images=cache)
    return cache


def available_memory() -> int:
    """Return the bytes that the system, and the limits of this process's control group, leave free."""
    free = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free.append(next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024)
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # no such group, or "max"
            free.append(int(Path(folder, limit).read_text()) - int(Path(folder, used).read_text()))
    return max(0, min(free, default=0))
