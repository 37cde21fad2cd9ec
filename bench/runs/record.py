"""Record of one run: `run.json` as typed models, its folder, and the signature that its number is compared by.

results/runs/<pipeline>/<split>/<id>/
    run.json            everything below; written whole or not at all
    predictions.jsonl   one line a scene, appended as they come (bench/runs/predictions.py)
    outcomes.jsonl      one line a scene, the outcome of each expression, once finished (bench/runs/outcomes.py)
    batches.jsonl       one line a batch: sizes and seconds a stage, so that a killed run keeps its timing

Of a finished run the last three are packed (bench/runs/packed.py), and run.json has their hashes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import from_json

from bench.errors import RunError
from bench.runs.contents import by_contents
from bench.runs.numbers import Metrics, Model, Throughput, without_old_intervals
from bench.runs.seal import opened
from bench.settings import PERTURB

SCHEMA = 1
RECORD = "run.json"
PROMPT, PERTURBED = "|prompt:", "|perturb:"  # in a signature
THRESHOLD = re.compile(r"(?<=\|several)@[^|>]*(?=>)")
FILE = "file:"  # in front of the path of people's own data
SLACK = timedelta(days=1)  # clocks of machines differ


class DataIdentity(Model):
    """The data that the answers are about: its name, fingerprint and counts."""

    split: str
    fingerprint: str
    expressions: int
    refs: int | None
    images: int
    partial: bool


class Identity(Model):
    """The contents that must be the same in every session of a run; another identity is refused."""

    pipeline: str
    options: Mapping[str, Any]
    weights: Mapping[str, str]
    data: DataIdentity
    device: str
    dtype: str
    seed: int
    deterministic: bool
    compile: bool = False
    channels_last: bool = False

    @property
    def perturbed(self) -> str:
        """Return the perturbation of what the pipeline got; empty for a plain run."""
        return str(self.options.get(PERTURB) or "")


class Imported(Model):
    """The source of imported predictions, and how they fit the split; `examples` has keys of each kind.

    `missing` expressions had no row, `extra` rows no expression, `other_image` rows name another image.
    """

    file: str
    sha256: str
    keyed_by: Literal["id", "row"]
    missing: int
    extra: int
    other_image: int
    duplicates: int
    examples: Mapping[str, tuple[str, ...]]


class RunRecord(Model):
    """run.json."""

    schema_version: int = SCHEMA
    status: Literal["running", "complete"]
    provenance: Literal["run", "imported"]
    name: str
    protocol: str
    signature: str
    proposals: str = Field("", description="annotated boxes to choose from; empty = the pipeline's own")
    identity: Identity
    settings: Mapping[str, Any] = Field(default_factory=dict)
    settings_hash: str
    argv: tuple[str, ...]
    started: str
    finished: str | None
    git: Mapping[str, Any]
    environment: Mapping[str, Any]
    card: Mapping[str, Any]
    sessions: int
    notes: tuple[str, ...]
    errors: Mapping[str, str]
    metrics: Metrics | None
    throughput: Throughput | None
    imported: Imported | None = None
    files: Mapping[str, str] = Field(default_factory=dict, description="packed file -> its SHA-256")
    sha256: str = Field("", description="of all the rest (bench/runs/seal.py); empty in records of older versions")

    def __repr__(self) -> str:
        score = f"Acc@0.5 {100 * self.metrics.accuracy:.2f} %" if self.metrics else "no score yet"
        return f"<run of {self.name} on {self.identity.data.split}: {self.status}, {score}, begun {self.started}>"

    __str__ = __repr__

    @property
    def comparable(self) -> str:
        """Return the part of the signature that runs of one table share: all but a chat model's prompt, a threshold."""
        return THRESHOLD.sub("", self.signature.partition(PROMPT)[0])

    @property
    def rule(self) -> str:
        """Return the protocol without the threshold of a pipeline's scores: "several" of "several@0.35"."""
        return self.protocol.partition("@")[0]

    @property
    def prompt(self) -> str:
        """Return a chat model's preset, version and rule; empty for other pipelines."""
        weights = self.card.get("weights")
        return str(weights.get("prompt") or "") if isinstance(weights, Mapping) else ""

    @property
    def perturbed(self) -> str:
        """Return the perturbation of what the pipeline got, as its identity has it."""
        return self.identity.perturbed

    @property
    def part(self) -> str:
        """Say which part of its split a partial run is about; empty for a whole one."""
        data = self.identity.data
        if not data.partial:
            return ""
        if self.imported and self.imported.missing:
            with_row = data.expressions - self.imported.missing
            return f"rows for {with_row:,} of {data.expressions:,} expressions of {data.split} only"
        return f"the first {data.images:,} images of {data.split} only"

    @model_validator(mode="before")
    @classmethod
    def _without_old_intervals(cls, raw: Any) -> Any:
        try:
            return raw | {"metrics": without_old_intervals(raw["metrics"], raw["identity"]["data"]["images"])}
        except (KeyError, TypeError, AttributeError):
            return raw  # the models name what is wrong with it

    @field_validator("started", "finished")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        if value is not None:
            moment(value)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> RunRecord:
        data, speed = self.identity.data, self.throughput
        if self.status == "complete" and self.finished is None:
            raise ValueError("the run is complete, but has no time at which it was finished")
        if self.finished is not None and moment(self.finished) < moment(self.started) - SLACK:
            raise ValueError(f"finished {self.finished}, before it was started ({self.started})")
        if self.metrics is not None and self.metrics.n != data.expressions:
            raise ValueError(f"metrics.n is {self.metrics.n:,}, but the split has {data.expressions:,} expressions")
        for what, rate, each in (
            ("expressions", speed and speed.expressions_per_s, data.expressions),
            ("images", speed and speed.images_per_s, data.images),
        ):
            # Every session grounds a scene once at most; the seconds are rounded.
            if speed and rate and rate * (speed.seconds - 1e-6) > 1.001 * each * max(self.sessions, 1):
                raise ValueError(f"throughput.{what}_per_s is {rate:g}, more than {each:,} in {speed.seconds:g} s")
        return self


def moment(text: str) -> datetime:
    """Parse a time in ISO 8601, of UTC where it names no zone. Raises ValueError."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"expected a time in ISO 8601, not {text[:40]!r}") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def signature(
    protocol: str,
    data: DataIdentity,
    hits_at: str = ">=0.5",
    proposals: str = "",
    prompt: str = "",
    sets: bool = False,
    perturbed: str = "",
) -> str:
    """Return the meaning of a score in one line; a table never mixes two of them, but for prompt and threshold.

    For example "acc@0.5|iou>=0.5|refcoco-val|n:10834|data:1a2b3c4d|top1|v1"; ",partial" marks a part of a split,
    "|proposals:gt" at the end one whose pipeline chose among annotated boxes, "|perturb:mirror" one that got perturbed
    scenes, "|prompt:qwen3@1,first" a chat model's. Over sets of boxes it is
    "f1=1|several@0.35>=0.5|refdrone-test|n:3432|data:1a2b3c4d|sets|v1".
    """
    metric, boxes = ("f1=1", "sets") if sets else ("acc@0.5", "top1")
    size = f"n:{data.expressions}" + (",partial" if data.partial else "")
    return f"{metric}|{protocol}{hits_at}|{data.split}|{size}|data:{data.fingerprint[:8]}|{boxes}|v{SCHEMA}" + (
        (f"|proposals:{proposals}" if proposals else "")
        + (f"{PERTURBED}{perturbed}" if perturbed else "")
        + (f"{PROMPT}{prompt}" if prompt else "")
    )


def read_record(folder: Path) -> RunRecord:
    """Load the record of a run's folder; a file that has not changed is parsed once.

    Raises RunError, naming the file, when it is not one.
    """
    path = folder / RECORD
    try:
        state = path.stat()
        return _record(path, state.st_ino, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); give the folder of a run") from None
    except ValueError as error:
        raise RunError(f"{path}: not a run record of schema {SCHEMA}: {first_problem(error)}") from None


@lru_cache(maxsize=1024)
def _record(path: Path, inode: int, size: int, changed_ns: int) -> RunRecord:
    return RunRecord.model_validate(by_contents(opened(from_json(path.read_bytes()), SCHEMA)))


def first_problem(error: ValueError) -> str:
    """Return the first of an error's problems: the key, and what is wrong with it."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: ".removeprefix(": ") + first["msg"].removeprefix("Value error, ")


def slug(name: str) -> str:
    """Return `name` as the name of one folder, never a path.

    "refcoco+-val" stays, "file:birds" becomes "file-birds".
    """
    kept = re.sub(r"[^A-Za-z0-9+._-]+", "-", name).strip("-.")
    if kept and len(kept) <= 100:
        return kept
    return f"{kept[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


def runs_of(results: Path, pipeline: str, split: str, fingerprint: str = "") -> Path:
    """Return the folder of every run of one pipeline on one split.

    Several files of people's own data may have one name, so their folders have the fingerprint's first digits too:
    "file-birds-1a2b3c4d". Without it, as in version 0.1, they share a folder.
    """
    own = f"-{fingerprint[:8]}" if fingerprint and split.startswith(FILE) else ""
    return results / "runs" / slug(pipeline) / f"{slug(split)}{own}"


def split_command(record: RunRecord) -> str:
    """Name a run's split as a command in the working folder takes it: file:PATH for people's own data.

    Older records have the path in their command alone; where it is not there either, the name is returned.
    """
    name = record.identity.data.split
    if not name.startswith(FILE):
        return name
    words = [part for word in record.argv for part in word.removeprefix("--split=").split(",")]
    given = [word for word in (record.settings.get("split"), *words) if isinstance(word, str)]
    path = next((p for word in given if FILE + (p := Path(word.removeprefix(FILE))).stem == name != word), None)
    if path is None:
        return name
    here = path.expanduser()
    return f"{FILE}{here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else path}"


def names_at(time: str, settings_hash: str) -> Iterator[str]:
    """Yield names of files by time and settings: 20260102-030405-1a2b3c4d, then the same with -2, -3, ..."""
    base = f"{re.sub(r'[^0-9T]', '', time[:19]).replace('T', '-')}-{settings_hash[:8]}"
    return (base if number == 1 else f"{base}-{number}" for number in count(1))
