"""The rows of several sources: which of them a selection keeps, and what a trial is scored on.

A row is known by "SOURCE:ID". The rows of a selection always come in one order, so that a set of rows is one training.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b

from bench.boxes import box_area_xyxy
from bench.datasets.fingerprint import fingerprint, image_key
from bench.datasets.readers.labels import SourceRows
from bench.datasets.readers.rows import gather, scene_of_row
from bench.errors import DataError
from bench.evaluation.validation import Validate, on_split
from bench.grounding import Box, Expression, Scene
from bench.training.task import TrainingJob
from clipvg.curriculum.search import Selection
from pipelines.two_stage.language.parse import parse

log = logging.getLogger("bench.train")
Reliabilities = Mapping[tuple[str, str], Mapping[str, float]]  # (scorer, source) -> row -> IoU


@dataclass(frozen=True)
class Pool:
    """One source's rows, each once: `rows` (row name -> image and expression) in the order of the file.

    `held_out` names the rows of the images that no training uses; `duplicates` counts the copies that were dropped.
    """

    name: str
    rows: Mapping[str, tuple[Scene, Expression]]
    held_out: frozenset[str]
    duplicates: int
    entities: float

    @cached_property
    def to_train(self) -> tuple[Scene, ...]:
        """The rows that may be trained on, as scenes."""
        return selected(self.rows.keys() - self.held_out, [self])


def pool_of(source: SourceRows, held_out: float = 0.0) -> Pool:
    """Return a source's rows. The share `held_out` of all images is set aside, the same ones for every source.

    Raises DataError for a source without a row, or whose rows are all set aside.
    """
    rows: dict[str, tuple[Scene, Expression]] = {}
    unique: set[tuple[str, str, tuple[float, ...]]] = set()
    for scene in source.scenes:
        bare = replace(scene, expressions=())
        for expression in scene.expressions:
            content = (scene.file, expression.text, expression.box)
            if content not in unique:
                unique.add(content)
                name = f"{source.name}:{expression.id}"
                rows[name] = (bare, replace(expression, id=name))
    if not rows:
        raise DataError(f"the source {source.name!r} has no rows; give it some, or leave it out")
    copies = sum(len(scene.expressions) for scene in source.scenes) - len(unique)
    if copies:
        log.warning("curriculum: %s: %s rows are copies of others and count once", source.name, f"{copies:,}")
    aside = frozenset(name for name, (scene, _) in rows.items() if share_of(image_key(scene.file)) < held_out)
    if len(aside) == len(rows):
        raise DataError(f"the source {source.name!r}: all of its {len(rows):,} rows are set aside; lower held_out")
    return Pool(source.name, rows, aside, copies, entities_per_phrase(source))


def entities_per_phrase(source: SourceRows) -> float:
    """Return the mean number of entities in a phrase, by which MSA orders its sources.

    A row's own number counts ("entities" of its provenance), else the names in the phrase's parse, one at least.
    """
    counts: list[int] = []
    for scene in source.scenes:
        for expression in scene.expressions:
            count = source.provenance.get(expression.id, {}).get("entities")
            counts.append(count if isinstance(count, int) else max(1, len(list(parse(expression.text).texts()))))
    return sum(counts) / len(counts) if counts else 0.0


def kept_rows(selection: Selection, pools: Mapping[str, Pool], reliabilities: Reliabilities) -> list[str]:
    """Return the rows of every choice: reliability of at least the threshold, none set aside."""
    return [
        row
        for choice in selection
        for row, reliability in reliabilities[choice.scorer, choice.source].items()
        if reliability >= choice.threshold and row not in pools[choice.source].held_out
    ]


def sampled(rows: Iterable[str], share: float) -> list[str]:
    """Return a share of the rows. A row is in or out by its name, so a larger set's share holds a smaller one's."""
    return list(rows) if share >= 1 else [row for row in rows if share_of(row) < share]


def share_of(name: str) -> float:
    """Return a number in 0..1 that belongs to a name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


def selected(rows: Collection[str], pools: Iterable[Pool]) -> tuple[Scene, ...]:
    """Return the rows with these names as scenes, in the order of the pools and their files."""
    wanted = frozenset(rows)
    return scenes_of(value for pool in pools for name, value in pool.rows.items() if name in wanted)


def scenes_of(rows: Iterable[tuple[Scene, Expression]]) -> tuple[Scene, ...]:
    """Gather rows by image."""
    return tuple(gather((scene_of_row(s.file, e, s.width, s.height) for s, e in rows), "the labels"))


# Acc@0.5 by the harness's own evaluation, on boxes that count as true: its name, which says whose, the fingerprint of
# what it scores, and the function that scores.
#
# labelled    those of the validation split: the paper's, which uses labels that an unsupervised method has not
# pseudo      the pseudo-boxes of images that no training uses
# agreement   on the same images and phrases, the boxes that each scorer predicts: noise of a source's own boxes is
#             not rewarded, and neither is one scorer's own mistake
SelectionMetric = tuple[str, str, Validate]


def labelled(job: TrainingJob) -> SelectionMetric:
    """Return Acc@0.5 on the validation split."""
    return f"labelled {job.validation_name}", fingerprint(job.validation), job.validate


def pseudo(job: TrainingJob, pools: Collection[Pool]) -> SelectionMetric:
    """Return Acc@0.5 on the pseudo-boxes of the images set aside. Raises DataError when there are none."""
    return _label_free(job, "pseudo-labels set aside", _set_aside(pools))


def agreement(
    job: TrainingJob, pools: Collection[Pool], boxes: Mapping[str, Mapping[str, Box | None]]
) -> SelectionMetric:
    """Return the share of phrases set aside, over all scorers, where a network's box has IoU >= 0.5 with a scorer's.

    `boxes` is scorer -> row -> its box, xyxy pixels; a row without one, or with an empty one, does not count.
    """
    rows = [
        (replace(scene, expressions=()), replace(expression, id=f"{scorer}:{expression.id}", box=box))
        for scene in _set_aside(pools)
        for expression in scene.expressions
        for scorer, predicted in boxes.items()
        if (box := predicted.get(expression.id)) is not None and box_area_xyxy(box) > 0
    ]
    return _label_free(job, "agreement between scorers", scenes_of(rows))


def _set_aside(pools: Collection[Pool]) -> Sequence[Scene]:
    return selected([row for pool in pools for row in pool.held_out], pools)


def _label_free(job: TrainingJob, name: str, scenes: Sequence[Scene]) -> SelectionMetric:
    return name, fingerprint(scenes), on_split(scenes, job.images, job.settings)
