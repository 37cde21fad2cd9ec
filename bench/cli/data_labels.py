"""`bench data review` and `bench data noisy-labels`: flags of labels, and labels with faults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import SPLIT, Config, Json, Limit, Seed, settings_of
from bench.cli.output import echo, emit


def review(
    split: Annotated[str, typer.Argument(metavar="SPLIT", help="The split that was reviewed: refcoco-val.")],
    reviewed: Annotated[Path, typer.Option(metavar="FILE", help="JSON or JSONL with a row a reviewed expression.")],
    doubtful: Annotated[
        str, typer.Option(metavar="KEY=VALUE,...", help="Key of a row, and what it says of a wrong label.")
    ] = "",
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of flags to write.")] = Path("flags.json"),
    xyxy: Annotated[
        bool, typer.Option("--xyxy", help="The file's boxes are corners, not x, y, width, height.")
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Turn somebody's review of a split into flags, matched by id, by object and text, or by box and text.

    Without --doubtful the keys of the file are listed.
    """
    from dataclasses import asdict

    from bench.audit.flags import read_review, write_flags
    from bench.datasets.load import load_split
    from bench.errors import DataError

    data = load_split(split, settings_of(config))
    made = read_review(reviewed, data, doubtful, xywh=not xyxy)
    if not made.flags:
        raise DataError(f"{reviewed}: not one of its {made.rows:,} rows matches {data.name}; is it another split's?")
    write_flags(out, data, made.flags, reviewed.name)
    wrong = sum(flag == "doubtful" for flag in made.flags.values())
    echo(
        f"{out}: {len(made.flags):,} expressions of {data.name} have a flag, {wrong:,} of them doubtful. Rows matched "
        f"by id {made.by_id:,}, by object {made.by_target:,}, by box {made.by_box:,}; not matched: {made.unmatched:,} "
        f"of {made.rows:,}",
        err=json,
    )
    if json:
        emit(asdict(made) | {"out": out, "unmatched": made.unmatched})


def noisy_labels(
    kind: Annotated[
        str,
        typer.Option("--kind", metavar="template|relation|caption", help="Rows of 1 entity, of 2, or of 3 and more."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .jsonl file to write.")],
    split: Annotated[str, typer.Option("--split", "-s", help="A split of shapes.", **SPLIT)] = "shapes-train",
    wrong_attribute: Annotated[
        float, typer.Option(min=0, max=1, help="Share of rows with a wrong colour or texture.")
    ] = 0.2,
    wrong_object: Annotated[
        float, typer.Option(min=0, max=1, help="Share of rows with the box of another object.")
    ] = 0.2,
    shifted_box: Annotated[
        float, typer.Option(min=0, max=1, help="Share of rows with a shifted box, of IoU 0.1 to 0.45.")
    ] = 0.1,
    per_image: Annotated[int, typer.Option(min=1, help="Most rows of an image.")] = 6,
    limit: Limit = None,
    seed: Seed = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Write pseudo-labels of shapes with faults at the given rates, to test a curriculum.

    Each row's provenance names its fault and its true box. The same command writes the same bytes.
    """
    from collections import Counter

    from bench.datasets.load import load_split
    from bench.errors import DataError, UsageError
    from bench.labelling.corrupted_shapes import check_rates, noisy_labels_of
    from bench.labelling.label_files import check_jsonl_name, write_labels

    check_jsonl_name(out)
    rates = (wrong_attribute, wrong_object, shifted_box)
    check_rates(rates)
    resolved = settings_of(config, seed=seed)
    data = load_split(split, resolved)
    if data.dataset != "shapes":
        raise UsageError(f"--split {split}: only shapes has the truth about every object; try shapes-train")
    scenes = data.scenes[:limit]
    faults: Counter[str] = Counter()
    settings = resolved.settings
    labels = noisy_labels_of(scenes, kind, settings.data.shapes.seed, settings.run.seed, rates, per_image)
    rows, count, _ = write_labels(out, labels, data.name, lambda label: faults.update([label.provenance["noise"]]))
    if not rows:
        raise DataError(f"not one of {len(scenes):,} images allows a {kind} row; raise --limit")
    if json:
        emit({"file": out, "rows": rows, "images": count, "noise": dict(faults.most_common())})
        return
    shares = ", ".join(f"{name} {n:,} ({n / faults.total():.1%})" for name, n in faults.most_common())
    echo(f"{rows:,} rows about {count:,} images in {out}: {shares}")
