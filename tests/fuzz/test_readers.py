"""Whatever a user's file holds, a reader returns or names the file: no traceback, no hang, no memory out of proportion.

pytest tests/fuzz                            a few examples of each reader, in every fast run
BENCH_FUZZ=1200 pytest tests/fuzz -m slow    the long profile: that many seconds over all readers
"""

from __future__ import annotations

import os
import time
import warnings

import hypothesis
import pytest
from fuzz_seeds import BOX, READERS, Reader
from hostile import BOMBS, LISTS, broken_member, no_name, saved, torch_zip, wide_tensor
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.inputs import Limits, enforce
from bench.memory import MB, peak_memory_mb, restart_peaks

SECONDS = float(os.environ.get("BENCH_FUZZ", 0))
HANG = 5  # seconds of this process's time
TOKENS = [
    b"", b"\x00", b"\xff", b"\n", b"null", b"[]", b"{}", b"NaN", b"-1", b"1e999", b"1" * 400, b"9" * 5000, b"[" * 3000,
    b'{"a":' * 3000, b'"\\ud800"', b'"' + b"a" * 300 + b'"', b"../", b"\\", b"true", b"\x80\x02", b"}q\x00", b"R", b"b",
    b"s", b"u.", b"(", b"t", b"\x85", b"\x86", b"h\x00", b"q\x00", b"\x94", b"N", b"K\x01", b"]", b"cos\nsystem\n",
    b"PK\x03\x04", b"=", b"<!ENTITY a 'b'>", b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f", "é\u202e".encode(),
]  # fmt: skip
CHANGE = st.tuples(
    st.sampled_from(["flip", "cut", "drop", "insert", "replace", "repeat"]),
    st.integers(0, 1 << 20),
    st.integers(1, 64),
    st.sampled_from(TOKENS) | st.binary(max_size=6),
)
CHANGES = st.lists(CHANGE, min_size=1, max_size=5)

# What failed before, by reader: files that hang, fill the memory or end in a traceback of a careless one.
ROW = ["a.jpg", "x", BOX, "dog"]
TIFF = READERS["TIFF"].seed
CORPUS: dict[str, list[bytes]] = {
    "refs": [bomb + b"." for bomb in BOMBS.values()] + [b"\x80\x02](" + LISTS + b"e."]
    + [b"i" + b"a" * 9000 + b"\nb\n."],
    "index list": [bomb + b"." for bomb in BOMBS.values()],
    "index list, zip": [broken_member(8), broken_member(14), no_name(), *(torch_zip(b + b".") for b in BOMBS.values())],
    "iou result": [saved([[*ROW, wide_tensor(), BOX, 0.5]]), saved([[*ROW, BOX, BOX, 10**400]])],
    "Pseudo-Q": [torch_zip(bomb + b".") for bomb in BOMBS.values()],
    "checkpoint": [torch_zip(bomb + b".") for bomb in BOMBS.values()] + [saved({"w": time.sleep})],
    "own data": [b'{"image": "' + b"a" * 300 + b'.jpg", "text": "x", "box_xyxy": [1, 2, 3, 4]}\n',
                 b'{"image": "a.jpg", "text": "x", "box_xyxy": [0, 0, 1e300, 1e300]}\n', b"[" * 100_000],
    "boxes": [b'{"0": {"box": [1, 2, 3, 4], "score": 1' + b"0" * 400 + b"}}", b"[" * 100_000],
    "proposals": [b'{"annotations": [], "categories": 3}',
                  b'[{"image_id": 1, "bbox": [1, 2, 3, 4], "category_id": []}]'],
    "bench.toml": [b"pipelines.yolo-clip.on = 1", b"pipelines.yolo-clip.on.shapes = 1", b"a = " + b"[" * 50_000],
    "--set": [b"a=1\na.b=2", b"a=" + b"[" * 5000],
    "predictions": [b'{"scene": "1", "predictions": [], "size": [Infinity, 1]}\n', b"[" * 100_000 + b"\n"],
    "TIFF": [TIFF[:32] + b"\x17" + TIFF[33:]],  # a million rows more than its one strip has
}  # fmt: skip


def changed(data: bytes, changes: list[tuple[str, int, int, bytes]]) -> bytes:
    for kind, at, length, token in changes:
        at %= len(data) + 1
        match kind:
            case "flip":
                data = data[:at] + bytes(b ^ (length | 1) for b in data[at : at + 1]) + data[at + 1 :]
            case "cut":
                data = data[:at]
            case "drop":
                data = data[:at] + data[at + length :]
            case "insert":
                data = data[:at] + token + data[at:]
            case "replace":
                data = data[:at] + token + data[at + length :]
            case "repeat":
                data = data[:at] + data[at : at + length] * min(length * length, 4096) + data[at + length :]
    return data


def check(reader: Reader, folder, data: bytes) -> None:
    """Read a file: a value or one of the project's errors, in 5 s and 200 MiB + 20 times the file."""
    for name, content in {**reader.beside, reader.name: data}.items():
        (folder / name).write_bytes(content)
    restart_peaks("cpu")
    memory, start = peak_memory_mb(), time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(folder / reader.name)
    except BenchError as error:
        assert len(str(error)) < 3000
    seconds, grown = time.process_time() - start, peak_memory_mb() - memory
    assert seconds < HANG and grown < 200 + 20 * len(data) / MB, (seconds, grown, len(data))


@pytest.fixture(autouse=True)
def usual():
    yield
    enforce(Limits())


@pytest.mark.parametrize("name", READERS)
def test_a_whole_file_is_read(tmp_path, name):
    reader = READERS[name]
    for other, content in {**reader.beside, reader.name: reader.seed}.items():
        (tmp_path / other).write_bytes(content)
    if name == "index":  # its hash is none
        with pytest.raises(BenchError):
            reader.read(tmp_path / reader.name)
    else:
        assert reader.read(tmp_path / reader.name) is not None


@pytest.mark.parametrize("name", CORPUS)
def test_what_failed_before_is_named(tmp_path, name):
    for data in CORPUS[name]:
        check(READERS[name], tmp_path, data)


def fuzz(name: str, folder, examples: int, seed: int) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=examples, deadline=None, database=None)
    @hypothesis.given(changes=CHANGES)
    def run(changes):
        check(READERS[name], folder, changed(READERS[name].seed, changes))

    run()


@pytest.mark.parametrize("name", READERS)
def test_a_changed_file_is_read_or_named(tmp_path, name):
    fuzz(name, tmp_path, 12, seed=2026)


@pytest.mark.slow
@pytest.mark.skipif(not SECONDS, reason="BENCH_FUZZ gives the seconds of the long profile")
@pytest.mark.parametrize("name", READERS)
def test_a_file_changed_for_long_is_read_or_named(tmp_path, name):
    end, seed = time.monotonic() + SECONDS / len(READERS), int(time.time())
    while time.monotonic() < end:
        fuzz(name, tmp_path, 100, seed)
        seed += 1
