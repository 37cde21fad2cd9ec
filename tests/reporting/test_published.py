"""Published numbers: every entry well formed, on a known split, with a source; and beside the rows they are about."""

import pytest

from bench import registry
from bench.datasets.load import split_names
from bench.errors import DataError
from bench.evaluation.protocols import PROTOCOLS
from bench.reporting.published import (
    HOW,
    OTHER_SPLITS,
    beside,
    compared,
    find_published_split,
    on_split,
    published,
    read_published,
)

GOOD = {"method": "M", "training": "full", "protocol": "iou", "source": "Paper, table 1", "how": "read"}
GOOD |= {"values": {"refcoco-val": 62.5}}


def written(tmp_path, *entries):
    lines = []
    for entry in entries:
        lines.append("[[published]]")
        for key, value in entry.items():
            table = "{" + ", ".join(f'"{k}" = {v}' for k, v in value.items()) + "}" if key == "values" else repr(value)
            lines.append(f"{key} = {table}")
    path = tmp_path / "published.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("entry", published(), ids=lambda e: f"{e.method}-{e.source}"[:60])
def test_an_entry_is_about_something_known(entry):
    assert set(entry.values) <= {*split_names(), *OTHER_SPLITS}
    assert entry.pipeline in ("", *registry.names(registry.PIPELINES))
    assert entry.protocol in (*PROTOCOLS, "unknown") and entry.how in HOW
    assert all(1 <= value <= 100 for value in entry.values.values())
    assert not any(split.startswith("shapes") or split.endswith("-train") for split in entry.values)
    assert entry.source.strip() == entry.source and len(entry.source) > 8


def test_numbers_as_the_papers_have_them():
    values = {(e.method, e.backbone, split): value for e in published() for split, value in e.values.items()}
    for method, backbone, split, value in (
        ("CLIP-VG", "", "refcoco-val", 84.29),
        ("CLIP-VG, multi source (MSA)", "", "refcoco-testA", 69.03),
        ("MDETR, fine-tuned", "ResNet-101", "refcocog-test", 80.89),
        ("TransVG", "ResNet-101", "refcoco+-testB", 59.2),
        ("CLIP-VG, single source (SSA)", "", "refcocog-google-val", 54.16),
    ):
        assert value in {v for key, v in values.items() if (key[0], key[2]) == (method, split) and backbone in key[1]}


@pytest.mark.parametrize(("change", "message"), [
    ({"method": ""}, r"entry 1 \(\): method"),
    ({"how": "guessed"}, r"entry 1 \(M\): how"),
    ({"training": "none"}, "training"),
    ({"protocol": "clamped"}, "protocol"),
    ({"values": {"refcoco-val": 0.62}}, r"values\.refcoco-val: 0\.62 is no percentage"),
    ({"values": {"refcoco-val": "nan"}}, "is no percentage"),
    ({"values": {"refcoco-val": 101}}, "is no percentage"),
    ({"values": {}}, "values"),
    ({"colour": "red"}, "colour"),
    ({"source": ""}, "source"),
])  # fmt: skip
def test_what_is_no_entry(tmp_path, change, message):
    with pytest.raises(DataError, match=message) as error:
        read_published(written(tmp_path, GOOD | change))
    assert str(tmp_path / "published.toml") in str(error.value)


def test_other_wrong_files(tmp_path):
    with pytest.raises(DataError, match=r"entry 2 .*refcoco-val is in entry 1"):
        read_published(written(tmp_path, GOOD, GOOD))
    path = tmp_path / "x.toml"
    for content, message in (
        ("[published]\nmethod = 'M'", "two brackets"),
        ("[[other]]\n", "unknown table 'other'"),
        ("[[published", "TOML"),
        (None, "cannot be read"),
    ):
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(DataError, match=message):
            read_published(path)


def test_which_entries_stand_beside_a_row():
    methods = [e.method for e in beside("clipvg", "refcoco-val", "full", ["clipvg-refcoco.pth"])]
    assert methods == ["CLIP-VG"]
    pseudo = [e.method for e in beside("clipvg", "refcoco-val", "pseudo", [])]
    assert len(pseudo) == 4 and "CLIP-VG" not in pseudo
    assert len(beside("clipvg", "refcoco-val", "unknown", [])) == 5
    assert beside("clipvg", "shapes-val", "full", []) == []
    assert beside("transvg", "refcoco-val", "full", []) == []


def test_weights_choose_among_backbones():
    (entry,) = beside("mdetr", "refcoco-val", "full", ["/weights/refcoco_resnet101_checkpoint.pth"])
    assert entry.values["refcoco-val"] == 86.75
    (entry,) = beside("mdetr", "refcoco-val", "unknown", ["REFCOCO_EB3_checkpoint.pth"])
    assert entry.values["refcoco-val"] == 87.51
    (entry,) = beside("transvg", "refcoco-val", "full", ["transvg-r101-refcoco.pth"])
    assert entry.values["refcoco-val"] == 80.8
    assert beside("mdetr", "refcoco-val", "full", ["my-own.safetensors"]) == []
    assert beside("mdetr", "refcoco-val", "full", []) == []
    ids = ["openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_grit_v3det"]
    assert [e.values["refcoco-val"] for e in beside("mm-grounding-dino", "refcoco-val", "zero-shot", ids)] == [53.1]


def test_the_difference_and_the_rows_own_interval():
    row = {"split": "refcoco-val", "protocol": "iou", "acc@0.5": 0.84, "mean_iou": 0.7, "ci95": [0.835, 0.845]}
    (entry,) = beside("clipvg", "refcoco-val", "full", [])
    entry_of_row = compared(entry, row)
    assert entry_of_row["value"] == 84.29 and entry_of_row["difference"] == -0.29
    assert entry_of_row["within_interval"] is True and entry_of_row["same_protocol"] is False
    far = compared(entry, row | {"ci95": [0.83, 0.8428], "protocol": "letterbox-clamped"})
    assert far["within_interval"] is False and far["same_protocol"] is True
    assert "values" not in entry_of_row and entry_of_row["source"] == entry.source


def test_a_mean_iou_has_no_interval():
    row = {"split": "refcocog-test", "protocol": "iou", "acc@0.5": 0.5, "mean_iou": 0.56, "ci95": [0.49, 0.51]}
    entries = [compared(e, row) for e in beside("detr-clip", "refcocog-test", "zero-shot", [])]
    assert {(e["metric"], e["within_interval"]) for e in entries} == {("mean_iou", None)}
    assert entries[0]["difference"] == 0


def test_a_splits_entries_come_highest_first():
    entries = on_split("refcocog-test")
    accuracies = [e.values["refcocog-test"] for e in entries if e.metric == "acc@0.5"]
    assert accuracies == sorted(accuracies, reverse=True) and len(accuracies) > 30
    assert [e.metric for e in entries] == sorted((e.metric for e in entries), key=lambda m: m != "acc@0.5")
    assert on_split("shapes-val") == []


def test_a_split_that_is_own_data_here_has_values_too():
    assert find_published_split("ref-adv-s") == find_published_split("file:data/ref-adv-s.jsonl") == "ref-adv-s"
    assert find_published_split("refcocog-umd-test") == "refcocog-test"
    entries = on_split("ref-adv-s")
    assert len(entries) == 32 and entries[0].values["ref-adv-s"] == 90.3
