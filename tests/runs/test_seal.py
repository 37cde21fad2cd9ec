"""A record whose numbers cannot be, or were changed after it was written, is refused; older ones are read."""

import json
import re

import pytest
from edited_records import edited
from worlds_of_runs import make_run, scenes_of

from bench.errors import RunError
from bench.runs.record import read_record

THROUGHPUT = dict.fromkeys(("images_per_s", "expressions_per_s", "peak_memory_mb", "device_memory_mb", "load_seconds"))
THROUGHPUT |= {"seconds": 2.0, "stages": {}}


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path, "one", scenes_of([2] * 40), [1, 0] * 40)


@pytest.mark.parametrize("change", [
    {"metrics__mean_iou": 0.75}, {"metrics__acc@0.7": 0.25}, {"card": {"trained_on": "nothing"}},
    {"throughput": THROUGHPUT | {"expressions_per_s": 39.0}}, {"git": {"dirty": False}},
])  # fmt: skip
def test_a_value_changed_by_hand_is_noticed(folder, change):
    with pytest.raises(RunError, match=r"run\.json: .*a value was changed after bench wrote it"):
        read_record(edited(folder, seal=False, **change))


def test_another_layout_is_no_change_and_older_records_have_no_seal(folder):
    before = read_record(folder)
    assert re.fullmatch("[0-9a-f]{64}", before.sha256)
    raw = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(dict(reversed(raw.items()))).replace(", ", ",\r\n"))
    assert read_record(folder) == before
    del raw["sha256"]
    (folder / "run.json").write_text(json.dumps(raw | {"argv": ["something", "else"]}))
    assert read_record(folder).sha256 == "" and read_record(folder).metrics == before.metrics


@pytest.mark.parametrize(("change", "reason"), [
    ({"schema_version": 99}, "its schema_version is 99; use the version of bench that wrote it"),
    ({"metrics__acc@0.5": 0.99}, "acc@0.5 is 0.99, but 40 hits of 80 give another"),
    ({"metrics__hits": 81}, "81 hits of 80 expressions"),
    ({"metrics__hits": -1}, "metrics.hits"),
    ({"metrics__ci95": [0.6, 0.4]}, "is no interval of fractions"),
    ({"metrics__ci95": [0.51, 0.6]}, "acc@0.5 0.5 lies outside ci95 [0.51, 0.6]"),
    ({"metrics__strata__kind__k0__ci95": [0.0, 0.1]}, "strata.kind.k0: acc@0.5"),
    ({"metrics__strata__kind__k0__hits": 80, "metrics__strata__kind__k0__n": 80}, "more than the 40 of 80"),
    ({"metrics__mean_iou": 1.5}, "metrics.mean_iou"),
    ({"metrics__no_box": 81}, "no_box is 81 of 80"),
    ({"identity__data__expressions": 81}, "metrics.n is 80, but the split has 81 expressions"),
    ({"finished": "garbage"}, "finished: expected a time in ISO 8601, not 'garbage'"),
    ({"finished": None}, "no time at which it was finished"),
    ({"finished": "2026-11-20T10:00:00+00:00"}, "before it was started"),
    ({"throughput": THROUGHPUT | {"expressions_per_s": 1e300}}, "throughput.expressions_per_s"),
    ({"throughput": THROUGHPUT | {"expressions_per_s": -5}}, "throughput.expressions_per_s"),
    ({"throughput": THROUGHPUT | {"expressions_per_s": 50.0}}, "is 50, more than 80 in 2 s"),
    ({"throughput": THROUGHPUT | {"images_per_s": 50.0}}, "is 50, more than 40 in 2 s"),
    ({"throughput": THROUGHPUT | {"seconds": float("inf")}}, "throughput.seconds"),
])  # fmt: skip
def test_numbers_that_cannot_be_are_refused_whatever_the_seal(folder, change, reason):
    with pytest.raises(RunError, match=re.escape(reason)):
        read_record(edited(folder, **change))
