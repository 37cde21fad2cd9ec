"""The same command again: continued, reported, refused, retried, or begun anew."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_world import HashPipeline, MemoryImages, make_settings, make_split

from bench import registry
from bench.errors import RunError
from bench.evaluation.loop import evaluate
from bench.grounding import LoadedScene, Prediction
from bench.runs.lock import locked
from bench.runs.record import read_record
from bench.runs.store import Run


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Has the pipeline raise KeyboardInterrupt after so many batches; None lets it run."""
    left: list[int | None] = [None]

    class Stopping(HashPipeline):
        def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] = None if left[0] is None else left[0] - 1
            return super().ground(batch)

    monkeypatch.setattr(registry, "pipeline_factory", lambda name: Stopping)
    return lambda batches: left.__setitem__(0, batches)


def metrics_bytes(folder: Path) -> bytes:
    return json.dumps(json.loads((folder / "run.json").read_bytes())["metrics"]).encode()


def run(results: Path, split: Any = None, fresh: bool = False, options: Any = None, **settings: Any) -> Run:
    resolved = make_settings(results, options, **{"batch_size": 2, **settings})
    return evaluate("hash", split or make_split(), resolved, fresh=fresh)


def test_continued_run_ends_in_the_same_bytes(
    tmp_path: Path, stop_after: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(tmp_path / "a")
    stop_after(4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b")
    assert "the same command continues this run" in capsys.readouterr().err
    (half,) = (tmp_path / "b" / "runs" / "hash" / "tiny-val").iterdir()
    assert read_record(half).status == "running" and read_record(half).metrics is None
    stop_after(None)
    source = MemoryImages()
    ended = run(tmp_path / "b", make_split(source=source))
    assert ended.folder == half and ended.record is not None and ended.record.sessions == 2
    assert len(source.loaded) == 24 - 8, "what is stored is not asked again"
    assert metrics_bytes(half) == metrics_bytes(whole.folder)
    assert (half / "predictions.jsonl").read_bytes() == (whole.folder / "predictions.jsonl").read_bytes()
    assert ended.record.throughput is not None and whole.record is not None and whole.record.throughput is not None
    assert len((half / "batches.jsonl").read_text().splitlines()) == 12


def test_torn_last_line_is_computed_again(tmp_path: Path, stop_after: Any) -> None:
    whole = run(tmp_path / "a")
    stop_after(3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b")
    (path,) = (tmp_path / "b").rglob("predictions.jsonl")
    path.write_bytes(path.read_bytes()[:-40])
    with (path.parent / "batches.jsonl").open("ab") as file:
        file.write(b'{"session":1,"ra')
    stop_after(None)
    ended = run(tmp_path / "b")
    assert path.read_bytes() == (whole.folder / "predictions.jsonl").read_bytes()
    assert metrics_bytes(ended.folder) == metrics_bytes(whole.folder)


def test_finished_run_is_reported_and_fresh_begins_anew(tmp_path: Path, stop_after: Any) -> None:
    first = run(tmp_path)
    stop_after(0)
    again = run(tmp_path, batch_size=5)
    assert again.already_done and again.folder == first.folder and again.record == first.record
    stop_after(None)
    fresh = run(tmp_path, fresh=True)
    assert not fresh.already_done and fresh.folder != first.folder
    assert metrics_bytes(fresh.folder) == metrics_bytes(first.folder)


def test_other_settings_get_their_own_run_once_the_old_one_is_finished(tmp_path: Path, stop_after: Any) -> None:
    first = run(tmp_path, options={"salt": 1})
    second = run(tmp_path, options={"salt": 2})
    assert second.folder != first.folder and metrics_bytes(second.folder) != metrics_bytes(first.folder)
    assert run(tmp_path, options={"salt": 1}).folder == first.folder


def test_unfinished_run_of_other_settings_weights_or_data_is_refused(tmp_path: Path, stop_after: Any) -> None:
    stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, options={"salt": 1, "sha256": "1" * 64})
    stop_after(None)
    (path,) = tmp_path.rglob("predictions.jsonl")
    stored = path.read_bytes()
    with pytest.raises(RunError) as refused:
        run(tmp_path, make_split(seed=3), options={"salt": 2, "sha256": "2" * 64}, seed=4)
    message = str(refused.value)
    for line in ("options.salt: was 1, is 2", "weights.model: was '111", "data.fingerprint: was ", "seed: was 0, is 4"):
        assert line in message
    assert str(path.parent) in message and "--fresh" in message
    assert path.read_bytes() == stored
    assert run(tmp_path, options={"salt": 2}, fresh=True).folder != path.parent
    assert run(tmp_path, options={"salt": 1, "sha256": "1" * 64}).folder == path.parent


def test_another_limit_is_another_command(tmp_path: Path, stop_after: Any) -> None:
    stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    stop_after(None)
    limited = run(tmp_path, make_split().limited(5))
    assert limited.record is not None and limited.record.metrics is not None
    assert limited.record.identity.data.partial and ",partial" in limited.record.signature
    ended = run(tmp_path)
    assert ended.folder != limited.folder and ended.record is not None and ended.record.sessions == 2


def test_only_images_that_could_not_be_read_are_asked_again(tmp_path: Path, stop_after: Any) -> None:
    whole = run(tmp_path / "a")
    broken = MemoryImages(bad={"3.png", "10.png"})
    first = run(tmp_path / "b", make_split(source=broken))
    assert first.record is not None and first.record.metrics is not None
    assert first.record.errors == {"3.png": "broken", "10.png": "broken"}
    assert first.record.metrics.errors == 2 and first.record.metrics.n == 64
    half = MemoryImages(bad={"10.png"})
    second = run(tmp_path / "b", make_split(source=half))
    assert half.loaded == ["s3", "s10"]
    assert second.folder == first.folder and second.record is not None
    assert second.record.errors == {"10.png": "broken"}
    mended = MemoryImages()
    third = run(tmp_path / "b", make_split(source=mended))
    assert mended.loaded == ["s10"] and third.record is not None and third.record.errors == {}
    assert metrics_bytes(third.folder) == metrics_bytes(whole.folder)
    assert run(tmp_path / "b").already_done


def test_a_run_at_work_is_left_alone(tmp_path: Path, stop_after: Any) -> None:
    stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    stop_after(None)
    (path,) = tmp_path.rglob("run.json")
    stored = path.read_bytes()
    with locked(path.parent / "lock", "this run"):
        with pytest.raises(RunError, match=f"in use by process {os.getpid()} on"):
            run(tmp_path)
        assert path.read_bytes() == stored
        assert run(tmp_path, fresh=True, options={"salt": 1}).folder != path.parent
    with locked(path.parent / "lock.rank1", "rank 1"), pytest.raises(RunError, match="a rank of an earlier launch"):
        run(tmp_path)
    assert run(tmp_path).folder == path.parent


def test_results_that_are_a_file(tmp_path: Path, stop_after: Any) -> None:
    (tmp_path / "results").write_text("mine")
    with pytest.raises(RunError, match="a folder is needed there"):
        run(tmp_path / "results")
    assert (tmp_path / "results").read_text() == "mine"


def test_full_disk_in_the_middle(tmp_path: Path, stop_after: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.runs import files

    whole = run(tmp_path / "a")
    real, room = files.write_all, [9000]

    def full(handle: int, data: bytes) -> None:
        if len(data) > room[0]:
            real(handle, data[: room[0]])
            raise OSError(28, "No space left on device")
        room[0] -= len(data)
        real(handle, data)

    monkeypatch.setattr(files, "write_all", full)
    with pytest.raises(
        RunError, match=r"jsonl: cannot be written \(No space left on device\); free some space and start"
    ):
        run(tmp_path / "b")
    monkeypatch.setattr(files, "write_all", real)
    ended = run(tmp_path / "b")
    assert ended.record is not None and ended.record.sessions == 2
    assert metrics_bytes(ended.folder) == metrics_bytes(whole.folder)


def test_what_is_no_run_is_left_alone(tmp_path: Path, stop_after: Any) -> None:
    other = tmp_path / "runs" / "hash" / "tiny-val" / "notes"
    other.mkdir(parents=True)
    (other / "run.json").write_text("{}")
    assert run(tmp_path).folder != other
    assert (other / "run.json").read_text() == "{}"
