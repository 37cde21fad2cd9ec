"""BEiT-3's tokenizer from a user's sentencepiece file: its pieces and its character map, run by the tokenizers library.

No package for sentencepiece is needed: a `.spm` is a protocol buffer of pieces with scores, which is what a unigram
model of that library takes. Ids are XLM-RoBERTa's: <s> 0, <pad> 1, </s> 2, <unk> 3, then the pieces from the fourth on.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers
from torch import Tensor

from bench.errors import WeightsError

PIECES = 64_000  # of the whole file; a copy of 786,432 bytes that circulates has 45,233 and opens without complaint
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
START, PAD, END, UNKNOWN = range(4)
MAX_BYTES = 64 * 2**20
HOW = "beit3.spm lies in the BEiT-3 release and in the authors' folder beit3_checkpoints/ on the hub"


class SpmTokenizer:
    """Turn texts into BEiT-3's token ids; texts of more than `limit` tokens are cut."""

    def __init__(self, path: Path, limit: int, pieces: int = PIECES) -> None:
        """Raises WeightsError for a file that is no sentencepiece model, or a truncated one."""
        self.path, self.limit = path, limit
        scored, characters = read_spm(path)
        if len(scored) != pieces:
            raise WeightsError(
                f"{path}: {len(scored):,} pieces where BEiT-3 has {pieces:,}: a truncated copy, whose ids would be "
                f"wrong; take the whole file ({HOW})"
            )
        self._build(scored[3:], characters)

    @classmethod
    def of_pieces(cls, scored: Sequence[tuple[str, float]], limit: int) -> SpmTokenizer:
        """Make the tokenizer of a network of ours, whose file has the pieces with their scores."""
        self = cls.__new__(cls)
        self.path, self.limit = Path("the pieces of the weights"), limit
        self._build([(str(name), float(score)) for name, score in scored], b"")
        return self

    def _build(self, scored: Sequence[tuple[str, float]], characters: bytes) -> None:
        vocabulary = [(name, 0.0) for name in SPECIAL] + [*scored]
        self.model = tokenizers.Tokenizer(models.Unigram(vocabulary, UNKNOWN, byte_fallback=False))
        collapse = [normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip()]
        mapped = [normalizers.Precompiled(characters)] if characters else []
        self.model.normalizer = normalizers.Sequence([*mapped, *collapse])
        self.model.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
        self.encode = lru_cache(100_000)(self._encode)

    def __len__(self) -> int:
        """Return the number of token ids, `<mask>` behind the pieces included."""
        return int(self.model.get_vocab_size()) + 1

    def check_words(self, words: int, weights: Path) -> None:
        """Raise WeightsError where a network has a table of fewer words than there are ids."""
        if len(self) > words:
            raise WeightsError(f"{self.path}: {len(self):,} token ids, and {weights} has words for {words:,}")

    def _encode(self, text: str) -> list[int]:
        """Encode a text, lower-cased -> the ids of its pieces, neither framed nor cut; none for an empty text."""
        ids: list[int] = self.model.encode(text.lower(), add_special_tokens=False).ids
        return ids

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode (N,) texts -> (N, L) ids with <s> first, (N, L) True on padding; L is the longest's length."""
        rows = [torch.tensor([START, *self.encode(text)[: self.limit - 2], END]) for text in texts]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        lengths = torch.tensor([len(row) for row in rows])
        return ids, torch.arange(ids.shape[1])[None] >= lengths[:, None]

    def cut(self, text: str) -> str:
        """Return a note when a text is cut, else nothing."""
        tokens = len(self.encode(text)) + 2
        return f"text cut from {tokens} to {self.limit} tokens" if tokens > self.limit else ""


def small_pieces(texts: Sequence[str], most: int) -> list[tuple[str, float]]:
    """Make pieces of the most frequent words of texts, and of single characters for the others; `most` of them."""
    counts = Counter(word for text in texts for word in text.lower().split())
    characters = sorted({character for word in counts for character in word})[: most // 2]
    words = sorted(counts, key=lambda word: (-counts[word], word))[: most - len(characters) - 1]
    rare = -math.log(2 * max(1, counts.total()))
    common = [(f"▁{word}", math.log(counts[word] / counts.total())) for word in words]
    return [*common, ("▁", rare), *((character, 2 * rare) for character in characters)]


def read_spm(path: Path) -> tuple[list[tuple[str, float]], bytes]:
    """Read a sentencepiece model -> its pieces with their scores, and its character map. Raises WeightsError."""
    pieces: list[tuple[str, float]] = []
    characters = b""
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
        for field, value in _fields(data):
            if field == 1:  # ModelProto.pieces
                parts = dict(_fields(value))
                pieces.append((parts[1].decode("utf-8"), struct.unpack("<f", parts[2])[0]))
            elif field == 3:  # ModelProto.normalizer_spec
                characters = dict(_fields(value)).get(2, b"")
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}; {HOW}") from None
    except (KeyError, ValueError, IndexError, struct.error) as error:
        what = f"broken off after {len(pieces):,} pieces" if pieces else "not a sentencepiece model"
        raise WeightsError(f"{path}: {what} ({error}); {HOW}") from None
    if len(pieces) <= len(SPECIAL):
        raise WeightsError(f"{path}: not a sentencepiece model (no pieces); {HOW}")
    return pieces, characters


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of a message of protocol buffers, a number's bytes little-endian. Raises ValueError."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            number, at = _varint(data, at)
            yield key >> 3, number.to_bytes(8, "little")
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"field of kind {kind} at byte {at:,}")
        size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if at + size > len(data):
            raise ValueError(f"it ends within a field at byte {at:,}")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of variable length -> it, and the place behind it."""
    out = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        out |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return out & (2**64 - 1), at
    raise ValueError(f"a number without an end at byte {at:,}")
