"""Print speed records: one table, the search and the stages below it, and every reason for doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.reporting.cells import BLANK, rate
from bench.reporting.terminal import empty_table, wide
from bench.speed.record import COLD, PairRecord, Rate, SpeedRecord, Spread, headline, machine

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_speeds(speeds: Sequence[SpeedRecord], console: Console | None = None) -> None:
    """Print a row for each record and state of the caches, then what must be known beside the numbers."""
    if not speeds:
        return
    console = wide(console)
    console.print(_table(speeds))
    for speed in speeds:
        for line in _details(speed):
            console.print(f"  {speed.name}: {line}", markup=False, highlight=False, soft_wrap=True)
        doubts = [f"INVALID: {_differing(check)}" for check in speed.check if not check.passed]
        doubts += [] if speed.full else ["smaller rules than the protocol's, or a limited split: in no table"]
        for line in (*doubts, *(f"noisy: {reason}" for reason in speed.noisy)):
            console.print(f"  {speed.name}: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def print_pair(pair: PairRecord, console: Console | None = None) -> None:
    """Prints the ratio of a pair with its spread, and every reason for doubt."""
    ratio, (first, second) = pair.ratio, (pair.first, pair.second)
    lines = [
        f"{second.name} / {first.name} = {ratio.median:.3f} times the expressions per second "
        f"(quartiles {ratio.quartiles[0]:.3f} to {ratio.quartiles[1]:.3f}, all {len(ratio.rounds)} rounds "
        f"{ratio.low:.3f} to {ratio.high:.3f})",
        f"  {pair.images_per_turn} images and {pair.expressions_per_turn} expressions a turn, cold; "
        + "; ".join(
            f"{side.name}: {side.batch_size} images a batch, {_spread(side.expressions_per_s)} ex/s"
            for side in (first, second)
        ),
    ]
    lines += [] if pair.full else ["  smaller rules than the protocol's: in no table"]
    lines += [f"  noisy: {reason}" for reason in pair.noisy]
    for side in (first, second):
        lines += [] if side.check.passed else [f"  INVALID: {side.name}: {_differing(side.check)}"]
    for line in lines:
        wide(console).print(line, markup=False, highlight=False, soft_wrap=True)


def _details(speed: SpeedRecord) -> list[str]:
    """List search, stages and images, a line each."""
    tried = ", ".join(
        f"{t['batch_size']}: {rate(t['images_per_s']) if t['images_per_s'] else t['note']}" for t in speed.batch_search
    )
    total = sum(speed.stages.values())
    stages = ", ".join(f"{name} {ms:.2f} ({ms / total:.0%})" for name, ms in speed.stages.items() if ms)
    images = speed.images
    decode = BLANK if images.decode_ms is None else f"{images.decode_ms:.2f} ms"
    lines = [
        f"images a batch: images/s  {tried}",
        f"ms an image in each stage  {stages}",
        f"{images.count} of {images.of} images, {images.expressions} expressions, resident in "
        f"{images.resident_mb:.0f} MB; decoding one takes {decode}, not counted",
        f"loaded in {speed.load_seconds:.2f} s, first call {speed.first_call_seconds:.2f} s, neither counted",
    ]
    passed = [f"{c.equal} of {c.n} equal to {c.against}" for c in speed.check if c.passed]
    return lines + ([f"boxes: {'; '.join(passed)}"] if passed else []) + list(speed.remarks)


def _differing(check: Any) -> str:
    more = check.n - check.equal - len(check.differing)
    ids = ", ".join(check.differing) + (f" and {more} more" if more > 0 else "")
    return f"{check.n - check.equal} of {check.n} boxes are not those of {check.against}: {ids}"


def _table(speeds: Sequence[SpeedRecord]) -> Table:
    from rich.text import Text

    first = speeds[0]
    on = machine(first.identity.device, first.environment)
    threads = (first.environment.get("torch") or {}).get("threads")
    where = f"{on}{f', {threads} threads' if first.identity.device == 'cpu' and threads else ''}"
    grid = empty_table(f"{first.identity.data.split}  {where}")
    grid.add_column("pipeline", style="bold", overflow="fold", min_width=12)
    grid.add_column("caches", no_wrap=True)
    for name in ("batch", "images/s", "ex/s", "p50 ms", "p90", "p99", "proposals", "peak MB", "J/ex"):
        grid.add_column(name, justify="right", no_wrap=True)
    for speed in speeds:
        for each in speed.offline:
            grid.add_row(Text(speed.name if each.cache == COLD else ""), each.cache, *_cells(speed, each))
    return grid


def _cells(speed: SpeedRecord, each: Rate) -> list[str]:
    cells = [str(each.batch_size), _spread(each.images_per_s), _spread(each.expressions_per_s)]
    if each != headline(speed):
        return cells + [""] * 6
    one, joules = speed.single, speed.energy.joules_per_expression
    cells += [f"{ms:.1f}" for ms in (one.p50_ms, one.p90_ms, one.p99_ms)] if one else [BLANK] * 3
    peak = speed.memory.allocated_mb if speed.memory.allocated_mb is not None else speed.memory.host_mb
    cells.append(BLANK if speed.proposals_per_image is None else f"{speed.proposals_per_image:.1f}")
    cells.append(BLANK if peak is None else f"{peak:,.0f}")
    cells.append("unsupported" if joules is None else f"{joules:.3g}")
    return cells


def _spread(value: Spread) -> str:
    return f"{rate(value.median)} [{rate(value.low)}, {rate(value.high)}]"
