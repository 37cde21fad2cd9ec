"""Format results for model repositories of the Hugging Face hub: one `.eval_results/<split>.yaml` a pipeline.

The format is a list of results (huggingface.co/docs/hub/eval-results), each with `dataset` (id, task_id, revision),
`value`, `date` and `notes`. The data set is the mirror of `bench data prepare`, or one that the caller names.
The value is Acc@0.5 in percent; the notes say so, for the hub has no field for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Mapping
from itertools import chain, count

from bench.datasets.catalog import MIRRORS
from bench.errors import UsageError
from bench.reporting.boards import Board
from bench.reporting.cells import interval_of, percent
from bench.reporting.marks import marks
from bench.reporting.rows import Row
from bench.runs.record import slug

FOLDER = ".eval_results"
NOT_YAML = "[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"


def hub_files(boards: Iterable[Board], dataset: str | None = None) -> dict[str, str]:
    """Return path of a file -> its text: PIPELINE/.eval_results/SPLIT.yaml, to be put into the model's repository.

    `dataset` is the id (OWNER/NAME) of the data set on the hub for splits that have no mirror. Two runs of one pipeline
    on one split have files of their own. Raises UsageError for an id that is none and where one is missing.
    """
    if dataset is not None and not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", dataset):
        raise UsageError(f"--hub-dataset {dataset!r} is not the id of a data set on the hub; expected OWNER/NAME")
    files: dict[str, str] = {}
    for board in boards:
        if board.perturbed:  # no value of the model
            continue
        place = _place(board.split, dataset)
        for entry in board.rows:
            folder = f"{slug(entry['pipeline'])}/{FOLDER}"
            stem = slug(board.split) + ("" if board.protocol == "iou" else f"-{board.protocol}")
            used = {path.removesuffix(".yaml") for path in files}
            files[f"{free_name(f'{folder}/{stem}', entry, used)}.yaml"] = _yaml(place, entry)
    return files


def free_name(stem: str, entry: Row, used: Container[str]) -> str:
    """Return the stem, or where it is in use the stem with the settings' hash, and then with a number."""
    longer = f"{stem}-{entry['settings_hash'][:8]}"
    return next(name for name in chain((stem, longer), (f"{longer}-{n}" for n in count(2))) if name not in used)


def _place(split: str, dataset: str | None) -> dict[str, str]:
    """Return `dataset` of a result. Raises UsageError for a split that is on no hub."""
    name, _, part = split.rpartition("-")
    if dataset is not None:
        return {"id": dataset, "task_id": slug(split)}
    mirror = MIRRORS.get(name)
    if mirror is None or part not in mirror.parts:
        raise UsageError(
            f"{split} has no known data set on the hub; name one with "
            "--hub-dataset OWNER/NAME, or choose another split with --split"
        )
    place = {"id": mirror.repo, "task_id": f"{mirror.prefix}_{part}"}
    return place | ({"revision": mirror.revision} if mirror.revision else {})


def _yaml(place: Mapping[str, str], entry: Row) -> str:
    notes = (
        f"Acc@0.5 in percent, 95 % interval {interval_of(entry)}, {entry['n']:,} expressions; training data: "
        f"{entry['training_data']}; test images in training: {entry['saw_test_images']}; "
        f"marks: {', '.join(word for _, word in marks(entry)) or 'none'}; "
        f"signature {entry['signature']}"
    )
    lines = ["- dataset:"]
    lines += [f"    {key}: {scalar(value)}" for key, value in place.items()]
    lines += [f"  value: {percent(entry['acc@0.5'])}"]
    if re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"]):
        lines.append(f"  date: {scalar(entry['date'])}")
    lines.append(f"  notes: {scalar(notes)}")
    return "\n".join(lines) + "\n"


def scalar(value: str) -> str:
    """Return text as a quoted YAML scalar on one line: JSON's quoting, and escapes for what YAML refuses."""
    text = re.sub("[\ud800-\udfff]", "\ufffd", value)  # half of a surrogate pair is no letter
    return re.sub(NOT_YAML, lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False))
