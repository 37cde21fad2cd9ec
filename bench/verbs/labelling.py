"""Pseudo-labels for the pictures of a split: what `bench label` does, and the record it leaves beside the file."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import registry
from bench.datasets.blind import blind, pictures_below, shut
from bench.datasets.load import load_split
from bench.datasets.pseudo_files import Written, check_jsonl_name, export_lists, list_format, write_labels
from bench.errors import DataError, UsageError
from bench.evaluation.device import seed_everything, use_device
from bench.evaluation.opening import OWN_DATA, pipeline_context
from bench.evaluation.progress import progress
from bench.grounding import PictureSource, Scene
from bench.hashing import sha256_file
from bench.labelling import LabelJob, PseudoLabel
from bench.runs.files import write_atomically
from bench.runs.provenance import environment, git_state, redacted
from bench.settings import Resolved, merged

MAKERS = ("detector", "caption_model")  # what provenance may name as having had a hand in a row
MOST_MAKERS = 20


@dataclass(frozen=True, slots=True)
class Asked:
    """What `bench label` is asked for: a source, a split or a folder of `pictures`, and the file to write.

    `options` win over bench.toml; `lists` is a folder for the official lists besides, which carry `threshold` in their
    names.
    """

    source: str
    out: Path
    split: str | None = None
    pictures: Path | None = None
    limit: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    lists: Path | None = None
    threshold: float = 0.5


def make_labels(asked: Asked, resolved: Resolved, quiet: bool = False) -> dict[str, Any]:
    """Writes the file, its record (same name, .json) and the lists; returns the record.

    Raises UnknownName, UsageError, SettingsError, DataError (no label at all, too), and what the source raises; then
    nothing is written.
    """
    check_jsonl_name(asked.out)
    source = registry.label_source(asked.source)
    name, dataset, scenes, pictures = _pictures(asked, resolved)
    if asked.lists is not None:
        list_format(dataset)  # said before an hour's work, not after
    options = merged(resolved.labelling(asked.source, dataset), asked.options)
    context = shut(replace(pipeline_context(asked.source, dataset, resolved), options=options))
    use_device(context.device)
    seed_everything(context.seed)
    began, code = time.monotonic(), git_state()
    makers: Counter[tuple[str, str]] = Counter()
    with progress(f"{asked.source} {name}", len(scenes), quiet=quiet) as advance:
        heed = _Heed(scenes, makers, advance)
        labels = source(LabelJob(scenes, pictures, options, f"[label.{asked.source}]", context))
        written = write_labels(asked.out, labels, name, heed)
        heed.finish()
    seconds = time.monotonic() - began
    if not written.rows:
        raise DataError(
            f"{asked.source}: not one label for {len(scenes):,} pictures of {name}; {asked.out} is not written; look "
            f"at what its detector finds, and loosen its thresholds ([label.{asked.source}] of bench.toml, or --set)"
        )
    record: dict[str, Any] = {"command": " ".join(redacted()), "source": asked.source, "split": name}
    record |= _counts(len(scenes), written, seconds) | {"sha256": sha256_file(asked.out)}
    record |= {"pictures_sha256": _names_hash(scenes), "seed": context.seed, "device": context.device}
    record |= {"options": options, "files": _hashes(options, resolved.folder), "made_by": _made_by(makers)}
    if asked.lists is not None:
        lists = export_lists([asked.out], asked.lists, dataset, asked.threshold)
        record["lists"] = [path.relative_to(asked.lists).as_posix() for path in lists]
    record |= {
        "git": code,
        "environment": environment(context.device, context.seed, resolved.settings.run.deterministic),
    }
    write_atomically(asked.out.with_suffix(".json"), (json.dumps(record, indent=2, default=str) + "\n").encode())
    return record


def _pictures(asked: Asked, resolved: Resolved) -> tuple[str, str, Sequence[Scene], PictureSource]:
    """The split's name, its data set, and what there is to see."""
    if (asked.split is None) == (asked.pictures is None):
        raise UsageError("which pictures? one of --split NAME and --pictures FOLDER is needed")
    if asked.pictures is not None:
        scenes, pictures = pictures_below(asked.pictures, asked.out)
        name, dataset = f"{OWN_DATA}:{asked.pictures.resolve().name}", OWN_DATA
    else:
        split = load_split(str(asked.split), resolved)
        scenes, pictures = blind(split)
        name, dataset = split.name, split.dataset
    if not scenes:
        raise DataError(f"{name}: the split has no pictures")
    return name, dataset, scenes[: asked.limit], pictures


class _Heed:
    """Told of every label: moves the progress on, picture by picture, and counts what the rows were made by."""

    def __init__(
        self, scenes: Sequence[Scene], makers: Counter[tuple[str, str]], advance: Callable[[int], None]
    ) -> None:
        self._place = {scene.id: place for place, scene in enumerate(scenes, 1)}
        self._makers, self._advance, self._done = makers, advance, 0

    def __call__(self, label: PseudoLabel) -> None:
        place = self._place.get(label.scene.id)
        if place is None:
            raise DataError(
                f"{label.provenance.get('source')}: a label about {label.scene.file}, which is none of the pictures"
            )
        for key in MAKERS:
            if said := label.provenance.get(key):
                self._makers[key, str(said)] += 1
        self._to(place)

    def finish(self) -> None:
        """The last pictures may have had no label."""
        self._to(len(self._place))

    def _to(self, place: int) -> None:
        if place > self._done:
            self._advance(place - self._done)
            self._done = place


def _counts(pictures: int, written: Written, seconds: float) -> dict[str, Any]:
    return {
        "pictures": pictures,
        "pictures_with_rows": written.pictures,
        "pictures_without_rows": pictures - written.pictures,
        "rows": written.rows,
        "duplicates_dropped": written.duplicates,
        "seconds": round(seconds, 2),
        "rows_per_s": round(written.rows / seconds, 1) if seconds > 0 else None,
    }


def _made_by(makers: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    out: dict[str, dict[str, int]] = {}
    for (key, said), rows in makers.most_common(MOST_MAKERS):
        out.setdefault(key, {})[said] = rows
    return out


def _names_hash(scenes: Sequence[Scene]) -> str:
    """Which pictures were seen, told without their annotations (a split's fingerprint is made of those)."""
    return hashlib.sha256("\n".join(scene.file for scene in scenes).encode()).hexdigest()


def _hashes(options: Any, folder: Path) -> dict[str, str]:
    """Every file that the options name -> its sha256: weights, detections, scene graphs, captions."""
    if isinstance(options, Mapping):
        options = list(options.values())
    if isinstance(options, (list, tuple)):
        return {name: sha for value in options for name, sha in _hashes(value, folder).items()}
    if not isinstance(options, str) or not options or len(options) > 500:
        return {}
    path = folder / Path(options).expanduser()
    return {options: sha256_file(path)} if path.is_file() else {}
