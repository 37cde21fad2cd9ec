"""Which runs a report is about."""

import shutil

import pytest
from report_world import NAMES, make_split, run_all

from bench.errors import RunError, UnknownName
from bench.reporting.report.selection import choose
from bench.runs.record import read_record
from bench.runs.store import write_record


@pytest.mark.slow
def test_best_first_whatever_the_order(world):
    folders = [str(run.folder) for run in world.runs]
    for order in (folders, folders[::-1]):
        split, runs = choose(order, world.split, world.results)
        assert [run.label for run in runs] == list(NAMES) and split is world.split
    accuracies = [run.record.metrics.accuracy for run in runs]
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[0] > accuracies[-1]
    assert [run.label for run in choose(["poor"], world.split, world.results)[1]] == ["poor"]
    with pytest.raises(UnknownName, match="pour"):
        choose(["pour"], world.split, world.results)


@pytest.fixture
def own(world, tmp_path):
    """A copy of the made-up results, to be changed."""
    shutil.copytree(world.results / "runs", tmp_path / "runs")
    return tmp_path


def edit(folder, **changes):
    write_record(folder, read_record(folder).model_copy(update=changes))


def folders_in(results):
    return sorted(path.parent for path in results.glob("runs/*/*/*/run.json"))


def test_by_default_the_rows_of_the_table(own, world):
    for folder in folders_in(own):
        edit(folder, git={"commit": "ab" * 20, "dirty": False})
    edit(folders_in(own)[0], git={"commit": "ab" * 20, "dirty": True})  # in no table
    _, runs = choose([], world.split, own)
    assert {run.folder for run in runs} == set(folders_in(own)[1:])
    assert all(run.row["commit"] == "ab" * 20 for run in runs)


def test_without_a_table_the_latest_run_of_each(own, world):
    for folder in folders_in(own):
        edit(folder, git={"dirty": True})
    _, runs = choose([], world.split, own)
    assert [run.label for run in runs] == list(NAMES)
    with pytest.raises(RunError, match="bench run --pipeline"):
        choose([], world.split, own / "empty")


def test_runs_that_do_not_fit_are_refused_by_name(own, world):
    first, second, third = folders_in(own)
    edit(first, status="running")
    edit(second, signature="acc@0.5|strict>0.5|tiny-val|n:100|data:0|top1|v1")
    for folders, message in (([first], first.name), ([third, second], "is not comparable with")):
        with pytest.raises(RunError, match=message):
            choose([str(folder) for folder in folders], world.split, own)
    (third / "run.json").write_text("{")
    with pytest.raises(RunError, match=third.name):
        choose([str(third)], world.split, own)
    with pytest.raises(RunError, match="fingerprint"):
        choose([str(world.runs[0].folder)], make_split(30), world.results)


def test_limited_runs_are_about_the_images_they_answered(tmp_path):
    split = make_split()
    (folder,) = run_all(split.limited(7), tmp_path, names=["sure"])
    answered, (run,) = choose([str(folder)], split, tmp_path)
    assert len(answered.scenes) == 7 and answered.partial
    assert run.record.metrics.n == sum(len(s.expressions) for s in split.scenes[:7])


def test_two_runs_of_one_name_have_two_labels(own, world):
    folder = next(f for f in folders_in(own) if read_record(f).name == "sure")
    again = folder.with_name(folder.name + "-2")
    shutil.copytree(folder, again)
    edit(again, settings_hash="fe" * 32)
    _, runs = choose([str(folder), str(again), str(folder)], world.split, own)
    record = read_record(folder)
    assert {run.label for run in runs} == {f"sure ({record.settings_hash[:6]})", "sure (fefefe)"}
