"""`bench data noisy-labels`: pseudo-labels of the embedded data whose faults are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import Config, Json, Limit, settings_of
from bench.cli.output import emit


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
    per_image: Annotated[int, typer.Option(min=1, help="Rows an image, at most.")] = 6,
    limit: Limit = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the rows and their faults.")] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Write pseudo-labels of shapes made from the truth, with faults at stated rates, to measure a curriculum by.

    Provenance says of each row which fault it has and where the true box is; the same command writes the same bytes.
    """
    from collections import Counter

    from bench.datasets.load import load_split
    from bench.datasets.shapes.noise import check_rates, noisy_labels_of
    from bench.errors import DataError, UsageError
    from bench.labelling.label_files import check_jsonl_name, write_labels

    check_jsonl_name(out)
    rates = (wrong_attribute, wrong_object, shifted_box)
    check_rates(rates)
    resolved = settings_of(config, seed=seed)
    data = load_split(split, resolved)
    if data.dataset != "shapes":
        raise UsageError(f"--split {split}: only of shapes is the truth about every thing known; try shapes-train")
    scenes = data.scenes[:limit]
    faults: Counter[str] = Counter()
    settings = resolved.settings
    labels = noisy_labels_of(scenes, kind, settings.data.shapes.seed, settings.run.seed, rates, per_image)
    rows, images, _ = write_labels(out, labels, data.name, lambda label: faults.update([label.provenance["noise"]]))
    if not rows:
        raise DataError(f"not one of {len(scenes):,} images allows a {kind} row; raise --limit")
    if json:
        emit({"file": out, "rows": rows, "images": images, "noise": dict(faults.most_common())})
        return
    shares = ", ".join(f"{name} {n:,} ({n / faults.total():.1%})" for name, n in faults.most_common())
    typer.echo(f"{rows:,} rows about {images:,} images in {out}: {shares}")
