"""The record a run begins with: what it is (identity), what it was asked with, and where it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.datasets.split import Split
from bench.evaluation.protocols import protocol
from bench.grounding import PipelineCard, PipelineContext
from bench.hashing import find_file, sha256_file
from bench.runs import provenance
from bench.runs.record import DataIdentity, Identity, RunRecord, signature
from bench.settings import Settings, weights_named

HASHED = ("pipeline", "options", "device", "dtype", "seed", "deterministic")

MOST_HEADER = 10 << 20  # bytes of metadata


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def blank_record(
    context: PipelineContext, card: PipelineCard, split: Split, settings: Settings, protocol_name: str
) -> RunRecord:
    """The record of a run that has not asked anything yet. Raises UnknownName for the protocol."""
    rule = protocol(protocol_name)
    identity = identity_of(context, split, settings.run.deterministic, card)
    return RunRecord(
        status="running",
        provenance="run",
        name=context.name,
        protocol=rule.name,
        signature=signature(rule.name, identity.data, rule.hits_at, card.proposals),
        proposals=card.proposals,
        identity=identity,
        settings={
            "run": settings.run.model_dump(mode="json"),
            "evaluation": settings.evaluation.model_dump(mode="json"),
        },
        settings_hash=hash_of(identity),
        argv=provenance.redacted(),
        started=now(),
        finished=None,
        git=provenance.git_state(),
        environment=provenance.environment(context.device, context.seed, settings.run.deterministic),
        card=plain_card(card),
        sessions=0,
        notes=(),
        errors={},
        metrics=None,
        throughput=None,
    )


def identity_of(
    context: PipelineContext, split: Split, deterministic: bool, card: PipelineCard | None = None
) -> Identity:
    """What must stay the same in a continued run; without a card, weights are left open. Raises WeightsError."""
    options = _plain(context.options)
    options.get("card", {}).pop("supervision", None)  # a word for readers, which the record's card holds
    return Identity(
        pipeline=context.name,
        options=options,
        weights=_weights(card) if card else {},
        data=data_identity(split),
        device=context.device.partition(":")[0],  # which of several equal GPUs it was says nothing
        dtype=context.dtype,
        seed=context.seed,
        deterministic=deterministic,
        compile=context.acceleration.compile,
        channels_last=context.acceleration.channels_last,
    )


def same_weights(stored: Mapping[str, str], context: PipelineContext) -> bool:
    """Whether the weights that the options name are those of a stored identity, told without opening a pipeline.

    False also where that cannot be told: a name that is no file stands in the identity with the hash of what it means.
    """
    told = {item for value in stored.values() for item in value.split(", ") if item}
    names = {name for name, _ in weights_named(context.options)}
    files = {name: path for name in names - told if (path := find_file(name, context))}
    hashes = {name: sha256_file(path, context.home) for name, path in files.items()}
    if names - told - files.keys():
        return False
    left = told - names - set(hashes.values())
    # Weights of ours say in their metadata which other weights they belong to, and are opened with no others.
    pinned = [each for each in left if any(each.encode() in _header(path) for path in files.values())]
    unknown = [name for name, digest in hashes.items() if digest not in told]
    return len(pinned) == len(left) and len(unknown) <= len(pinned)


def _header(path: Path) -> bytes:
    """The metadata of a .safetensors file; empty for other files."""
    if path.suffix != ".safetensors":
        return b""
    with path.open("rb") as file:
        return file.read(min(int.from_bytes(file.read(8), "little"), MOST_HEADER))


def hash_of(identity: Identity) -> str:
    """The hash of the settings in force; the folders of runs are named by it."""
    hashed = {name: getattr(identity, name) for name in HASHED}
    # Named only when they are on: the hash of runs without them is what it was before there was such a choice.
    hashed |= {name: True for name in ("compile", "channels_last") if getattr(identity, name)}
    return provenance.settings_hash(hashed)


def plain_card(card: PipelineCard) -> dict[str, Any]:
    """The card as a record holds it."""
    out: dict[str, Any] = _plain({field.name: getattr(card, field.name) for field in fields(card)})
    return out


def data_identity(split: Split) -> DataIdentity:
    """Which data it is: counts and fingerprint."""
    counts = asdict(split.counts)
    return DataIdentity(split=split.name, fingerprint=split.fingerprint, partial=split.partial, **counts)


def _weights(card: PipelineCard) -> dict[str, str]:
    """Part -> sha256; the name of the weights where the card gives no hash and the name is no file."""
    known = {part: name for part, name in card.weights.items() if part not in card.sha256}
    files = {part: sha256_file(Path(name)) for part, name in known.items() if Path(name).is_file()}
    return {**known, **files, **card.sha256}


def _plain(value: Any) -> Any:
    """As JSON has it, so that what is stored compares equal to what is at hand."""
    return json.loads(json.dumps(value, default=_jsonable))


def _jsonable(value: Any) -> Any:
    return dict(value) if hasattr(value, "items") else sorted(value) if isinstance(value, frozenset) else str(value)
