"""The runs of a folder, and the one that a name means: the latest complete run, where all have the same settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.datasets.load import FILE
from bench.errors import RunError, UnknownName, UsageError
from bench.runs.record import RECORD, RunRecord, read_record, slug

MOST_NAMED = 8  # candidates in a message


def find_run(said: str, results: Path, split: str | None = None) -> Path:
    """The folder of the run that `said` means: a run's folder or its run.json, PIPELINE/SPLIT, PIPELINE with `split`.

    Raises UsageError naming the candidates where several runs could be meant, UnknownName for a pipeline without runs,
    and RunError where there is no finished run.
    """
    path = Path(said).expanduser()
    if path.name == RECORD and path.is_file():
        return path.parent
    if (path / RECORD).is_file():
        return path
    if path.is_dir() and any(path.glob(f"*/{RECORD}")):
        return _latest(path, said)
    runs = results / "runs"
    if (name := _known(runs, said)) is not None:
        return _latest(_split_of(runs / name, said, split), said)
    pipeline, _, of = said.rpartition("/")
    if pipeline and (name := _known(runs, pipeline)) is not None:
        return _latest(_split_of(runs / name, said, of), said)
    raise UnknownName("run", said, _folders(runs), hint=f"a folder with {RECORD}, PIPELINE/SPLIT, or runs in {runs}")


def _folders(parent: Path) -> list[str]:
    """The visible folders in a folder, by name."""
    return sorted(path.name for path in parent.glob("*") if path.is_dir() and not path.name.startswith("."))


def _known(parent: Path, name: str) -> str | None:
    """The folder that `name` has under `parent`; what is not its slug cannot lead out of it."""
    folder = slug(name)
    return folder if folder and (parent / folder).is_dir() else None


def _split_of(pipeline: Path, said: str, split: str | None) -> Path:
    """The folder of the pipeline's runs on one split: the one named, else the only one."""
    splits = _folders(pipeline)
    if split is not None:
        if split.startswith(FILE):  # runs of file:images/birds.jsonl are kept under file:birds
            split = f"{FILE}{Path(split.removeprefix(FILE)).stem}"
        if (name := _known(pipeline, split)) is None:
            raise UnknownName(f"split with runs of {pipeline.name}", split, splits)
        return pipeline / name
    if len(splits) != 1:
        choices = ", ".join(f"{pipeline.name}/{name}" for name in splits[:MOST_NAMED]) or "none"
        raise UsageError(f"{said!r} has runs on {len(splits)} splits ({choices}); say which, or pass --split NAME")
    return pipeline / splits[0]


def _latest(parent: Path, said: str) -> Path:
    """The latest complete run in a folder, whole ones before partial ones."""
    runs = [run for run in stored_records(parent) if run[1].status == "complete"]
    if not runs:
        raise RunError(f"{said!r}: no finished run lies in {parent}; run it first, or give the folder of a run")
    runs = [run for run in runs if not run[1].identity.data.partial] or runs
    folder, latest = max(runs, key=lambda run: (run[1].finished or "", run[1].started, run[0].name))
    others = [path for path, record in runs if _what(record) != _what(latest)]
    if others:
        named = sorted(path.as_posix() for path in [folder, *others])
        more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        raise UsageError(
            f"{said!r} could mean runs of different settings, weights or data; give the folder of one:\n  "
            + "\n  ".join(named[:MOST_NAMED])
            + more
        )
    return folder


def stored_records(root: Path, broken: list[tuple[Path, RunError]] | None = None) -> Iterator[tuple[Path, RunRecord]]:
    """Yields every run folder under `root` with its record, in the order of their names.

    Runs that are just being imported, in hidden folders, are left out; so are those that cannot be read, which
    `broken` collects with the reason.
    """
    for path in sorted(root.glob(f"**/{RECORD}")):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        try:
            yield path.parent, read_record(path.parent)
        except RunError as error:
            if broken is not None:
                broken.append((path.parent, error))


def _what(record: RunRecord) -> tuple[object, ...]:
    """What two runs must share for the later one to stand for both."""
    identity = record.identity
    return (record.signature, record.settings_hash, identity.device, tuple(sorted(identity.weights.items())))
