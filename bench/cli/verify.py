"""`bench verify`: stored runs against their hashes, and against a re-score of their predictions."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer

from bench.cli.options import Config, Json, Results, settings_of
from bench.cli.output import echo, emit


def verify(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs, as bench compare names them.", show_default="all of results"),
    ] = None,
    seal: Annotated[
        bool, typer.Option("--seal", help="Give runs without hashes theirs, if a re-score gives their numbers.")
    ] = False,
    results: Results = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Check that stored runs are as they were written, and that their predictions give their numbers.

    Every file is compared with its SHA-256 in run.json, and where the split is at hand the predictions are scored
    again. Exit code 1: something is damaged.
    """
    from bench.cli.leaderboard import stored_results
    from bench.comparison.compared_runs import find_runs
    from bench.errors import CheckFailed
    from bench.leaderboard.verification import verify_all, verify_runs

    resolved = settings_of(config, results)
    if runs:
        verdicts = verify_runs(find_runs(runs, None, resolved), resolved, seal)
    else:
        verdicts = verify_all(stored_results(resolved), resolved, seal)
    done = []
    for verdict in verdicts:
        echo(verdict.line, err=as_json)
        done.append(verdict)
    states = Counter(verdict.state for verdict in done)
    hashed = sum(verdict.hashes for verdict in done)
    rescored = sum(verdict.rescore == "equal" for verdict in done)
    listed = ", ".join(f"{states[state]} {state}" for state in ("intact", "damaged", "unfinished"))
    summary = f"{listed}; {rescored} re-scored and equal, {len(done) - hashed} without hashes"
    echo(summary if done else f"no runs in {resolved.settings.results}", err=as_json)
    if as_json:
        emit({"runs": [asdict(verdict) for verdict in done], **{key: states[key] for key in ("intact", "damaged")}})
    if states["damaged"]:
        raise CheckFailed(f"{states['damaged']} of {len(done)} damaged; restore them, or run them again with --fresh")
