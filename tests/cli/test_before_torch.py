"""Mistakes are named before torch, which takes seconds to import; what takes seconds is announced."""

import json
import subprocess
import sys

import pytest

EARLY = """
import sys
class Early:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("importing torch", file=sys.stderr, flush=True)
            raise KeyboardInterrupt
sys.meta_path.insert(0, Early())
from bench.cli.main import main
"""
RUN = """
import io, json
from contextlib import redirect_stderr, redirect_stdout

results = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["bench", *words]
    err = io.StringIO()
    try:
        with redirect_stderr(err), redirect_stdout(io.StringIO()):
            main()
    except SystemExit as left:
        results.append([left.code, err.getvalue()])
print(json.dumps(results))
"""
FEW = "[data.shapes]\ntrain = 4\n"
MISTAKES = {
    "train -p clipvg -s file:own.jsonl": "--validate SPLIT",
    "train -p clipvg -s shapes-trian": "shapes-train",
    "train -p clipvg -s refcoco-train": "bench data prepare refcoco",
    "train -p clipvg -s shapes-train --validate shapes-vla": "shapes-val",
    "train -p clip-vg -s shapes-train": "clipvg",
    "train -p centre-box -s shapes-train": "no trainable pipeline is called 'centre-box'",
    "train -p clipvg -s shapes-train --labels gone.jsonl": "gone.jsonl",
    "train -p clipvg -s shapes-train --curriculum single": "--labels",
    "train -p clipvg -s shapes-train --set epochs": "epochs",
    "run -p yolo-clop -s shapes-val": "yolo-clip",
    "run -p yolo-clip -s shapes-vla": "shapes-val",
    "run -p yolo-clip -s refcoco-val": "bench data prepare refcoco",
    "run -p clipvg -s file:gone.jsonl": "gone.jsonl",
    "run -p clipvg -s shapes-val --device gpu": "no device is called 'gpu'",
    "run -p clipvg -s shapes-val --weights a/gone.pth --limit 1": "gone.pth",
    "predict -p clipvg -i gone.png -t it": "gone.png",
    "predict -p clipvg --scene shapes-val/val-000000": "--text",
    "speed -p yolo-clip -s shapes-vla": "shapes-val",
    "label --source templat -s shapes-train -o t.jsonl": "template",
    "label --source template -s shapes-trian -o t.jsonl": "shapes-train",
    "label score gone.jsonl --scorer a.pth -s shapes-train": "a.pth",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Every mistake in one process that is interrupted where it imports torch: words -> exit code and stderr."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "bench.toml").write_text(FEW)
    (folder / "own.jsonl").write_text('{"image": "a.png", "text": "it", "box_xyxy": [0, 0, 1, 1]}\n')
    words = json.dumps([line.split() for line in MISTAKES])
    env = {"PATH": "", "BENCH_HOME": str(folder), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", EARLY + RUN, words], capture_output=True, text=True, cwd=folder, env=env
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(MISTAKES, json.loads(done.stdout), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("line", "message"), MISTAKES.items())
def test_a_mistake_is_named_before_torch_is_imported(line, message, results):
    code, err = results[line]
    assert code == 2 and message in err and "Traceback" not in err and "torch" not in err, err


@pytest.mark.slow
def test_loading_is_announced_before_torch_is_imported(tmp_path):
    """Whatever is printed once torch is being imported comes after the line that says so."""
    (tmp_path / "bench.toml").write_text(FEW)
    for words, line in (
        (("run", "-p", "clipvg", "-s", "shapes-val", "--limit", "1", "--device", "cpu"), "loading clipvg ..."),
        (("train", "-p", "clipvg", "-s", "shapes-train", "--device", "cpu"), "loading clipvg to train on shapes-train"),
        (
            ("predict", "-p", "clipvg", "--scene", "shapes-val/val-000000", "-t", "it", "--device", "cpu"),
            "loading clipvg ...",
        ),
        (("speed", "-p", "clipvg", "-s", "shapes-val", "--device", "cpu"), "loading clipvg ..."),
        (("label", "--source", "template", "-s", "shapes-train", "-o", "t.jsonl"), "loading template ..."),
    ):
        done = subprocess.run(
            [sys.executable, "-c", EARLY + "main()", *words], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 130, done.stderr
        before, torch, _ = done.stderr.partition("importing torch")
        assert line in before and torch, done.stderr
