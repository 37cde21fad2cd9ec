"""`bench demo`: the desk that answers, the page as it is served over HTTP, and its mistakes."""

import gc
import os
import re
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.cli.main import app
from bench.demo import desk as desks
from bench.demo.desk import Desk
from bench.demo.guard import Guard
from bench.demo.page import COLUMNS, WEIGHTS, drawings, message_of, open_page, table
from bench.errors import MissingPackage, UnknownName, UsageError, WeightsError
from bench.grounding import PipelineCard, Prediction
from bench.install import pip_install
from bench.settings import load_settings

GREY = np.full((30, 40, 3), 99, np.uint8)
SHAPES = next(label for label, dataset in WEIGHTS.items() if dataset == "shapes")


class Plain:
    card = PipelineCard(name="plain", summary="", supervision="none")

    def __init__(self, answer):
        self.answer, self.calls = answer, []

    def ground(self, batch):
        self.calls.append((batch[0].id, batch[0].queries[0].text))
        if isinstance(self.answer, Exception):
            raise self.answer
        return [Prediction(query.id, self.answer, 0.25, note="<b>") for scene in batch for query in scene.queries]


@pytest.fixture
def desk(monkeypatch):
    """A desk whose pipelines are plain ones; `built` counts how often each was opened."""
    made = {
        "yolo-clip": Plain((1, 2, 60, 20)), "mdetr": Plain(None), "clipvg": Plain(ValueError("odd <i>")),
        "detr-clip": Plain((0, 0, 5, 5)),
    }  # fmt: skip
    built = []

    def open_pipeline(name, dataset, resolved):
        built.append((name, dataset))
        if name == "reclip":
            raise WeightsError("no weights")
        return made[name]

    monkeypatch.setattr(desks, "open_pipeline", open_pipeline)
    desk = Desk(load_settings(), ["yolo-clip", "mdetr", "clipvg", "reclip", "detr-clip"])
    desk.built, desk.made = built, made
    return desk


def test_each_pipeline_answers_or_gives_its_error(desk):
    answered = list(desk.answers(GREY, " the dog ", ["yolo-clip", "mdetr", "clipvg", "reclip"], "shapes"))
    names, answers, times, errors = zip(*answered, strict=True)
    assert names == ("yolo-clip", "mdetr", "clipvg", "reclip")
    assert answers[0].box == (1, 2, 40, 20) and times[0] >= 0 and answers[0].text == "the dog"
    assert answers[1].box is None and errors[2].endswith("ValueError: odd <i>") and errors[3] == "no weights"
    rows = table(answered)
    assert len(rows) == 4 and all(len(row) == len(COLUMNS) for row in rows)
    assert rows[0][3:7] == [1, 2, 40, 20] and rows[0][1] == 0.25 and rows[3] == ["reclip", *[None] * 6, "no weights"]
    (image, caption), (_, without) = drawings(answered)
    assert image.size == (40, 30) and caption.startswith("yolo-clip · 0.25 · ") and " · no box · ⚠ <b>" in without
    assert (np.asarray(image) == [230, 57, 70]).all(-1).any()
    message = message_of(answered, "2 of <3>")
    assert "odd &lt;i&gt;" in message and "2 of &lt;3&gt;" in message


def test_a_pipeline_is_built_once_for_a_data_set_and_warmed_up_apart(desk):
    for dataset in ("shapes", "shapes", "file"):
        list(desk.answers(GREY, "the dog", ["yolo-clip"], dataset))
    assert desk.built == [("yolo-clip", "shapes"), ("yolo-clip", "file")]
    (warm, first), (name, second) = desk.made["yolo-clip"].calls[:2]
    assert second == "the dog" != first and warm != name  # no cache of texts or images has the real expression
    other = GREY.copy()
    other[0, 0] = 1
    list(desk.answers(other, "the dog", ["yolo-clip"], "shapes"))
    assert desk.made["yolo-clip"].calls[-1][0] != name  # nor does another image pass for this one


@pytest.mark.parametrize(
    ("trained_on", "warns"),
    [("shapes-train", True), ("CLIP: shapes-train", True), ("CLIP: WebImageText; shapes-train", False), ("", False)],
)
def test_weights_of_drawn_shapes_warn_on_an_image_of_the_users(desk, trained_on, warns):
    desk.made["yolo-clip"].card = PipelineCard("plain", "", trained_on=trained_on, supervision="full")
    scene, expression = desk.samples()[3]
    for image, warned in ((GREY, warns), (desk.image(scene), False)):
        ((_, answer, *_),) = desk.answers(image, expression.text, ["yolo-clip"], "shapes")
        assert ("drawn shapes only" in answer.prediction.note) == warned
        assert ("drawn shapes only" in drawings([("yolo-clip", answer, 1.0, "")])[0][1]) == warned


def test_answers_may_be_taken_by_several_threads(desk):
    answers, taken = desk.answers(GREY, "it", ["yolo-clip", "detr-clip"], "shapes"), []
    for _ in range(2):
        thread = threading.Thread(target=lambda: taken.append(next(answers)))
        thread.start()
        thread.join(20)
    assert [name for name, *_ in taken] == ["yolo-clip", "detr-clip"] and all(answer for _, answer, *_ in taken)


@pytest.mark.parametrize(
    ("image", "text", "names", "message"),
    [(None, "t", ["mdetr"], "upload"), (GREY, " ", ["mdetr"], "type"), (GREY, "t", [], "choose a pipeline")],
)
def test_a_missing_input(desk, image, text, names, message):
    with pytest.raises(UsageError, match=message):
        list(desk.answers(image, text, names, "shapes"))


def test_what_is_offered():
    desk = Desk(load_settings())
    assert {"yolo-clip", "mdetr", "clipvg", "centre-box"} <= set(desk.offered("shapes"))
    assert not {"qwen-vl", "api"} & {*desk.offered("file")} and "centre-box" in desk.offered("file")
    assert set(desk.chosen("shapes")) - {"small"} == {
        "yolo-clip",
        "detr-clip",
        "ssd-clip",
        "reclip",
        "mdetr",
        "clipvg",
        "transvg",
        "dynamic-mdetr",
        "hivg",
        "oneref",
        "diffusion",
        "rl-refine",
    }
    samples = desk.samples()
    assert len(samples) == 12 and len({expression.kind for _, expression in samples}) > 3
    scene, _ = samples[2]
    assert desk.image(scene).shape == (scene.height, scene.width, 3)
    with pytest.raises(UnknownName, match="did you mean 'mdetr'"):
        Desk(load_settings(), ["mdter"])


@pytest.mark.slow
def test_the_page_over_http(tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    gradio = pytest.importorskip("gradio")
    desk = Desk(load_settings(flags={"run.device": "cpu"}), ["yolo-clip", "whole-image"])
    scene, expression = next(each for each in desk.samples() if each[1].kind == "attribute")
    Image.fromarray(desk.image(scene)).save(tmp_path / "scene.png")
    page, address = open_page(desk, "127.0.0.1", None, show=False, wait=False)
    try:
        assert address.startswith("http://127.0.0.1:") and page.share is False and page.analytics_enabled is False
        assert gradio.analytics.analytics_enabled() is False  # nothing calls home
        client = gradio_client.Client(address, verbose=False, download_files=str(tmp_path / "got"))
        image = gradio_client.handle_file(str(tmp_path / "scene.png"))
        names = ["yolo-clip", "whole-image"]
        answers, numbers, message = client.predict(image, expression.text, names, SHAPES, api_name="/ask")
        rows = {row[0]: row for row in numbers["data"]}
        alone = next(desk.answers(desk.image(scene), expression.text, ["yolo-clip"], "shapes"))[1]
        assert rows["yolo-clip"][3:7] == pytest.approx([round(v, 1) for v in alone.box]) and rows["yolo-clip"][2] > 0
        assert rows["whole-image"][3:7] == [0, 0, scene.width, scene.height] and message == ""
        assert [answer["caption"].split(" · ")[0] for answer in answers] == names
        assert Image.open(answers[0]["image"]).size == (scene.width, scene.height)
        answers, _, message = client.predict(None, "x", names, SHAPES, api_name="/ask")
        assert answers == [] and "upload an image" in message
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(UsageError, match=f"--port {port}: cannot be used"):
                open_page(desk, "127.0.0.1", port, show=False, wait=False)
    finally:
        page.close(verbose=False)


@pytest.mark.parametrize(("headers", "status"), [
    ({"host": "127.0.0.1:7860"}, None), ({"host": "[::1]:7860"}, None), ({"host": "localhost:7860"}, None),
    ({"host": "192.168.1.5:80", "origin": "http://192.168.1.5:80"}, None), ({"host": "box.local:1"}, None),
    ({"host": "evil.example:7860"}, 403), ({"host": "127.0.0.1.evil.example"}, 403), ({}, 403), ({"host": ""}, 403),
    ({"host": "127.0.0.1:7860", "origin": "http://evil.example"}, 403),
    ({"host": "127.0.0.1:7860", "origin": "null"}, 403),
    ({"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:8000"}, 403),
    ({"host": "localhost:1", "content-length": str(40 << 20)}, 413),
    ({"host": "localhost:1", "content-length": "x"}, 413),
    ({"host": "localhost:1", "transfer-encoding": "chunked"}, 411),
])  # fmt: skip
def test_a_foreign_or_large_request_is_refused(headers, status):
    refusal = Guard(None, "box.local").refusal(headers)
    assert (refusal and refusal[0]) == status


@pytest.mark.slow
def test_the_page_from_a_foreign_origin_and_with_hostile_files(tmp_path):
    pytest.importorskip("gradio")
    gradio_client = pytest.importorskip("gradio_client")
    import httpx

    desk = Desk(load_settings(flags={"run.device": "cpu"}), ["whole-image"])
    page, address = open_page(desk, "127.0.0.1", None, show=False, wait=False)
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    upload = address + "gradio_api/upload"
    try:
        small = {"files": ("a.png", b"x" * 100)}
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
            for got in (httpx.get(address, headers=headers), httpx.post(upload, files=small, headers=headers)):
                assert got.status_code == 403 and "bench demo answers to" in got.text
                assert got.headers.get("access-control-allow-origin") != "http://evil.example"
        assert httpx.post(upload, files={"files": ("a.png", bytes(33 << 20))}).status_code == 413
        assert not [path for path in folder.rglob("*") if path.is_file()]
        own = httpx.get(address, headers={"Origin": address.rstrip("/")})
        assert own.status_code == 200 and own.headers["x-frame-options"] == "DENY"
        assert own.headers["content-security-policy"] == "frame-ancestors 'none'"
        client = gradio_client.Client(address, verbose=False, download_files=str(tmp_path / "got"))
        Image.new("1", (13_000, 13_000)).save(tmp_path / "bomb.png")
        (tmp_path / "text.png").write_bytes(b"no image")
        turned = Image.fromarray(GREY)
        turned.getexif()[274] = 6
        turned.save(tmp_path / "turned.jpg", exif=turned.getexif())

        def ask(name):
            image = gradio_client.handle_file(str(tmp_path / name))
            return client.predict(image, "it", ["whole-image"], SHAPES, api_name="/ask")

        assert "13000 x 13000 pixels are more than the limit" in ask("bomb.png")[2]
        message = ask("text.png")[2]
        assert "text.png: not an image" in message and str(folder) not in message
        assert ask("turned.jpg")[1]["data"][0][3:7] == [0, 0, 30, 40]
        assert [path for path in folder.rglob("*") if path.is_file()]
    finally:
        page.close(verbose=False)
    del page
    gc.collect()


@pytest.mark.slow
def test_nothing_is_left_of_a_page_that_ends(monkeypatch):
    gradio = pytest.importorskip("gradio")
    folders = []

    def interrupted(page):
        folders.append(Path(os.environ["GRADIO_TEMP_DIR"]))
        (folders[0] / "upload.png").write_bytes(b"x")
        raise KeyboardInterrupt

    monkeypatch.setattr(gradio.Blocks, "block_thread", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_page(Desk(load_settings(), ["whole-image"]), "127.0.0.1", None, show=False)
    assert folders and not folders[0].exists()
    gradio.close_all(verbose=False)


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1280])
def test_captions_stand_under_their_images(desk, browser, tmp_path, width):
    pytest.importorskip("gradio")
    Image.fromarray(np.full((60, 80, 3), 200, np.uint8)).save(tmp_path / "grey.png")
    desk.made["yolo-clip"].card = PipelineCard("plain", "", trained_on="shapes-train", supervision="full")
    page, address = open_page(desk, "127.0.0.1", None, show=False, wait=False)
    try:
        tab = browser.new_context(viewport={"width": width, "height": 800}).new_page()
        tab.goto(address)
        tab.set_input_files("input[type=file]", tmp_path / "grey.png")
        tab.get_by_label("expression").fill("the dog")
        tab.wait_for_selector("img[src*=grey]")
        tab.click("button:has-text('Ask')")
        tab.wait_for_selector("#answers .gallery-item:nth-child(3) .caption-label")
        for item in tab.locator("#answers .thumbnail-item").all():
            image, caption = item.locator("img").bounding_box(), item.locator(".caption-label")
            assert caption.bounding_box()["y"] >= image["y"] + image["height"] - 1
            assert caption.evaluate("e => e.scrollWidth <= e.clientWidth + 1 && e.scrollHeight <= e.clientHeight + 1")
        assert "drawn shapes only" in tab.locator("#answers .caption-label").first.inner_text()
        heads = tab.locator("#numbers th").evaluate_all("all => all.map((e) => e.getBoundingClientRect().height)")
        assert max(heads) < 60 and tab.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        page.close(verbose=False)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingPackage, match=re.escape(pip_install("demo"))):
        CliRunner().invoke(app, ["demo", "--no-open"], catch_exceptions=False)


def test_the_command_opens_the_page(monkeypatch):
    pytest.importorskip("gradio")
    opened = []
    monkeypatch.setattr("bench.demo.page.open_page", lambda desk, *rest, **how: opened.append((desk, rest, how)))
    words = ["demo", "-p", "mdetr,clipvg", "-p", "yolo-clip", "--port", "8123", "--host", "0.0.0.0", "--device", "cpu"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    ((desk, where, how),) = opened
    assert desk.offered("shapes") == ["mdetr", "clipvg", "yolo-clip"] and where == ("0.0.0.0", 8123)
    assert how == {"show": True} and desk.resolved.settings.run.device == "cpu"
