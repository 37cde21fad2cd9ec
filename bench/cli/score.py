"""`bench score`: score a stored run again, or import predictions as a run; no torch, no images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bench.cli.options import MORE, SPLIT, Config, Json, Key, Results, Xywh, settings_of
from bench.cli.output import echo, emit, table_console


def score(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="Folder of a stored run to score again.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="JSON or JSONL with predictions to import.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", "-s", help="Split of the boxes: refcoco-val, file:PATH.jsonl.", **SPLIT)
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the row.", show_default="the file's name")] = None,
    xywh: Xywh = False,
    key: Key = "auto",
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept a file that lacks rows; no table shows it.", rich_help_panel=MORE)
    ] = False,
    card: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML about the model: trained_on, paper, ...")
    ] = None,
    trained_on: Annotated[str | None, typer.Option(metavar="TEXT", help="Data the model was trained on.")] = None,
    supervision: Annotated[
        Literal["none", "zero-shot", "pseudo", "mixed", "full", "unknown"] | None,
        typer.Option(metavar="WORD", help="none, zero-shot, pseudo, mixed or full.", show_default="unknown"),
    ] = None,
    saw_test_images: Annotated[
        Literal["yes", "no", "unknown"] | None,
        typer.Option(
            metavar="WORD",
            help="Did it train on test images: yes, no, unknown.",
            show_default="unknown",
            rich_help_panel=MORE,
        ),
    ] = None,
    paper: Annotated[str | None, typer.Option(metavar="TEXT", help="Paper of the model.", rich_help_panel=MORE)] = None,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Page of the model.", rich_help_panel=MORE)] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="iou, strict, giou, letterbox-clamped, letterbox-dilated, several, grefcoco-official.",
            show_default="the run's own, or the split's",
        ),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(metavar="SCORE|RUN", help="Leave out boxes below a score, or below that which a val run chooses."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Store the outcomes of an older run; pack its files.")] = False,
    coverage: Annotated[
        bool,
        typer.Option("--coverage", help="Print the risk-coverage and calibration of its scores."),
    ] = False,
    flags: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Score it by flag, and without doubtful labels (bench audit).",
            rich_help_panel=MORE,
        ),
    ] = None,
    train_images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]LIST",
            help="Print the accuracy on the images of an id list or a split, and on others.",
            rich_help_panel=MORE,
        ),
    ] = None,
    results: Results = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Score a stored run again, under its own protocol or another, or import predictions.

    A stored run is only printed, except that --keep gives a run made before outcomes were stored what `bench compare`
    needs; imported predictions become a run of their own that the
    leaderboard shows.
    """
    from bench.errors import DataError, UsageError
    from bench.evaluation.rescored import rescored
    from bench.reporting.rows import run_row
    from bench.reporting.terminal import print_rows
    from bench.reporting.train_images import image_list, on_train_images, train_image_lines

    if (run is None) == (predictions is None):
        raise UsageError("give either the folder of a run or --predictions FILE with --split NAME")
    resolved, scored = settings_of(config, results), None
    lists = [image_list(each, resolved) for each in train_images or ()]
    claims = {
        "trained_on": trained_on,
        "supervision": supervision,
        "saw_test_images": saw_test_images,
        "paper": paper,
        "url": url,
    }
    if run is not None:
        if name or xywh or key != "auto" or partial or card or any(claims.values()):
            raise UsageError(
                "--name, --xywh, --key, --partial and the options about the model go with --predictions only"
            )
        folder = run
        record, scored = rescored(run, resolved, protocol, split, keep, threshold)
    else:
        assert predictions is not None
        if keep:
            raise UsageError("--keep is about a stored run; imported predictions always keep their outcomes")
        if split is None:
            raise UsageError("--predictions needs --split NAME; `bench data list` shows the splits")
        from bench.datasets.load import load_split
        from bench.imported.scoring import claimed_card, import_boxes

        data = load_split(split, resolved)
        record, folder = import_boxes(
            predictions,
            data,
            Path(resolved.settings.results),
            name=name,
            xywh=xywh,
            key=key,
            protocol=protocol,
            threshold=threshold,
            settings=resolved.settings.evaluation,
            partial=partial,
            card=claimed_card(name or predictions.stem, data.dataset, resolved, card, claims),
        )
    records = [record]
    if flags is not None:
        from bench.audit.reviewed import under_flags

        if run is None or keep or protocol or threshold:
            raise UsageError("--flags shows a stored run under its own protocol; give RUN and --flags alone")
        records = [*under_flags(folder, record, flags, resolved, split)]
    print_rows(records, table_console(as_json))
    entries: dict[str, Any] = {}
    if lists:
        scored = scored or rescored(folder, resolved, protocol, split)[1]
        assert record.metrics is not None
        made = [on_train_images(scored, *each, record.metrics.bootstrap) for each in lists]
        for each in made:
            for line in train_image_lines(each):
                echo(line, err=as_json)
        entries["train_images"] = {each.name: asdict(each) for each in made}
    if coverage:
        from bench.evaluation.confidence import confidence
        from bench.reporting.confidence import print_confidence

        scored = scored or rescored(folder, resolved, protocol, split)[1]
        assert record.metrics is not None
        try:
            worth = confidence(scored, record.metrics.bootstrap)
        except DataError as error:
            raise UsageError(
                f"{folder}: {error} in its predictions, so --coverage cannot rank them; leave it out"
            ) from None
        print_confidence(record.name, worth, table_console(as_json))
        entries["coverage"] = asdict(worth)
    if as_json:
        emit({"rows": [run_row(each, folder) | entries for each in records]})
