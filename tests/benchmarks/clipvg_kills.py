"""A training of CLIP-VG, killed at random moments and started again: does it end in the same bits as one left alone?

    python tests/benchmarks/clipvg_kills.py [--kills 10] [--seed 0] [--scenes 12] [--epochs 6]

A real `bench train` in a process of its own, killed with SIGKILL wherever it happens to be: starting, stepping, saving,
validating. Augmentation, dropout, two workers, gradients accumulated over two batches, and an average of the weights
are on; shapes, a small CLIP with random weights, a CPU.
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

from bench.datasets.shapes import ShapesPictures, make_scene
from clipvg.training.recipe import ClipVGRecipe
from pipelines import weights
from pipelines.clip.encoder import empty_model

TIMES = {"seconds", "rows_per_second", "waiting"}
VALIDATION = 4  # scenes
RECIPE: dict[str, Any] = {
    "name": "killed",
    "network": {"taps": [0, 1], "image_size": 48, "hidden": 64, "heads": 4, "feedforward": 64, "layers": 2},
    "preprocessing": "clean",
    "augment": {"crop": "safe", "flip_share": 0.3},
    "auxiliary": "patches",
    "batch": 8,
    "reference_batch": 16,
    "learning_rate": 1e-3,
    "schedule": "step",
    "warm_up": 5,
    "clip_norm": 1.0,
    "ema": 0.9,
    "workers": 2,
    "save_every": 3,
    "log_every": 1,
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=6)
    said = parser.parse_args()
    dice = random.Random(said.seed)
    with tempfile.TemporaryDirectory() as place:
        command = prepared(Path(place), said.scenes, said.epochs)
        began = time.monotonic()
        started(command, Path(place) / "whole").wait()
        length = time.monotonic() - began
        whole, out = outcome(Path(place) / "whole"), Path(place) / "killed"
        if whole is None:
            print("the training that nobody killed did not end")
            return 1
        steps, kills, tries = [], 0, 0
        while kills < said.kills and tries < 20 * said.kills:
            tries += 1
            process = started(command, out)
            killed = dead_after(process, dice.uniform(0.3, 1.0) * length)
            if not killed:  # it came to its end: from the beginning, for the kills that are left
                if outcome(out) != whole:
                    break
                clear(out)
                continue
            kills += 1
            steps.append(step_of(out))
        process = started(command, out)
        process.wait()
        same = outcome(out) == whole
        left = [path.name for path in (out / "killed.run").glob(".*")]
    print(f"{kills} kills, the step files then at {steps} of {whole['last']['step']} steps;", end=" ")
    print(f"a whole training takes {length:.1f} s; {len(left)} half-written files are left")
    print(f"{kills} kills: {'bit-identical' if same else 'NOT THE SAME'}")
    return 0 if same and kills == said.kills else 1


def prepared(place: Path, scenes: int, epochs: int) -> list[str]:
    """The words of `bench train`, its settings, CLIP and validation scenes written to `place`."""
    torch.manual_seed(0)
    clip = place / "clip.safetensors"
    weights.write_safetensors(clip, empty_model("tiny-clip").state_dict(), {})
    changes = {"clip": {"model": "tiny-clip", "pretrained": str(clip)}, "epochs": epochs}
    recipe = ClipVGRecipe.model_validate(RECIPE | changes).model_dump(mode="json")
    lines = [f"{key} = {toml(value)}" for key, value in recipe.items()]
    config = place / "small.toml"
    config.write_text("\n".join(["[data.shapes]", f"train = {scenes}", "[train.clipvg.on.shapes]", *lines]))
    validation = place / "val.jsonl"
    validation.write_text("".join(json.dumps(row) + "\n" for row in validated(place)))
    words = ["train", "--pipeline", "clipvg", "--split", "shapes-train", "--validate", f"file:{validation}"]
    return [sys.executable, "-m", "bench.cli.main", *words, "--config", str(config), "--device", "cpu"]


def validated(place: Path) -> list[dict[str, Any]]:
    """The rows of a few scenes, their pictures written beside them: to score the whole split would take longest."""
    from PIL import Image

    scenes = [make_scene(2026, "val", number) for number in range(VALIDATION)]
    for scene in scenes:
        Image.fromarray(ShapesPictures(2026).load(scene)).save(place / scene.file)
    return [{"image": s.file, "text": e.text, "box_xyxy": e.box} for s in scenes for e in s.expressions]


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def started(command: list[str], out: Path) -> subprocess.Popen[bytes]:
    """The training, in a process group of its own: its workers die with it."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return subprocess.Popen([*command, "--out", str(out)], env=environment, **quiet)


def dead_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Kills the process after so long; False when it had ended by then."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def step_of(out: Path) -> int:
    path = out / "killed.run/last.pt"
    return int(torch.load(path, weights_only=True)["step"]) if path.is_file() else 0


def clear(out: Path) -> None:
    for path in sorted(out.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def outcome(out: Path) -> dict[str, Any] | None:
    """Everything but times, tensors as bytes; None where the training has not ended."""
    run, made = out / "killed.run", out / "killed.safetensors"
    if not (out / "killed.json").is_file():
        return None
    last = torch.load(run / "last.pt", weights_only=True)
    del last["seconds"]
    tensors, metadata = weights.read_safetensors(made)
    lines = [json.loads(line) for line in (run / "training.jsonl").read_text().splitlines()]
    return {
        "last": as_bytes(last),
        "weights": as_bytes(tensors),
        "metadata": metadata,
        "lines": [{key: value for key, value in line.items() if key not in TIMES} for line in lines],
        "score": json.loads((out / "killed.json").read_text())["score"],
    }


def as_bytes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: as_bytes(inner) for key, inner in value.items()}
    return [as_bytes(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
