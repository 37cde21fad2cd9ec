"""Make a full run record of imported predictions."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field

from bench.datasets.split import Split
from bench.evaluation.identity import data_identity, now, split_named
from bench.evaluation.metrics import summary
from bench.evaluation.outcomes import Outcomes, outcomes, store_outcomes
from bench.evaluation.protocols import protocol as protocol_named
from bench.evaluation.protocols import with_threshold
from bench.grounding import SawTestImages, Supervision
from bench.imported.alignment import Alignment, Key, align_file
from bench.runs import provenance
from bench.runs.files import explained, make_folder, temporary_name
from bench.runs.record import Identity, Imported, RunRecord, runs_of, signature
from bench.runs.store import write_packed
from bench.settings import EvaluationSettings, Resolved, Table, merged, parse_table, read_toml, shipped_options

EXAMPLES = 20  # keys of each kind kept in the record


class ImportedCard(Table):
    """What is claimed of the model of imported boxes; the words are those of `PipelineCard`, `weights` part -> name."""

    summary: str = ""
    trained_on: str = ""
    supervision: Supervision = "unknown"
    saw_test_images: SawTestImages = "unknown"
    paper: str = ""
    url: str = Field("", pattern=r"^(https?://\S+)?$")
    licence: str = ""
    parameters: int | None = Field(None, ge=0)
    weights: Mapping[str, str] = Field(default_factory=dict)


def claimed_card(
    name: str, dataset: str, resolved: Resolved, file: Path | None = None, flags: Mapping[str, Any] | None = None
) -> ImportedCard:
    """Read what is claimed of a model: flags that are not None, over a TOML file, over its card in bench.toml.

    The card of a pipeline of this project is about its own weights, so only what a user's bench.toml adds to it is
    taken. Raises SettingsError naming the flags or the file and the key.
    """
    card, shipped = resolved.table("pipelines", name, dataset).get("card", {}), shipped_options(name, dataset)
    if shipped.keys() - {"card"}:
        card = {key: value for key, value in card.items() if value != shipped.get("card", {}).get(key)}
    layers = {f"bench.toml [pipelines.{name}.card]": card}
    if file is not None:
        layers[str(file)] = read_toml(file)
    layers["flags"] = {key: value for key, value in (flags or {}).items() if value is not None}
    claims: dict[str, Any] = {}
    for where, layer in layers.items():
        parse_table(ImportedCard, layer, where)
        claims = merged(claims, layer)
    return ImportedCard(**claims)


def import_boxes(
    path: Path,
    split: Split,
    results: Path,
    name: str | None = None,
    xywh: bool = False,
    key: Key = "auto",
    protocol: str | None = None,
    settings: EvaluationSettings | None = None,
    argv: Sequence[str] | None = None,
    partial: bool = False,
    card: ImportedCard | None = None,
    threshold: str | None = None,
) -> tuple[RunRecord, Path]:
    """Score the boxes of a file on `split`; return the record and the run's folder under `results`.

    The same boxes under the same name land in the same folder again. `partial` takes a file that lacks rows, and marks
    its run as partial; `threshold` is a score below which boxes are left out. Raises what `align_file` raises,
    UnknownName for the protocol, UsageError for the threshold, RunError when `results` cannot be written.
    """
    started = now()
    rule = protocol_named(protocol or split.protocol)
    if threshold is not None:
        rule = with_threshold(rule, threshold)
    aligned = align_file(path, split, key, xywh, partial)
    data = data_identity(split)
    if partial and aligned.missing:
        data = data.model_copy(update={"partial": True})
    scored = outcomes(split.scenes, aligned.answers, rule, partial=True)  # `align_file` refuses a file that lacks many
    metrics = summary(scored, settings or EvaluationSettings())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    identity = Identity(
        pipeline=name or path.stem,
        options={"xywh": xywh, "key": aligned.keyed_by},
        weights={"predictions": digest},
        data=data,
        device="elsewhere",
        dtype="unknown",
        seed=0,
        deterministic=False,
    )
    places = {"missing": aligned.missing, "extra": aligned.extra, "other_image": aligned.other_image}
    order = "rows were counted in the order of the scenes, since the split's ids are not row numbers"
    absent = aligned.nothing_detected
    nothing = f"expressions without a detection, taken as an answer that nothing is there: {absent:,}" if absent else ""
    claims = (card or ImportedCard()).model_dump(exclude_defaults=True)
    facts = {"summary": f"boxes made elsewhere, from {path.name}", "saw_test_images": "unknown", **claims}
    record = RunRecord(
        status="complete",
        provenance="imported",
        name=identity.pipeline,
        protocol=rule.name,
        signature=signature(rule.name, identity.data, rule.hits_at, sets=bool(rule.sets)),
        identity=identity,
        settings={"split": split_named(split)},
        # Without the file's own hash: boxes imported again under a name replace the older ones in the leaderboard.
        settings_hash=provenance.settings_hash({"pipeline": identity.pipeline, "options": identity.options}),
        argv=provenance.redacted(argv),
        started=started,
        finished=now(),
        git=provenance.git_state(),
        environment={"packages": provenance.packages()},
        card={"name": identity.pipeline, **facts},
        sessions=1,
        notes=tuple(note for note, there in ((order, aligned.in_scene_order), (nothing, nothing)) if there),
        errors={},
        metrics=metrics,
        throughput=None,
        imported=Imported(
            file=path.name,
            sha256=digest,
            keyed_by=aligned.keyed_by,
            **{kind: len(keys) for kind, keys in places.items()},
            duplicates=aligned.duplicates,
            examples={kind: tuple(keys[:EXAMPLES]) for kind, keys in places.items()},
        ),
    )
    return _write(record, aligned, scored, results)


def _write(record: RunRecord, aligned: Alignment, scored: Outcomes, results: Path) -> tuple[RunRecord, Path]:
    """Write the run's folder, made under a hidden name and then moved to its place: whole or not at all."""
    data = record.identity.data
    parent = runs_of(results, record.name, data.split, data.fingerprint)
    what = provenance.settings_hash({"identity": record.identity.model_dump(mode="json"), "protocol": record.protocol})
    folder = parent / f"imported-{what[:12]}"
    fresh, old = (temporary_name(folder, end) for end in ("tmp", "old"))
    make_folder(fresh)
    try:
        aligned.store(fresh)
        store_outcomes(fresh, scored)
        record = write_packed(fresh, record)
        with explained(folder):
            with suppress(FileNotFoundError):
                folder.rename(old)
            fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return record, folder
