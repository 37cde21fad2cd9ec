"""Pairs of a study in several processes: of this machine, or the tasks of a Slurm array.

A process is the same command with `--task I`, so one that dies costs its pair only.
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
from collections.abc import Collection, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from pathlib import Path
from queue import SimpleQueue

from bench.cores import usable_cores
from bench.errors import BenchError, UsageError
from bench.evaluation.device import visible_gpus
from bench.evaluation.progress import message
from bench.evaluation.study import Pair, stored
from bench.runs.shards import from_environment
from bench.runs.store import Run

STOP_S = 20.0  # how long a process may take to leave, after Ctrl-C
BENCH = "import sys; sys.argv[0] = 'bench'; from bench.cli.main import main; main()"


def run_all(
    pairs: Sequence[Pair], words: Sequence[str], jobs: int, fresh: bool
) -> tuple[dict[int, Run], dict[int, str]]:
    """Run pairs as `jobs` processes of the command `words`; returns by number the runs, and why others failed.

    Finished runs start no process, unless all are run `fresh`. Raises UsageError below torchrun or srun.
    """
    if from_environment().size > 1:
        raise UsageError("--jobs starts processes of its own: use it without torchrun or srun")
    runs: dict[int, Run] = {}
    failed: dict[int, str] = {}
    for pair in () if fresh else pairs:
        with suppress(BenchError):  # its process will tell
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
    """Run pairs as processes of the command `words`, `jobs` at a time; yields (number, why it failed or "").

    Every process has its share of the processor's threads and, where there are several GPUs, one of them. A
    KeyboardInterrupt (Ctrl-C, SIGTERM, SIGHUP) stops all of them before it is raised.
    """
    free, running = SimpleQueue[dict[str, str]](), set[subprocess.Popen[str]]()
    guard, stopping = threading.Lock(), threading.Event()
    for env in environments(min(jobs, len(numbers)), visible_gpus(device)):
        free.put(env)

    def run_one(number: int) -> tuple[int, str]:
        env = free.get()
        try:
            with guard:
                if stopping.is_set():
                    return number, "stopped"
                # A session of its own: the terminal's Ctrl-C reaches this process only, which hands it on once.
                command = [sys.executable, "-P", "-c", BENCH, *words, "--task", str(number)]
                process = subprocess.Popen(
                    command, env=env, start_new_session=True, text=True, errors="replace",
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                )  # fmt: skip
                running.add(process)
            return number, _followed(process, number)
        except OSError as error:
            return number, str(error)
        finally:
            free.put(env)

    pool = ThreadPoolExecutor(jobs)
    try:
        for future in as_completed([pool.submit(run_one, number) for number in numbers]):
            yield future.result()
    except KeyboardInterrupt:
        message("stopped; the same command continues")
        raise
    finally:
        with guard:
            stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)
        _stop([process for process in running if process.poll() is None])


def _followed(process: subprocess.Popen[str], number: int) -> str:
    """Print the lines of a pair's process until it ends; returns why it failed, or ""."""
    assert process.stderr
    last = error = ""
    for line in process.stderr:
        message(f"[{number}] {line.rstrip()}")
        last = line.strip() or last
        error = line if line.startswith("bench: ") else error and error + line  # it may have several lines
    code = process.wait()
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    failed = error.removeprefix("bench: ").strip() or last or f"exit code {code}"
    return "" if code in (0, 3) else failed  # 3: some images could not be read


def _stop(processes: Collection[subprocess.Popen[str]]) -> None:
    """End processes as Ctrl-C does, and after STOP_S for good."""
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait(STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()


def environments(jobs: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """Make the environment of each process: its threads, and its GPU where there are several."""
    threads = str(max(1, usable_cores() // jobs))
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
