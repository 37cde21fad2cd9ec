"""`bench demo`: the desk that answers, the page as it is served and asked over HTTP, and its mistakes."""

import socket
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.cli.main import app
from bench.demo import desk as desks
from bench.demo.desk import Desk
from bench.demo.page import COLUMNS, WEIGHTS, drawings, open_page, table, told
from bench.errors import MissingPackage, UnknownName, UsageError, WeightsError
from bench.grounding import PipelineCard, Prediction
from bench.settings import load_settings

GREY = np.full((30, 40, 3), 99, np.uint8)
SHAPES = next(label for label, dataset in WEIGHTS.items() if dataset == "shapes")


class Plain:
    card = PipelineCard(name="plain", summary="", supervision="none")

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def ground(self, batch):
        self.asked.append((batch[0].id, batch[0].queries[0].text))
        if isinstance(self.answer, Exception):
            raise self.answer
        return [Prediction(query.id, self.answer, 0.25, note="<b>") for scene in batch for query in scene.queries]


@pytest.fixture
def desk(monkeypatch):
    """A desk whose pipelines are plain ones; `built` counts how often each was opened."""
    made = {
        "yolo-clip": Plain((1, 2, 60, 20)),
        "mdetr": Plain(None),
        "clipvg": Plain(ValueError("odd <i>")),
        "detr-clip": Plain((0, 0, 5, 5)),
    }
    built = []

    def open_pipeline(name, dataset, resolved):
        built.append((name, dataset))
        if name == "reclip":
            raise WeightsError("no weights")
        return made[name]

    monkeypatch.setattr(desks, "open_pipeline", open_pipeline)
    found = Desk(load_settings(), ["yolo-clip", "mdetr", "clipvg", "reclip", "detr-clip"])
    found.built, found.made = built, made
    return found


def test_each_pipeline_answers_or_says_why_not(desk):
    said = list(desk.ask(GREY, " the dog ", ["yolo-clip", "mdetr", "clipvg", "reclip"], "shapes"))
    assert [one.pipeline for one in said] == ["yolo-clip", "mdetr", "clipvg", "reclip"]
    assert said[0].answer.box == (1, 2, 40, 20) and said[0].milliseconds >= 0 and said[0].answer.text == "the dog"
    assert said[1].answer.box is None and said[2].error.endswith("ValueError: odd <i>")
    assert said[3].error == "no weights"
    rows = table(said)
    assert len(rows) == 4 and all(len(row) == len(COLUMNS) for row in rows)
    assert rows[0][3:7] == [1, 2, 40, 20] and rows[0][1] == 0.25 and rows[3] == ["reclip", *[None] * 6, "no weights"]
    (image, caption), (_, without) = drawings(said)
    assert image.size == (40, 30) and caption.startswith("yolo-clip · 0.25 · ") and without.endswith("no box")
    assert (np.asarray(image) == [230, 57, 70]).all(-1).any()
    assert "odd &lt;i&gt;" in told(said, "2 of <3>") and "2 of &lt;3&gt;" in told(said, "2 of <3>")


def test_a_pipeline_is_built_once_for_a_data_set_and_warmed_up_apart(desk):
    for dataset in ("shapes", "shapes", "file"):
        list(desk.ask(GREY, "the dog", ["yolo-clip"], dataset))
    assert desk.built == [("yolo-clip", "shapes"), ("yolo-clip", "file")]
    (warm, first), (name, second) = desk.made["yolo-clip"].asked[:2]
    assert second == "the dog" != first and warm != name  # no cache of texts or images has the real question
    other = GREY.copy()
    other[0, 0] = 1
    list(desk.ask(other, "the dog", ["yolo-clip"], "shapes"))
    assert desk.made["yolo-clip"].asked[-1][0] != name  # nor does another image pass for this one


def test_answers_may_be_taken_by_several_threads(desk):
    answers, found = desk.ask(GREY, "it", ["yolo-clip", "detr-clip"], "shapes"), []
    for _ in range(2):
        thread = threading.Thread(target=lambda: found.append(next(answers)))
        thread.start()
        thread.join(20)
    assert [one.pipeline for one in found] == ["yolo-clip", "detr-clip"] and all(one.answer for one in found)


@pytest.mark.parametrize(
    ("image", "text", "names", "said"),
    [(None, "t", ["mdetr"], "upload"), (GREY, " ", ["mdetr"], "type"), (GREY, "t", [], "choose a pipeline")],
)
def test_what_cannot_be_asked(desk, image, text, names, said):
    with pytest.raises(UsageError, match=said):
        list(desk.ask(image, text, names, "shapes"))


def test_what_is_offered():
    desk = Desk(load_settings())
    assert {"yolo-clip", "mdetr", "clipvg", "centre-box"} <= set(desk.offered("shapes"))
    assert "qwen-vl" not in desk.offered("file") and "centre-box" in desk.offered("file")
    assert set(desk.chosen("shapes")) - {"small"} == {"yolo-clip", "detr-clip", "ssd-clip", "mdetr", "clipvg"}
    samples = desk.samples()
    assert len(samples) == 12 and len({sample.expression.kind for sample in samples}) > 3
    assert desk.image(samples[2]).shape == (samples[2].scene.height, samples[2].scene.width, 3)
    with pytest.raises(UnknownName, match="did you mean 'mdetr'"):
        Desk(load_settings(), ["mdter"])


def test_the_page_over_http(tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    gradio = pytest.importorskip("gradio")
    desk = Desk(load_settings(flags={"run.device": "cpu"}), ["yolo-clip", "whole-image"])
    sample = next(s for s in desk.samples() if s.expression.kind == "attribute")
    Image.fromarray(desk.image(sample)).save(tmp_path / "scene.png")
    page, address = open_page(desk, "127.0.0.1", None, show=False, wait=False)
    try:
        assert address.startswith("http://127.0.0.1:") and page.share is False and page.analytics_enabled is False
        assert gradio.analytics.analytics_enabled() is False  # whoever asks: nothing calls home
        client = gradio_client.Client(address, verbose=False, download_files=str(tmp_path / "got"))
        shown = gradio_client.handle_file(str(tmp_path / "scene.png"))
        names = ["yolo-clip", "whole-image"]
        answers, numbers, message = client.predict(shown, sample.expression.text, names, SHAPES, api_name="/ask")
        rows = {row[0]: row for row in numbers["data"]}
        alone = next(desk.ask(desk.image(sample), sample.expression.text, ["yolo-clip"], "shapes")).answer
        assert rows["yolo-clip"][3:7] == pytest.approx([round(v, 1) for v in alone.box]) and rows["yolo-clip"][2] > 0
        assert rows["whole-image"][3:7] == [0, 0, sample.scene.width, sample.scene.height] and message == ""
        assert [answer["caption"].split(" · ")[0] for answer in answers] == names
        assert Image.open(answers[0]["image"]).size == (sample.scene.width, sample.scene.height)
        answers, _, message = client.predict(None, "x", names, SHAPES, api_name="/ask")
        assert answers == [] and "upload an image" in message
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(UsageError, match=f"--port {port}: cannot be taken"):
                open_page(desk, "127.0.0.1", port, show=False, wait=False)
    finally:
        page.close(verbose=False)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingPackage, match=r'pip install "grounding-bench\[demo\]"'):
        CliRunner().invoke(app, ["demo", "--no-open"], catch_exceptions=False)


def test_the_verb_opens_the_page_it_says(monkeypatch):
    pytest.importorskip("gradio")
    opened = []
    monkeypatch.setattr("bench.demo.page.open_page", lambda desk, *rest, **how: opened.append((desk, rest, how)))
    words = ["demo", "-p", "mdetr,clipvg", "-p", "yolo-clip", "--port", "8123", "--host", "0.0.0.0", "--device", "cpu"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    ((desk, where, how),) = opened
    assert desk.offered("shapes") == ["mdetr", "clipvg", "yolo-clip"] and where == ("0.0.0.0", 8123)
    assert how == {"show": True} and desk.resolved.settings.run.device == "cpu"
