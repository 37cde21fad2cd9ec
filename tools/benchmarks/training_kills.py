"""A training, killed at random moments and started again: does it end in the same bits as one left alone?

    python tools/benchmarks/training_kills.py [--pipeline clipvg|mdetr] [--processes 1|2] [--kills 10] [--seed 0]

A real `bench train` in processes of its own, killed with SIGKILL wherever it happens to be: starting, stepping, saving,
validating. Augmentation, dropout, two workers, gradients accumulated, and an average of the weights are on; shapes,
small networks from random weights, a CPU.
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

from bench.datasets.shapes import ShapesImages, make_scene
from pipelines import weights
from pipelines.two_stage.clip.encoder import empty_model

TIMES = {"seconds", "rows_per_second", "waiting"}
VALIDATION = 4  # scenes
COMMON: dict[str, Any] = {
    "name": "killed", "start_from": "", "batch": 8, "reference_batch": 16, "learning_rate": 1e-3, "clip_norm": 1.0,
    "ema": 0.9, "workers": 2, "save_every": 3, "log_every": 1,
}  # fmt: skip
TABLES: dict[str, dict[str, Any]] = {
    "clipvg": {
        "network": {"taps": [0, 1], "image_size": 48, "hidden": 64, "heads": 4, "feedforward": 64, "layers": 2},
        "preprocessing": "clean",
        "augment": {"crop": "safe", "flip_share": 0.3},
        "schedule_by": "step",
        "warm_up": 5,
    },
    "mdetr": {
        "short": 64,
        "long": 120,
        "network": {
            "backbone": "small", "widths": [8, 16, 16, 16], "hidden": 16, "heads": 2, "feedforward": 32,
            "encoder_layers": 1, "decoder_layers": 2, "queries": 3, "tokens": 31, "contrastive": 8, "dropout": 0.1,
            "text_encoder": {
                "vocab_size": 400, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4,
                "intermediate_size": 32, "max_position_embeddings": 40, "type_vocab_size": 1, "pad_token_id": 1,
                "bos_token_id": 0, "eos_token_id": 2, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
            },
        },
    },
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", choices=list(TABLES), default="clipvg")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=40)
    asked = parser.parse_args()
    moments = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as place:
        command = prepared(Path(place), asked.pipeline, asked.processes, asked.scenes, asked.epochs)
        since = time.monotonic()
        started(command, Path(place) / "whole").wait()
        length = time.monotonic() - since
        whole, out = outcome(Path(place) / "whole"), Path(place) / "killed"
        if whole is None:
            print("the training that was not killed did not end")
            return 1
        steps, kills, tries = [], 0, 0
        while kills < asked.kills and tries < 20 * asked.kills:
            tries += 1
            process = started(command, out)
            if not dead_after(process, moments.uniform(0.3, 1.0) * length):
                if outcome(out) != whole:  # it came to its end: from the start again, for the kills that are left
                    break
                clear(out)
                continue
            kills += 1
            steps.append(step_of(out))
        started(command, out).wait()
        same = outcome(out) == whole
        left = [path.name for path in (out / "killed.run").glob(".*")]
    print(f"{asked.pipeline}, {asked.processes} processes: {kills} kills, the step files then at {steps} of", end=" ")
    print(f"{whole['last']['step']} steps; a whole training takes {length:.1f} s; {len(left)} half-written files left")
    print(f"{kills} kills: {'bit-identical' if same else 'NOT THE SAME'}")
    return 0 if same and kills == asked.kills else 1


def prepared(place: Path, pipeline: str, processes: int, scenes: int, epochs: int) -> list[str]:
    """The words of `bench train`; its settings, CLIP and validation scenes are written to `place`."""
    table = COMMON | TABLES[pipeline] | {"epochs": epochs}
    if pipeline == "clipvg":
        torch.manual_seed(0)
        clip = place / "clip.safetensors"
        weights.write_safetensors(clip, empty_model("tiny-clip").state_dict(), {})
        table["clip"] = {"model": "tiny-clip", "pretrained": str(clip)}
    lines = [f"{key} = {toml(value)}" for key, value in table.items()]
    config = place / "small.toml"
    config.write_text("\n".join(["[data.shapes]", f"train = {scenes}", f"[train.{pipeline}.on.shapes]", *lines]))
    validation = place / "val.jsonl"
    validation.write_text("".join(json.dumps(row) + "\n" for row in validated(place)))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    words = ["-m", "bench.cli.main", "train", "--pipeline", pipeline, "--split", "shapes-train"]
    words += ["--validate", f"file:{validation}", "--config", str(config), "--device", "cpu"]
    return [sys.executable, *(launcher if processes > 1 else []), *words]


def validated(place: Path) -> list[dict[str, Any]]:
    """The rows of a few scenes, their images written beside them: to score the whole split would take longest."""
    from PIL import Image

    scenes = [make_scene(2026, "val", number) for number in range(VALIDATION)]
    for scene in scenes:
        Image.fromarray(ShapesImages(2026).load(scene)).save(place / scene.file)
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
