"""What is damaged about a finished run: one check, for every reader that takes a number from its folder.

Files are hashed as they are stored. That is as good as a hash of their rows: a packed file gives one text, so equal
bytes are equal rows, and nothing has to be unpacked to be checked. run.json is checked when it is read (seal.py).
"""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.datasets.annotations import Annotations, annotations_of
from bench.errors import RunError
from bench.grounding import Scene
from bench.runs.answers import Answers, answers_of, stored_answers
from bench.runs.packed import OUTCOMES, STEMS, packed_name
from bench.runs.predictions import SceneAnswers
from bench.runs.record import RunRecord, read_record
from bench.runs.store import ANSWERS, stored_rows

PACKED = {packed_name(stem) for stem in STEMS}


def checked_record(folder: Path) -> RunRecord:
    """Load the record of a run whose files are those that it wrote. Raises RunError naming what is damaged."""
    record = read_record(folder)
    if faults := damage(folder, record):
        repaired = all(fault.startswith(OUTCOMES) for fault in faults)
        keep = f"`bench score {folder} --keep` makes them again"
        whence = "restore the folder from where it came, or run it again with --fresh"
        raise RunError(f"{folder}: is damaged: {'; '.join(faults)}; {keep if repaired else whence}")
    return record


def damage(folder: Path, record: RunRecord) -> list[str]:
    """List which files of a finished run are missing, or not those that it wrote; empty for an unfinished one."""
    if record.status != "complete":
        return []
    faults = [] if record.metrics else ["run.json has no metrics"]
    for name, digest in record.files.items():
        path = folder / name
        if name not in PACKED:
            faults.append(f"run.json names {name[:60]!r}, which is no file of a run")
        elif not path.is_file():
            faults.append(f"{name} is missing")
        elif _sha256(path) != digest:
            faults.append(f"{name} is not the file that this run wrote: its SHA-256 is not the one in run.json")
    if packed_name(ANSWERS) not in record.files and not (folder / f"{ANSWERS}.jsonl").is_file():
        faults.append(f"{ANSWERS} are missing")
    return faults


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable ({error.strerror})"


def has_hashes(record: RunRecord) -> bool:
    """Tell whether the record has hashes of itself and of its predictions; those of older versions do not."""
    return bool(record.sha256) and packed_name(ANSWERS) in record.files


def unanswered(scene: Scene, row: SceneAnswers | None) -> int:
    """Count the expressions of a scene that its row has no answer to."""
    answered = {answer.id for answer in row.answers} if row else set()
    return sum(expression.id not in answered for expression in scene.expressions)


def complete_rows(folder: Path, record: RunRecord, scenes: Sequence[Scene]) -> dict[str, SceneAnswers]:
    """Load the row of every scene, with an answer to every expression unless its image could not be read.

    Imported boxes may lack the rows that their record counts. Raises RunError with the number of scenes that have no
    answer, and the command that goes on: a missing answer is no miss.
    """
    rows = stored_rows(folder)
    _refuse_incomplete(folder, record, annotations_of(scenes), answers_of(rows.values()))
    return rows


def complete_answers(folder: Path, record: RunRecord, scenes: Sequence[Scene]) -> Answers:
    """Load the answers of every scene as columns; the same check as in `complete_rows`."""
    answers = stored_answers(folder)
    _refuse_incomplete(folder, record, annotations_of(scenes), answers)
    return answers


def _refuse_incomplete(folder: Path, record: RunRecord, known: Annotations, answers: Answers) -> None:
    given, errors = {*answers.ids}, dict(zip(answers.scenes, answers.errors, strict=True))
    without = [scene for scene in known.scenes if scene not in errors]
    homes = known.image[[at for at, each in enumerate(known.position) if each not in given]].tolist()
    lacking = Counter(scene for home in homes if errors.get(scene := known.scenes[home]) is None)
    total, allowed = lacking.total(), record.imported.missing if record.imported else 0
    if total > allowed or without:
        again = "import its file again" if record.imported else f"its command goes on: {shlex.join(record.argv)}"
        raise RunError(
            f"{folder}: {len(lacking.keys() | {*without}):,} of {len(known.scenes):,} images lack an answer ({total:,} "
            f"expressions), so the run has no score; {again}"
        )
