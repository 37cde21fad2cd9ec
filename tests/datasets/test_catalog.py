"""The catalogue of data sets and the prepared index that they load from."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.datasets import catalog
from bench.datasets.catalog import CATALOGUE, Catalogued, mismatches
from bench.datasets.fingerprint import fingerprint
from bench.datasets.prepared import (
    NO_BOX,
    Header,
    image_roots,
    index_path,
    read_header,
    read_index,
    store_image_roots,
    write_index,
)
from bench.datasets.split import Counts, Part, Split
from bench.errors import DataError, ImageError
from bench.grounding import Caption, Expression, Scene
from bench.registry import DATASETS, names
from bench.settings import DataSettings, Resolved, Settings

TINY = Catalogued("tiny", "Tiny", (Part("val", 2, 1, 1), Part("test")), "none", "here", "there")
SCENES = (
    Scene("p", "p.jpg", 640, 480, (
        Expression("0", "the left one", (0.1, 0.2, 30.3, 40.4), "r1", "location", "dog", 2, ((1.0, 2.0, 3.5, 4.0),)),
        Expression("1", "שמאל 🐕 <b>\u2028\n", (1 / 3, 0.0, 16.0, 12.0)),
    )),
    Scene("q", "q.jpg", None, None, ()),
)  # fmt: skip


def header(part="val", partial=False):
    sources = ({"path": "/x/refs.p", "bytes": 5, "sha256": "ab"},)
    counts = Split("tiny-val", "", SCENES, None).counts
    return Header("tiny", part, "refer", counts, fingerprint(SCENES), sources, "merged", partial=partial)


@pytest.fixture
def path(resolved):
    """An index of SCENES, as tiny-val."""
    path = index_path(resolved.home, "tiny", "val")
    write_index(path, header(), SCENES)
    return path


def test_the_catalogue_is_registered_and_says_how_to_prepare():
    ours = {d.name for d in CATALOGUE}
    assert ours == {
        *("refcoco", "refcoco+", "refcocog", "refcocog-google", "referit", "flickr30k"),
        *("grefcoco", "refdrone", "refcocos", "groundingme", "humanref", "ref-l4"),
    }
    assert ours <= set(names(DATASETS))
    for each in CATALOGUE:
        assert getattr(catalog, each.name.replace("+", "_plus").replace("-", "_")) is each
    assert all(d.terms and f"bench data prepare {d.name}" in d.where for d in CATALOGUE)
    assert all("-" not in part.name for d in CATALOGUE for part in d.parts)  # a split's name is parted at its last "-"


def test_published_totals():
    """The sums the papers give: a typing error in one part would show."""
    total = {d.name: sum(p.expressions or 0 for p in d.parts) for d in CATALOGUE}
    refs = {d.name: sum(p.refs or 0 for p in d.parts) for d in CATALOGUE}
    assert (total["refcoco"], total["refcoco+"], total["refcocog"]) == (142_210, 141_564, 95_010)
    assert (refs["refcoco"], refs["refcoco+"]) == (50_000, 49_856)
    assert refs["refcocog"] == refs["refcocog-google"] == 49_822


@pytest.mark.parametrize(("counts", "lines"), [
    (Counts(2, 1, 1), []),
    (Counts(2, None, 1), []),
    (Counts(3, 1, 1), ["expressions: 2 expected, 3 counted"]),
    (Counts(2, 4, 5), ["refs: 1 expected, 4 counted", "images: 1 expected, 5 counted"]),
])  # fmt: skip
def test_mismatches(counts, lines):
    assert mismatches(TINY.parts[0], counts) == lines and mismatches(TINY.parts[1], counts) == []


@pytest.mark.parametrize("schema", [2, 1])  # 1: from before captions
def test_an_index_gives_back_what_was_written(schema, path):
    path.write_bytes(path.read_bytes().replace(b'"schema":2', f'"schema":{schema}'.encode()))
    assert read_index(path) == (header(), SCENES) and read_header(path) == header()
    assert [p.name for p in path.parent.iterdir()] == ["val.jsonl"]


numbers = st.floats(allow_nan=False, allow_infinity=False)
box = st.tuples(numbers, numbers, numbers, numbers)
word = st.none() | st.text(max_size=5)
caption = st.builds(Caption, st.text(max_size=9), st.integers(0, 4), st.integers(5, 9))
also = st.lists(box, max_size=2).map(tuple)
fields = (st.text(), st.text(), box, word, word, word, st.none() | st.integers(0, 9), also, st.none() | caption)


@pytest.mark.slow
@given(st.lists(st.builds(Expression, *fields), max_size=4).map(tuple))
def test_any_expression_survives_the_index(tmp_path_factory, drawn):
    path = tmp_path_factory.mktemp("index") / "val.jsonl"
    scene = Scene("s", "s.jpg", 3, None, drawn)
    write_index(path, header(), [scene])
    assert read_index(path)[1] == (scene,)


def test_an_index_of_none_and_several_is_of_a_later_schema(resolved):
    also = ((1.0, 2.0, 3.0, 4.0),)
    expressions = (Expression("0", "none", NO_BOX), Expression("1", "two", (5.0, 5.0, 6.0, 6.0), also=also))
    scenes = (Scene("s", "s.jpg", 9, 9, expressions),)
    path = index_path(resolved.home, "tiny", "val")
    write_index(path, header(), scenes)
    assert b'"schema":4' in path.read_bytes() and b'["0","none",null]' in path.read_bytes()
    _, back = read_index(path)
    assert back == scenes and [e.targets for e in back[0].expressions] == [(), (expressions[1].box, *also)]
    assert fingerprint(back) == fingerprint(scenes) and not np.isnan(back.annotations.targets).any()
    assert back.annotations.owner.tolist() == [1, 1]


def test_a_split_loads_with_the_stored_fingerprint(resolved):
    write_index(index_path(resolved.home, "tiny", "val"), header(partial=True), SCENES)
    split = TINY.load("val", resolved)
    assert (split.name, split.dataset, split.title, split.partial) == ("tiny-val", "tiny", "Tiny val", True)
    assert split.fingerprint == fingerprint(SCENES)
    assert split.limited(1).fingerprint == fingerprint(SCENES[:1])
    with pytest.raises(ImageError, match=r"p\.jpg.*bench data prepare tiny --images PATH"):
        split.images.load(split.scenes[0])


def test_not_prepared_says_how(resolved):
    assert not TINY.ready("val", resolved)
    with pytest.raises(DataError, match=r"tiny-val is not prepared[\s\S]*bench data prepare tiny --annotations PATH"):
        TINY.load("val", resolved)
    with pytest.raises(DataError, match="no part 'dev'; it has val, test"):
        TINY.load("dev", resolved)


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_cut_index_is_refused(keep, resolved, path):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"val\.jsonl.*bench data prepare tiny --annotations PATH. again"):
        TINY.load("val", resolved)


@pytest.mark.parametrize(("old", "new", "message"), [
    (b"the left one", b"the other one", "cut short or changed"),
    (b'"part":"val"', b'"part":"test"', "holds tiny-test"),
    (b'"schema":2', b'"schema":9', "schema 9"),
    (b'"counts":{', b'"counts":[{', "not a prepared index"),
])  # fmt: skip
def test_another_index_is_refused(old, new, message, resolved, path):
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(DataError, match=message):
        TINY.load("val", resolved)


def test_what_cannot_be_written(resolved):
    path = index_path(resolved.home, "tiny", "val")
    bad = Scene("a", "a.jpg", 1, 1, (Expression("0", "x", (0.0, 0.0, float("nan"), 1.0)),))
    with pytest.raises(DataError, match=r"tiny-val.*not finite"):
        write_index(path, header(), [bad])
    assert not path.exists()
    resolved.home.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"val\.jsonl: cannot be written.*BENCH_HOME"):
        write_index(path, header(), SCENES)


def test_where_images_lie(resolved, tmp_path):
    assert image_roots(resolved, "tiny") == []
    store_image_roots(resolved.home, "tiny", [tmp_path / "a", tmp_path / "b.zip"])
    (resolved.home / "datasets/tiny/hub.zip").touch()
    stored = [tmp_path / "a", tmp_path / "b.zip", resolved.home / "datasets/tiny/hub.zip"]

    def named(**images):
        return Resolved(Settings(data=DataSettings(images=images)), folder=tmp_path)

    assert image_roots(resolved, "tiny") == image_roots(named(coco="all"), "tiny") == stored
    assert image_roots(named(tiny="mine"), "tiny") == [tmp_path / "mine", *stored]
    assert image_roots(named(coco="all"), "tiny", "coco") == [tmp_path / "all", *stored]
    (resolved.home / "datasets/tiny/images.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match="bench data prepare tiny --images PATH"):
        image_roots(resolved, "tiny")
