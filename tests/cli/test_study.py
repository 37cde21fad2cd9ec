"""`bench run --study`, alone and by several processes, as a user meets it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.runs.packed import stored_bytes

STUDY = """
pipelines = ["centre-box", "whole-image"]
splits = ["file:one.jsonl", "file:two.jsonl"]
[run]
device = "cpu"
[[variant]]
name = "half"
pipelines = ["centre-box"]
set = { share = 0.5 }
[[variant]]
name = "most"
pipelines = ["centre-box"]
set = { share = 0.9 }
"""
NAMES = ["centre-box (half)", "centre-box (most)", "centre-box (half)", "centre-box (most)", *["whole-image"] * 2]
LIMIT_S = 300  # on a machine full of other work; a few seconds are enough
SLEEPER = """
import os, pathlib, sys, time
from bench.grounding import PipelineCard, Prediction

class Sleeper:
    def __init__(self, context):
        self.card = PipelineCard("sleeper", "the whole image, late", supervision="none")

    def ground(self, batch):
        if batch[0].id != self.first(batch[0].id) and not pathlib.Path("go").exists():
            print("waits in", os.getpid(), file=sys.stderr, flush=True)
            while not pathlib.Path("go").exists():
                time.sleep(0.05)
        return [Prediction(query.id, (0.0, 0.0, 40.0, 30.0)) for scene in batch for query in scene.queries]

    def first(self, id):
        vars(self).setdefault("id", id)
        return self.id
"""


@pytest.fixture
def run(bench, tmp_path):
    """run(*words) -> exit code, stdout, stderr; in a folder with study.toml, its two splits and a quick bootstrap."""
    for name in ("one", "two"):
        rows = []
        for number in range(3):
            Image.fromarray(np.full((30, 40, 3), 40 * number, np.uint8)).save(tmp_path / f"{name}{number}.png")
            row = {"id": f"{number}", "image": f"{name}{number}.png", "width": 40, "height": 30, "text": name}
            rows.append(row | {"box_xyxy": [0, 0, 40, 30]})
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bench.toml").write_text("[evaluation]\ndraws = 100\n")
    (tmp_path / "study.toml").write_text(STUDY)
    return lambda *words: bench("run", "--study", "study.toml", *words)


def states(out):
    return [(pair["number"], pair["state"]) for pair in json.loads(out.splitlines()[-1])["pairs"]]


def test_a_study_is_run_in_parts_and_never_twice(run):
    code, out, _ = run("--dry-run", "--json")
    assert code == 0 and states(out) == [(n, "to do") for n in range(1, 7)] and not Path("results").exists()
    code, _, err = run("--task", "2", "--json")
    assert code == 0, err
    code, out, _ = run("-p", "whole-image", "--dry-run", "--json")
    assert states(out) == [(5, "to do"), (6, "to do")]
    code, out, err = run("--json")
    assert code == 0 and err.count("done before") == 1
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert [f"{r['pipeline']}{' (' + r['variant'] + ')' if 'variant' in r else ''}" for r in rows] == NAMES
    assert [row["hits"] for row in rows] == [0, 3, 0, 3, 3, 3]
    code, out, err = run("--jobs", "2")
    assert code == 0 and err.count("done before, nothing computed") == 6 and "centre-box (most)" in out
    code, out, _ = run("--dry-run")
    assert code == 0 and out.count("done") == 6 and len(out.splitlines()) == 7


@pytest.mark.parametrize(("words", "message"), [
    (("--task", "7"), "study.toml: --task, -p and -s choose none of the 6 pairs"),
    (("-p", "mdetr"), "choose none of the 6 pairs"),
    (("--set", "share"), "--set share: expected KEY=VALUE"),
])  # fmt: skip
def test_mistakes_are_one_message_and_leave_nothing(run, words, message):
    code, out, err = run(*words)
    assert (code, out) == (2, "") and message in err and "Traceback" not in err and not Path("results").exists()


def test_without_a_study_both_lists_are_needed(bench):
    code, _, err = bench("run", "--pipeline", "centre-box")
    assert code == 2 and "needs --pipeline and --split, or --study FILE" in err


def test_the_printed_script_is_the_command_itself(run):
    code, out, _ = run("--seed", "3", "--slurm")
    assert code == 0 and 'run --study study.toml --seed 3 --task "$SLURM_ARRAY_TASK_ID" &' in out
    assert "--array=1-6" in out and not Path("results").exists()


@pytest.mark.slow
def test_jobs_give_the_rows_of_one_process_and_a_failure_stops_no_other(run):
    Path("one0.png").write_bytes(b"")
    for number in range(3):
        Path(f"two{number}.png").unlink()
    code, out, err = run("--jobs", "2", "--json")
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert code == 2, err
    assert [(row["pipeline"], row["split"], row["hits"], row["errors"]) for row in rows] == [
        ("centre-box", "file:one", 0, 1), ("centre-box", "file:one", 2, 1), ("whole-image", "file:one", 2, 1)
    ]  # fmt: skip
    closing = err[err.index("3 of 6 failed:") :]
    assert "[3] centre-box (half) on file:two: file:two: none of its 3 images is there" in closing
    assert "Traceback" not in err and "left, " in err
    code, _, err = run("--jobs", "2", "-s", f"file:{Path('one.jsonl').resolve()}")
    assert code == 3, "only unreadable images are left"


@pytest.fixture
def stuck(run, tmp_path):
    """stuck(*words) -> `bench run` of two pairs in a process of its own, and the ids of those that ground.

    Each pair has answered its first image and waits at the second for ever, unless there is a file `go`.
    """
    (tmp_path / "sleeper-1.dist-info").mkdir()
    (tmp_path / "sleeper-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: sleeper\nVersion: 1\n")
    (tmp_path / "sleeper-1.dist-info" / "entry_points.txt").write_text("[bench.pipelines]\nsleeper = sleeper:Sleeper\n")
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    (tmp_path / "study.toml").write_text(
        STUDY.split("[[variant]]")[0].replace("centre-box", "sleeper") + "batch_size = 1\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    started = []

    def start(*words):
        command = [sys.executable, "-m", "bench.cli.main", "run", "--study", "study.toml", "-p", "sleeper", *words]
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        pids = []
        while not Path("go").exists() and len(pids) < (2 if "2" in words else 1):
            line = process.stderr.readline()
            assert line, "it ended too early"
            if "waits in" in line:
                pids.append(int(line.split()[-1]))
        return process, pids

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_study_leaves_no_process_and_is_continued(stuck, number):
    process, pids = stuck("--jobs", "2")
    process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + number and "stopped; the same command continues" in err
    assert not any(map(alive, pids)) and "Traceback" not in err
    out, _ = stuck_free(stuck, "--dry-run", "--json")
    assert states(out) == [(1, "partial"), (2, "partial")]
    out, err = stuck_free(stuck, "--jobs", "2", "--json")
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert [row["hits"] for row in rows] == [3, 3], err
    records = [json.loads((Path(row["run_dir"]) / "run.json").read_text()) for row in rows]
    assert [record["sessions"] for record in records] == [2, 2]


def stuck_free(start, *words):
    """Run the command with nothing that it has to wait for."""
    Path("go").touch()
    process, _ = start(*words)
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    return out, err


@pytest.mark.slow
def test_a_process_that_is_killed_costs_its_pair_only(stuck):
    process, (first, _) = stuck("--jobs", "2")
    os.kill(first, signal.SIGKILL)
    Path("go").touch()
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2 and "1 of 2 failed:" in err and "its process was ended by SIGKILL" in err


@pytest.mark.slow
def test_a_run_that_the_time_limit_ends_is_continued(stuck):
    process, _ = stuck("--task", "1")
    process.terminate()  # what Slurm sends before SIGKILL
    assert process.wait(LIMIT_S) == 143
    assert "stopped; the same command continues this run" in process.stderr.read()
    out, _ = stuck_free(stuck, "--task", "1", "--json")
    (row,) = json.loads(out.splitlines()[-1])["rows"]
    times = stored_bytes(Path(row["run_dir"]), "batches").splitlines()
    assert [json.loads(line)["session"] for line in times] == [1, 2, 2] and row["hits"] == 3
