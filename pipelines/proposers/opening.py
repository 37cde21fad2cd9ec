"""The door of the proposers: `kind` in a `proposer` table names an entry point of the group `bench.proposers`.

A fifth proposer is one file with one function

    open_mine(table: Mapping[str, Any], where: str, context: PipelineContext) -> Proposer

and one entry point, mine = "my_package.mine:open_mine"; any two-stage pipeline then takes `proposer.kind=mine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench import registry
from bench.errors import SettingsError
from bench.grounding import PipelineContext
from pipelines.proposers.proposals import Proposer


def open_proposer(table: Mapping[str, Any], where: str, context: PipelineContext) -> Proposer:
    """The proposer a table declares; `where` is how messages name the table, "bench.toml [pipelines.X.proposer]".

    Raises SettingsError, UnknownName, WeightsError, MissingPackage.
    """
    rest = dict(table)
    kind = rest.pop("kind", None)
    if not isinstance(kind, str):
        raise SettingsError(f"{where}: `kind` must name a proposer, one of {registry.names(registry.PROPOSERS)}")
    opened: Proposer = registry.proposer_factory(kind)(rest, where, context)
    return opened
