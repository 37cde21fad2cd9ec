"""The same command again: continued, reported, refused, retried, or begun anew."""

import json
import os

import pytest
from fake_world import HashPipeline, MemoryImages, make_settings, make_split

from bench import registry
from bench.errors import RunError
from bench.evaluation.loop import evaluate
from bench.runs import files, record
from bench.runs.lock import locked
from bench.runs.packed import stored_bytes
from bench.runs.record import read_record


@pytest.fixture
def stop_after(monkeypatch):
    """Has the pipeline raise KeyboardInterrupt after so many batches; None lets it run."""
    rest = [None]

    class Stopping(HashPipeline):
        def ground(self, batch):
            if rest[0] == 0:
                raise KeyboardInterrupt
            rest[0] = None if rest[0] is None else rest[0] - 1
            return super().ground(batch)

    monkeypatch.setattr(registry, "pipeline_factory", lambda name: Stopping)
    return lambda batches: rest.__setitem__(0, batches)


def metrics_bytes(folder):
    return json.dumps(json.loads((folder / "run.json").read_bytes())["metrics"]).encode()


def run(results, split=None, fresh=False, options=None, **settings):
    resolved = make_settings(results, options, **{"batch_size": 2, **settings})
    return evaluate("hash", split or make_split(), resolved, fresh=fresh)


@pytest.fixture
def stopped(stop_after):
    """Runs until it is stopped after so many batches; returns the run's folder."""

    def run_until(results, batches, options=None):
        stop_after(batches)
        with pytest.raises(KeyboardInterrupt):
            run(results, options=options)
        stop_after(None)
        (path,) = results.rglob("run.json")
        assert read_record(path.parent).status == "running" and read_record(path.parent).metrics is None
        return path.parent

    return run_until


@pytest.mark.slow
@pytest.mark.parametrize("torn", [False, True])
def test_a_continued_run_ends_in_the_same_bytes(tmp_path, stopped, capsys, torn):
    whole = run(tmp_path / "a")
    half = stopped(tmp_path / "b", 4)
    assert "the same command continues this run" in capsys.readouterr().err
    predictions = half / "predictions.jsonl"
    if torn:
        predictions.write_bytes(predictions.read_bytes()[:-40])
        with (half / "batches.jsonl").open("ab") as file:
            file.write(b'{"session":1,"ra')
    source = MemoryImages()
    ended = run(tmp_path / "b", make_split(source=source))
    assert ended.folder == half and ended.record.sessions == 2
    assert len(source.loaded) == 24 - 8 + torn, "what is stored is not grounded again"
    assert metrics_bytes(half) == metrics_bytes(whole.folder)
    assert stored_bytes(half, "predictions") == stored_bytes(whole.folder, "predictions")
    assert torn or len(stored_bytes(half, "batches").splitlines()) == 12


@pytest.mark.slow
def test_a_finished_run_is_reported_and_another_one_has_its_own_folder(tmp_path, stop_after):
    first, second = (run(tmp_path, options={"salt": salt}) for salt in (1, 2))
    assert second.folder != first.folder and metrics_bytes(second.folder) != metrics_bytes(first.folder)
    stop_after(0)
    again = run(tmp_path, options={"salt": 1}, batch_size=5)
    assert again.already_done and again.folder == first.folder and again.record == first.record
    stop_after(None)
    fresh = run(tmp_path, fresh=True, options={"salt": 1})
    assert not fresh.already_done and fresh.folder != first.folder
    assert metrics_bytes(fresh.folder) == metrics_bytes(first.folder)


@pytest.mark.slow
def test_an_unfinished_run_of_other_settings_weights_or_data_is_refused(tmp_path, stopped):
    options = {"salt": 1, "sha256": "1" * 64}
    folder = stopped(tmp_path, 2, options)
    stored = (folder / "predictions.jsonl").read_bytes()
    with pytest.raises(RunError) as refused:
        run(tmp_path, make_split(seed=3), options={"salt": 2, "sha256": "2" * 64}, seed=4)
    message = str(refused.value)
    for line in ("options.salt: was 1, is 2", "weights.model: was '111", "data.fingerprint: was ", "seed: was 0, is 4"):
        assert line in message
    assert str(folder) in message and "--fresh" in message
    assert (folder / "predictions.jsonl").read_bytes() == stored
    limited = run(tmp_path, make_split().limited(5), options={"salt": 2})  # another limit is another command
    assert limited.record.identity.data.partial and ",partial" in limited.record.signature
    assert run(tmp_path, options={"salt": 2}, fresh=True).folder != folder
    ended = run(tmp_path, options=options)
    assert ended.folder == folder and ended.record.sessions == 2


@pytest.mark.slow
def test_only_images_that_could_not_be_read_are_tried_again(tmp_path, stop_after):
    whole = run(tmp_path / "a")
    loaded, errors = [], []
    for bad in ({"3.png", "10.png"}, {"10.png"}, set()):
        source = MemoryImages(bad=bad)
        done = run(tmp_path / "b", make_split(source=source))
        loaded.append(source.loaded)
        errors.append(done.record.errors)
        assert done.record.metrics.errors == len(bad) and done.record.metrics.n == 64
    assert errors == [{"3.png": "broken", "10.png": "broken"}, {"10.png": "broken"}, {}]
    assert loaded[1:] == [["s3", "s10"], ["s10"]]
    assert metrics_bytes(done.folder) == metrics_bytes(whole.folder)
    assert len(list((tmp_path / "b").rglob("run.json"))) == 1 and run(tmp_path / "b").already_done


@pytest.mark.slow
def test_a_run_at_work_is_left_alone(tmp_path, stopped):
    folder = stopped(tmp_path, 2)
    stored = (folder / "run.json").read_bytes()
    with locked(folder / "lock", "this run"):
        with pytest.raises(RunError, match=f"in use by process {os.getpid()} on"):
            run(tmp_path)
        assert (folder / "run.json").read_bytes() == stored
        assert run(tmp_path, fresh=True, options={"salt": 1}).folder != folder
    with locked(folder / "lock.rank1", "rank 1"), pytest.raises(RunError, match="a rank of an earlier launch"):
        run(tmp_path)
    assert run(tmp_path).folder == folder


def test_what_is_no_run_is_left_alone(tmp_path, stop_after):
    (tmp_path / "results").write_text("mine")
    with pytest.raises(RunError, match="a folder is needed there"):
        run(tmp_path / "results")
    assert (tmp_path / "results").read_text() == "mine"
    other = tmp_path / "runs" / "hash" / "tiny-val" / "notes"
    other.mkdir(parents=True)
    (other / "run.json").write_text("{}")
    assert run(tmp_path).folder != other and (other / "run.json").read_text() == "{}"


@pytest.mark.slow
def test_records_are_parsed_once(tmp_path, stop_after, monkeypatch):
    for salt in range(3):
        run(tmp_path, options={"salt": salt})
    parsed = []
    monkeypatch.setattr(record, "from_json", lambda data: parsed.append(data) or json.loads(data))
    record._record.cache_clear()
    assert run(tmp_path, options={"salt": 0}).already_done and len(parsed) == 3
    run(tmp_path, options={"salt": 4})
    assert len(parsed) == 4  # and the one in the making


@pytest.mark.slow
def test_full_disk_in_the_middle(tmp_path, stop_after, monkeypatch):
    whole = run(tmp_path / "a")
    real, room = files.write_all, [9000]

    def full(handle, data):
        if len(data) > room[0]:
            real(handle, data[: room[0]])
            raise OSError(28, "No space left on device")
        room[0] -= len(data)
        real(handle, data)

    monkeypatch.setattr(files, "write_all", full)
    message = r"jsonl: cannot be written \(No space left on device\); free some space and start"
    with pytest.raises(RunError, match=message):
        run(tmp_path / "b")
    monkeypatch.setattr(files, "write_all", real)
    ended = run(tmp_path / "b")
    assert ended.record.sessions == 2 and metrics_bytes(ended.folder) == metrics_bytes(whole.folder)
