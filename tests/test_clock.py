"""The stage clock."""

import time

import pytest

from bench.clock import Clock
from bench.memory import device_memory_mb, peak_memory_mb


def test_stages_add_up_and_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = Clock()
    for seconds in (2.0, 3.0):
        with clock.stage("detect"):
            now += seconds
        now += 10.0  # between stages: nobody's
    assert clock.take() == {"detect": 5.0} and clock.take() == {}


def test_an_inner_stage_takes_its_time_from_the_outer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = Clock()
    with clock.stage("rank"):
        now += 1.0
        with clock.stage("text encode"):
            now += 4.0
            with clock.stage("rank"):
                now += 8.0
        now += 2.0
    assert clock.take() == {"rank": 11.0, "text encode": 4.0}


def test_a_stage_that_raises_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = Clock()
    with pytest.raises(KeyError), clock.stage("detect"):
        now += 1.0
        raise KeyError
    with clock.stage("crop"):
        now += 1.0
    assert clock.take() == {"detect": 1.0, "crop": 1.0}


@pytest.mark.slow
def test_peak_memory_grows_with_use() -> None:
    before = peak_memory_mb()
    assert before is not None and before > 5
    block = b"x" * (int(before + 64) * 2**20)
    after = peak_memory_mb()
    assert after is not None and after > before + 32
    assert len(block) > 0 and device_memory_mb("cpu") is None
