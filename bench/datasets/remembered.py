"""Pictures that are asked for again and again, decoded once."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from bench.grounding import Picture, PictureSource, Scene

MOST_BYTES = 512 << 20


class Remembered:
    """A PictureSource that keeps what it has decoded, up to `most` bytes; what comes after that is decoded again."""

    def __init__(self, source: PictureSource, most: int = MOST_BYTES) -> None:
        self.source, self.most = source, most
        self._known: dict[str, Picture] = {}
        self._bytes = 0
        self._lock = Lock()

    def load(self, scene: Scene) -> Picture:
        """The scene's picture, RGB uint8 (H, W, 3); nobody may write into it. Raises PictureError."""
        known = self._known.get(scene.file)
        if known is not None:
            return known
        picture = self.source.load(scene)
        picture.setflags(write=False)
        with self._lock:
            if scene.file not in self._known and self._bytes + picture.nbytes <= self.most:
                self._known[scene.file] = picture
                self._bytes += picture.nbytes
        return picture

    def missing(self, scenes: Sequence[Scene]) -> list[str]:
        """Files of `scenes` that are not there."""
        return self.source.missing(scenes)
