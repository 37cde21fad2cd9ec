"""Format the leaderboard as Markdown: a table for each signature, published values, weights, history."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Collection, Sequence

from bench.evaluation.protocols import PROTOCOLS
from bench.reporting.boards import Board, Leaderboard
from bench.reporting.cells import BLANK, interval_of, percent, signed
from bench.reporting.marks import REMARKS, legend, marks
from bench.reporting.published import named
from bench.reporting.rows import Row, number_of
from bench.reporting.table import Column, filled_columns

INTRO = """\
# Leaderboard

Made by `bench leaderboard` from the runs in [`runs`](runs); never edited by hand. Every digit is in
[LEADERBOARD.csv](LEADERBOARD.csv), the strata too in [LEADERBOARD.json](LEADERBOARD.json).
"""
LEGEND = """\
A table holds runs of one signature only: the same split with the same content, under the same protocol, complete, from
committed code. Acc@0.5 in percent with its 95 % interval from a bootstrap over images. Rank: 2-4 says that the paired
test cannot tell the run from others that may be second to fourth. Ceiling: how often some proposal of a two-stage
pipeline would have been a hit. ex/s and ms: `bench speed`, expressions a second with cold caches and the median time of
one expression. Training: what annotation grounding was learned from.
"""

PROPOSALS = {
    "gt": "Every pipeline here chose among the annotated boxes of all objects in an image, not among its own",
    "gt-referred": "Every pipeline here chose among the annotated boxes of the objects that an image's expressions are "
    "about, fewer than there are in it, not among its own",
}
HEADERS = {"0.7": "Acc@0.7", "0.9": "Acc@0.9"}
DETAILS = ("method", "training", "protocol", "source")
PUBLISHED = (
    "Points by which the run differs from the value, and whether the value lies in the run's own interval. A value "
    "under another protocol counts hits by another rule."
)


def leaderboard_markdown(leaderboard: Leaderboard, intro: str = INTRO, chosen: Collection[str] = ()) -> str:
    """Return the whole of LEADERBOARD.md, or with `chosen` columns only its tables; `intro` comes before the legend."""
    parts = [intro, LEGEND]
    if not leaderboard.boards:
        parts.append("No complete run yet.\n")
    names = [(board.split, board.protocol, board.proposals, board.perturbed) for board in leaderboard.boards]
    for board, name in zip(leaderboard.boards, names, strict=True):
        parts += _board(board, names.count(name) > 1, chosen)
    parts += [] if chosen else _weights_behind(leaderboard.boards)
    if leaderboard.left_out:
        rows = [(escape(run), escape(reason)) for run, reason in leaderboard.left_out]
        parts.append("## Left out, and why\n\n" + grid(("run", "reason"), rows))
    return "\n".join(parts)


def _board(board: Board, namesake: bool, chosen: Collection[str]) -> list[str]:
    """Return the sections of one table."""
    title = escape(board.split) + ("" if board.protocol == "iou" else f", protocol {escape(board.protocol)}")
    title += f", proposals {escape(board.proposals)}" if board.proposals else ""
    title += f", perturbed by {escape(board.perturbed)}" if board.perturbed else ""
    rule = PROTOCOLS.get(board.protocol)
    hits_at = (
        "" if rule is None else rule.hits_at if not rule.sets else f"a hit is F1 = 1, boxes pair at {rule.hits_at}"
    )
    facts = (
        f"{board.expressions:,} expressions, {board.images:,} images; protocol {escape(board.protocol)}"
        f"{f' ({hits_at})' if hits_at else ''}; data {code(board.fingerprint, 8)}"
    )
    if board.proposals:
        facts += f". {PROPOSALS.get(board.proposals, f'Proposals given: {escape(board.proposals)}')}"
    if namesake:
        facts += " (another table holds runs on other data of the same name)"
    notes = _notes(board)
    first = f"## {title}\n\n{facts}\n\n{_table('m', board, chosen)}" + (f"\n{notes}" if notes else "")
    if chosen:
        return [first]
    return [first, *_published(board), f"### Behind these runs\n\n{_table('b', board)}", *_history(board)]


def _table(table: str, board: Board, chosen: Collection[str] = ()) -> str:
    columns = filled_columns(table, board.rows, chosen)
    header = [HEADERS.get(column.header, column.header) for column, _ in columns]
    right = [number for number, (column, _) in enumerate(columns) if column.right]
    rows = [
        [_cell(column, r, cells[number], table == "m") for column, cells in columns]
        for number, r in enumerate(board.rows)
    ]
    return grid(header, rows, right)


def _cell(column: Column, r: Row, text: str, marked: bool) -> str:
    """Return the text as Markdown, with what only Markdown adds: intervals, marks, hashes as code."""
    if column.name == "acc@0.5":
        text = f"{text} {interval_of(r)}"
    if column.digits:
        return ", ".join(code(digest, column.digits) for digest in text.split())
    if column.name == "pipeline" and marked:
        return escape(text) + "".join(f" {sign}" for sign, _ in marks(r))
    return escape(text) if column.data else text.replace("[", r"\[").replace("~", r"\~")


def _notes(board: Board) -> str:
    """Explain the marks of the table, and why runs have no rank; one line each."""
    lines = [f"{sign} {why}" for sign, why in legend(board.rows)]
    lines += [reason for applies, reason in REMARKS if any(applies(r) for r in board.rows)]
    for reason in dict.fromkeys(r["rank_note"] for r in board.rows if r["rank"] is None):
        without = [escape(r["pipeline"]) for r in board.rows if r["rank"] is None and r["rank_note"] == reason]
        lines.append(f"no rank for {', '.join(without)}: {reason}")
    return "".join(f"{line}  \n" for line in lines)


def _published(board: Board) -> list[str]:
    """List the published values of what each row is meant to be."""
    rows = [
        (
            escape(r["pipeline"]),
            percent(number_of(r, entry["metric"])),
            f"{entry['value']:.2f}{named(entry['metric'])}",
            signed(entry["difference"]),
            {None: BLANK, True: "yes", False: "no"}[entry["within_interval"]],
            escape(", ".join(filter(None, (entry["method"], entry["backbone"])))),
            entry["training"],
            entry["protocol"],
            escape(f"{entry['source']} ({entry['how']})" + (f": {entry['note']}" if entry["note"] else "")),
        )
        for r in board.rows
        for entry in r["published"]
    ]
    if not rows:
        return []
    header = ("pipeline", "here", "published", "difference", "in interval", *DETAILS)
    return [f"### Published for the same split\n\n{PUBLISHED}\n\n{grid(header, rows, (1, 2, 3))}"]


def _history(board: Board) -> list[str]:
    """List the older runs of the rows' settings."""
    rows = [
        (
            escape(r["pipeline"]),
            escape(older["date"]),
            code(older["commit"] or "", 7),
            percent(older["acc@0.5"]),
            signed(100 * older["difference"]),
        )
        for r in board.rows
        for older in r["history"]
    ]
    if not rows:
        return []
    header = ("pipeline", "date", "commit", "Acc@0.5", "since then")
    return ["### History: older runs of the same settings\n\n" + grid(header, rows, (3, 4))]


def _weights_behind(boards: Sequence[Board]) -> list[str]:
    """List what the weights of each row were trained on and their licences, equal ones once."""
    splits: dict[tuple[str, ...], list[str]] = {}
    for r in (r for board in boards for r in board.rows):
        if r["weights"] or r["licence"] or r["trained_on"] not in ("", "nothing"):
            facts = (r["pipeline"], r["trained_on"], r["licence"], r["saw_test_images"])
            splits.setdefault(facts, []).append(r["split"])
    if not splits:
        return []
    rows = [
        (escape(name), escape(", ".join(dict.fromkeys(on))), *(escape(fact) or BLANK for fact in facts))
        for (name, *facts), on in sorted(splits.items())
    ]
    header = ("pipeline", "split", "weights trained on", "licence of the weights", "trained on test images")
    return ["## The weights behind the rows\n\n" + grid(header, rows)]


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Format a Markdown table whose columns line up in plain text; columns numbered in `right` are aligned right."""
    widths = [max(3, *(_width(cells[n]) for cells in (header, *rows))) for n in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            " " * (widths[n] - _width(text)) + text if n in right else text + " " * (widths[n] - _width(text))
            for n, text in enumerate(cells)
        )
        return "| " + " | ".join(padded) + " |\n"

    rule = "|".join("-" * (w + 1) + ":" if n in right else ":" + "-" * (w + 1) for n, w in enumerate(widths))
    return line(header) + f"|{rule}|\n" + "".join(line(cells) for cells in rows)


def escape(text: str) -> str:
    """Return data as one line of plain Markdown text: no markup, no HTML, no new cell or row."""
    flat = " ".join(text.split())
    flat = "".join(c for c in flat if unicodedata.category(c) not in ("Cc", "Cf", "Cs") or c == "\u200d")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(flat, quote=False))


def code(digest: str, digits: int) -> str:
    """Return the first digits of a hash, as code; nothing escapes there, so only letters and digits are kept."""
    kept = re.sub(r"[^0-9A-Za-z]", "", digest)[:digits]
    return f"`{kept}`" if kept else BLANK


def _width(text: str) -> int:
    """Count the columns of a terminal: wide letters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
