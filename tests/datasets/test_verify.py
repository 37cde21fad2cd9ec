"""Verifying what was prepared: counts, fingerprint, and every kind of damage to images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_refcoco import FILES, TINY, jpeg, lists, refer_files

from bench.datasets import catalog, verify
from bench.datasets.prepare import prepare
from bench.datasets.prepared import index_path, read_header
from bench.datasets.readers import ReadOptions
from bench.datasets.split import Part
from bench.errors import DataError
from bench.settings import Resolved, Settings


@pytest.fixture
def resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolved:
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    return Resolved(Settings(), folder=tmp_path)


@pytest.fixture
def tiny_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """TINY stands in the catalogue in refcoco's place, so that verify and load find it by name."""
    monkeypatch.setattr(catalog, "refcoco", TINY)


@pytest.mark.usefixtures("tiny_registered")
def test_verify_finds_every_kind_of_damage(resolved: Resolved, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for file in FILES.values():
        (folder / file).write_bytes(jpeg())
    prepare("refcoco", str(refer_files(tmp_path)), [folder], resolved, ReadOptions())
    seen: list[int] = []
    found = verify.verify("refcoco", resolved, threads=2, progress=seen.append)
    assert [(v.split, v.ok, v.images_checked) for v in found] == [
        ("refcoco-train", True, 1),
        ("refcoco-val", True, 2),
        ("refcoco-testA", True, 1),
    ]
    assert sum(seen) == 4
    assert all(v.sizes_annotated for v in found)
    (folder / FILES[1]).unlink()
    (folder / FILES[2]).write_bytes(jpeg((48, 64)))
    (folder / FILES[3]).write_bytes(jpeg()[:-200])
    (val,) = verify.verify("refcoco-val", resolved)
    assert not val.ok
    assert val.missing == (FILES[1],)
    assert len(val.other_size) == 1
    assert "48 x 64" in val.other_size[0]
    (people,) = verify.verify("refcoco-testA", resolved)
    assert (len(people.broken), people.missing) == (1, ())
    assert FILES[3] in people.broken[0]
    assert all(v.ok for v in verify.verify("refcoco", resolved, images=False))


@pytest.mark.usefixtures("tiny_registered")
def test_verify_recounts_and_recomputes(resolved: Resolved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare("refcoco", str(lists(tmp_path)), [], resolved, ReadOptions())
    path = index_path(resolved.home, "refcoco", "val")
    stored = read_header(path).fingerprint
    path.write_bytes(path.read_bytes().replace(stored.encode(), b"0" * 64))
    monkeypatch.setattr(catalog, "refcoco", replace(TINY, parts=(Part("val", 9),)))
    (val,) = verify.verify("refcoco-val", resolved, images=False)
    assert val.annotations == (
        "expressions: 9 expected, 4 counted",
        f"fingerprint: 000000000000 stored, {stored[:12]} computed; prepare it again",
    )


def test_verify_what_is_not_prepared(resolved: Resolved) -> None:
    with pytest.raises(DataError, match="bench data prepare refcoco"):
        verify.verify("refcoco", resolved)
