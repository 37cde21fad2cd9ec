"""A pipeline in a process of its own: what it does to that process costs an image, and the run goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from bad_plugins import installed

from bench import registry
from bench.cli.main import main
from bench.runs.packed import stored_bytes
from bench.settings import PROJECT

LIMITS = '[run]\nimage_timeout_s = 2\nmemory_gb = 0.4\nbatch_size = 4\ndevice = "cpu"\n[evaluation]\ndraws = 200\n'


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(*words) -> exit code, the row, stderr of `bench run` on eight scenes with a pipeline that fails by --set."""
    monkeypatch.syspath_prepend(installed(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    Path("bench.toml").write_text(LIMITS)
    registry._entries.cache_clear()

    def run(*words):
        words = ["bench", "run", "-s", "shapes-val", "--limit", "8", "--json", *words]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        rows = json.loads(printed.out.splitlines()[-1])["rows"] if printed.out else [None]
        return left.value.code, rows[0], printed.err

    yield run
    registry._entries.cache_clear()


def workers(pid):
    """The processes with an isolated pipeline that a process has; another one keeps count of shared memory."""
    return [each for each in psutil.Process(pid).children() if any("spawn_main" in word for word in each.cmdline())]


def failing(how, images='["val-000002"]'):
    return ("-p", "bad-fails", "--isolate", "--set", f"how={how}", "--set", f"on_images={images}")


@pytest.mark.parametrize(("how", "why"), [
    ("exit", "its process left with exit code 0"),
    pytest.param("crash", "its process was ended by SIGSEGV", marks=pytest.mark.slow),
    pytest.param("hang", "it took longer than 2 s", marks=pytest.mark.slow),
    pytest.param("leak", "GiB of memory; 0.40 are allowed", marks=pytest.mark.slow),
    pytest.param("raise", "failed on the scenes val-000002: ValueError: odd", marks=pytest.mark.slow),
    pytest.param("full", "MemoryError: no more", marks=pytest.mark.slow),
])  # fmt: skip
def test_what_one_image_does_to_the_process_is_counted(run, how, why):
    if how != "hang":
        Path("bench.toml").write_text(LIMITS.replace("image_timeout_s = 2", "image_timeout_s = 60"))
    code, row, err = run(*failing(how))
    assert (code, row["errors"]) == (3, 1), err
    record = json.loads((Path(row["run_dir"]) / "run.json").read_text())
    ((image, text),) = record["errors"].items()
    assert image == "val-000002.png" and why in text and why in err and "val-000002" in err
    rows = [json.loads(line) for line in stored_bytes(Path(row["run_dir"]), "predictions").splitlines()]
    assert [line["scene"] for line in rows if not line["predictions"]] == ["val-000002"]
    assert all(prediction["box"] for line in rows for prediction in line["predictions"])
    assert not workers(os.getpid())


def test_a_pipeline_that_fails_on_every_image_is_at_fault_itself(run):
    code, row, err = run(*failing("raise", '["all"]'))
    assert (code, row) == (2, None) and "failed on 5 images in a row" in err and "Traceback" not in err


def test_a_pipeline_that_cannot_be_built(run):
    code, row, err = run(*failing("build"))
    assert (code, row) == (2, None)
    assert "pipeline 'bad-fails' could not be built: its process left with exit code 7" in err


def test_boxes_and_identity_are_those_without(run):
    (_, plain, _), (_, alone, _) = run("-p", "centre-box"), run("-p", "centre-box", "--isolate", "--fresh")
    folders = [Path(row["run_dir"]) for row in (plain, alone)]
    one, other = ([stored_bytes(folder, name) for name in ("predictions", "outcomes")] for folder in folders)
    assert one == other and alone["acc@0.5"] == plain["acc@0.5"] and folders[0] != folders[1]
    records = [json.loads((folder / "run.json").read_text()) for folder in folders]
    assert records[0]["identity"] == records[1]["identity"] and records[1]["settings"]["run"]["isolate"] is True


@pytest.mark.slow
def test_annotated_boxes_and_networks_too(run):
    Path("bench.toml").write_text(LIMITS.replace("0.4", "8").replace("image_timeout_s = 2", "image_timeout_s = 30"))
    for words in (("-p", "random-proposal", "--set", "proposer.kind=ground-truth"), ("-p", "clipvg")):
        (code, plain, err), (_, alone, _) = run(*words), run(*words, "--isolate", "--fresh")
        assert code == 0, err
        one, other = (stored_bytes(Path(row["run_dir"]), "predictions") for row in (plain, alone))
        assert one == other and alone["peak_memory_mb"] > 50


def test_an_option_that_it_lacks_is_named_as_without(run):
    code, _, err = run("-p", "centre-box", "--isolate", "--tokenizer", "x")
    assert code == 2 and "--tokenizer: centre-box takes none" in err


@pytest.mark.slow
def test_the_process_ends_with_a_run_that_is_killed(run, tmp_path):
    words = ["run", "-s", "shapes-val", "--limit", "8", *failing("hang")]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", "from bench.cli.main import main; main()", *words], stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{PROJECT}"}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 60
    children = []
    while not children and time.monotonic() < until:
        children = workers(process.pid)
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert children and not psutil.wait_procs(children, 30)[1]
