"""Preparing: from the formats that users hold to the index, with counts asserted."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
from tiny_refcoco import FILES, PARTS, REFS, TINY, lists, refer_files, train2017

from bench.datasets.load import load_split
from bench.datasets.prepare import prepare
from bench.datasets.readers import ReadOptions
from bench.datasets.split import Counts, Part
from bench.errors import DataError, ImageError, UnknownName, UnsafePickle, UsageError
from bench.settings import Resolved, Settings

VAL = ReadOptions("val")


@pytest.fixture
def resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolved:
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    return Resolved(Settings(), folder=tmp_path)


def test_refer_files_every_part(resolved: Resolved, tmp_path: Path) -> None:
    done = prepare(TINY, str(refer_files(tmp_path)), [train2017(tmp_path / "p.zip")], resolved, ReadOptions())
    assert [p.split for p in done] == ["refcoco-train", "refcoco-val", "refcoco-testA"]
    val = done[1]
    assert (val.header.counts, val.header.format, val.header.partial) == (Counts(4, 2, 2), "refer", False)
    assert [Path(s["path"]).name for s in val.header.sources] == ["refs(unc).p", "instances.json"]
    assert all(len(s["sha256"]) == 64 and s["bytes"] for s in val.header.sources)
    assert [p.missing_images for p in done] == [0, 0, 0]
    split = TINY.load("val", resolved)
    assert split.counts == Counts(4, 2, 2)
    first = split.scenes[0]
    assert (first.file, first.width, first.height) == (FILES[1], 64, 48)
    assert first.expressions[0].box == (1.5, 2.25, 11.5, 22.25)
    assert first.expressions[0].category == "dog"
    assert split.images.load(first).shape == (48, 64, 3)


@pytest.mark.parametrize("place", ["", "refcoco", "refcoco/refs(unc).p"])
def test_refer_files_wherever_the_user_points(place: str, resolved: Resolved, tmp_path: Path) -> None:
    refer_files(tmp_path)
    assert len(prepare(TINY, str(tmp_path / place), [], resolved, ReadOptions())) == 3


@pytest.mark.parametrize("place", ["", "unc"])
def test_index_lists_every_part(place: str, resolved: Resolved, tmp_path: Path) -> None:
    done = prepare(TINY, str(lists(tmp_path) / place), [], resolved, ReadOptions())
    assert [p.split for p in done] == ["refcoco-train", "refcoco-val", "refcoco-testA"]
    assert done[1].header.format == "index"
    assert done[1].missing_images is None


def test_both_formats_give_one_fingerprint_and_nothing_changes(resolved: Resolved, tmp_path: Path) -> None:
    (first,) = prepare(TINY, str(refer_files(tmp_path / "a")), [], resolved, VAL)
    (second,) = prepare(TINY, str(lists(tmp_path / "b") / "unc/unc_val.pth"), [], resolved, VAL)
    assert first.header.fingerprint == second.header.fingerprint
    assert second.changed == ()


def test_what_changed_is_said(resolved: Resolved, tmp_path: Path) -> None:
    prepare(TINY, str(refer_files(tmp_path / "a")), [], resolved, VAL)
    other = [(1, 11, 1, "val", ["left dog", "the cat"]), *REFS[1:]]
    (again,) = prepare(TINY, str(lists(tmp_path / "b", other)), [], resolved, VAL)
    said = " ".join(again.changed)
    assert "the dog on the left" in said
    assert "the cat" in said


def test_a_single_file_says_its_part_or_is_told(resolved: Resolved, tmp_path: Path) -> None:
    lists(tmp_path)
    (done,) = prepare(TINY, str(tmp_path / "unc/unc_testA.pth"), [], resolved, ReadOptions())
    assert done.split == "refcoco-testA"
    odd = (tmp_path / "unc/unc_val.pth").rename(tmp_path / "mine.pth")
    with pytest.raises(DataError, match=r"mine\.pth.*refcoco-train or refcoco-val"):
        prepare(TINY, str(odd), [], resolved, ReadOptions())
    assert prepare(TINY, str(odd), [], resolved, VAL)[0].split == "refcoco-val"


def test_jsonl_of_our_own(resolved: Resolved, tmp_path: Path) -> None:
    path = tmp_path / "refcoco-testA.jsonl"
    path.write_text(json.dumps({"image": FILES[1], "text": "x", "box_xywh": [1, 2, 3, 4], "ref_id": "7"}) + "\n")
    (done,) = prepare(TINY, str(path), [], resolved, ReadOptions())
    assert (done.split, done.header.format) == ("refcoco-testA", "jsonl")


def test_wrong_counts_write_nothing_and_say_what_the_files_look_like(resolved: Resolved, tmp_path: Path) -> None:
    lists(tmp_path, [*REFS, (5, 11, 1, "val", ["one more"])])
    with pytest.raises(DataError) as caught:
        prepare(TINY, str(tmp_path), [], resolved, ReadOptions())
    for said in ("refcoco-val", "expressions: 4 expected, 5 counted", "unc_val.pth", "--subset"):
        assert said in str(caught.value)
    assert not (tmp_path / "home").exists()


def test_a_mix_up_of_parts_is_recognised(resolved: Resolved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.datasets.prepare.LOOKALIKES", (("refcoco-testA", PARTS[2]), ("other", Part("x", 7))))
    file = str(lists(tmp_path) / "unc/unc_testA.pth")
    with pytest.raises(DataError, match="these are the counts of refcoco-testA\n"):
        prepare(TINY, file, [], resolved, VAL)


def test_a_deliberate_subset_is_stored_as_partial(resolved: Resolved, tmp_path: Path) -> None:
    lists(tmp_path, REFS[1:])
    (done,) = prepare(TINY, str(tmp_path), [], resolved, ReadOptions("val", subset=True))
    assert done.header.partial
    assert TINY.load("val", resolved).partial
    more = str(lists(tmp_path / "m", [*REFS, (5, 11, 1, "val", ["one more"])]))
    with pytest.raises(DataError, match="4 expected, 5 counted"):  # more than all is no subset
        prepare(TINY, more, [], resolved, ReadOptions("val", subset=True))
    (whole,) = prepare(TINY, str(lists(tmp_path / "w")), [], resolved, ReadOptions("val", subset=True))
    assert not whole.header.partial
    assert not TINY.load("val", resolved).partial


def test_a_malicious_index_list_is_not_executed(resolved: Resolved, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/executed",)

    lists(tmp_path)
    (tmp_path / "unc/unc_val.pth").write_bytes(pickle.dumps([("a.jpg", Bomb())]))
    with pytest.raises(UnsafePickle):
        prepare(TINY, str(tmp_path), [], resolved, ReadOptions())
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "home").exists()


def test_paths_that_hold_nothing(resolved: Resolved, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: not there; refcoco is read from .*refs\(unc\)\.p"):
        prepare(TINY, str(tmp_path / "gone"), [], resolved, ReadOptions())
    (tmp_path / "referit_val.pth").touch()
    with pytest.raises(DataError, match=r"nothing of refcoco in it.*it holds lists of referit"):
        prepare(TINY, str(tmp_path), [], resolved, ReadOptions())
    (tmp_path / "refcoco.zip").touch()
    with pytest.raises(DataError, match="unpack it first"):
        prepare(TINY, str(tmp_path / "refcoco.zip"), [], resolved, ReadOptions())
    with pytest.raises(UsageError, match="give --annotations, --images or both"):
        prepare(TINY, None, [], resolved, ReadOptions())


def test_the_other_split_by_is_refused(resolved: Resolved, tmp_path: Path) -> None:
    refer_files(tmp_path, name="refs(google).p")
    with pytest.raises(DataError, match=r"refs\(unc\)\.p is missing.*refs\(google\)\.p"):
        prepare(TINY, str(tmp_path), [], resolved, ReadOptions())


def test_images_can_come_later(resolved: Resolved, tmp_path: Path) -> None:
    prepare(TINY, str(lists(tmp_path)), [], resolved, ReadOptions())
    split = TINY.load("val", resolved)
    with pytest.raises(ImageError, match="bench data prepare refcoco --images PATH"):
        split.images.load(split.scenes[0])
    done = prepare(TINY, None, [train2017(tmp_path / "train2017.zip")], resolved, ReadOptions())
    assert [(p.split, p.missing_images) for p in done] == [(f"refcoco-{n.name}", 0) for n in PARTS]
    assert TINY.load("val", resolved).images.load(split.scenes[0]).shape == (48, 64, 3)


def test_images_that_are_not_there_or_no_zip(resolved: Resolved, tmp_path: Path) -> None:
    lists(tmp_path)
    with pytest.raises(DataError, match="--images is a folder or a zip"):
        prepare(TINY, str(tmp_path), [tmp_path / "gone"], resolved, ReadOptions())
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(ImageError, match=r"broken\.zip: not a zip"):
        prepare(TINY, str(tmp_path), [tmp_path / "broken.zip"], resolved, ReadOptions())
    assert not (tmp_path / "home").exists()


def test_names(resolved: Resolved, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="refcoco-val"):
        prepare("refcoco-vall", str(tmp_path), [], resolved, ReadOptions())
    with pytest.raises(UsageError, match="shapes is not prepared"):
        prepare("shapes", str(tmp_path), [], resolved, ReadOptions())


REAL = [
    ("refcoco-val", "unc_val.pth", Counts(10_834, 3_811, 1_500)),
    ("refcocog-val", "gref_umd_val.pth", Counts(4_896, 2_573, 1_300)),
    ("referit-val", "referit_val.pth", Counts(5_842, 4_866, 1_000)),
    ("flickr30k-val", "flickr_val.pth", Counts(14_433, None, 1_000)),
]


@pytest.mark.parametrize(("name", "file", "counts"), REAL)
def test_real_index_lists_have_the_published_counts(
    name: str, file: str, counts: Counts, resolved: Resolved, real: Path
) -> None:
    (done,) = prepare(name, str(real / "index" / file), [real / "pictures"], resolved, ReadOptions())
    assert done.header.counts == counts
    assert not done.header.partial
    split = load_split(name, resolved)
    assert split.counts == counts
    gone = set(split.images.missing(split.scenes))
    there = [scene for scene in split.scenes if scene.file not in gone]
    assert all(split.images.load(scene).ndim == 3 for scene in there)


def test_a_real_mix_up_is_recognised(resolved: Resolved, real: Path) -> None:
    with pytest.raises(DataError, match="these are the counts of refcocog-val"):
        prepare("refcoco-val", str(real / "index/gref_umd_val.pth"), [], resolved, ReadOptions())
