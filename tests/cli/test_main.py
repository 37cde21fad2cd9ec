"""The console script: instant help, light imports, readable mistakes, and the small commands."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "PIL", "pydantic", "open_clip", "ultralytics", "transformers", "torchvision", "rich.table"}
TABLES = {"torch", "transformers", "open_clip", "clipvg", "pipelines", "huggingface_hub"}


APP = "from bench.cli.main import app; app({!r}.split())"


@pytest.mark.slow
@pytest.mark.parametrize(("code", "heavy"), [
    (APP.format("--help"), HEAVY - {"rich.table"}),
    (APP.format("label --help"), HEAVY - {"rich.table", "pydantic"}),
    ("import bench.cli.main as m; [m.load_command(c) for group in m.COMMANDS.values() for c in group]", HEAVY),
    ("import bench.reporting.leaderboard, bench.leaderboard.submission", TABLES),
    (APP.format("run -p whole-image -s file:mine.jsonl --device auto"), {"torch"}),
    (APP.format("score --predictions p.json -s file:mine.jsonl"), TABLES),
    (APP.format("compare centre-box/a-b centre-box/c-d"), TABLES),
])  # fmt: skip
def test_nothing_heavy_is_imported_for_what_needs_none(tmp_path, code, heavy):
    (tmp_path / "p.json").write_text('{"a": [0, 0, 9, 9]}')
    line = {"image": "p.jpg", "text": "cat", "box_xyxy": [0, 0, 9, 9], "id": "a", "width": 20, "height": 10}
    (tmp_path / "mine.jsonl").write_text(json.dumps(line) + "\n")
    check = f"import atexit, sys; atexit.register(lambda: print('HEAVY', sorted({heavy!r} & sys.modules.keys())))"
    done = subprocess.run([sys.executable, "-c", f"{check}\n{code}"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("words", "message"), [
    (("run", "-p", "yolo-clp", "-s", "shapes-val"), "did you mean 'yolo-clip'"),
    (("run", "-p", "centre-box", "-s", "shapes-vall"), "did you mean 'shapes-val'"),
    (("run", "-p", "centre-box", "-s", "refcoco-val"), "bench data prepare"),
    (("run", "-p", "centre-box", "-s", "file:nowhere.jsonl"), "nowhere.jsonl"),
    (("train", "-p", "centre-box", "-s", "shapes-train"), "no trainable pipeline is called 'centre-box'"),
    (("train", "-p", "yolo-clip", "-s", "shapes-train", "--part", "clop"), "did you mean 'clip'"),
    (("config", "show", "--config", "missing.toml"), "no such settings file"),
    (("config", "show", "runs"), "no section is called 'runs'; did you mean 'run'"),
    (("config", "show", "pipelines.clipv"), "did you mean 'pipelines.clipvg'"),
    (("config", "show", "evalution"), "did you mean 'evaluation'"),
])  # fmt: skip
def test_a_mistake_is_one_message_and_exit_2(bench, monkeypatch, tmp_path, words, message):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    code, out, err = bench(*words)
    assert (code, out) == (2, "") and message in err and "Traceback" not in err
    assert not (tmp_path / "results").exists()


def test_list(bench, tmp_path):
    rows = json.loads(bench("list", "pipelines", "--json")[1])["pipelines"]
    assert {"pipeline": "yolo-clip", "trainable": "yes"}.items() <= rows[-1].items()
    assert rows[-1]["weights"] == "yolo11x.pt, ViT-B-16 openai" and "AGPL-3.0" in rows[-1]["licence"]
    assert {row["pipeline"]: row["saw test images"] for row in rows}["grounding-dino"] == "no"
    splits = {row["split"]: row for row in json.loads(bench("list", "splits", "--json")[1])["splits"]}
    assert splits["refcoco-val"]["expressions"] == 10_834 and splits["shapes-val"]["images"] == 400
    assert "yolo-clip" in bench("list")[1] and "no runs yet" in bench("list", "runs")[1]
    (tmp_path / "results" / "runs" / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "results" / "runs" / "a" / "b" / "c" / "run.json").write_text("{")
    assert json.loads(bench("list", "runs", "--json")[1])["runs"][0]["status"] == "unreadable"


def test_config_shows_where_a_value_is_from(bench, tmp_path):
    (tmp_path / "bench.toml").write_text("[run]\nbatch_size = 3\n")
    rows = json.loads(bench("config", "show", "run", "--json")[1])["settings"]
    assert rows["run.batch_size"] == {"value": 3, "from": str(tmp_path / "bench.toml")}
    assert rows["run.device"]["from"] == "code" and "batch_size" in bench("config", "show", "run")[1]
    assert "batch_size" in json.loads(bench("config", "schema")[1])["$defs"]["RunSettings"]["properties"]
