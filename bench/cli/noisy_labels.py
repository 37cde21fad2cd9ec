"""`bench data noisy-labels`: pseudo-labels of the embedded data whose faults are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import Config, Json


def noisy_labels(
    kind: Annotated[str, typer.Option("--kind", help="template (1 entity), relation (2) or caption (3 and more).")],
    out: Annotated[Path, typer.Option("--out", help="The .jsonl to write.")],
    split: Annotated[str, typer.Option("--split", "-s", help="A split of shapes.")] = "shapes-train",
    wrong_attribute: Annotated[
        float, typer.Option(min=0, max=1, help="Share of rows with a colour or texture that the thing has not.")
    ] = 0.2,
    wrong_object: Annotated[
        float, typer.Option(min=0, max=1, help="Share of rows with the box of another thing.")
    ] = 0.2,
    shifted_box: Annotated[
        float, typer.Option(min=0, max=1, help="Share of rows whose box has IoU 0.1 to 0.45 with the true one.")
    ] = 0.1,
    per_picture: Annotated[int, typer.Option(min=1, help="Rows a picture, at most.")] = 6,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N pictures.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the rows and their faults.")] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Write pseudo-labels of shapes made from the truth, with faults at stated rates, to measure a curriculum by.

    Provenance says of each row which fault it has and where the true box is; the same command writes the same bytes.
    """
    import json as encoder
    from collections import Counter

    from rich.console import Console

    from bench.datasets.load import load_split
    from bench.datasets.pseudo_files import check_jsonl_name, write_labels
    from bench.datasets.shapes.noise import Rates, noisy_labels_of
    from bench.errors import DataError, UsageError
    from bench.labelling import PseudoLabel
    from bench.settings import load_settings

    check_jsonl_name(out)
    rates = Rates(wrong_attribute, wrong_object, shifted_box)
    resolved = load_settings(config, {"run.seed": seed})
    found = load_split(split, resolved)
    if found.dataset != "shapes":
        raise UsageError(f"--split {split}: only of shapes is the truth about every thing known; try shapes-train")
    if limit is not None:
        found = found.limited(limit)
    faults: Counter[str] = Counter()

    def counted(label: PseudoLabel) -> None:
        faults[label.provenance["noise"]] += 1

    data_seed = resolved.settings.data.shapes.seed
    labels = noisy_labels_of(found.scenes, kind, data_seed, resolved.settings.run.seed, rates, per_picture)
    written = write_labels(out, labels, found.name, counted)
    if not written.rows:
        raise DataError(f"not one of {len(found.scenes):,} pictures allows a {kind} row; raise --limit")
    said = {"file": str(out), "rows": written.rows, "pictures": written.pictures, "noise": dict(faults.most_common())}
    if json:
        print(encoder.dumps(said))
        return
    shares = ", ".join(f"{name} {n:,} ({n / faults.total():.1%})" for name, n in faults.most_common())
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{written.rows:,} rows about {written.pictures:,} pictures in {out}: {shares}", markup=False)
