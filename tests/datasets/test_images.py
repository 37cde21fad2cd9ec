"""Images: decoding of good and bad bytes, and finding them in folders and zips."""

from __future__ import annotations

import io
import multiprocessing
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.datasets.images import MAX_PIXELS, Images, ZipRoot, check_size, decode, names_of
from bench.errors import ImageError
from bench.grounding import Scene


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg(colour: tuple[int, int, int] = (200, 30, 40), size: tuple[int, int] = (16, 12)) -> bytes:
    return encoded(Image.new("RGB", size, colour), "JPEG", quality=95)


def scene(file: str, size: tuple[int, int] | None = (16, 12)) -> Scene:
    return Scene(file, file, *(size or (None, None)), expressions=())


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("RGB", (5, 3), (10, 20, 30)), (10, 20, 30)),
        (Image.new("L", (5, 3), 77), (77, 77, 77)),
        (Image.new("1", (5, 3), 1), (255, 255, 255)),
        (Image.new("P", (5, 3), 0), (0, 0, 0)),
        (Image.new("RGBA", (5, 3), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (5, 3), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("LA", (5, 3), (40, 255)), (40, 40, 40)),
        (Image.fromarray(np.full((3, 5), 0x8034, np.uint16)), (0x80, 0x80, 0x80)),
    ],
)
def test_every_mode_becomes_rgb(image: Image.Image, pixel: tuple[int, int, int]) -> None:
    array = decode(encoded(image), "a.png")
    assert array.shape == (3, 5, 3)
    assert array.dtype == np.uint8
    assert array.flags.writeable
    assert tuple(array[0, 0]) == pixel


def test_cmyk_jpeg() -> None:
    red = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    r, g, b = decode(red, "cmyk.jpg")[4, 4].astype(int)
    assert r > 230
    assert g < 40
    assert b < 40


def test_a_transparent_palette_is_laid_over_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0] * 256)
    assert tuple(decode(encoded(image, "PNG", transparency=0), "p.png")[0, 0]) == (255, 255, 255)


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns this by 90 degrees
    data = encoded(Image.new("RGB", (16, 12)), "JPEG", exif=exif)
    assert decode(data, "turned.jpg").shape == (12, 16, 3)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html>Not found</html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (jpeg(size=(64, 64))[:-40], "cut short"),
        (encoded(Image.effect_noise((64, 64), 90))[:900], "cut short"),
        (encoded(Image.new("F", (2, 2)), "TIFF"), "32 bits"),
    ],
    ids=["empty", "html", "postscript", "jpeg", "png", "float"],
)
def test_bad_bytes_are_named(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says) as caught:
        decode(data, "some/image.jpg")
    assert "some/image.jpg" in str(caught.value)


def test_half_a_image_is_refused_even_when_a_library_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError, match="cut short"):
        decode(jpeg(size=(64, 64))[:-40], "half.jpg")


def test_a_bomb_is_refused_before_it_is_opened() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    header = f"P6 {side} {side} 255\n".encode()
    with pytest.raises(ImageError, match=r"bomb\.ppm.*pixels"):
        decode(header + bytes(64), "bomb.ppm")
    with pytest.raises(ImageError, match=r"bomb\.ppm.*pixels"):
        decode(f"P6 {side * 3} {side * 3} 255\n".encode() + bytes(64), "bomb.ppm")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_any_bytes_end_in_a_image_or_a_image_error(noise: bytes, at: int) -> None:
    whole = jpeg()
    try:
        assert decode(whole[:at] + noise + whole[at + len(noise) :], "x.jpg").ndim == 3
    except ImageError as error:
        assert "x.jpg" in str(error)


def test_size_check_says_both_sizes() -> None:
    image = np.zeros((12, 16, 3), np.uint8)
    check_size(scene("a.jpg", (16, 12)), image)
    check_size(scene("a.jpg", None), image)
    with pytest.raises(ImageError, match=r"a\.jpg.*16 x 12.*12 x 16"):
        check_size(scene("a.jpg", (12, 16)), image)


@pytest.mark.parametrize(
    "bad", ["../a.jpg", "/etc/passwd", "a/../../b.jpg", "C:/a.jpg", "..\\a.jpg", "", "a\0.jpg", "."]
)
def test_names_never_leave_their_folder(bad: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(ImageError, match="inside its folder"):
        names_of(bad)
    assert Images([root]).missing([scene(bad)]) == [bad]
    with pytest.raises(ImageError):
        Images([root]).load(scene(bad))


TRAIN2014, TRAIN2017 = "COCO_train2014_000000000309.jpg", "000000000309.jpg"


def stored(place: str, file: str, folder: Path, data: bytes) -> Path:
    """A root that holds `data` as `file`: a folder when `place` is "folder...", else a zip."""
    if place.startswith("folder"):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return folder
    path = folder / "images.zip"
    method = zipfile.ZIP_DEFLATED if place == "deflated" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.mkdir("train2014")
        archive.writestr(file, data)
    return path


@pytest.mark.parametrize("place", ["folder", "stored", "deflated"])
@pytest.mark.parametrize("inside", ["", "train2014/", "images/mscoco/images/train2014/"])
@pytest.mark.parametrize("asked", [TRAIN2014, TRAIN2017, f"train2014/{TRAIN2014}"])
@pytest.mark.parametrize("there", [TRAIN2014, TRAIN2017])
def test_coco_images_by_either_name(place: str, inside: str, asked: str, there: str, tmp_path: Path) -> None:
    images = Images([stored(place, inside + there, tmp_path, jpeg())])
    assert images.missing([scene(asked)]) == []
    assert images.load(scene(asked)).shape == (12, 16, 3)
    assert images.missing([scene("COCO_train2014_000000000308.jpg")]) == ["COCO_train2014_000000000308.jpg"]


def test_a_missing_image_names_every_place(tmp_path: Path) -> None:
    root = stored("stored", TRAIN2014, tmp_path, jpeg())
    gone = tmp_path / "gone"
    with pytest.raises(ImageError) as caught:
        Images([root, gone], hint="set [data.images]").load(scene("000000000001.jpg"))
    for part in ("000000000001.jpg", "COCO_train2014_000000000001.jpg", str(root), f"{gone} (which is not there)"):
        assert part in str(caught.value)
    assert str(caught.value).endswith("set [data.images]")
    with pytest.raises(ImageError, match=r"a\.jpg: no place with images is known; do this"):
        Images([], hint="do this").load(scene("a.jpg"))


def test_several_roots_first_one_wins(tmp_path: Path) -> None:
    for name, colour in (("one", (250, 0, 0)), ("two", (0, 250, 0))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(encoded(Image.new("RGB", (16, 12), colour)))
    (tmp_path / "two" / "b.png").write_bytes(encoded(Image.new("RGB", (16, 12), (0, 0, 250))))
    images = Images([tmp_path / "one", tmp_path / "two"])
    assert tuple(images.load(scene("a.png"))[0, 0]) == (250, 0, 0)
    assert tuple(images.load(scene("b.png"))[0, 0]) == (0, 0, 250)


def test_two_different_files_of_one_name_are_not_guessed_between(tmp_path: Path) -> None:
    stored("folder", "big/a.jpg", tmp_path, jpeg())
    stored("folder", "small/a.jpg", tmp_path, jpeg(size=(4, 4)))
    with pytest.raises(ImageError, match=r"different files.*big/a\.jpg, small/a\.jpg"):
        Images([tmp_path]).load(scene("a.jpg"))
    assert Images([tmp_path]).load(scene("small/a.jpg", None)).shape == (4, 4, 3)
    stored("folder", "copy/a.jpg", tmp_path, jpeg())
    (tmp_path / "small" / "a.jpg").unlink()
    assert Images([tmp_path]).load(scene("a.jpg")).shape == (12, 16, 3)


def test_not_nested_looks_only_where_it_is_told(tmp_path: Path) -> None:
    stored("folder", "deep/a.jpg", tmp_path, jpeg())
    assert Images([tmp_path], nested=False).missing([scene("a.jpg")]) == ["a.jpg"]
    assert Images([tmp_path], nested=False).missing([scene("deep/a.jpg")]) == []


def test_a_link_that_goes_round_is_followed_once(tmp_path: Path) -> None:
    stored("folder", "deep/a.jpg", tmp_path, jpeg())
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    assert Images([tmp_path]).load(scene("a.jpg")).shape == (12, 16, 3)


def test_broken_zips(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    path.write_bytes(b"PK no more")
    with pytest.raises(ImageError, match=r"images\.zip: not a zip"):
        Images([path]).load(scene("a.jpg"))
    with pytest.raises(ImageError, match=r"images\.zip: not a zip"):
        Images([path]).missing([scene("a.jpg")])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", jpeg())
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF  # a byte of the image: its checksum no longer fits
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.jpg.*cannot be read"):
        Images([path]).load(scene("a.jpg"))


def test_a_zip_is_read_by_many_threads_at_once(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    files = [f"train2014/{number:03}.png" for number in range(60)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, file in enumerate(files):
            archive.writestr(file, encoded(Image.new("RGB", (16, 12), (number, 255 - number, 7))))
    images = Images([path])
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda n: images.load(scene(files[n % 60])), range(480)))
    assert [tuple(p[3, 3]) for p in seen] == [(n % 60, 255 - n % 60, 7) for n in range(480)]


def test_a_wrong_size_is_an_error_of_loading(tmp_path: Path) -> None:
    root = stored("folder", "a.jpg", tmp_path, jpeg())
    with pytest.raises(ImageError, match="16 x 12"):
        Images([root]).load(scene("a.jpg", (640, 480)))


def _reads(root: ZipRoot, expected: dict[str, bytes], wrong: object) -> None:
    for _ in range(40):
        for name, content in expected.items():
            try:
                good = root.read(name) == content
            except Exception:
                good = False
            if not good:
                wrong.value += 1  # type: ignore[attr-defined]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_reads_a_zip_through_a_handle_of_its_own(tmp_path):
    contents = {f"{n}.bin": bytes([n]) * 5000 for n in range(8)}
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    root = ZipRoot(tmp_path / "images.zip")
    assert root.read("3.bin") == contents["3.bin"]
    fork = multiprocessing.get_context("fork")
    wrong = fork.Value("i", 0)
    handle = root._zip
    root._lock.acquire()  # held by a thread of the parent at the moment of the fork
    readers = [fork.Process(target=_reads, args=(root, contents, wrong)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    root._lock.release()
    assert wrong.value == 0 and all(reader.exitcode == 0 for reader in readers)
    assert root._zip is handle  # the parent keeps its own
