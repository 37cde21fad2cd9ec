"""Acceleration of networks: the flags, applied by every pipeline, and checked afterwards.

`--compile` has each network go through torch.compile, `--channels-last` lays images and convolutions out with their
channels together. A pipeline calls `context.acceleration.apply(network, parts)` on each of its networks once they are
built, on their device and in their precision, and puts what it returns on its card (`accelerated`). `refuse_untaken`
refuses by name each flag that was not applied, so that no record claims an acceleration that did not happen.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

WHY = {
    "compile": "compiles nothing: it hands no network of its own to torch.compile",
    "channels-last": "lays nothing out that way: it has no network with convolutions",
}


class Acceleration:
    """The flags in force."""

    def __init__(
        self, compile: bool = False, channels_last: bool = False, dtype: str = "auto", fold: bool = True
    ) -> None:
        """`dtype` is the one of the settings, perhaps "auto"; without `fold` a network may be trained and saved."""
        self.compile, self.channels_last, self.dtype, self.fold = compile, channels_last, dtype, fold

    def apply(self, network: nn.Module, parts: Iterable[Any] | None = None, dtype: bool = True) -> frozenset[str]:
        """Accelerate a network in place: its type, its attributes and its parameters' names stay.

        Returns what holds for it of "compile", "channels-last" and "dtype"; `dtype` says that it computes in the
        context's number type. `parts` are the modules that the pipeline calls, where it does not call the network
        itself: a compiled module is faster only when it is called as a module. Sizes are compiled as unknowns, for
        batches and images come in many: one compilation serves them all, but for a batch of one.
        """
        taken = {"dtype"} if dtype else set[str]()
        if self.channels_last:
            import torch

            formats = {4: torch.channels_last, 5: torch.channels_last_3d}  # kernels of images, and of films
            for parameter in network.parameters():
                if parameter.dim() in formats:
                    parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
                    taken.add("channels-last")
        if self.compile:
            for part in [network] if parts is None else parts:
                part.compile(dynamic=True)
                taken.add("compile")
        return frozenset(taken)

    def refuse_untaken(self, name: str, taken: Collection[str]) -> None:
        """Raise UsageError for a flag in force that the pipeline called `name` has not `taken`."""
        for flag, wanted in (("compile", self.compile), ("channels-last", self.channels_last)):
            if wanted and flag not in taken:
                raise UsageError(f"--{flag}: {name} {WHY[flag]}; leave the flag out for it")
        if self.dtype not in ("auto", "float32") and "dtype" not in taken:
            raise UsageError(
                f"--dtype {self.dtype}: {name} does not compute in {self.dtype} here; leave the flag out for it, or "
                "give float32"
            )


def graphs_compiled() -> int:
    """Count the graphs that torch.compile has made in this process so far."""
    if "torch._dynamo" not in sys.modules:
        return 0
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
