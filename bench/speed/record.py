"""Store measurements of speed, each a file beside the runs of the pipeline on the split.

    results/runs/<pipeline>/<split>/speed-<YYYYMMDD-HHMMSS>-<settings hash>.json    one pipeline (`SpeedRecord`)
    results/runs/<pipeline>/<split>/pair-<YYYYMMDD-HHMMSS>-<settings hash>.json     its ratio to another (`PairRecord`)

A record has the conditions beside the number, and belongs to the row of the run whose weights, options and settings it
shares (`speed_of`). One that was made with smaller rules than the protocol's, or whose boxes were not those
of the accuracy pass, is kept and belongs to no row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from pydantic_core import from_json

from bench.runs.contents import by_contents
from bench.runs.files import make_folder, write_atomically
from bench.runs.numbers import Amount, Model
from bench.runs.record import Identity, RunRecord, first_problem, names_at, runs_of
from bench.runs.seal import opened, sealed

SCHEMA = 1
COLD = "cold"
SPEEDS, PAIRS = "speed-*.json", "pair-*.json"


class Rules(Model):
    """How long a pass lasts at least, in seconds and batches both; the defaults are the protocol (after MLPerf)."""

    warmup_seconds: float = 3.0
    warmup_batches: int = 10
    min_seconds: float = 30.0
    min_batches: int = 100
    repeats: int = 3
    batch_size: int = 0  # 0 searches the fastest

    @property
    def full(self) -> bool:
        """Check that no rule is below the protocol's, and that the batch is the fastest."""
        return not self.batch_size and all(getattr(self, name) >= getattr(Rules(), name) for name in Rules.model_fields)


class Spread(Model):
    """The median of the repeats, the lowest and the highest of them."""

    median: Amount
    low: Amount
    high: Amount

    @model_validator(mode="after")
    def _in_order(self) -> Spread:
        if not self.low <= self.median <= self.high:
            raise ValueError(f"median {self.median:g} lies outside {self.low:g} to {self.high:g}")
        return self


class Single(Model):
    """One image with one expression a call, every cache emptied before it: milliseconds that 50, 90 and 99 % of the
    calls stay within, over the calls of all repeats; `median_ms` is the spread of the repeats' own medians.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    calls: int
    median_ms: Spread


class Rate(Model):
    """The best batch, again and again. `cache` is "cold" (all emptied before each batch) or which one stays warm."""

    cache: str
    batch_size: int
    images_per_s: Spread
    expressions_per_s: Spread
    batches: int
    images: int
    expressions: int
    seconds: float


class Images(Model):
    """The images of a measurement. `ids` says whether scenes had a new id in every batch, which no cache can know."""

    count: int
    expressions: int
    of: int
    resident_mb: float
    cap_mb: float
    decode_ms: float | None
    unreadable: int
    ids: str


class Memory(Model):
    """Peaks in MB (2**20 bytes); None with the reason in `unknown`.

    `allocated` and `reserved` are torch's on the device, `process` is NVML's, `host` the resident size of the process.
    """

    allocated_mb: float | None
    reserved_mb: float | None
    process_mb: float | None
    host_mb: float | None
    unknown: Mapping[str, str] = {}


class Energy(Model):
    """Joules of the device by NVML's counter over the cold offline pass; None, never 0, where it is unsupported."""

    joules_per_expression: float | None
    joules: float | None
    expressions: int | None
    unsupported: str = ""


class BoxCheck(Model):
    """Boxes of the timed pass against others: how many of `n` are equal, and the ids of some that are not.

    Equal is: the same hit at IoU 0.5, and no edge further apart than `tolerance` times the image's long side. `allowed`
    may differ: none in float32; in 16 bits a few, where two proposals are all but equally likely.
    """

    against: str
    n: int
    equal: int
    allowed: int
    tolerance: float
    differing: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.n > 0 and self.n - self.equal <= self.allowed


class Measurement(Model):
    """What is common to both files. `conditions` is the state of the machine meanwhile."""

    schema_version: int = SCHEMA
    started: str
    finished: str
    git: Mapping[str, Any]
    environment: Mapping[str, Any]
    argv: tuple[str, ...]
    rules: Rules
    full: bool
    conditions: Mapping[str, Any]
    noisy: tuple[str, ...]
    valid: bool
    sha256: str = Field("", description="of all the rest (bench/runs/seal.py); empty in records of older versions")


class SpeedRecord(Measurement):
    """One measurement of one pipeline on one split.

    `batch_search` has the steps of the search for the best batch: batch_size, images_per_s (None where memory was too
    small) and note, the reason.
    """

    name: str
    identity: Identity
    settings_hash: str
    card: Mapping[str, Any]
    images: Images
    single: Single | None
    offline: tuple[Rate, ...]
    batch_search: tuple[Mapping[str, Any], ...]
    stages: Mapping[str, float]
    load_seconds: float
    first_call_seconds: float
    proposals_per_image: float | None
    memory: Memory
    energy: Energy
    check: tuple[BoxCheck, ...]
    remarks: tuple[str, ...] = ()


class Side(Model):
    """One pipeline of a pair."""

    name: str
    identity: Identity
    settings_hash: str
    batch_size: int
    expressions_per_s: Spread
    check: BoxCheck


class Ratio(Model):
    """How many times the expressions per second of the first the second one has: over the rounds of a pair."""

    median: float
    low: float
    high: float
    quartiles: tuple[float, float]
    rounds: tuple[float, ...]


class PairRecord(Measurement):
    """Two pipelines measured in turn over the same images: `ratio` is speed of `second` / speed of `first`."""

    first: Side
    second: Side
    ratio: Ratio
    images_per_turn: int
    expressions_per_turn: int


def write(record: SpeedRecord | PairRecord, results: Path, kind: str) -> Path:
    """Write the record as a file of its own, named by when it was finished, of a pair beside the second's runs.

    Raises RunError.
    """
    subject = record if isinstance(record, SpeedRecord) else record.second
    data, settings_hash = subject.identity.data, subject.settings_hash
    folder = runs_of(results, subject.identity.pipeline, data.split, data.fingerprint)
    make_folder(folder)
    paths = (folder / f"{kind}-{name}.json" for name in names_at(record.finished, settings_hash))
    path = next(path for path in paths if not path.exists())
    write_atomically(path, (sealed(record).model_dump_json(indent=1) + "\n").encode())
    return path


def headline(speed: SpeedRecord) -> Rate:
    """Return the rate that stands for the record: offline, with no cache warm. Raises ValueError where it has none."""
    for rate in speed.offline:
        if rate.cache == COLD:
            return rate
    raise ValueError(f"{speed.name}: a speed record without a cold offline rate")


def read_speeds(results: Path, skipped: list[tuple[str, str]] | None = None) -> list[tuple[SpeedRecord, str]]:
    """Read every speed record under `results` with its path relative to it, oldest first.

    What cannot be read is left out; `skipped`, where it is given, gets its path and the reason.
    """
    records = []
    skipped = [] if skipped is None else skipped
    for path in sorted((results / "runs").glob(f"*/*/{SPEEDS}")):
        name = path.relative_to(results).as_posix()
        try:
            records.append(
                (SpeedRecord.model_validate(by_contents(opened(from_json(path.read_bytes()), SCHEMA))), name)
            )
        except OSError as error:
            skipped.append((name, f"cannot be read ({error.strerror})"))
        except ValueError as error:
            skipped.append((name, f"not a speed record of schema {SCHEMA}: {first_problem(error)}"))
    return sorted(records, key=lambda entry: (entry[0].finished, entry[1]))


def speed_of(record: RunRecord, speeds: Sequence[tuple[SpeedRecord, str]]) -> SpeedRecord | None:
    """Return the latest valid and full speed record of what a run ran, on the same kind of device; None without one."""
    if record.provenance != "run":
        return None
    fitting = [speed for speed, _ in speeds if speed.valid and speed.full and _key(speed) == _key(record)]
    return max(fitting, key=lambda speed: speed.finished, default=None)


def _key(record: RunRecord | SpeedRecord) -> tuple[Any, ...]:
    what = record.identity
    names = ("pipeline", "options", "weights", "dtype", "device", "compile", "channels_last")
    same = {name: getattr(what, name) for name in names}
    return record.name, same, what.data.split, what.data.fingerprint, machine(what.device, record.environment)


def machine(device: str, environment: Mapping[str, Any]) -> str:
    """Name the kind of device: the GPU's name, else the processor's; "" where the record does not know."""
    gpu = environment.get("gpu")
    if device.startswith("cuda"):
        return str(gpu.get("name") or "") if isinstance(gpu, Mapping) else ""
    return str(environment.get("cpu") or "")
