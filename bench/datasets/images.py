"""Images: bytes to RGB, and where the bytes lie: folders and zip files, without unpacking.

EXIF orientation is not applied: COCO's boxes are pixels of the stored image. One that carries the camera's flag and was
annotated upright fails the size check and is reported, never turned silently.
"""

from __future__ import annotations

import io
import os
import re
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from bench.errors import ImageError
from bench.grounding import ImageArray, ImageSource, Scene

# Formats that a decoder of pixels reads; never PostScript, which would start another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 80_000_000
MAX_BYTES = 256 * 2**20
_COCO = re.compile(r"(?:COCO_(?:train|val)2014_)?(\d{12})\.jpg")


def decode(data: bytes, name: str) -> ImageArray:
    """Decode an image to RGB uint8 (H, W, 3), rows and columns as they are stored.

    Grey, palette and CMYK become RGB, 16 bits a channel become 8, transparency is laid over white, of an animation the
    first frame counts. Raises ImageError naming `name` when `data` is empty, cut, no image, or of more than
    MAX_PIXELS.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes); fetch it again")
    # Libraries switch this on for the whole process; half an image must not pass for a whole one.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(f"{name}: {width} x {height} pixels are more than the limit of {MAX_PIXELS:,}")
        return np.array(_rgb(image, name))
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: more than the limit of {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image ({len(data):,} bytes that begin with {data[:8]!r})") from None
    except Exception as error:  # a decoder can fail on broken bytes with any error at all
        why = str(error) or type(error).__name__
        raise ImageError(f"{name}: broken or cut short ({why}); fetch it again") from None


def _rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert to mode RGB. Raises ImageError for 32-bit greys, whose range nobody declares."""
    if image.mode in ("I", "F"):
        raise ImageError(f"{name}: 32 bits a pixel, whose range is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB")


def check_size(scene: Scene, image: ImageArray) -> None:
    """Raise ImageError with both sizes when the image is not of the annotated size, which its boxes need."""
    height, width = image.shape[:2]
    wanted = (scene.width or width, scene.height or height)
    if (width, height) != wanted:
        raise ImageError(
            f"{scene.file}: the image is {width} x {height} but its annotation says {wanted[0]} x {wanted[1]}; "
            "resized and rotated copies do not fit the boxes, use the original"
        )


def names_of(file: str) -> list[str]:
    """List the names an image may go by, its own first: COCO's train2014 and train2017 name the same images.

    Raises ImageError for a name that leaves the folder it belongs to (absolute, drive letter, or with "..").
    """
    path = PurePosixPath(file.replace("\\", "/"))
    if not path.name or path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or "\0" in file:
        raise ImageError(f"{file!r}: not the name of an image inside its folder; use a relative name without '..'")
    names = [str(path)]
    if coco := _COCO.fullmatch(path.name):
        number = coco[1]
        same = (f"{number}.jpg", f"COCO_train2014_{number}.jpg", f"COCO_val2014_{number}.jpg")
        names += [n for n in (str(path.with_name(s)) for s in same) if n not in names]
    return names


class FolderRoot:
    """A folder of images, its sub-folders included (links followed once).

    Paths in a root are relative to its top, with forward slashes. `direct` says whether it holds just that path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def direct(self, name: str) -> bool:
        return (self.path / name).is_file()

    def paths(self) -> Iterator[str]:
        visited: set[str] = set()
        for folder, below, files in os.walk(self.path, followlinks=True):
            real = os.path.realpath(folder)
            if real in visited:  # a link back up would go round for ever
                below.clear()
                continue
            visited.add(real)
            below.sort()
            inside = Path(folder).relative_to(self.path)
            yield from ((inside / file).as_posix() for file in files)

    def size(self, path: str) -> int:
        return (self.path / path).stat().st_size

    def read(self, path: str) -> bytes:
        return (self.path / path).read_bytes()


class ZipRoot:
    """A zip file. One handle for all threads, of which only opening a member is locked.

    A forked process opens it anew: with its parent it shares one place in the file, and possibly a locked lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()
        self._sizes = {info.filename: info.file_size for info in self._zip.infolist() if not info.is_dir()}

    def direct(self, name: str) -> bool:
        return name in self._sizes

    def paths(self) -> Iterator[str]:
        return iter(self._sizes)

    def size(self, path: str) -> int:
        return self._sizes[path]

    def _open(self) -> None:
        lock = threading.Lock()
        try:
            opened = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise ImageError(f"{self.path}: not a zip file that can be read ({error}); fetch it again") from None
        self._lock, self._zip, self._process = lock, opened, os.getpid()

    def read(self, path: str) -> bytes:
        if self._process != os.getpid():
            self._open()
        with self._lock:
            member = self._zip.open(path)
        try:
            return member.read()
        finally:
            with self._lock:
                member.close()


Root = FolderRoot | ZipRoot


class Images:
    """An ImageSource over several folders and zip files, the first that holds an image wins.

    An image goes by its own name and by COCO's other names for it, at that very path and then anywhere below
    (`nested`). Nothing is opened before the first image is loaded. `hint` ends the message about a missing image.
    """

    def __init__(self, roots: Sequence[Path], nested: bool = True, hint: str = "") -> None:
        self.paths = tuple(roots)
        self.nested = nested
        self.hint = hint
        self._lock = threading.RLock()
        self._roots: list[Root] | None = None
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def load(self, scene: Scene) -> ImageArray:
        """Decode the scene's image, RGB uint8 (H, W, 3), of the annotated size. Raises ImageError."""
        image = decode(self.read(scene.file), scene.file)
        check_size(scene, image)
        return image

    def read(self, file: str) -> bytes:
        """Read the bytes of an image. Raises ImageError naming every place that was looked in."""
        place = self._find(file)
        if place is None:
            raise ImageError(self._no_such(file))
        root, path = place
        try:
            if root.size(path) > MAX_BYTES:
                raise ImageError(f"{file}: {root.path / path} is larger than the limit of {MAX_BYTES >> 20} MiB")
            return root.read(path)
        except ImageError:
            raise
        except Exception as error:  # a broken zip member fails with any of a dozen errors
            raise ImageError(f"{file}: {root.path / path} cannot be read ({error}); fetch it again") from None

    def missing(self, scenes: Sequence[Scene]) -> list[str]:
        """List files of `scenes` that are in no root (or there twice with different content); none is decoded."""
        self._open()  # a broken zip file is an error of its own, not a thousand missing images
        missing = []
        for scene in scenes:
            place = None
            with suppress(ImageError):
                place = self._find(scene.file)
            missing += [] if place else [scene.file]
        return missing

    def _find(self, file: str) -> tuple[Root, str] | None:
        names = names_of(file)
        for root in self._open():
            for name in names:
                if self._direct(root, name):
                    return root, name
            for name in names if self.nested else ():
                if paths := self._listing(root).get(name.rpartition("/")[2]):
                    return root, _choose(file, name, root, paths)
        return None

    def _direct(self, root: Root, name: str) -> bool:
        """Whether the root holds just this path; a root that has been listed is not looked at again."""
        listing = self._listings.get(root.path)
        return root.direct(name) if listing is None else name in listing.get(name.rpartition("/")[2], ())

    def _open(self) -> list[Root]:
        with self._lock:
            if self._roots is None:
                paths = [path for path in self.paths if path.exists()]
                self._roots = [FolderRoot(path) if path.is_dir() else ZipRoot(path) for path in paths]
            return self._roots

    def _listing(self, root: Root) -> dict[str, list[str]]:
        """List a root once: the last part of a name -> every path that ends so."""
        with self._lock:
            if root.path not in self._listings:
                listing: dict[str, list[str]] = {}
                for path in root.paths():
                    listing.setdefault(path.rpartition("/")[2], []).append(path)
                self._listings[root.path] = listing
            return self._listings[root.path]

    def _no_such(self, file: str) -> str:
        places = ", ".join(str(path) + ("" if path.exists() else " (which is not there)") for path in self.paths)
        names = " or ".join(names_of(file))
        problem = f"no image {names} in {places}" if self.paths else "no place with images is known"
        return f"{file}: {problem}" + (f"; {self.hint}" if self.hint else "")


def _choose(file: str, name: str, root: Root, paths: Sequence[str]) -> str:
    """Choose the path meant by `name`. Raises ImageError when different images of that name could be."""
    ends = [path for path in paths if f"/{path}".endswith(f"/{name}")] or list(paths)
    if len(ends) > 1 and (len({root.size(path) for path in ends}) > 1 or len({root.read(path) for path in ends}) > 1):
        raise ImageError(
            f"{file}: {root.path} holds different files of that name ({', '.join(sorted(ends)[:3])}); "
            "name the folder that is meant"
        )
    return sorted(ends)[0]


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
