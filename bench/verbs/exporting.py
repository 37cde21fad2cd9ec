"""Weights as other code has them: what `bench export` does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import registry
from bench.errors import UsageError
from bench.evaluation.opening import pipeline_context
from bench.hashing import sha256_file
from bench.runs.files import make_folder
from bench.settings import Resolved


def export_official(
    pipeline: str,
    out: Path,
    resolved: Resolved,
    dataset: str = "file",
    options: Mapping[str, Any] | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write a pipeline's weights as its official code would load them; what `bench export --json` prints.

    `dataset` names the lines of bench.toml that say which weights, `options` win over them. A file that is there is
    replaced only with `force`, and then whole or not at all. Raises UnknownName for a pipeline without an official
    format, UsageError, WeightsError, RunError.
    """
    exporter = registry.exporter(pipeline)
    if out.is_dir():
        raise UsageError(f"--official {out} is a folder; name the file to write")
    if out.exists() and not force:
        raise UsageError(f"--official {out} is there already; --force replaces it")
    make_folder(out.parent)
    # On the CPU: numbers are copied here, not computed.
    written = exporter(pipeline_context(pipeline, dataset, resolved, options, device="cpu"), out)
    return {
        "pipeline": pipeline,
        "path": str(written),
        "bytes": written.stat().st_size,
        "sha256": sha256_file(written),
    }
