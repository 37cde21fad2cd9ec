"""People's own data: two files of one name never meet, and every command that is printed for one works."""

import html
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from edited_records import edited
from PIL import Image

from bench.runs import provenance

pytestmark = pytest.mark.slow
PIPELINES = ("whole-image", "centre-box")
RUN = ("run", "-p", ",".join(PIPELINES), "--json")


@pytest.fixture
def own(bench, tmp_path, monkeypatch):
    """`bench` in a folder with one/street.jsonl and two/street.jsonl, of three and two expressions."""
    monkeypatch.setattr(provenance, "git_state", lambda *_: {"commit": "c" * 40, "dirty": False})
    for folder, count in (("one", 3), ("two", 2)):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / folder / "p.png")
        rows = [{"image": "p.png", "text": f"{folder} {n}", "box_xyxy": [0, 0, 20 + n, 30]} for n in range(count)]
        (tmp_path / folder / "street.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bench.toml").write_text("[evaluation]\ndraws = 100\n[run]\ndevice = 'cpu'\n")
    return bench


def rows_of(result):
    code, out, err = result
    assert code in (0, 3), err
    return json.loads(out.splitlines()[-1])["rows"]


def test_two_files_of_one_name_do_not_meet(own):
    for folder, count in (("one", 3), ("two", 2)):
        rows = rows_of(own(*RUN, "-s", f"file:{folder}/street.jsonl"))
        assert [row["n"] for row in rows] == [count, count]
    assert len(list(Path("results/runs/whole-image").iterdir())) == 2
    for folder, count in (("one", 3), ("two", 2)):
        given = f"file:{folder}/street.jsonl"
        code, out, err = own("compare", *PIPELINES, "-s", given, "--json")
        assert code == 0, err
        assert json.loads(out.splitlines()[-1])["n"] == count
        assert own("report", "-s", given, "-o", f"{folder}.html")[0] == 0
        assert own("report", *PIPELINES, "-s", given, "-o", f"{folder}.html", "--json")[0] == 0
        own("leaderboard", "export", "csv", "--out", f"{folder}.csv", "-s", given)
        assert len(Path(f"{folder}.csv").read_text().splitlines()) == 3
    code, _, err = own("compare", *PIPELINES, "-s", "file:street")
    assert code == 2 and "give the folder of one" in err
    code, _, err = own("report", "-s", "file:street")
    assert code == 2 and "could mean several files" in err and "two/street.jsonl" in err


def test_the_short_form_is_enough_for_one_file(own):
    rows_of(own(*RUN, "-s", "file:one/street.jsonl"))
    assert own("compare", *PIPELINES, "-s", "file:street")[0] == 0
    assert own("report", "-s", "file:street", "-o", "short.html")[0] == 0
    assert own("compare", *(f"{name}/file:street" for name in PIPELINES))[0] == 0


def test_every_command_that_is_printed_works(own, monkeypatch, tmp_path):
    (row, _) = rows_of(own(*RUN, "-s", "file:one/street.jsonl"))
    own("report", "-s", "file:one/street.jsonl", "-o", "page.html")
    page = html.unescape(Path("page.html").read_text(encoding="utf-8"))
    command = re.search(r"bench (speed --pipeline \S+ --split [^\s<]+)", page)[1]
    assert command.endswith("--split file:one/street.jsonl")
    quick = ("--min-seconds", "0.01", "--min-batches", "1", "--warmup-seconds", "0", "--warmup-batches", "0")
    assert own(*shlex.split(command), *quick, "--repeats", "1")[0] == 0
    assert len(list(Path("results/runs/centre-box").glob("*/speed-*.json"))) == 1
    # The record knows the file from everywhere.
    monkeypatch.chdir(tmp_path / "two")
    again = rows_of(own("score", tmp_path / row["run_dir"], "--json"))
    assert again[0]["hits"] == row["hits"]


def test_a_file_that_was_moved_is_the_same_data(own, tmp_path):
    first = rows_of(own(*RUN, "-s", "file:one/street.jsonl"))
    (tmp_path / "moved").mkdir()
    for name in ("street.jsonl", "p.png"):
        (tmp_path / "one" / name).rename(tmp_path / "moved" / name)
    again = rows_of(own(*RUN, "-s", "file:moved/street.jsonl"))
    assert [row["run_dir"] for row in again] == [row["run_dir"] for row in first]


def test_runs_of_before_are_where_files_of_one_name_met(own, tmp_path):
    (row, other) = rows_of(own(*RUN, "-s", "file:one/street.jsonl"))
    folder = Path(row["run_dir"])
    shared = folder.parent.with_name("file-street")
    folder.parent.rename(shared)
    edited(shared / folder.name, lambda record: record["settings"].pop("split"))
    again = rows_of(own(*RUN, "-s", "file:one/street.jsonl"))
    assert [Path(each["run_dir"]) for each in again] == [shared / folder.name, Path(other["run_dir"])]
    new = rows_of(own(*RUN, "-s", "file:two/street.jsonl"))
    assert Path(new[0]["run_dir"]).parent not in (shared, folder.parent)
    assert own("compare", *PIPELINES, "-s", "file:one/street.jsonl")[0] == 0
    assert rows_of(own("score", shared / folder.name, "--json"))[0]["n"] == 3
