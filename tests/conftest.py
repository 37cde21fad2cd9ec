"""Shared by all tests: no time limits inside properties (machines are busy), no network, real files where they are."""

import ctypes
import gc
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
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


KEPT = [0]  # bytes of this process when memory was last given back


@pytest.fixture(autouse=True)
def memory_given_back():
    """Give back what a large test's networks held: cycles, which Python 3.11 seldom collects, in many pieces."""
    yield
    process = psutil.Process()
    if process.memory_info().rss > KEPT[0] + 2**29:
        gc.collect()
        if sys.platform == "linux":
            with suppress(OSError, AttributeError):  # another C library than glibc
                ctypes.CDLL("libc.so.6").malloc_trim(0)
        KEPT[0] = process.memory_info().rss


@pytest.fixture
def killed_left():
    """Leave beside a path the .part, a file or a folder with one, of a process that was killed an hour ago."""
    dead = subprocess.Popen(["true"])
    dead.wait()

    def leave(path: Path, folder: bool = False) -> Path:
        left = path.with_name(f".{path.name}.{dead.pid}.part")
        (left if folder else left.parent).mkdir(parents=True, exist_ok=True)
        (left / "half" if folder else left).write_text("half")
        os.utime(left, (time.time() - 3600,) * 2)
        return left

    return leave


def chromium() -> str | None:
    return os.environ.get("BENCH_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
    )


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium. Where there is none tests are skipped, or fail where BENCH_NEED_BROWSER=1 insists."""
    path = chromium()
    if path is None:
        why = "no Chromium on this machine; install one, or name its file in BENCH_CHROMIUM"
        if os.environ.get("BENCH_NEED_BROWSER") == "1":
            pytest.fail(why)
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=[*flags, "--disable-background-networking"])
        yield opened
        opened.close()


def pytest_collection_modifyitems(items):
    """Mark the tests that take real files or a browser by the fixtures they take."""
    for item in items:
        for name in {"real", "browser"} & set(item.fixturenames):
            item.add_marker(name)
