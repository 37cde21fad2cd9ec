"""Pseudo-labels with known faults: the rates, the faults and the unspoilt rows are what they say."""

import json
import re
from collections import Counter
from functools import cache

import pytest
from typer.testing import CliRunner

from bench.boxes import iou_elementwise
from bench.cli.data import app
from bench.datasets.readers.jsonl import read_jsonl, read_provenance
from bench.datasets.shapes.language import RELATIONS
from bench.datasets.shapes.layout import COLOURS, TEXTURES, UNIT, make_layout
from bench.errors import UsageError
from bench.labelling.corrupted_shapes import KINDS, check_rates, noisy_labels
from tests.datasets.test_shapes import group, understood

DATA, SEED, SCENES = 2026, 7, 1000
RATES = (0.25, 0.15, 0.1)
SHARES = {"none": 0.5, "wrong attribute": 0.25, "wrong object": 0.15, "shifted box": 0.1}
RELATION = re.compile(r"left of|right of|above|over|higher|below|under|beneath|next to|closest|nearest")
LOCATION = re.compile(r"left|right|top|upper|bottom|lower|lowest")


@pytest.fixture(scope="module")
def made():
    """kind -> (index of the scene, its rows)."""
    return {k: [(i, noisy_labels(k, "train", i, DATA, SEED, RATES)) for i in range(SCENES)] for k in KINDS}


@cache
def objects(index):
    return make_layout(DATA, "train", index).objects


@cache
def boxes(index):
    return [tuple(v / UNIT for v in obj.extent) for obj in objects(index)]


def kind_of(text):
    if RELATION.search(text):
        return "relation"
    return "location" if LOCATION.search(text) else "attribute"


def parts(text):
    """A caption's first claim, and what else it names."""
    head, rest = re.fullmatch(r"(?:an image of )?(.*?)(?:, | with | together with )(.*)", text).groups()
    return head.removesuffix(" together"), re.split(r", | and ", rest)


@pytest.mark.parametrize("kind", KINDS)
def test_rates_are_met(made, kind):
    rows = [row for _, some in made[kind] for row in some]
    assert len(rows) > 4000
    counts = Counter(row.provenance["noise"] for row in rows)
    for fault, share in SHARES.items():
        deviation = (len(rows) * share * (1 - share)) ** 0.5
        assert abs(counts[fault] - len(rows) * share) < 4 * deviation, fault


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_what_their_fault_says(made, kind):
    for index, rows in made[kind]:
        layout, known = make_layout(DATA, "train", index), boxes(index)
        for row in rows:
            true, fault = tuple(row.provenance["true_box"]), row.provenance["noise"]
            assert true in known
            if fault in ("none", "wrong attribute"):
                assert row.box == true
            elif fault == "wrong object":
                assert row.box in known and row.box != true
            else:
                assert 0.1 <= iou_elementwise(row.box, true) <= 0.45
            assert 0 <= row.box[0] < row.box[2] <= layout.width and 0 <= row.box[1] < row.box[3] <= layout.height


@pytest.mark.parametrize("kind", ("template", "relation"))
def test_words_mean_their_object_unless_an_attribute_is_wrong(made, kind):
    claims = Counter()
    for index, rows in made[kind]:
        for row in rows:
            target, claim = boxes(index).index(tuple(row.provenance["true_box"])), kind_of(row.text)
            claims[claim] += 1
            if row.provenance["noise"] == "wrong attribute":
                described = RELATION.split(row.text)[0]
                assert target not in group(described, objects(index)), row.text
            else:
                assert understood(claim, row.text, objects(index)) == {target}, row.text
    assert set(claims) == ({"relation"} if kind == "relation" else {"attribute", "location"})


def test_captions_name_three_objects_and_more_the_first_of_which_is_meant(made):
    entities = Counter()
    for index, rows in made["caption"]:
        for row in rows:
            target = boxes(index).index(tuple(row.provenance["true_box"]))
            head, others = parts(row.text)
            if row.provenance["noise"] == "wrong attribute":
                assert target not in group(RELATION.split(head)[0], objects(index)), row.text
            else:
                assert understood(kind_of(head), head, objects(index)) == {target}, row.text
            assert all(group(other, objects(index)) for other in others), row.text
            assert row.provenance["entities"] == len(others) + 1 + (kind_of(head) == "relation") >= 3
            entities[row.provenance["entities"]] += 1
    assert set(entities) == {3, 4}


def test_a_wrong_attribute_is_a_word_more_or_another_word(made):
    wrong = [row.text for _, rows in made["template"] for row in rows if row.provenance["noise"] == "wrong attribute"]
    assert wrong and all(set(text.split()) & {*COLOURS, *TEXTURES} for text in wrong)
    assert not any(re.search(r"\b(a [aeiou]|an [^aeiou])", text) for text in wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_differ_in_what_they_name(made, kind):
    rows = [row for _, some in made[kind] for row in some]
    mean = sum(row.provenance["entities"] for row in rows) / len(rows)
    assert {"template": mean == 1, "relation": mean == 2, "caption": mean > 3}[kind]
    assert {row.provenance["source"] for row in rows} == {kind}
    assert all(len({row.text for row in some}) > len(some) / 2 for _, some in made[kind] if some)
    assert max(len(some) for _, some in made[kind]) == 6
    if kind == "relation":  # in the language of the data set
        forms = {form for _, _, forms in RELATIONS.values() for form in forms}
        assert forms <= {row.provenance["template"] for row in rows}


def test_a_row_does_not_depend_on_the_number_of_rows():
    def rows(rates, kind="template", index=3, seed=SEED, most=4):
        return noisy_labels(kind, "train", index, DATA, seed, rates, most)

    clean, more, spoilt = rows((0, 0, 0)), rows((0, 0, 0), most=8), rows((1, 0, 0))
    assert more[:4] == clean and len(more) == 8 and clean != rows((0, 0, 0), seed=1)
    assert [r.provenance["true_box"] for r in spoilt] == [list(r.box) for r in clean]
    assert all(a.text != b.text for a, b in zip(spoilt, clean, strict=True))
    for index in range(100):
        few, many = (rows(rates, "caption", index, most=6) for rates in ((0.1, 0.1, 0.1), (0.3, 0.2, 0.2)))
        for a, b in zip(few, many, strict=True):
            assert a.provenance["true_box"] == b.provenance["true_box"]
            assert a.provenance["noise"] == "none" or b.provenance["noise"] != "none"


@pytest.mark.parametrize("rates", ((0.5, 0.5, 0.1), (-0.1, 0, 0), (float("nan"), 0, 0)))
def test_rates_that_cannot_be(rates):
    with pytest.raises(UsageError, match="shares"):
        check_rates(rates)


# --- the command ----------------------------------------------------------------------------------------------------


def noisy(*args):
    return CliRunner().invoke(app, ["noisy-labels", *map(str, args)])


@pytest.fixture
def config(tmp_path):
    """A small train part: drawing up 6,000 scenes takes seconds."""
    path = tmp_path / "bench.toml"
    path.write_text("[data.shapes]\ntrain = 40\n")
    return path


def test_the_same_command_writes_the_same_bytes(tmp_path, config):
    files = [tmp_path / "new" / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    for file, seed in zip(files, (5, 5, 6), strict=True):
        done = noisy("--kind", "relation", "--out", file, "--limit", 30, "--seed", seed, "--config", config, "--json")
        assert done.exception is None, done.exception
    a, b, c = (file.read_bytes() for file in files)
    assert a == b != c
    printed = json.loads(done.stdout.splitlines()[-1])
    scenes, provenance = read_jsonl(files[2]), read_provenance(files[2])
    assert printed["rows"] == sum(len(scene.expressions) for scene in scenes) == len(provenance)
    assert printed["images"] == len(scenes) <= 30
    assert Counter(p["noise"] for p in provenance.values()) == printed["noise"]


@pytest.mark.parametrize(("change", "message"), (
    ({"--kind": "poem"}, "template, relation or caption"),
    ({"--split": "file:own.jsonl"}, "only shapes has"),
    ({"--out": "labels.pth"}, "labels.jsonl"),
    ({"--wrong-object": "0.9"}, "together 1 at most"),
))  # fmt: skip
def test_refused(tmp_path, config, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.jsonl").write_text('{"image": "a.png", "text": "a", "box_xyxy": [0, 0, 1, 1]}\n')
    given = {"--kind": "template", "--out": "labels.jsonl", "--config": str(config)} | change
    done = noisy(*(word for pair in given.items() for word in pair))
    assert isinstance(done.exception, UsageError) and message in str(done.exception)
    assert not list(tmp_path.glob("*labels*"))
