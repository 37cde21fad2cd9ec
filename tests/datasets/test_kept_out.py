"""No image of a val or test part enters a training, whatever data set brings it."""

import pytest

from bench.datasets.catalog import CATALOGUE
from bench.datasets.fingerprint import image_key
from bench.datasets.kept_out import kept_out_parts, without_kept_out
from bench.datasets.prepared import Header, index_path, write_index
from bench.datasets.readers.index_lists import read_index_list
from bench.datasets.split import Counts
from bench.grounding import Expression, Scene

COCO = ["refcoco", "refcoco+", "refcocog", "refcocog-google"]
PARTS = [f"{d.name}-{part.name}" for d in CATALOGUE if d.name in COCO for part in d.parts if part.name != "train"]
MORE = ["grefcoco-val", "grefcoco-testA", "grefcoco-testB"]  # of the same images


def parts(dataset, scenes=()):
    return [f"{one.name}-{part}" for one, part in kept_out_parts(dataset, scenes)]


def scene(number, file="COCO_train2014_{:012d}.jpg", texts=2):
    box = (1.0, 2.0, 30.0, 40.0)
    name = file.format(number)
    return Scene(name, name, 64, 48, tuple(Expression(f"{number}-{n}", "a dog", box) for n in range(texts)))


def write(home, split, scenes):
    dataset, _, part = split.rpartition("-")
    counts = Counts(sum(len(s.expressions) for s in scenes), None, len(scenes))
    write_index(index_path(home, dataset, part), Header(dataset, part, "index", counts, "f" * 64), scenes)


def test_the_four_sets_share_their_images():
    for name in (*COCO, "refcoco-unc", "refcocog-umd"):
        assert parts(name) == PARTS + MORE
    assert len(PARTS) == 9 and {part.rpartition("-")[0] for part in PARTS} == set(COCO)
    # Others have images of their own; people's own data has what its files are called.
    assert parts("referit") == ["referit-val", "referit-test"]
    assert parts("shapes", [scene(1, "train-{:06d}.png")]) == []
    assert parts("file", [scene(1, "mine/{:012d}.jpg")]) == PARTS + MORE


def test_an_image_of_any_other_list_is_dropped_and_counted(tmp_path):
    scenes = [scene(number) for number in range(1, 14)]
    for number, split in enumerate(PARTS, 1):  # each has one image of the training, under train2017's name, and another
        write(tmp_path, split, [scene(number, "{:012d}.jpg"), scene(900 + number)])
    kept, out = without_kept_out(scenes, "refcoco", tmp_path)
    assert [image_key(s.file) for s in kept] == ["10", "11", "12", "13"]
    assert (out.images, out.expressions, out.unknown) == (9, 18, ()) and out.parts == dict.fromkeys(PARTS, 1)
    # Lists of gRefCOCO, which parts the images as RefCOCO does, count where they are.
    write(tmp_path, MORE[0], [scene(10)])
    kept, out = without_kept_out(scenes, "refcoco", tmp_path)
    assert [image_key(s.file) for s in kept] == ["11", "12", "13"] and out.parts[MORE[0]] == 1


def test_a_list_that_is_not_there_is_named(tmp_path):
    write(tmp_path, "refcoco-val", [scene(1)])
    kept, out = without_kept_out([scene(1), scene(2)], "refcoco+", tmp_path)
    assert len(kept) == 1 and out.parts == {"refcoco-val": 1} and out.unknown == tuple(PARTS[1:])


def test_real_lists_keep_their_images_out(real, tmp_path):
    """A "training" of RefCOCOg's val, RefCOCO's testA and images of nobody loses all that any real list has."""
    lists = {"refcoco-val": "unc_val", "refcoco-testA": "unc_testA", "refcoco-testB": "unc_testB",
             "refcoco+-val": "unc+_val", "refcoco+-testA": "unc+_testA", "refcoco+-testB": "unc+_testB",
             "refcocog-val": "gref_umd_val"}  # fmt: skip
    read = {split: read_index_list(real / "index" / f"{stem}.pth", split.rpartition("-")[0])
            for split, stem in lists.items()}  # fmt: skip
    for split, scenes in read.items():
        write(tmp_path, split, scenes)
    others = [scene(10**11 + number) for number in range(5)]
    given = [*read["refcocog-val"], *others, *read["refcoco-testA"]]
    kept, out = without_kept_out(given, "refcoco", tmp_path)
    ids = {image_key(s.file) for scenes in read.values() for s in scenes}
    assert [s.id for s in kept] == [s.id for s in others] and not ids & {image_key(s.file) for s in kept}
    assert out.images == len(read["refcocog-val"]) + len(read["refcoco-testA"]) == 1300 + 750
    assert out.parts["refcocog-val"] == len({image_key(s.file) for s in given} & {image_key(s.file)
                                             for s in read["refcocog-val"]})  # fmt: skip
    assert set(out.unknown) == {"refcocog-test", "refcocog-google-val"}


@pytest.mark.parametrize("name", COCO)
def test_own_val_images_are_among_them(tmp_path, name):
    write(tmp_path, f"{name}-val", [scene(3)])
    assert without_kept_out([scene(3)], name, tmp_path)[0] == []
