"""Draw accuracy against speed: a mark a pipeline, with its accuracy's interval and its speed's spread.

The dashed line is the front: no pipeline beyond it is both faster and more accurate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.reporting.boards import collect
from bench.reporting.charts import COLOURS, INCH, WIDTH, drawable, fitted, log_axis, number, svg
from bench.reporting.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKS = "osD^vP"


def chart_of(results: Path, split: str) -> str | None:
    """Draw the rows of a split under the usual protocol, on the device of most of them; None without a speed."""
    boards = [b for b in collect(results).boards if b.split == split and b.usual]
    rows = [row for board in boards for row in board.rows if row["speed"]]
    if not rows:
        return None
    devices = Counter(row["device"] for row in rows)
    most = max(devices, key=lambda device: (devices[device], device))
    return speed_chart(f"{split}: accuracy against speed", [row for row in rows if row["device"] == most], most)


def speed_chart(title: str, rows: Sequence[Row], device: str = "") -> str:
    """Draw leaderboard rows that have a speed, all measured on `device`; a speed of 0 is left out."""
    rates = [row["speed"]["expressions_per_s"] for row in rows if row["speed"]]
    points = [
        (
            row["pipeline"],
            100 * row["acc@0.5"],
            [100 * v for v in row["ci95"] or 2 * [row["acc@0.5"]]],
            rate["median"],
            rate,
        )
        for row, rate in zip(rows, rates, strict=True)
        if rate["median"] > 0
    ]
    points.sort(key=lambda point: (-point[1], point[0]))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_title(fitted(f"speed offline, cold, best batch{f', {device}' if device else ''}", 90), fontsize=8.5)
        axes.set(xlabel="expressions per second (logarithmic)", ylabel="Acc@0.5, % with its interval")
        if not points:
            axes.text(0.5, 0.5, "no values yet", transform=axes.transAxes, ha="center", va="center")
            return
        for place, (name, accuracy, interval, speed, rate) in enumerate(points):
            # The seventh has the first one's colour and another shape.
            mark = MARKS[(place + place // len(COLOURS)) % len(MARKS)]
            across = [[max(0.0, speed - rate["low"])], [max(0.0, rate["high"] - speed)]]
            upwards = [[max(0.0, accuracy - interval[0])], [max(0.0, interval[1] - accuracy)]]
            label = f"{fitted(name)}  {accuracy:.2f} % at {number(speed)}/s"
            colour = COLOURS[place % len(COLOURS)]
            axes.errorbar(speed, accuracy, upwards, across, mark, color=colour, label=label, elinewidth=1, markersize=6)
        front = np.array(pareto_front([(speed, accuracy) for _, accuracy, _, speed, _ in points]))
        axes.step(*front.T, where="post", color="#8a919c", linestyle="--", linewidth=1, zorder=1)
        ends = drawable([rate[end] for *_, rate in points for end in ("low", "median", "high")], log=True)
        log_axis(axes, "x", ends[np.isfinite(ends)], room=1.6)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02))

    texts = (f"{name}: {accuracy:.2f} % at {number(speed)} expressions/s" for name, accuracy, _, speed, _ in points)
    return svg(title, "; ".join(texts) or "no values yet", (WIDTH * 1.15, 430 / INCH), paint)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (speed, accuracy) that no other beats in both, from the slowest to the fastest."""
    front: list[tuple[float, float]] = []
    for speed, accuracy in sorted(points, reverse=True):
        if not front or accuracy > front[-1][1]:
            front.append((speed, accuracy))
    return front[::-1]
