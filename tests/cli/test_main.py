"""The console script: instant help, readable mistakes, and the small verbs."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from bench.cli import main as entry
from bench.cli.main import app

VERBS = ("run", "train", "predict", "score", "export", "leaderboard", "data", "list", "doctor", "config")
HEAVY = ("torch", "numpy", "PIL", "open_clip", "ultralytics", "transformers", "torchvision", "pandas")


def bench(*arguments):
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def last_object(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['bench', '--help']\n"
        "from bench.cli.main import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    result = bench(verb, "--help")
    assert result.exit_code == 0 and len(result.stdout) > 200


def run_main(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as exit_:
        entry.main()
    return exit_.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--pipeline", "yolo-clp", "--split", "shapes-val"), "did you mean 'yolo-clip'"),
        (("run", "--pipeline", "centre-box", "--split", "shapes-vall"), "did you mean 'shapes-val'"),
        (("run", "--pipeline", "centre-box", "--split", "refcoco-val"), "bench data prepare"),
        (("run", "--pipeline", "centre-box", "--split", "file:nowhere.jsonl"), "nowhere.jsonl"),
        (("predict", "--pipeline", "centre-box", "--text", "x"), "either --image FILE or --scene"),
        (("predict", "--pipeline", "centre-box", "--text", " ", "--image", "a.png"), "--text is empty"),
        (("predict", "--pipeline", "centre-box", "--text", "x", "--image", "no.png"), "no.png: cannot be read"),
        (
            ("train", "--pipeline", "centre-box", "--split", "shapes-train"),
            "no trainable pipeline is called 'centre-box'",
        ),
        (("train", "--pipeline", "yolo-clip", "--split", "shapes-train", "--part", "clop"), "did you mean 'clip'"),
        (("config", "show", "--config", "missing.toml"), "no such settings file"),
    ],
)
def test_a_mistake_is_one_message_and_exit_2(monkeypatch, capsys, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    code, err = run_main(monkeypatch, capsys, *arguments)
    assert code == 2 and said in err and "Traceback" not in err
    assert not (tmp_path / "results").exists()


def test_a_gpu_that_is_not_there_is_said(monkeypatch, capsys, tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    monkeypatch.chdir(tmp_path)
    code, err = run_main(
        monkeypatch, capsys, "run", "--pipeline", "centre-box", "--split", "shapes-val", "--device", "cuda"
    )
    assert code == 2 and "--device cuda" in err


def test_list():
    found = last_object(bench("list", "pipelines", "--json"))["pipelines"]
    assert {"pipeline": "yolo-clip", "trainable": "yes"}.items() <= found[-1].items()
    assert found[-1]["weights"] == "yolo11x.pt, ViT-B-16 openai" and "AGPL-3.0" in found[-1]["licence"]
    assert {row["pipeline"]: row["saw test images"] for row in found}["grounding-dino"] == "no"
    splits = {row["split"]: row for row in last_object(bench("list", "splits", "--json"))["splits"]}
    assert splits["refcoco-val"]["expressions"] == 10_834 and splits["shapes-val"]["images"] == 400
    assert "yolo-clip" in bench("list").stdout


def test_list_runs(tmp_path):
    assert "no runs yet" in bench("list", "runs", "-o", str(tmp_path)).stdout
    folder = tmp_path / "runs" / "a" / "b" / "c"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{")
    assert last_object(bench("list", "runs", "-o", str(tmp_path), "--json"))["runs"][0]["status"] == "unreadable"


def test_config_shows_where_a_value_is_from(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bench.toml").write_text("[run]\nbatch_size = 3\n")
    rows = last_object(bench("config", "show", "run", "--json"))["settings"]
    assert rows["run.batch_size"] == {"value": 3, "from": str(tmp_path / "bench.toml")}
    assert rows["run.device"]["from"] == "code"
    assert "batch_size" in json.loads(bench("config", "schema").stdout)["$defs"]["RunSettings"]["properties"]
    assert "batch_size" in bench("config", "show", "run").stdout


def test_doctor():
    found = last_object(bench("doctor", "--json"))
    assert found["machine"]["cores"] >= 1
    states = {row["pipeline"]: row for row in found["pipelines"]}
    assert states["centre-box"]["shapes"] == "ready" and states["yolo-clip"]["shapes"] == "ready"
    assert "yolo11x.pt" in states["yolo-clip"]["elsewhere"]
    assert last_object(bench("doctor", "--pipeline", "yolo-clip", "--json"))["pipelines"][0]["shapes"] == "works"


def test_doctor_says_what_is_broken(monkeypatch, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text('[pipelines.yolo-clip.on.shapes.proposer]\nweights = "./gone.safetensors"\n')
    result = bench("doctor", "--pipeline", "yolo-clip", "--config", str(config), "--json")
    assert result.exit_code == 1 and "gone.safetensors" in json.loads(result.stdout)["pipelines"][0]["shapes"]
