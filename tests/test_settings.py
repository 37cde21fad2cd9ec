"""bench.toml: layers, unknown keys, and where each value came from."""

import os

import pytest

from bench.cli.options import assignments
from bench.errors import SettingsError
from bench.settings import PROJECT, default_file, load_settings, merged


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_CONFIG", raising=False)
    monkeypatch.delenv("BENCH_HOME", raising=False)
    return tmp_path


def test_a_file_wins_over_the_project_and_a_flag_over_both(folder):
    resolved = load_settings()
    assert default_file() == PROJECT / "bench.toml" and resolved.settings.run.batch_size == 0
    assert "run.batch_size" not in resolved.origin and resolved.origin["pipelines.mdetr.weights"] == "bench.toml"
    (folder / "bench.toml").write_text("[run]\nbatch_size = 3\nseed = 5\n")
    resolved = load_settings(flags={"run.seed": 9, "run.device": None})
    assert (resolved.settings.run.batch_size, resolved.settings.run.seed) == (3, 9)
    assert resolved.origin["run.batch_size"] == str(folder / "bench.toml")
    assert resolved.origin["run.seed"] == "flag" and resolved.settings.run.device == "auto"


@pytest.mark.parametrize(("text", "message"), [
    ("[run]\nbatchsize = 3", "did you mean 'batch_size'"),
    ("[runs]\nseed = 3", "did you mean 'run'"),
    ("[run]\nbatch_size = -1", "greater than or equal to 0"),
    ("[run]\ndtype = 'int8'", "float32"),
    ("[data.shapes]\nsed = 1", "did you mean 'seed'"),
    ("[run\n", "bench.toml"),
])  # fmt: skip
def test_a_mistake_is_named_with_its_file(folder, text, message):
    (folder / "bench.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"bench\.toml") as error:
        load_settings()
    assert message in str(error.value)
    with pytest.raises(SettingsError, match="no such settings file"):
        load_settings(folder / "other.toml")


def test_a_data_set_has_lines_of_its_own(folder):
    (folder / "bench.toml").write_text(
        "[pipelines.p]\na = 1\nb = {c = 2, d = 3}\n[pipelines.p.on.shapes]\nb = {c = 9}\n"
    )
    resolved = load_settings()
    assert resolved.table("pipelines", "p", "shapes") == {"a": 1, "b": {"c": 9, "d": 3}}
    assert resolved.table("pipelines", "p", "refcoco") == {"a": 1, "b": {"c": 2, "d": 3}}
    assert resolved.table("pipelines", "unknown", "shapes") == {}


def test_paths_in_a_users_file_start_there_and_the_environments_home_wins(folder, monkeypatch):
    (folder / "bench.toml").write_text('[pipelines.p]\nweights = "./w.pt"\n[data]\nhome = "./cache"\n')
    assert load_settings().table("pipelines", "p", "")["weights"] == str(folder / "w.pt")
    assert load_settings().home == folder / "cache"
    monkeypatch.setenv("BENCH_HOME", str(folder / "other"))
    assert load_settings().home == folder / "other"


def test_set_takes_toml_values_and_plain_words():
    pairs = ["ranker.margin=0.1", 'ranker.views=["blur"]', "proposer.weights=yolov8n.pt", "a=true"]
    assert assignments(pairs) == {
        "ranker": {"margin": 0.1, "views": ["blur"]}, "proposer": {"weights": "yolov8n.pt"}, "a": True,
    }  # fmt: skip
    with pytest.raises(SettingsError, match="KEY=VALUE"):
        assignments(["margin"])


def test_merging_changes_neither_side():
    base, over = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merged(base, over) == {"a": {"b": 1, "c": 2}}
    assert (base, over) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_offline_holds_for_libraries_imported_before_and_after(folder, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    load_settings()
    assert not constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "0"
    load_settings(flags={"run.offline": True})
    assert constants.HF_HUB_OFFLINE
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"


def test_an_error_carries_the_unknown_keys(folder):
    with pytest.raises(SettingsError) as caught:
        load_settings(flags={"run.sed": 1, "run.device": "cpu", "data.shapes.sed": 2})
    assert caught.value.keys == {"run.sed", "data.shapes.sed"}
