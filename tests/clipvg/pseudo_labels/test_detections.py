"""Detections of images: from a proposer and from Pseudo-Q's files, and every way in which these can be wrong."""

import argparse
import logging
import re

import numpy as np
import pytest
import torch

from bench.errors import DataError, SettingsError, WeightsError
from clipvg.pseudo_labels.detection_files import Detection
from clipvg.pseudo_labels.detections import DetectionOptions, detect

DOG, CAT = ("dog", (10.0, 20.0, 110.0, 220.0), 0.5), ("cat", (300.0, 50.0, 400.0, 150.0), 0.9)
PROPOSER = DetectionOptions(proposer={"kind": "fixed"})


@pytest.fixture
def detections(blank_job, caplog):
    """detections(options, files=(...), **images): the detections of a job's images; warnings are in caplog."""
    caplog.set_level(logging.WARNING, "bench.label")
    return lambda options=PROPOSER, **job: list(detect(blank_job(**job), options, "[label.x.objects]"))


def saved(tmp_path, table, name="some.pth", **how):
    torch.save(table, tmp_path / name, **how)
    return DetectionOptions(detections=name)


def test_the_most_confident_first_clipped_and_inside_the_image(detections, propose, caplog):
    propose(
        {
            "1": [
                DOG,
                CAT,
                ("", (0, 0, 640, 480), 0.0),
                ("bird", (-20, -20, 30, 30), 0.7),
                ("fish", (700, 0, 800, 90), 1),
            ]
        }
    )
    images = detections()
    assert [d.name for d in images[0].detections] == ["cat", "bird", "dog"]
    assert images[0].detections[1] == Detection("bird", (0.0, 0.0, 30.0, 30.0), 0.7)
    assert [one.detections for one in images[1:]] == [[], []]
    assert images[0].detector == "fixed.pt" and images[0].image.shape == (480, 640, 3)
    assert caplog.messages == ["fixed.pt: 1 boxes without a class name are left out"]


def test_the_proposer_gets_batches_without_queries(detections, propose):
    proposer = propose({})
    files = [f"{n}.jpg" for n in range(7)]
    images = detections(DetectionOptions(proposer={"kind": "fixed"}, batch_size=3), files=files)
    assert [one.scene.file for one in images] == files
    assert proposer.calls == [[()] * 3, [()] * 3, [()]]


def test_the_whole_image_is_no_proposal_and_a_proposer_need_not_know_it(detections, monkeypatch):
    tables = []

    def opened(table, where, context):
        tables.append(dict(table))
        if "whole_image" in table:
            raise SettingsError(f"{where}: unknown key 'whole_image'")
        raise WeightsError("opened")

    monkeypatch.setattr("clipvg.pseudo_labels.detections.open_proposer", opened)
    with pytest.raises(WeightsError, match="opened"):
        detections()
    assert tables == [{"kind": "fixed", "whole_image": False}, {"kind": "fixed"}]


def test_images_that_cannot_be_read_are_left_out_and_named(detections, propose, caplog):
    propose({n: [DOG] for n in "123"})
    assert [one.scene.id for one in detections(bad=["2.jpg"])] == ["1", "3"]
    assert caplog.messages == ["1 of 3 images cannot be read and get no label: 2.jpg: broken"]
    with pytest.raises(DataError, match=r"none of the 3 images is there; the first one: 1.jpg: broken"):
        detections(gone=True)
    with pytest.raises(DataError, match=r"none of the 3 images can be read; the first one: 1.jpg"):
        detections(bad=["1.jpg", "2.jpg", "3.jpg"])


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}])
def test_a_file_names_images_by_any_of_their_names(detections, tmp_path, how):
    scores = np.zeros(5, np.float32)
    options = saved(
        tmp_path,
        {
            "COCO_train2014_000000000009.jpg": [["cat", [300, 50, 400, 150, 0.9]], ["dog", [10, 20, 110, 220, 0.5]]],
            "000000000025.jpg": [["cat", np.array([1, 2, 30, 40, 0.25]), scores], ["fly", [5.0, 5.0, 5.0, 5.0, 0.1]]],
        },
        **how,
    )
    first, second = detections(options, files=["000000000009.jpg", "COCO_train2014_000000000025.jpg"])
    assert first.detections == [Detection(*CAT), Detection(*DOG)] and first.detector == "some.pth"
    assert second.detections == [Detection("cat", (1.0, 2.0, 30.0, 40.0), 0.25)]


@pytest.mark.parametrize("core", [b"core", b"_core"])
def test_arrays_of_either_numpy_are_read(detections, tmp_path, core):
    table = {"1.jpg": [["dog", np.array([10, 20, 110, 220, 0.5])], ["cat", [*np.float64([300, 50, 400, 150]), 0.9]]]}
    options = saved(tmp_path, table, _use_new_zipfile_serialization=False)
    pickled = (tmp_path / "some.pth").read_bytes()
    pickled, replaced = re.subn(rb"cnumpy\._?core\.", b"cnumpy." + core + b".", pickled)
    assert replaced >= 2
    (tmp_path / "some.pth").write_bytes(pickled)
    assert detections(options, files=["1.jpg"])[0].detections == [Detection(*CAT), Detection(*DOG)]


def test_several_files_are_one_and_an_image_they_leave_out_is_counted(detections, tmp_path, caplog):
    for name, image in (("refcoco_a.pth", "1.jpg"), ("b.pth", "3.jpg")):
        torch.save({image: [["dog", [10, 20, 110, 220, 0.5]]]}, tmp_path / name)
    images = detections(DetectionOptions(detections=("{dataset}_a.pth", "b.pth")))
    assert [len(one.detections) for one in images] == [1, 0, 1] and images[0].detector == "refcoco_a.pth, b.pth"
    assert caplog.messages == ["refcoco_a.pth, b.pth: has no row for 1 of 3 images: 2.jpg"]


@pytest.mark.parametrize(
    ("table", "message"),
    [([["dog", [0, 0, 9, 9, 0.5]]], "holds a list; expected a dict"),
     ({"1.jpg": "dog"}, "'1.jpg' -> 'dog'; expected the name of an image and a list"),
     ({1: []}, "1 -> .*; expected the name of an image"),
     ({"1.jpg": [["dog"]]}, "image '1.jpg', row 0: .*; expected .*bowl"),
     ({"1.jpg": [[7, [0, 0, 9, 9, 0.5]]]}, "image '1.jpg', row 0"),
     ({"1.jpg": [["dog", [0, 0, 9, 9, 0.5]], ["dog", [0, 0, 9, 9]]]}, "row 1: the box is .*five finite numbers"),
     ({"1.jpg": [["dog", [0, 0, float("nan"), 9, 0.5]]]}, "row 0: the box is .*five finite numbers"),
     ({"1.jpg": [["dog", [0, 0, "x", 9, 0.5]]]}, "row 0: .*where numbers should be"),
     ({"1.jpg": [["dog", [50, 0, 9, 9, 0.5]]]}, "50, 0, 9, 9 is not left, top, right, bottom"),
     ({"1.jpg": [], "1.png": []}, "'1.png' has been named before"),
     ({"7.jpg": []}, "has no row for any of the 3 images, such as 1.jpg; it names 7"),
     ({"1.jpg": argparse.Namespace(a=1)}, "nothing in it was executed")],
)  # fmt: skip
def test_a_wrong_file_is_named_with_image_and_row(detections, tmp_path, table, message):
    with pytest.raises(DataError, match=message) as raised:
        detections(saved(tmp_path, table))
    assert "some.pth" in str(raised.value)


def test_a_detector_or_a_file_that_is_not_there_is_named_before_the_first_image(blank_job, tmp_path):
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    for options, error, message in (
        ({}, SettingsError, r"\[label.x.objects\]: nothing detects the objects"),
        ({"detections": "lost.pth"}, WeightsError, r"lost\.pth are not there"),
        ({"detections": "cut.pth"}, DataError, r"cut.pth: a broken or cut archive"),
    ):
        with pytest.raises(error, match=message):
            detect(blank_job(), DetectionOptions(**options), "[label.x.objects]")
