"""A red-style deconfounder: a plug-in on the text tokens before fusion, off by default.

A re-derivation of RED (Huang et al., Deconfounded Visual Grounding, AAAI 2022), whose code was never released: sizes,
attention and schedule are ours, and none of the paper's numbers is claimed. A text's words hint where its target lies;
the unobserved confounder behind that is replaced by a dictionary of n entries g, every one as likely as the others.

    texts of the training split ─► text encoder, mean ─► auto-encoder ─► k-means of its codes ─► dictionary (n, c)
    text token r (d)            ─► r + W_o sum over g of P(g) f(r, g), P(g) = 1 / n          ─► fusion

The dictionary is not trained. A network has the plug-in as `self.deconfounder`, at first a `NoDeconfounder`, and
applies it to its text tokens, which depend on the text alone. A weights file that has one says so by its keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.errors import SettingsError
from bench.settings import Table

DICTIONARY = "deconfounder.dictionary"
STEPS, BATCH, RATE = 500, 256, 1e-3  # of the auto-encoder


class DeconfounderOptions(Table):
    """[train.*.deconfounder]: red-style, a re-derivation of RED."""

    entries: int = Field(0, ge=0, description="of the dictionary of a red-style deconfounder; 0 = off")
    code: int = Field(64, ge=1, description="numbers in an entry")


class NoDeconfounder(nn.Identity):
    """Leave text tokens as they are."""

    label, sizes = "", (0, 0)


class Deconfounder(nn.Module):
    """Add to text tokens what they attend to in a dictionary."""

    dictionary: Tensor

    def __init__(self, hidden: int, entries: int, code: int) -> None:
        super().__init__()
        self.sizes = (entries, code)
        self.register_buffer("dictionary", torch.zeros(entries, code))
        self.query, self.key = nn.Linear(hidden, code, bias=False), nn.Linear(code, code, bias=False)
        self.out = nn.Linear(code, hidden, bias=False)
        nn.init.zeros_(self.out.weight)  # a network starts as the one without

    @property
    def label(self) -> str:
        """What a card says of it."""
        return f", red-style deconfounder of {self.sizes[0]} entries (a re-derivation of RED, AAAI 2022)"

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        # f(r, g) = n a(r, g) g with the attention a over all entries: its mean under P(g) = 1 / n is their sum.
        products = self.query(tokens) @ self.key(self.dictionary).T
        attention = (products / math.sqrt(self.sizes[1])).softmax(dim=-1)
        out: Tensor = tokens + self.out(attention @ self.dictionary.to(attention.dtype))
        return out


def attach_stored(network: Any, state: Mapping[str, Tensor]) -> None:
    """Give a network of `config.hidden` channels the deconfounder that a table of weights has, before it is loaded."""
    if (table := state.get(DICTIONARY)) is not None and table.ndim == 2:
        network.deconfounder = Deconfounder(network.config.hidden, *table.shape)


def attach_new(network: Any, options: DeconfounderOptions, features: Callable[[], Tensor], seed: int) -> None:
    """Give a network in training the deconfounder that `options` name; one that its weights brought stays as it is.

    `features` (N, E) has the text encoder's mean token of each expression of the training split. Raises SettingsError
    where the weights brought another one, or the expressions are too few.
    """
    wanted = (options.entries, options.code if options.entries else 0)
    if (brought := network.deconfounder.sizes)[0]:
        if brought != wanted:
            raise SettingsError(
                f"the weights to start from have a deconfounder of {brought[0]} entries of {brought[1]} numbers, but "
                f"deconfounder.entries = {options.entries} and deconfounder.code = {options.code}; set "
                f"deconfounder.entries={brought[0]} and deconfounder.code={brought[1]}"
            )
        return
    if not options.entries:
        return
    device = next(network.parameters()).device
    # Generators of its own: whatever else is drawn is the same without a deconfounder.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Deconfounder(network.config.hidden, *wanted)
        with torch.no_grad():
            table = features().float().cpu()
        made.dictionary.copy_(dictionary(table, *wanted, seed))
    network.deconfounder = made.to(device)


def dictionary(features: Tensor, entries: int, code: int, seed: int) -> Tensor:
    """Cluster texts by an auto-encoder's codes, (N, E) -> (entries, code). Raises SettingsError for too few texts."""
    if (different := len(features.unique(dim=0))) < entries:
        raise SettingsError(
            f"deconfounder.entries = {entries}, but the training split has {different} different expressions; set "
            f"deconfounder.entries={different} or less"
        )
    from scipy.cluster.vq import kmeans2

    # 1. The auto-encoder, on features of unit variance.
    features = (features - features.mean(dim=0)) / features.std(dim=0).clamp(min=1e-6)
    width = features.shape[1]
    encoder = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, code))
    decoder = nn.Sequential(nn.Linear(code, width), nn.GELU(), nn.Linear(width, width))
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], RATE)
    for _ in range(STEPS):
        rows = features[torch.randint(len(features), (BATCH,))]
        optimiser.zero_grad()
        F.mse_loss(decoder(encoder(rows)), rows).backward()
        optimiser.step()
    # 2. k-means of its codes; entries of unit variance, so that attention starts neither flat nor sharp.
    with torch.no_grad():
        codes = encoder(features).double().numpy()
    centres, _ = kmeans2(codes, entries, minit="++", rng=np.random.default_rng(seed))
    centres = (centres - codes.mean(axis=0)) / codes.std(axis=0).clip(1e-6)
    return torch.from_numpy(centres).float()
