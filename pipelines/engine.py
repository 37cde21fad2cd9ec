"""Inference engine: encode each image once, each text once, and fuse pairs in batches of like length.

    images ─► encode_images (once a batch)         ─┐
    texts  ─► encode_texts  (once, cached by string) ┴─► fuse (image, text) pairs, sorted by length ─► (N, ...)

A network gives three functions and is otherwise only a network. Chunk sizes, padding, the text cache, copies to the
device and the halving of chunks where memory runs out are the engine's. Nothing here waits for the device: the one
wait of a batch is the caller's copy of the result to the host.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.errors import DeviceError
from bench.grounding import ImageArray, LoadedScene, PipelineContext
from bench.memory import in_chunks, to_host

Padding = Tensor | None
Image = TypeVar("Image")
Item = TypeVar("Item")
Result = TypeVar("Result")
Rows = tuple[Tensor, ...]  # of one image or text: its tokens (L, d), and what else each token has (L, ...)
TEXTS = 100_000  # texts in the cache
WASTE = 1.1  # a batch is cut where padding would make it larger by this factor


class Engine:
    """Run a network in chunks that fit the device, each different text once."""

    def __init__(
        self,
        context: PipelineContext,
        encode_texts: Callable[[Sequence[str]], Sequence[Rows]],
        images: int,
        texts: int,
        kept: int = 0,
    ) -> None:
        """`images` and `texts` are the largest chunks; a chunk of pairs is as large as one of texts.

        At most `kept` texts (0 = TEXTS) stay in the cache from one batch to the next.
        """
        self.device = torch.device(context.device)
        self.sizes = {"images": images, "texts": texts, "pairs": texts}
        self.copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._encode_texts, self._kept_texts = encode_texts, kept or TEXTS
        self._texts: dict[str, Rows] = {}  # least recently used first

    def chunked(self, what: str, items: Any, work: Callable[[Any], Any]) -> Iterator[Any]:
        """Apply `work` to chunks of "images", "texts" or "pairs"; anything with a length and slices will do.

        A size that was too large for the memory is halved for good. Raises MemoryError when a single item does not
        fit: the harness then tries fewer scenes.
        """

        def on_halved(tried: int, size: int) -> None:
            self.sizes[what] = size

        try:
            yield from in_chunks(items, self.sizes[what], work, on_halved)
        except DeviceError as error:
            raise MemoryError(str(error)) from None

    def encode_texts(self, texts: Iterable[str]) -> dict[str, Rows]:
        """Encode each different text, or take it from the cache."""
        wanted = dict.fromkeys(texts)
        # Texts of like length share a chunk: little of it is padding.
        new = sorted((text for text in wanted if text not in self._texts), key=lambda text: (len(text), text))
        encoded = dict(zip(new, chain.from_iterable(self.chunked("texts", new, self._encode_texts)), strict=True))
        rows = {text: encoded[text] if text in encoded else self._texts.pop(text) for text in wanted}
        self._texts |= rows
        while len(self._texts) > self._kept_texts:
            del self._texts[next(iter(self._texts))]
        return rows

    def forget_texts(self) -> None:
        """Empty the text cache."""
        self._texts.clear()

    def to_device(self, tensor: Tensor) -> Tensor:
        """Copy a tensor to the device; to a GPU without waiting for it."""
        return to_device(tensor, self.device)

    def stack(self, arrays: Sequence[NDArray[Any]]) -> Tensor:
        """Stack arrays of one shape and type on the device, (N, ...).

        A GPU is not waited for. It copies on a stream of its own, while it still computes the batch before.
        """
        kind = torch.from_numpy(arrays[0]).dtype
        host = torch.empty((len(arrays), *arrays[0].shape), dtype=kind, pin_memory=self.device.type == "cuda")
        np.stack(arrays, out=host.numpy())
        if self.copies is None:
            return host
        with torch.cuda.stream(self.copies):
            out = host.to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.copies)
        out.record_stream(computing)  # its memory belongs to the other stream, which may not give it out too early
        return out

    to_host = staticmethod(to_host)


class PairEngine(Engine, Generic[Image]):
    """Ground (image, text) pairs: images and texts encoded once, pairs fused in batches of like length."""

    def __init__(
        self,
        context: PipelineContext,
        encode_images: Callable[[Sequence[Image]], Sequence[Rows]],
        encode_texts: Callable[[Sequence[str]], Sequence[Rows]],
        fuse: Callable[[Rows, Padding], Tensor],
        *,
        images: int,
        texts: int,
        kind: Callable[[Image], Hashable] = lambda image: None,
    ) -> None:
        """As Engine; only images of one `kind` share a chunk.

        `fuse` gets the joint sequences of N pairs, text tokens before image tokens, padded at the end: rows as the
        encoders gave them, (N, L, ...) each, and (N, L) True on padding, None where there is none.
        """
        super().__init__(context, encode_texts, images, texts)
        self.clock, self._encode_images, self._fuse, self._kind = context.clock, encode_images, fuse, kind

    def ground(
        self,
        images: Sequence[Image],
        pairs: Sequence[tuple[int, str]],
        fuse: Callable[..., Tensor] | None = None,
        beside: Rows = (),
    ) -> Tensor:
        """Fuse pairs of an image's index and a text -> (N, ...), a row a pair, on the device.

        `fuse` stands in for the network's own, as a head of another kind does; it gets a pair's rows of `beside`,
        (N, ...) each on the device, too.
        """
        with self.clock.stage("image encode"):
            image_rows = self.encode_images(images)
        with self.clock.stage("text encode"):
            text_rows = self.encode_texts(text for _, text in pairs)
        with self.clock.stage("fusion"):
            return self.fuse(image_rows, text_rows, pairs, fuse, beside)

    def encode_images(self, images: Sequence[Image]) -> list[Rows]:
        """Encode images, those of one kind together, in the order given."""

        def work(some: Sequence[Image]) -> list[Rows]:
            return list(chain.from_iterable(self.chunked("images", some, self._encode_images)))

        return in_groups(images, self._kind, work)

    def fuse(
        self,
        image_rows: Sequence[Rows],
        text_rows: Mapping[str, Rows],
        pairs: Sequence[tuple[int, str]],
        fuse: Callable[..., Tensor] | None = None,
        beside: Rows = (),
    ) -> Tensor:
        """Fuse pairs of encoded images and texts -> (N, ...), a row a pair; `fuse` and `beside` as of `ground`."""
        # 1. Every row of the batch once, in one table: a pair's sequence is then two runs of the table's indices.
        items = [*text_rows.values(), *image_rows]
        table, lengths = joined(items)
        number = {text: n for n, text in enumerate(text_rows)}
        # 2. Each different pair once, the short ones first.
        distinct = {pair: n for n, pair in enumerate(dict.fromkeys(pairs))}
        both = np.array([(number[text], len(number) + index) for index, text in distinct])  # (D, 2)
        order = lengths[both].sum(axis=1).argsort(kind="stable")

        first = np.unique([distinct[pair] for pair in pairs], return_index=True)[1]

        def work(chunk: NDArray[np.int64]) -> Tensor:
            own = self.to_device(torch.from_numpy(first[chunk])) if beside else None
            taken = (part.index_select(0, own) for part in beside if own is not None)
            return (fuse or self._fuse)(*sequences(table, lengths, both[chunk], self.device), *taken)

        # 3. Fuse runs of like length.
        runs = _runs(lengths[both[order]].sum(axis=1))
        fused = [part for run in runs for part in self.chunked("pairs", order[run], work)]
        # 4. Back to the order of the pairs, the same pair twice where it was given twice.
        place = order.argsort()[[distinct[pair] for pair in pairs]]
        return torch.cat(fused).index_select(0, self.to_device(torch.from_numpy(place)))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host to a device; to a GPU without waiting for it.

    torch keeps pinned memory and gives it out again once the copies from it are over, so there is no need for buffers
    of our own.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def joined(items: Sequence[Rows]) -> tuple[Rows, NDArray[np.int64]]:
    """Join the rows of items, one after the other, in one table; return it and how many rows each item has."""
    return tuple(torch.cat(parts) for parts in zip(*items, strict=True)), np.array([len(item[0]) for item in items])


def sequences(
    table: Rows, lengths: NDArray[np.int64], both: NDArray[np.int64], device: torch.device
) -> tuple[Rows, Padding]:
    """Gather the sequences of pairs, (N, 2) numbers of a text and an image in the table of `joined`; their padding."""
    index, beyond = joint_places(lengths, both)
    flat = to_device(torch.from_numpy(index.ravel()), device)
    rows = tuple(part.index_select(0, flat).unflatten(0, index.shape) for part in table)
    return rows, to_device(torch.from_numpy(beyond), device) if beyond.any() else None


def joint_places(lengths: NDArray[np.int64], both: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """List the rows of joint sequences (N, L) in a table of items one after the other, and which are beyond the end.

    `lengths` are the items' rows; each sequence is of two items, (N, 2) numbers.
    """
    starts = (lengths.cumsum() - lengths)[both]
    first, second = lengths[both].T[..., None]  # (N, 1) each
    place = np.arange((first + second).max())
    index = np.where(place < first, starts[:, :1] + place, starts[:, 1:] + place - first)
    beyond = place >= first + second
    index[beyond] = 0  # any row will do
    return index, beyond


def prepared_images(
    batch: Sequence[LoadedScene], prepare: Callable[[ImageArray], Image], pool: Executor
) -> list[Image]:
    """Take what the decode threads prepared of each image; prepare the others in the pool."""
    if all(scene.prepared is not None for scene in batch):
        return [scene.prepared for scene in batch]
    return list(pool.map(lambda s: prepare(s.image) if s.prepared is None else s.prepared, batch))


def in_groups(
    items: Sequence[Item], kind: Callable[[Item], Hashable], work: Callable[[Sequence[Item]], Iterable[Result]]
) -> list[Result]:
    """Apply `work` to the items of each kind together -> a result for each item, in their order."""
    groups: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(kind(item), []).append(index)
    results: dict[int, Result] = {}
    for group in groups.values():
        results |= zip(group, work([items[index] for index in group]), strict=True)
    return [results[index] for index in range(len(items))]


def _runs(lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Cut ascending lengths into runs that padding makes larger by less than the factor WASTE."""
    start, total = 0, 0
    for end, length in enumerate(lengths.tolist()):
        total += length
        if length * (end + 1 - start) > WASTE * total:
            yield slice(start, end)
            start, total = end, length
    yield slice(start, len(lengths))


def prepare(
    network: nn.Module, context: PipelineContext, heads: Collection[str], parts: Sequence[Any]
) -> frozenset[str]:
    """Make a network ready for inference, in place: device, precision, acceleration; return what it took.

    The children named in `heads` stay in float32: a box in bfloat16 would be rounded to a 256th of the image. `parts`
    are the modules that are called, for torch.compile.
    """
    dtype = getattr(torch, context.dtype)
    network.requires_grad_(False).to(context.device)
    for name, child in network.named_children():
        child.to(torch.float32 if name in heads else dtype)
    for parameter in network.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)
    return context.acceleration.apply(network, parts)
