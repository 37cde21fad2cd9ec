"""What a row says beside its score: rank, speed, training data, what was published, and where it came from."""

import csv
import io
import json

import pytest
from report_world import imported
from speed_parts import make_speed, rate
from submissions import unpacked

from bench.reporting import leaderboard
from bench.reporting.boards import SUBMISSION, collect
from bench.runs.outcomes import OUTCOMES
from bench.runs.record import read_record
from bench.speed.record import Memory

MARKDOWN, CSV, JSON = leaderboard.NAMES


def rows(results):
    return {r["pipeline"]: r for board in collect(results).boards for r in board.rows}


def speed_record(run, **changes):
    """A measurement of what the run in the folder `run` ran: 640 expressions a second, cold."""
    record = read_record(run)
    same = {key: getattr(record, key) for key in ("name", "identity", "settings_hash", "environment", "card", "git")}
    rates = tuple(rate(value, cache) for value, cache in ((900.0, "texts warm"), (640.0, "cold")))
    fields = {"offline": rates, "memory": Memory(allocated_mb=2000.0, reserved_mb=None, process_mb=None, host_mb=900.0)}
    return make_speed(**(same | fields | changes))


def write_speed(results, run, stem="speed-20260103-000000-abc", **changes):
    path = results / run
    file = path.parent / f"{stem}.json"
    file.write_text(speed_record(path, **changes).model_dump_json())
    return file.relative_to(results).as_posix()


@pytest.fixture
def many(split):
    """A split of 40 images: enough for the paired test to tell runs apart."""
    return split(images=40)


def boxes(results, split, name, hits):
    """A run whose expressions with a number in `hits` are hits."""
    return imported(results, split, name, {f"e{n}": [0, 0, 40, 40 if n in hits else 4] for n in range(40)})


@pytest.mark.slow
def test_ranks_are_ranges_where_the_paired_test_cannot_tell(tmp_path, many):
    boxes(tmp_path, many, "best", set(range(38)))
    boxes(tmp_path, many, "one", set(range(20)))
    boxes(tmp_path, many, "two", set(range(1, 20)) | {39})
    boxes(tmp_path, many, "worst", set())
    assert {name: r["rank"] for name, r in rows(tmp_path).items()} == {
        "best": [1, 1], "one": [2, 3], "two": [2, 3], "worst": [4, 4],
    }  # fmt: skip
    leaderboard.write(tmp_path)
    text = (tmp_path / MARKDOWN).read_text()
    first = [line.split("|")[1].strip() for line in text.partition("### Behind")[0].splitlines() if "| " in line][1:]
    assert first == ["1", "2-3", "2-3", "4"]
    lines = list(csv.DictReader(io.StringIO((tmp_path / CSV).read_text())))
    assert [(line["rank_best"], line["rank_worst"]) for line in lines] == [
        ("1", "1"), ("2", "3"), ("2", "3"), ("4", "4"),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "note"), [
    (lambda path: path.unlink(), f"no {OUTCOMES}; `bench score RUN --keep` makes it"),
    (lambda path: path.write_text("{}\n"), f"{OUTCOMES} cannot be read"),
    (lambda path: path.write_text(path.read_text().replace('"e7"', '"other"')), "about other expressions"),
])  # fmt: skip
def test_a_run_without_sound_outcomes_has_no_rank(tmp_path, many, spoil, note):
    boxes(tmp_path, many, "a", set(range(38)))
    boxes(tmp_path, many, "b", set(range(2)))
    spoilt = boxes(tmp_path, many, "c", set(range(20)))
    spoil(unpacked(spoilt) / OUTCOMES)
    table = rows(tmp_path)
    assert table["a"]["rank"] == [1, 1] and table["b"]["rank"] == [2, 2]
    assert table["c"]["rank"] is None and note in table["c"]["rank_note"]
    text = leaderboard.render(collect(tmp_path))[MARKDOWN].decode()
    assert f"no rank for c: {table['c']['rank_note']}" in text


def test_a_run_whose_outcomes_are_not_its_numbers_is_left_out(tmp_path, many):
    for name, right in (("a", 38), ("b", 2), ("c", 20)):
        folder = boxes(tmp_path, many, name, set(range(right)))
    path = unpacked(folder) / OUTCOMES
    path.write_text(path.read_text().replace('"hit":[1]', '"hit":[0]', 1))
    board = collect(tmp_path)
    assert {row["pipeline"]: row["rank"] for row in board.boards[0].rows} == {"a": [1, 1], "b": [2, 2]}
    ((run, reason),) = board.left_out
    assert run == folder.relative_to(tmp_path).as_posix() and reason.startswith(
        "damaged: outcomes.jsonl does not count"
    )


def test_the_speed_that_was_measured(tmp_path, store):
    run = store("a", 3)
    store("b", 2)
    path = write_speed(tmp_path, run)
    table = rows(tmp_path)
    assert table["a"]["speed"]["expressions_per_s"] == {"median": 640.0, "low": 576.0, "high": pytest.approx(704.0)}
    assert table["a"]["speed"]["record"] == path and table["a"]["latency_ms"] == 5.0
    assert table["a"]["peak_gb"] == pytest.approx(2.097152) and table["a"]["peak_gb_of"] == "device"
    assert table["a"]["expressions_per_s"] == 123.4  # of the whole evaluation, still there
    assert table["b"]["speed"] is None and table["b"]["peak_gb"] is None
    text = leaderboard.render(collect(tmp_path))[MARKDOWN].decode()
    cells = {c[2].split()[0]: c for line in text.splitlines() if len(c := [x.strip() for x in line.split("|")]) > 8}
    assert cells["a"][5:8] == ["640", "5.00", "2.10"] and cells["b"][5:8] == ["(123)", "–", "–"]
    assert "(ex/s) in brackets: of the whole evaluation" in text


def test_speeds_that_do_not_count(tmp_path, store):
    run = store("a", 3)
    write_speed(tmp_path, run, "speed-1", valid=False)
    write_speed(tmp_path, run, "speed-2", full=False)
    write_speed(tmp_path, run, "speed-3", identity=read_record(tmp_path / run).identity.model_copy(update={"seed": 7}))
    write_speed(tmp_path, run, "speed-4", environment={"gpu": {"name": "NVIDIA A100"}})
    broken = tmp_path / run / ".." / "speed-5.json"
    broken.write_text("{")
    table = collect(tmp_path)
    (row,) = table.boards[0].rows
    assert row["speed"]["record"].endswith("speed-3.json")  # a seed changes nothing about speed
    assert [run for run, _ in table.left_out] == ["runs/a/mine-val/speed-5.json"]


def test_a_busy_machine_is_marked(tmp_path, store):
    run = store("a", 3)
    write_speed(tmp_path, run, noisy=("another process used the GPU",))
    text = leaderboard.render(collect(tmp_path))[MARKDOWN].decode()
    assert r"| \~640 | \~5.00 |" in text and "~ measured while the machine was busy" in text
    (line,) = csv.DictReader(io.StringIO(leaderboard.render(collect(tmp_path))[CSV].decode()))
    assert line["speed_noisy"] == "another process used the GPU"
    assert (line["p50_ms"], line["peak_gb_of"]) == ("5.0", "device")


def test_a_speed_of_other_code_is_marked(tmp_path, store):
    run = store("a", 3)
    write_speed(tmp_path, run, git={"commit": "fedcba9876543210", "dirty": False})
    table = collect(tmp_path)
    assert r"| \~640 | \~5.00 |" in leaderboard.render(table)[MARKDOWN].decode()
    assert table.boards[0].rows[0]["speed"]["noisy"] == ["measured at commit fedcba9, the run at 0123456"]


@pytest.mark.slow
def test_what_the_paper_published_stands_beside_the_row(tmp_path, store, split):
    on = split("refcoco-val")
    trained = {"trained_on": "CLIP: WebImageText; CLIP-VG: the train split of the data set", "saw_test_images": "no"}
    store("clipvg", 4, on=on, card=trained)
    store("mdetr", 3, on=on, card={"weights": {"mdetr": "refcoco_resnet101_checkpoint.pth"}, "supervision": "full"})
    store("nobody", 2, on=on)
    table = rows(tmp_path)
    assert [(e["value"], e["difference"]) for e in table["clipvg"]["published"]] == [(84.29, -4.29)]
    assert [(e["value"], e["within_interval"]) for e in table["mdetr"]["published"]] == [(86.75, True)]
    assert table["nobody"]["published"] == []
    leaderboard.write(tmp_path)
    text = (tmp_path / MARKDOWN).read_text()
    assert "84.29 (−4.29)" in text and "### Published for the same split" in text
    assert "MDETR repository, README" in text and "| giou" in text
    lines = {line["pipeline"]: line for line in csv.DictReader(io.StringIO((tmp_path / CSV).read_text()))}
    assert (lines["clipvg"]["published"], lines["clipvg"]["published_difference"]) == ("84.29", "-4.29")
    assert lines["nobody"]["published"] == ""


@pytest.mark.slow
@pytest.mark.parametrize(("card", "word"), [
    ({"trained_on": "what nobody knows", "supervision": "pseudo"}, "pseudo"),
    ({"trained_on": "CLIP: WebImageText; CLIP-VG: the train split of the data set", "supervision": ""}, "full"),
    ({"trained_on": "CLIP: WebImageText"}, "unknown"),  # other weights than those of bench.toml: nobody said
    ({"trained_on": "pseudo-labels of refcoco-train", "supervision": "cheated"}, "unknown"),
    ({"trained_on": "nothing"}, "none"),
    ({"trained_on": None, "supervision": ["full"]}, "unknown"),
])  # fmt: skip
def test_supervision_is_stated_or_unknown(tmp_path, store, split, card, word):
    store("clipvg", 3, on=split("refcoco-val"), card=card)
    assert rows(tmp_path)["clipvg"]["training_data"] == word


def test_training_data_and_parameters(tmp_path, store):
    store("a", 3, card={"trained_on": "mine-train", "parameters": 170_900_000, "supervision": "full"})
    store("b", 2, card={"trained_on": ["a list"], "parameters": "many", "licence": 3, "saw_test_images": None})
    table = rows(tmp_path)
    assert (table["a"]["training_data"], table["a"]["parameters"]) == ("full", 170_900_000)
    assert (table["b"]["training_data"], table["b"]["parameters"]) == ("unknown", None)
    text = leaderboard.render(collect(tmp_path))[MARKDOWN].decode()
    assert "171 M" in text


@pytest.mark.slow
def test_a_submitted_run_is_marked_and_replaces_none_of_ours(tmp_path, store):
    ours = store("a", 3, finished="2026-01-01T00:00:00+00:00", settings_hash="s")
    theirs = store("a", 5, finished="2026-06-01T00:00:00+00:00", settings_hash="s")
    (tmp_path / theirs / SUBMISSION).write_text('{"accepted": "2026-06-02T00:00:00+00:00"}')
    (board,) = collect(tmp_path).boards
    assert {r["run_dir"]: r["submitted"] for r in board.rows} == {ours: None, theirs: "2026-06-02"}
    assert all(r["history"] == [] for r in board.rows)
    text = leaderboard.render(collect(tmp_path))[MARKDOWN].decode()
    assert "a § ◊" not in text and "a ◊" in text and "◊ another person's run" in text
    (tmp_path / theirs / SUBMISSION).write_text("broken")
    assert {r["submitted"] for r in collect(tmp_path).boards[0].rows} == {None, "unknown"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["=cmd()", "+1", "-1", "@SUM(A1)", "\tx", "plain"])
def test_no_spreadsheet_runs_a_name(tmp_path, store, name):
    store(name, 3)
    leaderboard.write(tmp_path)
    (line,) = csv.DictReader(io.StringIO((tmp_path / CSV).read_text(), newline=""))
    assert line["pipeline"] == (name if name == "plain" else f"'{name}")
    assert json.loads((tmp_path / JSON).read_text())["tables"][0]["rows"][0]["pipeline"] == name
