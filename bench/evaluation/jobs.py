"""Pairs of a study in several processes: workers of this machine, or the tasks of a Slurm array.

A worker is the same command with `--worker`. It gets numbers of pairs on stdin, one at a time, and prints a mark on
stderr after each, so that imports are paid once. A worker that dies costs its pair only: the next one gets another.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from queue import SimpleQueue

from bench.errors import BenchError, UsageError
from bench.evaluation.device import visible_gpus
from bench.evaluation.progress import message
from bench.evaluation.study import Pair, stored
from bench.runs.shards import from_environment
from bench.runs.store import Run

DONE, FAILED = "\x1e", "\x1e failed"  # the line after a pair
STOP_S = 20.0  # how long a worker may take to leave, after Ctrl-C
BENCH = "import sys; sys.argv[0] = 'bench'; from bench.cli.main import main; main()"


def requested(pairs: Sequence[Pair], failed: Mapping[int, str]) -> Iterator[Pair]:
    """Yield the pairs whose numbers arrive on stdin: a worker's side. `failed` has those that failed since."""
    by_number = {pair.number: pair for pair in pairs}
    for line in sys.stdin:
        yield by_number[int(line)]
        if why := failed.get(int(line)):
            print(f"bench: {why}", file=sys.stderr)
        print(FAILED if why else DONE, file=sys.stderr, flush=True)


def run_all(
    pairs: Sequence[Pair], words: Sequence[str], jobs: int, fresh: bool
) -> tuple[dict[int, Run], dict[int, str]]:
    """Run pairs by `jobs` workers of the command `words`; returns by number the runs, and why the others failed.

    Finished runs start no worker, unless all are run `fresh`. Raises UsageError below torchrun or srun.
    """
    if from_environment().size > 1:
        raise UsageError("--jobs starts processes of its own: use it without torchrun or srun")
    runs: dict[int, Run] = {}
    failed: dict[int, str] = {}
    for pair in () if fresh else pairs:
        with suppress(BenchError):  # its worker will tell
            if (run := stored(pair)) and run.already_done:
                message(f"{pair}: done before, nothing computed ({run.folder}); --fresh runs it again")
                runs[pair.number] = run
    todo = {pair.number: pair for pair in pairs if pair.number not in runs}
    if not todo:
        return runs, failed
    begun = time.monotonic()
    with closing(in_parallel(words, list(todo), jobs, pairs[0].resolved.settings.run.device)) as ended:
        for count, (number, failure) in enumerate(ended, 1):
            pair, run = todo[number], None if failure else stored(todo[number])
            if run:
                runs[number] = run
                what = f"{run.record.metrics.accuracy:.2%}" if run.record.metrics else "unfinished"
            else:
                failed[number], what = failure or "its run is not where it was stored", "failed"
            left = f"{len(todo) - count} of {len(todo)} left, {time.monotonic() - begun:,.0f} s so far"
            message(f"[{number}] {pair}: {what} ({left})")
    return runs, failed


def in_parallel(
    words: Sequence[str], numbers: Sequence[int], jobs: int, device: str
) -> Generator[tuple[int, str], None, None]:
    """Run pairs in at most `jobs` workers of the command `words`; yields (number, why it failed or "") as they end.

    Every worker has its share of the processor's threads and, where there are several GPUs, one of them. Ctrl-C and
    SIGTERM stop all workers before KeyboardInterrupt is raised.
    """
    todo, ended = deque(numbers), SimpleQueue[tuple[int, str]]()
    workers: list[subprocess.Popen[str]] = []
    guard, stopping = threading.Lock(), threading.Event()

    def start(env: Mapping[str, str]) -> subprocess.Popen[str]:
        with guard:
            if stopping.is_set():
                raise InterruptedError("stopped")
            # A session of its own: the terminal's Ctrl-C reaches this process only, which hands it on once.
            command = [sys.executable, "-P", "-c", BENCH, *words, "--worker"]
            worker = subprocess.Popen(
                command, env=env, start_new_session=True, text=True, errors="replace",
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            workers.append(worker)
            return worker

    def work(env: Mapping[str, str]) -> None:
        worker: subprocess.Popen[str] | None = None
        while todo:
            try:
                number = todo.popleft()
            except IndexError:  # another thread was faster
                break
            try:
                worker = worker or start(env)
                failure = _run_one(worker, number)
            except OSError as error:
                failure = str(error)
            if worker and worker.poll() is not None:
                worker = None
            ended.put((number, failure))
        if worker and worker.stdin:
            worker.stdin.close()

    before = signal.signal(signal.SIGTERM, _interrupt)
    for env in environments(min(jobs, len(numbers)), visible_gpus(device)):
        threading.Thread(target=work, args=(env,), daemon=True).start()
    try:
        for _ in numbers:
            yield ended.get()
    except KeyboardInterrupt:
        message("stopped; the same command continues")
        raise
    finally:
        with guard:
            stopping.set()
            todo.clear()
        if running := [worker for worker in workers if worker.poll() is None]:
            _stop(running)
        signal.signal(signal.SIGTERM, before)


def _run_one(worker: subprocess.Popen[str], number: int) -> str:
    """Have a worker run one pair, and print its lines; returns why it failed, or ""."""
    assert worker.stdin and worker.stderr
    with suppress(OSError):  # it may have died; its last lines tell why
        print(number, file=worker.stdin, flush=True)
    last = error = ""
    for line in worker.stderr:
        if line.rstrip("\n") in (DONE, FAILED):
            return error.removeprefix("bench: ").strip() if line.rstrip("\n") == FAILED else ""
        message(f"[{number}] {line.rstrip()}")
        last = line.strip() or last
        error = line if line.startswith("bench: ") else error and error + line  # it may have several lines
    code = worker.wait()
    return f"its process was ended by {signal.Signals(-code).name}" if code < 0 else last or f"exit code {code}"


def _stop(workers: Sequence[subprocess.Popen[str]]) -> None:
    """End workers as Ctrl-C does, and after STOP_S for good."""
    try:
        for worker in workers:
            worker.send_signal(signal.SIGINT)
        for worker in workers:
            worker.wait(STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def environments(jobs: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """Make the environment of each worker: its threads, and its GPU where there are several."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cpus // jobs))
    envs = [{"OMP_NUM_THREADS": threads, **os.environ} for _ in range(jobs)]
    if len(gpus) > 1:
        for slot, env in enumerate(envs):
            env["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return envs


SCRIPT = """\
#!/bin/bash
# {count} runs as an array: `sbatch FILE` starts them, `bench leaderboard` joins them afterwards. Change what follows.
#SBATCH --job-name={name} --array=1-{count}
#SBATCH --ntasks=1 --cpus-per-task=8{gpu} --mem=32G --time=04:00:00
# The log of run I is {name}-JOB_I.log in this folder; a run that comes back appends to it.
#SBATCH --chdir={folder} --output=%x-%A_%a.log --open-mode=append
# Two minutes before the time limit the job is stopped and queued again; the run continues from what is stored.
#SBATCH --requeue --signal=B:USR1@120

{lines}

trap 'scontrol requeue "$SLURM_JOB_ID"' USR1
# Since Slurm 22.05 srun does not take --cpus-per-task from sbatch. In the background, so that the trap runs at once.
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" {command} --task "$SLURM_ARRAY_TASK_ID" &
wait $!
"""


def array_script(words: Sequence[str], pairs: Sequence[Pair], name: str) -> str:
    """Write the sbatch script in which task I of an array is `words --task I`."""
    program = "bench" if shutil.which("bench") else f"{shlex.quote(sys.executable)} -m bench.cli.main"
    return SCRIPT.format(
        count=len(pairs),
        name=name,
        folder=shlex.quote(str(Path.cwd())),
        gpu="" if all(pair.resolved.settings.run.device == "cpu" for pair in pairs) else " --gpus-per-task=1",
        lines="\n".join(f"# {pair.number:3}  {pair}" for pair in pairs),
        command=f"{program} {shlex.join(words)}",
    )
