"""Pickles of a few bytes that would take for ever, or all the memory: each is refused within a moment."""

from __future__ import annotations

import argparse
import re
import time
import zipfile

import hostile
import pytest
from tiny_refcoco import refer_files

from bench.datasets.pickles import load_index_list, load_plain_pickle
from bench.datasets.readers.index_lists import read_index_list
from bench.datasets.readers.refer import read_refer
from bench.datasets.torch_files import load_torch
from bench.errors import DataError, UnsafePickle, WeightsError, short
from bench.memory import peak_memory_mb, restart_peaks

CELLS = ("split", "sent_id", "ref_id", "ann_id", "image_id", "sentences", "sent")


@pytest.fixture(autouse=True)
def bounded():
    """Every test of this file takes a moment and little memory."""
    restart_peaks("cpu")
    before, start = peak_memory_mb(), time.process_time()
    yield
    assert time.process_time() - start < 5
    assert peak_memory_mb() - before < 250


@pytest.mark.parametrize("bomb", hostile.BOMBS)
def test_a_bomb_is_refused_as_refs_as_a_list_and_as_a_torch_saved_file(tmp_path, bomb):
    data = hostile.BOMBS[bomb] + b"."
    file = tmp_path / "f.p"
    for packed, load in ((data, load_plain_pickle), (data, load_index_list), (hostile.torch_zip(data), load_torch)):
        file.write_bytes(packed)
        with pytest.raises(DataError, match=r"f\.p"):
            load(file)


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_whose_repr_is_endless_is_named(tmp_path, cell):
    folder = refer_files(tmp_path) / "refcoco"
    (folder / "refs(unc).p").write_bytes(hostile.refs(cell, hostile.LISTS))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p"):
        read_refer(folder, "unc", "val")


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_that_is_a_huge_number_is_named(tmp_path, cell):
    folder = refer_files(tmp_path) / "refcoco"
    (folder / "refs(unc).p").write_bytes(hostile.refs(cell, hostile.HUGE))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p.*a number of 40,000 bits|not"):
        read_refer(folder, "unc", "val")


@pytest.mark.parametrize("cell", range(4))
@pytest.mark.parametrize("value", [hostile.LISTS, hostile.HUGE], ids=["lists", "number"])
def test_a_cell_of_a_list_is_named(tmp_path, cell, value):
    file = tmp_path / "l.pth"
    file.write_bytes(hostile.index_list(cell, value))
    if cell == 1:  # a mask file that is none is no mask file
        assert read_index_list(file, "refcoco")[0].expressions[0].ref_id is None
        return
    with pytest.raises(DataError, match=r"l\.pth: row 0"):
        read_index_list(file, "refcoco")


@pytest.mark.parametrize("value", [
    b"cnumpy\ndtype\n" + hostile.LISTS + b"\x85R",
    b"cnumpy\ndtype\n" + hostile.text("f4") + b"\x85R" + hostile.LISTS + b"b",
    b"c_codecs\nencode\n" + hostile.text("a") + hostile.LISTS + b"\x86R",
    hostile.LISTS + b")R",
], ids=["a dtype's name", "a dtype's state", "a codec", "a function"])  # fmt: skip
def test_what_is_refused_in_an_array_has_a_short_message(tmp_path, value):
    file = tmp_path / "l.pth"
    file.write_bytes(hostile.index_list(2, value))
    with pytest.raises(UnsafePickle) as refused:
        load_index_list(file)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("data", [
    hostile.broken_member(zipfile.ZIP_DEFLATED), hostile.broken_member(zipfile.ZIP_LZMA), hostile.no_name(),
], ids=["deflate", "lzma", "name"])  # fmt: skip
def test_a_broken_member_of_an_archive_is_one_message(tmp_path, data):
    file = tmp_path / "l.pth"
    file.write_bytes(data)
    for load in (load_index_list, load_torch):
        with pytest.raises(DataError, match=r"l\.pth: a broken or cut archive"):
            load(file)


def test_an_archive_that_claims_more_than_it_holds_is_refused(tmp_path):
    file = tmp_path / "l.pth"
    file.write_bytes(hostile.torch_zip(b"\x80\x02]" + b"N0" * 500_000 + b".", method=zipfile.ZIP_DEFLATED))
    for load in (load_index_list, load_torch):
        with pytest.raises(DataError, match=r"l\.pth: its members claim more bytes than the whole file has"):
            load(file)


def test_what_torch_saves_is_loaded(tmp_path):
    import torch

    state = {"model": {"w": torch.arange(6.0).reshape(2, 3)}, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    state |= {
        "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}, "groups": [{"betas": (0.9, 0.999)}]},
        "size": torch.Size([1, 2]),
        "set": {1, 2},
        "type": torch.float16,
    }
    for zipped in (True, False):
        torch.save(state, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
        loaded = load_torch(tmp_path / "c.pth", [argparse.Namespace], mapped=True)
        assert (
            loaded["args"].lr == 0.1
            and loaded["set"] == {1, 2}
            and torch.equal(loaded["model"]["w"], state["model"]["w"])
        )
        assert loaded["optimizer"] == state["optimizer"] and loaded["type"] is torch.float16


def test_a_refused_checkpoint_never_comes_with_the_advice_to_run_it(tmp_path):
    import torch

    class Trainer:
        pass

    file = tmp_path / "w.pth"
    Trainer.__module__, Trainer.__qualname__ = "bench.errors", "short"  # pickled by name
    for value in (argparse.Namespace(a=1), time.sleep, short):
        for zipped in (True, False):
            torch.save({"model": value}, file, _use_new_zipfile_serialization=zipped)
            with pytest.raises(WeightsError) as refused:
                load_torch(file, error=WeightsError)
            message = str(refused.value)
            assert "w.pth: this pickle asks for" in message and "nothing in it was executed" in message
            assert "weights_only" not in message and "Re-running" not in message


def test_a_storage_may_not_claim_more_numbers_than_the_file_has_bytes(tmp_path):
    import torch

    file = tmp_path / "w.pth"
    torch.save({"w": torch.zeros(7)}, file, _use_new_zipfile_serialization=False)
    data = file.read_bytes()
    claims = b"\x8a\x06\x00\x00\x00\x00\x00\x01"  # 2**40
    assert len(re.findall(rb"cpuq.K\x07", data, re.DOTALL)) == 1
    file.write_bytes(re.sub(rb"(cpuq.)K\x07", lambda match: match[1] + claims, data, flags=re.DOTALL))
    with pytest.raises(DataError, match="claims more numbers than the file has bytes"):
        load_torch(file)


def test_a_value_is_written_short():
    assert short(None) == "None" and short("x" * 500) == "'" + "x" * 60 + "'..."
    assert short(10**5000) == "a number of 16,610 bits" and short(object()) == "a value of type object"
    assert short([1, [2, [3]], 4, 5, 6]) == "[1, [2, [...]], 4, 5, ...]" and short({"a": (1,)}) == "{'a': (1)}"
