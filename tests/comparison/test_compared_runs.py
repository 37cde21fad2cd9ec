"""A run by its folder, its run.json, PIPELINE/SPLIT or its name; what could mean several is not guessed."""

import pytest
from worlds_of_runs import make_run, scenes_of

from bench.comparison.compared_runs import find_run
from bench.errors import RunError, UnknownName, UsageError

SCENES, HITS = scenes_of([2, 3]), [1, 0, 1, 1, 0]


def run(results, name, **more):
    return make_run(results, name, SCENES, HITS, **more)


def test_every_way_to_say_it(tmp_path, monkeypatch):
    folder = run(tmp_path / "results", "yolo-clip")
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    for name in (folder, folder / "run.json", folder.parent, "yolo-clip/mine-val", "yolo-clip"):
        assert find_run(str(name), results).resolve() == folder
    assert find_run("yolo-clip", results, "mine-val") == folder
    assert find_run("results/runs/yolo-clip/mine-val", results).resolve() == folder


def test_the_latest_complete_whole_run(tmp_path):
    run(tmp_path, "x", finished="2026-11-20T10:00:00+00:00")
    latest = run(tmp_path, "x", finished="2026-11-21T10:00:00+00:00")
    run(tmp_path, "x", finished="2026-11-22T11:00:00+00:00", status="running")
    run(tmp_path, "x", finished="2026-11-22T12:00:00+00:00", partial=True)
    (latest.parent / "notes").mkdir()
    (latest.parent / "notes" / "run.json").write_text("{}")
    assert find_run("x", tmp_path) == latest


def test_other_settings_are_not_guessed(tmp_path):
    both = [run(tmp_path, "x", settings_hash=letter * 8) for letter in "ab"]
    with pytest.raises(UsageError) as refused:
        find_run("x", tmp_path)
    assert all(str(folder) in str(refused.value) for folder in both)


def test_several_splits_are_not_guessed(tmp_path):
    folder = run(tmp_path, "x", split="one-val")
    run(tmp_path, "x", split="two-val")
    with pytest.raises(UsageError, match=r"x/one-val, x/two-val\); name one with --split"):
        find_run("x", tmp_path)
    assert find_run("x", tmp_path, "one-val") == find_run("x/one-val", tmp_path) == folder
    with pytest.raises(UnknownName, match="did you mean 'one-val'"):
        find_run("x/one-vall", tmp_path)


def test_names_that_are_not_there(tmp_path):
    run(tmp_path, "yolo-clip")
    run(tmp_path, "half", status="running")
    with pytest.raises(UnknownName, match="did you mean 'yolo-clip'"):
        find_run("yolo-clop", tmp_path)
    with pytest.raises(UnknownName):
        find_run("x", tmp_path / "nowhere")
    with pytest.raises(RunError, match="no finished run"):
        find_run("half", tmp_path)
    with pytest.raises(UnknownName):
        find_run("../../etc", tmp_path)
    folder = run(tmp_path, "Their model / v2")  # a name that is no folder's name
    assert find_run("Their model / v2", tmp_path) == folder
