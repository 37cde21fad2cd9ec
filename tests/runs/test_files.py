"""Whole files and appended lines: nothing half-written is taken for whole."""

import errno
import os
import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import RunError
from bench.runs import files
from bench.runs.files import Appender, cut_torn_line, make_folder, temporary_name, write_all, write_atomically


def no_space(handle, data):
    os.write(handle, data[: len(data) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(files, "write_all", no_space)
    with pytest.raises(RunError, match=r"run\.json: cannot be written \(No space left on device\); free some space"):
        write_atomically(path, b"new content")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_full_disk_while_appending_loses_only_the_torn_line(tmp_path, monkeypatch):
    path = tmp_path / "predictions.jsonl"
    with pytest.raises(RunError, match="No space left"), Appender(path) as lines:
        lines.write("first\n")
        monkeypatch.setattr(files, "write_all", no_space)
        lines.write("second line\n")
    assert path.read_bytes() == b"first\nsecond"
    monkeypatch.setattr(files, "write_all", write_all)
    with Appender(path) as lines:
        lines.write("second line\n")
    assert path.read_text() == "first\nsecond line\n"


def test_a_limit_of_the_system_is_a_run_error_too(tmp_path):
    script = (
        "import resource, sys; from pathlib import Path; from bench.runs.files import Appender\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "with Appender(Path(sys.argv[1])) as lines:\n"
        "    for _ in range(100): lines.write('x' * 99 + chr(10))\n"
    )
    path = tmp_path / "predictions.jsonl"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert "bench.errors.RunError" in done.stderr and "cannot be written (File too large)" in done.stderr
    cut_torn_line(path)
    assert path.read_text() == ("x" * 99 + "\n") * 10
    assert resource.getrlimit(resource.RLIMIT_FSIZE) != (1000, 1000)


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "runs").write_text("not a folder")
    for folder in (tmp_path / "runs", tmp_path / "runs" / "yolo-clip"):
        with pytest.raises(RunError, match=r"a folder is needed there; .* name another place"):
            make_folder(folder)


def test_a_read_only_place(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.os, "open", refused)
    with pytest.raises(RunError, match=r"Read-only file system\); make the folder writable or name another"):
        write_atomically(tmp_path / "run.json", b"new")


@given(st.binary(max_size=300), st.integers(0, 140_000))
def test_torn_line_is_cut_after_the_last_newline(tmp_path_factory, end, pad):
    path = tmp_path_factory.mktemp("torn") / "lines"
    data = b"a\n" * bool(pad % 2) + b"b" * pad + end
    path.write_bytes(data)
    cut_torn_line(path)
    assert path.read_bytes() == data[: data.rfind(b"\n") + 1]
    cut_torn_line(path.with_name("absent"))
    assert not path.with_name("absent").exists()


def test_left_over_folders_are_removed(tmp_path, killed_left):
    left = killed_left(tmp_path / "run", folder=True)
    temporary_name(tmp_path / "run", "part")
    assert not left.exists()


def test_left_overs_of_killed_processes_are_removed_and_no_others(tmp_path):
    path, dead = tmp_path / "a[1].json", subprocess.Popen(["true"])
    dead.wait()
    old = {f".a[1].json.{dead.pid}.tmp": False, f".a[1].json.{os.getppid()}.tmp": True, ".a[1].json.x.tmp": True}
    old |= {f".b.json.{dead.pid}.tmp": True, f".a[1].json.{2**70}.tmp": True}
    for name in old:
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (1, 1))
    write_atomically(path, b"whole")
    assert {name: (tmp_path / name).exists() for name in old} == old and path.read_bytes() == b"whole"
    fresh = tmp_path / f".a[1].json.{dead.pid}.tmp"  # it may be of a process of another machine
    fresh.write_text("half")
    write_atomically(path, b"again")
    assert fresh.exists()
