"""Packages of others that go wrong: one line each, and no other pipeline or command is stopped."""

import json

import pytest
from bad_plugins import IMPORTS, installed

from bench import registry


@pytest.fixture
def plugins(tmp_path_factory, monkeypatch):
    monkeypatch.syspath_prepend(installed(tmp_path_factory.mktemp("site")))
    registry._entries.cache_clear()
    yield
    registry._entries.cache_clear()


@pytest.mark.parametrize("name", [
    *(f"import-{name}" for name in IMPORTS), "bad-leaves", "bad-factory_leaves", "bad-odd", "bad-no_card",
    "bad-card_raises", "bad-card_of_numbers", "bad-note", "bad-half_note",
])  # fmt: skip
def test_a_pipeline_that_fails_is_one_line_and_stops_no_other(bench, plugins, name):
    code, out, err = bench("run", "-p", f"{name},bad-good", "-s", "shapes-val", "--limit", "3", "--json")
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert (code, [row["pipeline"] for row in rows]) == (2, ["bad-good"])
    assert rows[0]["n"] > 0 and "1 of 2 failed" in err and "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith(f"{name} on shapes-val: ")]
    assert "sys.exit" not in line and len(line) < 300
    code, out, err = bench("run", "-p", name, "-s", "shapes-val", "--limit", "3")
    assert code == 2 and "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("bench: ")]) == 1


@pytest.mark.parametrize("name", ["import-exits", "bad-leaves", "bad-odd", "bad-factory_leaves"])
def test_predict_gives_the_same_line(bench, plugins, name):
    code, out, err = bench("predict", "-p", name, "--scene", "shapes-val/val-000003", "--text", "a star")
    assert (code, out) == (2, "") and f"bench: pipeline '{name}'" in err and "Traceback" not in err


@pytest.mark.parametrize("words", [
    pytest.param(("doctor",), marks=pytest.mark.slow), pytest.param(("config", "show"), marks=pytest.mark.slow),
    ("list", "splits"), ("list", "pipelines"), ("data", "list"),
    ("predict", "-p", "centre-box", "--scene", "shapes-val/val-000003", "--text", "a star"),
])  # fmt: skip
def test_an_unrelated_command_works(bench, plugins, words):
    code, out, err = bench(*words)
    assert (code, "Traceback" in out + err) == (0, False)
    if words[0] == "doctor":
        assert sum("import-" in line for line in out.splitlines()) == len(IMPORTS)


def test_doctor_tries_a_pipeline_that_leaves(bench, plugins):
    code, out, _ = bench("doctor", "-p", "bad-leaves")
    assert code == 1 and "SystemExit" in out


def test_a_data_set_that_is_none_is_refused_by_its_name(bench, plugins):
    code, _, err = bench("run", "-p", "centre-box", "-s", "evil-val")
    assert code == 2 and "'evil'" in err and "bench.datasets.split.Dataset" in err
    code, _, err = bench("run", "-p", "centre-box", "-s", "evil-exits-val")
    assert code == 2 and "'evil-exits'" in err and "SystemExit: 3" in err


def test_a_label_source_that_cannot_be_imported(bench, plugins):
    code, _, err = bench("label", "--source", "import-exits", "--split", "shapes-val", "--out", "l.jsonl")
    assert code == 2 and "label source 'import-exits' cannot be loaded" in err
