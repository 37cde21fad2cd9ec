"""Batches launched ahead, images prepared where they are decoded: the order of calls, memory, errors."""

import gc
import threading
import weakref
from pathlib import Path

import pytest
from fake_world import HashPipeline, MemoryImages, make_context, make_settings, make_split

from bench import registry
from bench.errors import BenchError
from bench.evaluation.answering import Launching, answers
from bench.evaluation.decoding import Preparing
from bench.evaluation.loop import evaluate
from bench.evaluation.opening import for_device
from bench.settings import RunSettings

SETTINGS = RunSettings(device="cuda:0", batch_size=4, decode_threads=2)  # a name here: nothing computes on it


class Ahead(HashPipeline):
    """Launches; `calls` are in order, and memory is for `most` scenes in `launch` or when they are read."""

    def __init__(self, most=99, where="read", error=None):
        super().__init__(make_context(Path(), name="hash"))
        self.calls, self.most, self.where, self.error = [], most, where, error

    def launch(self, batch):
        ids = [scene.id for scene in batch]
        self.calls.append(("launch", *ids))
        self.check(batch, "launch")

        def read():
            self.calls.append(("read", *ids))
            self.check(batch, "read")
            return HashPipeline.ground(self, batch)

        return read

    def check(self, batch, where):
        if where == self.where and self.error is not None and "s5" in [scene.id for scene in batch]:
            raise self.error
        if where == self.where and len(batch) > self.most:
            raise MemoryError("CUDA out of memory")

    def ground(self, batch):
        return self.launch(batch)()


def plain():
    return HashPipeline(make_context(Path(), name="hash"))


def rows_of(pipeline, images=12):
    split = make_split(images)
    return [row for _, rows, _ in answers(pipeline, split.scenes, split.images, SETTINGS) for row in rows]


def test_a_batch_is_launched_before_the_one_before_it_is_read():
    pipeline = Ahead()
    assert isinstance(pipeline, Launching) and rows_of(pipeline) == rows_of(plain())
    whats = [(what, first) for what, first, *_ in pipeline.calls]
    assert whats == [
        ("launch", "s0"), ("launch", "s4"), ("read", "s0"), ("launch", "s8"), ("read", "s4"), ("read", "s8")
    ]  # fmt: skip


def test_on_a_cpu_a_batch_is_stored_before_the_next_is_computed():
    pipeline, split = Ahead(), make_split(12)
    on_cpu = SETTINGS.model_copy(update={"device": "cpu"})
    for number, _ in enumerate(answers(pipeline, split.scenes, split.images, on_cpu), 1):
        assert len(pipeline.calls) == 2 * number


@pytest.mark.parametrize("where", ["launch", "read"])
def test_memory_that_runs_out_is_asked_for_again_in_parts(where):
    pipeline = Ahead(2, where)
    split = make_split(12)
    batches = list(answers(pipeline, split.scenes, split.images, SETTINGS))
    assert [row for _, rows, _ in batches for row in rows] == rows_of(plain())
    assert [note for *_, note in batches if note] == ["out of memory with 4 scenes in a batch: went on with 2"]
    # Two batches were launched before the first was read; what was launched for the second is given up.
    too_large = [call for call in pipeline.calls if len(call) == 5]
    assert {call[1] for call in too_large} == {"s0", "s4"} and (
        "read",
        *(f"s{i}" for i in range(4, 8)),
    ) not in too_large


class Tensors:
    """Stands for what a launched batch keeps on its device."""


@pytest.mark.parametrize("most", [99, 2])
def test_what_a_batch_keeps_on_the_device_is_gone_once_it_is_read(most, monkeypatch):
    alive, alive_at = weakref.WeakSet(), []

    class Keeping(Ahead):
        def launch(self, batch):
            alive_at.append(len(alive))
            read, tensors = super().launch(batch), Tensors()
            alive.add(tensors)
            return lambda: (tensors, read())[1]

    monkeypatch.setattr("bench.memory.free", lambda: alive_at.append(len(alive)))
    gc.disable()  # freed by being unreferenced
    try:
        rows_of(Keeping(most), 24)
    finally:
        gc.enable()
    assert max(alive_at) == 1  # the one batch that is still to be read


def test_an_error_names_the_scenes_it_came_from():
    for where in ("launch", "read"):
        pipeline = Ahead(where=where, error=KeyError("conv1"))
        stored = []
        with pytest.raises(BenchError, match=r"failed on the scenes s4, s5, s6, \.\.\.: KeyError"):
            stored += [rows for _, rows, _ in answers(pipeline, *scenes_and_images(12), SETTINGS)]


def test_batches_before_an_error_are_still_yielded():
    stored = []
    with pytest.raises(BenchError):
        for _, rows, _ in answers(Ahead(where="launch", error=KeyError()), *scenes_and_images(12), SETTINGS):
            stored += [row.scene for row in rows]
    assert stored == ["s0", "s1", "s2", "s3"]


def scenes_and_images(images):
    split = make_split(images)
    return split.scenes, split.images


class Prepared(HashPipeline):
    """Prepares an image's mean; `threads` are those that did."""

    def __init__(self, error=None):
        super().__init__(make_context(Path(), name="hash"))
        self.threads, self.given, self.error = [], [], error

    def prepare(self, image):
        self.threads.append(threading.current_thread())
        if self.error is not None:
            raise self.error
        return float(image.mean())

    def ground(self, batch):
        self.given += [(scene.prepared, float(scene.image.mean())) for scene in batch]
        return super().ground(batch)


def test_images_are_prepared_once_in_the_threads_that_decode():
    pipeline = Prepared()
    assert isinstance(pipeline, Preparing)
    rows_of(pipeline)
    assert len(pipeline.threads) == 12 and threading.main_thread() not in pipeline.threads
    assert all(prepared == mean for prepared, mean in pipeline.given)


def test_what_prepare_raises_is_the_pipelines_and_not_the_images():
    with pytest.raises(BenchError, match="pipeline 'hash' failed on the scenes s0: ValueError: thin"):
        rows_of(Prepared(ValueError("thin")))


def test_batches_before_an_error_of_prepare_are_still_yielded():
    class Late(Ahead):
        def prepare(self, image):
            if (image == sixth).all():
                raise ValueError("thin")

    split, stored = make_split(12), []
    sixth = split.images.load(split.scenes[5])
    with pytest.raises(BenchError, match="failed on the scenes s5: ValueError: thin"):
        for _, rows, _ in answers(Late(), split.scenes, split.images, SETTINGS):
            stored += [row.scene for row in rows]
    assert stored == ["s0", "s1", "s2", "s3"]


def test_memory_that_runs_out_in_prepare_is_left_to_the_pipeline():
    pipeline = Prepared(MemoryError())
    assert len(rows_of(pipeline)) == 12 and {prepared for prepared, _ in pipeline.given} == {None}


def test_an_image_that_cannot_be_decoded_is_not_prepared():
    pipeline, split = Prepared(), make_split(6, source=MemoryImages(bad={"3.png"}))
    rows = [row for _, rows, _ in answers(pipeline, split.scenes, split.images, SETTINGS) for row in rows]
    assert len(pipeline.threads) == 5 and [bool(row.error) for row in rows] == [False] * 3 + [True, False, False]


def test_batches_and_threads_follow_the_device(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(24)), raising=False)
    cpu, gpu = (for_device(RunSettings(), device) for device in ("cpu", "cuda:0"))
    assert (cpu.batch_size, cpu.decode_threads) == (8, 4) and (gpu.batch_size, gpu.decode_threads) == (64, 24)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert for_device(RunSettings(), "cuda:3").decode_threads == 3
    given = for_device(RunSettings(batch_size=5, decode_threads=1), "cuda:0")
    assert (given.batch_size, given.decode_threads) == (5, 1)


def test_a_run_records_the_batch_and_threads_it_used_and_is_known_without_them(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: HashPipeline)
    records = []
    for number, sizes in enumerate(({}, {"batch_size": 3, "decode_threads": 1})):
        record = evaluate("hash", make_split(4), make_settings(tmp_path / str(number), **sizes)).record
        records.append(record)
    used = [(r.settings["run"]["batch_size"], r.settings["run"]["decode_threads"]) for r in records]
    assert used == [(8, 4), (3, 1)] and records[0].settings_hash == records[1].settings_hash
