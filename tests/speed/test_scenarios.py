"""Warm-up, search, offline and single, over a clock that the test turns."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_world import make_settings, make_split
from speed_parts import SHORT, Logged

from bench.errors import BenchError, DeviceError
from bench.grounding import LoadedScene, Prediction
from bench.speed.record import Rules
from bench.speed.resident import make_resident
from bench.speed.scenarios import offline, search, single, stages, timed, warm_up
from bench.speed.subject import NEW, REAL, Subject, open_subject

Use = Callable[[Any], None]


def subject(tmp_path: Path, **options: Any) -> Subject:
    split = make_split(12)
    resolved = make_settings(tmp_path, options)
    return open_subject("hash", split, resolved, None, lambda: make_resident(split))


class Turned:
    """A clock that goes on by `seconds[n]` with the n-th batch, and by nothing else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Turned:
    return Turned(monkeypatch)


def test_both_minima_must_be_met(clock: Turned) -> None:
    def step(_: int) -> tuple[int, int]:
        clock.now += 2.0
        return 3, 7

    waits: list[float] = []
    assert timed(step, lambda: waits.append(clock.now), seconds=5.0, batches=1) == (6.0, 3, 9, 21)
    assert waits == [0.0, 6.0]  # the device is waited for at the ends only
    assert timed(step, lambda: None, seconds=5.0, batches=10) == (20.0, 10, 30, 70)
    done: list[int] = []
    warm_up(lambda n: (done.append(n), step(n)), Rules(warmup_seconds=3, warmup_batches=5))
    assert done == [0, 1, 2, 3, 4]
    warm_up(lambda n: (done.append(n), step(n)), Rules(warmup_seconds=30, warmup_batches=0))
    assert len(done) == 5 + 15


def in_time(clock: Turned, seconds: Callable[[int], float]) -> type[Logged]:
    class Slow(Logged):
        def ground(self, batch: Any) -> list[Prediction]:
            answers = super().ground(batch)
            clock.now += seconds(len(batch))
            return answers

    return Slow


def test_the_batch_is_doubled_until_it_is_no_faster(tmp_path: Path, use: Use, clock: Turned) -> None:
    # A batch costs 4 and a scene 1: 1/5, 2/6, 4/8 and 8/12 a second, each more than 5 % faster, all twelve 12/16.
    use(in_time(clock, lambda scenes: 4.0 + scenes))
    best, tried = search(subject(tmp_path), SHORT)
    assert best == 12 and [t["batch_size"] for t in tried] == [1, 2, 4, 8, 12]
    assert tried[2]["images_per_s"] == pytest.approx(4 / 8)
    # Where a batch costs next to nothing by itself, two scenes are not 5 % faster than one.
    use(in_time(clock, lambda scenes: 0.01 + scenes))
    best, tried = search(subject(tmp_path), SHORT)
    assert [t["batch_size"] for t in tried] == [1, 2] and best == 2


def test_a_given_batch_size_is_not_searched(tmp_path: Path, use: Use, clock: Turned) -> None:
    use(in_time(clock, lambda scenes: 4.0 + scenes))
    best, tried = search(subject(tmp_path), SHORT.model_copy(update={"batch_size": 3}))
    assert best == 3 and [t["batch_size"] for t in tried] == [3]
    assert Rules().full and not Rules(batch_size=3).full


@pytest.mark.slow
def test_the_search_ends_where_memory_does(tmp_path: Path, use: Use, clock: Turned) -> None:
    use(in_time(clock, lambda scenes: 4.0 + scenes))
    best, tried = search(subject(tmp_path, fits=5), SHORT)
    assert best == 4 and [t["batch_size"] for t in tried] == [1, 2, 4, 8]
    assert tried[-1]["images_per_s"] is None and tried[-1]["note"] == "out of memory: too many scenes"
    measured = subject(tmp_path)
    measured.opened.pipeline.fits = 0  # type: ignore[attr-defined]
    with pytest.raises(DeviceError, match="in a batch of 1 "):
        search(measured, SHORT)


def test_cold_is_cold_and_warm_is_warm(tmp_path: Path, use: Use) -> None:
    use(Logged)
    measured = subject(tmp_path)
    log = measured.opened.pipeline.log  # type: ignore[attr-defined]
    log.clear()
    cold = offline(measured, 4, SHORT)
    assert cold.cache == "cold" and cold.batches == 6 and cold.images == 24
    assert all(new > 0 for _, new in log), "a text was known from the batch before"
    ids = [scene for scenes, _ in log for scene in scenes]
    assert len(set(ids)) == len(ids), "a scene id came twice"
    log.clear()
    warm = offline(measured, 4, SHORT, warm=["texts"])
    assert warm.cache == "texts warm"
    assert [new for _, new in log][3:] == [0] * (len(log) - 3), "a text was encoded anew"
    assert cold.expressions == sum(len(s.queries) for s in measured.resident.batch(0, 24))
    assert cold.expressions_per_s.low <= cold.expressions_per_s.median <= cold.expressions_per_s.high


def test_single_asks_one_expression_of_one_image(tmp_path: Path, use: Use, clock: Turned) -> None:
    class One(Logged):
        def ground(self, batch: Any) -> list[Prediction]:
            clock.now += 0.001 * (1 + len(self.log) % 10)
            return super().ground(batch)

    use(One)
    measured = subject(tmp_path)
    log = measured.opened.pipeline.log  # type: ignore[attr-defined]
    before = len(log)
    one, answers = single(measured, Rules(warmup_seconds=0, warmup_batches=0, min_seconds=0, min_batches=50, repeats=2))
    batches = log[before:]
    assert len(batches) == one.calls == 100 and all(len(scenes) == 1 and new == 1 for scenes, new in batches)
    assert len({scenes for scenes, _ in batches}) == 100
    assert one.p50_ms == pytest.approx(5.5) and one.p99_ms == pytest.approx(10.0) and one.p90_ms == pytest.approx(9.1)
    assert len(answers) == sum(len(scene.queries) for scene in measured.resident.loaded)


def test_stages_come_from_a_pass_of_their_own(tmp_path: Path, use: Use) -> None:
    use(Logged)
    measured = subject(tmp_path, delay=0.001)
    measured.ground_batch(0, 2)
    split_up = stages(measured, 2, SHORT)
    assert measured.opened.clock.take() == {}
    assert set(split_up) == {"rank", "outside stages"} and split_up["rank"] >= 0.5


def test_ids_stay_where_answers_depend_on_them(tmp_path: Path, use: Use) -> None:
    class ById(Logged):
        def _bytes(self, scene: LoadedScene, word: str) -> bytes:
            return super()._bytes(scene, word + scene.id)

    class Lookup(Logged):
        def ground(self, batch: Any) -> list[Prediction]:
            if any("#" in scene.id for scene in batch):
                raise KeyError(batch[0].id)
            return super().ground(batch)

    for factory, ids in ((Logged, NEW), (ById, REAL), (Lookup, REAL)):
        use(factory)
        measured = subject(tmp_path)
        assert measured.ids == ids
        measured.ground_batch(0, 3)
        scenes, _ = measured.opened.pipeline.log[-1]  # type: ignore[attr-defined]
        assert (scenes == ("s0", "s1", "s2")) == (ids == REAL)


def test_a_pipeline_that_fails_is_named(tmp_path: Path, use: Use) -> None:
    class Short(Logged):
        def ground(self, batch: Any) -> list[Prediction]:
            return super().ground(batch)[:-1]

    use(Short)
    with pytest.raises(BenchError, match="'hash' returned 3 predictions for 4 queries"):
        subject(tmp_path)

    class Broken(Logged):
        def ground(self, batch: Any) -> list[Prediction]:
            raise ZeroDivisionError("nothing there")

    use(Broken)
    with pytest.raises(BenchError, match="pipeline 'hash' failed on the scenes s0: ZeroDivisionError: nothing there"):
        subject(tmp_path)
