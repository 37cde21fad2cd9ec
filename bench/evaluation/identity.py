"""Identity of a run, from its settings and data, and the record that it starts with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.datasets.split import Split
from bench.evaluation.perturbation import note_of
from bench.evaluation.protocols import Protocol
from bench.grounding import PipelineCard, PipelineContext
from bench.hashing import find_file, places_of, sha256_file, sha256_folder
from bench.runs import contents, provenance
from bench.runs.contents import options_by_contents, weights_by_part
from bench.runs.record import FILE, DataIdentity, Identity, RunRecord, signature
from bench.settings import PERTURB, Settings, weights_named

CLIENT = "client"  # table of options: how a server is reached, which moves no number
MOST_HEADER = 10 << 20  # bytes of metadata


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def data_identity(split: Split) -> DataIdentity:
    """Describe a split: counts and fingerprint."""
    counts = asdict(split.counts)
    return DataIdentity(split=split.name, fingerprint=split.fingerprint, partial=split.partial, **counts)


def split_named(split: Split) -> str:
    """Name a split for later commands: file:PATH with the whole path, and ~ for the home folder, for own data."""
    if not split.name.startswith(FILE):
        return split.name
    path, home = Path(split.title).absolute(), Path.home()
    return f"{FILE}{Path('~') / path.relative_to(home) if path.is_relative_to(home) else path}"


def weights_of(card: PipelineCard) -> dict[str, str]:
    """Return part -> hashes of a card's weights; a name where neither the card nor a file has a hash.

    Raises WeightsError for a file that cannot be read.
    """
    unhashed = {part: Path(name) for part, name in card.weights.items() if part not in card.sha256}
    files = {part: sha256_file(path) for part, path in unhashed.items() if path.is_file()}
    return weights_by_part(card.weights, {**files, **card.sha256})


def identity_of(
    context: PipelineContext,
    data: DataIdentity,
    deterministic: bool,
    names: Mapping[str, str],
    weights: Mapping[str, str],
) -> Identity:
    """Collect what must stay the same in a continued run, by contents; `names` and `weights` are the card's, by part.

    Raises WeightsError for a file that cannot be read.
    """
    options = _plain(context.options)
    options.get("card", {}).pop("supervision", None)  # a word for readers, which the record's card has
    options.pop(CLIENT, None)
    if not options.get(PERTURB):
        options.pop(PERTURB, None)

    def file_of(key: str, name: str) -> str | None:
        path = find_file(name, context)
        return sha256_file(path, context.home) if path else None

    def folder_of(key: str, name: str) -> str | None:
        folders = (place for place in places_of(name, context) if place.is_dir())
        return next((digest for folder in folders if (digest := sha256_folder(folder, context.home))), None)

    return Identity(
        pipeline=context.name,
        options=options_by_contents(options, names, weights, context.dataset, file_of, folder_of),
        weights=weights,
        data=data,
        device=context.device.partition(":")[0],  # which of several equal GPUs it was means nothing
        dtype=context.dtype,
        seed=context.seed,
        deterministic=deterministic,
        compile=context.acceleration.compile,
        channels_last=context.acceleration.channels_last,
    )


def same_weights(stored: Mapping[str, str], context: PipelineContext) -> bool:
    """Tell whether the weights named by the options are those of a stored identity, without opening a pipeline.

    False also where that is unknown: a name that is no file stands in the identity with the hash of what it means.
    """
    # 1. The files that the options name, and their hashes; a name that is stored itself needs none.
    entries = {item for value in stored.values() for item in value.split(", ") if item}
    names = {name for name, _ in weights_named(context.options)}
    files = {name: path for name in names - entries if (path := find_file(name, context))}
    hashes = {name: sha256_file(path, context.home) for name, path in files.items()}
    if names - entries - files.keys():
        return False
    # 2. Weights of ours have in their metadata which other weights they belong to, and are opened with no others.
    rest = entries - names - set(hashes.values())
    pinned = [each for each in rest if any(each.encode() in _header(path) for path in files.values())]
    unknown = [name for name, digest in hashes.items() if digest not in entries]
    return len(pinned) == len(rest) and len(unknown) <= len(pinned)


def _header(path: Path) -> bytes:
    """Read the metadata of a .safetensors file; empty for other files."""
    if path.suffix != ".safetensors":
        return b""
    with path.open("rb") as file:
        return file.read(min(int.from_bytes(file.read(8), "little"), MOST_HEADER))


def new_record(
    identity: Identity, split: Split, context: PipelineContext, card: PipelineCard, settings: Settings, rule: Protocol
) -> RunRecord:
    """Make the record of a run that has no answers yet."""
    kind = identity.perturbed
    return RunRecord(
        status="running",
        provenance="run",
        name=f"{context.name} ({kind})" if kind else context.name,
        protocol=rule.name,
        signature=signature(
            *(rule.name, identity.data, rule.hits_at, card.proposals, card.weights.get("prompt", ""), bool(rule.sets)),
            perturbed=kind,
        ),
        proposals=card.proposals,
        identity=identity,
        settings={
            "run": settings.run.model_dump(mode="json"),
            "evaluation": settings.evaluation.model_dump(mode="json"),
            "split": split_named(split),
            "options": _plain(context.options),  # with names and paths as they were given
        },
        settings_hash=hash_of(identity),
        argv=provenance.redacted(),
        started=now(),
        finished=None,
        git=provenance.git_state(),
        environment=provenance.environment(context.device, context.seed, identity.deterministic),
        card=plain_card(card),
        sessions=0,
        notes=(note_of(kind, identity.seed, split.scenes),) if kind else (),
        errors={},
        metrics=None,
        throughput=None,
    )


def hash_of(identity: Identity) -> str:
    """Hash the settings in force and the weights; the folders of runs are named by it."""
    return contents.hash_of(identity.model_dump(mode="json"))


def plain_card(card: PipelineCard) -> dict[str, Any]:
    """Return the card as a record has it."""
    out: dict[str, Any] = _plain({field.name: getattr(card, field.name) for field in fields(card)})
    return out


def _plain(value: Any) -> Any:
    """Convert to what JSON would give back, so that stored and new values compare equal."""
    return json.loads(json.dumps(value, default=_jsonable))


def _jsonable(value: Any) -> Any:
    return dict(value) if hasattr(value, "items") else sorted(value) if isinstance(value, frozenset) else str(value)
