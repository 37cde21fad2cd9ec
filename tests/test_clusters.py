"""Two launchers, each of two processes, as on two nodes: the evaluation of docs/clusters.md, for real.

That ranks may be killed and come back in other numbers is in runs/test_kills.py; here torchrun itself starts them. The
page's scripts are ones that bash takes; that their commands are ours is in test_docs.py.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from documented import blocks

from bench.runs.packed import stored_bytes
from bench.settings import PROJECT

COMMAND = ["run", "--pipeline", "centre-box", "--split", "shapes-val", "--limit", "13", "--json"]
LIMIT_S = 300  # on a machine full of other work; a few seconds are enough


PAGE = PROJECT / "docs" / "clusters.md"


@pytest.mark.parametrize("script", blocks(PAGE, {"bash"}))
def test_a_script_of_the_page_is_one_that_bash_takes_and_slurm_requeues(script):
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "--requeue" in script and "--signal=B:USR1@" in script
    assert "trap 'scontrol requeue" in script and script.rstrip().endswith("wait $!")


def test_every_srun_of_the_page_says_how_many_cpus_it_takes():
    lines = [line for body in blocks(PAGE) for line in body.replace("\\\n", " ").splitlines()]
    steps = [line for line in lines if line.strip().startswith("srun ")]
    assert len(steps) >= 4 and [line for line in steps if "--cpus-per-task" not in line] == []


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def start(tmp_path):
    """start(words before `bench`'s own, results) -> a process in a folder of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TORCHELASTIC_"))}
    env |= {"BENCH_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}

    def go(before: list[str], results: Path) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", *before, "bench.cli.main", *COMMAND, "--results", str(results)]
        return subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return go


def printed_rows(process: subprocess.Popen[str]) -> list[dict]:
    """The JSON objects among what it printed."""
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def stored(results: Path) -> dict[str, bytes]:
    (folder,) = (path.parent for path in results.rglob("run.json"))
    assert sorted(path.name for path in folder.glob("predictions*")) == ["predictions.packed"]
    return {stem: stored_bytes(folder, stem) for stem in ("predictions", "outcomes")}


@pytest.mark.slow
def test_two_nodes_of_two_processes_are_one_process(start, tmp_path):
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}"]
    launcher = ["torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2", *meeting, "-m"]
    nodes = [start(launcher, tmp_path / "four") for _ in range(2)]
    lines = [line for node in nodes for line in printed_rows(node)]
    rows = [row for line in lines for row in line["rows"]]
    (alone,) = printed_rows(start([], tmp_path / "one"))[0]["rows"]
    assert len(lines) == len(rows) == 1, "process 0 alone speaks"
    assert {k: rows[0][k] for k in ("n", "hits", "ci95", "mean_iou", "signature", "strata")} == {
        k: alone[k] for k in ("n", "hits", "ci95", "mean_iou", "signature", "strata")
    }
    assert stored(tmp_path / "four") == stored(tmp_path / "one")
