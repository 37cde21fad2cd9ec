"""The cores that are used: this process's share, less what other work keeps busy."""

import os
import time

import pytest
import torch

from bench import cores
from bench.cores import OthersLoad, compute_with, usable_cores


@pytest.fixture(autouse=True)
def torch_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


class Busy(OthersLoad):
    def __init__(self, busy):
        self.busy = busy

    def cores(self):
        return self.busy


@pytest.mark.parametrize(("busy", "threads"), [(0.0, 8), (0.4, 8), (1.0, 7), (6.6, 1), (40, 1), (None, 3)])
def test_torch_gets_the_cores_that_are_free(busy, threads):
    remark = compute_with("auto", Busy(busy))
    assert torch.get_num_threads() == threads
    assert remark == (
        "" if threads in (8, 3) else f"torch computes with {threads} of 8 cores: other work keeps {busy:.1f} busy"
    )


def test_the_cores_of_other_containers_are_not_ours(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)  # 30 of 64 are busy, and 8 are ours
    assert compute_with("auto", Busy(30.0)) == "" and torch.get_num_threads() == 8


def test_a_number_is_kept(monkeypatch):
    compute_with(2, Busy(0.0))
    assert torch.get_num_threads() == 2
    assert compute_with("auto", Busy(7.0), fixed=True) == "" and torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert compute_with("auto", Busy(7.0)) == "" and torch.get_num_threads() == 2


def test_ranks_share_the_cores(monkeypatch):
    assert usable_cores() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert usable_cores() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "30")
    assert usable_cores() == 1


def test_the_load_is_that_of_others_alone(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    ticks = os.sysconf("SC_CLK_TCK")

    def counted(seconds, niced=0):
        stat.write_text(f"cpu  {int(seconds * ticks)} {int(niced * ticks)} 0 999 9 0 0 0 0 0\ncpu0 1 1\n")

    monkeypatch.setattr(cores, "Path", lambda _: stat)
    counted(1000)
    load = OthersLoad()
    assert load.cores() is None  # too short a time
    until, own = time.perf_counter() + cores.MEASURABLE + 0.1, time.process_time()
    while time.perf_counter() < until:
        pass
    counted(1000 + 1.2 + time.process_time() - own, niced=50)
    assert load.cores() == pytest.approx(1.2 / (cores.MEASURABLE + 0.1), rel=0.2)
    stat.unlink()
    assert load.cores() is None
