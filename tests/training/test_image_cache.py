"""Decoded images shared by processes: the same pixels whoever decodes them, and memory that no kill leaves behind."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_grounder import SmallTask
from training_world import lines_of, stopped_and_resumed

from bench.errors import RunError
from bench.grounding import Scene
from bench.training import image_cache
from bench.training.image_cache import SharedImages, available_memory
from bench.training.step import OptimisationStep
from bench.training.trainer import train
from pipelines.weights import read_safetensors

NAME = "memfd:bench-images"


class Album:
    """Images of noise, each of its own size; counts how often it decodes one."""

    def __init__(self):
        self.loads = []

    def load(self, scene):
        self.loads.append(scene.file)
        return np.random.default_rng(int(scene.id)).integers(0, 256, (scene.height, scene.width, 3), np.uint8)

    def missing(self, scenes):
        return ["gone.png"]


SCENES = [Scene(str(n), f"{n}.png", 40 + n, 30 + 2 * n, ()) for n in range(12)]
BYTES = sum(scene.width * scene.height * 3 for scene in SCENES)


def cached(most=BYTES, **options):
    return SharedImages(Album(), [scene.file for scene in SCENES], most, **options)


def forked(work):
    """The process in which `work` runs; it ends with 0 where that raised nothing."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def mapped():
    return NAME in Path("/proc/self/maps").read_text()


def test_an_image_is_decoded_once_and_its_pixels_are_the_same():
    images = cached()
    for _ in range(3):
        for scene in SCENES:
            image = images.load(scene)
            assert np.array_equal(image, Album().load(scene)) and not image.flags.writeable
    assert len(images.source.loads) == 12 and images.missing([]) == ["gone.png"]
    assert images.rates() == {"image_cache_hits": pytest.approx(24 / 36, abs=1e-4), "image_cache_gib": 0.0}
    assert images._counts.tolist() == [24, 12, BYTES]
    images.load(Scene("1", "another.png", 5, 5, ()))  # no file of the training: decoded each time
    assert images.covers(SCENES) and not images.covers([Scene("1", "another.png", 5, 5, ())])


def test_what_is_beyond_the_budget_is_decoded_each_time():
    images = cached(most=SCENES[0].width * SCENES[0].height * 3 + 100)
    for _ in range(2):
        assert all(np.array_equal(images.load(scene), Album().load(scene)) for scene in SCENES)
    assert images.source.loads.count("0.png") == 1 and len(images.source.loads) == 23


def test_large_images_are_reduced_to_what_training_needs_kept_or_not():
    scenes = [Scene("1", "a.png", 100, 70, ()), Scene("2", "b.png", 50, 49, ()), Scene("3", "c.png", 90, 75, ())]
    for most in (10**6, 0):
        images = SharedImages(Album(), ["a.png", "b.png", "c.png"], most, shorter_side=25)
        for _ in range(2):
            assert [images.load(scene).shape[:2] for scene in scenes] == [(35, 50), (49, 50), (25, 30)]
    whole = Album().load(scenes[0])[:70, :100].astype(float)
    means = whole.reshape(35, 2, 50, 2, 3).mean(axis=(1, 3))
    assert np.abs(images.load(scenes[0]) - means).max() <= 0.5


def test_several_processes_fill_it_together():
    images = cached()

    def work(turn):
        for _ in range(5):
            for number in np.random.default_rng(turn).permutation(12):
                assert np.array_equal(images.load(SCENES[number]), Album().load(SCENES[number]))

    children = [forked(lambda turn=turn: work(turn)) for turn in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    hits, misses, used = images._counts.tolist()
    assert used == BYTES and hits + misses == 4 * 5 * 12 and misses >= 12  # each has its place once
    images.source = None  # decoding would fail
    assert all(np.array_equal(images.load(scene), Album().load(scene)) for scene in SCENES)


def test_another_process_opens_it_by_its_path():
    images = cached()
    for scene in SCENES[:6]:
        images.load(scene)
    other = SharedImages(None, [scene.file for scene in SCENES], BYTES, path=images.path)
    assert all(np.array_equal(other.load(scene), Album().load(scene)) for scene in SCENES[:6])
    assert images._counts.tolist()[:2] == [6, 6]


def test_a_kill_leaves_neither_a_file_nor_a_lock():
    images, (ready, tell) = cached(), os.pipe()

    def hold():
        with images._locked():
            os.write(tell, b"x")
            time.sleep(60)

    child = forked(hold)
    os.read(ready, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert np.array_equal(images.load(SCENES[0]), Album().load(SCENES[0]))  # the lock is free
    assert str(Path(images.path).readlink()).endswith("(deleted)")  # no file system has a name for it


def test_closed_it_gives_its_memory_back_and_decodes():
    images = cached()
    images.load(SCENES[0])
    assert mapped()
    images.close()
    assert not mapped() and np.array_equal(images.load(SCENES[0]), Album().load(SCENES[0]))


def test_auto_is_half_of_what_is_free(job, monkeypatch, caplog):
    assert 0 < available_memory() < 2**50
    monkeypatch.setattr(image_cache, "available_memory", lambda: 4 * 2**30)
    caplog.set_level("INFO", "bench.train")
    train(SmallTask(job(epochs=1, cache_images="auto")))
    assert "decoded images are kept in up to 2.0 GiB of shared memory" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_with_a_cache_ends_in_the_same_bits(job, workers, caplog):
    caplog.set_level("INFO", "bench.train")
    plain, mine = job("plain", epochs=1), job("mine", epochs=1, cache_images="16MB", workers=workers)
    made = [train(SmallTask(each)) for each in (plain, mine)]
    tensors = [read_safetensors(each.path)[0] for each in made]
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])
    lines = [line for line in lines_of(mine.out) if "loss" in line]
    assert lines[-1]["image_cache_hits"] >= (25 - 3 * 4) / 25 and "of images from the cache" in caplog.text
    assert not any("image_cache_hits" in line for line in lines_of(plain.out))
    assert not mapped()


@pytest.mark.slow
def test_it_resumes_bit_for_bit(job):
    def make(out):
        return SmallTask(job(out, cache_images="16MB", workers=2))

    stopped_and_resumed(make, [(OptimisationStep, "step", 3), (OptimisationStep, "step", 2)])


def test_images_that_may_be_smaller_are_another_training(job, monkeypatch):
    train(SmallTask(job(epochs=1)))
    train(SmallTask(job(epochs=1, cache_images="16MB")))  # of images as they are, the budget changes nothing
    monkeypatch.setattr(SmallTask, "shorter_side", 32)
    with pytest.raises(RunError, match="shorter side: 0 there, 32 now"):
        train(SmallTask(job(epochs=1, cache_images="16MB")))
