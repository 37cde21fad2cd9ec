"""The loop: batches of any size, bad images, small memory, and pipelines that do not keep the contract."""

import sys

import numpy as np
import pytest
from fake_world import HashPipeline, MemoryImages, make_settings, make_split

from bench import registry
from bench.errors import BenchError, DataError, DeviceError, MissingPackage, WeightsError
from bench.evaluation.decoding import decoded_ahead
from bench.evaluation.device import resolve_device, resolve_dtype
from bench.evaluation.loop import evaluate
from bench.evaluation.opening import dataset_of, open_pipeline, pipeline_context
from bench.grounding import Prediction
from bench.runs import store
from bench.runs.packed import stored_bytes
from bench.runs.store import stored_rows
from bench.settings import Resolved, Settings


@pytest.fixture
def use(monkeypatch):
    """Registers a factory under every name."""
    return lambda factory: monkeypatch.setattr(registry, "pipeline_factory", lambda name: factory)


def run(results, source=None, **settings):
    return evaluate("hash", make_split(source=source), make_settings(results, **settings))


def answering(change):
    """A pipeline whose predictions are `change(batch, those of HashPipeline)`."""

    class Answering(HashPipeline):
        def ground(self, batch):
            return change(batch, super().ground(batch))

    return Answering


def raising(error):
    def raise_error(*_):
        raise error

    return raise_error


@pytest.mark.slow
def test_any_batch_size_gives_the_same_bytes_and_nothing_on_stdout(tmp_path, use, capsys):
    use(HashPipeline)
    results = set()
    for size in (1, 3, 16, 100):
        done = run(tmp_path / str(size), batch_size=size, decode_threads=size % 5 + 1)
        results.add((stored_bytes(done.folder, "predictions"), done.record.metrics.model_dump_json()))
    assert len(results) == 1 and capsys.readouterr().out == ""


def test_the_record_of_a_run(tmp_path, use):
    use(HashPipeline)
    record = run(tmp_path, batch_size=5).record
    assert record.status == "complete" and record.provenance == "run" and record.sessions == 1 and record.argv
    assert record.identity.weights == {"model": "ab" * 32} and record.card["summary"] == "hashes"
    assert record.settings["run"]["batch_size"] == 5 and record.settings["evaluation"]["draws"] == 200
    assert record.signature == f"acc@0.5|iou>=0.5|tiny-val|n:64|data:{make_split().fingerprint[:8]}|top1|v1"
    assert set(record.throughput.stages) == {"decode", "rank"} and record.throughput.images_per_s
    assert record.throughput.seconds >= sum(record.throughput.stages.values())


def test_a_run_in_one_go_is_not_read_and_written_once_more(tmp_path, use, monkeypatch):
    use(HashPipeline)
    before = run(tmp_path / "a")
    for name in ("stored_rows", "store_rows"):
        monkeypatch.setattr(store, name, None)
    after = run(tmp_path / "b")
    for stem in ("predictions", "outcomes"):
        assert stored_bytes(after.folder, stem) == stored_bytes(before.folder, stem)
    assert after.record.metrics == before.record.metrics


def test_bad_images_are_counted_and_end_nothing(tmp_path, use):
    class Odd(MemoryImages):
        def load(self, scene):
            if scene.id == "s2":
                raise ZeroDivisionError("odd")
            return super().load(scene)

    use(HashPipeline)
    done = run(tmp_path, Odd(bad={"0.png", "7.png"}, small={"9.png"}), batch_size=4)
    errors = done.record.errors
    assert errors.keys() == {"0.png", "2.png", "7.png", "9.png"} and errors["2.png"] == "ZeroDivisionError: odd"
    assert "the image is 32 x 12 but its annotation says 32 x 24" in errors["9.png"]
    assert done.record.metrics.errors == 4 and done.record.metrics.n == make_split().counts.expressions
    rows = stored_rows(done.folder)
    assert len(rows) == 24 and rows["s7"].error == "7.png: broken" and rows["s7"].answers == ()


def test_no_image_at_all_and_an_empty_split_are_refused(tmp_path, use):
    use(HashPipeline)
    with pytest.raises(DataError, match=r"tiny-val: none of its 24 images is there; the first one: 0\.png: broken"):
        run(tmp_path, MemoryImages(gone=True))
    assert not list(tmp_path.rglob("predictions.jsonl")) or not next(tmp_path.rglob("predictions.jsonl")).read_bytes()
    with pytest.raises(DataError, match="no scenes"):
        evaluate("hash", make_split(0), make_settings(tmp_path))


class OutOfMemoryError(RuntimeError):
    """Goes by torch's name."""


def greedy(most, error):
    """A pipeline with memory for `most` scenes; `sizes` are those of its batches, negative where it failed."""
    batches = []

    class Greedy(HashPipeline):
        sizes = batches

        def ground(self, batch):
            self.sizes.append(len(batch) if len(batch) <= most else -len(batch))
            if len(batch) > most:
                raise error
            return super().ground(batch)

    return Greedy


@pytest.mark.slow
@pytest.mark.parametrize("error", [
    OutOfMemoryError("CUDA"), RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), MemoryError(),
])  # fmt: skip
def test_small_memory_halves_the_batch_for_good(tmp_path, use, error):
    use(HashPipeline)
    whole = run(tmp_path / "a")
    use(factory := greedy(3, error))
    done = run(tmp_path / "b", batch_size=10)
    assert done.record.metrics == whole.record.metrics
    assert factory.sizes == [-10, -5, 3, 3, 3, 1, 3, 3, 3, 3, 2]
    assert done.record.notes == (
        "out of memory with 10 scenes in a batch: went on with 5; "
        "out of memory with 5 scenes in a batch: went on with 3",
    )


@pytest.mark.slow
def test_memory_too_small_for_one_scene(tmp_path, use):
    use(greedy(0, OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nlong story")))
    message = r"scene s0: out of memory with a single item \(CUDA out of memory. Tried to allocate 2 GiB\); use"
    with pytest.raises(DeviceError, match=message):
        run(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("change", "message"), [
    (lambda batch, right: right[:-1], r"returned \d+ predictions for \d+ queries"),
    (lambda batch, right: None, "failed on the scenes s0, s1, s2, ...: TypeError"),
    (lambda batch, right: right[::-1], r"answered '\d+-\d+' where '0-0' was due"),
    (lambda batch, right: [p.box for p in right], "answered query '0-0' with .*, not with a Prediction"),
    (lambda batch, right: [Prediction(p.id, (1.0, 2.0, 3.0)) for p in right], "scene s0: .*not a box of 4 numbers"),
    (lambda batch, right: [Prediction(p.id, None, mask={"size": [3, 3], "counts": "9"}) for p in right],
     r"scene s0: .*a mask of \[3, 3\] \(height, width\) on an image of"),
    (lambda batch, right: [Prediction(p.id, None, mask={"size": [24, 32], "counts": "~"}) for p in right],
     "scene s0: .*not a mask in COCO's"),
    (lambda batch, right: [Prediction(p.id, None, proposals=np.ones(3)) for p in right], "scene s0: .*not a box"),
    (raising(KeyError("conv1")), "failed on the scenes s0, s1, s2, ...: KeyError: 'conv1'"),
])  # fmt: skip
def test_broken_contracts_name_the_pipeline(tmp_path, use, change, message):
    use(answering(change))
    with pytest.raises(BenchError, match=f"pipeline 'hash'.*{message}"):
        run(tmp_path)


def test_boxes_that_are_no_numbers_are_no_box_and_annotated_boxes_are_hidden(tmp_path, use):
    batches = []
    nan = (0.0, 0.0, float("nan"), 5.0)
    use(answering(lambda batch, right: batches.extend(batch) or [Prediction(p.id, nan) for p in right]))
    assert run(tmp_path).record.metrics.no_box == 64
    slots = {slot for scene in batches for query in scene.queries for slot in query.__slots__}
    assert slots == {"id", "text", "caption"} and batches[0].image.shape == (24, 32, 3)


def test_images_are_decoded_in_order_and_not_too_far_ahead():
    source, scenes = MemoryImages(), make_split(40).scenes
    ids = []
    for number, (decoded,) in enumerate(decoded_ahead(scenes, source, threads=3, ahead=5)):
        ids.append(decoded.scene.id)
        assert len(source.loaded) <= number + 5 + 1
    assert ids == [scene.id for scene in scenes]


def test_plain_lines_where_there_is_no_terminal(tmp_path, use, capsys, monkeypatch):
    monkeypatch.setattr("bench.evaluation.progress.LINE_EVERY_S", 0.0)
    use(HashPipeline)
    run(tmp_path, batch_size=8)
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "loading hash ..."
    assert len(lines) == 3 and lines[0].startswith("hash on tiny-val: 8/24 images, ")


@pytest.mark.parametrize(("factory", "kind", "message"), [
    (raising(ModuleNotFoundError("no", name="ultralytics")), MissingPackage, "needs the module 'ultralytics'"),
    (raising(ValueError("bad\nvalue")), BenchError, "pipeline 'hash' could not be built: ValueError: bad"),
    (raising(WeightsError("w.pt: broken")), WeightsError, r"^w\.pt: broken$"),
    (lambda context: object(), BenchError, "its factory returned object, which lacks `card` or `ground`"),
])  # fmt: skip
def test_errors_of_a_factory_are_readable(use, factory, kind, message):
    use(factory)
    with pytest.raises(kind, match=message):
        open_pipeline("hash", "tiny", make_settings("r"))


def test_options_are_laid_over_one_another(tmp_path, monkeypatch):
    table = {"a": 1, "clip": {"model": "x", "size": 1}, "on": {"tiny": {"a": 2, "clip": {"size": 2}}}}
    resolved = Resolved(Settings.model_validate({"pipelines": {"hash": table}, "run": {"device": "cpu"}}))
    (tmp_path / "w.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    context = pipeline_context("hash", make_split(), resolved, {"weights": "clip=w.pt,proposer=absent.pt", "b": 3})
    weights = f"clip={tmp_path / 'w.pt'},proposer=absent.pt"
    assert context.options == {"a": 2, "clip": {"model": "x", "size": 2}, "weights": weights, "b": 3}
    assert (context.dataset, context.device, context.dtype) == ("tiny", "cpu", "float32")
    assert pipeline_context("hash", "file:my-birds", resolved).options["a"] == 1
    assert dataset_of("file:my-birds") == "file"


def test_devices_without_a_gpu(monkeypatch):
    dtypes = [resolve_dtype(*each) for each in (("auto", "cpu"), ("auto", "cuda:1"), ("float16", "cuda:0"))]
    assert resolve_device("cpu") == "cpu" and dtypes == ["float32", "bfloat16", "float16"]
    for name in ("gpu", "cuda:x", "cpu:1", ""):
        with pytest.raises(DeviceError, match="known: auto, cpu, cuda, cuda:N"):
            resolve_device(name)
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=rf"--device cuda: torch {torch.__version__.partition('+')[0]}.*--device cpu"):
        resolve_device("cuda")
    monkeypatch.setattr("bench.evaluation.device._has_driver", lambda: False)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would raise
    assert resolve_device("auto") == "cpu"


def test_gpus_are_spread_over_the_ranks_of_a_machine(monkeypatch):
    monkeypatch.setattr("bench.evaluation.device._gpus", lambda required: 2)
    assert [resolve_device("cuda", rank) for rank in (None, 0, 1, 2)] == ["cuda:0", "cuda:0", "cuda:1", "cuda:0"]
    assert resolve_device("cuda:1", 0) == "cuda:1"
    with pytest.raises(DeviceError, match="torch sees 2 GPU"):
        resolve_device("cuda:2")
