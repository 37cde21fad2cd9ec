"""Find the runs that names mean, and read the runs of a comparison: the same expressions, or an error."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from bench.datasets.load import load_split
from bench.errors import RunError, UnknownName, UsageError
from bench.runs.integrity import checked_record
from bench.runs.numbers import Metrics
from bench.runs.opening import differences
from bench.runs.outcomes import OUTCOMES, StoredOutcomes, read_outcomes
from bench.runs.record import FILE, RECORD, RunRecord, slug
from bench.settings import PERTURB, Resolved

MOST_NAMED = 8  # candidates in a message
log = logging.getLogger("bench.runs")


@dataclass(frozen=True, slots=True, eq=False)
class ComparedRun:
    """A run with its outcomes. `label` is A, B, C ... in the order given; `name` tells runs of one pipeline apart."""

    label: str
    name: str
    folder: Path
    record: RunRecord
    metrics: Metrics
    outcomes: StoredOutcomes


def read_runs(folders: Sequence[Path], labels: Sequence[str] | None = None) -> list[ComparedRun]:
    """Read the runs, two or more, and make sure that they answered the same expressions under the same rules.

    Raises RunError with the reason where they did not, for a run that is unfinished or whose outcomes are missing or
    not those of its record, and UsageError for fewer than two different runs.
    """
    if len(folders) < 2:
        raise UsageError("a comparison needs two runs or more")
    places = [folder.resolve() for folder in folders]
    if twice := next((folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1), None):
        raise UsageError(f"{twice}: is given twice; a run is not compared with itself")
    records = [checked_record(folder) for folder in folders]
    for folder, record in zip(folders, records, strict=True):
        if record.status != "complete":
            raise RunError(f"{folder}: the run is not finished; start its command again to continue it")
        _refuse_other_data(folders[0], records[0], folder, record)
    _refuse_other_pipelines(folders, records)
    names = Counter(record.name for record in records)
    runs = []
    for number, (folder, record) in enumerate(zip(folders, records, strict=True)):
        turn, letter = divmod(number, len(ascii_uppercase))  # A to Z, then A2 ...
        label = labels[number] if labels else ascii_uppercase[letter] + (str(turn + 1) if turn else "")
        name = record.name if names[record.name] == 1 else f"{record.name} ({folder.resolve().name})"
        runs.append(_read(label, name, folder, record))
    for other in runs[1:]:
        _refuse_other_expressions(runs[0], other)
    return runs


def run_notes(runs: Sequence[ComparedRun]) -> Iterator[str]:
    """Yield what a reader must know about each run beside its numbers."""
    if part := runs[0].record.part:
        yield f"partial: {part}"
    for run in runs:
        if run.record.git.get("dirty"):
            yield f"{run.label} was made by code that is in no commit"
        if run.metrics.errors:
            yield f"{run.label} could not read {run.metrics.errors:,} images; their expressions are misses"


def _refuse_other_data(first: Path, a: RunRecord, second: Path, b: RunRecord) -> None:
    """Raise RunError when two records say that their runs are not about the same data under the same rules."""
    one, other = a.identity.data, b.identity.data
    both = f"{first} and {second} cannot be compared"
    if one.split != other.split:
        raise RunError(
            f"{both}: they are runs on different splits ({one.split} and {other.split}); run both on one split"
        )
    if one.partial != other.partial:
        part, of = (first, a) if one.partial else (second, b)
        whole = "give it every row" if of.imported else "run it without --limit"
        raise RunError(f"{both}: {part} is partial, {of.part}; {whole}")
    if one.fingerprint != other.fingerprint:
        versions = (f"data {data.fingerprint[:8]}, {data.expressions:,} expressions" for data in (one, other))
        raise RunError(
            f"{both}: they are runs on different data of the same name, {one.split} ({' and '.join(versions)}); run "
            "the older one again on the data at hand"
        )
    if a.rule != b.rule:
        raise RunError(
            f"{both}: they count hits by different protocols ({a.rule!r} and {b.rule!r}); run one again, or "
            "import imported predictions again, with the other's --protocol"
        )
    if a.proposals != b.proposals:
        given = [f"{run.proposals or 'its own'}" for run in (a, b)]
        raise RunError(
            f"{both}: they chose from different proposals ({first}: {given[0]}; {second}: {given[1]}), so the "
            "difference would be the proposals' and not the pipelines'"
        )
    if a.perturbed == b.perturbed and a.comparable != b.comparable:
        raise RunError(f"{both}: their numbers mean different things ({a.signature} and {b.signature})")


def _refuse_other_pipelines(folders: Sequence[Path], records: Sequence[RunRecord]) -> None:
    """Raise RunError where perturbed and plain runs differ in more than what was perturbed."""
    plain = [
        record.identity.model_copy(update={"options": {**record.identity.options, PERTURB: ""}}) for record in records
    ]
    if len({record.perturbed for record in records}) > 1:
        for folder, each in zip(folders, plain, strict=True):
            if lines := differences(plain[0], each):
                raise RunError(
                    f"{folders[0]} and {folder} cannot be compared: one got perturbed scenes, and they differ in more "
                    f"than that ({'; '.join(lines[:MOST_NAMED])}); compare runs of one pipeline and its settings"
                )


def _read(label: str, name: str, folder: Path, record: RunRecord) -> ComparedRun:
    """Read a run with its outcomes, which must be those that its record counts."""
    outcomes, metrics = read_outcomes(folder), record.metrics
    if metrics is None:
        raise RunError(f"{folder}: its run.json has no metrics; run it again")
    n, hits = len(outcomes.ids), int(outcomes.hit.sum())
    if (n, hits) != (metrics.n, metrics.hits):
        raise RunError(
            f"{folder}: {OUTCOMES} has {hits:,} hits of {n:,}, but run.json says {metrics.hits:,} of {metrics.n:,}; "
            f"make it again with: bench score {folder} --keep"
        )
    return ComparedRun(label, name, folder, record, metrics, outcomes)


def _refuse_other_expressions(a: ComparedRun, b: ComparedRun) -> None:
    """Raise RunError when the outcomes are not of the same expressions in the same order."""
    for what, one, other in (
        ("expression", a.outcomes.ids, b.outcomes.ids),
        ("image", a.outcomes.scenes, b.outcomes.scenes),
    ):
        if one != other:
            shorter = min(len(one), len(other))
            at = next((n for n in range(shorter) if one[n] != other[n]), shorter)
            lengths = f"one has {len(one):,}, the other {len(other):,}"
            example = f"{one[at]!r} and {other[at]!r}" if at < shorter else lengths
            raise RunError(
                f"{a.folder} and {b.folder} cannot be compared: from {what} {at + 1:,} on their outcomes are not of "
                f"the same {what}s ({example}); make both anew with: bench score RUN --keep"
            )
    if not (a.outcomes.image == b.outcomes.image).all():
        raise RunError(
            f"{a.folder} and {b.folder} cannot be compared: their outcomes put expressions with other images; make "
            "both anew with: bench score RUN --keep"
        )


def find_runs(names: Sequence[str], split: str | None, resolved: Resolved) -> list[Path]:
    """Find the folders of several runs, as `find_run` does; of file:PATH, where it is a file, those on its content."""
    fingerprint = None
    if split is not None and split.startswith(FILE) and Path(split.removeprefix(FILE)).expanduser().is_file():
        data = load_split(split, resolved)
        split, fingerprint = data.name, data.fingerprint
    return [find_run(name, Path(resolved.settings.results), split, fingerprint) for name in names]


def find_run(name: str, results: Path, split: str | None = None, fingerprint: str | None = None) -> Path:
    """Find the folder of a run by its folder, its run.json, PIPELINE/SPLIT, or PIPELINE with `split`.

    `fingerprint` says which data of the split's name.
    Raises UsageError naming the candidates where several runs could be meant, UnknownName for a pipeline without runs,
    and RunError where there is no finished run.
    """
    path = Path(name).expanduser()
    if path.name == RECORD and path.is_file():
        return path.parent
    if (path / RECORD).is_file():
        return path
    if path.is_dir() and any(path.glob(f"*/{RECORD}")):
        return _latest([path], name, None)
    runs = results / "runs"
    if (folder := _known(runs, name)) is not None:
        return _latest(_folders_on(runs / folder, name, split), name, fingerprint)
    pipeline, _, of = name.rpartition("/")
    if pipeline and (folder := _known(runs, pipeline)) is not None:
        return _latest(_folders_on(runs / folder, name, of), name, fingerprint)
    raise UnknownName("run", name, _folders(runs), hint=f"a folder with {RECORD}, PIPELINE/SPLIT, or runs in {runs}")


def _folders(parent: Path) -> list[str]:
    """List the visible folders in a folder, by name."""
    return sorted(path.name for path in parent.glob("*") if path.is_dir() and not path.name.startswith("."))


def _known(parent: Path, name: str) -> str | None:
    """Return the folder that `name` has under `parent`; what is not its slug cannot lead out of it."""
    folder = slug(name)
    return folder if folder and (parent / folder).is_dir() else None


def _folders_on(pipeline: Path, name: str, split: str | None) -> list[Path]:
    """Return the folders of the pipeline's runs on one split: the one named, else the only one.

    People's own data of one name may have several, one for each content.
    """
    splits = _folders(pipeline)
    if split is not None:
        if split.startswith(FILE):  # runs of file:images/birds.jsonl are kept as those of file:birds
            split = f"{FILE}{Path(split.removeprefix(FILE)).stem}"
        own = "(-[0-9a-f]{8})?" if split.startswith(FILE) else ""
        if folders := [each for each in splits if re.fullmatch(re.escape(slug(split)) + own, each)]:
            return [pipeline / each for each in folders]
        raise UnknownName(f"split with runs of {pipeline.name}", split, splits)
    if len(splits) != 1:
        choices = ", ".join(f"{pipeline.name}/{each}" for each in splits[:MOST_NAMED]) or "none"
        raise UsageError(f"{name!r} has runs on {len(splits)} splits ({choices}); name one with --split NAME")
    return [pipeline / splits[0]]


def _latest(parents: Sequence[Path], name: str, fingerprint: str | None) -> Path:
    """Return the latest complete run in some folders, whole ones before partial ones."""
    runs = [run for parent in parents for run in stored_records(parent) if run[1].status == "complete"]
    if fingerprint is not None:  # of a part, that of the whole is unknown
        runs = [run for run in runs if run[1].identity.data.partial or run[1].identity.data.fingerprint == fingerprint]
    if not runs:
        places = ", ".join(map(str, parents))
        raise RunError(f"{name!r}: there is no finished run in {places}; run it first, or give the folder of a run")
    runs = [run for run in runs if not run[1].identity.data.partial] or runs
    runs = [run for run in runs if not run[1].perturbed] or runs
    folder, latest = max(runs, key=lambda run: (run[1].finished or "", run[1].started, run[0].name))
    others = [path for path, record in runs if _what(record) != _what(latest)]
    if others:
        paths = sorted(path.as_posix() for path in [folder, *others])
        more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
        raise UsageError(
            f"{name!r} could mean runs of different settings, weights or data; give the folder of one:\n  "
            + "\n  ".join(paths[:MOST_NAMED])
            + more
        )
    return folder


def stored_records(root: Path, broken: list[tuple[Path, RunError]] | None = None) -> Iterator[tuple[Path, RunRecord]]:
    """Yield every run folder under `root` with its record, in the order of their names.

    Runs that are just being imported, in hidden folders, are left out; so are those that cannot be read or are damaged,
    which `broken` collects with the reason; without it they are logged.
    """
    for path in sorted(root.glob(f"**/{RECORD}")):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        try:
            yield path.parent, checked_record(path.parent)
        except RunError as error:
            if broken is None:
                log.warning("left out: %s", error)
            else:
                broken.append((path.parent, error))


def _what(record: RunRecord) -> tuple[object, ...]:
    """Return what two runs must share for the later one to stand for both."""
    identity = record.identity
    return (record.signature, record.settings_hash, identity.device, tuple(sorted(identity.weights.items())))
