"""One truth for settings: bench.toml repeats no default, `in_force` prints all, and stored options still compare."""

import tomllib

import pytest

from bench.datasets.load import load_split
from bench.errors import UnknownName
from bench.evaluation.loop import evaluate
from bench.settings import Settings, default_file, flattened, load_settings
from bench.tables import LOADERS, complete, in_force, same_options

SHIPPED = tomllib.loads(default_file().read_text("utf-8"))
# What `bench list` and `bench doctor` read without importing a pipeline, and what decides how tables are merged.
FACTS = {"weights", "pretrained", "model", "tokenizer", "kind", "card"}


def entries(table, path=()):
    for key, value in table.items():
        yield from entries(value, (*path, key)) if isinstance(value, dict) else [(*path, key)]


def without(table, path):
    head, *rest = path
    inner = {head: without(table[head], rest)} if rest else {}
    return {key: value for key, value in table.items() if key != head} | inner


@pytest.mark.parametrize(("section", "name"), [(section, name) for section in LOADERS for name in SHIPPED[section]])
def test_no_entry_of_bench_toml_repeats_the_codes_default(section, name):
    table = {key: value for key, value in SHIPPED[section][name].items() if key != "on"}
    whole = complete(section, name, table)
    paths = [path for path in entries(table) if not FACTS & {*path}]
    assert not [path for path in paths if complete(section, name, without(table, path)) == whole]


def test_no_other_entry_repeats_it_either():
    defaults, written = (
        flattened(Settings().model_dump(mode="json")),
        flattened({**SHIPPED, **dict.fromkeys(LOADERS, 0)}),
    )
    assert not [key for key, value in written.items() if defaults.get(key) == value]


def test_all_that_is_in_force_is_listed_with_its_origin(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[pipelines.yolo-clip]\nranker = { margin = 0.2 }\n[run]\nseed = 3\n")
    resolved = load_settings(path, {"run.batch_size": 2})
    rows = in_force(resolved, "pipelines.yolo-clip")
    origins = {
        "ranker.margin": (0.2, str(path)),
        "ranker.prompt": ("a photo of {}", "code"),
        "proposer.nms_iou": (0.6, "code"),
        "proposer.kind": ("yolo", "bench.toml"),
        "on.shapes.proposer.image_size": (192, "bench.toml"),
    }
    for key, (value, origin) in origins.items():
        assert rows[f"pipelines.yolo-clip.{key}"] == {"value": value, "from": origin}
    run = in_force(resolved, "run")
    assert run["run.seed"]["from"] == str(path) and run["run.batch_size"]["from"] == "flag"
    assert in_force(resolved, "train.clipvg")["train.clipvg.epochs"] == {"value": 110, "from": "code"}
    parts = in_force(resolved, "train.yolo-clip")
    assert {f"train.yolo-clip.{part}.epochs" for part in ("detector", "clip")} <= parts.keys()
    assert in_force(resolved, "label.relation")["label.relation.top"] == {"value": 10, "from": "code"}
    assert {key.partition(".")[0] for key in in_force(resolved)} == {*Settings.model_fields}
    with pytest.raises(UnknownName, match="no section is called 'runs'"):
        in_force(resolved, "runs")


def test_a_proposer_of_another_kind_leaves_no_origin_behind(tmp_path):
    (tmp_path / "bench.toml").write_text("[pipelines.ssd-clip.proposer]\nkind = 'file'\n")
    rows = in_force(load_settings(tmp_path / "bench.toml"), "pipelines.ssd-clip.proposer")
    assert "pipelines.ssd-clip.proposer.weights" not in rows
    assert rows["pipelines.ssd-clip.proposer.top_k"]["from"] == "code"


def test_options_that_name_defaults_are_the_same_as_options_that_do_not():
    today = load_settings().table("pipelines", "yolo-clip", "shapes")
    before = {"image_size": 192, "confidence": 0.1, "nms_iou": 0.6, "top_k": 20}
    old = {
        **today,
        "proposer": today["proposer"] | before,
        "ranker": {"margin": 0.0, "resize": "squash"} | today["ranker"],
    }
    assert old != today and same_options("yolo-clip", old, today)
    assert not same_options("yolo-clip", {**old, "ranker": old["ranker"] | {"margin": 0.1}}, today)
    assert not same_options("yolo-clip", {**old, "gone": 1}, today)


@pytest.mark.slow
def test_a_run_stored_when_bench_toml_named_defaults_is_still_the_finished_one(tmp_path):
    resolved = load_settings(flags={"results": str(tmp_path), "run.device": "cpu"})
    split = load_split("shapes-val", resolved).limited(2)
    stored = evaluate("centre-box", split, resolved, {"share": 0.5})
    assert stored.record.identity.options == {"share": 0.5} and not stored.already_done
    again = evaluate("centre-box", split, resolved)
    assert again.already_done and again.folder == stored.folder
    assert not evaluate("centre-box", split, resolved, {"share": 0.6}).already_done
