import pytest

from bench import registry
from bench.datasets.prepared import dataset_folder, image_roots
from bench.old_names import current, current_arguments
from bench.settings import assignments, load_settings


def test_keys_and_pipelines_of_records_are_read_in_todays_spelling():
    old = {"identity": {"pipeline": "whole-picture", "data": {"pictures": 3}}, "notes": ["a picture", {"pictures": 1}]}
    new = {"identity": {"pipeline": "whole-image", "data": {"images": 3}}, "notes": ["a picture", {"images": 1}]}
    assert current(old) == new and current(new) == new


def test_an_old_option_is_accepted_and_named(capsys):
    assert current_arguments(["label", "--pictures", "--per-picture=3", "pictures"]) == [
        *("label", "--images", "--per-image=3", "pictures")
    ]
    assert "--pictures is now --images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("run -p a -o here", "run -p a --results here"),
        ("run -ohere", "run --results=here"),
        ("leaderboard -o here --check", "leaderboard --results here --check"),
        ("report -o a.html", "report -o a.html"),
        ("report -o . --limit 3", "report --results . --limit 3"),
        ("report -o here --out a.html", "report --results here --out a.html"),
        ("leaderboard export md -o a.md", "leaderboard export md -o a.md"),
        ("leaderboard submit there -o here", "leaderboard submit there --results here"),
        ("predict -o a.png", "predict -o a.png"),
    ],
)
def test_o_is_results_only_where_it_cannot_be_out(old, new, capsys):
    assert current_arguments(old.split()) == new.split()
    assert ("-o is now --results" in capsys.readouterr().err) == (old != new)


def test_an_old_pipeline_name_opens_the_pipeline():
    assert registry.pipeline_factory("whole-picture") is registry.pipeline_factory("whole-image")


@pytest.mark.parametrize("name", ["pictures.json", "images.json"])
def test_settings_and_stored_folders_in_the_old_spelling(tmp_path, monkeypatch, name):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    (tmp_path / "bench.toml").write_text('[data.pictures]\ncoco = "a"\n[label.template]\nper_picture = 4\n')
    resolved = load_settings(tmp_path / "bench.toml")
    assert resolved.settings.data.images == {"coco": "a"} and resolved.settings.label["template"]["per_image"] == 4
    assert assignments(["proposer.whole_picture=false"]) == {"proposer": {"whole_image": False}}
    dataset_folder(tmp_path, "tiny").mkdir(parents=True)
    (dataset_folder(tmp_path, "tiny") / name).write_text('{"schema": 2, "roots": ["/there"]}')
    assert [str(root) for root in image_roots(resolved, "tiny")] == ["/there"]
