"""A curriculum, killed at random moments and started again: are its decisions those of one left alone?

    python tests/benchmarks/curriculum_kills.py [--kills 8] [--seed 0] [--clip FILE]

A real `bench train --curriculum multi` over three sources of 40 scenes of `shapes`, killed with SIGKILL wherever it
happens to be. Compared are the manifests, the chosen rows and the weights, and no node may be recorded twice.
`--clip` names a CLIP of the recipe in curriculum.toml; without it one with random weights does.
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
from pipelines.clip.encoder import empty_model

HERE = Path(__file__).resolve().parent
BENCH = [sys.executable, "-m", "bench.cli.main"]
SOURCES = ("template", "relation", "caption")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clip", type=Path)
    said = parser.parse_args()
    dice = random.Random(said.seed)
    with tempfile.TemporaryDirectory() as place:
        command = prepared(Path(place), said.clip)
        began = time.monotonic()
        started(command, Path(place) / "whole").wait()
        length = time.monotonic() - began
        whole, out, kills, seen = outcome(Path(place) / "whole"), Path(place) / "killed", 0, {}
        again = 0
        while kills < said.kills:
            process = started(command, out)
            killed = dead_after(process, dice.uniform(0.15, 0.5) * length)
            now = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("nodes/*/node.json")}
            again += sum(seen.get(name, at) != at for name, at in now.items())
            seen = now
            if not killed:
                break
            kills += 1
            print(f"killed with {len(now)} nodes done", flush=True)
        started(command, out).wait()
        same = outcome(out) == whole
        verdict = "the same" if same else "OTHER"
        print(f"{kills} kills; {len(seen)} nodes, {again} done twice; {verdict} decisions, rows and weights")
        return 0 if same and not again else 1


def prepared(place: Path, clip: Path | None) -> list[str]:
    """Writes labels and, without one, a CLIP; the command without its --out."""
    if clip is None:
        torch.manual_seed(0)
        clip = place / "clip.safetensors"
        weights.write_safetensors(clip, empty_model("tiny-clip-120-20").state_dict(), {})
    command = [*BENCH, "train", "--pipeline", "clipvg", "--split", "shapes-train", "--curriculum", "multi"]
    command += [
        "--config",
        str(HERE / "curriculum.toml"),
        "--set",
        f"clip.pretrained={clip}",
        "--set",
        "lesson.epochs=0",
    ]
    command += ["--set", "steps=40", "--set", "save_every=10", "--set", "curriculum.proxy.steps=20", "--device", "cpu"]
    command += ["--set", "curriculum.start=0.2", "--set", "curriculum.low=0.1", "--set", "curriculum.high=0.4"]
    # Judged by the labels of a few pictures: asking 400 scenes after every training would be most of the work.
    command += ["--set", "curriculum.criterion=held-out", "--set", "curriculum.held_out=0.2"]
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
    """Whether the process had to be killed."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def outcome(out: Path) -> dict[str, Any]:
    """All that was decided, and what came of it."""
    folder = out / "proof.curriculum"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["last"].pop("nodes_done_in_this_run")
    rows = {path.name: path.read_bytes() for path in sorted((folder / "selected").glob("*.jsonl"))}
    return {"manifest": manifest, "rows": rows, "weights": (out / "proof.safetensors").read_bytes()}


if __name__ == "__main__":
    sys.exit(main())
