"""Flags that set an option of the pipeline's own: they arrive, or the error names the flag."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from bench import registry
from bench.cli.options import as_options
from bench.errors import SettingsError
from bench.grounding import PipelineCard, Prediction


class Whole:
    card = PipelineCard("any", "the whole image", supervision="none")

    def ground(self, batch):
        return [Prediction(q.id, (0, 0, 10, 10)) for scene in batch for q in scene.queries]


@pytest.fixture
def words(tmp_path):
    """Make the words after which `predict` and `run` each answer one expression."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "some.pt").write_bytes(b"weights")
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "a.png", "text": "it", "box_xyxy": [0, 0, 10, 10]}) + "\n")
    return {"predict": ("--image", "a.png", "--text", "it"), "run": ("--split", "file:a.jsonl", "--results", "results")}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "run"])
def test_options_arrive_or_the_flag_is_named(bench, words, command, monkeypatch):
    begin = (command, "-p", "centre-box", *words[command])
    assert "--preprocessing: centre-box takes none; it prepares images" in bench(*begin, "--preprocessing", "clean")[2]
    assert "official" in bench(*begin, "--preprocessing", "cleanest")[2]
    contexts = []
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: lambda context: contexts.append(context) or Whole())
    bench(*begin)
    sets = ("--set", "views=blur", "--set", "ranker.top=5", "--set", "ranker.on=true", "--set", 'prompt="a {}"')
    assert bench(*begin, "--preprocessing", "official", "--weights", "some.pt", *sets)[0] == 0
    assert not {"preprocessing", "weights"} & contexts[0].options.keys()
    given = {"views": "blur", "prompt": "a {}", "ranker": {"top": 5, "on": True}}
    options = contexts[1].options
    assert options.items() >= (given | {"preprocessing": "official"}).items()
    assert Path(options["weights"]).name == "some.pt" and Path(options["weights"]).is_absolute()


@pytest.mark.parametrize("error", [SettingsError("unknown key 'weights'"), SettingsError("both", ["margin"])])
def test_other_mistakes_are_left_as_they_are(error):
    with pytest.raises(SettingsError) as caught, as_options("x", {}, {"weights": "w"}):
        raise error
    assert caught.value is error
    with pytest.raises(SettingsError), as_options("x", {}, {"weights": None}):  # it came from --set or from a file
        raise SettingsError("no weights", ["weights"])


@pytest.mark.parametrize(("words", "flag"), [
    (("run", "-p", "", "-s", "shapes-val"), "'--pipeline' / '-p'"),
    (("run", "-p", "centre-box", "-s", ""), "'--split' / '-s'"),
    (("run", "-p", "centre-box", "-s", ","), "'--split' / '-s'"),
    (("run", "-p", "centre-box", "-p", " ", "-s", "shapes-val"), "'--pipeline' / '-p'"),
    (("run", "-p", "yolo-clip", "-s", "shapes-val", "--weights", ""), "'--weights'"),
    (("run", "-p", "centre-box", "-s", "shapes-val", "--on", ""), "'--on'"),
    (("run", "-p", "centre-box", "-s", "shapes-val", "--results", ""), "'--results'"),
    (("run", "-p", "centre-box", "-s", "shapes-val", "--set", ""), "'--set'"),
    (("run", "-p", "yolo-clip", "-s", "shapes-val", "--set", "proposer.weights="), "--set proposer.weights="),
    (("train", "-p", "clipvg", "-s", "shapes-train", "--weights", ""), "'--weights'"),
    (("train", "-p", "clipvg", "-s", "shapes-train", "--labels", ""), "'--labels'"),
    (("predict", "-p", "centre-box", "--image", "a.png", "--text", ""), "'--text'"),
    (("report", "-s", "", "--out", "r.html"), "'--split' / '-s'"),
    (("demo", "-p", "", "--no-open"), "'--pipeline' / '-p'"),
    (("compare", "", "centre-box/a-b"), "RUN"),
    (("label", "score", "", "--split", "shapes-val"), "FILE"),
    (("run", "--study", "study.toml", "-p", ""), "'--pipeline' / '-p'"),
    (("run", "--study", "study.toml", "-p", "whole-image"), "study.toml: --task, -p and -s choose none of the 1 pairs"),
    (("run", "--study", "empty.toml"), "empty.toml: pipelines and splits"),
])  # fmt: skip
def test_an_empty_value_is_refused_by_the_name_of_its_option(bench, tmp_path, words, flag):
    (tmp_path / "study.toml").write_text('pipelines = ["centre-box"]\nsplits = ["shapes-val"]\n')
    (tmp_path / "empty.toml").write_text("pipelines = []\nsplits = []\n")
    code, out, err = bench(*words)
    assert (code, out) == (2, "") and flag in err and not (tmp_path / "results").exists()


@pytest.mark.parametrize("words", [
    ("train", "-p", "clipvg", "-s", "shapes-train"), ("data", "noisy-labels"), ("report", "-s", "shapes-val"),
    ("label", "--source", "template", "--split", "shapes-val"), ("data", "sheet", "shapes-val"),
    ("predict", "-p", "centre-box", "--scene", "shapes-val/val-000003", "--text", "x"), ("table", "-s", "shapes-val"),
    ("label", "score", "a.jsonl", "--split", "shapes-val"), ("leaderboard", "export", "csv"),
])  # fmt: skip
def test_an_output_that_cannot_be_written_is_refused_before_the_work(bench, tmp_path, monkeypatch, words):
    def work(*arguments, **options):
        pytest.fail("it began to work")

    # Imported first: a module that is imported now would keep the stand-in.
    for module in [import_module(f"bench.cli.{name}") for name in ("options", words[0])]:
        if hasattr(module, "settings_of"):
            monkeypatch.setattr(module, "settings_of", work)
    (tmp_path / "file").write_text("")
    for out, why in (
        ("file/below/out.jsonl", "is a file"),
        ("n" * 300, "too long"),
        ("read-only/out.jsonl", "writable"),
    ):
        if why == "writable":
            monkeypatch.setattr("os.access", lambda *_: False)
        code, _, err = bench(*words, "--out", out)
        plain = re.sub(r"[\s│]", "", err)  # typer draws a box
        assert code == 2 and "--out" in plain and why.replace(" ", "") in plain and "--results" not in plain
