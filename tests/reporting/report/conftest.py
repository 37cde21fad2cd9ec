"""The made-up world of reports (tests/report_world.py), its report as a file, and a page of Chromium with it."""

from pathlib import Path

import pytest
from report_world import World, make_split, run_all

from bench.reporting.report.gallery import answered
from bench.reporting.report.selection import choose


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    results = tmp_path_factory.mktemp("results")
    split = make_split()
    folders = run_all(split, results)
    split, runs = choose([str(folder) for folder in folders], split, results)
    return World(split, results, runs, [answered(run, split.scenes) for run in runs])


@pytest.fixture(scope="session")
def report(world, tmp_path_factory) -> Path:
    """The whole report of the made-up world as a file."""
    return world.report(tmp_path_factory.mktemp("report") / "report.html")["path"]


@pytest.fixture
def visit(browser, report):
    """visit(hash="", file=report, width=1200, height=900, scheme="light"): the report in a page of its own.

    Ends in a failure where the page wrote anything on its console, threw, or asked for anything but itself.
    """
    complaints, contexts = [], []

    def go(hash_="", file=report, width=1200, height=900, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme))
        page = contexts[-1].new_page()
        address = file.as_uri()
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda r: r.url.startswith(("data:", address)) or complaints.append(f"asked for {r.url}"))
        page.goto(address + hash_)
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []
