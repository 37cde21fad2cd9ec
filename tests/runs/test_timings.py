"""Throughput from the batches: sessions follow one another, ranks run side by side."""

import pytest

from bench.runs.store import dump_time, read_times, throughput

ONE = {"session": 1, "rank": 0, "batch": 0, "images": 8, "expressions": 56, "seconds": 2.0, "decode_seconds": 0.9}
ONE |= {"stages": {"decode": 0.5, "detect": 1.5}, "memory_mb": 100.0, "device_memory_mb": None, "note": ""}


def test_sessions_add_up_and_ranks_do_not():
    times = [ONE, ONE | {"batch": 1}, ONE | {"rank": 1, "seconds": 3.0}, ONE | {"session": 2, "memory_mb": 150.0}]
    speed = throughput(times, load_seconds=1.23456)
    assert speed.seconds == 6.0  # max(2 + 2, 3) + 2
    assert speed.images_per_s == pytest.approx(32 / 6)
    assert speed.expressions_per_s == pytest.approx(224 / 6)
    assert speed.stages == {"decode": 2.0, "detect": 6.0}
    assert (speed.peak_memory_mb, speed.device_memory_mb, speed.load_seconds) == (150.0, None, 1.235)
    nothing = throughput([], None)
    assert nothing.seconds == 0 and nothing.images_per_s is None and nothing.stages == {}


def test_torn_foreign_and_double_lines_are_left_out(tmp_path):
    other = ONE | {"rank": 1}
    (tmp_path / "batches.jsonl").write_text(dump_time(ONE) + "not json\n" + dump_time(ONE) + dump_time(other)[:20])
    (tmp_path / "batches.rank1.jsonl").write_text(dump_time(other))
    paths = [tmp_path / "batches.jsonl", tmp_path / "batches.rank1.jsonl", tmp_path / "batches.rank2.jsonl"]
    assert read_times(paths) == [ONE, other]
