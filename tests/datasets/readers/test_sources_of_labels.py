"""Label files as sources: by what rows say, by official names, by the file's own name."""

import json

import pytest

from bench.datasets.readers.labels import sources_of
from bench.errors import DataError
from bench.settings import load_settings

ROW = {"image": "train-000001.png", "text": "a star", "box_xyxy": [10, 10, 60, 60]}


@pytest.fixture
def write(tmp_path):
    def make(name, *rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(ROW | row) + "\n" for row in rows))
        return path

    return make


def names(paths):
    return {
        s.name: [e.id for scene in s.scenes for e in scene.expressions]
        for s in sources_of("shapes-train", paths, load_settings())
    }


def test_a_file_is_a_source_by_its_name(write):
    assert names([write("mine.jsonl", {"id": "1"}), write("theirs.jsonl", {"id": "1"})]) == {
        "mine": ["1"],
        "theirs": ["1"],
    }


def test_rows_say_themselves_what_they_are(write):
    path = write(
        "all.jsonl",
        {"id": "1", "provenance": {"source": "template", "score": 1}},
        {"id": "2", "provenance": {"source": "caption"}},
        {"id": "3"},
    )
    assert names([path]) == {"template": ["1"], "caption": ["2"], "all": ["3"]}


def test_two_files_of_one_source_are_one(write):
    one = write("a.jsonl", {"id": "1", "provenance": {"source": "template"}})
    two = write("b.jsonl", {"id": "2", "provenance": {"source": "template", "score": 0.3}})
    (found,) = sources_of("shapes-train", [one, two], load_settings())
    assert found.name == "template" and [file["file"] for file in found.files] == ["a.jsonl", "b.jsonl"]
    assert found.provenance["2"]["score"] == 0.3


def test_one_id_twice_in_a_source_is_refused(write):
    one = write("a.jsonl", {"id": "1", "provenance": {"source": "template"}})
    two = write("b.jsonl", {"id": "1", "text": "else", "provenance": {"source": "template"}})
    with pytest.raises(DataError, match=r"b\.jsonl: 1 ids, '1' among them.*'template'"):
        sources_of("shapes-train", [one, two], load_settings())


def test_a_row_without_a_image_is_named(write):
    with pytest.raises(DataError, match=r"lost\.jsonl: .*train-999999\.png"):
        sources_of("shapes-train", [write("lost.jsonl", {"image": "train-999999.png"})], load_settings())


def test_provenance_has_to_be_an_object(write):
    with pytest.raises(DataError, match=r"line 1: 'provenance' should be an object"):
        sources_of("shapes-train", [write("bad.jsonl", {"provenance": "template"})], load_settings())


def test_the_first_images_of_each_file(write):
    path = write("mine.jsonl", {"id": "1"}, {"id": "2", "image": "train-000002.png"})
    (found,) = sources_of("shapes-train", [path], load_settings(), limit=1)
    assert [scene.file for scene in found.scenes] == ["train-000001.png"]
