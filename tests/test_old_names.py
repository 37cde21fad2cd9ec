import pytest
from typer.main import get_command

from bench import registry
from bench.cli.main import app, load_command
from bench.cli.options import assignments
from bench.datasets.prepared import dataset_folder, image_roots
from bench.old_names import COMMAND_OPTIONS, OPTIONS, SUBCOMMANDS, current, current_arguments
from bench.settings import load_settings


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


OLD = [  # every spelling that has gone, and the one of today
    ("label --source template --pictures there", "label --source template --images there"),
    (
        "data noisy-labels --kind caption --out a.jsonl --per-picture=3",
        "data noisy-labels --kind caption --out a.jsonl --per-image=3",
    ),
    ("label score a.jsonl --measurer w.pth", "label score a.jsonl --scorer w.pth"),
    ("label score a.jsonl --lists", "label score a.jsonl --official-files"),
    ("label stats a.jsonl --images 3", "label stats a.jsonl --scenes 3"),
    ("label stats a.jsonl --pictures 3", "label stats a.jsonl --scenes 3"),
    ("data sheet shapes-val --images=3", "data sheet shapes-val --scenes=3"),
    ("data prepare refcocog --keep ids.txt", "data prepare refcocog --annotation-ids ids.txt"),
    ("data verify refcoco --no-images", "data verify refcoco --annotations-only"),
    ("data verify refcoco --no-pictures", "data verify refcoco --annotations-only"),
    ("data verify refcoco --images", "data verify refcoco"),
    ("leaderboard --submit there --split file:a", "leaderboard submit there --split file:a"),
    ("leaderboard --published=refcoco-val", "leaderboard published refcoco-val"),
    ("leaderboard --export md --out a.md", "leaderboard export md --out a.md"),
    (
        "doctor --train-step clipvg --weights w.pth --split file:a.jsonl --json",
        "train --check-step --pipeline clipvg --weights w.pth --split file:a.jsonl --json",
    ),
    ("doctor --split file:a.jsonl --train-step=mdetr", "train --check-step --split file:a.jsonl --pipeline=mdetr"),
]


@pytest.mark.parametrize(("old", "new"), OLD)
def test_an_old_spelling_is_accepted_and_named(old, new, capsys):
    assert current_arguments(old.split()) == new.split()
    assert "the old spelling goes in version 0.3" in capsys.readouterr().err
    assert current_arguments(new.split()) == new.split() and not capsys.readouterr().err


@pytest.mark.parametrize("line", [new for _, new in OLD])
def test_what_an_old_spelling_becomes_is_parsed(line):
    command, words = get_command(app), line.split()
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command, words = load_command(words[0]) if command.name == "bench" else command.commands[words[0]], words[1:]
    command.make_context(line, words)


def test_every_old_option_is_in_the_table():
    known = " ".join(f"{old} " for old, _ in OLD).replace("=", " ")
    renamed = [*OPTIONS, *(old for options in COMMAND_OPTIONS.values() for old in options)]
    renamed += [old for options in SUBCOMMANDS.values() for old in options]
    assert [old for old in renamed if f" {old} " not in known] == []


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
