"""Flags that set an option of the pipeline's own: some pipelines have it and some do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from bench.errors import SettingsError, UsageError

WHY = {
    "tokenizer": "its text encoder knows its own",
    "preprocessing": "it shows its network a picture in one way only",
}
Ways = Literal["official", "clean", "auto"]  # of making a picture ready


@contextmanager
def as_options(pipeline: str, flags: Mapping[str, object]) -> Iterator[dict[str, Any]]:
    """Yields the flags that were given, as options. Raises UsageError, naming the flag instead of a key of bench.toml,
    when the block finds that the pipeline has no such option.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        yield given
    except SettingsError as error:
        for key in given:
            if key in error.keys:
                why = f"; {WHY[key]}" if key in WHY else ""
                raise UsageError(f"--{key}: {pipeline} takes none{why}") from None
        raise
