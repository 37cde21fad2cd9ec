"""Shared by all tests: no time limits inside properties (machines are busy), no network, and ../shared where it is."""

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
def shared() -> Path:
    """Real data for tests where it is at hand: BENCH_SHARED, or a folder `shared` beside the checkout."""
    folder = Path(os.environ.get("BENCH_SHARED") or Path(__file__).resolve().parents[2] / "shared") / "data"
    if not folder.is_dir():
        pytest.skip("no real data beside this checkout")
    return folder
