"""Labels from any file about a data set's images: rows, images, sources, and bad rows by their number."""

import hashlib
import json
import pickle
import zipfile

import pytest
from tiny_refcoco import FILES, jpeg, train2017

from bench.datasets.load import load_split
from bench.datasets.prepared import Header, index_path, write_index
from bench.datasets.readers.labels import LabelImages, load_labels, sources_of
from bench.datasets.split import Counts
from bench.errors import DataError, UnknownName, UsageError
from bench.grounding import Expression, Scene, check_box_touches
from bench.settings import DataSettings, Resolved, Settings, ShapesSettings

PLACEHOLDER = "useless placeholder"


def pseudo(path, rows):
    """A list of pseudo-labels as the field's scripts write it: five columns, two of them filled with words."""
    return index_list(path, [[file, PLACEHOLDER, box, text, PLACEHOLDER] for file, box, text in rows])


def index_list(path, rows):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickle.dumps(rows, protocol=2))
    return path


def jsonl(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(image, box=(0, 0, 9, 9), **more):
    return {"image": image, "text": "a tree", "box_xyxy": box, **more}


@pytest.fixture
def resolved(tmp_path, monkeypatch):
    """Images of COCO configured, nothing prepared."""
    monkeypatch.delenv("BENCH_HOME", raising=False)
    images = {"coco": str(train2017(tmp_path / "train2017.zip"))}
    data = DataSettings(home=str(tmp_path / "home"), images=images)
    return Resolved(Settings(data=data), folder=tmp_path)


def prepared(resolved):
    """refcoco-train as it would be prepared: one image, with its size."""
    scene = Scene("3", FILES[3], 64, 48, (Expression("0", "hat", (2, 2, 7, 7)),))
    header = Header("refcoco", "train", "refer", Counts(1, 1, 1), "f" * 64)
    write_index(index_path(resolved.home, "refcoco", "train"), header, [scene])


def test_pseudo_labels_about_images_whose_annotations_nobody_has(tmp_path, resolved):
    path = pseudo(
        tmp_path / "unc_train_pseudo.pth",
        [(FILES[1], [1.5, 2, 10, 20], "left dog"), (FILES[2], [3, 4, 5, 6], "cat"), (FILES[1], [0, 0, 9, 9], "dog")],
    )
    with pytest.raises(DataError, match="not prepared"):
        load_split("refcoco-train", resolved)
    split, files, _ = load_labels("refcoco-train", [path], resolved)
    assert files == (
        {"file": "unc_train_pseudo.pth", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "rows": 3},
    )
    assert (split.name, split.dataset, [scene.id for scene in split.scenes]) == ("refcoco-train", "refcoco", ["1", "2"])
    first = split.scenes[0]
    rows = [(e.id, e.text, e.box) for e in first.expressions]
    assert rows == [("0", "left dog", (1.5, 2, 11.5, 22)), ("2", "dog", (0, 0, 9, 9))]
    assert split.images.load(first).shape == (48, 64, 3) and split.images.missing(split.scenes) == []


def test_files_are_joined_in_order(tmp_path, resolved):
    one = pseudo(tmp_path / "1_template.pth", [(FILES[1], [0, 0, 9, 9], "a"), (FILES[2], [0, 0, 9, 9], "b")])
    two = jsonl(tmp_path / "2.jsonl", row(FILES[1], kind="caption"))
    split, files, _ = load_labels("refcoco-train", [one, two, one], resolved)
    ids = {scene.id: [e.id for e in scene.expressions] for scene in split.scenes}
    assert ids == {"1": ["1:0", "2:1", "3:0"], "2": ["1:1", "3:1"]}
    assert [file["rows"] for file in files] == [2, 1, 2]
    assert split.scenes[0].expressions[1].kind == "caption"


def test_a_jsonl_may_bring_its_own_images(tmp_path, resolved):
    mine = tmp_path / "mine"
    rows = jsonl(mine / "rows.jsonl", row("photos/garden.jpg"), row(FILES[2]))
    (mine / "photos").mkdir()
    (mine / "photos" / "garden.jpg").write_bytes(jpeg((20, 10)))
    split = load_labels("refcoco-train", [rows], resolved)[0]
    assert [split.images.load(scene).shape for scene in split.scenes] == [(10, 20, 3), (48, 64, 3)]
    assert split.images.missing(split.scenes) == []
    other = jsonl(tmp_path / "other" / "more.jsonl", row("photos/garden.jpg"))
    (tmp_path / "other" / "photos").mkdir()
    (tmp_path / "other" / "photos" / "garden.jpg").write_bytes(jpeg())
    with pytest.raises(DataError, match=r"more\.jsonl: 'photos/garden\.jpg' is another image than in .*mine"):
        load_labels("refcoco-train", [rows, other], resolved)


def test_sizes_come_from_the_split_where_it_is_prepared(tmp_path, resolved):
    prepared(resolved)
    inside = pseudo(tmp_path / "in.pth", [("COCO_train2014_000000000003.jpg", [60, 40, 30, 30], "over the edge")])
    split = load_labels("refcoco-train", [inside], resolved)[0]
    assert (split.scenes[0].width, split.scenes[0].height) == (64, 48)
    assert not isinstance(split.images, LabelImages)
    outside = pseudo(tmp_path / "out.pth", [(FILES[3], [0, 0, 5, 5], "a"), (FILES[3], [64, 0, 5, 5], "b")])
    with pytest.raises(DataError, match=r"out\.pth: row 1: the box 64, 0, 69, 5 .* outside the image .* 64 x 48"):
        load_labels("refcoco-train", [outside], resolved)
    lying = jsonl(tmp_path / "l.jsonl", row(FILES[3], width=48, height=64))
    with pytest.raises(DataError, match=r"line 1: .* 48 x 64 pixels, and refcoco-train says 64 x 48"):
        load_labels("refcoco-train", [lying], resolved)


def test_where_no_size_is_known_the_image_tells(tmp_path, resolved):
    first = pseudo(tmp_path / "a.pth", [(FILES[1], [0, 0, 5, 5], "a")])
    second = pseudo(tmp_path / "b.pth", [(FILES[2], [0, 0, 5, 5], "b"), (FILES[2], [0, 48, 5, 5], "c")])
    split = load_labels("refcoco-train", [first, second], resolved)[0]
    assert split.images.load(split.scenes[0]).shape == (48, 64, 3)
    with pytest.raises(DataError, match=r"b\.pth: row 1: the box 0, 48, 5, 53 .* 64 x 48"):
        split.images.load(split.scenes[1])
    rows = [row(FILES[1]), row(FILES[1], [90, 0, 95, 5], id="the bad one")]
    split = load_labels("refcoco-train", [jsonl(tmp_path / "r.jsonl", *rows)], resolved)[0]
    with pytest.raises(DataError, match=r"r\.jsonl: line 2: the box 90"):
        split.images.load(split.scenes[0])


@pytest.mark.parametrize("box", [(-9, 0, 0, 5), (0, -9, 5, 0), (64, 0, 70, 5), (0, 48, 5, 60)])
def test_a_box_touches_its_image_or_is_refused(box):
    scene = Scene("s", "s.jpg", None, None, ())
    with pytest.raises(DataError, match=r"s\.jpg, expression 7"):
        check_box_touches(scene, Expression("7", "x", box), 64, 48)
    x1, y1, x2, y2 = box
    check_box_touches(scene, Expression("7", "x", (max(-8, x1 - 1), y1 - 1, x2 + 1, y2 + 1)), 64, 48)


@pytest.mark.parametrize(("bad", "message"), [
    ([FILES[1], "x", [0, 0, 0, 5], "dog", "y"], r"bad\.pth: row 1: the box .* has width 0"),
    (["nowhere.jpg", "x", [0, 0, 5, 5], "dog", "y"], r"1 of its 2 images .* refcoco: row 1: nowhere\.jpg"),
    (row(FILES[1], [5, 0, 5, 5]), r"bad\.jsonl: line 2: the box .* width 0"),
    (row("no/where.jpg", id="q"), "1 of its 2 .*line 2: no/where"),
])  # fmt: skip
def test_a_bad_row_is_named(tmp_path, resolved, bad, message):
    if isinstance(bad, dict):
        path = jsonl(tmp_path / "bad.jsonl", row(FILES[2]), bad)
    else:
        path = index_list(tmp_path / "bad.pth", [[FILES[1], PLACEHOLDER, [0, 0, 5, 5], "dog", PLACEHOLDER], bad])
    with pytest.raises(DataError, match=message):
        load_labels("refcoco-train", [path], resolved)


def test_files_of_no_known_kind(tmp_path, resolved):
    for split, path, error, message in (
        ("refcoco-train", index_list(tmp_path / "empty.pth", []), DataError, r"empty\.pth: it holds no expressions"),
        ("refcoco-train", tmp_path / "gone.pth", DataError, r"gone\.pth: cannot be read"),
        ("refcoco-train", tmp_path / "rows.csv", UsageError, r"csv: labels are an index list \(\.pth\) or a \.jsonl"),
        ("refcoco-tran", tmp_path / "rows.csv", UnknownName, "did you mean 'refcoco-train'"),
    ):
        with pytest.raises(error, match=message):
            load_labels(split, [path], resolved)


def test_many_images_that_are_nowhere_are_counted(tmp_path, resolved):
    box = [0, 0, 5, 5]
    path = pseudo(tmp_path / "p.pth", [(FILES[1], box, "dog"), *((f"{n}.jpg", box, "x") for n in range(9))])
    with pytest.raises(DataError, match=r"9 of its 10 .*row 1: 0\.jpg; row 2: 1\.jpg; row 3: 2\.jpg; \.\.\.") as error:
        load_labels("refcoco-train", [path], resolved)
    assert "train2017.zip" in str(error.value)
    nothing = Resolved(Settings(data=DataSettings(home=str(tmp_path / "home"))))
    with pytest.raises(DataError, match=r"(?s)10 of its 10 .*\[data\.images\]"):
        load_labels("refcoco-train", [path], nothing)


def test_labels_of_the_embedded_images(tmp_path):
    resolved = Resolved(Settings(data=DataSettings(shapes=ShapesSettings(train=4))))
    own = load_split("shapes-train", resolved)
    rows = [row(s.file, s.expressions[0].box) for s in own.scenes[:3]]
    split = load_labels("shapes-train", [jsonl(tmp_path / "r.jsonl", *rows)], resolved)[0]
    assert [(s.id, s.width) for s in split.scenes] == [(s.id, s.width) for s in own.scenes[:3]]
    assert (split.images.load(split.scenes[1]) == own.images.load(own.scenes[1])).all()
    assert split.scenes[0].objects == own.scenes[0].objects != ()
    with pytest.raises(DataError, match=r"1 of its 1 images .* shapes: line 1: cat\.png"):
        load_labels("shapes-train", [jsonl(tmp_path / "c.jsonl", rows[0] | {"image": "cat.png"})], resolved)
    listed = pseudo(tmp_path / "p.pth", [(own.scenes[0].file, [10, 20, 5, 6], "x")])
    assert load_labels("shapes-train", [listed], resolved)[0].scenes[0].expressions[0].box == (10, 20, 15, 26)


def test_labels_about_peoples_own_images(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    own = jsonl(tmp_path / "own.jsonl", row("a.jpg", width=64))
    new = jsonl(tmp_path / "new" / "p.jsonl", row("a.jpg"))
    split = load_labels(f"file:{own}", [new], Resolved(Settings()))[0]
    assert split.name == "file:own" and split.scenes[0].expressions[0].box == (0, 0, 9, 9)
    assert split.images.load(split.scenes[0]).shape == (48, 64, 3)
    with pytest.raises(UsageError, match=r"of file none are known .*write the labels as \.jsonl"):
        load_labels(f"file:{own}", [pseudo(tmp_path / "p.pth", [("a.jpg", [0, 0, 5, 5], "x")])], Resolved(Settings()))


# --- sources ---


@pytest.fixture
def write(tmp_path):
    def make(name, *rows):
        """A JSONL of rows, each an id and the source it names, about one image of shapes."""
        lines = [row("train-000001.png", id=id, provenance={"source": source, "score": 1}) for id, source in rows]
        return jsonl(
            tmp_path / name, *(line if line["provenance"]["source"] else line | {"provenance": None} for line in lines)
        )

    return make


FEW_SCENES = Resolved(Settings(data=DataSettings(shapes=ShapesSettings(train=4))))


def ids_by_source(*paths, **more):
    sources = sources_of("shapes-train", paths, FEW_SCENES, **more)
    return {source.name: [e.id for scene in source.scenes for e in scene.expressions] for source in sources}


def test_rows_name_their_source_else_their_file_does(write):
    mixed = write("all.jsonl", ("1", "template"), ("2", "caption"), ("3", None))
    assert ids_by_source(mixed) == {"template": ["1"], "caption": ["2"], "all": ["3"]}
    assert ids_by_source(write("mine.jsonl", ("1", None)), write("theirs.jsonl", ("1", None))) == {
        "mine": ["1"], "theirs": ["1"],
    }  # fmt: skip


def test_two_files_of_one_source_are_one(write):
    one, two = write("a.jsonl", ("1", "template")), write("b.jsonl", ("2", "template"))
    (source,) = sources_of("shapes-train", [one, two], FEW_SCENES)
    assert source.name == "template" and [file["file"] for file in source.files] == ["a.jsonl", "b.jsonl"]
    assert source.provenance["2"]["score"] == 1
    with pytest.raises(DataError, match=r"a\.jsonl: 1 ids, '1' among them.*'template'"):
        ids_by_source(one, one)


def test_the_first_images_of_each_file(tmp_path):
    path = jsonl(tmp_path / "mine.jsonl", row("train-000001.png", id="1"), row("train-000002.png", id="2"))
    assert ids_by_source(path, limit=1) == {"mine": ["1"]}


def test_provenance_has_to_be_an_object(tmp_path):
    with pytest.raises(DataError, match=r"line 1: 'provenance' should be an object"):
        ids_by_source(jsonl(tmp_path / "bad.jsonl", row("train-000001.png", provenance="template")))
