"""What is in each image: from a proposer and from Pseudo-Q's files, and every way in which these can be wrong."""

import argparse
import logging
import re

import numpy as np
import pytest
import torch

from bench.errors import DataError, SettingsError, WeightsError
from clipvg.pseudo_labels.detections import DetectionOptions, looked_at
from clipvg.pseudo_labels.pseudo_q_files import Detection

DOG, CAT = ("dog", (10.0, 20.0, 110.0, 220.0), 0.5), ("cat", (300.0, 50.0, 400.0, 150.0), 0.9)
PROPOSER = DetectionOptions(proposer={"kind": "spoken"})


def seen(job, options=PROPOSER):
    return list(looked_at(job, options, "[label.x.objects]"))


def saved(tmp_path, table, name="found.pth", **how):
    torch.save(table, tmp_path / name, **how)
    return DetectionOptions(detections=name)


def test_the_most_confident_first_clipped_and_inside_the_image(blank_job, spoken):
    spoken({"1": [DOG, CAT, ("bird", (-20, -20, 30, 30), 0.7), ("fish", (700, 0, 800, 90), 0.8)]})
    looked = seen(blank_job())
    assert [d.name for d in looked[0].detections] == ["cat", "bird", "dog"]
    assert looked[0].detections[1] == Detection("bird", (0.0, 0.0, 30.0, 30.0), 0.7)
    assert [d.detections for d in looked[1:]] == [[], []]
    assert looked[0].detector == "spoken.pt" and looked[0].image.shape == (480, 640, 3)


def test_the_proposer_is_asked_in_batches_and_about_nothing(blank_job, spoken):
    proposer = spoken({})
    files = [f"{n}.jpg" for n in range(7)]
    looked = seen(blank_job(files=files), DetectionOptions(proposer={"kind": "spoken"}, batch_size=3))
    assert [one.scene.file for one in looked] == files
    assert proposer.shown == [[()] * 3, [()] * 3, [()]]


def test_boxes_without_a_name_are_left_out_and_counted(blank_job, spoken, caplog):
    spoken({n: [DOG, ("", (0, 0, 640, 480), 0.0)] for n in "123"})
    with caplog.at_level(logging.WARNING, "bench.label"):
        looked = seen(blank_job())
    assert [[d.name for d in one.detections] for one in looked] == [["dog"]] * 3
    assert caplog.messages == ["spoken.pt: 3 boxes without a class name are left out"]


def test_the_whole_image_is_not_asked_for_and_a_proposer_need_not_know_it(blank_job, monkeypatch):
    tables = []

    def opened(table, where, context):
        tables.append(dict(table))
        if "whole_image" in table:
            raise SettingsError(f"{where}: unknown key 'whole_image'")
        raise WeightsError("opened")

    monkeypatch.setattr("clipvg.pseudo_labels.detections.open_proposer", opened)
    with pytest.raises(WeightsError, match="opened"):
        looked_at(blank_job(), PROPOSER, "here")
    assert tables == [{"kind": "spoken", "whole_image": False}, {"kind": "spoken"}]


def test_images_that_cannot_be_read_are_left_out_and_named(blank_job, spoken, caplog):
    spoken({n: [DOG] for n in "123"})
    with caplog.at_level(logging.WARNING, "bench.label"):
        looked = seen(blank_job(bad=["2.jpg"]))
    assert [one.scene.id for one in looked] == ["1", "3"]
    assert caplog.messages == ["1 of 3 images cannot be read and get no label: 2.jpg: broken"]


def test_without_any_image_there_is_an_error(blank_job, spoken):
    spoken({})
    with pytest.raises(DataError, match=r"none of the 3 images is there; the first one: 1.jpg: broken"):
        seen(blank_job(gone=True))
    with pytest.raises(DataError, match=r"none of the 3 images can be read; the first one: 1.jpg"):
        seen(blank_job(bad=["1.jpg", "2.jpg", "3.jpg"]))


def test_nothing_that_finds_objects_is_an_error_before_the_first_image(blank_job):
    with pytest.raises(SettingsError, match=r"\[label.x.objects\]: nothing finds the objects"):
        looked_at(blank_job(), DetectionOptions(), "[label.x.objects]")


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}])
def test_a_file_speaks_of_images_by_any_of_their_names(blank_job, tmp_path, how):
    scores = np.zeros(5, np.float32)
    options = saved(
        tmp_path,
        {
            "COCO_train2014_000000000009.jpg": [["cat", [300, 50, 400, 150, 0.9]], ["dog", [10, 20, 110, 220, 0.5]]],
            "000000000025.jpg": [["cat", np.array([1, 2, 30, 40, 0.25]), scores], ["fly", [5.0, 5.0, 5.0, 5.0, 0.1]]],
        },
        **how,
    )
    job = blank_job(files=["000000000009.jpg", "COCO_train2014_000000000025.jpg"])
    first, second = seen(job, options)
    assert first.detections == [Detection(*CAT), Detection(*DOG)] and first.detector == "found.pth"
    assert second.detections == [Detection("cat", (1.0, 2.0, 30.0, 40.0), 0.25)]


@pytest.mark.parametrize("core", [b"core", b"_core"])
def test_arrays_of_either_numpy_are_read(blank_job, tmp_path, core):
    table = {"1.jpg": [["dog", np.array([10, 20, 110, 220, 0.5])], ["cat", [*np.float64([300, 50, 400, 150]), 0.9]]]}
    options = saved(tmp_path, table, _use_new_zipfile_serialization=False)
    held = (tmp_path / "found.pth").read_bytes()
    held, replaced = re.subn(rb"cnumpy\._?core\.", b"cnumpy." + core + b".", held)
    assert replaced >= 2
    (tmp_path / "found.pth").write_bytes(held)
    assert seen(blank_job(files=["1.jpg"]), options)[0].detections == [Detection(*CAT), Detection(*DOG)]


def test_several_files_are_one_and_a_image_they_leave_out_is_counted(blank_job, tmp_path, caplog):
    for name, image in (("a.pth", "1.jpg"), ("b.pth", "3.jpg")):
        torch.save({image: [["dog", [10, 20, 110, 220, 0.5]]]}, tmp_path / name)
    with caplog.at_level(logging.WARNING, "bench.label"):
        looked = seen(blank_job(), DetectionOptions(detections=("a.pth", "b.pth")))
    assert [len(one.detections) for one in looked] == [1, 0, 1] and looked[0].detector == "a.pth, b.pth"
    assert caplog.messages == ["a.pth, b.pth: has no row for 1 of 3 images: 2.jpg"]


def test_the_data_set_stands_in_the_name_of_a_file(blank_job, tmp_path):
    torch.save({"1.jpg": []}, tmp_path / "refcoco_found.pth")
    looked = seen(blank_job(files=["1.jpg"]), DetectionOptions(detections="{dataset}_found.pth"))
    assert looked[0].detections == [] and looked[0].detector == "refcoco_found.pth"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([["dog", [0, 0, 9, 9, 0.5]]], "holds a list; expected a dict"),
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
    ],
)
def test_a_wrong_file_is_named_with_image_and_row(blank_job, tmp_path, table, message):
    with pytest.raises(DataError, match=message) as raised:
        looked_at(blank_job(), saved(tmp_path, table), "here")
    assert "found.pth" in str(raised.value)


def test_a_file_that_is_not_there_or_wants_to_run_something(blank_job, tmp_path):
    with pytest.raises(WeightsError, match=r"'lost.pth' are not there"):
        looked_at(blank_job(), DetectionOptions(detections="lost.pth"), "here")
    with pytest.raises(DataError, match="nothing in it was executed"):
        looked_at(blank_job(), saved(tmp_path, {"1.jpg": argparse.Namespace(a=1)}), "here")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"cut.pth: not a torch-saved file"):
        looked_at(blank_job(), DetectionOptions(detections="cut.pth"), "here")
