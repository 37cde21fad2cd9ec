"""Pseudo-labels for the images of a split: what `bench label` does, and the record it leaves beside the file."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import registry
from bench.errors import DataError
from bench.evaluation.device import loading, seed_everything, use_device
from bench.evaluation.opening import pipeline_context
from bench.evaluation.progress import progress
from bench.hashing import sha256_file
from bench.labelling import LabelJob, PseudoLabel
from bench.labelling.label_files import check_jsonl_name, continued, export_lists, list_format, write_labels
from bench.labelling.unannotated import find_images, without_annotations
from bench.runs.files import write_atomically
from bench.runs.provenance import environment, git_state, redacted, settings_hash
from bench.settings import Resolved, merged

log = logging.getLogger("bench.label")
MAKERS = ("detector", "caption_model")  # what provenance may name as having had a hand in a row
MOST_MAKERS = 20


def make_labels(
    source: str,
    out: Path,
    resolved: Resolved,
    split: str | None = None,
    images: Path | None = None,
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
    lists: Path | None = None,
    threshold: float = 0.5,
) -> dict[str, Any]:
    """Write the labels of a split or of a folder of `images`, their record (same name, .json) and the lists.

    Labels that a killed command of the same settings made are not made again. Returns the record. `options` win over
    bench.toml; `lists` is a folder for the official lists besides, which carry `threshold` in their names. Raises
    UnknownName, UsageError, SettingsError, DataError (no label at all, too), RunError where another process writes
    `out`, and what the source raises; then `out` is as it was.
    """
    # 1. What may be refused, before an hour's work.
    check_jsonl_name(out)
    registry.origin(registry.LABEL_SOURCES, source)
    name, dataset, scenes, image_source = find_images(split, images, out, resolved)
    scenes = scenes[:limit]
    if lists is not None:
        list_format(dataset)
    loading(source)
    labels_of = registry.load(registry.LABEL_SOURCES, source)
    options = merged(resolved.table("label", source, dataset), options or {})
    context = without_annotations(replace(pipeline_context(source, dataset, resolved), options=options))
    use_device(context.device)
    seed_everything(context.seed)
    # 2. The labels, image by image; those that a killed command stored come first.
    began, code = time.monotonic(), git_state()
    identity = {
        "source": source,
        "split": name,
        # Which images are used, without their annotations (a split's fingerprint is made of those).
        "images_sha256": hashlib.sha256("\n".join(scene.file for scene in scenes).encode()).hexdigest(),
        "seed": context.seed,
        "device": context.device,
        "options": options,
        "files": _hashes(options, resolved.folder),
    }
    key = settings_hash(identity | {"dtype": context.dtype})
    with continued(out, key, scenes) as (start, with_stored):
        if start:
            log.info("the labels of %s images are there; the others are made", f"{start:,}")
        places = {scene.id: place for place, scene in enumerate(scenes, 1)}
        makers: Counter[tuple[str, str]] = Counter()
        done = start

        def count(label: PseudoLabel) -> None:
            """Move the progress on, image by image, and count what the rows were made by."""
            nonlocal done
            place = places.get(label.scene.id)
            if place is None:
                raise DataError(
                    f"{label.provenance.get('source')}: a label about {label.scene.file}, which is none of the images"
                )
            makers.update((key, str(label.provenance[key])) for key in MAKERS if label.provenance.get(key))
            if place > done:
                advance(place - done)
                done = place

        with progress(f"{source} {name}", len(scenes), start) as advance:
            with registry.guarded(f"label source {source!r} failed", f"label source {source!r}"):
                new = labels_of(LabelJob(scenes[start:], image_source, options, f"[label.{source}]", context))
                rows, with_rows, duplicates = write_labels(out, with_stored(new), name, count)
            advance(len(scenes) - done)  # the last images may have no label
        seconds = time.monotonic() - began
        if not rows:
            raise DataError(
                f"{source}: not one label for {len(scenes):,} images of {name}; {out} is not written; look at what its "
                f"detector finds, and loosen its thresholds ([label.{source}] of bench.toml, or --set)"
            )
        # 3. The record.
        made_by: dict[str, dict[str, int]] = {}
        for (key, maker), number in makers.most_common(MOST_MAKERS):
            made_by.setdefault(key, {})[maker] = number
        record: dict[str, Any] = {
            "command": " ".join(redacted()),
            **identity,
            "images": len(scenes),
            "images_with_rows": with_rows,
            "images_without_rows": len(scenes) - with_rows,
            "rows": rows,
            "duplicates_dropped": duplicates,
            "continued_after": start,  # images of which a command that was stopped made the labels
            "seconds": round(seconds, 2),
            "rows_per_s": round(rows / seconds, 1) if seconds > 0 and not start else None,
            "sha256": sha256_file(out),
            "made_by": made_by,
        }
        if lists is not None:
            paths = export_lists([out], lists, dataset, threshold)
            record["lists"] = [path.relative_to(lists).as_posix() for path in paths]
        where = environment(context.device, context.seed, resolved.settings.run.deterministic)
        record |= {"git": code, "environment": where}
        write_atomically(out.with_suffix(".json"), (json.dumps(record, indent=2, default=str) + "\n").encode())
    return record


def _hashes(options: Any, folder: Path) -> dict[str, str]:
    """Hash every file that the options name: weights, detections, scene graphs, captions."""
    if isinstance(options, Mapping):
        options = list(options.values())
    if isinstance(options, (list, tuple)):
        return {name: sha for value in options for name, sha in _hashes(value, folder).items()}
    if not isinstance(options, str) or not options or len(options) > 500:
        return {}
    path = folder / Path(options).expanduser()
    return {options: sha256_file(path)} if path.is_file() else {}
