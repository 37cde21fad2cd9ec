"""Images: decoding of good and bad bytes, and where they lie in folders and zips."""

import io
import multiprocessing
import struct
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.datasets import images
from bench.datasets.images import Images, ZipRoot, check_size, decode, names_of
from bench.errors import ImageError
from bench.evaluation.decoding import CachedImages
from bench.grounding import Scene


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def filled(colour, size=(16, 12), mode="RGB"):
    return Image.new(mode, size, colour)


def jpeg(size=(16, 12)):
    return encoded(filled((200, 30, 40), size), "JPEG", quality=95)


def scene(file, size=(16, 12)):
    return Scene(file, file, *(size or (None, None)), expressions=())


@pytest.mark.parametrize(("image", "pixel"), [
    (filled((10, 20, 30), (5, 3)), (10, 20, 30)),
    (filled(77, (5, 3), "L"), (77, 77, 77)),
    (filled(1, (5, 3), "1"), (255, 255, 255)),
    (filled(0, (5, 3), "P"), (0, 0, 0)),
    (filled((255, 0, 0, 0), (5, 3), "RGBA"), (255, 255, 255)),
    (filled((255, 0, 0, 255), (5, 3), "RGBA"), (255, 0, 0)),
    (filled((40, 255), (5, 3), "LA"), (40, 40, 40)),
    (Image.fromarray(np.full((3, 5), 0x8034, np.uint16)), (0x80, 0x80, 0x80)),
])  # fmt: skip
def test_every_mode_becomes_rgb(image, pixel):
    array = decode(encoded(image), "a.png")
    assert (array.shape, array.dtype, array.flags.writeable) == ((3, 5, 3), np.uint8, True)
    assert tuple(array[0, 0]) == pixel


def test_cmyk_transparent_palettes_and_turned_images():
    r, g, b = decode(encoded(filled((0, 255, 255, 0), (8, 8), "CMYK"), "JPEG", quality=95), "cmyk.jpg")[4, 4]
    assert r > 230 and g < 40 and b < 40
    image = filled(0, (4, 4), "P")
    image.putpalette([0, 0, 0] * 256)
    assert tuple(decode(encoded(image, transparency=0), "p.png")[0, 0]) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns this by 90 degrees
    assert decode(encoded(filled(0), "JPEG", exif=exif), "turned.jpg").shape == (12, 16, 3)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "RGBA"])
def test_a_tiff_of_many_strips_is_whole(compression, mode):
    image = Image.effect_noise((300, 500), 90).convert(mode)
    if compression == "jpeg" and mode in ("1", "RGBA"):
        mode, image = "L", image.convert("L")
    data = encoded(image, "TIFF", compression=compression, strip_size=4000)
    assert decode(data, "a.tif").shape == (500, 300, 3)


@pytest.mark.slow
def test_what_large_images_took_is_given_back_by_every_decode_thread(tmp_path):
    Image.new("L", (8900, 8900)).save(tmp_path / "a.png")
    script = (
        "import sys; from concurrent.futures import ThreadPoolExecutor; from pathlib import Path\n"
        "from bench.datasets.images import decode\n"
        "data = Path(sys.argv[1]).read_bytes()\n"
        "resident = lambda: int(Path('/proc/self/statm').read_text().split()[1]) * 4096 >> 20\n"
        "before = resident()\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    list(pool.map(lambda n: decode(data, 'a.png').nbytes, range(12)))\n"
        "print(resident() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "a.png"], capture_output=True, text=True)
    assert int(done.stdout) < 300, done.stderr


SIDE = int(80_000_000**0.5) + 1


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from((0, 1, 2)), st.booleans(), st.integers(20, 100))
@settings(deadline=None)  # the first one imports torch
def test_torchvision_decodes_jpeg_to_the_pixels_of_pillow(width, height, subsampling, progressive, quality):
    import torchvision.io  # noqa: F401

    noise = Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))
    data = encoded(noise, "JPEG", subsampling=subsampling, progressive=progressive, quality=quality)
    faster = images._faster_jpeg(data)
    assert faster is not None and faster.dtype == np.uint8 and faster.flags.writeable
    assert np.array_equal(faster, np.asarray(Image.open(io.BytesIO(data))))
    assert images._faster_jpeg(data[:-1]) is None
    # The end marker has two bytes: without it alone, Pillow has all pixels of some narrow images.
    with pytest.raises(ImageError, match="cut short"):
        decode(data[:-3], "a.jpg")


def test_another_libjpeg_is_not_used(monkeypatch):
    import torchvision.io  # noqa: F401

    data, decoded = encoded(filled("red"), "JPEG"), images._by_torchvision
    images._same_pixels.cache_clear()
    monkeypatch.setattr(images, "_by_torchvision", lambda data: decoded(data) ^ 1)
    assert images._faster_jpeg(data) is None and decode(data, "a.jpg")[0, 0, 0] > 250
    images._same_pixels.cache_clear()


@pytest.mark.parametrize(("data", "message"), [
    (b"", "0 bytes"),
    (b"<!DOCTYPE html><html>Not here</html>", "not an image"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    (jpeg((64, 64))[:-40], "cut short"),
    (encoded(Image.effect_noise((64, 64), 90))[:900], "cut short"),
    (encoded(filled(0, (2, 2), "F"), "TIFF"), "32 bits"),
    (encoded(filled(0, (20, 16)), "TIFF", tiffinfo={278: 16}).replace(struct.pack("<HHII", 257, 4, 1, 16),
     struct.pack("<HHII", 257, 4, 1, 160)), "cut short, it has 16 of 160 rows"),
    (f"P6 {SIDE} {SIDE} 255\n".encode() + bytes(64), "pixels"),
    (f"P6 {SIDE * 3} {SIDE * 3} 255\n".encode() + bytes(64), "pixels"),
], ids=["empty", "html", "postscript", "jpeg", "png", "float", "tiff", "too large", "bomb"])  # fmt: skip
def test_bad_bytes_are_named(data, message, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)  # as a library may
    with pytest.raises(ImageError, match=f"some/image.jpg.*{message}"):
        decode(data, "some/image.jpg")


@pytest.mark.slow
@given(st.binary(max_size=200), st.integers(0, 400))
def test_any_bytes_end_in_an_image_or_an_image_error(noise, at):
    whole = jpeg()
    try:
        assert decode(whole[:at] + noise + whole[at + len(noise) :], "x.jpg").ndim == 3
    except ImageError as error:
        assert "x.jpg" in str(error)


@pytest.mark.parametrize(
    "bad", ["../a.jpg", "/etc/passwd", "a/../../b.jpg", "C:/a.jpg", "..\\a.jpg", "", "a\0.jpg", "."]
)
def test_names_never_leave_their_folder(bad, tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "root").mkdir()
    with pytest.raises(ImageError, match="inside its folder"):
        names_of(bad)
    images = Images([tmp_path / "root"])
    assert images.missing([scene(bad)]) == [bad]
    with pytest.raises(ImageError):
        images.load(scene(bad))


TRAIN2014, TRAIN2017 = "COCO_train2014_000000000309.jpg", "000000000309.jpg"


def stored(place, file, folder, data):
    """A root that holds `data` as `file`: a folder, or a zip that stores or deflates it."""
    if place == "folder":
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
        return folder
    method = zipfile.ZIP_DEFLATED if place == "deflated" else zipfile.ZIP_STORED
    with zipfile.ZipFile(folder / "images.zip", "w", method) as archive:
        archive.mkdir("train2014")
        archive.writestr(file, data)
    return folder / "images.zip"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "stored", "deflated"])
@pytest.mark.parametrize("inside", ["", "train2014/", "images/mscoco/images/train2014/"])
@pytest.mark.parametrize("stored_as", [TRAIN2014, TRAIN2017])
def test_coco_images_by_either_name(place, inside, stored_as, tmp_path):
    images = Images([stored(place, inside + stored_as, tmp_path, jpeg())])
    for name in (TRAIN2014, TRAIN2017, f"train2014/{TRAIN2014}"):
        assert images.missing([scene(name)]) == [] and images.load(scene(name)).shape == (12, 16, 3)
    assert images.missing([scene("COCO_train2014_000000000308.jpg")]) == ["COCO_train2014_000000000308.jpg"]


def test_a_missing_image_names_every_place(tmp_path):
    root, gone = stored("stored", TRAIN2014, tmp_path, jpeg()), tmp_path / "gone"
    with pytest.raises(ImageError) as caught:
        Images([root, gone], hint="set [data.images]").load(scene("000000000001.jpg"))
    for part in ("000000000001.jpg", "COCO_train2014_000000000001.jpg", str(root), f"{gone} (which is not there)"):
        assert part in str(caught.value)
    assert str(caught.value).endswith("set [data.images]")
    with pytest.raises(ImageError, match=r"a\.jpg: no place with images is known; do this"):
        Images([], hint="do this").load(scene("a.jpg"))


def test_several_roots_first_one_wins(tmp_path):
    for file, colour in (("one/a.png", (250, 0, 0)), ("two/a.png", (0, 250, 0)), ("two/b.png", (0, 0, 250))):
        stored("folder", file, tmp_path, encoded(filled(colour)))
    images = Images([tmp_path / "one", tmp_path / "two"])
    assert [tuple(images.load(scene(name))[0, 0]) for name in ("a.png", "b.png")] == [(250, 0, 0), (0, 0, 250)]


def test_two_different_files_of_one_name_are_not_guessed_between(tmp_path):
    stored("folder", "big/a.jpg", tmp_path, jpeg())
    stored("folder", "small/a.jpg", tmp_path, jpeg((4, 4)))
    with pytest.raises(ImageError, match=r"different files.*big/a\.jpg, small/a\.jpg"):
        Images([tmp_path]).load(scene("a.jpg"))
    assert Images([tmp_path]).load(scene("small/a.jpg", None)).shape == (4, 4, 3)
    stored("folder", "copy/a.jpg", tmp_path, jpeg())
    (tmp_path / "small" / "a.jpg").unlink()
    assert Images([tmp_path]).load(scene("a.jpg")).shape == (12, 16, 3)


def test_below_a_root(tmp_path):
    stored("folder", "deep/a.jpg", tmp_path, jpeg())
    flat = Images([tmp_path], nested=False)
    assert flat.missing([scene("a.jpg"), scene("deep/a.jpg")]) == ["a.jpg"]
    (tmp_path / "deep" / "up").symlink_to(tmp_path)  # a link that goes round is followed once
    assert Images([tmp_path]).load(scene("a.jpg")).shape == (12, 16, 3)


def test_the_size_is_checked(tmp_path):
    image = np.zeros((12, 16, 3), np.uint8)
    check_size(scene("a.jpg"), image)
    check_size(scene("a.jpg", None), image)
    root = stored("folder", "a.jpg", tmp_path, jpeg())
    with pytest.raises(ImageError, match=r"a\.jpg.*16 x 12.*12 x 16"):
        Images([root]).load(scene("a.jpg", (12, 16)))


def test_broken_zips(tmp_path):
    path = tmp_path / "images.zip"
    path.write_bytes(b"PK no more")
    for call in (Images([path]).load, lambda one: Images([path]).missing([one])):
        with pytest.raises(ImageError, match=r"images\.zip: not a zip"):
            call(scene("a.jpg"))
    stored("stored", "a.jpg", tmp_path, jpeg())
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xd8") + 60] ^= 0xFF  # a byte of the image: its checksum no longer fits
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.jpg.*cannot be read"):
        Images([path]).load(scene("a.jpg"))


def test_a_zip_is_read_by_many_threads_at_once(tmp_path):
    files = [f"train2014/{number:03}.png" for number in range(60)]
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, file in enumerate(files):
            archive.writestr(file, encoded(filled((number, 255 - number, 7))))
    images = Images([tmp_path / "images.zip"])
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda n: images.load(scene(files[n % 60])), range(480)))
    assert [tuple(p[3, 3]) for p in loaded] == [(n % 60, 255 - n % 60, 7) for n in range(480)]


def count_wrong(root, expected, wrong):
    for _ in range(40):
        for name, content in expected.items():
            try:
                wrong.value += root.read(name) != content
            except Exception:
                wrong.value += 1


@pytest.mark.slow
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_reads_a_zip_through_a_handle_of_its_own(tmp_path):
    contents = {f"{n}.bin": bytes([n]) * 5000 for n in range(8)}
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    root = ZipRoot(tmp_path / "images.zip")
    fork, handle = multiprocessing.get_context("fork"), root._zip
    wrong = fork.Value("i", 0)
    root._lock.acquire()  # by a thread of the parent at the moment of the fork
    readers = [fork.Process(target=count_wrong, args=(root, contents, wrong)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    root._lock.release()
    assert wrong.value == 0 and all(reader.exitcode == 0 for reader in readers)
    assert root._zip is handle  # the parent keeps its own


def test_cached_images_are_decoded_once_while_there_is_room():
    loaded, scenes = [], [scene(f"{name}.png", (4, 4)) for name in "abc"]

    class Source:
        def load(self, one):
            loaded.append(one.file)
            return np.zeros((4, 4, 3), np.uint8)

        def missing(self, scenes):
            return ["gone.png"]

    images = CachedImages(Source(), most=2 * 48)
    for one in [*scenes, *scenes]:
        image = images.load(one)
    assert loaded == ["a.png", "b.png", "c.png", "c.png"] and images.missing(scenes) == ["gone.png"]
    assert images.load(scenes[0]) is images.load(scenes[0])
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0, 0] = 7
