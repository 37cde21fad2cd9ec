"""One process at a time on a run."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import RunError
from bench.runs.lock import holder, locked

HOLD = (
    "import sys, time; from pathlib import Path; from bench.runs.lock import locked\n"
    "with locked(Path(sys.argv[1]), 'this run', {'launch': 'a'}): print('held', flush=True); time.sleep(60)\n"
)


def test_the_second_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        note = holder(path)
        assert note is not None and note["launch"] == "a" and note["pid"] == other.pid
        in_use = f"this run is in use by process {other.pid} on .*; wait for it to end"
        with pytest.raises(RunError, match=in_use), locked(path, "this run", patience_s=0.1):
            pass
    finally:
        other.kill()
        other.wait()
    assert path.exists(), "a killed process leaves the file"
    assert holder(path) is None
    with locked(path, "this run"):
        assert holder(path) is not None
    assert not path.exists()


def test_held_twice_in_one_process(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock", "this run"),
        pytest.raises(RunError, match="in use"),
        locked(tmp_path / "lock", "this run", patience_s=0.1),
    ):
        pass
    with locked(tmp_path / "lock", "this run"):
        pass
