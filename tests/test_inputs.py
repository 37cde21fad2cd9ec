"""Files of the user: what is no file is refused unopened, and a limit is a setting that its message names."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.datasets.images import Images, ZipRoot, decode
from bench.errors import DataError, ImageError, SettingsError
from bench.evaluation.decoding import decoded_ahead
from bench.grounding import Scene
from bench.inputs import Limits, as_utf8, check_file, enforce, limits, load_bytes, load_json, load_text, opened
from bench.memory import peak_memory_mb, restart_peaks
from bench.predicting.one import read_image
from bench.runs.provenance import redacted
from bench.settings import load_settings


@pytest.fixture(autouse=True)
def usual():
    yield
    enforce(Limits())


def png(path: Path, size: tuple[int, int]) -> Path:
    Image.new("L", size, 7).save(path)
    return path


@pytest.mark.parametrize("read", [check_file, load_bytes, load_text, load_json, read_image])
def test_a_pipe_a_device_and_a_folder_are_refused_before_they_are_opened(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "pipe", "it is a pipe or a device"), (Path("/dev/zero"), "it is a pipe or a device"),
        (tmp_path, "it is a folder"), (tmp_path / "absent", "No such file"), (tmp_path / ("a" * 300), "name too long"),
        (Path("a\0b"), "no file can have this name"),
    ):  # fmt: skip
        with pytest.raises((DataError, ImageError), match=message):
            read(path)


def test_the_limits_are_settings_and_messages_name_them(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(DataError, match=r"large: 10,240 MiB .* the limit of 4,096 MiB; \[limits\] file_mb raises it"):
        load_bytes(tmp_path / "large")
    with pytest.raises(ImageError, match=r"limit of 256 MiB; \[limits\] image_mb"):
        read_image(tmp_path / "large")
    (tmp_path / "bench.toml").write_text("[limits]\nimage_mpixels = 1\nfile_mb = 1\n")
    load_settings(tmp_path / "bench.toml")
    assert limits().image_mpixels == 1
    (tmp_path / "two.json").write_bytes(b" " * (2 << 20))
    with pytest.raises(DataError, match="2 MiB are more than the limit of 1 MiB"):
        load_json(tmp_path / "two.json")
    with pytest.raises(ImageError, match=r"1100 x 1000 pixels .* limit of 1 million; \[limits\] image_mpix"):
        read_image(png(tmp_path / "a.png", (1100, 1000)))
    with pytest.raises(SettingsError, match=r"limits\.file_mb"):
        load_settings(flags={"limits.file_mb": 0})


def test_a_pipe_below_the_images_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "below").mkdir()
    os.mkfifo(tmp_path / "below" / "b.jpg")
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(ImageError, match=name):
            Images([tmp_path]).load(Scene("1", name, None, None, ()))


def test_members_of_a_zip_have_a_limit_before_they_are_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "i.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in "ab":
            archive.writestr(f"{folder}/x.jpg", bytes(3 << 20))
    enforce(Limits(image_mb=2))
    before = peak_memory_mb() if restart_peaks("cpu") else 0
    with pytest.raises(ImageError, match=r"i\.zip: a/x\.jpg: 3 MiB .* the limit of 2 MiB; \[limits\] image_mb"):
        Images([tmp_path / "i.zip"]).read("x.jpg")
    assert peak_memory_mb() - before < 2
    with pytest.raises(ImageError, match="limit of 2 MiB"):
        ZipRoot(tmp_path / "i.zip").read("b/x.jpg")


def test_an_image_of_another_size_is_not_decoded(tmp_path, monkeypatch):
    png(tmp_path / "a.png", (40, 30))
    monkeypatch.setattr("bench.datasets.images._rgb", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match="the image is 40 x 30 but its annotation says 30 x 40"):
        Images([tmp_path]).load(Scene("1", "a.png", 30, 40, ()))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_bands_make_the_same_pixels(tmp_path, monkeypatch, mode):
    image = Image.effect_noise((50, 33), 80).convert(mode)
    image.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    whole = decode(data, "a")
    monkeypatch.setattr("bench.datasets.images.BAND", 120)
    np.testing.assert_array_equal(decode(data, "a"), whole)
    assert whole.flags.writeable


def large_images(folder: Path, annotated: bool, count: int = 12) -> list[Scene]:
    sides = (4000, 3000) if annotated else (None, None)
    for n in range(count):
        png(folder / f"{n}.png", (4000, 3000))
    return [Scene(str(n), f"{n}.png", *sides, ()) for n in range(count)]


@pytest.mark.parametrize("annotated", [True, False])
def test_decoding_ahead_keeps_to_its_bytes(tmp_path, annotated):
    scenes = large_images(tmp_path, annotated)
    enforce(Limits(decoded_mb=200))  # an image takes 34 MB, and 80 while it is decoded: 48 ahead would be 400
    restart_peaks("cpu")
    before, order, sizes = peak_memory_mb(), [], []
    for batch in decoded_ahead(scenes, Images([tmp_path]), threads=4, ahead=12, batch=lambda: 8):
        order += [decoded.scene.id for decoded in batch]
        sizes.append(len(batch))
        assert all(decoded.image.shape == (3000, 4000, 3) for decoded in batch)
    assert order == [scene.id for scene in scenes] and max(sizes) < 8
    assert peak_memory_mb() - before < 330


def test_one_image_larger_than_the_budget_is_decoded_alone(tmp_path):
    enforce(Limits(decoded_mb=1))
    for annotated in (True, False):
        batches = decoded_ahead(large_images(tmp_path, annotated, 3), Images([tmp_path]), 2, 3, lambda: 3)
        assert [len(batch) for batch in batches] == [1, 1, 1]


def test_a_path_that_is_no_utf8_is_written_down():
    word = os.fsdecode(b"caf\xe9.jsonl")
    assert as_utf8(word) == r"caf\xe9.jsonl" and redacted(["bench", "run", word])[-1] == r"caf\xe9.jsonl"


def test_a_file_that_goes_while_it_is_open_is_one_message(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(DataError, match="a: cannot be read"), opened(tmp_path / "a"):
        raise OSError(5, "Input/output error")
