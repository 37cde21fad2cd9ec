"""`bench`: one verb a file, each of which parses, calls a library function and prints.

Nothing heavy is imported here: `bench --help` has to be instant.
"""

from __future__ import annotations

import sys

import typer

from bench.cli import (
    compare,
    config,
    data,
    demo,
    doctor,
    export,
    label,
    leaderboard,
    listing,
    predict,
    report,
    run,
    score,
    speed,
    train,
)
from bench.errors import BenchError
from bench.old_names import current_arguments

app = typer.Typer(
    name="bench",
    help="One evaluation for visual grounding: an image and a referring expression in, one box out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("train")(train.train)
app.add_typer(label.app, name="label")
app.command("predict")(predict.predict)
app.command("score")(score.score)
app.command("compare")(compare.compare)
app.command("export")(export.export)
app.command("leaderboard")(leaderboard.leaderboard)
app.command("report")(report.report)
app.command("speed")(speed.speed)
app.command("demo")(demo.demo)
app.add_typer(data.app, name="data")
app.command("list")(listing.listing)
app.command("doctor")(doctor.doctor)
app.add_typer(config.app, name="config")


def main() -> None:
    """The console script: a user's own mistake is one readable message and an exit code, never a traceback."""
    try:
        app(current_arguments(sys.argv[1:]))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `bench list | head`
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
