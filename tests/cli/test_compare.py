"""`bench compare` as typed: plain words, the JSON contract, flips with texts, and mistakes."""

import json
import re
from dataclasses import replace

import pytest
from submissions import unpacked
from worlds_of_runs import make_run, scenes_of

from bench.masks import of_box
from bench.runs.packed import stored_bytes
from bench.settings import PROJECT

SCENES = scenes_of([4] * 30)


@pytest.fixture
def runs(tmp_path):
    """On 30 images of 4: weak hits 1 of 4, strong 3 of 4, other the same number as weak, elsewhere in each second."""
    marks = {"weak": [1, 0, 0, 0] * 30, "strong": [1, 1, 1, 0] * 30, "other": [1, 0, 0, 0, 0, 1, 0, 0] * 15}
    return {name: make_run(tmp_path / "results", name, SCENES, hits) for name, hits in marks.items()}


@pytest.fixture
def own_data(tmp_path, bench):
    """Two runs of imported predictions on people's own data, so that the split is at hand."""
    size = {"width": 90, "height": 80}
    rows = [
        {"image": f"p{n // 3}.jpg", "text": f"man <{n}>", "box_xyxy": [0, 0, 40, 40], "id": f"e{n}", **size}
        for n in range(36)
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, right in (("a", range(0, 36, 2)), ("b", range(36))):
        boxes = {f"e{n}": [0, 0, 40, 40 if n in right else 4] for n in range(36)}
        (tmp_path / f"{name}.json").write_text(json.dumps(boxes))
        assert bench("score", "--predictions", f"{name}.json", "--split", "file:mine.jsonl")[0] == 0
    return tmp_path


def test_in_plain_words(bench, runs):
    code, out, err = bench("compare", "weak", "strong")
    assert (code, err) == (0, "")
    assert "A 25.00, B 75.00: B is better, A - B = −50.00 points [−50.00, −50.00] (p = 0.001)" in out
    assert "A = weak, B = strong" in out and "mean IoU 50.00 and 83.33: A - B = −33.33 points" in out
    assert "both right 30, only A 0, only B 60, neither 30" in out
    assert "mine-val  120 expressions about 30 images  iou>=0.5" in out
    assert re.search(r"kind +k1 +60 +0 +30 ", out), "where they flip most"
    out = bench("compare", "weak", "other")[1]
    assert "A 25.00, B 25.00: too close to call, A - B = 0.00 points [−2.37, 2.37] (0 images differ) (p = 1.00)" in out
    assert "4 times in 5" not in out  # images agree in number, so their spread is 0


def test_how_small_a_difference_would_show(bench, tmp_path):
    hits = [1, 0, 0, 0] * 30
    odd = {n: 1 - hit for n, hit in enumerate(hits) if n % 17 == 3}
    flipped = [1 if n % 29 == 2 else 0 if n % 16 == 0 else odd.get(n, hit) for n, hit in enumerate(hits)]
    for name, marks in (("x", hits), ("y", flipped)):
        make_run(tmp_path / "results", name, SCENES, marks)
    (pair,) = json.loads(bench("compare", "x", "y", "--json")[1].splitlines()[-1])["pairs"]
    assert not pair["significant"]
    assert f"would show 4 times in 5: {100 * pair['detectable']:.2f} points" in bench("compare", "x", "y")[1]


def test_several_pairs_and_the_flags(bench, runs):
    words = ("compare", "weak", "other", "strong", "--json", "--draws", "500", "--seed", "4", "--confidence", "0.9")
    code, out, err = bench(*words)
    assert code == 0 and len(out.splitlines()) == 1 and "after Holm" in err
    report = json.loads(out)
    assert [(pair["a"], pair["b"]) for pair in report["pairs"]] == [("A", "B"), ("A", "C"), ("B", "C")]
    assert (report["draws"], report["seed"], report["confidence"]) == (500, 4, 0.9)
    fewer = json.loads(bench(*words, "--baseline-only")[1])
    assert [(pair["a"], pair["b"]) for pair in fewer["pairs"]] == [("A", "B"), ("A", "C")]


def test_flips_with_their_texts(bench, own_data):
    code, out, err = bench("compare", "a", "b", "--flips", "flips.jsonl", "--json")
    assert code == 0, err
    rows = [json.loads(line) for line in (own_data / "flips.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"e{n}" for n in range(1, 36, 2)]
    assert rows[0] == {
        "a": "a", "b": "b", "id": "e1", "scene": rows[0]["scene"], "right": "b", "iou": [0.1, 1.0], "text": "man <1>"
    }  # fmt: skip
    (pair,) = json.loads(out)["pairs"]
    assert [(flip["id"], flip["text"]) for flip in pair["flips"]] == [(row["id"], row["text"]) for row in rows]


def test_flips_without_the_split(bench, own_data):
    (own_data / "mine.jsonl").unlink()
    code, _, err = bench("compare", "a", "b", "--flips", "flips.jsonl")
    assert code == 0
    assert "without their texts" in err and "mine.jsonl" in err
    assert "text" not in json.loads((own_data / "flips.jsonl").read_text().splitlines()[0])
    code, _, err = bench("compare", "a", "b", "--flips", "nowhere/flips.jsonl")
    assert code == 2 and "nowhere" in err and "Traceback" not in err


@pytest.mark.slow
def test_an_older_run_gets_its_outcomes(bench, own_data):
    (old,) = own_data.glob("results/runs/a/*/*/outcomes.packed")
    stored = stored_bytes(old.parent, "outcomes")
    old = unpacked(old.parent) / "outcomes.jsonl"
    old.unlink()
    code, _, err = bench("compare", "a", "b")
    (command,) = re.findall(r"bench (score .* --keep)", err)
    assert code == 2 and bench(*command.split(), "--protocol", "strict")[0] == 2
    assert not old.exists() and bench(*command.split())[0] == 0
    assert stored_bytes(old.parent, "outcomes") == stored and bench("compare", "a", "b")[0] == 0
    assert not list(old.parent.glob("*.jsonl")), "what is written is packed"
    predictions = unpacked(old.parent) / "predictions.jsonl"
    predictions.write_text(predictions.read_text().replace("40.0]", "4.0]"))
    code, _, err = bench(*command.split())
    assert code == 2 and "run.json says" in err
    assert old.read_bytes() == stored
    code, _, err = bench("score", "--predictions", "a.json", "--split", "file:mine.jsonl", "--keep")
    assert code == 2 and "--keep" in err


@pytest.mark.slow
@pytest.mark.parametrize(("argv", "message"), [
    (("weak", "stron"), "did you mean 'strong'"),
    (("weak", "strong", "--split", "other-val"), "mine-val"),
    (("weak", "strong", "--confidence", "1.5"), "confidence"),
    (("weak", "gone"), "no run is called"),
])  # fmt: skip
def test_mistakes_are_explained(bench, runs, argv, message):
    code, out, err = bench("compare", *argv)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err


def test_the_page_names_every_key(bench, tmp_path):
    """docs/comparing.md has every key of the object, and no other."""
    mask = of_box((0, 0, 40, 40), 100, 100)
    scenes = [replace(s, expressions=tuple(replace(e, mask=mask) for e in s.expressions)) for s in SCENES]
    masks = {e.id: mask for scene in scenes for e in scene.expressions}
    folders = [
        str(make_run(tmp_path / "masked", name, scenes, [right] * 120, masks=masks))
        for right, name in enumerate(("weak", "strong"))
    ]
    whole = json.loads(bench("compare", *folders, "--json")[1])
    whole["pairs"][0]["flips"][0]["text"] = ""  # there where the split is at hand

    def keys(value):
        if isinstance(value, dict):
            yield from value
            for inner in value.values():
                yield from keys(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from keys(inner)

    page = (PROJECT / "docs" / "comparing.md").read_text(encoding="utf-8")
    section = page.split("## `--json`")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)} == set(keys(whole))
