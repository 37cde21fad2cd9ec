"""Take the images of docs/report.md from the report of the repository's own runs in headless Chromium.

    python -m tools.benchmarks.report_screenshots [--out docs] [--browser /usr/bin/chromium]

Each stays below 300 kB.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from bench.datasets.load import load_split
from bench.reporting.report.page import write_report
from bench.reporting.report.selection import choose
from bench.settings import PROJECT, load_settings

FLIPS = "#a=reclip&b=yolo-clip&show=a-right&sort=a-over-b&proposals=1"
LARGE = FLIPS + "&on=reclip&on=mdetr&on=yolo-clip&e=val-000240-6"
MOST = 295_000  # bytes
SHOTS: dict[str, dict[str, Any]] = {
    "report-light.png": {"width": 1360, "height": 1000},
    "report-comparison.png": {"width": 1360, "height": 900, "part": "comparison"},
    "report-strata.png": {"width": 1360, "height": 900, "part": "strata"},
    "report-speed.png": {"width": 1360, "height": 760, "part": "speed"},
    "report-dark.png": {"width": 1360, "height": 1000, "hash": FLIPS, "scheme": "dark"},
    "report-narrow.png": {"width": 400, "height": 860, "hash": FLIPS, "part": "cards"},
    "report-large.png": {"width": 1360, "height": 860, "hash": LARGE},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=Path, default=PROJECT / "results")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs")
    parser.add_argument("--browser", default="/usr/bin/chromium")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    split, runs = choose([], load_split("shapes-val", load_settings()), options.results)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        made = write_report(split, runs, Path(folder) / "report.html")
        opened = driver.chromium.launch(executable_path=options.browser, args=flags)
        for name, how in SHOTS.items():
            size = {"width": how["width"], "height": how["height"]}
            page = opened.new_context(viewport=size, color_scheme=how.get("scheme", "light")).new_page()
            page.goto(made["path"].as_uri() + how.get("hash", ""))
            page.wait_for_selector("html[data-ready]", state="attached")
            if "part" in how:
                page.evaluate(
                    "(id) => document.getElementById(id).scrollIntoView({ behavior: 'instant' })", how["part"]
                )
            page.wait_for_timeout(200)
            save(page.screenshot(), options.out / name)
        opened.close()


def save(png: bytes, path: Path) -> None:
    """In full colour where that stays below MOST, else in 256 colours."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.save(path, optimize=True)
    if path.stat().st_size > MOST:
        image.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
