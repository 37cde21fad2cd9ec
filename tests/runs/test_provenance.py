"""The command without secrets, the checkout's state, the machine without its name."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.runs.provenance import environment, git_state, redacted, settings_hash


@pytest.mark.parametrize(("word", "published"), [
    ("--set=token=hf_abcdefghijklmnop", "--set=token=***"),
    ("hf_abcdefghijklmnop", "***"),
    ("api_key=12345", "api_key=***"),
    ("options.secret=a b", "options.secret=*** b"),
    ("https://me:pass@host.example/x", "https://me:***@host.example/x"),
    ("https://host.example/x?key=abc&size=3", "https://host.example/x?key=***&size=3"),
    ("monkey=banana", "monkey=banana"),
    ("refcoco-val", "refcoco-val"),
    ("--set=views=blur", "--set=views=blur"),
])  # fmt: skip
def test_what_looks_secret_is_hidden(word, published):
    assert redacted(["/somewhere/bin/bench", "run", word]) == ("bench", "run", published)


def test_the_word_after_a_token_flag_and_the_home_folder():
    argv = ["bench", "run", "--token", "plain-secret", "--weights", f"{Path.home()}/w.pt"]
    assert redacted(argv) == ("bench", "run", "--token", "***", "--weights", "~/w.pt")


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_dirty_is_changed_code_and_not_new_results(tmp_path):
    assert git_state(tmp_path) == {"commit": None, "dirty": None}
    git(tmp_path, "init")
    for name in ("bench/a.py", "results/LEADERBOARD.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    clean = git_state(tmp_path)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "results" / "LEADERBOARD.md").write_text("2")
    (tmp_path / "results" / "new.json").write_text("2")
    (tmp_path / "yolo11x.pt").write_text("weights that a library fetched")
    assert git_state(tmp_path) == clean
    (tmp_path / "bench" / "new.py").write_text("2")
    assert git_state(tmp_path)["dirty"] is True
    (tmp_path / "bench" / "new.py").unlink()
    (tmp_path / "bench" / "a.py").write_text("2")
    assert git_state(tmp_path)["dirty"] is True
    assert git_state(tmp_path / "bench") == {"commit": None, "dirty": None}, "somebody else's checkout around us"


def test_environment_names_packages_and_no_host():
    facts = environment("cpu", 7, False)
    assert facts["seeds"] == {"python": 7, "numpy": 7, "torch": 7}
    assert facts["packages"]["numpy"] and facts["cpu"] and "gpu" not in facts
    assert socket.gethostname() not in json.dumps(facts)


@pytest.mark.slow
def test_torch_is_not_imported_for_it():
    script = (
        "import sys; from bench.runs import provenance as p\n"
        "p.environment('cpu', 0, False); p.git_state(); p.driver_version(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_settings_hash_does_not_see_the_order():
    assert settings_hash({"a": 1, "b": {"c": 2, "d": 3}}) == settings_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2})


def test_a_folder_that_is_run_by_its_name_is_named_as_it_was_typed(monkeypatch):
    spec = SimpleNamespace(name="tools.tiny_weights.__main__")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec, raising=False)
    words = redacted(["/somewhere/tools/tiny_weights/__main__.py", "hivg", "--out", "out"])
    assert " ".join(words) == "python -m tools.tiny_weights hivg --out out"
