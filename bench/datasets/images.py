"""Images: bytes to RGB, and where the bytes lie: folders and zip files, without unpacking.

EXIF orientation is not applied: COCO's boxes are pixels of the stored image. One that carries the camera's flag and was
annotated upright fails the size check and is reported, never turned silently.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from bench.datasets.image_roots import FolderRoot, Root, choose
from bench.datasets.image_roots import ZipRoot as ZipRoot
from bench.datasets.image_roots import names_of as names_of
from bench.errors import ImageError
from bench.grounding import ImageArray, Scene
from bench.inputs import limits

# Formats that a decoder of pixels reads; never PostScript, which would start another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
BAND = 1 << 20  # pixels that are copied at a time
# Pillow's blocks of 16 MiB are kept by the C library when they are freed, for each decode thread; from 32 on none is.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]


def decode(data: bytes, name: str, scene: Scene | None = None) -> ImageArray:
    """Decode an image to RGB uint8 (H, W, 3), rows and columns as they are stored.

    Grey, palette and CMYK become RGB, 16 bits a channel become 8, transparency is laid over white, of an animation the
    first frame counts. Raises ImageError naming `name` when `data` is empty, cut, no image, of more pixels than
    [limits] image_mpixels, or not of the annotated size of `scene`: the header is looked at before the pixels.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes); fetch it again")
    # Libraries switch this on for the whole process; half an image must not pass for a whole one.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        most = limits().image_mpixels
        if width * height > most * 1_000_000:
            raise ImageError(
                f"{name}: {width} x {height} pixels are more than the limit of {most} million; [limits] image_mpixels "
                "raises it"
            )
        if scene is not None:
            check_sides(scene, width, height)
        if image.format == "JPEG" and image.mode == "RGB" and (pixels := _faster_jpeg(data)) is not None:
            return pixels
        if image.format == "TIFF":  # what no strip covers would be black, whole megapixels of it
            covered = max((tile[1][3] for tile in image.tile if tile[1] is not None), default=0)
            if covered < height:
                raise ImageError(f"{name}: cut short, it has {covered} of {height} rows; fetch it again")
        return _copied(_rgb(image, name))
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: more pixels than the limit; [limits] image_mpixels raises it") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image ({len(data):,} bytes that begin with {data[:8]!r})") from None
    except Exception as error:  # a decoder can fail on broken bytes with any error at all
        why = str(error) or type(error).__name__
        raise ImageError(f"{name}: broken or cut short ({why}); fetch it again") from None


def _faster_jpeg(data: bytes) -> ImageArray | None:
    """Decode a JPEG by torchvision, in half Pillow's time; None where only Pillow knows what to do or to say.

    torch is never imported for it: a process that has no network open decodes few images.
    """
    if "torchvision.io" not in sys.modules or not _same_pixels():
        return None
    try:
        return _by_torchvision(data)
    except Exception:  # cut or broken: Pillow says how
        return None


def _by_torchvision(data: bytes) -> ImageArray:
    torch: Any = sys.modules["torch"]
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    # The operator of torchvision.io.decode_jpeg, which warns of its end at every call; 3 is RGB.
    pixels: ImageArray = torch.ops.image.decode_jpeg(encoded, 3, False).permute(1, 2, 0).contiguous().numpy()
    return pixels


@cache
def _same_pixels() -> bool:
    """Whether both libraries decode alike here: each brings a libjpeg of its own, whose rounding may differ."""
    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 256, (29, 37, 3), np.uint8))
    for subsampling in (0, 1, 2):
        file = io.BytesIO()
        drawn.save(file, "JPEG", subsampling=subsampling)
        try:
            other = _by_torchvision(file.getvalue())
        except Exception:  # built without libjpeg, or without the operator
            return False
        if not np.array_equal(other, np.asarray(Image.open(file))):
            return False
    return True


def _copied(image: Image.Image) -> ImageArray:
    """Copy an RGB image into an array, band by band: all at once would take three times the memory."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        whole = rows >= image.height
        pixels[top:bottom] = np.asarray(image if whole else image.crop((0, top, image.width, bottom)))
    return pixels


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
    check_sides(scene, image.shape[1], image.shape[0])


def check_sides(scene: Scene, width: int, height: int) -> None:
    """Raise ImageError with both sizes when these are not the annotated ones."""
    wanted = (scene.width or width, scene.height or height)
    if (width, height) != wanted:
        raise ImageError(
            f"{scene.file}: the image is {width} x {height} but its annotation says {wanted[0]} x {wanted[1]}; "
            "resized and rotated copies do not fit the boxes, use the original"
        )


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
        return decode(self.read(scene.file), scene.file, scene)

    def sides(self, scene: Scene) -> tuple[int, int] | None:
        """Return width and height of the scene's image from its header; None where there is none to be had."""
        try:
            place = self._find(scene.file)
            if place is None:
                return None
            with place[0].opened(place[1]) as file:
                return Image.open(file, formats=FORMATS).size
        except Exception:  # loading it will say what is wrong
            return None

    def read(self, file: str) -> bytes:
        """Read the bytes of an image. Raises ImageError naming every place that was looked in."""
        place = self._find(file)
        if place is None:
            raise ImageError(self._no_such(file))
        root, path = place
        try:
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
                    return root, choose(file, name, root, paths)
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
