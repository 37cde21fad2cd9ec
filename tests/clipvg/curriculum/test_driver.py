"""The curriculum whole, on four scenes: what it trains, keeps, says, and does after it was killed."""

import json
from dataclasses import replace

import pytest
import torch
from small_training import SCENES

from bench.errors import DataError, SettingsError, UsageError
from clipvg.curriculum import driver
from clipvg.curriculum.driver import run
from clipvg.curriculum.nodes import Nodes
from pipelines.weights import read_safetensors

pytestmark = pytest.mark.usefixtures("spread")
QUICK = {"epochs": 1, "validate_every": 100}


def manifest(job):
    return json.loads((job.out / "small.curriculum" / "manifest.json").read_text())


def decided(job):
    """Every decision and its evidence, without times and counts of this run."""
    held = manifest(job)
    held["last"].pop("nodes_done_in_this_run")
    return held


def spied(monkeypatch, wrong=None):
    """Counts trainings by the rows they see; a `wrong` call (from 1) raises KeyboardInterrupt, after the training."""
    seen = []
    real = driver.train

    def counted(job, *arguments, **options):
        made = real(job, *arguments, **options)
        seen.append(job.fingerprint)
        if wrong is not None and len(seen) == wrong:
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(driver, "train", counted)
    return seen


def test_multi_writes_weights_rows_and_the_story(job, sources):
    this = job(**QUICK)
    made = run(this, sources, "multi")["network"]
    assert made.path == this.out / "small.safetensors" and made.path.is_file()
    assert set(made.score) >= {"accuracy", "mean_iou", "n"}
    held = manifest(this)
    assert list(held["sources"]) == ["easy", "hard"], "by entities in a phrase, not as given"
    assert held["judged"] == "selected on labelled shapes-val" == made.notes["chosen_on"]
    assert [one["source"] for one in held["rounds"]] == ["easy", "hard"]
    assert set(held["reliability"]) == {f"{a} on {b}" for a in ("easy", "hard") for b in ("easy", "hard")}
    assert held["reliability"]["easy on easy"]["kind"] == "SR" and held["reliability"]["hard on easy"]["kind"] == "CR"
    folder = this.out / "small.curriculum"
    for name in ("decisions.md", "thresholds.svg", "reliability.svg"):
        assert (folder / name).read_text().strip(), name
    chosen = held["last"]["chosen"]
    for choice in chosen:
        lines = (folder / "selected" / f"{choice['source']}.jsonl").read_text().splitlines()
        rows = [json.loads(line)["provenance"] for line in lines]
        assert len(rows) == held["last"]["kept"][choice["source"]] > 0
        assert all(row["reliability"] >= choice["threshold"] - 1e-4 for row in rows)
        assert {row["measurer"] for row in rows} == {choice["measurer"]} and {row["source"] for row in rows} == {
            choice["source"]
        }
    assert held["last"]["rows"] == sum(held["last"]["kept"].values())


def test_single_searches_one_sources_own_reliability(job, source):
    this = job(**QUICK)
    run(this, [source("easy")], "single")
    held = manifest(this)
    (only,) = held["rounds"]
    assert only["measurers"] == [] and {t["measurer"] for t in only["thresholds"]} == {"easy"}
    assert [t["threshold"] for t in only["thresholds"]][:3] == [0.5, 0.4, 0.6]
    best = max(t["performance"] for t in only["thresholds"] if t["performance"] is not None)
    assert only["chosen"]["threshold"] in [t["threshold"] for t in only["thresholds"] if t["performance"] == best]


def test_no_training_is_done_twice(job, sources, monkeypatch):
    seen = spied(monkeypatch)
    run(job(**QUICK), sources, "multi")
    once = list(seen)
    assert len(once) == len(set(once)), "equal rows are one training"
    run(job(**QUICK), sources, "multi")
    assert seen == once, "the second time nothing is left to do"


@pytest.mark.parametrize("wrong", [1, 3, 5])
def test_killed_and_started_again_it_decides_the_same(job, sources, monkeypatch, wrong):
    whole = job("whole", **QUICK)
    with monkeypatch.context() as patch:
        every = spied(patch)
        run(whole, sources, "multi")
    this = job("killed", **QUICK)
    with monkeypatch.context() as patch:
        before = spied(patch, wrong)
        with pytest.raises(KeyboardInterrupt):
            run(this, sources, "multi")
    with monkeypatch.context() as patch:
        after = spied(patch)
        run(this, sources, "multi")
    assert decided(this) == decided(whole)
    assert before[:-1] + after == every, "only the training that was killed before its record is gone on with"
    assert read_safetensors(this.out / "small.safetensors")[0].keys()
    for name, tensor in read_safetensors(whole.out / "small.safetensors")[0].items():
        assert torch.equal(tensor, read_safetensors(this.out / "small.safetensors")[0][name])


def test_a_dry_run_trains_nothing_and_leaves_nothing(job, sources, monkeypatch, caplog):
    caplog.set_level("INFO", logger="bench.train")
    seen = spied(monkeypatch)
    this = job(**QUICK)
    assert run(this, sources, "multi", dry_run=True) == {}
    assert seen == [] and not (this.out / "small.curriculum").exists() and not (this.out / "nodes").exists()
    said = caplog.text
    assert "measurer of easy" in said and "trials of hard" in said and "time: unknown" in said
    assert "next would be the measurer of easy" in said


def test_a_dry_run_knows_what_is_done(job, sources, caplog):
    this = job(**QUICK)
    run(this, sources, "multi")
    caplog.set_level("INFO", logger="bench.train")
    caplog.clear()
    run(this, sources, "multi", dry_run=True)
    assert "rows/s in training" in caplog.text and "next would be" not in caplog.text


def test_another_seed_or_recipe_is_another_node(job, source, monkeypatch):
    seen = spied(monkeypatch)
    run(job(**QUICK), [source("easy")], "single")
    first = len(seen)
    run(job(**QUICK, seed=1), [source("easy")], "single")
    assert len(seen) > first
    second = len(seen)
    run(job(**QUICK, weight_decay=0.01), [source("easy")], "single")
    assert len(seen) > second


def test_proxies_for_trials_and_the_whole_recipe_for_the_last(job, source, monkeypatch):
    epochs = []
    real = driver.train

    def noted(job, *arguments, **options):
        epochs.append(job.recipe["epochs"])
        return real(job, *arguments, **options)

    monkeypatch.setattr(driver, "train", noted)
    this = job(epochs=2, validate_every=100, curriculum={"proxy": {"epochs": 1}, "proxy_rows": 0.5})
    run(this, [source("easy")], "single")
    assert epochs[0] == 2 and epochs[-1] == 2 and set(epochs[1:-1]) == {1}
    held = manifest(this)
    trials = held["rounds"][0]["thresholds"]
    half = next(t["rows"] for t in trials if t["threshold"] == held["last"]["chosen"][0]["threshold"])
    assert half < held["last"]["rows"]


@pytest.mark.parametrize("criterion", ["held-out", "agreement"])
def test_without_labels_validation_is_not_asked_before_the_end(job, sources, criterion):
    this = job(**QUICK, curriculum={"criterion": criterion, "held_out": 0.4})
    asked = []

    def validate(pipeline, **options):
        asked.append(pipeline.card.name)
        return this.validate(pipeline, **options)

    made = run(replace(this, validate=validate), sources, "multi")["network"]
    assert len(asked) == 1, "once, for the record"
    held = manifest(this)
    assert "labelled" not in held["judged"] and made.notes["chosen_on"] == held["judged"]
    assert all(said["held_out"] > 0 for said in held["sources"].values())


def test_a_source_nobody_finds_reliable_is_skipped_and_said(job, sources, monkeypatch):
    real = driver.reliability

    def none_of_hard(*arguments):
        found = real(*arguments)
        return {name: r._replace(iou=0.0 if name.startswith("hard:") else 0.95) for name, r in found.items()}

    monkeypatch.setattr(driver, "reliability", none_of_hard)
    this = job(**QUICK)
    run(this, sources, "multi")
    held = manifest(this)
    assert held["rounds"][1]["chosen"] is None and "skipped" in held["rounds"][1]["note"]
    assert list(held["last"]["kept"]) == ["easy"]
    assert "Skipped" in (this.out / "small.curriculum" / "decisions.md").read_text()


def test_when_nothing_is_reliable_it_says_what_to_do(job, source, monkeypatch):
    real = driver.reliability
    monkeypatch.setattr(driver, "reliability", lambda *a: {name: r._replace(iou=0.0) for name, r in real(*a).items()})
    with pytest.raises(DataError, match=r"reliable to 0\.5; lower curriculum\.start"):
        run(job(**QUICK), [source("easy")], "single")


def test_a_source_of_one_row_is_a_source(job, source):
    scene = replace(SCENES[0], expressions=SCENES[0].expressions[:1])
    kinds = ("attribute", "location", "relation", "ordinal", "comparison")
    run(job(**QUICK), [source("one", kinds, 3, [scene]), source("easy")], "multi")


def test_measurers_may_be_brought_along(job, source, monkeypatch, caplog):
    first = job("first", **QUICK)
    weights = run(first, [source("easy")], "single")["network"].path
    seen = spied(monkeypatch)
    this = job("second", **QUICK, curriculum={"measurers": {"easy": str(weights)}})
    run(this, [source("easy")], "single")
    held = manifest(this)
    assert held["measurers"]["easy"] == {"weights": str(weights), "given": True}
    assert len(seen) == len({t["node"] for t in held["rounds"][0]["thresholds"] if t["node"]}), "no measurer"
    assert "no record beside it" in caplog.text and "no record beside it" in held["warnings"][0]


def test_a_measurer_of_another_data_set_is_warned_of(job, source, caplog):
    weights = run(job("first", **QUICK), [source("easy")], "single")["network"].path
    weights.with_suffix(".json").write_text(json.dumps({"trained_on": {"split": "refcoco-train"}}))
    this = job("second", **QUICK, curriculum={"measurers": {"easy": str(weights)}})
    run(this, [source("easy")], "single")
    assert "trained on refcoco-train, and measures labels of shapes" in manifest(this)["warnings"][0]


@pytest.mark.parametrize(
    ("kind", "names", "said"),
    [("single", ["a", "b"], "a, b; say multi"), ("multi", ["a"], "needs two sources")],
)
def test_the_wrong_number_of_sources(job, source, kind, names, said):
    with pytest.raises(UsageError, match=said):
        run(job(**QUICK), [source(name) for name in names], kind)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"curriculum": {"criterion": "agreement"}}, "multi"),
        ({"curriculum": {"start": 0.95}}, "should lie between"),
        ({"curriculum": {"proxy": {"epoch": 1}}}, "did you mean 'epochs'"),
        ({"curriculum": {"measurers": {"esy": "x"}}}, "names esy"),
        ({"curriculum": {"measurers": {"easy": "x.safetensors"}}}, "is not there"),
        ({"lesson": {"epochs": 1}}, "lesson.epochs = 0"),
    ],
)
def test_settings_that_make_no_sense(job, source, changes, said):
    with pytest.raises(SettingsError, match=said):
        run(job(**QUICK, **changes), [source("easy")], "single")


def test_a_broken_record_is_named(job, source, tmp_path):
    this = job(**QUICK)
    run(this, [source("easy")], "single")
    record = next((this.out / "nodes").glob("train-*/node.json"))
    record.write_text("{")
    with pytest.raises(Exception, match=rf"{record}.*delete its folder"):
        run(this, [source("easy")], "single")


def test_heavy_files_of_finished_trainings_are_gone(job, source):
    this = job(**QUICK)
    run(this, [source("easy")], "single")
    left = {p.name for p in (this.out / "nodes").rglob("*") if p.is_file()}
    assert "last.pt" not in left and "best.safetensors" not in left
    assert {"node.json", "network.safetensors", "training.jsonl"} <= left


def test_what_the_first_process_says_holds(tmp_path):
    """A process that is not the first neither reads nor writes records: it is told."""
    told = iter([None, {"score": 1}])
    nodes = Nodes(tmp_path / "nodes", lambda _: next(told), lead=False)
    assert nodes.once("train", {"a": 1}, "a training", lambda place: {})[1] == {"score": 1}
    assert not (tmp_path / "nodes").exists()
