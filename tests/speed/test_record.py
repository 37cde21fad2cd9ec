"""Which speed belongs to which run, and records that cannot be read."""

from pathlib import Path
from typing import Any

import pytest
from speed_parts import identity, make_speed

from bench.runs.record import RunRecord
from bench.speed.record import Rules, headline, machine, read_speeds, speed_of


def run_record(**changes: Any) -> RunRecord:
    """The finished run of what `make_speed` measured."""
    empty: dict[str, Any] = {"settings_hash": "", "metrics": None, "throughput": None}
    empty |= dict.fromkeys(("started", "finished"), "2026-01-02T03:04:05+00:00")
    empty |= {"argv": (), "git": {}, "card": {}, "notes": (), "errors": {}, "sessions": 1}
    fields = {"status": "complete", "provenance": "run", "name": "hash", "protocol": "iou", "signature": "x"}
    return RunRecord(**(empty | fields | {"identity": identity(), "environment": {"cpu": "Some Processor"}} | changes))


def test_the_latest_valid_full_speed_of_the_same_thing_joins() -> None:
    speeds = [
        (make_speed(1.0, finished="2026-11-20"), "a"),
        (make_speed(2.0, finished="2026-11-21"), "b"),
        (make_speed(3.0, finished="2026-11-22", valid=False), "c"),
        (make_speed(4.0, finished="2026-11-22", full=False), "d"),
    ]
    speed = speed_of(run_record(), speeds)
    assert speed is not None and headline(speed).expressions_per_s.median == 2.0
    with pytest.raises(ValueError, match="cold"):
        headline(make_speed(offline=()))


@pytest.mark.parametrize("changes", [
    {"options": {"salt": 2}}, {"weights": {"model": "cd" * 32}}, {"dtype": "bfloat16"}, {"device": "cuda"},
    {"compile": True}, {"channels_last": True}, {"data": identity().data.model_copy(update={"fingerprint": "e" * 64})},
])  # fmt: skip
def test_a_speed_of_something_else_does_not(changes: dict[str, Any]) -> None:
    assert speed_of(run_record(), [(make_speed(identity=identity(**changes)), "a")]) is None


def test_nor_one_of_another_machine_nor_for_boxes_made_elsewhere() -> None:
    assert speed_of(run_record(environment={"cpu": "Another"}), [(make_speed(), "a")]) is None
    assert speed_of(run_record(provenance="imported"), [(make_speed(), "a")]) is None
    assert speed_of(run_record(name="other"), [(make_speed(), "a")]) is None
    assert machine("cuda", {"gpu": {"name": "H200"}, "cpu": "X"}) == "H200" and machine("cuda", {}) == ""
    # The seed moves no speed.
    assert speed_of(run_record(identity=identity(seed=7)), [(make_speed(), "a")]) is not None


def test_records_are_read_back_and_bad_ones_named(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "hash" / "tiny-val"
    folder.mkdir(parents=True)
    later = make_speed(5.0, finished="2026-11-23")
    (folder / "speed-1.json").write_text(later.model_dump_json())
    (folder / "speed-2.json").write_text(make_speed(6.0).model_dump_json())
    (folder / "speed-3.json").write_text('{"name": "hash"}')
    (folder / "speed-4.json").write_text("")
    (folder / "pair-1.json").write_text("{}")
    skipped: list[tuple[str, str]] = []
    records = read_speeds(tmp_path, skipped)
    assert [path for _, path in records] == ["runs/hash/tiny-val/speed-2.json", "runs/hash/tiny-val/speed-1.json"]
    assert records[1][0] == later
    assert len(skipped) == 2 and skipped[0][0].endswith("speed-3.json")
    assert "not a speed record of schema 1: started" in skipped[0][1]
    assert read_speeds(tmp_path / "nothing") == []


def test_rules_below_the_protocol_are_not_full() -> None:
    assert Rules().full and Rules(min_seconds=60, repeats=5).full
    for name in Rules.model_fields:
        assert not Rules(**{name: getattr(Rules(), name) - 1}).full
