"""Many expressions outside any split: what `bench predict` asks of a folder or a JSONL.

Every picture is decoded ahead and looked at once for all that is asked about it. Answers are appended as they come; the
same command goes on after a kill, and asks again only about pictures that could not be read.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.evaluation.answering import Decoded, answers
from bench.evaluation.opening import OpenPipeline, open_pipeline
from bench.evaluation.progress import progress, say
from bench.grounding import Scene
from bench.reporting.drawing import draw_answer, save_picture
from bench.runs.files import Appender, make_folder
from bench.runs.lock import locked
from bench.runs.predictions import SceneAnswers
from bench.settings import Resolved, RunSettings
from bench.verbs.answers import Row, answered, dump, read_answers, settings_of, unreadable, write_answers
from bench.verbs.questions import Questions

LINES = (".jsonl", ".ndjson")
SHOWN = 5  # unreadable pictures that are named; all of them stand in the file


def answer_many(
    pipeline: str,
    questions: Questions,
    out: Path,
    resolved: Resolved,
    dataset: str = "file",
    options: Mapping[str, Any] | None = None,
    draw: Path | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Asks `pipeline` every question, writes the answers into `out` and with `draw` a picture of each into that folder.

    Returns the summary that `bench predict --json` prints. `fresh` forgets what `out` holds. Raises UsageError,
    RunError for an `out` that holds other answers or is in use, and whatever building and asking the pipeline raise.
    """
    _check(questions, out)
    make_folder(out.parent)
    if draw is not None:
        make_folder(draw)
    with locked(out.with_name(f".{out.name}.lock"), "this file of answers"):
        opened = open_pipeline(pipeline, dataset, resolved, options)
        by = {"pipeline": pipeline, "settings": settings_of(opened.context, opened.card)}
        rows = {} if fresh else read_answers(out, questions.scenes, by)
        rows = {name: row for name, row in rows.items() if row["error"] is None}
        write_answers(out, rows.values())
        kept, begun = len(rows), time.perf_counter()
        run = _Answering(opened, questions, rows, by, draw)
        with Appender(out) as file, _said_on_interrupt(out):
            for new in run.batches(resolved.settings.run):
                file.write(dump(new))
        order = [e.id for scene in questions.scenes for e in scene.expressions]
        write_answers(out, [rows[name] for name in order])
    unread = {row["image"]: row["error"] for row in rows.values() if row["error"] is not None}
    for why in list(unread.values())[:SHOWN]:
        say(f"unreadable: {why}")
    return {
        "pipeline": pipeline,
        "out": str(out),
        "pictures": len(questions.scenes),
        "expressions": len(order),
        "asked": len(order) - kept,
        "kept": kept,
        "no_box": sum(row["box_xyxy"] is None and row["error"] is None for row in rows.values()),
        "errors": len(unread),
        "drawn": run.drawn,
        "seconds": round(time.perf_counter() - begun, 3),
    }


class _Answering:
    """One call: what is left to ask and to draw, picture by picture. `rows` grows as answers come."""

    def __init__(
        self,
        pipeline: OpenPipeline,
        questions: Questions,
        rows: dict[str, Row],
        by: Mapping[str, str],
        draw: Path | None,
    ) -> None:
        self.pipeline, self.questions, self.rows, self.by, self.draw = pipeline, questions, rows, by, draw
        self.drawn = 0
        self._whole = {scene.id: scene for scene in questions.scenes}

    def batches(self, settings: RunSettings) -> Iterator[list[Row]]:
        """The new rows, batch by batch. Raises what `answers` raises."""
        scenes = list(self._left())
        total = len(self.questions.scenes)
        with progress(self.pipeline.name, total, total - len(scenes)) as advance:
            for batch in answers(self.pipeline, scenes, self.questions.pictures, settings):
                new = [row for pair in zip(batch.decoded, batch.rows, strict=True) for row in self._rows(*pair)]
                self.rows.update((row["id"], row) for row in new)
                yield new
                if self.draw is not None:
                    for one in batch.decoded:
                        self._draw(one, self.draw)
                if batch.note:
                    say(batch.note)
                advance(len(batch.rows))

    def _left(self) -> Iterator[Scene]:
        """Scenes with something to ask or to draw, and of their expressions those that are to be asked."""
        for scene in self.questions.scenes:
            ask = tuple(e for e in scene.expressions if e.id not in self.rows)
            drawn = self.draw is None or all((self.draw / drawn_name(e.id)).exists() for e in scene.expressions)
            if ask or not drawn:
                yield replace(scene, expressions=ask)

    def _rows(self, decoded: Decoded, said: SceneAnswers) -> Iterator[Row]:
        scene = decoded.scene
        if decoded.picture is None:
            yield from (unreadable(scene, e, decoded.error, self.by) for e in scene.expressions)
            return
        height, width = decoded.picture.shape[:2]
        for expression, answer in zip(scene.expressions, said.answers, strict=True):
            yield answered(scene, expression, (width, height), answer, said.proposals, self.by)

    def _draw(self, decoded: Decoded, folder: Path) -> None:
        if decoded.picture is None:
            return
        for expression in self._whole[decoded.scene.id].expressions:
            place, row = folder / drawn_name(expression.id), self.rows[expression.id]
            if not place.exists() or any(expression.id == e.id for e in decoded.scene.expressions):
                boxes = row["proposals"] or ()
                save_picture(draw_answer(decoded.picture, row["box_xyxy"], row["text"], boxes), place)
                self.drawn += 1


def drawn_name(identifier: str) -> str:
    """The file of an expression's drawing: no id leads out of the folder, and no two ids share a name."""
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", identifier).strip("-")[:60]
    return f"{readable}-{sha256(identifier.encode()).hexdigest()[:12]}.jpg".lstrip("-")


def _check(questions: Questions, out: Path) -> None:
    """Raises UsageError for an `out` that must not be written."""
    if out.suffix.lower() not in LINES:
        raise UsageError(f"--out {out}: the answers to many questions are JSON Lines; name a .jsonl file")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; name the file to write")
    if questions.file is not None and out.resolve() == questions.file.resolve():
        raise UsageError(f"--out {out} is the file of questions; name another one")


@contextmanager
def _said_on_interrupt(out: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped; the same command goes on ({out})")
        raise
