"""What the machine says of itself: a made-up NVML, a made-up processor, and boxes that are nearly the same."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_world import make_settings, make_split
from speed_parts import SHORT, Logged, rate

from bench.grounding import Expression, Prediction
from bench.speed import conditions
from bench.speed.check import close, compare, hit, spread_over
from bench.speed.conditions import Gpu, open_gpu, record_conditions, uneven
from bench.speed.measure import measure
from bench.speed.record import Spread
from bench.speed.resident import make_resident


class Unsupported(Exception):
    pass


class FakeNvml:
    """A driver: counts energy, lists processes, and does not support what `lacks` names."""

    NVMLError = Unsupported
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, lacks: tuple[str, ...] = (), reasons: int = 0) -> None:
        energy = iter(range(6_500, 100_000, 1_500))
        self.lacks, self.clocks = lacks, {1: 1980, 2: 2619}
        self.processes = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=3 * 2**30)]
        self.calls: dict[str, Any] = {
            "nvmlDeviceGetTotalEnergyConsumption": lambda _: next(energy),
            "nvmlDeviceGetComputeRunningProcesses": lambda _: self.processes,
            "nvmlDeviceGetClockInfo": lambda _, kind: self.clocks[kind],
            "nvmlDeviceGetMaxClockInfo": lambda _, kind: 1980,
            "nvmlDeviceGetTemperature": lambda _, kind: 41,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda _: reasons,
            "nvmlShutdown": lambda: None,
        }

    def __getattr__(self, name: str) -> Any:
        if name in self.lacks:
            raise Unsupported(f"Not Supported: {name}")
        return self.calls[name]


def test_energy_and_memory_are_the_counters() -> None:
    gpu = Gpu(object(), FakeNvml())
    assert [gpu.energy_mj(), gpu.energy_mj()] == [(6_500, ""), (8_000, "")]
    assert gpu.process_memory_mb() == (3072.0, "") and gpu.others() == (0, "")
    state = gpu.state()
    assert state["sm_mhz"] == 1980 and state["temperature_c"] == 41 and state["throttled_by"] == []


def test_what_is_not_supported_is_none_and_says_so() -> None:
    gpu = Gpu(object(), FakeNvml(lacks=("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetTemperature")))
    value, why = gpu.energy_mj()
    assert value is None and "Not Supported" in why
    assert gpu.state()["temperature_c"] is None and gpu.state()["sm_mhz"] == 1980
    hidden = FakeNvml()
    hidden.processes = [SimpleNamespace(pid=1, usedGpuMemory=None)]
    assert Gpu(object(), hidden).process_memory_mb() == (None, "the driver does not list this process (a container?)")
    assert Gpu(object(), hidden).others() == (0, "")  # the one that is listed is ours under another number
    assert open_gpu("cpu")[0] is None and "CPU" in open_gpu("cpu")[1]


@pytest.mark.slow
def test_joules_per_expression(tmp_path: Path, use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(Logged)
    monkeypatch.setattr("bench.speed.measure.open_gpu", lambda device: (Gpu(object(), FakeNvml()), ""))
    record, _ = measure("hash", make_split(), make_settings(tmp_path), rules=SHORT)
    expressions = record.offline[0].expressions
    assert record.energy.joules == 1.5 and record.energy.expressions == expressions
    assert record.energy.joules_per_expression == 1.5 / expressions and record.energy.unsupported == ""
    assert record.memory.process_mb == 3072.0 and "process_mb" not in record.memory.unknown
    assert record.conditions["gpu_after"]["sm_mhz"] == 1980
    lacking = FakeNvml(lacks=("nvmlDeviceGetTotalEnergyConsumption",))
    monkeypatch.setattr("bench.speed.measure.open_gpu", lambda device: (Gpu(object(), lacking), ""))
    record, _ = measure("hash", make_split(), make_settings(tmp_path), rules=SHORT)
    assert record.energy.joules is None and "Not Supported" in record.energy.unsupported


def test_a_gpu_that_is_shared_throttled_or_slowed_is_noisy() -> None:
    nvml = FakeNvml(reasons=0x20 | 0x1)
    stop = record_conditions(Gpu(object(), nvml))
    nvml.clocks[1] = 1200
    nvml.processes.append(SimpleNamespace(pid=1, usedGpuMemory=None))
    state, noisy = stop()
    assert state["gpu_before"]["sm_mhz"] == 1980 and state["gpu_other_processes"] == 1
    others = [line for line in noisy if "processor" not in line]
    assert others == [
        "1 other process on the GPU",
        "the GPU was throttled: software thermal slowdown",
        "the GPU's clock fell from 1980 to 1200 MHz",
    ]


def test_a_processor_that_others_use_is_noisy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, own = [100.0], [10.0]
    stat = tmp_path / "stat"
    monkeypatch.setattr(conditions, "STAT", stat)
    monkeypatch.setattr(conditions, "_own", lambda: own[0])
    monkeypatch.setattr(conditions.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(conditions.os, "cpu_count", lambda: 4)
    tick = os.sysconf("SC_CLK_TCK")

    def busy(seconds: float, stolen: float = 0.0) -> None:
        stat.write_text(f"cpu  {int(seconds * tick)} 0 0 999 999 0 0 {int(stolen * tick)} 0 0\ncpu0 1 2 3\n")

    busy(50)
    stop = record_conditions()
    now[0], own[0] = 110.0, 25.0  # ten seconds of four cores: 15 of ours, 21 of everybody
    busy(71)
    state, noisy = stop()
    assert state["cpu_load_by_others"] == 0.15 and noisy == ["other processes took 15% of the processor"]
    busy(66, stolen=4)
    state, noisy = stop()
    assert state["cpu_load_by_others"] == 0.025 and noisy == ["the machine beneath took 10% of the processor away"]
    stat.unlink()
    assert record_conditions()()[0]["cpu_load_by_others"] is None


def test_boxes_are_the_same_to_float_noise() -> None:
    even = rate(100.0).model_copy(update={"expressions_per_s": Spread(median=100, low=98, high=102)})
    assert uneven(even) == [] and uneven(rate(100.0)) == ["repeats (cold) are 20% apart"]
    assert spread_over(list(range(10)), [10] * 10, 30) == [0, 4, 8]
    assert spread_over(list(range(10)), [10] * 10, 1000) == list(range(10))
    box = (10.0, 10.0, 50.0, 50.0)
    assert close(box, (10.0, 10.0, 50.0, 50.009), 100) and not close(box, (10.0, 10.0, 50.0, 50.011), 100)
    assert close(None, (0.0, 0.0, float("nan"), 1.0), 100) and not close(None, box, 100) and not close(box, None, 100)
    right = Expression("0", "it", (0.0, 0.0, 100.0, 50.0), also=((0.0, 0.0, 10.0, 10.0),))
    assert hit((0.0, 0.0, 50.0, 900.0), right, (100, 50)) and not hit((0.0, 0.0, 49.9, 50.0), right, (100, 50))
    assert hit((0.0, 0.0, 9.0, 9.0), right, (100, 50)) and not hit(None, right, (100, 50))


def test_a_box_on_the_edge_of_a_hit_is_another_one_when_the_decision_is(tmp_path: Path) -> None:
    resident = make_resident(make_split(1))
    (scene,) = resident.scenes
    x1, y1, x2, y2 = scene.expressions[0].box
    edge = x1 + (x2 - x1) / 2
    exact = {e.id: Prediction(e.id, e.box) for e in scene.expressions}
    hits = exact | {scene.expressions[0].id: Prediction("", (x1, y1, edge + 1e-6, y2))}
    missed = exact | {scene.expressions[0].id: Prediction("", (x1, y1, edge - 1e-6, y2))}
    both = compare("x", resident, hits, missed, "float32")
    assert both.differing == (scene.expressions[0].id,) and not both.passed
    assert compare("x", resident, hits, hits, "float32").passed
    assert not compare("x", resident, hits, {}, "float32").passed  # nothing compared proves nothing
    assert both.tolerance == 1e-4 and compare("x", resident, hits, hits, "bfloat16").tolerance == 1e-2


@pytest.mark.gpu
def test_the_driver_of_a_real_gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    gpu, why = open_gpu("cuda:0")
    assert gpu is not None, why
    assert gpu.state()["sm_mhz"] and "pynvml" in sys.modules
