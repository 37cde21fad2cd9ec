"""`bench ...` as a user types it."""

import sys

import pytest

from bench.cli.main import main


@pytest.fixture
def bench(monkeypatch, capsys, tmp_path):
    """bench(*words) -> exit code, stdout and stderr of the command, run in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, argv)])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    return run
