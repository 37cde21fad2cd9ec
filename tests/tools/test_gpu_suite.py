"""The suite for a GPU machine: what is kept of a part that fails, its table, and a small run on the CPU."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from bench.grounding import Prediction
from tools.benchmarks import gpu_suite
from tools.benchmarks.random_weights import loaded, noise

RATES = {"expressions_per_s": 200.0, "images_per_s": 30.0, "batch_ms": {"p50": 1.5, "p99": 2.0}}
PART = RATES | {"compiled": {"expressions_per_s": 250.0}, "plain": {"expressions_per_s": 20.0}, "waits": "none"}


def record(**parts):
    packages = {"packages": {"torch": "2"}, "gpu": {"cuda": "13", "driver": "580"}}
    return {"card": "NVIDIA H200", "small": False, "environment": packages, "parts": parts}


def test_the_table_has_ratios_and_a_dash_for_what_is_unknown():
    trained = {"by_row": {"rows_per_s": 900.0, "waiting": 0.05}}
    text = gpu_suite.table(record(clipvg=PART, mdetr={"failed": "stopped after 9 s"}, training=trained))
    clipvg, mdetr = (line.split(" | ") for line in text.splitlines() if line.startswith(("| clipvg", "| mdetr")))
    assert clipvg[1:4] == ["200", "30", "1.5 / 2"] and clipvg[7:9] == ["1.25x", "10.00x"] and clipvg[12] == "none"
    assert mdetr[1] == "–" and "stopped after 9 s" in mdetr[-1]
    assert "training by row: 900.0 rows/s, 5.0% waiting for data" in text and "by image" not in text


@pytest.mark.parametrize(
    ("script", "seconds", "failed"),
    [("raise SystemExit(3)", 60, "ended with 3"), ("import time; time.sleep(60)", 2, "stopped after 2 s")],
)
def test_what_a_part_measured_before_it_failed_is_kept(script, seconds, failed, monkeypatch, tmp_path):
    program = tmp_path / "part.py"
    program.write_text(f"print('a notice')\nprint('{{\"rate\": 3}}', flush=True)\n{script}\n")
    run = gpu_suite.subprocess.run
    monkeypatch.setattr(
        gpu_suite.subprocess, "run", lambda command, **given: run([sys.executable, str(program)], **given)
    )
    numbers = gpu_suite.run_part("clipvg", SimpleNamespace(small=False, device="cpu"), seconds)
    assert numbers["rate"] == 3 and failed in numbers["failed"]


def test_a_wait_is_named(monkeypatch):
    modes, answer = [], [Prediction("a", None)]
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    class Launched:
        wait = False

        def ground(self, batch):
            return answer

        def launch(self, batch):
            if self.wait:
                raise RuntimeError("called a synchronizing CUDA operation\nmore")
            return lambda: answer

    def check(device="cuda", **facts):
        pipeline = Launched()
        vars(pipeline).update(facts)
        one = SimpleNamespace(pipeline=pipeline, context=SimpleNamespace(device=device), caches={}, ground=lambda b: b)
        return gpu_suite.waits(one, loaded(*noise(1, (8, 8))))

    assert check() == "none" and modes == ["error", "default"]
    assert check(wait=True) == "called a synchronizing CUDA operation" and modes[2:] == ["error", "default"]
    assert check("cpu") == "not checked: no GPU"


def test_an_unknown_part_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_suite", "--parts", "clipvg,nothing"])
    with pytest.raises(SystemExit):
        gpu_suite.main()
    assert "no part is called nothing; there are tests, clipvg" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_run_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["gpu_suite", "--small", "--device", "cpu", "--parts", "clipvg", "--out", str(tmp_path)]
    )
    gpu_suite.main()
    (folder,) = tmp_path.iterdir()
    part = json.loads((folder / "suite.json").read_text())["parts"]["clipvg"]
    assert "failed" not in part and part["boxes"]["float32"]["max_px"] == 0 and part["expressions_per_s"] > 0
    assert part["plain"]["expressions_per_s"] > 0 and part["matmul_share_percent"] > 0
    assert "| clipvg |" in (folder / "TABLE.md").read_text()
