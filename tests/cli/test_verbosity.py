"""Options of every command: --version, completion, --verbose and --quiet."""

import json
import logging
import re
import sys
from importlib.metadata import version

import pytest
from PIL import Image

from bench.cli.main import main, set_verbosity
from bench.cli.output import log_to_stderr
from bench.evaluation.progress import is_quiet, message, progress

RUN = ("run", "-p", "centre-box", "-s", "file:own.jsonl")


@pytest.fixture(autouse=True)
def own(tmp_path):
    """Two images with an expression each, and the loggers as they were."""
    lines = [{"image": f"{name}.png", "text": "it", "box_xyxy": [1, 1, 9, 9]} for name in "ab"]
    for line in lines:
        Image.new("RGB", (20, 10)).save(tmp_path / line["image"])
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    yield
    set_verbosity(0)


def test_the_version_names_the_commit_of_a_checkout(bench):
    code, out, _ = bench("--version")
    assert code == 0 and re.fullmatch(
        rf"bench {re.escape(version('grounding-bench'))}( \(commit [0-9a-f]{{10}}\))?\n", out
    )


@pytest.mark.parametrize("words", [("-q", *RUN), (*RUN, "--quiet")])
def test_quiet_leaves_results_and_errors(bench, words):
    code, out, err = bench(*words)
    assert (code, err) == (0, "") and "centre-box" in out
    assert bench("-q", "run", "-p", "centre-bocks", "-s", "file:own.jsonl")[2].startswith("bench: ")
    assert not is_quiet() or bench(*RUN)[2]  # the next command is loud again


def test_quiet_hides_the_table_beside_json(bench):
    loud, quiet = (bench(*RUN, "--json", *more) for more in ((), ("-q",)))
    assert "centre-box" in loud[2] and not quiet[2] and quiet[1] == loud[1]


def test_verbose_logs_what_was_loaded(bench, caplog):
    assert "loaded in" not in caplog.text
    assert bench(*RUN, "-v")[0] == 0
    assert re.search(r"centre-box: loaded in \d+\.\d s, on cpu in float32", caplog.text)


def test_quiet_reaches_progress_and_messages(capsys):
    set_verbosity(-1)
    message("it goes on")
    message("it failed", error=True)
    with progress("a run", 3) as advance:
        advance(3)
    assert capsys.readouterr().err == "it failed\n"
    log_to_stderr("bench.train")
    assert not logging.getLogger("bench.train").isEnabledFor(logging.WARNING)
    set_verbosity(0)
    log_to_stderr("bench.train")
    assert logging.getLogger("bench.train").isEnabledFor(logging.INFO)


@pytest.mark.parametrize(("words", "wanted", "unwanted"), [
    ("bench le", "leaderboard", "run"),
    ("bench run --prepro", "--preprocessing", "--split"),
    ("bench data ver", "verify", "prepare"),
    ("bench leaderboard exp", "export", "submit"),
    ("bench run -p yolo", "yolo-clip", "clipvg"),
    ("bench run -p clipvg,yolo", "clipvg,yolo-clip", "clipvg,mdetr"),
    ("bench speed -p yolo-clip -s shapes-", "shapes-val", "refcoco-val"),
    ("bench predict -p mde", "mdetr", "clipvg"),
    ("bench train -p clipvg --validate refcoco-v", "refcoco-val", "refcoco-testA"),
])  # fmt: skip
def test_completion(words, wanted, unwanted, monkeypatch, capsys):
    monkeypatch.setenv("_BENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    monkeypatch.setattr(sys, "argv", ["bench"])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr().out.split()
    assert wanted in printed and unwanted not in printed
