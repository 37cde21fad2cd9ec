"""Turn texts into token ids, and characters of a text into its tokens, for networks with a RoBERTa or a BERT.

The published MDETRs take roberta-base's byte-level tokens, text as it is given: the tokenizer knows upper case. The
TransVG family takes the WordPiece of bert-base-uncased. A model trained here has its own small tokenizer in its weights
file, as the JSON of the tokenizers library.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast, RobertaTokenizer

from bench.errors import WeightsError, first_line
from bench.grounding import PipelineContext
from bench.hashing import places_of
from pipelines import hub

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # RoBERTa's, in the order of their ids
PAD = SPECIAL.index("<pad>")
LIMIT = 512  # positions of roberta-base and bert-base
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))  # each of them makes a tokenizer
NAMING = ("config.json", "tokenizer.json", "tokenizer_config.json")
MEANT = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>"}


class Tokenizer:
    """Turn texts into token ids. Texts of more than `limit` tokens are cut; `cut` says so."""

    def __init__(self, tokenizer: Any, limit: int = LIMIT, lower: bool = False) -> None:
        """With `lower` a text is stripped and lower-cased first: a literal "[SEP]" is then no special token."""
        self.tokenizer, self.limit, self.lower = tokenizer, limit, lower
        self.pad = PAD if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self.cut = lru_cache(maxsize=100_000)(self._cut)

    @classmethod
    def from_json(cls, text: str, limit: int = LIMIT, lower: bool = False) -> Tokenizer:
        """Make one from the JSON of the tokenizers library. Raises WeightsError."""
        try:
            inner = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise WeightsError(f"not a tokenizer's JSON ({first_line(error)})") from None
        wrapped: Any = PreTrainedTokenizerFast  # an untyped class
        return cls(wrapped(tokenizer_object=inner, unk_token="<unk>", **MEANT), limit, lower)

    @classmethod
    def open(cls, name: str, context: PipelineContext, limit: int = LIMIT, lower: bool = False) -> Tokenizer:
        """Open a folder that transformers can read, or a hub id ("roberta-base"). Raises WeightsError."""
        folder = _folder(name, context)
        if folder is not None:
            return cls(_read(folder), limit, lower)
        return cls(hub.load_pretrained(AutoTokenizer, name, context, "the tokenizer", "tokenizer"), limit, lower)

    def __len__(self) -> int:
        """Return the number of different tokens, special ones included."""
        return len(self.tokenizer)

    def __call__(self, texts: Sequence[str], whole: bool = False) -> tuple[Tensor, Tensor]:
        """Encode (N,) texts -> (N, T) token ids, (N, T) True on padding; T is the longest's length, or `limit`."""
        rows = [torch.tensor(row) for row in self._encode(list(texts))["input_ids"]]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)
        lengths = torch.tensor([len(row) for row in rows])
        if whole:
            tokens = F.pad(tokens, (0, self.limit - tokens.shape[1]), value=self.pad)
        return tokens, torch.arange(tokens.shape[1])[None] >= lengths[:, None]

    def spans(self, text: str, spans: Sequence[tuple[int, int]]) -> Tensor:
        """Find the tokens of character spans (start, end) -> (T,) True on them.

        A span's tokens go from the token of its first character to that of its last. Either may lie in no token (a
        blank, or text that was cut): then one of the next two characters inwards is taken, as the official code does,
        and where that fails too, the span covers nothing.
        """
        encoded = self._encode([text])
        mask = torch.zeros(len(encoded["input_ids"][0]), dtype=torch.bool)
        for start, end in spans:
            first = _token(encoded, (start, start + 1, start + 2))
            last = _token(encoded, (end - 1, end - 2, end - 3))
            if first is not None and last is not None:
                mask[first : last + 1] = True
        return mask

    def _cut(self, text: str) -> str:
        """Return a note when `text` has more tokens than the model has positions, else nothing."""
        if len(text) < self.limit // 4 - 2:  # a character is at most four byte tokens
            return ""
        tokens = len(self.tokenizer(self._plain([text]))["input_ids"][0])
        return f"text cut from {tokens} to {self.limit} tokens" if tokens > self.limit else ""

    def _encode(self, texts: list[str]) -> Any:
        return self.tokenizer(self._plain(texts), truncation=True, max_length=self.limit)

    def _plain(self, texts: list[str]) -> list[str]:
        return [text.lower().strip() for text in texts] if self.lower else texts


def small_tokenizer(texts: Sequence[str], vocabulary_size: int) -> str:
    """Make the JSON of a lower-casing word tokenizer of the most frequent words of `texts`.

    `vocabulary_size` counts RoBERTa's four special tokens, which keep their ids.
    """
    normalizer, splitter = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    counts = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    # Counted here: the library's trainer leaves the order of equally frequent words to chance.
    words = sorted(counts, key=lambda word: (-counts[word], word))[: vocabulary_size - len(SPECIAL)]
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *words))}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.add_special_tokens(list(SPECIAL))
    ends = [(token, SPECIAL.index(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return str(tokenizer.to_str())


def _folder(name: str, context: PipelineContext) -> Path | None:
    """Find the folder that `name` means, if it has a tokenizer; config.json, as of a model, is not needed."""
    for place in places_of(name, context):
        if any(all((place / file).is_file() for file in files) for files in VOCABULARIES):
            return place.resolve()
        if place.is_dir():
            raise WeightsError(
                f"{place}: no tokenizer in this folder; it should have tokenizer.json, or vocab.json and merges.txt, "
                "or BERT's vocab.txt"
            )
    return None


def _read(folder: Path) -> Any:
    # The library needs some file that says which tokenizer it is; vocab.json and merges.txt alone are RoBERTa's.
    named = any((folder / file).is_file() for file in NAMING)
    alone = BertTokenizer if (folder / "vocab.txt").is_file() else RobertaTokenizer
    try:
        return (AutoTokenizer if named else alone).from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers and tokenizers raise many kinds
        raise WeightsError(f"{folder}: the tokenizer cannot be loaded ({first_line(error)})") from None


def _token(encoded: Any, characters: Sequence[int]) -> int | None:
    """Find the token of the first of these characters that lies in one."""
    tokens = (encoded.char_to_token(0, c) for c in characters if c >= 0)
    return next((token for token in tokens if token is not None), None)
