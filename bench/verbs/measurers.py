"""Measurers: the weights that score pseudo-labels, and what their record says they were trained on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.datasets.label_names import told_apart
from bench.errors import WeightsError
from bench.hashing import places_of, sha256_file
from bench.reporting.reliability import Kind
from bench.settings import Resolved

NO_NAME = re.compile(r"[^\w.+-]+")  # what a file's name is spared


@dataclass(frozen=True, slots=True)
class Measurer:
    """Weights by the name they are given with. `sha256` is that of their file, None for an id of the hub.

    `trained_on` is that part of the record beside the file ({"split", "labels", ...}), None where there is no record.
    """

    name: str
    weights: str
    sha256: str | None
    trained_on: Mapping[str, Any] | None

    @property
    def dataset(self) -> str | None:
        """The data set it was trained on, None where nobody says."""
        split = str((self.trained_on or {}).get("split", ""))
        return "file" if split.startswith("file:") else split.rpartition("-")[0] or None

    def kind(self, source: Mapping[str, Any]) -> Kind:
        """SR where it was trained on this label file ({"file", "sha256"}), CR where on others, "" where nobody knows.

        Files are told by their sha256, by their name only where the record has no sha256. Weights trained on
        annotations are cross-source to every label file.
        """
        if self.trained_on is None:
            return ""
        for file in self.trained_on.get("labels") or ():
            known = "sha256" if file.get("sha256") else "file"
            if file.get(known) == source[known]:
                return "SR"
        return "CR"

    def data(self, dataset: str) -> str:
        """Whether it was trained on that data set: "same", "other" or "unknown"."""
        if self.dataset is None:
            return "unknown"
        return "same" if self.dataset == dataset else "other"


def find_measurers(weights: Sequence[str], pipeline: str, resolved: Resolved) -> list[Measurer]:
    """The measurers, in order, their names told apart; an id of the hub is left to the pipeline to find.

    Raises WeightsError for a file that is nowhere, saying how to make one.
    """
    places = [_place(name, pipeline, resolved) for name in weights]
    return [
        Measurer(name, str(place or given), sha256_file(place) if place else None, _trained_on(place))
        for name, given, place in zip(_names(weights, places), weights, places, strict=True)
    ]


def _place(name: str, pipeline: str, resolved: Resolved) -> Path | None:
    places = places_of(name, resolved)
    found = next((place for place in places if place.is_file()), None)
    if found is None and (Path(name).suffix or name.count("/") != 1):
        raise WeightsError(
            f"--measurer {name}: no such weights (looked at {', '.join(map(str, places))}); a measurer is made by "
            f"`bench train --pipeline {pipeline} --split NAME --labels FILE --out FOLDER`"
        )
    return found


def _names(weights: Sequence[str], places: Sequence[Path | None]) -> list[str]:
    """Files' names without their suffix; where two are the same, the names of their folders, if these differ."""
    stems = [place.stem if place else given.rpartition("/")[2] for given, place in zip(weights, places, strict=True)]
    folders = [place.resolve().parent.name if place else stem for place, stem in zip(places, stems, strict=True)]
    stems, folders = ([NO_NAME.sub("_", name) for name in names] for names in (stems, folders))
    by_folder = [
        folder if stems.count(stem) > 1 and folder else stem for stem, folder in zip(stems, folders, strict=True)
    ]
    return told_apart(by_folder if len(set(by_folder)) == len(by_folder) else stems)


def _trained_on(weights: Path | None) -> Mapping[str, Any] | None:
    if weights is None:
        return None
    try:
        held = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    said = held.get("trained_on") if isinstance(held, dict) else None
    return said if isinstance(said, dict) else None
