"""Kill a command with SIGKILL, start it again, and compare its files with those of one left alone.

    python -m tools.benchmarks.kills run [--repeats 20] [--kills 3] [--ranks 1]
    python -m tools.benchmarks.kills train [--pipeline clipvg|mdetr] [--processes 2] [--kills 10] [--epochs 40]
    python -m tools.benchmarks.kills curriculum [--kills 8] [--clip FILE]
    python -m tools.benchmarks.kills files [--kills 5] [--only study,label,score,prepare,report,leaderboard]

`run` is an evaluation of tests/fake_world.py. `train` is a real `bench train` with augmentation, dropout, two workers,
accumulated gradients and an EMA. `curriculum` is a real `bench train --curriculum multi` over three sources of 40
scenes; no node may be computed twice. `files` are the commands that write files, on small data and stored runs.
All of it is small and on a CPU. Kills come at random moments, wherever the processes then are: starting, stepping,
saving, validating. The exit code is 1 where one byte differs. Tests kill at a given call instead (`killed_at`), and
compare with the same functions.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.datasets.shapes import ShapesImages, make_scene
from bench.runs.packed import stored_bytes
from pipelines import weights
from pipelines.two_stage.clip.encoder import empty_model

HERE = Path(__file__).parent
RUN = [sys.executable, str(HERE.parents[1] / "tests" / "fake_world.py")]
BENCH = ["-m", "bench.cli.main"]
RANKS = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS")
TIMES = {"seconds", "rows_per_second", "waiting", "image_cache_hits", "image_cache_gib"}


def start(command: Sequence[str], *, stderr: int = subprocess.DEVNULL, **env: str) -> subprocess.Popen[str]:
    """Start a command that prints nothing, whatever ranks this process has."""
    environ = {key: value for key, value in os.environ.items() if key not in RANKS}
    environ |= {"OMP_NUM_THREADS": "1"} | env  # the order of sums depends on the threads
    return subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=stderr, text=True)


def kill(*processes: subprocess.Popen[str]) -> None:
    """Kill processes and all that they started with SIGKILL, the first one last: it may be the others' leader.

    Process groups would not do: torchrun starts its workers in sessions of their own, where they would live on.
    """
    for process in reversed(processes):
        if process.poll() is None:
            parent = psutil.Process(process.pid)
            for child in (*parent.children(recursive=True), parent):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        process.communicate()


def killed_at(
    owner: Any, name: str, call: int, work: Callable[[], Any], after: bool = False, by: int = signal.SIGKILL
) -> bool:
    """Do `work` in a forked process that ends itself at the given call (from 1) of owner.name, before or after it.

    It does so `by` a signal. Returns False when the work ended without that call, or outlived the signal.
    """
    child = os.fork()
    if not child:
        real, calls = getattr(owner, name), itertools.count(1)

        def counted(*arguments: Any, **options: Any) -> Any:
            now = next(calls) == call
            if now and not after:
                os.kill(os.getpid(), by)
            result = real(*arguments, **options)
            if now:
                os.kill(os.getpid(), by)
            return result

        try:
            os.setpgid(0, 0)
            torch.set_num_threads(1)  # the threads of the parent are not here
            setattr(owner, name, counted)
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # its workers
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == by


def compare(
    started: Callable[[Path], list[subprocess.Popen[str]]], outcome: Callable[[Path], Any], folder: Path, kills: int,
    rng: random.Random, moments: tuple[float, float], after_each: Callable[[Path, bool], None] = lambda *_: None,
) -> tuple[int, bool, float]:  # fmt: skip
    """Return the number of kills, whether the outcome is that of a run left alone, and how long that one took.

    `started` starts a command's processes for an output folder, `outcome` returns what has to be the same, None where
    the command has not ended. `moments` are the first and last moment of a kill, shares of an undisturbed run.
    """
    # 1. Once, left alone.
    since = time.monotonic()
    for process in started(folder / "whole"):
        process.wait()
    length, whole = time.monotonic() - since, outcome(folder / "whole")
    # 2. Killed at random moments, and started again. One that ended first begins anew, for the kills that are left.
    out, done, tries = folder / "killed", 0, 0
    while whole is not None and done < kills and tries < 20 * kills:
        tries += 1
        processes = started(out)
        until = time.monotonic() + rng.uniform(*moments) * length
        while time.monotonic() < until and any(process.poll() is None for process in processes):
            time.sleep(0.005)
        running = any(process.poll() is None for process in processes)
        kill(*processes)
        after_each(out, running)
        done += running
        if not running and outcome(out) != whole:
            break
        if not running:
            shutil.rmtree(out)
    # 3. To its end.
    for process in started(out):
        process.wait()
    return done, whole is not None and outcome(out) == whole, length


def to_bytes(value: Any) -> Any:
    """Replace the tensors of nested tables by their type, shape and bytes; two outcomes are then compared by ==."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: to_bytes(inner) for key, inner in value.items()}
    return [to_bytes(inner) for inner in value] if isinstance(value, list | tuple) else value


def run_outcome(results: Path) -> tuple[str, bytes] | None:
    """Return the metrics, and predictions and outcomes, of the one finished run."""
    paths = list(results.rglob("run.json"))
    record = json.loads(paths[0].read_bytes()) if len(paths) == 1 else {}
    if record.get("status") != "complete":
        return None
    files = sorted(path.name for path in paths[0].parent.iterdir())
    stored = b"".join(stored_bytes(paths[0].parent, name) for name in ("predictions", "outcomes"))
    return json.dumps([record["metrics"], files]), stored


def run(options: argparse.Namespace) -> int:
    """Kill runs: each of `repeats` is killed `kills` times."""

    def started(results: Path) -> list[subprocess.Popen[str]]:
        command, count = [*RUN, str(results), "--images", "40", "--delay", "0.02"], options.ranks
        return [start(command, RANK=str(i), WORLD_SIZE=str(count)) for i in range(count)]

    rng, same, kills = random.Random(options.seed), 0, 0
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as place:
            done, equal, _ = compare(started, run_outcome, Path(place), options.kills, rng, (0.0, 1.0))
            same, kills = same + equal, kills + done
    print(f"{same} of {options.repeats} runs with {options.ranks} rank(s) and {kills} kills ended in the same bytes")
    return 0 if same == options.repeats else 1


def training_outcome(out: Path) -> dict[str, Any] | None:
    """Return all that the one training under a folder left but times; None where it has not ended."""
    made = [path.with_suffix("") for path in out.glob("*.run") if path.with_suffix(".safetensors").is_file()]
    if not made:
        return None
    state = torch.load(made[0].with_suffix(".run") / "last.pt", weights_only=True)
    del state["seconds"]
    lines = [json.loads(line) for line in (made[0].with_suffix(".run") / "training.jsonl").read_text().splitlines()]
    record = made[0].with_suffix(".json")
    return {
        "last.pt": to_bytes(state),
        "weights": to_bytes(weights.read_safetensors(made[0].with_suffix(".safetensors"))),
        "lines": [{key: value for key, value in line.items() if key not in TIMES} for line in lines],
        "score": json.loads(record.read_text())["score"] if record.is_file() else None,
    }


def training_command(place: Path, pipeline: str, processes: int, epochs: int) -> list[str]:
    """Write a CLIP and validation scenes to `place`; return the words of `bench train` but --out."""
    from PIL import Image

    images, rows = ShapesImages(2026), []
    for scene in (make_scene(2026, "val", number) for number in range(4)):  # the whole split would take longest
        Image.fromarray(images.load(scene)).save(place / scene.file)
        rows += [{"image": scene.file, "text": e.text, "box_xyxy": e.box} for e in scene.expressions]
    validation = place / "val.jsonl"
    validation.write_text("".join(json.dumps(row) + "\n" for row in rows))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    words = [sys.executable, *(launcher if processes > 1 else []), *BENCH, "train", "--pipeline", pipeline]
    words += ["--split", "shapes-train", "--validate", f"file:{validation}", "--config", str(HERE / "kills.toml")]
    clip = random_clip(place, "tiny-clip") if pipeline == "clipvg" else []
    return [*words, "--device", "cpu", "--set", f"epochs={epochs}", *clip]


def train(options: argparse.Namespace) -> int:
    """Kill one training again and again."""
    steps: list[int] = []

    def note(out: Path, killed: bool) -> None:
        path = out / "killed.run" / "last.pt"
        if killed:
            steps.append(int(torch.load(path, weights_only=True)["step"]) if path.is_file() else 0)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        command = training_command(folder, options.pipeline, options.processes, options.epochs)
        done, same, length = compare(
            lambda out: [start([*command, "--out", str(out)])],
            training_outcome, folder, options.kills, random.Random(options.seed), (0.3, 1.0), note,
        )  # fmt: skip
        left = list((folder / "killed" / "killed.run").glob(".*"))
    print(f"{options.pipeline}, {options.processes} processes: {done} kills, the step files then at {steps};", end=" ")
    print(f"a whole training takes {length:.1f} s; {len(left)} half-written files left")
    print(f"{done} kills: {'bit-identical' if same else 'NOT THE SAME'}")
    return 0 if same and done == options.kills else 1


def curriculum_outcome(out: Path) -> dict[str, Any] | None:
    """Return every decision, the chosen rows and the weights; None where it has not ended."""
    folder = out / "killed.curriculum"
    if not (out / "killed.safetensors").is_file() or not (folder / "manifest.json").is_file():
        return None
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["last"].pop("nodes_done_in_this_run")
    rows = {path.name: path.read_bytes() for path in sorted((folder / "selected").glob("*.jsonl"))}
    return {"manifest": manifest, "rows": rows, "weights": (out / "killed.safetensors").read_bytes()}


def curriculum(options: argparse.Namespace) -> int:
    """Kill one curriculum again and again; no node may be computed twice."""
    nodes: dict[str, int] = {}
    twice: list[str] = []

    def note(out: Path, killed: bool) -> None:
        now = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("nodes/*/node.json")}
        twice.extend(name for name, time_ns in now.items() if nodes.get(name, time_ns) != time_ns)
        nodes.clear()
        nodes.update(now if killed else {})  # one that ended begins anew
        print(f"{len(now)} nodes done", flush=True)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bench = [sys.executable, *BENCH]
        command = [*bench, "train", "--pipeline", "clipvg", "--split", "shapes-train", "--curriculum", "multi"]
        command += ["--config", str(HERE / "kills_curriculum.toml"), "--device", "cpu"]
        command += random_clip(folder, "tiny-clip-120-20", options.clip)
        for kind in ("template", "relation", "caption"):
            file = folder / f"{kind}.jsonl"
            subprocess.run([*bench, "data", "noisy-labels", "--kind", kind, "--limit", "40", "--out", file], check=True)
            command += ["--labels", str(file)]
        done, same, length = compare(
            lambda out: [start([*command, "--out", str(out)])],
            curriculum_outcome, folder, options.kills, random.Random(options.seed), (0.15, 0.5), note,
        )  # fmt: skip
    verdict = "the same" if same else "OTHER"
    print(f"{done} kills of a curriculum of {length:.0f} s; {len(twice)} nodes done twice;", end=" ")
    print(f"{verdict} decisions, rows and weights")
    return 0 if same and not twice else 1


def written(out: Path) -> dict[str, Any] | None:
    """Return the contents of all files under a folder but times and left-overs; None where nothing is finished."""
    contents: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if not path.is_file() or path.name.startswith((".", "lock")) or path.suffix == ".part" or "batches" in name:
            continue
        contents[name] = path.read_bytes()
        if path.suffix == ".json" and path.name != "LEADERBOARD.json":
            contents[name] = timeless(json.loads(path.read_text()))
    return contents or None


def timeless(value: Any) -> Any:
    """Leave out of a record what two runs of one command do not share: times, rates, command lines."""
    own = {"seconds", "rows_per_s", "continued_after", "command", "prepared", "environment", "git"}
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in own}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def study_outcome(out: Path) -> dict[str, Any] | None:
    """Return predictions, outcomes and metrics of every run of a study, by pipeline and split."""
    runs: dict[str, Any] = {}
    for path in out.rglob("run.json"):
        record = json.loads(path.read_bytes())
        if record["status"] != "complete":
            return None
        stored = [stored_bytes(path.parent, name) for name in ("predictions", "outcomes")]
        runs[f"{record['name']} {record['identity']['data']['split']}"] = [record["metrics"], *stored]
    return runs or None


def files(options: argparse.Namespace) -> int:
    """Kill the commands that write files, each `kills` times, and compare all that they wrote."""
    sys.path.insert(0, str(HERE.parents[1] / "tests"))
    import tiny_refcoco

    rng, wrong = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        study = 'pipelines = ["centre-box", "whole-image"]\nsplits = ["shapes-val"]\nlimit = 150\n'
        (folder / "study.toml").write_text(study)
        annotations = tiny_refcoco.refer_files(folder)
        runs = HERE.parents[1] / "results" / "runs"
        report = ["report", "--split", "shapes-val", "--results", str(runs.parent)]
        label = ["label", "--source", "template", "--split", "shapes-val", "--limit", "300", "--device", "cpu"]
        scorer = HERE.parents[1] / "clipvg" / "weights" / "tiny-clipvg.safetensors"
        score = ["label", "score", str(folder / "l.jsonl"), "--scorer", str(scorer), "--split", "shapes-val"]
        prepare = ["data", "prepare", "refcoco-val", "--subset", "--annotations", str(annotations)]
        subprocess.run([sys.executable, *BENCH, *label, "--out", str(folder / "l.jsonl")], check=True)
        commands: dict[str, Callable[[Path], list[str]]] = {
            "study": lambda out: ["run", "--study", str(folder / "study.toml"), "--results", str(out)],
            "label": lambda out: [*label, "--out", str(out / "labels.jsonl")],
            "score": lambda out: [*score, "--device", "cpu", "--batch-size", "4", "--out", str(out)],
            "prepare": lambda out: prepare,
            "report": lambda out: [*report, "--out", str(out / "report.html")],
            "leaderboard": lambda out: ["leaderboard", "--results", str(out)],
        }
        for name in options.only.split(",") if options.only else commands:

            def started(out: Path, words: Callable[[Path], list[str]] = commands[name]) -> list[subprocess.Popen[str]]:
                out.mkdir(exist_ok=True)
                if words is commands["leaderboard"] and not (out / "runs").exists():
                    (out / "runs").symlink_to(runs)
                return [start([sys.executable, *BENCH, *words(out)], BENCH_HOME=str(out / "home"))]

            begun = folder / name
            begun.mkdir()
            outcome = study_outcome if name == "study" else written
            done, same, length = compare(started, outcome, begun, options.kills, rng, (0.2, 1.0))
            wrong += not same
            print(f"{name}: {done} kills of a command of {length:.1f} s: {'the same' if same else 'OTHER'}", flush=True)
    return 1 if wrong else 0


def random_clip(place: Path, model: str, path: Path | None = None) -> list[str]:
    """Return the option that names a CLIP's weights: a file, else random ones that are written to `place`."""
    if path is None:
        torch.manual_seed(0)
        path = place / "clip.safetensors"
        weights.write_safetensors(path, empty_model(model).state_dict(), {})
    return ["--set", f"clip.pretrained={path}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    own: dict[Callable[[argparse.Namespace], int], dict[str, Any]] = {
        run: {"kills": 3, "repeats": 20, "ranks": 1},
        train: {"kills": 10, "pipeline": "clipvg", "processes": 1, "epochs": 40},
        curriculum: {"kills": 8, "clip": None},
        files: {"kills": 5, "only": ""},
    }
    for work, defaults in own.items():
        command = commands.add_parser(work.__name__, help=work.__doc__)
        command.set_defaults(work=work)
        for name, value in {**defaults, "seed": 0}.items():
            command.add_argument(f"--{name}", type=Path if value is None else type(value), default=value)
    options = parser.parse_args()
    return int(options.work(options))


if __name__ == "__main__":
    sys.exit(main())
