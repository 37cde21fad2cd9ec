"""The curriculum whole, over a task of a few lines: what it trains, keeps, records, and does after it was killed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_grounder import SmallTask, tasks

from bench.errors import DataError, RunError, SettingsError, UsageError
from bench.training.task import ExternalTraining
from clipvg.curriculum import driver, nodes
from pipelines.weights import read_safetensors

pytestmark = pytest.mark.usefixtures("spread")


def run(job, sources, kind="single", dry_run=False, tasks=tasks, **options):
    return getattr(driver, kind)(job, sources, tasks, options, dry_run)


def manifest(job):
    return json.loads((job.out / "small.curriculum" / "manifest.json").read_text())


def decisions(job):
    """Every decision and its evidence, without the counts of this run."""
    table = manifest(job)
    table["last"].pop("nodes_done_in_this_run")
    return table


@pytest.fixture
def trained(monkeypatch):
    """The jobs trained so far; with `trained.fail_at = n` the n-th is killed after its training, before its record."""

    class Jobs(list):
        fail_at = None

        @property
        def rows(self):
            return [job.fingerprint for job in self]

    jobs, real = Jobs(), nodes.train

    def noted(task, **options):
        made = real(task, **options)
        jobs.append(task.job)
        if len(jobs) == jobs.fail_at:
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(nodes, "train", noted)
    return jobs


@pytest.mark.slow
def test_multi_writes_weights_rows_and_its_record(job, sources, trained):
    this = job()
    made = run(this, sources, "multi")["network"]
    assert made.path == this.out / "small.safetensors" and made.path.is_file()
    assert set(made.score) >= {"accuracy", "mean_iou", "n"}
    table = manifest(this)
    assert list(table["sources"]) == ["easy", "hard"], "by entities in a phrase, not as given"
    assert table["selection_metric"] == "selected on labelled shapes-val" == made.notes["chosen_on"]
    assert made.recipe["curriculum"]["criterion"] == "labelled" and made.notes["curriculum"]["kind"] == "multi"
    assert [one["source"] for one in table["rounds"]] == ["easy", "hard"]
    kinds = {name: one["kind"] for name, one in table["reliability"].items()}
    assert kinds == {"easy on easy": "SR", "easy on hard": "CR", "hard on easy": "CR", "hard on hard": "SR"}
    folder = this.out / "small.curriculum"
    for name in ("decisions.md", "thresholds.svg", "reliability.svg"):
        assert (folder / name).read_text().strip(), name
    for choice in table["last"]["chosen"]:
        lines = (folder / "selected" / f"{choice['source']}.jsonl").read_text().splitlines()
        rows = [json.loads(line)["provenance"] for line in lines]
        assert len(rows) == table["last"]["kept"][choice["source"]] > 0
        assert all(row["reliability"] >= choice["threshold"] - 1e-4 for row in rows)
        assert {(row["scorer"], row["source"]) for row in rows} == {(choice["scorer"], choice["source"])}
    assert table["last"]["rows"] == sum(table["last"]["kept"].values())
    # Tasks that cache text features are given all texts; large files of finished trainings are gone.
    every = {e.text for source in sources for scene in source.scenes for e in scene.expressions}
    assert all(job.shared["texts"] == every for job in trained)
    left = {path.name for path in (this.out / "nodes").rglob("*") if path.is_file()}
    assert "last.pt" not in left and "best.safetensors" not in left
    assert {"node.json", "network.safetensors", "training.jsonl"} <= left


def test_it_imports_nothing_of_clipvg_itself():
    lines = [line for file in Path(driver.__file__).parent.glob("*.py") for line in file.read_text().splitlines()]
    imports = [line for line in lines if line.startswith(("from clipvg", "import clipvg"))]
    assert imports and all(line.startswith("from clipvg.curriculum") for line in imports)


@pytest.mark.slow
def test_single_searches_one_sources_own_reliability(job, source):
    this = job()
    run(this, [source("easy")])
    (only,) = manifest(this)["rounds"]
    assert only["scorers"] == [] and {t["scorer"] for t in only["thresholds"]} == {"easy"}
    assert [t["threshold"] for t in only["thresholds"]][:3] == [0.5, 0.4, 0.6]
    best = max(t["performance"] for t in only["thresholds"] if t["performance"] is not None)
    assert only["chosen"]["threshold"] in [t["threshold"] for t in only["thresholds"] if t["performance"] == best]


@pytest.mark.slow
def test_no_training_is_done_twice(job, sources, trained, caplog):
    run(job(), sources, "multi")
    once = trained.rows
    assert len(once) == len(set(once)), "equal rows are one training"
    caplog.set_level("INFO", logger="bench.train")
    run(job(), sources, "multi", dry_run=True)
    assert "rows/s in training" in caplog.text and "next would be" not in caplog.text
    run(job(), sources, "multi")
    assert trained.rows == once, "the second time nothing is left to do"
    run(job(), [sources[1]])
    assert len(trained) == len(set(trained.rows)), "what multi did, single does not do again"


@pytest.mark.slow
@pytest.mark.parametrize("fail_at", [1, 3, 5])
def test_killed_and_started_again_it_decides_the_same(job, sources, trained, fail_at):
    whole, this = job("whole"), job("killed")
    run(whole, sources, "multi")
    every = trained.rows
    trained.clear()
    trained.fail_at = fail_at
    with pytest.raises(KeyboardInterrupt):
        run(this, sources, "multi")
    trained.fail_at = None
    run(this, sources, "multi")
    assert trained.rows == [*every[:fail_at], *every[fail_at - 1 :]], "the one without a record is resumed"
    assert decisions(this) == decisions(whole)
    weights = [read_safetensors(one.out / "small.safetensors")[0] for one in (whole, this)]
    assert weights[0].keys() and all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_dry_run_trains_nothing_and_leaves_nothing(job, sources, trained, caplog):
    caplog.set_level("INFO", logger="bench.train")
    this = job()
    assert run(this, sources, "multi", dry_run=True) == {}
    assert not trained and not (this.out / "small.curriculum").exists() and not (this.out / "nodes").exists()
    assert all(text in caplog.text for text in ("scorer of easy", "trials of hard", "time: unknown"))
    assert "next would be the scorer of easy" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "again"),
    [({"seed": 1}, True), ({"weight_decay": 0.01}, True), ({"validate_every": 1}, True), ({"batch": 8}, False),
     ({"save_every": 1, "log_every": 1, "name": "other"}, False)],
)  # fmt: skip
def test_another_seed_or_config_is_another_node(job, source, trained, changes, again):
    run(job(), [source("easy")])
    first = len(trained)
    run(job(**changes), [source("easy")])
    assert (len(trained) > first) == again


@pytest.mark.slow
def test_files_named_in_the_config_count_by_their_content(job, source, trained, tmp_path):
    run(job("first"), [source("easy")])
    weights = (tmp_path / "first" / "small.safetensors").read_bytes()
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    counts = []
    for path in paths:
        path.write_bytes(weights)
        run(job(start_from=str(path)), [source("easy")])
        counts.append(len(trained))
    assert counts[0] == counts[1], "the same content under another name"
    paths[0].write_bytes((tmp_path / "out" / "small.safetensors").read_bytes())
    run(job(start_from=str(paths[0])), [source("easy")])
    assert len(trained) > counts[1], "another content under the same name"


@pytest.mark.slow
def test_proxies_for_trials_and_the_whole_recipe_for_the_last(job, source, trained):
    this = job(epochs=3)
    run(this, [source("easy")], proxy={"epochs": 1}, scorer={"epochs": 2}, proxy_rows=0.5)
    epochs = [job.recipe["epochs"] for job in trained]
    assert epochs[0] == 2 and epochs[-1] == 3 and set(epochs[1:-1]) == {1}
    table = manifest(this)
    trials = {trial["threshold"]: trial["rows"] for trial in table["rounds"][0]["thresholds"]}
    assert trials[table["last"]["chosen"][0]["threshold"]] < table["last"]["rows"]


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["pseudo", "agreement"])
def test_without_labels_validation_is_scored_only_at_the_end(job, sources, criterion):
    this, scored = job(), []

    def validate(pipeline, **options):
        scored.append(pipeline.card.name)
        return this.validate(pipeline, **options)

    made = run(replace(this, validate=validate), sources, "multi", criterion=criterion, held_out=0.4)["network"]
    assert len(scored) == 1, "once, for the record"
    table = manifest(this)
    assert "labelled" not in table["selection_metric"] and made.notes["chosen_on"] == table["selection_metric"]
    assert all(one["held_out"] > 0 for one in table["sources"].values())


def reliable(monkeypatch, iou):
    """Every row's reliability is `iou` of its name."""
    real = nodes.measure

    def measured(*arguments):
        scored = real(*arguments)
        return replace(scored, rows={name: row._replace(iou=iou(name)) for name, row in scored.rows.items()})

    monkeypatch.setattr(nodes, "measure", measured)


@pytest.mark.slow
def test_a_source_without_a_reliable_row_is_skipped(job, sources, monkeypatch):
    reliable(monkeypatch, lambda name: 0.0 if name.startswith("hard:") else 0.95)
    this = job()
    run(this, sources, "multi")
    table = manifest(this)
    assert table["rounds"][1]["chosen"] is None and "skipped" in table["rounds"][1]["note"]
    assert list(table["last"]["kept"]) == ["easy"]
    assert "Skipped" in (this.out / "small.curriculum" / "decisions.md").read_text()


@pytest.mark.slow
def test_when_nothing_is_reliable_the_error_names_what_to_do(job, source, monkeypatch):
    reliable(monkeypatch, lambda name: 0.0)
    with pytest.raises(DataError, match=r"reliable to 0\.5; lower curriculum\.start"):
        run(job(), [source("easy")])


@pytest.mark.slow
def test_given_scorers_are_not_trained_and_warned_of_where_they_may_know_other_images(job, source, trained, caplog):
    weights = run(job("first"), [source("easy")])["network"].path
    trained.clear()
    this = job("second")
    run(this, [source("easy")], scorers={"easy": str(weights)})
    table = manifest(this)
    assert table["scorers"]["easy"] == {"weights": str(weights), "given": True}
    assert len(trained) == len({t["node"] for t in table["rounds"][0]["thresholds"] if t["node"]}), "no scorer"
    assert "no record beside it" in caplog.text and "no record beside it" in table["warnings"][0]
    other = "trained on refcoco-train, and scores labels of shapes"
    for split, warning in (("refcoco-train", other), ("shapes-a", "")):
        weights.with_suffix(".json").write_text(json.dumps({"trained_on": {"split": split}}))
        assert warning in (text := nodes.warning_about(weights, "shapes")) and bool(text) == bool(warning)


class Foreign(ExternalTraining):
    trainer = "someone"

    def run(self):
        raise AssertionError


class Detector(SmallTask):
    metric = "recall"


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (lambda job: {"detector": None, "clip": None}, "one part, and small has 2: detector, clip"),
        (lambda job: {"network": lambda: Foreign(job)}, "cannot use someone's own trainer, which trains small"),
        (lambda job: {"network": lambda: Detector(job)}, "small is scored by recall"),
    ],
)
def test_methods_it_cannot_train_are_refused_by_name(job, source, tasks, message):
    with pytest.raises(UsageError, match=message):
        run(job(), [source("easy")], tasks=tasks)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"criterion": "agreement"}, "multi"), ({"start": 0.95}, r"\[train.small.curriculum\]: .*should lie between"),
     ({"prxy": {}}, "did you mean 'proxy'"), ({"proxy": {"epoch": 1}}, "curriculum.proxy: .*did you mean 'epochs'"),
     ({"scorers": {"esy": "x"}}, "names esy"), ({"scorers": {"easy": "x.safetensors"}}, "is not there")],
)  # fmt: skip
def test_settings_that_make_no_sense(job, source, options, message):
    with pytest.raises(SettingsError, match=message):
        run(job(), [source("easy")], **options)


@pytest.mark.slow
def test_the_wrong_number_of_sources_and_a_broken_record_are_named(job, source):
    with pytest.raises(UsageError, match=r"\(a, b\); use multi"):
        run(job(), [source("a"), source("b")])
    with pytest.raises(UsageError, match="needs at least two sources"):
        run(job(), [source("a")], "multi")
    this = job()
    run(this, [source("easy")])
    record = next((this.out / "nodes").glob("train-*/node.json"))
    record.write_text("{")
    with pytest.raises(RunError, match=rf"{record}.*delete its folder"):
        run(this, [source("easy")])


@pytest.mark.slow
def test_old_spellings_keep_their_options_and_their_finished_work(job, sources, trained):
    assert driver.CurriculumOptions(criterion="held-out").criterion == "pseudo"
    this = job()
    run(this, [sources[1]], criterion="pseudo", held_out=0.4)
    keys = [json.loads(path.read_text())["key"] for path in (this.out / "nodes").glob("*/node.json")]
    assert {"measurer"} == {key for one in keys for key in one} & {"measurer", "scorer"}
    assert {one["metric"][0] for one in keys if "metric" in one} == {"held-out pseudo-labels"}
