"""The library: names that stay, the numbers of the commands, objects of one's own, and the code of docs/library.md."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import bench
from bench import BenchError, PipelineCard, Prediction, dataframes, evaluate, load_pipeline, load_split, predict
from bench.cli.main import app
from bench.datasets.shapes import ShapesImages, make_scene
from bench.errors import DataError, ImageError, RunError, SettingsError, UnknownName, UsageError
from bench.grounding import ScoredBox
from bench.runs.record import read_record
from bench.settings import PROJECT

PAGE = (PROJECT / "docs" / "library.md").read_text(encoding="utf-8")


class Half:
    """The left half of every image; keeps the ids of its scenes."""

    card = PipelineCard(name="half", summary="the left half", supervision="none")

    def __init__(self):
        self.ids = []

    def ground(self, batch):
        self.ids += [scene.id for scene in batch]
        return [
            Prediction(query.id, (0, 0, scene.image.shape[1] / 2, scene.image.shape[0]))
            for scene in batch
            for query in scene.queries
        ]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene = make_scene(2026, "val", 3)
    Image.fromarray(ShapesImages(2026).load(scene)).save("scene.png")
    return tmp_path


def test_the_names_that_stay():
    assert bench.__all__ == [
        *("BenchError", "Evaluation", "Expression", "LoadedScene", "OpenPipeline", "Pipeline", "PipelineCard"),
        *("Prediction", "Query", "Scene", "Split", "evaluate", "load_pipeline", "load_split"),
        "predict",
    ]
    assert all(getattr(bench, name).__name__ == name for name in bench.__all__)
    assert set(bench.__all__) <= set(dir(bench))
    assert all(f"`{name}" in PAGE for name in bench.__all__)
    with pytest.raises(AttributeError, match="no attribute 'load_splits'"):
        _ = bench.load_splits


@pytest.mark.slow
def test_importing_loads_nothing_heavy():
    code = "import sys, bench; print([m for m in ('numpy', 'torch', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    code = "import sys; from bench import evaluate, load_pipeline, load_split; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.slow
def test_the_numbers_are_those_of_the_command(here):
    split = load_split("shapes-val", limit=6)
    pipeline = load_pipeline("yolo-clip", on=split, device="cpu")
    result = evaluate(pipeline, split)
    words = [
        "run",
        "-p",
        "yolo-clip",
        "-s",
        "shapes-val",
        "--limit",
        "6",
        "--device",
        "cpu",
        "--results",
        "results",
        "--json",
    ]
    row = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout.splitlines()[-1])["rows"][0]
    assert (result.accuracy, list(result.interval), result.mean_iou) == (row["acc@0.5"], row["ci95"], row["mean_iou"])
    assert len(result) == row["n"] and sum(r.hit for r in result.rows) == row["hits"] > 0
    # The library finds the command's run: the same identity, nothing grounded again, and the same rows from its files.
    stored = evaluate(pipeline, split, results="results")
    assert str(stored.folder) == row["run_dir"] and stored.rows == result.rows
    assert f"Acc@0.5 {100 * result.accuracy:.2f} %" in repr(result) and "a part of the split" in repr(result)


def test_rows(here):
    split = load_split("shapes-val", limit=2)
    result = evaluate("whole-image", split, protocol="strict")
    expressions = [e for scene in split.scenes for e in scene.expressions]
    assert [(r.id, r.text, r.truth) for r in result.rows] == [(e.id, e.text, e.box) for e in expressions]
    row, scene = result.rows[0], split.scenes[0]
    assert row.box == (0, 0, scene.width, scene.height) and row.scene == scene.id
    x1, y1, x2, y2 = row.truth
    assert row.iou == pytest.approx((x2 - x1) * (y2 - y1) / (scene.width * scene.height))
    assert (result.protocol, result.folder) == ("strict", None) and "protocol strict" in repr(result)
    assert not list(here.glob("results"))


def test_results_as_dataframes(here):
    split = load_split("shapes-val", limit=3)
    result = evaluate("whole-image", split, results="results")
    evaluate("centre-box", split, results="results")
    runs = dataframes.runs("results")
    assert list(runs["pipeline"]) == ["centre-box", "whole-image"] and set(runs["status"]) == {"complete"}
    row = runs.iloc[1]
    assert (row["acc@0.5"], row["n"], row["run"]) == (result.accuracy, len(result), str(result.folder))
    assert row["partial"] and row["fingerprint"] == split.fingerprint and row["device"] == "cpu"
    stored, own = dataframes.outcomes(row["run"]), dataframes.outcomes(result)
    assert list(stored["id"]) == list(own["id"]) == [each.id for each in result.rows]
    assert list(stored["hit"]) == [each.hit for each in result.rows] and stored["iou"].max() <= 1
    assert {"length", "kind"} <= set(stored.columns) and list(own["text"]) == [each.text for each in result.rows]
    board = dataframes.leaderboard("results")
    assert board.empty and {"pipeline", "acc@0.5", "rank_best"} <= set(
        board.columns
    )  # a part of a split is in no table
    for call in (dataframes.runs, dataframes.leaderboard, dataframes.outcomes):
        with pytest.raises(RunError, match="nowhere"):
            call("nowhere")


def test_the_rows_of_a_leaderboard():
    board = dataframes.leaderboard(PROJECT / "results", split="shapes-val")
    tables = board.groupby("signature")
    assert len(board) > 2 and set(board["split"]) == {"shapes-val"}
    assert all(list(each["acc@0.5"]) == sorted(each["acc@0.5"], reverse=True) for _, each in tables)
    assert dataframes.leaderboard(PROJECT / "results", split="nothing").empty


def test_what_is_printed_is_short(here):
    split = load_split("shapes-val")
    assert repr(split) == "<shapes-val: 2,222 expressions on 400 images>"
    assert repr(load_split("shapes-val", limit=2)).endswith("2 images, a part of it>")
    assert len(repr(split.scenes[0])) < 120 and len(str(split.scenes[:20])) < 2400
    record = read_record(evaluate("centre-box", load_split("shapes-val", limit=2), results="results").folder)
    assert re.fullmatch(r"<run of centre-box on shapes-val: complete, Acc@0\.5 [\d.]+ %, begun .*>", repr(record))
    assert str(record) == repr(record)


@pytest.mark.slow
def test_an_object_of_ones_own(here):
    mine, split = Half(), load_split("shapes-val", limit=3)
    result = evaluate(mine, split)
    assert result.pipeline == "half" and mine.ids == [scene.id for scene in split.scenes]
    first = evaluate(mine, split, results=here / "out")
    second = evaluate(mine, split, results=str(here / "out"))
    assert first.folder != second.folder and len(mine.ids) == 9  # run anew: its code may have changed
    third = evaluate(mine, split, results=here / "out", fresh=False)
    assert third.folder == second.folder and len(mine.ids) == 9 and third.rows == result.rows
    record = json.loads((first.folder / "run.json").read_text())
    assert record["name"] == "half" and record["card"]["summary"] == "the left half"
    answer = predict(mine, "scene.png", "it")
    assert answer.box == (0, 0, answer.image.shape[1] / 2, answer.image.shape[0])
    assert repr(answer).startswith("<half on 'it': [0.0, 0.0, ") and answer.score is None


def test_sets_of_boxes(here):
    split = load_split("shapes-several-val", limit=3)
    targets = {e.id: e.targets for scene in split.scenes for e in scene.expressions}

    class Perfect(Half):
        def ground(self, batch):
            queries = [query for scene in batch for query in scene.queries]
            return [
                Prediction(q.id, None, none=1.0) if not (own := targets[q.id])
                else Prediction(q.id, own[0], 0.9, others=tuple(ScoredBox(box, 0.8) for box in own[1:]))
                for q in queries
            ]  # fmt: skip

    stored = evaluate(Perfect(), split, results=here / "out")
    result = evaluate(Perfect(), split)
    assert result.rows == stored.rows and result.accuracy == 1 and result.protocol == "several"
    assert "F1 = 1 100.00 %" in repr(result) and "mean F1 100.00 %" in repr(result)
    assert all(row.boxes == row.targets and row.hit for row in result.rows)
    assert {len(row.boxes) for row in result.rows} >= {0, 1} and max(len(row.boxes) for row in result.rows) > 1
    halves = evaluate(Half(), split)
    assert halves.metrics.several.one_box and halves.metrics.several.no_target_accuracy.value == 0
    assert evaluate(Half(), split, protocol="iou").metrics.several is None


def test_own_data_and_unreadable_images(here):
    rows = [{"image": "scene.png", "text": "it", "box_xyxy": [0, 0, 50, 50]}]
    rows += [{"image": "gone.png", "text": "it", "box_xyxy": [0, 0, 50, 50], "width": 90, "height": 80}]
    (here / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = evaluate("centre-box", "mine.jsonl")
    good, bad = result.rows
    assert good.box is not None and good.error is None
    assert bad.box is None and "gone.png" in bad.error and "1 images unreadable" in repr(result)
    assert evaluate("centre-box", load_split(here / "mine.jsonl"), batch_size=1).rows == result.rows


@pytest.mark.slow
def test_expressions_about_an_image(here):
    pipeline = load_pipeline("yolo-clip", on="shapes", device="cpu")
    pixels = np.asarray(Image.open("scene.png").convert("RGB"))
    one = pipeline("scene.png", "a shape")
    assert one.box == pipeline(pixels, "a shape").box == predict(pipeline, Image.open("scene.png"), "a shape").box
    two = pipeline(pixels, ["a shape", "the left one"])
    assert [a.text for a in two] == ["a shape", "the left one"] and two[0].box == pytest.approx(one.box, abs=1e-3)
    assert pipeline(pixels, []) == []
    one.draw("drawn.png")
    assert Image.open("drawn.png").size[0] == pixels.shape[1]
    assert repr(pipeline) == "<yolo-clip for shapes on cpu in float32>" and pipeline.card.name == "yolo-clip"
    assert len(one.prediction.proposals) > 1


def test_a_path_of_weights_counts_as_on_the_command_line(here):
    (here / "mine.safetensors").write_bytes(b"no")
    with pytest.raises(BenchError, match=re.escape(str(here / "mine.safetensors"))):
        load_pipeline("mdetr", on="shapes", weights=here / "mine.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: load_split("shapes-vall"), UnknownName, "did you mean 'shapes-val'"),
    (lambda: load_split("shapes-val", limit=0), UsageError, "limit=0"),
    (lambda: load_split("gone.jsonl"), DataError, "gone.jsonl"),
    (lambda: load_pipeline("yolo-clp"), UnknownName, "did you mean 'yolo-clip'"),
    (lambda: load_pipeline("centre-box", shar=0.1), SettingsError, "did you mean 'share'"),
    (lambda: load_pipeline("centre-box", dtype="float31"), SettingsError, "run.dtype"),
    (lambda: evaluate("centre-box", "shapes-val", protocol="iuo"), UnknownName, "did you mean 'iou'"),
    (lambda: evaluate(Half(), "shapes-val", device="cpu"), UsageError, "device: such options are for"),
    (lambda: evaluate(object(), "shapes-val"), UsageError, "object is no pipeline"),
    (lambda: evaluate("centre-box", "shapes-val", batch_size=0), UsageError, "batch_size=0"),
    (lambda: predict(Half(), "gone.png", "it"), ImageError, "gone.png"),
    (lambda: predict(Half(), np.zeros((4, 4)), "it"), UsageError, "float64"),
    (lambda: predict(Half(), "scene.png", " "), UsageError, "empty"),
    (lambda: predict(Half(), "scene.png", ["a", ""]), UsageError, "empty"),
])  # fmt: skip
def test_mistakes(here, call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(PAGE.count("```python")))
def test_a_snippet_of_the_page_runs(here, number, monkeypatch, capsys):
    if number:  # the first one has its limit in the page
        whole = bench.load_split
        monkeypatch.setattr("bench.api.load_split", lambda name, limit=None, config=None: whole(name, 4, config))
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[number]
    exec(compile(code, f"docs/library.md, snippet {number + 1}", "exec"), {"__name__": "snippet"})
    printed = capsys.readouterr().out
    assert printed.strip(), "it prints nothing"
    if number == 0:
        assert printed.startswith("<centre-box on shapes-val: Acc@0.5 ")
