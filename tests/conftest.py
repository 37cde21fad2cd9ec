"""Shared by all tests: no time limits inside properties (machines are busy), no network, real files where they are."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("bench", deadline=None, max_examples=60)
settings.load_profile("bench")
for offline in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(offline, "1")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")


@pytest.fixture(scope="session")
def real() -> Path:
    """Real data where it is at hand: the folder BENCH_REAL, or shared/data beside the checkout."""
    folder = Path(os.environ.get("BENCH_REAL") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real data beside this checkout, nor in BENCH_REAL")
    return folder


def pytest_collection_modifyitems(items):
    """Mark the tests that take real files or a browser by the fixtures they take."""
    for item in items:
        for name in {"real", "browser"} & set(item.fixturenames):
            item.add_marker(name)
