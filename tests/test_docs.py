"""What the documents say is so: their links lead somewhere, their commands are ours, the pipelines and splits in them
exist, and docs/machine-output.md names every key that the verbs print, and no other.
"""

import json
import re
import tomllib
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from documented import PAGES, blocks, commands, refusal

from bench import registry
from bench.datasets.catalog import CATALOGUE
from bench.datasets.load import find_split
from bench.datasets.readers.jsonl import KEYS
from bench.evaluation.study import read_study
from bench.grounding import Prediction
from bench.predicting.one import SingleAnswer
from bench.reporting.published import published
from bench.reporting.rows import run_row
from bench.runs.record import read_record
from bench.settings import PROJECT, RunSettings, load_settings
from bench.training.config import TrainConfig

PAGE = (PROJECT / "docs" / "machine-output.md").read_text(encoding="utf-8")


def documented(heading: str) -> set[str]:
    section = PAGE.split(heading)[1].split("\n## ")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}


def test_rows():
    record = read_record(next((PROJECT / "results" / "runs" / "yolo-clip").glob("*/*/run.json")).parent)
    assert documented("## `bench run`") == {
        *run_row(record, "x"),
        "masks",
        "several",
        "perturbed",
        "drop",
        "train_images",
    }  # which few have


def test_predict():
    answer = SingleAnswer("p", "a.png", "t", np.zeros((2, 3, 3), np.uint8), Prediction("0", None))
    assert documented("## `bench predict`") == set(replace(answer, threshold=0.5).as_json())


def flag_values(words: list[str], *flags: str) -> list[str]:
    """What follows any of the flags, comma lists taken apart."""
    return [part for flag, value in pairwise(words) if flag in flags for part in value.split(",")]


SHOWN = [pytest.param(page, words, id=f"{page.name}: {' '.join(words)}") for page in PAGES for words in commands(page)]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "words"), SHOWN)
def test_a_shown_command_is_one_of_ours(page, words):
    assert refusal(words) == "", f"{page.name}: bench {' '.join(words)}"


@pytest.mark.parametrize(("page", "words"), SHOWN)
def test_a_shown_command_names_what_there_is(page, words):
    ours = [name for name in flag_values(words, "--pipeline", "-p") if not name.startswith("my-")]
    assert set(ours) <= set(registry.names(registry.PIPELINES))
    for split in flag_values(words, "--split", "-s"):
        if not split.startswith("file:"):
            find_split(split)


@cache
def headings(page) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links() -> list:
    out = []
    for page in PAGES:
        prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.M | re.S)
        targets = sorted(set(re.findall(r"\]\(((?!https?:|mailto:)[^)\s]+)\)", prose)))
        out += [pytest.param(page, target, id=f"{page.name}: {target}") for target in targets]
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("page", "target"), links())
def test_a_link_or_image_is_there(page, target):
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    assert there.exists(), f"{page.name} links {target}"
    assert there.is_relative_to(PROJECT), f"{page.name} links {target}, outside the project"
    assert not anchor or anchor in headings(there), f"{page.name} links {target}; headings: {sorted(headings(there))}"


def test_the_index_names_every_page():
    index = (PROJECT / "docs" / "README.md").read_text("utf-8")
    pages = {page.name for page in PAGES if page.parent.name == "docs"} - {"README.md"}
    assert {page for page in pages if f"({page}" not in index} == set()


def test_the_data_sets_page_has_every_key_of_a_row():
    section = (PROJECT / "docs" / "datasets.md").read_text("utf-8").split("\n## Your own")[1]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)} == set(KEYS)


def test_the_data_sets_page_has_the_published_counts():
    page = (PROJECT / "docs" / "datasets.md").read_text("utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| ?([\d,]*) ?\| ?([\d,]*) ?\| ?([\d,]*) ?\|$", page, re.MULTILINE)
    counts = {name: tuple(int(n.replace(",", "")) if n else None for n in numbers) for name, *numbers in rows}
    parts = [(f"{dataset.name}-{part.name}", part) for dataset in CATALOGUE for part in dataset.parts]
    assert counts == {name: (part.expressions, part.refs, part.images) for name, part in parts}


def fenced(language: str) -> list:
    bodies = [(page, body) for page in PAGES for body in blocks(page, {language})]
    return [pytest.param(body, id=f"{page.name}: {body.splitlines()[0]}") for page, body in bodies]


@pytest.mark.parametrize("body", fenced("toml"))
def test_settings_that_are_shown_are_settings(body, tmp_path):
    if "[project]" in body:
        assert tomllib.loads(body)["project"]["name"]
        return
    (tmp_path / "bench.toml").write_text(body, encoding="utf-8")
    if "splits" in tomllib.loads(body):
        assert read_study(tmp_path / "bench.toml").pipelines
        return
    table = load_settings(tmp_path / "bench.toml").settings
    for name in tomllib.loads(body).get("pipelines", {}):
        assert name in table.pipelines and (name.startswith("my-") or name in registry.names(registry.PIPELINES))
    for name in tomllib.loads(body).get("train", {}):
        assert registry.has(name, "tasks")


@pytest.mark.parametrize("body", fenced("json"))
def test_json_that_is_shown_is_json(body):
    assert isinstance(json.loads(body), dict)


def test_the_clusters_page_has_the_defaults_in_force():
    page = " ".join((PROJECT / "docs" / "clusters.md").read_text("utf-8").split())
    assert f"was heard from the others for {RunSettings().rank_timeout_s:g} seconds" in page
    assert f"every `save_every` steps ({TrainConfig.model_fields['save_every'].default})" in page


def test_published_numbers_of_the_reproduction_page_are_those_beside_the_leaderboard():
    page = (PROJECT / "docs" / "reproduce.md").read_text("utf-8")
    cells = [cell for line in page.splitlines() if line.startswith("| ") for cell in line.split("|")]
    numbers = {float(n) for cell in cells if re.fullmatch(r"[ \d.,]+", cell) for n in re.findall(r"\d\d\.\d\d?", cell)}
    known = {value for entry in published() for value in entry.values.values()}
    assert len(numbers) > 50 and numbers <= known, f"in no entry of published.toml: {sorted(numbers - known)}"
