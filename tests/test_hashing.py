"""The hash of a weights file."""

import hashlib

import pytest

from bench.errors import WeightsError
from bench.hashing import sha256_file


def test_it_follows_the_content(tmp_path):
    path = tmp_path / "w.bin"
    for content in (b"one", b"three"):
        path.write_bytes(content)
        assert sha256_file(path) == sha256_file(path) == hashlib.sha256(content).hexdigest()
    with pytest.raises(WeightsError, match=r"absent\.bin: cannot be read"):
        sha256_file(tmp_path / "absent.bin")
