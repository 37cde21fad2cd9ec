"""The stage clock."""

import subprocess
import sys
import time

import pytest

from bench.clock import Clock


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


class Stream:
    """A CUDA stream and its events: work is over once `done` has reached it; `waits` counts who waited."""

    def __init__(self) -> None:
        self.queued, self.done, self.waits = 0.0, 0.0, 0

    def event(self, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def record(self, stream: object) -> None:
        self.at = self.stream.queued

    def query(self) -> bool:
        return self.at <= self.stream.done

    def synchronize(self) -> None:
        self.stream.waits, self.stream.done = self.stream.waits + 1, max(self.stream.done, self.at)

    def elapsed_time(self, end: "Event") -> float:
        assert self.query() and end.query()
        return 1000 * (end.at - self.at)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    import torch

    stream = Stream()
    monkeypatch.setattr(torch.cuda, "Event", stream.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: pytest.fail("the device was waited for"))
    return stream


def test_on_cuda_stages_are_read_a_batch_late_and_nothing_waits(stream: Stream) -> None:
    clock = Clock("cuda:0")

    def batch() -> None:
        with clock.stage("image encode"):
            stream.queued += 3.0
            with clock.stage("text encode"):
                stream.queued += 1.0
        with clock.stage("fusion"):
            stream.queued += 2.0

    batch()
    assert clock.take() == {}  # the device has done nothing yet
    batch()
    stream.done = 6.0  # the first batch
    assert clock.take() == {"image encode": 3.0, "text encode": 1.0, "fusion": 2.0}
    assert stream.waits == 0
    assert clock.take(wait=True) == {"image encode": 3.0, "text encode": 1.0, "fusion": 2.0}
    assert clock.take(wait=True) == {}


def test_spans_that_nobody_takes_are_added_up(stream: Stream) -> None:
    clock = Clock("cuda:0")
    for _ in range(3000):
        with clock.stage("rank"):
            stream.queued += 1.0
            stream.done = stream.queued
    assert len(clock._spans) <= 1000 and clock.take() == {"rank": 3000.0} and stream.waits == 0


@pytest.mark.gpu
def test_stages_on_a_gpu_add_up_to_its_time() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    clock, square = Clock("cuda:0"), torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        with clock.stage("matmul"):
            square @ square
    seconds = clock.take(wait=True)["matmul"]
    assert 0 < seconds <= time.perf_counter() - start


@pytest.mark.slow
def test_peak_memory_grows_with_use() -> None:
    """In a process of its own: this one's peak may be gigabytes."""
    script = (
        "from bench.memory import device_memory_mb, peak_memory_mb as peak\n"
        "before = peak(); block = b'x' * (int(before + 64) * 2**20); after = peak()\n"
        "print(before, after, len(block), device_memory_mb('cpu'))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after, _, device = done.stdout.split()
    assert float(before) > 5 and float(after) > float(before) + 32 and device == "None"
