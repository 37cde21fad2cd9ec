"""Measure `bench --help` against a bare Typer app with 18 empty commands, in turn; prints the ratio of the medians.

usage: python tools/benchmarks/help_time.py [PAIRS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = 18
BARE = """
import typer

app = typer.Typer(no_args_is_help=True, add_completion=False)
{commands}
app()
"""


def seconds(script: str) -> float:
    """Time one process that prints its help."""
    began = time.perf_counter()
    subprocess.run([sys.executable, script, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(pairs: int) -> None:
    """Time both in turn, so that whatever else the machine does slows both."""
    command = '@app.command()\ndef command{0}() -> None:\n    """Do the thing number {0}."""\n\n'
    with tempfile.TemporaryDirectory() as folder:
        ours, bare = Path(folder) / "ours.py", Path(folder) / "bare.py"
        ours.write_text("from bench.cli.main import main\n\nmain()\n")
        bare.write_text(BARE.format(commands="".join(map(command.format, range(COMMANDS)))))
        seconds(str(ours)), seconds(str(bare))  # the first of each fills the caches
        times = [(seconds(str(ours)), seconds(str(bare))) for _ in range(pairs)]
    a, b = (statistics.median(each) for each in zip(*times, strict=True))
    print(f"bench --help {a:.3f} s, {COMMANDS} empty commands {b:.3f} s: ratio {a / b:.2f} (median of {pairs} pairs)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
