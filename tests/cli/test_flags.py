"""Flags that set an option of the pipeline's own: they arrive, or the pipeline says that it has none."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from bench import registry
from bench.cli.main import app
from bench.cli.options import as_options
from bench.errors import SettingsError, UsageError
from bench.grounding import PipelineCard, Prediction


@pytest.fixture
def options(monkeypatch):
    """A pipeline under every name that takes any option; the options it was built with."""
    seen = []

    class Whole:
        card = PipelineCard("any", "the whole image", supervision="none")

        def ground(self, batch):
            return [Prediction(q.id, (0, 0, 10, 10)) for scene in batch for q in scene.queries]

    def build(context):
        seen.append(dict(context.options))
        return Whole()

    monkeypatch.setattr(registry, "pipeline_factory", lambda name: build)
    return seen


def bench(*arguments):
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "a.png", "text": "it", "box_xyxy": [0, 0, 10, 10]}) + "\n")
    return tmp_path / "a.png"


@pytest.mark.parametrize("way", ["official", "clean", "auto"])
def test_preprocessing_arrives(options, image, tmp_path, way):
    asked = ("--pipeline", "centre-box", "--preprocessing", way)
    assert bench("predict", *asked, "--image", str(image), "--text", "it").exit_code == 0
    run = ("--split", f"file:{image.with_suffix('.jsonl')}", "-o", str(tmp_path / "results"))
    assert bench("run", *asked, *run).exit_code == 0
    assert [seen["preprocessing"] for seen in options] == [way, way]
    (record,) = (tmp_path / "results").rglob("run.json")
    assert json.loads(record.read_text())["identity"]["options"]["preprocessing"] == way


def test_without_the_flag_nothing_is_set(options, image):
    bench("predict", "--pipeline", "centre-box", "--image", str(image), "--text", "it")
    assert "preprocessing" not in options[0]


@pytest.mark.parametrize("verb", ["predict", "run"])
def test_a_pipeline_that_has_none_says_so(image, tmp_path, verb):
    where = {
        "predict": ("--image", str(image), "--text", "it"),
        "run": ("--split", f"file:{image.with_suffix('.jsonl')}", "-o", str(tmp_path / "results")),
    }
    with pytest.raises(UsageError, match="--preprocessing: centre-box takes none; it shows its network"):
        bench(verb, "--pipeline", "centre-box", "--preprocessing", "clean", *where[verb])
    assert "official" in bench(verb, "--pipeline", "x", "--preprocessing", "cleanest", *where[verb]).output


@pytest.mark.parametrize("error", [SettingsError("unknown key 'weights'"), SettingsError("both", ["margin"])])
def test_other_mistakes_are_left_as_they_are(error):
    with pytest.raises(SettingsError) as caught, as_options("x", {}, {"weights": "w"}):
        raise error
    assert caught.value is error
    with pytest.raises(SettingsError), as_options("x", {}, {"weights": None}):  # it came from --set or from a file
        raise SettingsError("no weights", ["weights"])
