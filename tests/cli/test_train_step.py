"""`bench doctor --train-step`: what a pipeline's first step is handed, and how its numbers are shown."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.cli.main import app
from bench.errors import DataError, UnknownName, UsageError
from bench.settings import PROJECT
from bench.training import gradient_check

LOSS, NORM = 1.2345678901234567, float("inf")


@pytest.fixture
def asked(monkeypatch):
    """A first step that computes nothing; the tasks it was given."""
    calls = []

    def check(task):
        calls.append((task, [task.dataset(augment=False).sample(0, row) for row in range(2)]))
        norms = {"head.weight": 0.25, "head.bias": NORM}
        numbers = {"loss": LOSS, "l1": 1.0, "giou": 0.2, "rows": 3}
        return {**numbers, "gradient_norms": norms, "boxes_cxcywh": [(0, 1, 2, 3)]}

    monkeypatch.setattr(gradient_check, "gradient_check", check)
    return calls


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    for name in "ab":
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    lines = [("a.png", "one"), ("b.png", "two"), ("a.png", "three")]
    path.write_text("".join(json.dumps({"image": i, "text": t, "box_xyxy": [1, 2, 30, 20]}) + "\n" for i, t in lines))
    return f"file:{path}"


def doctor(*arguments):
    return CliRunner().invoke(app, ["doctor", "--train-step", "small", *arguments], catch_exceptions=False)


def test_the_numbers_are_whole_in_json(asked, rows, tmp_path):
    (tmp_path / "w.pth").touch()
    found = json.loads(
        doctor("--split", rows, "--weights", str(tmp_path / "w.pth"), "--json").stdout,
        parse_constant=lambda name: pytest.fail(f"{name} is no JSON"),
    )
    assert (found["pipeline"], found["split"], found["loss"], found["rows"]) == ("small", "file:rows", LOSS, 3)
    assert found["gradient_norms"] == {"head.weight": 0.25, "head.bias": None}
    assert found["boxes_cxcywh"] == [[0, 1, 2, 3]]
    ((task, samples),) = asked
    assert (task.job.context.device, task.job.context.dtype, task.job.saves) == ("cpu", "float32", False)
    assert task.config.start_from == str(tmp_path / "w.pth") and len(samples) == 2
    assert [len(scene.expressions) for scene in task.job.scenes] == [2, 1]


def test_a_table_for_people(asked, rows):
    said = doctor("--split", rows, "--limit", "1", "--set", "clip_norm=0.5").stdout
    assert "1.2345679" in said and "gradient norms" in said and "head.weight" in said
    assert len(asked[0][0].job.scenes) == 1 and asked[0][0].config.clip_norm == 0.5


def test_mistakes(asked, rows, tmp_path):
    with pytest.raises(UsageError, match="needs --split"):
        doctor()
    with pytest.raises(UsageError, match="no --pipeline"):
        doctor("--split", rows, "--pipeline", "centre-box")
    with pytest.raises(UsageError, match="--preprocessing: small takes none"):
        doctor("--split", rows, "--preprocessing", "official")
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no expressions"):
        doctor("--split", f"file:{tmp_path / 'none.jsonl'}")
    with pytest.raises(UsageError, match="go with --train-step"):
        CliRunner().invoke(app, ["doctor", "--split", rows], catch_exceptions=False)


def test_a_pipeline_without_one(rows):
    words = ["doctor", "--train-step", "centre-box", "--split", rows]
    with pytest.raises(UnknownName, match=r"no trainable pipeline is called 'centre-box'; known: .*clipvg"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_the_page_names_what_is_printed(asked, rows):
    page = (PROJECT / "docs" / "machine-output.md").read_text(encoding="utf-8")
    section = page.split("## `bench doctor --train-step`")[1].split("\n## ")[0]
    for key in json.loads(doctor("--split", rows, "--json").stdout):
        assert f"`{key}`" in section
