"""The catalogue of data sets and the prepared index that they load from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets import catalog
from bench.datasets.catalog import CATALOGUE, Catalogued, mismatches
from bench.datasets.fingerprint import fingerprint
from bench.datasets.prepared import (
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


@pytest.fixture
def resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolved:
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    return Resolved(Settings(), folder=tmp_path)


def scenes(text: str = "the left one") -> tuple[Scene, ...]:
    a = Expression("0", text, (0.1, 0.2, 30.3, 40.4), "r1", "location", "dog", 2, ((1.0, 2.0, 3.5, 4.0),))
    b = Expression("1", "שמאל 🐕 <b>\u2028\n", (1 / 3, 0.0, 16.0, 12.0))
    return (Scene("p", "p.jpg", 640, 480, (a, b)), Scene("q", "q.jpg", None, None, ()))


def header(content: tuple[Scene, ...], part: str = "val", partial: bool = False) -> Header:
    sources = ({"path": "/x/refs.p", "bytes": 5, "sha256": "ab"},)
    counts = Split("tiny-val", "", content, None).counts  # type: ignore[arg-type]
    return Header("tiny", part, "refer", counts, fingerprint(content), sources, "merged", partial=partial)


def test_every_registered_name_is_in_the_catalogue() -> None:
    ours = {d.name for d in CATALOGUE}
    assert ours == {"refcoco", "refcoco+", "refcocog", "refcocog-google", "referit", "flickr30k"}
    assert ours <= set(names(DATASETS))
    for attribute in ("refcoco", "refcoco_plus", "refcocog", "refcocog_google", "referit", "flickr30k"):
        assert getattr(catalog, attribute) in CATALOGUE


def test_published_totals() -> None:
    """The sums the papers give: a typing error in one part would show."""
    total = {d.name: sum(p.expressions or 0 for p in d.parts) for d in CATALOGUE}
    refs = {d.name: sum(p.refs or 0 for p in d.parts) for d in CATALOGUE}
    assert total["refcoco"] == 142_210
    assert total["refcoco+"] == 141_564
    assert total["refcocog"] == 95_010
    assert refs["refcocog"] == 49_822
    assert refs["refcocog-google"] == 49_822
    assert refs["refcoco"] == 50_000
    assert refs["refcoco+"] == 49_856


def test_part_names_hold_no_hyphen() -> None:
    """A split's name is parted at its last hyphen."""
    assert all("-" not in part.name for dataset in CATALOGUE for part in dataset.parts)


def test_every_data_set_says_terms_and_where() -> None:
    for dataset in CATALOGUE:
        assert dataset.terms
        assert f"bench data prepare {dataset.name}" in dataset.where


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (Counts(2, 1, 1), []),
        (Counts(2, None, 1), []),
        (Counts(3, 1, 1), ["expressions: 2 expected, 3 counted"]),
        (Counts(2, 4, 5), ["refs: 1 expected, 4 counted", "images: 1 expected, 5 counted"]),
    ],
)
def test_mismatches(found: Counts, says: list[str]) -> None:
    assert mismatches(TINY.parts[0], found) == says
    assert mismatches(TINY.parts[1], found) == []


def test_an_index_gives_back_what_was_written(resolved: Resolved) -> None:
    path = index_path(resolved.home, "tiny", "val")
    write_index(path, header(scenes()), scenes())
    assert read_index(path) == (header(scenes()), scenes())
    assert read_header(path) == header(scenes())
    assert [p.name for p in path.parent.iterdir()] == ["val.jsonl"]


numbers = st.floats(allow_nan=False, allow_infinity=False)
optional = st.none() | st.text(max_size=5)
expressions = st.builds(
    Expression,
    st.text(),
    st.text(),
    st.tuples(numbers, numbers, numbers, numbers),
    optional,
    optional,
    optional,
    st.none() | st.integers(0, 9),
    st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=2).map(tuple),
    st.none() | st.builds(Caption, st.text(max_size=9), st.integers(0, 4), st.integers(5, 9)),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(expressions, max_size=4).map(tuple))
def test_any_expression_survives_the_index(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Expression]) -> None:
    path = tmp_path_factory.mktemp("index") / "val.jsonl"
    scene = Scene("s", "s.jpg", 3, None, drawn)
    write_index(path, header(scenes()), [scene])
    assert read_index(path)[1] == (scene,)


def test_an_index_from_before_captions_is_still_read(resolved: Resolved) -> None:
    path = index_path(resolved.home, "tiny", "val")
    write_index(path, header(scenes()), scenes())
    path.write_bytes(path.read_bytes().replace(b'"schema":2', b'"schema":1'))
    assert read_index(path)[1] == scenes()


def test_a_split_loads_with_the_stored_fingerprint(resolved: Resolved) -> None:
    write_index(index_path(resolved.home, "tiny", "val"), header(scenes(), partial=True), scenes())
    split = TINY.load("val", resolved)
    assert (split.name, split.dataset, split.title) == ("tiny-val", "tiny", "Tiny val")
    assert split.partial
    assert split.fingerprint == fingerprint(scenes())
    assert split.limited(1).fingerprint == fingerprint(scenes()[:1])
    with pytest.raises(ImageError, match=r"p\.jpg.*bench data prepare tiny --images PATH"):
        split.images.load(split.scenes[0])


def test_not_prepared_says_how(resolved: Resolved) -> None:
    assert not TINY.ready("val", resolved)
    with pytest.raises(DataError, match=r"tiny-val is not prepared[\s\S]*bench data prepare tiny --annotations PATH"):
        TINY.load("val", resolved)
    with pytest.raises(DataError, match="no part 'dev'; it has val, test"):
        TINY.load("dev", resolved)


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_cut_index_is_refused(keep: int, resolved: Resolved) -> None:
    path = index_path(resolved.home, "tiny", "val")
    write_index(path, header(scenes()), scenes())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"val\.jsonl.*bench data prepare tiny --annotations PATH. again"):
        TINY.load("val", resolved)


def test_a_changed_index_is_refused(resolved: Resolved) -> None:
    path = index_path(resolved.home, "tiny", "val")
    write_index(path, header(scenes()), scenes())
    path.write_bytes(path.read_bytes().replace(b"the left one", b"the other one"))
    with pytest.raises(DataError, match="cut short or changed"):
        TINY.load("val", resolved)


def test_an_index_of_another_schema_or_part_is_refused(resolved: Resolved) -> None:
    path = index_path(resolved.home, "tiny", "val")
    write_index(path, header(scenes(), part="test"), scenes())
    with pytest.raises(DataError, match="holds tiny-test"):
        TINY.load("val", resolved)
    path.write_bytes(path.read_bytes().replace(b'"schema":2', b'"schema":9'))
    with pytest.raises(DataError, match="schema 9"):
        TINY.load("val", resolved)
    path.write_text(json.dumps([1, 2]) + "\n")
    with pytest.raises(DataError, match="not a prepared index"):
        TINY.header("val", resolved)


def test_a_box_that_is_not_finite_is_never_written(resolved: Resolved) -> None:
    path = index_path(resolved.home, "tiny", "val")
    bad = Scene("a", "a.jpg", 1, 1, (Expression("0", "x", (0.0, 0.0, float("nan"), 1.0)),))
    with pytest.raises(DataError, match=r"tiny-val.*not finite"):
        write_index(path, header(scenes()), [bad])
    assert not path.exists()


def test_where_images_lie(resolved: Resolved, tmp_path: Path) -> None:
    assert image_roots(resolved, "tiny") == []
    store_image_roots(resolved.home, "tiny", [tmp_path / "a", tmp_path / "b.zip"])
    (resolved.home / "datasets/tiny/hub.zip").touch()
    named = Resolved(Settings(data=DataSettings(images={"tiny": "mine"})), folder=tmp_path)
    stored = [tmp_path / "a", tmp_path / "b.zip", resolved.home / "datasets/tiny/hub.zip"]
    assert image_roots(resolved, "tiny") == stored
    assert image_roots(named, "tiny") == [tmp_path / "mine", *stored]
    album = Resolved(Settings(data=DataSettings(images={"coco": "all"})), folder=tmp_path)
    assert image_roots(album, "tiny", "coco") == [tmp_path / "all", *stored]
    assert image_roots(album, "tiny") == stored
    (resolved.home / "datasets/tiny/images.json").write_text("[")
    with pytest.raises(DataError, match="bench data prepare tiny --images PATH"):
        image_roots(resolved, "tiny")


def test_an_unwritable_home_is_a_readable_error(resolved: Resolved) -> None:
    resolved.home.parent.mkdir(exist_ok=True)
    resolved.home.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"val\.jsonl: cannot be written.*BENCH_HOME"):
        write_index(index_path(resolved.home, "tiny", "val"), header(scenes()), scenes())
