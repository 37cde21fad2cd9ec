"""Read published numbers with their sources (published.toml), and pick those that belong beside a row.

An entry belongs beside a row of its pipeline and split unless training data or weights contradict. All values that
circulate for a method are listed, in the order of the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.datasets.load import FILE, find_split
from bench.errors import DataError
from bench.reporting import marks as signs
from bench.reporting.rows import number_of
from bench.reporting.terminal import print_table

if TYPE_CHECKING:
    from rich.console import Console

ENTRIES = Path(__file__).with_name("published.toml")
How = Literal["read", "figure", "computed", "recalled", "third-party", "inferred"]
HOW = get_args(How)
UNCHECKED = ("recalled", "third-party", "inferred")  # nobody looked these values up at their source
OTHER_SPLITS = ("ref-adv-s",)  # no data set here knows them; as own data they are file:ref-adv-s


class Published(BaseModel):
    """One method as one source reports it; the file's head explains each field. `values` is split -> percent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(min_length=1)
    training: Literal["full", "pseudo", "zero-shot", "mixed"]
    protocol: Literal["iou", "strict", "giou", "letterbox-clamped", "letterbox-dilated", "unknown"]
    source: str = Field(min_length=1)
    how: How
    values: Mapping[str, float] = Field(min_length=1)
    pipeline: str = ""
    backbone: str = ""
    metric: Literal["acc@0.5", "mean_iou", "mask_miou", "ciou"] = "acc@0.5"
    weights: tuple[str, ...] = ()
    note: str = ""
    variant: bool = False


@cache
def published() -> tuple[Published, ...]:
    """Return every entry of the file that comes with the package, in its order."""
    return read_published(ENTRIES)


def read_published(path: Path) -> tuple[Published, ...]:
    """Read the entries of a file. Raises DataError naming the file, the entry and the field for what is not one."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: cannot be read as TOML ({error})") from None
    if strange := sorted(content.keys() - {"published"}):
        raise DataError(f"{path}: unknown table {strange[0]!r}; every entry is a [[published]]")
    raw = content.get("published", [])
    if not isinstance(raw, list):
        raise DataError(f"{path}: published is one table; write [[published]] with two brackets")
    entries = tuple(_entry(path, number, entry) for number, entry in enumerate(raw, 1))
    first: dict[tuple[Any, ...], int] = {}
    for number, entry in enumerate(entries, 1):
        for split in entry.values:
            key = (entry.method, entry.backbone, entry.training, entry.source, entry.metric, entry.protocol, split)
            if key in first:
                raise DataError(
                    f"{path}, entry {number} ({entry.method}): {split} is in entry {first[key]} of the same source "
                    "too; keep one of them"
                )
            first[key] = number
    return entries


def _entry(path: Path, number: int, entry: Any) -> Published:
    name = entry.get("method", "without a method") if isinstance(entry, Mapping) else "not a table"
    where = f"{path}, entry {number} ({name})"
    try:
        checked = Published.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{where}: {field}: {first['msg']}") from None
    for split, value in checked.values.items():
        # A fraction among percents is the slip that would be believed: 0.62 read as a score of 0.62 %.
        if not 1 <= value <= 100:
            raise DataError(f"{where}: values.{split}: {value:g} is no percentage from 1 to 100")
    return checked


def find_published_split(name: str) -> str:
    """Return the name under which values of a split are listed. Raises UnknownName with the nearest split names."""
    stem = PurePath(name.removeprefix(FILE)).name.removesuffix(".jsonl")
    if stem in OTHER_SPLITS:
        return stem
    dataset, part = find_split(name)
    return f"{dataset.name}-{part.name}"


def on_split(split: str) -> list[Published]:
    """Return the entries with a value for a split, highest first; means of IoU after accuracies."""
    entries = [entry for entry in published() if split in entry.values]
    return sorted(entries, key=lambda entry: (entry.metric != "acc@0.5", -entry.values[split]))


def named(metric: str) -> str:
    """Return what follows a published value that is no accuracy."""
    return {"acc@0.5": "", "mean_iou": " mIoU", "mask_miou": " mask mIoU", "ciou": " cIoU"}[metric]


def beside(pipeline: str, split: str, training: str, weights: Sequence[str]) -> list[Published]:
    """Return the entries for a row, in the order of the file.

    `training` is the row's word (an unknown one contradicts nothing), `weights` the names of its weights: files, tags
    or ids. A row without named weights fits no entry that asks for some.
    """
    known = training in ("full", "pseudo", "zero-shot", "mixed")
    return [
        entry
        for entry in published()
        if entry.pipeline == pipeline
        and split in entry.values
        and not (known and entry.training != training)
        and (not entry.weights or _fits(entry.weights, weights))
    ]


def _fits(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Check whether one of the names, whole or without its folder, fits a pattern, in any case."""
    forms = {form.lower() for name in names for form in (name, PurePath(name).name)}
    return any(fnmatchcase(form, pattern.lower()) for form in forms for pattern in patterns)


def compared(entry: Published, row: Mapping[str, Any]) -> dict[str, Any]:
    """Compare a row with a published value: the entry's fields, `value` in percent, and how the row differs from it.

    `difference` is the row minus the value, in points. `within_interval`: whether the value lies in the row's own
    interval (None for a mean IoU or masks, and for too few images, which have none); `same_protocol`: None where the
    paper's is unknown.
    """
    value = entry.values[row["split"]]
    low, high = (100 * bound for bound in row["ci95"] or (0, 0))
    return {
        **entry.model_dump(mode="json", exclude={"values", "weights", "pipeline"}),
        "value": value,
        "difference": round(100 * (number_of(row, entry.metric) or 0.0) - value, 4),
        "within_interval": low <= value <= high if entry.metric == "acc@0.5" and row["ci95"] else None,
        "same_protocol": None if entry.protocol == "unknown" else entry.protocol == row["protocol"],
    }


def print_published(split: str, entries: Sequence[Published], console: Console) -> None:
    """Print the published values of a split; "?" follows those that nobody looked up at the source."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not entries:
        console.print(Text(f"nothing published is known for {split}"))
        return
    table = Table(title=f"{split}: published", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("Acc@0.5 %", justify="right", no_wrap=True)
    table.add_column("method", overflow="fold", min_width=24)
    for column in ("training", "protocol"):
        table.add_column(column, no_wrap=True)
    table.add_column("source", overflow="fold", min_width=30)
    for entry in entries:
        value = f"{entry.values[split]:.2f}{named(entry.metric)}"
        name = ", ".join(filter(None, (entry.method, entry.backbone)))
        source = f"{entry.source} ({entry.how})" + (f"; {entry.note}" if entry.note else "")
        cells = (value + (" ?" if entry.how in UNCHECKED else "  "), name, entry.training, entry.protocol, source)
        table.add_row(*map(Text, cells))
    print_table(console, table, ("protocol", "training"))
    if any(entry.how in UNCHECKED for entry in entries):
        console.print(Text(" ".join(signs.UNCHECKED)))
