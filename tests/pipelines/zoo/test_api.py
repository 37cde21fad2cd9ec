"""A chat model behind a server: faults, many requests at once, kills, and keys that are written nowhere."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import chat_server
import numpy as np
import pytest
from chat_server import KEY, box_of, evaluate_api, image_of, serving, split_of

from bench.errors import BenchError, SettingsError, WeightsError
from bench.evaluation.rescored import rescore
from bench.grounding import LoadedScene, Query
from bench.runs.record import read_record
from bench.settings import load_settings
from pipelines.zoo.api import api
from pipelines.zoo.chat_client import BROKEN, ChatClient, ClientOptions, _reply, _retry_after

FAST = {"wait_s": 0.01, "timeout_s": 0.5, "longest_wait_s": 1.0}
TEXT = 'a red dog, "left"'
QUESTION = 'Locate every object that matches the description "{}" in the image. Report bbox coordinates in JSON format.'


@pytest.fixture
def server():
    with serving() as one:
        yield one


@pytest.fixture(autouse=True)
def home(monkeypatch):
    """`evaluate_api` sets it; no test leaves it behind."""
    monkeypatch.setenv("BENCH_HOME", "")


@pytest.fixture
def build(context):
    def make(url, client=(), **options):
        table = {"base_url": url, "model": "small", "preset": "qwen3", "client": {**FAST, **dict(client)}}
        return api(context("api", options=table | options))

    return make


def scene(*texts, name="s", shade=90):
    image = np.full((60, 80, 3), shade, np.uint8)
    return LoadedScene(name, image, tuple(Query(f"{name}{n}", text) for n, text in enumerate(texts)))


def test_a_request_and_its_answer(server, build):
    pipeline = build(
        server.url, {"price_in": 2.0, "price_out": 10.0}, image="png", body={"top_p": 1, "temperature": ""}
    )
    (prediction,) = pipeline.ground([scene(TEXT)])
    (body,) = server.bodies
    assert body["messages"][0]["content"][1] == {"type": "text", "text": QUESTION.format(TEXT)}
    assert image_of(body).size == (80, 60) and image_of(body).getpixel((5, 5)) == (90, 90, 90)
    assert (body["model"], body["max_tokens"], body["top_p"], "temperature" in body) == ("small", 512, 1, False)
    assert "Authorization" not in server.headers[0]
    numbers = json.loads(box_of(body))["bbox_2d"]
    assert prediction.box == pytest.approx([n * s / 1000 for n, s in zip(numbers, (80, 60, 80, 60), strict=True)])
    assert prediction.answer == box_of(body) and prediction.usage == (100, 20, 0.0004)
    assert pipeline.card.weights == {"model": "small", "prompt": "qwen3@1,first"}


def test_images_are_sent_at_the_size_of_the_preset(server, build):
    pipeline = build(server.url, preset="qwen2.5")
    (prediction,) = pipeline.ground([scene(TEXT)])
    assert image_of(server.bodies[0]).size == (84, 56)
    numbers = json.loads(prediction.answer)["bbox_2d"]
    assert prediction.box == pytest.approx([n * s for n, s in zip(numbers, (80 / 84, 60 / 56) * 2, strict=True)])


def test_fifty_requests_at_once_through_faults(build, tmp_path):
    """Each fault is overcome, and each answer is that of its own request."""
    texts = [f"thing {n}" for n in range(50)]
    faults = ["429", 500, "half", "nonsense", 503]
    with serving(faults=faults, most_faults=20, delay=0.25) as server:
        predictions = build(server.url, {"concurrency": 50}).ground([scene(*texts)])
    assert server.most > 25 and len(server.bodies) == 70 and set(server.answered.values()) == {1}
    for text, prediction in zip(texts, predictions, strict=True):
        content = [{}, {"text": QUESTION.format(text)}]
        assert prediction.answer == box_of({"messages": [{"content": content}]})


def test_a_server_that_is_silent_is_asked_again(build):
    with serving(faults=["timeout"], most_faults=1) as server:
        (prediction,) = build(server.url, {"timeout_s": 0.2}).ground([scene(TEXT)])
        assert prediction.box and len(server.bodies) == 2


def test_attempts_end_and_what_was_answered_stays(build):
    with serving(faults=[500], most_faults=3) as server:
        pipeline = build(server.url, {"attempts": 3, "concurrency": 1})
        with pytest.raises(BenchError, match=r"no answer in 3 attempts \(status 500: no, None\).*same command goes on"):
            pipeline.ground([scene("one")])
        assert len(pipeline.ground([scene("one", "two")])) == 2
        again = build(server.url)
        answers = again.ground([scene("one", "two", "one")])
        assert len(server.bodies) == 5 and answers[0].answer == answers[2].answer
        again.caches["answers"]()
        again.ground([scene("one")])
        again.ground([scene("one")])
        assert len(server.bodies) == 6


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"prompt": "{}?"}, {"max_tokens": 9}, {"image": "png"}, {"body": {"top_p": 0.5}}]
)
def test_another_request_is_no_stored_answer(server, build, change):
    build(server.url).ground([scene(TEXT)])
    for same in ({"several": "refuse"}, {"readers": ["prose"]}, {"frame": "0-999"}):  # they move no answer
        build(server.url, **same).ground([scene(TEXT)])
    assert len(server.bodies) == 1
    build(server.url, **change).ground([scene(TEXT)])
    assert len(server.bodies) == 2


def test_a_damaged_answer_is_asked_for_again(server, build, tmp_path):
    pipeline = build(server.url)
    pipeline.ground([scene(TEXT)])
    (file,) = (tmp_path / "home" / "answers").rglob("*.json")
    file.write_bytes(file.read_bytes()[:10])
    assert pipeline.ground([scene(TEXT)])[0].box and len(server.bodies) == 2


def test_a_request_that_the_server_refuses_is_a_miss(build):
    with serving(faults=[400], most_faults=1) as server:
        with pytest.raises(BenchError, match="refuses every request: status 400"):
            build(server.url).ground([scene(TEXT)])
        pipeline = build(server.url)
        assert pipeline.ground([scene(TEXT)])[0].box
        server.left = 1
        (prediction,) = pipeline.ground([scene("other")])
        assert prediction.box is None and prediction.note == "no box: the server refuses the request with 400"


@pytest.mark.parametrize(
    ("reply", "note"),
    [(("[1, 2, 3, 4]", "length"), "cut at 20 tokens; parsed as json"),
     (("[1, 2,", "length"), "cut at 20 tokens; no box: the answer cannot be parsed"),
     (("", "content_filter"), "stopped by the server's filter; no box: the answer cannot be parsed"),
     ((None, "stop"), "no box: the answer cannot be parsed"),
     (([{"type": "text", "text": "[1, 2, "}, {"type": "text", "text": "3, 4]"}], "stop"), "parsed as json")],
)  # fmt: skip
def test_answers_that_were_cut_or_are_empty(build, reply, note):
    with serving(reply=lambda body: reply) as server:
        assert build(server.url).ground([scene(TEXT)])[0].note == note


def test_an_address_of_something_else_is_given_up_soon(build):
    with serving(faults=["nonsense"]) as server:
        with pytest.raises(BenchError, match=r"no answer in 3 attempts .an answer that is not one of the protocol"):
            build(server.url).ground([scene(TEXT)])
        assert len(server.bodies) == 3


def test_a_pause_that_is_demanded_is_kept(build):
    with serving(faults=["429"], most_faults=1) as server:
        build(server.url, {"wait_s": 0.001}).ground([scene(TEXT)])
        assert server.times[1] - server.times[0] >= 0.05
    assert _retry_after("3") == 3 and _retry_after("soon") == _retry_after("-1") == _retry_after("nan") == 0
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0 and _retry_after("Wed, 21 Oct 2099 07:28:00 GMT") > 1e6


def test_the_rate_is_kept(server, build):
    build(server.url, {"requests_per_minute": 1200}).ground([scene(*map(str, range(5)))])
    assert max(server.times) - min(server.times) >= 4 * 0.05 - 0.02


@pytest.mark.parametrize(("status", "advice"), [(401, "the key in the variable"), (404, "see base_url")])
def test_a_wrong_key_or_model_ends_the_run(build, monkeypatch, status, advice):
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(faults=[status]) as server:
        with pytest.raises(WeightsError, match=advice) as raised:
            build(server.url, {"key": "MY_KEY"}).ground([scene(TEXT)])
        assert KEY not in str(raised.value) and "***" in str(raised.value)
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [({"base_url": ""}, "expected the address of an OpenAI-compatible server"),
     ({"base_url": f"http://me:{KEY}@127.0.0.1/v1"}, "without user, password or query"),
     ({"base_url": f"http://127.0.0.1/v1?key={KEY}"}, "without user, password or query"),
     ({"base_url": "https://example.org/v1"}, "offline is set"), ({"model": ""}, "model: expected the model's name"),
     ({"client": {"key": KEY}}, "expected the NAME of an environment variable"),
     ({"client": {"key": "NO_SUCH_VARIABLE"}}, "names a variable that the environment does not have"),
     ({"preset": "groundingme"}, "declares no frame")],
)  # fmt: skip
def test_settings_that_cannot_be_used(context, change, message):
    table = {"base_url": "http://127.0.0.1:9/v1", "model": "small"}
    with pytest.raises(SettingsError, match=message) as raised:
        api(context("api", options=table | change))
    assert KEY not in str(raised.value)


def test_the_key_is_written_nowhere(tmp_path, monkeypatch, caplog, capfd):
    """Not in the record, the answers, a log or a message, though the server quotes it in its faults."""
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    client = {"key": "MY_KEY", "concurrency": 4, "wait_s": 0.01, "attempts": 8}
    with serving(faults=[500, 400], share=0.3, most_faults=6) as server:
        run = evaluate_api(tmp_path / "results", tmp_path / "home", server.url, 4, 4, client=client)
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 4 and not [path for path in files if KEY.encode() in path.read_bytes()]
    out, err = capfd.readouterr()
    assert KEY not in out + err + caplog.text + repr(run.record) + repr(run)


def test_a_run_has_preset_notes_tokens_and_answers(tmp_path, monkeypatch):
    def reply(body):
        text = body["messages"][0]["content"][1]["text"]
        return "I see none \ud800" if "-0" in text else '{"bbox_2d": null}' if "-1" in text else box_of(body)

    with serving(reply=reply) as server:
        run = evaluate_api(tmp_path / "results", tmp_path / "home", server.url, 3, 4, client={"price_in": 1.0})
    record = read_record(run.folder)
    assert record.signature == f"{record.comparable}|prompt:qwen3@1,first"
    assert record.identity.weights["prompt"] == "qwen3@1,first" and "client" not in record.identity.options
    assert "3 answers: no box: the answer cannot be parsed" in record.notes
    assert "3 answers: no box: the answer states that there is none" in record.notes
    assert "12 answers: 1,200 tokens in, 240 tokens out, cost 0.0012" in record.notes
    rows = run.stored()
    assert [p.answer for p in rows[0].answers][:2] == ["I see none ?", '{"bbox_2d": null}']
    assert rows[0].answers[0].usage == (100, 20, 0.0001) and record.metrics.no_box == 6
    monkeypatch.setattr("bench.evaluation.rescored.load_split", lambda name, resolved: split_of(3))
    again = rescore(run.folder, load_settings(), protocol="giou").signature
    assert "|giou" in again and again.endswith("|prompt:qwen3@1,first")


def test_how_the_server_is_reached_is_no_other_run(tmp_path):
    with serving() as server:
        one = evaluate_api(tmp_path / "results", tmp_path / "home", server.url, 3, 4)
        same = evaluate_api(tmp_path / "results", tmp_path / "home", server.url, 3, 9)
        assert same.already_done and same.folder == one.folder
        other = evaluate_api(tmp_path / "results", tmp_path / "home", server.url, 3, 4, several="refuse")
        assert other.folder != one.folder and len(server.bodies) == 12


def _outcome(run):
    return run.record.metrics, run.stored()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "concurrency", "share", "kills", "faults"),
    [(12, 8, 0.1, (0.4,), ["429", 500, "half"]),
     (100, 32, 0.05, (0.25, 0.6), ["429", 500, "half", "timeout", 503])],
)  # fmt: skip
def test_killed_and_no_stored_answer_sent_again(tmp_path, images, concurrency, share, kills, faults):
    """Four expressions an image. An answer on its way at a kill may be sent again; a stored one is not."""
    with serving(faults=faults, share=share, delay=0.03) as server:
        home, results = tmp_path / "home", tmp_path / "results"
        words = [sys.executable, chat_server.__file__, results, home, server.url, images, concurrency]
        paths = os.pathsep.join([str(Path(chat_server.__file__).parent), *sys.path])
        total, stored = 4 * images, set()
        for part in kills:
            process = subprocess.Popen(list(map(str, words)), env=os.environ | {"PYTHONPATH": paths})
            until = time.monotonic() + 60
            while len(list(home.rglob("*.json"))) < part * total and time.monotonic() < until:
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
            process.wait()
            stored = {path.stem for path in home.rglob("*.json")}
            assert len(stored) >= part * total
        time.sleep(0.3)
        answered = sum(server.answered.values())
        run = evaluate_api(results, home, server.url, images, concurrency)
        assert sum(server.answered.values()) == answered + total - len(stored)
        assert sum(server.answered.values()) <= total + len(kills) * concurrency and len(server.answered) == total
    with serving() as other:
        whole = evaluate_api(tmp_path / "r", tmp_path / "h", other.url, images, concurrency)
    assert _outcome(run) == _outcome(whole) and run.record.metrics.n == total


def test_a_key_that_nobody_named_is_not_sent(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    client = ChatClient(server.url, ClientOptions(), True, "here")
    assert client.send({"messages": [{"content": [{}, {"text": "dog"}]}]}).tokens_in == 100
    assert "Authorization" not in server.headers[0]


MESSAGE = {"choices": [{"message": {"content": "x"}}]}


@pytest.mark.parametrize(
    "answer",
    [None, [], "x", 7, {}, {"choices": None}, {"choices": {}}, {"choices": [7]}, {"choices": [{"message": None}]},
     {"choices": [{"message": {"content": {"a": 1}}}]}, {"choices": [{"message": {"content": [{"text": 3}]}}]},
     MESSAGE | {"usage": {"prompt_tokens": float("inf")}}, MESSAGE | {"usage": {"prompt_tokens": "many"}}],
)  # fmt: skip
def test_what_is_no_reply_is_named(answer):
    with pytest.raises(BROKEN):
        _reply(answer)
