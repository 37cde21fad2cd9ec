"""What may be in a pickle, and that nothing else is ever executed."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.datasets.pickles import TORCH_MAGIC, as_text, load_index_list, load_plain_pickle
from bench.errors import DataError, UnsafePickle

ROWS = [
    ("a.jpg", "1.pth", [1.5, 2.0, 30.0, 40.0], "the cup", [("r1", ["cup"])]),
    ["b.jpg", "x", [1, 2, 3, 4], "dog", "x"],
]


def put(folder: Path, data: bytes, name: str = "f.p") -> Path:
    file = folder / name
    file.write_bytes(data)
    return file


def legacy(rows: object, protocol: int = 2, tail: bytes = b"") -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = (TORCH_MAGIC, 1001, system, rows)
    return b"".join(pickle.dumps(p, protocol) for p in parts) + pickle.dumps([], protocol) + tail


def zipped(rows: bytes, name: str = "list/data.pkl") -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(name, rows)
        archive.writestr("list/version", "3\n")
    return data.getvalue()


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
FEW = {"max_size": 4}
PLAIN = st.recursive(
    LEAVES,
    lambda x: st.lists(x, **FEW) | st.dictionaries(st.text(max_size=5), x, **FEW) | st.tuples(x, x),
    max_leaves=20,
)


@pytest.mark.slow
@given(value=PLAIN, protocol=st.integers(0, 5))
def test_plain_containers_come_back_whatever_the_protocol(tmp_path_factory, value, protocol):
    assert load_plain_pickle(put(tmp_path_factory.mktemp("p"), pickle.dumps(value, protocol))) == value


@pytest.mark.parametrize("protocol", range(6))
def test_sets_and_ordered_dicts_become_plain_ones(tmp_path, protocol):
    value = {"set": {1, 2}, "bytes": [b"", b"\xff\x00"], "ordered": collections.OrderedDict(a=1, b=2)}
    got = load_plain_pickle(put(tmp_path, pickle.dumps(value, protocol)))
    assert got == value and type(got["ordered"]) is dict


def test_python_2_text_comes_back_and_utf8_bytes_are_mended(tmp_path):
    # what cPickle of Python 2 writes for {'sent': 'caf\xc3\xa9', u'raw': u'\xe9t\xe9'} at protocol 2
    sent = b"U\x04sentq\x02U\x05caf\xc3\xa9q\x03"
    raw = b"X\x03\x00\x00\x00rawq\x04X\x05\x00\x00\x00\xc3\xa9t\xc3\xa9q\x05"
    data = b"\x80\x02}q\x01(" + sent + raw + b"u."
    got = load_plain_pickle(put(tmp_path, data))
    assert as_text(got["sent"]) == "café"
    assert as_text(got["raw"]) == "été"  # no UTF-8 when taken for latin-1, so it stays
    assert as_text("boy™") == "boy™"


@pytest.mark.parametrize("pack", [pickle.dumps, legacy, lambda rows: zipped(pickle.dumps(rows, 2))])
def test_index_list_in_every_packing(tmp_path, pack):
    assert load_index_list(put(tmp_path, pack(ROWS))) == [tuple(row) for row in ROWS]


@pytest.mark.parametrize("zip_format", [True, False])
def test_index_list_that_torch_itself_saved(tmp_path, zip_format):
    torch = pytest.importorskip("torch")
    rows = [*ROWS, ("c.jpg", np.array([1, 2, 3, 4], np.float32), "cat")]
    torch.save(rows, tmp_path / "l.pth", _use_new_zipfile_serialization=zip_format)
    got = load_index_list(tmp_path / "l.pth")
    assert got[:2] == [tuple(row) for row in ROWS]
    np.testing.assert_array_equal(got[2][1], rows[2][1])


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">i2", "u1", "<i8", "?"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_numeric_arrays_of_numpy_1_and_2(tmp_path, dtype, protocol, core):
    array = np.arange(12).reshape(3, 4).astype(dtype)
    rows = [("a.jpg", array, np.float32(2.5)), ("b.jpg", np.asfortranarray(array), np.int64(7))]
    data = pickle.dumps(rows, protocol)
    there = "numpy._core" if b"numpy._core" in data else "numpy.core"
    if protocol == 2:  # protocol 2 spells names out, so the other numpy's name can be put in
        data = data.replace(there.encode(), core.encode())
    got = load_index_list(put(tmp_path, data))
    np.testing.assert_array_equal(got[0][1], array)
    np.testing.assert_array_equal(got[1][1], array)
    assert (got[0][2], got[1][2]) == (2.5, 7) and [type(row[2]) for row in got] == [float, int]


class Runs:
    """Pickles as a call; unpickled in earnest it would leave a file behind."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def attacks(marker: str) -> dict[str, bytes]:
    """Pickles that create the file `marker` when they are executed."""
    touch = f"open({marker!r}, 'w').close()"
    shell = f"touch {marker}".encode()
    text = b"X" + struct.pack("<I", len(shell)) + shell
    return {
        "os.system": pickle.dumps(Runs(os.system, shell.decode())),
        "eval": pickle.dumps(Runs(eval, touch)),
        "exec, protocol 0": pickle.dumps(Runs(exec, touch), 0),
        "GLOBAL": b"\x80\x02cos\nsystem\n" + text + b"\x85R.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text + b"\x85R.",
        "STACK_GLOBAL by getattr": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93" + text + b"\x85R.",
        "INST": b"(" + text + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + text + b"o.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + text + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n" + text + b"\x85}\x92.",
        "dotted name": b"\x80\x04\x8c\x07_codecs\x8c\x0fencode.__self__\x93.",
        "BUILD on a stand-in": b"\x80\x02c_codecs\nencode\n}(X\x04\x00\x00\x00callcos\nsystem\nub.",
        "nested in a row": pickle.dumps([("a.jpg", [1, 2, {"x": Runs(os.system, shell.decode())}], "cup")]),
        "class of argparse": pickle.dumps(__import__("argparse").Namespace(a=1)),
        "copyreg": b"ccopyreg\n_reconstructor\n(c__builtin__\nobject\ng0\nNtR.",
        "extension": b"\x80\x02\x82\x01.",
        "object array": pickle.dumps([("a.jpg", np.array([Runs(os.system, shell.decode())], object), "cup")]),
        "text array": pickle.dumps([("a.jpg", np.array(["abc"]), "cup")]),
        "structured array": pickle.dumps([("a.jpg", np.zeros(1, [("x", "f4")]), "cup")]),
        "numpy's loads": b"\x80\x02cnumpy.core.multiarray\n_loads\n.",
        "other codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
        "set of a string's letters": b"\x80\x02c__builtin__\nset\nX\x03\x00\x00\x00abc\x85R.",
        "array without bytes": b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
        "array of another class": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85N\x87R.",
    }


@pytest.mark.parametrize("name", attacks(""))
def test_nothing_is_executed(tmp_path, name):
    marker = tmp_path / "executed"
    data = attacks(str(marker))[name]
    for whole in (data, legacy([])[: -len(pickle.dumps([], 2)) * 2] + data, zipped(data)):
        with pytest.raises(UnsafePickle, match=r"f\.p: this pickle asks for .* nothing in it was executed"):
            load_index_list(put(tmp_path, whole))
    if "array" not in name:
        with pytest.raises(UnsafePickle):
            load_plain_pickle(put(tmp_path, data))
    assert not marker.exists()


def test_the_attacks_would_work_on_a_plain_unpickler(tmp_path):
    marker = tmp_path / "executed"
    for name in ("os.system", "GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "nested in a row"):
        pickle.loads(attacks(str(marker))[name])
        assert marker.exists(), name
        marker.unlink()


def test_the_message_names_what_is_refused(tmp_path):
    refused = {r"(posix|nt)\.system": attacks("x")["os.system"], r"os\.system": attacks("x")["INST"]}
    refused["_reconstruct"] = pickle.dumps(np.zeros(4))  # arrays are for index lists alone
    for name, data in refused.items():
        with pytest.raises(UnsafePickle, match=f"asks for .*{name}"):
            load_plain_pickle(put(tmp_path, data))


@pytest.mark.parametrize("shape", [(5,), (1 << 40,), (1 << 31, 1 << 31), (-4,), (0,)])
def test_an_array_may_not_claim_more_than_its_bytes(tmp_path, shape):
    good = pickle.dumps([("a.jpg", np.zeros(4, "<f4"), "cup")], 2)
    assert good.count(b"K\x04\x85") == 1
    claim = pickle.dumps(shape, 2)[2:-1].split(b"q")[0]
    with pytest.raises(DataError, match="shape"):
        load_index_list(put(tmp_path, good.replace(b"K\x04\x85", claim)))


@pytest.mark.parametrize("data", [
    b"\x80\x02Nr\xff\xff\xff\x7f0.",
    b"Np2000000000\n0.",
    b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
    b"\x80\x02]c_codecs\nencode\nq\x00X\x00\x00\x01\x00" + b"a" * 65536
    + b"q\x01X\x06\x00\x00\x00latin1q\x02000" + b"h\x00h\x01h\x02\x86Ra" * 100_000 + b".",
], ids=["memo index", "memo index in text", "declared length", "one text encoded a million times"])  # fmt: skip
def test_memory_bombs_of_a_few_bytes_are_refused(tmp_path, data):
    with pytest.raises(DataError, match=r"f\.p: not a readable pickle"):
        load_plain_pickle(put(tmp_path, data))


@given(cut=st.integers(0, 10_000))
def test_a_cut_file_is_a_data_error(tmp_path_factory, cut):
    for whole in (pickle.dumps(ROWS, 2), legacy(ROWS)[: -len(pickle.dumps([], 2))], zipped(pickle.dumps(ROWS, 2))):
        file = put(tmp_path_factory.mktemp("c"), whole[: cut % len(whole)])
        with pytest.raises(DataError, match=str(file.name)):
            load_index_list(file)


@given(data=st.binary(max_size=300))
def test_any_bytes_give_rows_or_a_data_error(tmp_path_factory, data):
    for start in (b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04", b"("):
        file = put(tmp_path_factory.mktemp("b"), start + data)
        with contextlib.suppress(DataError):
            assert isinstance(load_index_list(file), list)


@given(data=st.lists(st.sampled_from(pickle.dumps(ROWS, 2) + pickle.dumps(ROWS, 0) + b"cos\nsystem\n)R"), max_size=60))
def test_any_opcodes_give_an_object_or_a_data_error(tmp_path_factory, data):
    with contextlib.suppress(DataError):
        load_plain_pickle(put(tmp_path_factory.mktemp("o"), bytes(data)))


@pytest.mark.parametrize(("data", "message"), [
    (b"", "empty"),
    (b"not a pickle at all", "not a readable pickle"),
    (pickle.dumps({"model": 1, "optimizer": 2}), "a checkpoint"),
    (pickle.dumps([1, 2]), "list of something else"),
    (zipped(b"x", "list/other"), "one data.pkl"),
    (b"\x80\x02X\x01\x00\x00\x00aQ.", "tensors"),
    (None, "cannot be read"),
])  # fmt: skip
def test_what_else_is_refused(tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        load_index_list(tmp_path / "absent.p" if data is None else put(tmp_path, data))


def test_a_saved_tensor_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    for zip_format in (True, False):
        torch.save([("a.jpg", torch.zeros(4), "cup")], tmp_path / "t.pth", _use_new_zipfile_serialization=zip_format)
        with pytest.raises(DataError, match=r"t\.pth"):
            load_index_list(tmp_path / "t.pth")


def test_torch_is_not_imported(tmp_path):
    file = put(tmp_path, zipped(pickle.dumps(ROWS, 2)))
    code = (
        "import sys, pathlib, bench.datasets.pickles as p; p.load_index_list(pathlib.Path(sys.argv[1])); "
        "assert not {'torch', 'polars', 'pycocotools'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
