"""`bench data`: prepare, verify and list data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.data_labels import noisy_labels, review
from bench.cli.options import Config, Json, Offline, settings_of
from bench.cli.output import console_of, echo, emit, table_of

if TYPE_CHECKING:
    from rich.console import Console

    from bench.datasets.prepared import Header
    from bench.datasets.verify import Standing, Verified

app = typer.Typer(help="Prepare, verify, list and draw data sets.", no_args_is_help=True)
app.command("noisy-labels")(noisy_labels)
app.command()(review)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A data set (refcoco) or one of its splits (refcoco-val).")]
NAMED = 10  # images of each kind of fault that are named on the terminal; --json has all


@app.command()
def prepare(
    name: Name,
    annotations: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="The refer or Flickr30k Entities folder, index list, .jsonl, parquet or hub repository.",
        ),
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="Folder or zip of the images; may be repeated.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(metavar="merged|any-box", help="Boxes of a Flickr30k phrase: merged into one, or any.")
    ] = "merged",
    revision: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="Commit of a hub repository, 40 hex digits.")
    ] = None,
    annotation_ids: Annotated[
        Path | None,
        typer.Option(help="Use only the annotation ids in this file, one a line, of a hub mirror that mixes splits."),
    ] = None,
    subset: Annotated[
        bool, typer.Option("--subset", help="Accept a part of a split; no table shows its results.")
    ] = False,
    offline: Offline = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Build the local index of a data set from your files, and store where its images are.

    A split without images can be scored but not run; name them later with --images alone.
    """
    from dataclasses import asdict

    from bench.datasets.prepare import prepare as prepare_splits
    from bench.datasets.prepared import index_path
    from bench.datasets.readers import ReadOptions, load_ids
    from bench.errors import UsageError

    if protocol not in ("merged", "any-box"):
        raise UsageError(f"--protocol {protocol}: it is merged or any-box")
    kept = None if annotation_ids is None else load_ids(annotation_ids)
    resolved = settings_of(config, offline=offline)
    console = console_of(json)
    options = ReadOptions(None, "any-box" if protocol == "any-box" else "merged", revision, kept, subset)
    done = prepare_splits(name, annotations, images or [], resolved, options, log=console.print)
    rows = []
    for header, changed, missing in done:
        path = index_path(resolved.home, header.dataset, header.part)
        _print_prepared(console, header, path, changed, missing)
        rows.append(
            {
                "split": header.split,
                "path": path,
                **asdict(header.counts),
                "fingerprint": header.fingerprint,
                "partial": header.partial,
                "format": header.format,
                "protocol": header.protocol,
                "differs_from_before": changed,
                "missing_images": None if missing is None else len(missing),
            }
        )
    if not done:
        console.print(f"{name}: the folders of images are stored; no split is prepared yet (give --annotations)")
    if json:
        emit({"splits": rows})


@app.command()
def verify(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set, one of its splits, or file:PATH.jsonl.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads that open images.")] = 4,
    annotations_only: Annotated[
        bool, typer.Option("--annotations-only", help="Check the annotations, and open no image.")
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Recount a prepared data set and open every image. Exits with 1 when something is missing or wrong."""
    from dataclasses import asdict

    from rich.progress import Progress

    from bench.datasets.verify import verify as verify_splits
    from bench.errors import CheckFailed

    resolved = settings_of(config)
    console = console_of(json)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"opening images of {name}", total=None)
        verified = verify_splits(name, resolved, threads, not annotations_only, lambda n: bar.advance(task, n))
    for split in verified:
        _print_verified(console, split)
    wrong = [split.split for split in verified if not split.ok]
    if json:
        emit({"ok": not wrong, "splits": [{**asdict(split), "ok": split.ok} for split in verified]})
    if wrong:
        raise CheckFailed(f"{', '.join(wrong)}: something is missing or wrong, see above")


@app.command("list")
def listing(config: Config = None, json: Json = False) -> None:
    """List the data sets: which are prepared, where to get the others, and their terms of use."""
    from dataclasses import asdict

    from bench.datasets.verify import survey
    from bench.reporting.terminal import print_table

    resolved = settings_of(config)
    datasets = survey(resolved)
    if json:
        rows = [
            {**asdict(standing), "terms": dataset.terms, "where": dataset.where}
            for dataset, standings in datasets
            for standing in standings
        ]
        emit({"home": resolved.home, "splits": rows})
        return
    console = console_of()
    columns = ("split", "expressions", "images", "state", "images at")
    cells = (_cells(standing) for _, standings in datasets for standing in standings)
    print_table(console, table_of(columns, cells, right=columns[1:3], fold=columns[3:]))
    console.print(f"\nprepared data lies in {resolved.home}; your own data needs no preparing: file:PATH.jsonl\n")
    for dataset, standings in datasets:
        console.print(f"[bold]{dataset.name}[/bold]  {_plain(dataset.title)}\n  terms: {_plain(dataset.terms)}")
        if not all(standing.runnable for standing in standings):
            console.print("  " + _plain(dataset.where).replace("\n", "\n  "))
        for standing in standings:
            if standing.problem:
                console.print(f"  [red]{_plain(standing.problem)}[/red]")


@app.command()
def sheet(
    split: Annotated[str, typer.Argument(metavar="SPLIT", help="A split: shapes-val, refcoco-testA, file:PATH.jsonl.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The image file to write.")] = Path("sheet.png"),
    scenes: Annotated[int, typer.Option(min=1, max=200, help="Number of scenes.")] = 12,
    start: Annotated[int, typer.Option(min=0, help="Place of the first scene in the split.")] = 0,
    config: Config = None,
) -> None:
    """Draw a contact sheet of a split: its images, boxes and expressions."""
    import shlex

    from bench.datasets.load import load_split
    from bench.errors import UsageError
    from bench.reporting.drawing import contact_sheet, save_image

    data = load_split(split, settings_of(config))
    drawn = data.scenes[start : start + scenes]
    if not drawn:
        raise UsageError(f"--start {start}: {split} has {len(data.scenes):,} scenes")
    save_image(contact_sheet(drawn, data.images), out)
    echo(f"{len(drawn)} scenes of {data.name} drawn in {out}; are the boxes where they should be?")
    echo(f"next: bench run --pipeline yolo-clip,mdetr --split {shlex.quote(split)}")


def _plain(text: str) -> str:
    """Escape what rich would take for mark-up."""
    from rich.markup import escape

    return escape(text)


def _cells(standing: Standing) -> tuple[str, ...]:
    colour = {"ready": "green", "broken": "red", "not prepared": "dim"}.get(standing.state, "yellow")
    state = f"[{colour}]{standing.state}[/{colour}]" + ("[yellow], a part of it[/yellow]" if standing.partial else "")
    at = "its own" if standing.images_at is None else "\n".join(map(_plain, standing.images_at)) or "[dim]none[/dim]"
    counts = ("" if value is None else f"{value:,}" for value in (standing.expressions, standing.images))
    return standing.split, *counts, state, at


def _print_prepared(
    console: Console, header: Header, path: Path, changed: Sequence[str], missing: Sequence[str] | None
) -> None:
    counts = header.counts
    refs = "" if counts.refs is None else f"{counts.refs:,} refs, "
    kind = "a part of the split, no table will show it" if header.partial else "the published counts"
    console.print(
        f"[bold]{header.split}[/bold]  {counts.expressions:,} expressions, {refs}{counts.images:,} images ({kind})\n"
        f"  data:{header.fingerprint[:8]}  from {header.format}  in {_plain(str(path))}"
    )
    if missing is None:
        console.print("  no images yet: it can be scored but not run")
    elif missing:
        console.print(f"  [yellow]{len(missing):,} of {counts.images:,} images are not there:[/yellow]")
        _print_some(console, "missing: ", missing)
    for difference in changed:
        console.print(f"  [yellow]differs from before:[/yellow] {_plain(difference)}")


def _print_verified(console: Console, split: Verified) -> None:
    state = "[green]ok[/green]" if split.ok else "[red]not ok[/red]"
    counts = split.counts
    console.print(
        f"[bold]{_plain(split.split)}[/bold]  {state}  {counts.expressions:,} expressions, {counts.images:,} "
        f"images, {split.images_checked:,} of them opened  data:{split.fingerprint[:8]}"
    )
    if split.none or split.several:
        console.print(f"  {split.none:,} of them refer to nothing, {split.several:,} to several boxes")
    if not split.sizes_annotated:
        console.print("  the source has no image sizes, so a resized image cannot be detected")
    kinds = {"": split.annotations, "missing: ": split.missing, "broken: ": split.broken, "size: ": split.other_size}
    for kind, faults in kinds.items():
        _print_some(console, kind, faults, " (--json names all)")


def _print_some(console: Console, kind: str, faults: Sequence[str], rest: str = "") -> None:
    for fault in faults[:NAMED]:
        console.print(f"  {kind}{_plain(fault)}")
    if len(faults) > NAMED:
        console.print(f"  {kind}{len(faults) - NAMED:,} more{rest}")
