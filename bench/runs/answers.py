"""Answers as columns: all that scoring needs of predictions.jsonl, without an object an answer."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from json.encoder import encode_basestring as quoted
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.grounding import Mask, ScoredBox
from bench.runs.packed import PREDICTIONS, json_lines, stored_parts
from bench.runs.predictions import SCHEMA, SceneAnswers, parse_lines, parse_row
from bench.runs.store import stored_rows

Float = NDArray[np.float64]
Int = NDArray[np.int64]
NO_BOX = (math.nan,) * 4


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Columns of R stored lines, their A answers and P proposals, in order.

    `line` (A,) is the position of an answer's line; `boxes` (A, 4) xyxy pixels, NaN without one; `scores` (A,) NaN
    where there is none; `others` has further boxes, `masks` the box's mask and `none` the score that nothing is
    referred to, by the answer's position. `counts` (R,) are the lines' numbers of proposals, -1 for a pipeline that
    makes none, and `proposals` (P, 4) all of them.
    """

    scenes: Sequence[str]
    sizes: Sequence[tuple[int, int] | None]
    errors: Sequence[str | None]
    line: Int
    ids: Sequence[str]
    boxes: Float
    scores: Float
    counts: Int
    proposals: Float = field(default_factory=lambda: np.empty((0, 4)))
    others: Mapping[int, tuple[ScoredBox, ...]] = field(default_factory=dict)
    masks: Mapping[int, Mask] = field(default_factory=dict)
    none: Mapping[int, float] = field(default_factory=dict)


class _Columns:
    """Answers in the making, line by line."""

    def __init__(self) -> None:
        self.scenes: list[str] = []
        self.sizes: list[tuple[int, int] | None] = []
        self.errors: list[str | None] = []
        self.ids: list[str] = []
        self.others: dict[int, tuple[ScoredBox, ...]] = {}
        self.masks: dict[int, Mask] = {}
        self.none: dict[int, float] = {}
        self.line, self.counts = array("q"), array("q")
        self.boxes, self.scores, self.proposals = array("d"), array("d"), array("d")

    def add_stored(self, row: dict[str, Any]) -> None:
        """Add a line as it is stored. Raises KeyError, TypeError or ValueError where it is none."""
        answers, proposals = row["predictions"], row.get("proposals")
        ids, given = [p["id"] for p in answers], [p["box"] for p in answers]
        boxes = [box for box in given if box is not None]
        numbers = sum(map(sum, boxes)) + sum(map(sum, proposals or ()))
        texts = {*map(type, (row["scene"], *ids))}
        # What is not plainly one box an answer and a text an id goes the slower way, which tells what it is.
        if row.get("schema", 1) != 1 or {*map(len, boxes)} - {4} or texts != {str} or not math.isfinite(numbers):
            self.add(parse_row(row))
            return
        self.ids += ids
        self.boxes.extend(chain.from_iterable(NO_BOX if box is None else box for box in given))
        self.scores.extend([math.nan if (score := p.get("score")) is None else score for p in answers])
        self._end(row["scene"], row.get("size"), row.get("error"), proposals)

    def add(self, row: SceneAnswers) -> None:
        for p in row.answers:
            if p.others:
                self.others[len(self.ids)] = p.others
            if p.mask is not None:
                self.masks[len(self.ids)] = p.mask
            if p.none is not None:
                self.none[len(self.ids)] = p.none
            self.ids.append(p.id)
            self.boxes.extend(NO_BOX if p.box is None else p.box)
            self.scores.append(math.nan if p.score is None else p.score)
        self._end(row.scene, row.size, row.error, row.proposals)

    def _end(self, scene: str, size: Any, error: str | None, proposals: Sequence[Sequence[float]] | None) -> None:
        self.line.extend([len(self.scenes)] * (len(self.ids) - len(self.line)))
        self.scenes.append(scene)
        self.sizes.append(None if size is None else (int(size[0]), int(size[1])))
        self.errors.append(error)
        self.counts.append(-1 if proposals is None else len(proposals))
        if proposals:
            if {*map(len, proposals)} != {4}:
                raise ValueError("a proposal is not four numbers")
            self.proposals.extend(chain.from_iterable(proposals))

    def made(self) -> Answers:
        return Answers(
            scenes=self.scenes,
            sizes=self.sizes,
            errors=self.errors,
            line=np.array(self.line),
            ids=self.ids,
            boxes=np.array(self.boxes).reshape(-1, 4),
            scores=np.array(self.scores),
            others=self.others,
            masks=self.masks,
            none=self.none,
            counts=np.array(self.counts),
            proposals=np.array(self.proposals).reshape(-1, 4),
        )


def dump_answers(answers: Answers, notes: Mapping[int, str]) -> Iterator[str]:
    """Yield the lines of predictions.jsonl; `answers` have no proposals, sizes or errors."""
    starts = np.searchsorted(answers.line, np.arange(len(answers.scenes) + 1)).tolist()
    for scene, start, end in zip(answers.scenes, starts[:-1], starts[1:], strict=True):
        entries = []
        own = zip(answers.boxes[start:end].tolist(), answers.scores[start:end].tolist(), strict=True)
        for at, (box, score) in enumerate(own, start):
            corners = "null" if math.isnan(box[0]) else "[{!r},{!r},{!r},{!r}]".format(*box)
            note = f',"note":{quoted(notes[at])}' if at in notes else ""
            number = "null" if math.isnan(score) else repr(score)
            drawn = answers.masks.get(at)
            mask = "" if drawn is None else f',"mask":{json.dumps(dict(drawn), separators=(",", ":"))}'
            others = f',"others":{_dump_boxes(answers.others[at])}' if at in answers.others else ""
            none = f',"none":{answers.none[at]!r}' if at in answers.none else ""
            entries.append(
                f'{{"id":{quoted(answers.ids[at])},"box":{corners},"score":{number}{note}{mask}{others}{none}}}'
            )
        later = (answers.masks, answers.others, answers.none)
        schema = f'"schema":{SCHEMA},' if any(at in each for each in later for at in range(start, end)) else ""
        yield f'{{{schema}"scene":{quoted(scene)},"proposals":null,"error":null,"predictions":[{",".join(entries)}]}}\n'


def _dump_boxes(boxes: Sequence[ScoredBox]) -> str:
    return json.dumps([{"box": list(each.box), "score": each.score} for each in boxes], separators=(",", ":"))


def answers_of(rows: Iterable[SceneAnswers]) -> Answers:
    """Return the columns of rows."""
    table = _Columns()
    for row in rows:
        table.add(row)
    return table.made()


def stored_answers(folder: Path) -> Answers:
    """Load every scene's answers as columns, with the choice that `stored_rows` makes. Raises RunError."""
    table = _Columns()
    with suppress(FileNotFoundError):
        lines, loads = json_lines(*stored_parts(folder, PREDICTIONS))
        for _ in parse_lines(lines, folder / f"{PREDICTIONS}.jsonl", table.add_stored, loads):
            pass
        if len({*table.scenes}) == len(table.scenes) and not any(folder.glob(f"{PREDICTIONS}.rank*.jsonl")):
            return table.made()
    return answers_of(stored_rows(folder).values())
