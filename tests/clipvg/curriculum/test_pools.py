"""Which rows a selection keeps, each once, none of them set aside, in one order."""

from dataclasses import replace

import pytest

from bench.datasets.readers.labels import SourceRows
from bench.datasets.shapes import make_scene
from bench.errors import DataError
from clipvg.curriculum.pools import entities_per_phrase, kept_rows, pool_of, sampled, selected, share_of
from clipvg.curriculum.search import Choice

SCENES = tuple(make_scene(2026, "train", i) for i in range(4))
EVERY = ("attribute", "location", "relation", "ordinal", "comparison")


@pytest.fixture
def pool(source):
    return pool_of(source("easy", EVERY))


def test_rows_are_named_by_their_source_and_come_in_one_order(pool):
    names = list(pool.rows)
    assert len(names) == 25 and all(name.startswith("easy:") for name in names)
    assert selected(names[::-1], [pool]) == selected(names, [pool]) == pool.to_train
    assert [e.id for scene in pool.to_train for e in scene.expressions] == names
    assert {scene.id for scene in pool.to_train} == {scene.id for scene in SCENES}


def test_copies_count_once_and_are_counted(source, caplog):
    one = source("easy", EVERY)
    first = one.scenes[0]
    again = replace(first, expressions=tuple(replace(e, id=f"again-{e.id}") for e in first.expressions[:2]))
    both = replace(one, scenes=(*one.scenes, again))
    pool = pool_of(both)
    assert len(pool.rows) == 25 and pool.duplicates == 2
    assert "2 rows are copies" in caplog.text
    moved = replace(first, expressions=(replace(first.expressions[0], id="moved", box=first.expressions[1].box),))
    assert len(pool_of(replace(one, scenes=(*one.scenes, moved))).rows) == 26, "the same words about another box"


def test_a_threshold_is_part_of_what_it_keeps(pool):
    reliability = {name: number / 10 for number, name in enumerate(pool.rows)}
    kept = kept_rows((Choice("easy", "m", 0.5),), {"easy": pool}, {("m", "easy"): reliability})
    assert [reliability[name] for name in kept] == [number / 10 for number in range(5, 25)]
    assert kept_rows((Choice("easy", "m", 9.0),), {"easy": pool}, {("m", "easy"): reliability}) == []


def test_choices_add_up_and_rows_set_aside_are_never_kept(source):
    pools = {n: pool_of(source(n, EVERY), held_out=0.4) for n in ("a", "b")}
    assert 0 < len(pools["a"].held_out) < 25
    aside = {name.partition(":")[2] for name in pools["a"].held_out}
    assert aside == {name.partition(":")[2] for name in pools["b"].held_out}, "the same images in every source"
    reliabilities = {("a", n): dict.fromkeys(pools[n].rows, 1.0) for n in pools}
    kept = kept_rows((Choice("b", "a", 0.5), Choice("a", "a", 0.5)), pools, reliabilities)
    assert len(kept) == 2 * (25 - len(aside)) and not set(kept) & (pools["a"].held_out | pools["b"].held_out)
    images = {scene.file for scene in selected(kept, pools.values())}
    reserved = {pools["a"].rows[name][0].file for name in pools["a"].held_out}
    assert images and reserved and not images & reserved
    assert pools["a"].to_train == selected([row for row in kept if row.startswith("a:")], pools.values())


def test_a_share_of_more_rows_holds_the_share_of_fewer():
    names = [f"row {number}" for number in range(4000)]
    half = sampled(names, 0.5)
    assert abs(len(half) / 4000 - 0.5) < 0.04
    assert sampled(names[:1000], 0.5) == [name for name in half if name in set(names[:1000])]
    assert sampled(names, 1.0) == names
    assert all(0 <= share_of(name) < 1 for name in names)


def test_entities_are_what_rows_say_else_what_their_words_name(source):
    one = source("easy", EVERY, entities=3)
    assert entities_per_phrase(one) == 3
    texts, first = ("the red star", "the star left of the blue circle", "one"), SCENES[0].expressions[0]
    expressions = tuple(replace(first, id=str(n), text=text) for n, text in enumerate(texts))
    scene = replace(SCENES[0], expressions=expressions)
    assert entities_per_phrase(SourceRows("silent", [scene])) == pytest.approx((1 + 2 + 1) / 3)
    assert entities_per_phrase(SourceRows("half", [scene], {"0": {"entities": 5}, "2": {"entities": True}})) > 2


def test_nothing_to_choose_from_is_an_error(source):
    with pytest.raises(DataError, match="'empty' has no rows"):
        pool_of(SourceRows("empty", ()))
    with pytest.raises(DataError, match=r"all of its .* rows are set aside"):
        pool_of(source("easy", EVERY), held_out=0.9999999)
