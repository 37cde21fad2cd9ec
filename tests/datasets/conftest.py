"""Settings whose home is a folder of the test."""

import pytest

from bench.settings import Resolved, RunSettings, Settings


@pytest.fixture
def resolved(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    return Resolved(Settings(run=RunSettings(offline=True)), folder=tmp_path)
