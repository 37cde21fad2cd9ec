"""Pipeline cards: what weights were trained on, from the `card` table that stands beside them in bench.toml.

A card is true of the weights it was written for. For other weights, known_weights.toml has what is known of them, and
the record beside them what `bench train` trained them on. Everything else is "unknown".
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path, PurePath
from typing import Any, TypeVar

from bench.grounding import PipelineCard, PipelineContext, SawTestImages, Supervision
from bench.hashing import find_file
from bench.settings import Table, parse_table, shipped_options, weights_named
from pipelines.weights import read_metadata

Options = TypeVar("Options", bound=Table)

# Of several weights the worst for a row counts; an unstated supervision may hide annotations.
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


def parse_options(model: type[Options], context: PipelineContext, table: Mapping[str, Any] | None = None) -> Options:
    """Parse a pipeline's table of bench.toml, or `table` in its place. Raises SettingsError naming it."""
    return parse_table(model, context.options if table is None else table, f"bench.toml [pipelines.{context.name}]")


def card_in_force(card: CardOptions, weights: Mapping[str, Iterable[str]], context: PipelineContext) -> dict[str, Any]:
    """Compute the card's fields for the weights in force, part -> names (files, tags, ids).

    The table's own, while these are the weights that the project's bench.toml names for the pipeline on this data set;
    else what the user's own card states, and for what it does not state, what is known of the weights.
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
    parameters: int | None,
    accelerated: frozenset[str] = frozenset(),
    proposals: str = "",
    names: Mapping[str, Iterable[str]] | None = None,
    prompt: str = "",
) -> PipelineCard:
    """Make the card of a pipeline; `sha256` maps files to their hashes.

    `names` are the weights of each part where they are several; `weights` has one text a part.
    `prompt` marks a chat model's preset, which is no weights but belongs to them.
    """
    facts = card_in_force(card, names or {part: (name,) for part, name in weights.items()}, context)
    return PipelineCard(
        name=context.name,
        summary=summary,
        paper=paper,
        weights={**weights, "prompt": prompt} if prompt else weights,
        sha256=sha256,
        parameters=parameters,
        proposals=proposals,
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
    """Make the card of a pipeline of `regions`, part -> proposer or segmenter, and the CLIPs that rank them."""
    weights = {part: ", ".join(one.sha256) for part, one in regions.items()}
    sha256 = {part: ", ".join(one.sha256.values()) for part, one in regions.items()}
    names = {part: tuple(one.sha256) for part, one in regions.items()}
    if encoders:
        weights["clip"] = ", ".join(f"{one.options.model} {one.options.pretrained}" for one in encoders)
        sha256["clip"] = ", ".join(digest for one in encoders for digest in one.sha256.values())
        names["clip"] = tuple(one.options.pretrained for one in encoders)
    networks = [*regions.values(), *encoders]
    return make_card(
        context,
        card,
        summary=summary,
        paper=paper,
        weights=weights,
        sha256=sha256,
        parameters=sum(one.parameters for one in networks),
        accelerated=accelerated.union(*(one.accelerated for one in networks)),
        proposals=proposals,
        names=names,
    )


def _known(weights: Mapping[str, tuple[str, ...]], context: PipelineContext) -> dict[str, str]:
    """Join what is known of all weights: the test images that any was trained on, the most annotation."""
    entries = {
        f"{part} {name}" if len(names) > 1 else part: _entry(name, context)
        for part, names in weights.items()
        for name in names
    }
    if not entries:
        return {"trained_on": "nothing", "licence": "", "saw_test_images": "no", "supervision": "none"}
    out = {}
    for field in ("trained_on", "licence"):
        texts = {part: getattr(entry, field) for part, entry in entries.items()}
        joined = "; ".join(f"{part}: {text or 'not known'}" for part, text in texts.items())
        out[field] = texts.popitem()[1] if len(set(texts.values())) == 1 else joined
    for field, order in WORST_FIRST.items():
        words = {getattr(entry, field) for entry in entries.values()}
        out[field] = next(word for word in order if word in words)
    return out


def _entry(name: str, context: PipelineContext) -> CardOptions:
    """Look weights up in known_weights.toml, else in the record beside them."""
    for patterns, entry, supervision_on in _table():
        if any(fnmatch(form, pattern) for form in _forms(name) for pattern in patterns):
            return entry.model_copy(update={"supervision": supervision_on.get(context.dataset, entry.supervision)})
    path = find_file(name, context)
    if path is None:
        return CardOptions()
    try:
        return _trained(json.loads(path.with_suffix(".json").read_text("utf-8")), context)
    except (OSError, ValueError):  # no record, or none of ours: the file itself may know
        return _trained(read_metadata(path), context)


def _trained(record: Any, context: PipelineContext) -> CardOptions:
    """Make a card of the record of `bench train`, and of the weights that the training started from.

    Annotations of the data set's own split anywhere in the chain are full supervision. Pseudo-labels are pseudo only
    where nothing in the chain is unknown: weights that started from unknown ones are unknown.
    """
    data = record.get("trained_on") if isinstance(record, Mapping) else None
    if not isinstance(data, Mapping):
        return CardOptions()
    split, start = str(data.get("split") or "not known"), record.get("started_from")
    own = split.rpartition("-")[0] == context.dataset
    last: Supervision = "pseudo" if data.get("labels") else "full" if own else "unknown"
    step = f"pseudo-labels of {split}" if data.get("labels") else split
    saw = _saw_test_images(record, split)
    if start is None:
        return CardOptions(trained_on=step, supervision=last, saw_test_images=saw)
    # At the end of the chain stand weights of others: what is known of them, or unknown.
    before = _entry(start, context) if isinstance(start, str) else _trained(start, context)
    words = (last, before.supervision)
    supervision = next(word for word in WORST_FIRST["supervision"] if word in words)
    steps = [before.trained_on or "weights not known", step]
    saw = next(word for word in WORST_FIRST["saw_test_images"] if word in (saw, before.saw_test_images))
    return CardOptions(trained_on="; ".join(dict.fromkeys(steps)), supervision=supervision, saw_test_images=saw)


def _saw_test_images(record: Mapping[str, Any], split: str) -> SawTestImages:
    """Return "no" where a training left out the images of every val and test part, which its record then lists."""
    notes = record.get("training")
    out = record.get("kept_out") or (notes.get("kept_out") if isinstance(notes, Mapping) else None)
    if not isinstance(out, Mapping):
        return "unknown"
    complete = bool(out.get("parts")) and not out.get("unknown")
    return "no" if complete or split.startswith("shapes-") else "unknown"


def _forms(name: str) -> tuple[str, str]:
    """Return a name as it is and without its folder, in lower case."""
    return name.lower(), PurePath(name).name.lower()


def _same(in_force: list[str], written: list[str]) -> bool:
    """Tell whether every name in force is one of the written ones, and no written one is gone."""

    def means(name: str, known: str) -> bool:
        return any(form == other or form.startswith(f"{other}/") for form in _forms(name) for other in _forms(known))

    return all(any(means(n, w) for w in written) for n in in_force) and all(
        any(means(n, w) for n in in_force) for w in written
    )


@cache
def _table() -> list[tuple[tuple[str, ...], CardOptions, dict[str, Supervision]]]:
    """Read known_weights.toml: patterns of names, their card, and data set -> supervision where it differs there."""
    table = tomllib.loads((Path(__file__).parent / "known_weights.toml").read_text(encoding="utf-8"))
    rows = []
    for entry in table["weights"]:
        patterns, supervision_on = entry.pop("patterns"), entry.pop("on", {})
        forms = tuple(form for p in patterns for form in (p.lower(), f"{p.lower()}/*"))  # ID/FILE: a file of an id
        rows.append((forms, CardOptions(**entry), supervision_on))
    return rows
