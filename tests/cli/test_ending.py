"""How commands end: exit codes, signals, errors of the program, output that cannot be written."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bad_plugins import installed

from bench import registry
from bench.cli.ending import EXIT_CODES
from bench.doctor import readiness
from bench.evaluation import loop
from bench.settings import PROJECT

RUN = ("run", "-p", "centre-box", "-s", "shapes-val", "--limit", "3")


def test_the_documents_have_the_table_of_exit_codes():
    page = (PROJECT / "docs" / "machine-output.md").read_text("utf-8").split("## Exit codes")[1].split("\n## ")[0]
    rows = {int(code): text for code, text in re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE)}
    assert rows == EXIT_CODES


def test_the_code_uses_no_other_exit_code():
    used = set()
    for path in (PROJECT / "bench").rglob("*.py"):
        used |= set(re.findall(r"(?:Exit\(|exit_code = |sys\.exit\()(\d+)", path.read_text("utf-8")))
    assert {"1", "2", "3"} <= used and set(map(int, used)) <= set(EXIT_CODES)


def test_an_error_of_the_program_has_a_code_and_a_file_of_its_own(bench, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(readiness, "pipeline_rows", lambda resolved: {}["nothing"])
    code, out, err = bench("list", "pipelines", "--results", "api_key=geheim123")
    assert (code, out, err.count("\n")) == (70, "", 1) and err.startswith("bench: internal error: KeyError: 'nothing'")
    (file,) = tmp_path.glob("bench-error-*.txt")
    assert str(file) in err and "Traceback" not in err
    text = file.read_text()
    assert "Traceback (most recent call last)" in text and "test_ending.py" in text and "bench list pipelines" in text
    assert "grounding-bench " in text and "geheim123" not in text
    monkeypatch.setattr("tempfile.mkstemp", lambda **_: (_ for _ in ()).throw(OSError(28, "full")))
    code, _, err = bench("list", "pipelines")
    assert code == 70 and "Traceback" in err and err.splitlines()[-1].startswith("bench: internal error")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_says_how_to_go_on_and_is_the_exit_code(bench, monkeypatch, number, code):
    real = loop.answers

    def stopped(*arguments):
        yield next(iter(real(*arguments)))
        os.kill(os.getpid(), number)

    monkeypatch.setattr(loop, "answers", stopped)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup this one
    before = signal.getsignal(signal.SIGTERM)
    left, _, err = bench(*RUN, "--device", "cpu")
    assert left == code and "stopped; the same command continues this run (results/runs/centre-box" in err
    assert "Traceback" not in err and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("function", "words", "how"), [
    ("bench.labelling.making.make_labels", ("label", "--source", "template", "-s", "shapes-val", "-o", "l.jsonl"),
     "l.jsonl is as it was, and the same command continues after the last image"),
    ("bench.labelling.scoring.score_labels", ("label", "score", "l.jsonl", "--scorer", "w", "-s", "file:x", "-o", "s"),
     "the same command continues (s)"),
    ("bench.training.jobs.train_pipeline", ("train", "-p", "clipvg", "-s", "shapes-train", "--curriculum", "single"),
     "the same command continues what is stored under weights"),
])  # fmt: skip
def test_so_does_every_long_command(bench, monkeypatch, function, words, how):
    monkeypatch.setattr(function, lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    code, _, err = bench(*words)
    assert code == 143 and how in err and "Traceback" not in err


def test_a_signal_that_is_ignored_stays_ignored(bench, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    real = loop.answers

    def hung_up(*arguments):
        os.kill(os.getpid(), signal.SIGHUP)
        yield from real(*arguments)

    monkeypatch.setattr(loop, "answers", hung_up)
    try:
        assert bench(*RUN)[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("words", [
    ("run", "-p", "centre-box", "-s", "shapes-val", "--seed", str(2**70)),
    ("run", "-p", "centre-box", "-s", "shapes-val", "--results", "r" * 300),
    ("run", "-p", "centre-box", "-s", "shapes-val", "--limit", "2", "--weights", "w" * 5000),
    ("run", "-p", "centre-box", "-s", "shapes-val", "-o", "r/" + "r" * 300 + "/x"),
    ("run", "-p", "yolo-clip", "-s", "shapes-val", "--limit", "2", "--device", "cpu", "--weights", "w" * 300),
    ("predict", "-p", "yolo-clip", "--scene", "shapes-val/val-000003", "--text", "x", "--weights", "w" * 300 + ".pt"),
    ("train", "-p", "clipvg", "-s", "shapes-train", "--device", "cpu", "-o", "o" * 300),
    ("label", "--source", "template", "-s", "shapes-val", "-o", "o" * 300 + ".jsonl"),
    ("data", "noisy-labels", "--limit", "2", "--out", "n" * 300 + ".jsonl"),
    ("predict", "-p", "centre-box", "--image", "i" * 300, "--text", "x"),
    ("predict", "-p", "centre-box", "--scene", "shapes-val/val-000003", "--text", "x", "--out", "o" * 300 + ".png"),
    ("report", "-s", "shapes-val", "--out", "o" * 300 + ".html"),
    ("config", "show", "--config", "c" * 300),
    ("run", "--study", "s" * 300),
])  # fmt: skip
def test_a_value_that_is_too_long_or_too_large_is_a_message(bench, words):
    code, _, err = bench(*words)
    assert code == 2 and err.strip() and "Traceback" not in err and "internal" not in err


@pytest.mark.parametrize("terminal", ["utf-8:strict", "ascii:strict"])
def test_names_that_are_no_utf8_and_terminals_without_letters(tmp_path, terminal):
    from PIL import Image

    place = tmp_path / os.fsdecode(b"caf\xe9")
    place.mkdir()
    Image.new("RGB", (20, 10)).save(place / "a.png")
    row = {"image": "a.png", "text": "it", "box_xyxy": [1, 1, 9, 9]}
    (place / os.fsdecode(b"\xe9.jsonl")).write_text(json.dumps(row) + "\n")
    command = [sys.executable, "-m", "bench.cli.main", "run", "-p", "centre-box", "-s"]
    words = [b"file:caf\xe9/\xe9.jsonl", "--results", b"r\xe9s"]
    environ = {**os.environ, "PYTHONIOENCODING": terminal}
    done = subprocess.run([*command, *words], cwd=tmp_path, env=environ, capture_output=True)
    assert done.returncode == 0 and b"centre-box" in done.stdout, done.stderr
    (record,) = (tmp_path / os.fsdecode(b"r\xe9s")).rglob("run.json")
    argv = json.loads(record.read_text(encoding="utf-8"))["argv"]
    assert argv[-3:] == [r"file:caf\xe9/\xe9.jsonl", "--results", r"r\xe9s"]


def test_control_characters_reach_no_terminal(bench, tmp_path, monkeypatch):
    from PIL import Image

    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    row = {"image": "a.png", "text": "it", "box_xyxy": [1, 1, 9, 9]}
    rows = [row | {"kind": kind} for kind in ("\x1b[31mred\x9b0m\x07", "blue")]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    monkeypatch.syspath_prepend(installed(tmp_path / "site"))
    registry._entries.cache_clear()
    try:
        printed = [bench("run", "-p", "centre-box", "-s", "file:own.jsonl")]
        printed.append(bench("run", "-p", "bad-escapes", "-s", "file:own.jsonl"))
        printed.append(bench("run", "-p", "bad-escapes,centre-box", "-s", "file:own.jsonl"))
        boxes = tmp_path / "p.json"
        boxes.write_text('{"0": [1, 1, 9, 9], "1": [1, 1, 9, 9]}')
        printed.append(
            bench("score", "--predictions", boxes, "-s", "file:own.jsonl", "--name", "\x1b[2Jm", "--key", "row")
        )
        printed.append(bench("list", "runs"))
        printed.append(bench("table", "-s", "file:own.jsonl", "--format", "csv"))
    finally:
        registry._entries.cache_clear()
    assert "[31mred" in printed[0][1] and "ValueError: [31mred]0;title" in printed[1][2]
    assert not [text for _, *texts in printed for text in texts if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)]


@pytest.mark.slow
def test_stdout_that_is_full_and_a_folder_that_is_gone(tmp_path):
    def run(*words, cwd=PROJECT, **how):
        command = [sys.executable, "-P", "-c", "from bench.cli.main import main; main()", *words]
        return subprocess.run(command, cwd=cwd, stderr=subprocess.PIPE, text=True, check=False, **how)

    with Path("/dev/full").open("w") as full:
        for words in (("list", "pipelines", "--json"), ("list", "pipelines"), ("data", "list")):
            done = run(*words, stdout=full)
            assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
            assert done.stderr.startswith("bench: the output cannot be written (No space left")
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os, sys; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); from bench.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-P", "-c", code, "list"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("bench: the working folder does not exist any more")
