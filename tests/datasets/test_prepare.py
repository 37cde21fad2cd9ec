"""Preparing from the formats that users hold, with counts asserted, and verifying what was prepared."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_refcoco import FILES, PARTS, REFS, TINY, jpeg, lists, parquet, refer_files, train2017

from bench.datasets import catalog
from bench.datasets.annotations import annotations_of
from bench.datasets.catalog import Catalogued, mismatches
from bench.datasets.fingerprint import fingerprint
from bench.datasets.load import load_split
from bench.datasets.prepare import prepare
from bench.datasets.prepared import Header, index_path, read_header, read_index, write_index
from bench.datasets.readers import ReadOptions
from bench.datasets.split import Counts, Part
from bench.datasets.verify import verify
from bench.errors import DataError, ImageError, UnknownName, UnsafePickle, UsageError
from bench.grounding import Caption, Expression, Scene
from bench.masks import encode

ALL, VAL, SUBSET = ReadOptions(), ReadOptions("val"), ReadOptions("val", subset=True)
MORE = [*REFS, (5, 11, 1, "val", ["one more"])]


@pytest.fixture
def tiny(monkeypatch):
    """TINY stands in the catalogue in refcoco's place, so that it is found by name."""
    monkeypatch.setattr(catalog, "refcoco", TINY)


def test_refer_files_every_part(resolved, tmp_path):
    done = prepare(TINY, str(refer_files(tmp_path)), [train2017(tmp_path / "p.zip")], resolved, ALL)
    assert [header.split for header, *_ in done] == ["refcoco-train", "refcoco-val", "refcoco-testA"]
    header = done[1][0]
    assert (header.counts, header.format, header.partial) == (Counts(4, 2, 2), "refer", False)
    assert [Path(s["path"]).name for s in header.sources] == ["refs(unc).p", "instances.json"]
    assert all(len(s["sha256"]) == 64 and s["bytes"] for s in header.sources)
    assert [missing for *_, missing in done] == [(), (), ()]
    split = TINY.load("val", resolved)
    assert split.counts == Counts(4, 2, 2)
    first = split.scenes[0]
    assert (first.file, first.width, first.height) == (FILES[1], 64, 48)
    assert (first.expressions[0].box, first.expressions[0].category) == ((1.5, 2.25, 11.5, 22.25), "dog")
    assert split.images.load(first).shape == (48, 64, 3)
    for place in ("refcoco", "refcoco/refs(unc).p"):
        assert len(prepare(TINY, str(tmp_path / place), [], resolved, ALL)) == 3


@pytest.mark.parametrize("place", ["", "unc"])
def test_index_lists_every_part(place, resolved, tmp_path):
    done = prepare(TINY, str(lists(tmp_path) / place), [], resolved, ALL)
    assert [header.split for header, *_ in done] == ["refcoco-train", "refcoco-val", "refcoco-testA"]
    assert done[1][0].format == "index" and done[1][2] is None


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_parquet_brings_its_images(whole, resolved, tmp_path):
    folder = parquet(tmp_path / "hub")
    path = folder if whole else next(folder.iterdir())
    ((header, _, missing),) = prepare(
        TINY, str(path), [], resolved, ReadOptions(None if whole else "val", revision="ab" * 20)
    )
    assert (header.format, header.revision, missing) == ("hub", "ab" * 20, ())
    archive = tmp_path / "home/datasets/refcoco/val-images.zip"
    assert {i.compress_type for i in zipfile.ZipFile(archive).infolist()} == {zipfile.ZIP_STORED}
    split = TINY.load("val", resolved)
    assert split.images.load(split.scenes[1]).shape == (48, 64, 3)


def test_flickr30k_entities(resolved, tmp_path):
    parts, protocols = (Part("val", 1, None, 1), Part("test")), ("merged", "any-box")
    flickr = Catalogued("flickr30k", "Tiny Flickr30k", parts, "", "", "", stem="flickr", protocols=protocols)
    box = "<object><name>1</name><bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>12</ymax></bndbox></object>"
    folder = tmp_path / "flickr"
    for name, text in (
        ("val.txt", "36979\n"),
        ("Sentences/36979.txt", "[/EN#1/people Two dogs] run .\n"),
        ("Annotations/36979.xml", f"<annotation>{box.format(1, 11)}{box.format(21, 31)}</annotation>"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    ((merged, *_),) = prepare(flickr, str(folder), [], resolved, ALL)
    assert (merged.split, merged.protocol) == ("flickr30k-val", "merged")
    assert flickr.load("val", resolved).scenes[0].expressions[0].box == (1, 2, 31, 12)
    ((any_box, changed, _),) = prepare(flickr, str(folder), [], resolved, ReadOptions(protocol="any-box"))
    assert any_box.protocol == "any-box" and changed
    assert flickr.load("val", resolved).scenes[0].expressions[0].also == ((21, 2, 31, 12),)


def test_every_format_gives_one_fingerprint_and_nothing_changes(resolved, tmp_path):
    places = refer_files(tmp_path / "a"), lists(tmp_path / "b") / "unc/unc_val.pth", parquet(tmp_path / "c")
    done = [prepare(TINY, str(place), [], resolved, VAL)[0] for place in places]
    assert len({header.fingerprint for header, *_ in done}) == 1 and not any(changed for _, changed, _ in done)
    other = [(1, 11, 1, "val", ["left dog", "the cat"]), *REFS[1:]]
    ((_, changed, _),) = prepare(TINY, str(lists(tmp_path / "d", other)), [], resolved, VAL)
    assert all(text in " ".join(changed) for text in ("the dog on the left", "the cat"))


def test_a_single_file_is_one_part(resolved, tmp_path):
    lists(tmp_path)
    ((done, *_),) = prepare(TINY, str(tmp_path / "unc/unc_testA.pth"), [], resolved, ALL)
    assert done.split == "refcoco-testA"
    odd = (tmp_path / "unc/unc_val.pth").rename(tmp_path / "mine.pth")
    with pytest.raises(DataError, match=r"mine\.pth.*refcoco-train or refcoco-val"):
        prepare(TINY, str(odd), [], resolved, ALL)
    assert prepare(TINY, str(odd), [], resolved, VAL)[0][0].split == "refcoco-val"
    path = tmp_path / "refcoco-testA.jsonl"
    path.write_text(json.dumps({"image": FILES[1], "text": "x", "box_xywh": [1, 2, 3, 4], "ref_id": "7"}) + "\n")
    ((done, *_),) = prepare(TINY, str(path), [], resolved, ALL)
    assert (done.split, done.format) == ("refcoco-testA", "jsonl")


def test_wrong_counts_write_nothing(resolved, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"refcoco-val: .*unc_val\.pth[\s\S]* 4 expected, 5 counted[\s\S]*--subset"):
        prepare(TINY, str(lists(tmp_path / "m", MORE)), [], resolved, ALL)
    assert not (tmp_path / "home").exists()
    monkeypatch.setattr("bench.datasets.prepare.LOOKALIKES", (("refcoco-testA", PARTS[2]), ("other", Part("x", 7))))
    with pytest.raises(DataError, match="these are the counts of refcoco-testA\n"):
        prepare(TINY, str(lists(tmp_path) / "unc/unc_testA.pth"), [], resolved, VAL)


def test_counts_of_the_id_list_are_known_and_the_hint_never_guesses(resolved, tmp_path, monkeypatch):
    part = Part("val", 4, None, 2, 3)  # three images on the authors' list, of which one has no expression
    assert [mismatches(part, Counts(4, None, images)) for images in (2, 3)] == [[], []]
    assert mismatches(part, Counts(4, None, 4)) == ["images: 2 expected, 4 counted"]
    # An index list without masks knows no references, so a part of which only those are published is not like it.
    monkeypatch.setattr("bench.datasets.prepare.LOOKALIKES", (("another split", Part("x", None, 4)),))
    plain = replace(TINY, name="flickr30k", stem="flickr", list_columns=3, list_boxes="xyxy", parts=(part,))
    rows = [(FILES[1], [1, 2, 3, 4], "one"), (FILES[2], [1, 2, 3, 4], "two")]
    torch.save(rows, tmp_path / "flickr_val.pth")
    with pytest.raises(DataError, match=r"4 expected, 2 counted\nif you mean"):
        prepare(plain, str(tmp_path), [], resolved, ALL)


def test_a_deliberate_subset_is_stored_as_partial(resolved, tmp_path):
    ((done, *_),) = prepare(TINY, str(lists(tmp_path, REFS[1:])), [], resolved, SUBSET)
    assert done.partial and TINY.load("val", resolved).partial
    with pytest.raises(DataError, match=r"4 expected, 5 counted\n--subset takes a part, and these are more") as refused:
        prepare(TINY, str(lists(tmp_path / "m", MORE)), [], resolved, SUBSET)
    assert "add --subset" not in str(refused.value)
    ((whole, *_),) = prepare(TINY, str(lists(tmp_path / "w")), [], resolved, SUBSET)
    assert not whole.partial and not TINY.load("val", resolved).partial


def test_left_overs_of_a_killed_prepare_are_removed(resolved, tmp_path, killed_left):
    left = [killed_left(index_path(resolved.home, "refcoco", "val").with_name(n)) for n in ("val.jsonl", "images.json")]
    prepare(TINY, str(lists(tmp_path)), [train2017(tmp_path / "train2017.zip")], resolved, ALL)
    assert not any(path.exists() for path in left)


def test_an_unsafe_index_list_writes_nothing(resolved, tmp_path):
    (lists(tmp_path) / "unc/unc_val.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UnsafePickle):
        prepare(TINY, str(tmp_path), [], resolved, ALL)
    assert not (tmp_path / "home").exists()


def test_paths_that_hold_nothing(resolved, tmp_path):
    (tmp_path / "referit_val.pth").touch()
    (tmp_path / "refcoco.zip").touch()
    for name, place, error, message in (
        (TINY, "gone", DataError, r"gone: does not exist; refcoco is read from .*refs\(unc\)\.p"),
        (TINY, ".", DataError, r"it holds no refcoco.*it holds lists of referit"),
        (TINY, "refcoco.zip", DataError, "unpack it first"),
        (TINY, None, UsageError, "give --annotations, --images or both"),
        ("refcoco-vall", ".", UnknownName, "refcoco-val"),
        ("shapes", ".", UsageError, "shapes is not prepared"),
    ):
        with pytest.raises(error, match=message):
            prepare(name, place and str(tmp_path / place), [], resolved, ALL)


@pytest.mark.parametrize(("dataset", "repository", "error", "message"), [
    (catalog.refcoco, "lmms-lab/RefCOCO", DataError, "8,811 objects"),
    (catalog.refcoco, "jxu124/refclef-benchmark", DataError, "refclef-benchmark does not hold refcoco"),
    (catalog.referit, "jxu124/refclef-benchmark", UsageError, "--revision"),
    (catalog.refcoco, "data/refcoc", DataError, "data/refcoc: does not exist"),
    (catalog.refcoco, "jxu124/refcoco-benchmark", DataError, "without --offline"),
    (catalog.refcoco_plus, "jxu124/refcoco-benchmark", DataError, "among the files; there: val, testA, testB"),
])  # fmt: skip
def test_repositories_that_will_not_do(dataset, repository, error, message, resolved):
    with pytest.raises(error, match=message):
        prepare(dataset, repository, [], resolved, VAL if dataset is not catalog.refcoco_plus else ReadOptions("train"))


def test_images_can_come_later(resolved, tmp_path):
    prepare(TINY, str(lists(tmp_path)), [], resolved, ALL)
    split = TINY.load("val", resolved)
    with pytest.raises(ImageError, match="bench data prepare refcoco --images PATH"):
        split.images.load(split.scenes[0])
    done = prepare(TINY, None, [train2017(tmp_path / "train2017.zip")], resolved, ALL)
    assert [(header.split, missing) for header, _, missing in done] == [(f"refcoco-{n.name}", ()) for n in PARTS]
    assert TINY.load("val", resolved).images.load(split.scenes[0]).shape == (48, 64, 3)


def test_images_that_are_no_place_with_images(resolved, tmp_path):
    (tmp_path / "broken.zip").write_bytes(b"PK")
    for name, error, message in (
        ("gone", DataError, "--images is a folder or a zip"),
        ("broken.zip", ImageError, r"broken\.zip: not a zip"),
    ):
        with pytest.raises(error, match=message):
            prepare(TINY, str(tmp_path), [tmp_path / name], resolved, ALL)
    assert not (tmp_path / "home").exists()


@pytest.mark.usefixtures("tiny")
def test_verify_notices_every_kind_of_damage(resolved, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for file in FILES.values():
        (folder / file).write_bytes(jpeg())
    prepare("refcoco", str(refer_files(tmp_path)), [folder], resolved, ALL)
    steps = []
    whole = verify("refcoco", resolved, threads=2, progress=steps.append)
    assert [(v.split, v.ok, v.images_checked) for v in whole] == [
        ("refcoco-train", True, 1), ("refcoco-val", True, 2), ("refcoco-testA", True, 1),
    ]  # fmt: skip
    assert sum(steps) == 4 and all(v.sizes_annotated for v in whole)
    (folder / FILES[1]).unlink()
    (folder / FILES[2]).write_bytes(jpeg((48, 64)))
    (folder / FILES[3]).write_bytes(jpeg()[:-200])
    (val,) = verify("refcoco-val", resolved)
    assert not val.ok and val.missing == (FILES[1],)
    assert len(val.other_size) == 1 and "48 x 64" in val.other_size[0]
    (people,) = verify("refcoco-testA", resolved)
    assert (len(people.broken), people.missing) == (1, ()) and FILES[3] in people.broken[0]
    assert all(v.ok for v in verify("refcoco", resolved, images=False))


@pytest.mark.usefixtures("tiny")
def test_verify_recounts_and_recomputes(resolved, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="bench data prepare refcoco"):
        verify("refcoco", resolved)
    prepare("refcoco", str(lists(tmp_path)), [], resolved, ALL)
    path = index_path(resolved.home, "refcoco", "val")
    stored = read_header(path).fingerprint
    path.write_bytes(path.read_bytes().replace(stored.encode(), b"0" * 64))
    monkeypatch.setattr(catalog, "refcoco", replace(TINY, parts=(Part("val", 9),)))
    (val,) = verify("refcoco-val", resolved, images=False)
    assert val.annotations == (
        "expressions: 9 expected, 4 counted",
        f"fingerprint: 000000000000 stored, {stored[:12]} computed; prepare it again",
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file", "counts"), [
    ("refcoco-val", "unc_val.pth", Counts(10_834, 3_811, 1_500)),
    ("refcocog-val", "gref_umd_val.pth", Counts(4_896, 2_573, 1_300)),
    ("referit-val", "referit_val.pth", Counts(5_842, 4_866, 1_000)),
    ("flickr30k-val", "flickr_val.pth", Counts(14_433, None, 1_000)),
    ("flickr30k-test", "flickr_test.pth", Counts(14_481, None, 999)),
])  # fmt: skip
def test_real_index_lists_have_the_published_counts(name, file, counts, resolved, real):
    images = [real / "pictures"] if name == "refcocog-val" else []  # two of its images are there
    ((done, *_),) = prepare(name, str(real / "index" / file), images, resolved, ALL)
    assert done.counts == counts and not done.partial
    split = load_split(name, resolved)
    assert split.counts == counts
    missing = set(split.images.missing(split.scenes))
    there = [scene for scene in split.scenes if scene.file not in missing]
    assert len(there) == 2 * len(images) and all(split.images.load(scene).ndim == 3 for scene in there)


def test_masks_are_kept_once_an_object_and_an_index_without_any_is_as_before(tmp_path):
    mask, other = (encode(np.arange(12).reshape(3, 4) < n) for n in (4, 7))
    expressions = [
        Expression(str(n), "it", (1, 1, 2, 2), mask=own, caption=Caption("it", 0, 2) if n == 1 else None)
        for n, own in enumerate((mask, dict(mask), None, other))
    ]
    scenes = [
        Scene("7", "7.jpg", 4, 3, tuple(expressions)),
        Scene("8", "8.jpg", 4, 3, (replace(expressions[2], id="9"),)),
    ]
    header = Header("refcoco", "val", "refer", Counts(5, None, 2), fingerprint(scenes))
    write_index(tmp_path / "i.jsonl", header, scenes)
    found, back = read_index(tmp_path / "i.jsonl")
    assert (found, list(back)) == (header, scenes)
    assert back.annotations.masks == annotations_of(scenes).masks == {0: mask, 1: mask, 3: other}
    first, row, last = (json.loads(line) for line in (tmp_path / "i.jsonl").read_text().splitlines())
    assert first["schema"] == 3 and len(row[5]) == 2 and len(last) == 5
    # Without masks: the same fingerprint, and the bytes of before.
    bare = [replace(s, expressions=tuple(replace(e, mask=None) for e in s.expressions)) for s in scenes]
    assert fingerprint(bare) == header.fingerprint
    write_index(tmp_path / "i.jsonl", header, bare)
    first, row, _ = (json.loads(line) for line in (tmp_path / "i.jsonl").read_text().splitlines())
    assert first["schema"] == 2 and len(row) == 5 and row[4][0] == ["0", "it", [1, 1, 2, 2]]
