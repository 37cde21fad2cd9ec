"""The seal of a record: the SHA-256 of its JSON, kept in the record, so that a number edited by hand is noticed.

It is made of the values and not of the bytes (JSON with sorted keys and no spaces), so another indentation or line
ending is no damage. It tells damage and edits, not forgery: who writes the file can write the seal too. What a forger
cannot make up are predictions that give the numbers; `bench verify` scores them again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json

SEAL = "sha256"
Record = TypeVar("Record", bound=BaseModel)


def seal_of(raw: dict[str, Any]) -> str:
    """Compute the SHA-256 of a record's JSON without its seal."""
    rest = {key: value for key, value in raw.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(record: Record) -> Record:
    """Return the record with its seal made anew."""
    return record.model_copy(update={SEAL: seal_of(from_json(record.model_dump_json(by_alias=True)))})


def opened(raw: Any, schema: int) -> Any:
    """Return the JSON of a record. Raises ValueError for another schema, and where the seal is not its own.

    Records of older versions have no seal.
    """
    if not isinstance(raw, dict):
        return raw  # the models name what is wrong with it
    version = raw.get("schema_version", schema)
    if version != schema:
        raise ValueError(f"its schema_version is {version!r}; use the version of bench that wrote it, or a newer one")
    if raw.get(SEAL) and raw[SEAL] != seal_of(raw):
        raise ValueError(
            "a value was changed after bench wrote it: its SHA-256 is another; restore the file from where it came, "
            "or run it again with --fresh"
        )
    return raw
