"""Make the table that papers print: methods in rows, splits in columns, published values above the stored runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bench.comparison.paired import holm
from bench.comparison.ranks import compare_with
from bench.datasets.load import FILE, find_dataset, splits_of
from bench.errors import UnknownName, UsageError
from bench.reporting.marks import UNCHECKED, legend
from bench.reporting.paper_rows import Metric, PaperRow, own_rows, published_rows
from bench.reporting.published import OTHER_SPLITS
from bench.reporting.rows import MASK_METRICS

TITLES = {"acc@0.5": "Acc@0.5", "acc@0.7": "Acc@0.7", "acc@0.9": "Acc@0.9", "mean_iou": "Mean IoU"}
TITLES |= {"mask_miou": "Mean IoU of masks", "ciou": "cIoU of masks"}
PRINTED = {"referit": ("test",), "flickr30k": ("test",)}  # the parts that papers print, where they are not all
BETTER, WORSE = "↑", "↓"
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class PaperTable:
    """The whole table. `legend` explains the signs that occur; `tests` is how many comparisons Holm corrects for."""

    splits: tuple[str, ...]
    metric: Metric
    protocol: str
    published: tuple[PaperRow, ...]
    ours: tuple[PaperRow, ...]
    against: str
    tests: int
    legend: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def rows(self) -> tuple[PaperRow, ...]:
        """Every row, published ones first."""
        return self.published + self.ours

    def is_best(self, row: PaperRow, split: str) -> bool:
        """Tell whether a row has the best value of its group, published or ours, on a split."""
        group = self.published if row.sources else self.ours
        values = [round(other.values[split], 2) for other in group if split in other.values]
        return len(values) > 1 and split in row.values and round(row.values[split], 2) == max(values)


def paper_splits(names: Iterable[str]) -> tuple[str, ...]:
    """List the splits of data sets (without train) and single splits. Raises UnknownName."""
    splits: list[str] = []
    for name in names:
        if name.startswith(FILE) or name in OTHER_SPLITS:
            splits.append(f"{FILE}{Path(name.removeprefix(FILE)).name.removesuffix('.jsonl')}")
        elif dataset := find_dataset(name):
            parts = PRINTED.get(dataset.name, tuple(part.name for part in dataset.parts if part.name != "train"))
            splits += [f"{dataset.name}-{part}" for part in parts]
        else:
            splits += splits_of(name)
    return tuple(dict.fromkeys(splits))


def paper_table(
    results: Path,
    splits: Sequence[str],
    against: str | None = None,
    metric: Metric = "acc@0.5",
    protocol: str = "iou",
    wanted: Sequence[str] = (),
    data: Mapping[str, str] = MappingProxyType({}),
) -> PaperTable:
    """Make the table of the runs under `results`; `wanted` names published methods, "all" or "none".

    `data` is split -> fingerprint, where several files have a split's name.

    Raises UsageError where nothing is there to show and UnknownName for a row or method that does not exist.
    """
    notes: list[str] = []
    if against and metric in MASK_METRICS:
        raise UsageError(
            f"--metric {metric}: runs keep the outcome of each box, and no test of masks; leave --against out"
        )
    ours = own_rows(results, splits, metric, protocol, data, notes)
    known = published_rows(splits, metric, wanted, {row.training for row in ours})
    if not ours and (against or not known):
        raise UsageError(f"{results}: no complete run on {', '.join(splits)} under protocol {protocol}; run one first")
    baseline = _chosen(ours, against) if against else None
    tests = _test(results, baseline, ours, metric, notes) if baseline else 0
    explained = [*legend([row for each in ours for row in each.rows.values()])]
    signs = {sign for row in (*known, *ours) for sign in "".join(row.signs.values())}
    if UNCHECKED[0] in signs:
        explained.append(UNCHECKED)
    for sign, word in ((BETTER, "better"), (WORSE, "worse")):
        if baseline and sign in signs:
            explained.append((sign, f"significantly {word} than {baseline.name}"))
    label = baseline.name if baseline else ""
    return PaperTable(tuple(splits), metric, protocol, known, ours, label, tests, tuple(explained), tuple(notes))


def _chosen(ours: Sequence[PaperRow], name: str) -> PaperRow:
    """Return the row called `name`, or the only one of that pipeline."""
    exact = [row for row in ours if row.name == name]
    of_pipeline = [row for row in ours if any(record.name == name for record, _ in row.runs.values())]
    if chosen := exact or of_pipeline:
        if len(chosen) > 1:
            raise UsageError(
                f"--against {name}: several rows: {'; '.join(row.name for row in chosen)}; give one of them"
            )
        return chosen[0]
    raise UnknownName("row of our runs", name, [row.name for row in ours])


def _test(results: Path, baseline: PaperRow, ours: Sequence[PaperRow], metric: Metric, notes: list[str]) -> int:
    """Mark the values that differ significantly from the baseline's, with Holm's correction over the table."""
    tests: list[tuple[PaperRow, str, float, float]] = []
    for split, run in baseline.runs.items():
        others = [row for row in ours if row is not baseline and split in row.runs]
        compared = compare_with(results, run, [row.runs[split] for row in others], metric)
        for row, result in zip(others, compared, strict=True):
            if result is None:
                notes.append(f"not compared: {row.name} on {split}; `bench score RUN --keep` makes its outcomes anew")
            else:
                tests.append((row, split, *result))
    for (row, split, difference, _), p in zip(tests, holm([p for *_, p in tests]), strict=True):
        row.p[split] = p
        if p <= LEVEL and difference:
            row.signs[split] = BETTER if difference > 0 else WORSE
    return len(tests)
