"""`bench train --curriculum` from the command line: its files, its record, its mistakes."""

import json

import pytest
from typer.testing import CliRunner

from bench.cli.main import app
from bench.datasets.shapes import SCENES
from bench.errors import DataError, UsageError


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """bench(*arguments): `bench train` of the smallest grounder on three scenes of shapes; what it printed."""
    monkeypatch.setitem(SCENES, "val", 2)
    config = tmp_path / "small.toml"
    config.write_text(
        "[data.shapes]\ntrain = 3\n[train.small]\nepochs = 2\nreference_batch = 8\ncurriculum = { start = 0.1 }"
    )

    def run(*arguments, pipeline="small"):
        common = ["--split", "shapes-train", "--config", str(config), "--device", "cpu", "--out", str(tmp_path / "w")]
        command = ["train", "--pipeline", pipeline, *common, *map(str, arguments)]
        return CliRunner().invoke(app, command, catch_exceptions=False).stdout

    return run


@pytest.fixture
def labels(tmp_path):
    """labels(kind): the generator's rows of that kind for three scenes, none of them spoilt."""

    def make(kind):
        out = tmp_path / f"{kind}.jsonl"
        clean = ["--wrong-attribute", "0", "--wrong-object", "0", "--shifted-box", "0"]
        command = ["data", "noisy-labels", "--kind", kind, "--limit", "3", "--out", str(out), *clean]
        assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
        return out

    return make


@pytest.mark.slow
@pytest.mark.usefixtures("spread")
def test_single_then_multi_of_one_folder_and_their_records(bench, labels, tmp_path):
    template, relation = labels("template"), labels("relation")
    bench("--curriculum", "single", "--labels", template, "--dry-run")
    assert not (tmp_path / "w" / "nodes").exists() and not list((tmp_path / "w").glob("*.safetensors"))
    printed = json.loads(bench("--curriculum", "single", "--labels", template, "--json").splitlines()[-1])
    assert printed["weights"] == {"network": str(tmp_path / "w" / "small.safetensors")}
    nodes = {path.name for path in (tmp_path / "w" / "nodes").iterdir()}
    bench("--curriculum", "multi", "--labels", template, "--labels", relation)
    record = json.loads((tmp_path / "w" / "small.json").read_text())
    assert record["training"]["curriculum"]["kind"] == "multi"
    assert record["training"]["chosen_on"] == "selected on labelled shapes-val"
    assert [file["file"] for file in record["trained_on"]["labels"]] == ["template.jsonl", "relation.jsonl"]
    manifest = json.loads((tmp_path / "w" / "small.curriculum" / "manifest.json").read_text())
    assert list(manifest["sources"]) == ["template", "relation"]
    assert {trial["node"] for trial in manifest["rounds"][0]["thresholds"]} & nodes, "what single did is not done again"
    chosen = tmp_path / "w" / "small.curriculum" / "selected" / "template.jsonl"
    bench("--labels", chosen, "--set", "name=again")
    assert (tmp_path / "w" / "again.safetensors").is_file(), "what was chosen can be trained on"


SINGLE = ["--curriculum", "single"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (SINGLE, UsageError, "name their files with --labels"),
        ([*SINGLE, "--labels", "x.jsonl", "--fresh"], UsageError, "delete that, or name another --out"),
        ([*SINGLE, "--labels", "x.jsonl", "--part", "clip"], UsageError, "--part clip"),
        (["--dry-run"], UsageError, "add --curriculum single or multi"),
        ([*SINGLE, "--labels", "gone.jsonl"], DataError, "gone.jsonl"),
    ],
)
def test_flags_that_make_no_sense(bench, arguments, error, message):
    with pytest.raises(error, match=message):
        bench(*arguments)
