"""`bench train --check-step`, old `bench doctor --train-step`: what the first step gets, how they are printed."""

import json

import pytest
from PIL import Image

from bench.settings import PROJECT
from bench.training import gradient_check

LOSS, NORM = 1.2345678901234567, float("inf")


@pytest.fixture
def calls(monkeypatch):
    """A first step that computes nothing; the tasks it gets."""
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


@pytest.fixture
def doctor(bench):
    return lambda *words: bench("doctor", "--train-step", "small", *words)


def test_both_spellings_print_the_same(calls, rows, bench):
    old = bench("doctor", "--train-step", "small", "--split", rows, "--json")
    new = bench("train", "-p", "small", "-s", rows, "--check-step", "--json")
    assert old[:2] == new[:2] and old[0] == 0
    assert "now train --check-step" in old[2] and not new[2]


def test_the_numbers_are_whole_in_json(calls, rows, doctor, tmp_path):
    (tmp_path / "w.pth").touch()
    step = json.loads(
        doctor("--split", rows, "--weights", tmp_path / "w.pth", "--json")[1],
        parse_constant=lambda name: pytest.fail(f"{name} is no JSON"),
    )
    assert (step["pipeline"], step["split"], step["loss"], step["rows"]) == ("small", "file:rows", LOSS, 3)
    assert step["gradient_norms"] == {"head.weight": 0.25, "head.bias": None}
    assert step["boxes_cxcywh"] == [[0, 1, 2, 3]]
    ((task, samples),) = calls
    assert (task.job.context.device, task.job.context.dtype, task.job.saves) == ("cpu", "float32", False)
    assert task.config.start_from == str(tmp_path / "w.pth") and len(samples) == 2
    assert [len(scene.expressions) for scene in task.job.scenes] == [2, 1]
    page = (PROJECT / "docs" / "machine-output.md").read_text(encoding="utf-8")
    section = page.split("## `bench train --check-step`")[1].split("\n## ")[0]
    assert [key for key in step if f"`{key}`" not in section] == []


def test_a_table_for_people(calls, rows, doctor):
    text = doctor("--split", rows, "--limit", "1", "--set", "clip_norm=0.5")[1]
    assert "1.2345679" in text and "gradient norms" in text and "head.weight" in text
    assert len(calls[0][0].job.scenes) == 1 and calls[0][0].config.clip_norm == 0.5


def test_mistakes(bench, rows, tmp_path):
    (tmp_path / "none.jsonl").write_text("\n")
    for words, message in (
        (("--train-step", "small"), "Missing option '--split'"),
        (
            ("--train-step", "small", "--split", rows, "--preprocessing", "official"),
            "--preprocessing: small takes none",
        ),
        (("--train-step", "small", "--split", "file:none.jsonl"), "holds no expressions"),
        (("--train-step", "centre-box", "--split", rows), "no trainable pipeline is called 'centre-box'; known: "),
        (("--split", rows), "No such option: --split"),
    ):
        code, _, err = bench("doctor", *words)
        assert code == 2 and message in err
