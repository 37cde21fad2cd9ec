"""Speed records as they lie beside the runs: read again, and the one that belongs to a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.runs.record import RunRecord, first_problem
from bench.speed.record import SCHEMA, SPEEDS, SpeedRecord


def read_speeds(results: Path, skipped: list[str] | None = None) -> list[tuple[SpeedRecord, str]]:
    """Every speed record under `results` with its path relative to it, oldest first.

    What cannot be read is left out; `skipped`, where it is given, gets a line for each: "PATH: reason".
    """
    found = []
    skipped = [] if skipped is None else skipped
    for path in sorted((results / "runs").glob(f"*/*/{SPEEDS}")):
        said = path.relative_to(results).as_posix()
        try:
            found.append((SpeedRecord.model_validate_json(path.read_bytes()), said))
        except OSError as error:
            skipped.append(f"{said}: cannot be read ({error.strerror})")
        except ValidationError as error:
            skipped.append(f"{said}: not a speed record of schema {SCHEMA}: {first_problem(error)}")
    return sorted(found, key=lambda entry: (entry[0].finished, entry[1]))


def speed_of(record: RunRecord, speeds: Sequence[tuple[SpeedRecord, str]]) -> SpeedRecord | None:
    """The latest valid and full speed of what the run ran: the same name, options, weights, data, number type, kind of
    device, and acceleration. None where there is none, and for boxes that were made elsewhere.
    """
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
    """Which kind of device it was: the GPU's name, else the processor's; "" where the record does not know."""
    gpu = environment.get("gpu")
    if device.startswith("cuda"):
        return str(gpu.get("name") or "") if isinstance(gpu, Mapping) else ""
    return str(environment.get("cpu") or "")
