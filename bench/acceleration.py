"""What was asked for to make networks faster, handed to every pipeline, and whether the pipeline took it.

`--compile` has each network go through torch.compile, `--channels-last` lays pictures and convolutions out with their
channels together. A pipeline calls `context.acceleration.apply(network, parts)` on each of its networks once they are
built, on their device and in their precision; one that computes in `context.dtype` says so with `uses_dtype()`. After
building, the harness asks `refuse_untaken`: what was asked for and nobody took is refused by name, so that no record
claims an acceleration that did not happen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from bench.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

Network = TypeVar("Network", bound="nn.Module")

WHY = {
    "compile": "compiles nothing: it hands no network of its own to torch.compile",
    "channels-last": "lays nothing out that way: it has no network with convolutions",
}


class Acceleration:
    """The flags in force; `taken` holds those that a pipeline has taken so far."""

    def __init__(self, compile: bool = False, channels_last: bool = False, dtype: str = "auto") -> None:
        """`dtype` is what was asked for, "auto" where nothing was."""
        self.compile, self.channels_last, self.dtype = compile, channels_last, dtype
        self.taken: set[str] = set()

    def apply(self, network: Network, parts: Iterable[Any] | None = None) -> Network:
        """The same network, accelerated in place: its type, its attributes and its parameters' names stay.

        `parts` are the modules that the pipeline calls, where it does not call the network itself: a compiled module
        is faster only when it is called as a module. Sizes are compiled as unknowns, for batches and pictures come in
        many: one compilation serves them all, but for a batch of one.
        """
        if self.channels_last:
            import torch

            formats = {4: torch.channels_last, 5: torch.channels_last_3d}  # kernels of pictures, and of films
            for parameter in network.parameters():
                if parameter.dim() in formats:
                    parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
                    self.taken.add("channels-last")
        if self.compile:
            for part in [network] if parts is None else parts:
                part.compile(dynamic=True)
                self.taken.add("compile")
        return network

    def uses_dtype(self) -> None:
        """Said by whatever computes in the context's dtype."""
        self.taken.add("dtype")

    def refuse_untaken(self, name: str) -> None:
        """Raises UsageError for what was asked for and the pipeline called `name` did not take."""
        asked = {"compile": self.compile, "channels-last": self.channels_last}
        for flag, wanted in asked.items():
            if wanted and flag not in self.taken:
                raise UsageError(f"--{flag}: {name} {WHY[flag]}; leave the flag out for it")
        if self.dtype not in ("auto", "float32") and "dtype" not in self.taken:
            raise UsageError(
                f"--dtype {self.dtype}: {name} does not compute in {self.dtype} here; leave the flag out for it, or "
                "give float32"
            )


def graphs_compiled() -> int:
    """How many graphs torch.compile has made in this process so far."""
    if "torch._dynamo" not in sys.modules:
        return 0
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
