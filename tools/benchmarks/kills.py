"""Random kills of a run, each then resumed to its end: how many end in the same metrics and predictions, to the byte.

python -m tools.benchmarks.kills [--runs 20] [--kills 3] [--ranks 1]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORLD = Path(__file__).parents[2] / "tests" / "fake_world.py"
DELAY = ["--images", "40", "--delay", "0.02"]


def launch(results: Path, ranks: int) -> list[subprocess.Popen[bytes]]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, str(WORLD), str(results), *DELAY]
    envs = [os.environ | ({"RANK": str(i), "WORLD_SIZE": str(ranks)} if ranks > 1 else {}) for i in range(ranks)]
    return [subprocess.Popen(command, env=env, **quiet) for env in envs]  # type: ignore[call-overload]


def outcome(results: Path) -> tuple[str, bytes] | None:
    paths = list(results.rglob("run.json"))
    if len(paths) != 1:
        return None
    record = json.loads(paths[0].read_bytes())
    return json.dumps(record["metrics"]), (paths[0].parent / "predictions.jsonl").read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=1)
    said = parser.parse_args()
    dice = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        start = time.monotonic()
        for process in launch(Path(place) / "whole", said.ranks):
            process.wait()
        length = time.monotonic() - start
        whole = outcome(Path(place) / "whole")
        same = kills = 0
        for number in range(said.runs):
            results = Path(place) / str(number)
            for _ in range(said.kills):
                processes = launch(results, said.ranks)
                time.sleep(dice.uniform(0, length))
                kills += any(process.poll() is None for process in processes)
                for process in reversed(processes):
                    process.kill()
                    process.wait()
            ended = [process.wait() for process in launch(results, said.ranks)]
            same += not any(ended) and whole is not None and outcome(results) == whole
    print(f"{same} of {said.runs} runs with {said.ranks} rank(s) and {kills} kills ended in the same bytes")
    return 0 if same == said.runs else 1


if __name__ == "__main__":
    sys.exit(main())
