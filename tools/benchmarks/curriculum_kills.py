"""A curriculum, killed at random moments and started again: are its decisions those of one left alone?

    python -m tools.benchmarks.curriculum_kills [--kills 8] [--seed 0] [--clip FILE]

A real `bench train --pipeline clipvg --curriculum multi` over three sources of 40 scenes of `shapes`, killed with
SIGKILL at random moments. Compared are the manifests, the chosen rows and the weights, and no node may be recorded
twice. `--clip` names a CLIP tiny-clip-120-20; without it one with random weights does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from pipelines import weights
from pipelines.two_stage.clip.encoder import empty_model

CONFIG = """
[train.clipvg.on.shapes]
name = "proof"
clip = { model = "tiny-clip-120-20", pretrained = "CLIP" }
network = { taps = [0, 1, 2, 3], image_size = 120, hidden = 96, heads = 3, feedforward = 192, layers = 2 }
preprocessing = "clean"
cache_features = true
train_positions = false
dtype = "float32"
batch = 32
reference_batch = 32
learning_rate = 1.2e-3
steps = 40
save_every = 10
validate_every = 1000

[train.clipvg.on.shapes.curriculum]
proxy = { steps = 20 }
start = 0.2
low = 0.1
high = 0.4
criterion = "held-out"  # scored on a few images: 400 after every training would be most of the work
held_out = 0.2
"""
BENCH = [sys.executable, "-m", "bench.cli.main"]
SOURCES = ("template", "relation", "caption")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clip", type=Path)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        command = prepared(Path(folder), options.clip)
        start = time.monotonic()
        started(command, Path(folder) / "whole").wait()
        length = time.monotonic() - start
        whole, out, kills = outcome(Path(folder) / "whole"), Path(folder) / "killed", 0
        done: dict[str, int] = {}
        again = 0
        while kills < options.kills:
            process = started(command, out)
            killed = dead_after(process, rng.uniform(0.15, 0.5) * length)
            now = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("nodes/*/node.json")}
            again += sum(done.get(name, at) != at for name, at in now.items())
            done = now
            if not killed:
                break
            kills += 1
            print(f"killed with {len(now)} nodes done", flush=True)
        started(command, out).wait()
        same = outcome(out) == whole
        verdict = "the same" if same else "OTHER"
        print(f"{kills} kills; {len(done)} nodes, {again} done twice; {verdict} decisions, rows and weights")
        return 0 if same and not again else 1


def prepared(place: Path, clip: Path | None) -> list[str]:
    """Write labels, the config and, without one, a CLIP; return the command without its --out."""
    if clip is None:
        torch.manual_seed(0)
        clip = place / "clip.safetensors"
        weights.write_safetensors(clip, empty_model("tiny-clip-120-20").state_dict(), {})
    config = place / "kills.toml"
    config.write_text(CONFIG.replace("CLIP", str(clip)))
    command = [*BENCH, "train", "--pipeline", "clipvg", "--split", "shapes-train", "--curriculum", "multi"]
    command += ["--config", str(config), "--device", "cpu"]
    for kind in SOURCES:
        file = place / f"{kind}.jsonl"
        subprocess.run([*BENCH, "data", "noisy-labels", "--kind", kind, "--limit", "40", "--out", file], check=True)
        command += ["--labels", str(file)]
    return command


def started(command: list[str], out: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # the order of sums is a matter of the threads
    return subprocess.Popen([*command, "--out", str(out)], env=environment, start_new_session=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip


def dead_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait so long, then kill the process; return whether that was needed."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def outcome(out: Path) -> dict[str, Any]:
    """Return every decision, the rows and the weights."""
    folder = out / "proof.curriculum"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["last"].pop("nodes_done_in_this_run")
    rows = {path.name: path.read_bytes() for path in sorted((folder / "selected").glob("*.jsonl"))}
    return {"manifest": manifest, "rows": rows, "weights": (out / "proof.safetensors").read_bytes()}


if __name__ == "__main__":
    sys.exit(main())
