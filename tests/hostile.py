"""Files that hang, fill the memory or crash a careless reader, by name: each a few hundred bytes of a stranger's."""

from __future__ import annotations

import io
import struct
import zipfile

import torch


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


# t = (t, t), forty times: its hash takes 2**40 steps. The list of the same depth has a repr of 2**40 numbers.
PAIRS = b"K\x01" + b"\x85q\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(40))
LISTS = b"]q\x00K\x01a" + b"".join(b"0](h\x00h\x00eq\x00" for _ in range(40))
LONG = b"(" + b"K\x01" * 20_000 + b"tq\x01"  # a key of 20,000 numbers, fetched again and again
HUGE = b"\x8b" + struct.pack("<i", 5000) + b"\x7f" * 5000  # a number of 40,000 bits

# A pickle without its STOP -> an object whose making takes time or memory out of proportion.
BOMBS = {
    "a dict's key": b"\x80\x02}" + PAIRS + b"K\x01s",
    "keys of a dict": b"\x80\x02}(" + PAIRS + b"K\x01u",
    "a dict of protocol 0": b"(" + PAIRS + b"K\x01d",
    "a set's members": b"\x80\x04\x8f(" + PAIRS + b"\x90",
    "a frozenset": b"\x80\x04(" + PAIRS + b"\x91",
    "set(...)": b"\x80\x02c__builtin__\nset\n](" + PAIRS + b"e\x85R",
    "OrderedDict(...)": b"\x80\x02ccollections\nOrderedDict\n](" + PAIRS + b"K\x01\x86e\x85R",
    "a long key": b"\x80\x02}(" + LONG + b"K\x01" + b"h\x01K\x01" * 5000 + b"u",
    "a huge number as a key": b"\x80\x02}" + HUGE + b"K\x01s",
    "one text again and again": b"\x80\x02](" + text("a" * 100_000) + b"q\x01" + b"h\x01" * 200_000 + b"e",
    "one row again and again": b"\x80\x02](](" + text("a.jpg") + b"eq\x01" + b"h\x01" * 10_000 + b"e",
    "nothing but lists": b"\x80\x02(" + b"]" * 60_000 + b"l",
    "nothing but memos": b"\x80\x04(N" + b"\x94" * 40_000 + b"l",
}


def refs(cell: str, value: bytes) -> bytes:
    """A refs(unc).p with one ref, one of whose cells is `value`, the opcodes of an object."""
    sentence = {"sent_id": b"K\x01", "sent": text("left dog"), "raw": text("left dog")}
    ref = {"ref_id": b"K\x01", "ann_id": b"K\x0b", "image_id": b"K\x01", "split": text("val")}
    if cell in sentence:
        sentence[cell] = value
    sentences = b"](}(" + b"".join(text(key) + sentence[key] for key in sentence) + b"ue"
    ref = {**ref, "sentences": sentences, **({cell: value} if cell not in sentence else {})}
    return b"\x80\x02](}(" + b"".join(text(key) + ref[key] for key in ref) + b"ue."


def index_list(cell: int, value: bytes) -> bytes:
    """An index list of one row, one of whose five cells is `value`."""
    cells = [text("a.jpg"), text("1.pth"), b"](K\x01K\x02K\x09K\x09e", text("the cup"), b"]"]
    cells[cell] = value
    return b"\x80\x02](](" + b"".join(cells) + b"ee."


def torch_zip(pickled: bytes, name: str = "list/data.pkl", method: int = zipfile.ZIP_STORED) -> bytes:
    """A torch-saved archive around a pickle."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        archive.writestr(name, pickled)
        archive.writestr("list/version", "3\n")
        archive.writestr("list/byteorder", "little")
    return data.getvalue()


def broken_member(method: int) -> bytes:
    """A torch-saved archive whose compressed data.pkl is no stream of its method."""
    data = torch_zip(b"\x80\x02].", method=method)
    start = data.index(b"data.pkl") + len("data.pkl")
    return data[:start] + b"\xff" * 8 + data[start + 8 :]


def no_name() -> bytes:
    """A torch-saved archive with a member whose name is said to be UTF-8 and is not."""
    return torch_zip(b"\x80\x02].", name="list/é/data.pkl").replace("é".encode(), b"\xff\xfe")


def saved(value: object) -> bytes:
    data = io.BytesIO()
    torch.save(value, data)
    return data.getvalue()


def wide_tensor() -> torch.Tensor:
    """One number that claims to be ten billion."""
    return torch.zeros(1).expand(100_000, 100_000)
