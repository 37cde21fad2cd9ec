"""Boxes from files: every layout, ids in every spelling, and errors for rows and images that are missing."""

import json

import numpy as np
import pytest

from bench.errors import DataError, SettingsError, WeightsError
from bench.grounding import LoadedScene, Query
from pipelines.two_stage.pipeline import two_stage
from pipelines.two_stage.proposers.files import open_file

IMAGE = np.zeros((100, 200, 3), np.uint8)
RESULTS = [
    {"image_id": 5, "bbox": [10, 20, 30, 40], "score": 0.5, "category_id": 1},
    {"image_id": 5, "bbox": [100, 0, 300, 50], "score": 0.9, "category_id": 2},
    {"image_id": "val-000001", "bbox": [0, 0, 10, 10], "score": 0.2},
]


def scene(identifier):
    return LoadedScene(identifier, IMAGE, (Query("q", "left man"),))


@pytest.fixture
def opened(tmp_path, context):
    def make(content, **options):
        path = tmp_path / "boxes.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return open_file({"file": str(path), "whole_image": False, **options}, "table", context())

    return make


def test_results_come_best_first_and_inside_the_image(opened):
    (proposals,) = opened(RESULTS).propose([scene("5")])
    assert proposals.boxes.tolist() == [[100, 0, 200, 50], [10, 20, 40, 60]]
    assert proposals.scores.tolist() == [0.9, 0.5] and proposals.labels == ("", "")
    (proposals,) = opened(RESULTS, confidence=0.6, whole_image=True).propose([scene("5")])
    assert proposals.boxes.tolist() == [[100, 0, 200, 50], [0, 0, 200, 100]]


def test_instances_name_their_classes(opened):
    data = {"annotations": RESULTS[:2], "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]}
    (proposals,) = opened(data).propose([scene("5")])
    assert proposals.labels == ("cat", "dog")
    mattnet = [{"image_id": 5, "box": [1, 2, 30, 40], "score": 0.5, "category_name": "bird"}]
    assert opened(mattnet).propose([scene("5")])[0].labels == ("bird",)


@pytest.mark.parametrize("spelling", ["5", "000000000005", "COCO_train2014_000000000005.jpg"])
@pytest.mark.parametrize("requested", ["5", "COCO_train2014_000000000005.jpg"])
def test_one_image_by_any_of_its_names(opened, spelling, requested):
    (proposals,) = opened({spelling: [[1, 2, 30, 40]]}).propose([scene(requested)])
    assert proposals.boxes.tolist() == [[1, 2, 31, 42]]


def test_a_image_without_a_row_gets_no_box_and_a_note(opened):
    known, empty, absent = opened({"5": [[1, 2, 30, 40]], "6": []}, whole_image=True).propose(
        [scene("5"), scene("6"), scene("7")]
    )
    assert len(known) == 2 and not known.note
    assert empty.boxes.tolist() == [[0, 0, 200, 100]] and not empty.note  # nothing proposals: the whole image (ReCLIP)
    assert len(absent) == 0 and "boxes.json has no row for this image" in absent.note


def test_such_a_image_is_a_counted_miss(tmp_path, context):
    (tmp_path / "boxes.json").write_text(json.dumps({"5": [[0, 0, 50, 50], [100, 0, 50, 50]]}))
    options = context("reclip").options
    table = {"kind": "file", "file": str(tmp_path / "boxes.json")}
    pipeline = two_stage(context("reclip", options={**options, "proposer": table}))
    there, absent = pipeline.ground([scene("5"), scene("7")])
    assert there.box is not None and not there.note
    assert absent.box is None and absent.score is None and "no row" in absent.note and len(absent.proposals) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [("[{", "boxes.json: not JSON"), ("7", "holds 7; expected a list of rows"),
     ([{"bbox": [1, 2, 3, 4]}], "row 0: .*expected a row such as"),
     ([*RESULTS, {"image_id": 5, "bbox": [1, 2, 3]}], r"row 3: the box is \[1, 2, 3\]"),
     ([{"image_id": 5, "bbox": [1, 2, 3, "4"]}], "row 0: the box holds '4'"),
     ('[{"image_id": 5, "bbox": [1, 2, 3, NaN]}]', "row 0: the box holds nan"),
     ([{"image_id": 5, "bbox": [1, 2, 3, 4], "score": None}], "row 0: the score holds None"),
     ({"5": [[1, 2, 3, 4], None]}, "image '5', box 1: the box is None"), ({"5": 3}, "image '5': 3; expected a list")],
)  # fmt: skip
def test_a_malformed_row_is_named(opened, content, message):
    with pytest.raises(DataError, match=message):
        opened(content)


def test_a_file_that_is_nowhere(context):
    with pytest.raises(WeightsError, match=r"(?s)shapes_dets_dict\.json.*proposer\.file=FILE"):
        open_file({}, "table", context())
    with pytest.raises(SettingsError, match=r"'fil'.*'file'"):
        open_file({"fil": "x"}, "table", context())
