"""What a reader must know of a pipeline's weights: the `card` table that stands beside them in bench.toml.

A card is true of the weights it was written for. When a run has others, known_weights.toml says what is known of them,
the record beside them what `bench train` trained them on, and what nobody wrote down is "unknown": a card never lies by
being left where it was.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from pydantic import Field

from bench.grounding import PipelineCard, PipelineContext, SawTestImages, Supervision
from bench.hashing import find_file
from bench.settings import Table, shipped_options, weights_named

# Of several weights the one that says most against a row counts; what nobody stated may hide annotations.
WORST_FIRST = {
    "saw_test_images": ("yes", "unknown", "no"),
    "supervision": ("full", "mixed", "unknown", "pseudo", "zero-shot", "none"),
}


class CardOptions(Table):
    """[pipelines.*.card]. `saw_test_images`: whether the training images hold a data set's val or test images;
    `supervision`: what grounding was learned from (`PipelineCard` lists the words).
    """

    trained_on: str = ""
    licence: str = ""
    saw_test_images: SawTestImages = "unknown"
    supervision: Supervision = "unknown"


class KnownWeights(CardOptions):
    """An entry of known_weights.toml: a card for every name that one of the patterns fits.

    `on` names the data sets on which the supervision is another one.
    """

    patterns: tuple[str, ...] = Field(min_length=1)
    on: Mapping[str, Supervision] = Field(default_factory=dict)


def card_in_force(card: CardOptions, weights: Mapping[str, Iterable[str]], context: PipelineContext) -> dict[str, Any]:
    """The card's fields for the weights in force, part -> names (files, tags, ids).

    As the table says while these are the weights that the project's own bench.toml names for the pipeline on this data
    set; else what the user says in a card of their own, and for what they do not say, what is known of the weights.
    """
    ours = shipped_options(context.name, context.dataset)
    in_force = {part: tuple(names) for part, names in weights.items() if tuple(names)}
    if _same([name for names in in_force.values() for name in names], [name for name, _ in weights_named(ours)]):
        return card.model_dump()
    written = CardOptions(**ours.get("card", {})).model_dump()
    own = {field: value for field, value in card.model_dump().items() if value != written[field]}
    return {**_known(in_force, context), **own}


def make_card(
    context: PipelineContext,
    card: CardOptions,
    *,
    summary: str,
    paper: str,
    weights: Mapping[str, str],
    sha256: Mapping[str, str],
    parameters: int,
    accelerated: frozenset[str] = frozenset(),
) -> PipelineCard:
    """The card of a pipeline whose parts are single weights; `sha256` maps files to their hashes."""
    facts = card_in_force(card, {part: (name,) for part, name in weights.items()}, context)
    return PipelineCard(
        name=context.name,
        summary=summary,
        paper=paper,
        weights=weights,
        sha256=sha256,
        parameters=parameters,
        accelerated=accelerated,
        **facts,
    )


def make_parts_card(
    context: PipelineContext,
    card: CardOptions,
    summary: str,
    paper: str,
    regions: Mapping[str, Any],
    encoders: Sequence[Any] = (),
    proposals: str = "",
    accelerated: frozenset[str] = frozenset(),
) -> PipelineCard:
    """Make the card of a pipeline of region finders, part -> proposer or segmenter, and the CLIPs that rank regions."""
    weights = {part: ", ".join(one.sha256) for part, one in regions.items()}
    sha256 = {part: ", ".join(one.sha256.values()) for part, one in regions.items()}
    named = {part: tuple(one.sha256) for part, one in regions.items()}
    if encoders:
        weights["clip"] = ", ".join(f"{one.options.model} {one.options.pretrained}" for one in encoders)
        sha256["clip"] = ", ".join(digest for one in encoders for digest in one.sha256.values())
        named["clip"] = tuple(one.options.pretrained for one in encoders)
    networks = [*regions.values(), *encoders]
    return PipelineCard(
        name=context.name,
        summary=summary,
        paper=paper,
        weights=weights,
        sha256=sha256,
        parameters=sum(one.parameters for one in networks),
        proposals=proposals,
        accelerated=accelerated.union(*(one.accelerated for one in networks)),
        **card_in_force(card, named, context),
    )


def _known(weights: Mapping[str, tuple[str, ...]], context: PipelineContext) -> dict[str, str]:
    """What known_weights.toml says of all of them together: the test images that any saw, the most annotation."""
    entries = {
        f"{part} {name}" if len(names) > 1 else part: _entry(name, context)
        for part, names in weights.items()
        for name in names
    }
    if not entries:
        return {"trained_on": "nothing", "licence": "", "saw_test_images": "no", "supervision": "none"}
    out = {}
    for field in ("trained_on", "licence"):
        said = {part: getattr(entry, field) for part, entry in entries.items()}
        alike = len(set(said.values())) == 1
        out[field] = (
            said.popitem()[1] if alike else "; ".join(f"{p}: {what or 'not known'}" for p, what in said.items())
        )
    for field, order in WORST_FIRST.items():
        words = {getattr(entry, field) for entry in entries.values()}
        out[field] = next(word for word in order if word in words)
    return out


def _entry(name: str, context: PipelineContext) -> CardOptions:
    """What known_weights.toml says of weights, else what the record beside them does."""
    for entry in _table():
        patterns = [form for p in entry.patterns for form in (p.lower(), f"{p.lower()}/*")]  # ID/FILE: a file of an id
        if any(fnmatch(form, pattern) for form in _forms(name) for pattern in patterns):
            return entry.model_copy(update={"supervision": entry.on.get(context.dataset, entry.supervision)})
    path = find_file(name, context)
    try:
        return _trained(json.loads(path.with_suffix(".json").read_text("utf-8")), context) if path else CardOptions()
    except (OSError, ValueError):  # no record, or none of ours
        return CardOptions()


def _trained(record: Any, context: PipelineContext) -> CardOptions:
    """What the record beside weights says that `bench train` made, with that of the weights they started from.

    Annotations of the data set's own split anywhere on the way are full supervision. Pseudo-labels are pseudo only
    where nothing on the way is unknown: weights that started from unknown ones are unknown.
    """
    data = record.get("trained_on") if isinstance(record, Mapping) else None
    if not isinstance(data, Mapping):
        return CardOptions()
    split, start = str(data.get("split") or "not known"), record.get("started_from")
    own = split.rpartition("-")[0] == context.dataset
    last: Supervision = "pseudo" if data.get("labels") else "full" if own else "unknown"
    step = f"pseudo-labels of {split}" if data.get("labels") else split
    if start is None:
        return CardOptions(trained_on=step, supervision=last)
    # At the end of the chain stand weights of others: what is known of them, or unknown.
    before = _entry(start, context) if isinstance(start, str) else _trained(start, context)
    words = (last, before.supervision)
    supervision = next(word for word in WORST_FIRST["supervision"] if word in words)
    steps = [before.trained_on or "weights not known", step]
    return CardOptions(trained_on="; ".join(dict.fromkeys(steps)), supervision=supervision)


def _forms(name: str) -> tuple[str, str]:
    """A name as it is and without its folder, in small letters."""
    return name.lower(), PurePath(name).name.lower()


def _same(in_force: list[str], written: list[str]) -> bool:
    """Whether every name in force is one of the written ones, and no written one is gone."""

    def means(name: str, said: str) -> bool:
        return any(form == other or form.startswith(f"{other}/") for form in _forms(name) for other in _forms(said))

    return all(any(means(n, w) for w in written) for n in in_force) and all(
        any(means(n, w) for n in in_force) for w in written
    )


@cache
def _table() -> tuple[KnownWeights, ...]:
    found = tomllib.loads((Path(__file__).parent / "known_weights.toml").read_text(encoding="utf-8"))
    return tuple(KnownWeights(**entry) for entry in found["weights"])
