"""The leaderboard as Markdown: for each signature its table, what was published, what stands behind, the history."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from bench.evaluation.protocols import PROTOCOLS
from bench.reporting.boards import Board, Leaderboard, LeftOut
from bench.reporting.columns import MAIN, MARKS, MORE, OPTIONAL, REMARKS, Column, signed, verdict
from bench.reporting.markdown_text import code, escape, grid
from bench.reporting.table import BLANK, percent

__all__ = ["escape", "grid", "leaderboard_markdown"]

INTRO = """\
# Leaderboard

Made by `bench leaderboard` from the runs in [`runs`](runs); never edited by hand. Every digit is in
[LEADERBOARD.csv](LEADERBOARD.csv), the strata too in [LEADERBOARD.json](LEADERBOARD.json).
"""
LEGEND = """\
A table holds runs of one signature only: the same split with the same content, under the same protocol, complete, from
committed code. Acc@0.5 in percent with its 95 % interval from a bootstrap over pictures. Rank: 2-4 says that the paired
test cannot tell the run from others that may be second to fourth. Ceiling: how often some proposal of a two-stage
pipeline would have been a hit. ex/s and ms: `bench speed`, expressions a second with cold caches and the median time of
one expression. Training: what annotation grounding was learned from.
"""

PROPOSALS = {
    "gt": "Every pipeline here chose among the annotated boxes of all things in a picture, not among its own",
    "gt-referred": "Every pipeline here chose among the annotated boxes of the things that a picture's expressions are "
    "about, fewer than there are in it, not among its own",
}
DETAILS = ("method", "training", "protocol", "source")
PUBLISHED = (
    "Points by which the run differs from the value, and whether the value lies in the run's own interval. A value "
    "under another protocol counts hits by another rule."
)


def leaderboard_markdown(found: Leaderboard, intro: str = INTRO) -> str:
    """The whole of LEADERBOARD.md; `intro` comes before the legend."""
    parts = [intro, LEGEND]
    if not found.boards:
        parts.append("No complete run yet.\n")
    names = [(board.split, board.protocol, board.proposals) for board in found.boards]
    for board, name in zip(found.boards, names, strict=True):
        parts += _board(board, names.count(name) > 1)
    parts += _weights_behind(found.boards)
    if found.left_out:
        parts.append(_left_out(found.left_out))
    return "\n".join(parts)


def _board(board: Board, namesake: bool) -> list[str]:
    """The sections of one table."""
    title = escape(board.split) + ("" if board.protocol == "iou" else f", protocol {escape(board.protocol)}")
    title += f", proposals {escape(board.proposals)}" if board.proposals else ""
    hits_at = PROTOCOLS[board.protocol].hits_at if board.protocol in PROTOCOLS else ""
    facts = (
        f"{board.expressions:,} expressions, {board.pictures:,} pictures; protocol {escape(board.protocol)}"
        f"{f' ({hits_at})' if hits_at else ''}; data {code(board.fingerprint, 8)}"
    )
    if board.proposals:
        facts += f". {PROPOSALS.get(board.proposals, f'Proposals given: {escape(board.proposals)}')}"
    if namesake:
        facts += " (another table holds runs on other data of the same name)"
    notes = _notes(board)
    first = f"## {title}\n\n{facts}\n\n{_table(MAIN, board)}" + (f"\n{notes}" if notes else "")
    return [first, *_published(board), f"### Behind these runs\n\n{_table(MORE, board)}", *_history(board)]


def _table(columns: Sequence[Column], board: Board) -> str:
    cells = {name: [cell(r) for r in board.rows] for name, _, cell in columns}
    shown = [column for column in columns if not (column[0] in OPTIONAL and set(cells[column[0]]) == {BLANK})]
    header = tuple(name for name, _, _ in shown)
    right = [number for number, (_, aligned, _) in enumerate(shown) if aligned]
    return grid(header, list(zip(*(cells[name] for name in header), strict=True)), right)


def _notes(board: Board) -> str:
    """What the marks in the table mean, and why runs have no rank; one line each."""
    said = [f"{mark} {reason}" for mark, applies, reason in MARKS if any(applies(r) for r in board.rows)]
    said += [reason for applies, reason in REMARKS if any(applies(r) for r in board.rows)]
    for reason in dict.fromkeys(r["rank_note"] for r in board.rows if r["rank"] is None):
        without = [escape(r["pipeline"]) for r in board.rows if r["rank"] is None and r["rank_note"] == reason]
        said.append(f"no rank for {', '.join(without)}: {reason}")
    return "".join(f"{line}  \n" for line in said)


def _published(board: Board) -> list[str]:
    """Every value that was published for the split by what a row is meant to be."""
    rows = [
        (
            escape(r["pipeline"]),
            percent(r[entry["metric"]]),
            f"{entry['value']:.2f}{' mIoU' if entry['metric'] == 'mean_iou' else ''}",
            signed(entry["difference"]),
            verdict(entry),
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
    """Older runs of the rows' settings: how the same thing has moved."""
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
    """What the weights of each row were trained on and their licences: a row for each different answer."""
    splits: dict[tuple[str, ...], list[str]] = {}
    for board, r in chain.from_iterable(((board, r) for r in board.rows) for board in boards):
        if r["weights"] or r["licence"] or r["trained_on"] not in ("", "nothing"):
            facts = (r["pipeline"], r["trained_on"], r["licence"], r["saw_test_images"])
            splits.setdefault(facts, []).append(board.split)
    if not splits:
        return []
    rows = [
        (escape(name), escape(", ".join(dict.fromkeys(on))), *(escape(fact) or BLANK for fact in facts))
        for (name, *facts), on in sorted(splits.items())
    ]
    header = ("pipeline", "split", "weights trained on", "licence of the weights", "test pictures seen")
    return ["## The weights behind the rows\n\n" + grid(header, rows)]


def _left_out(entries: Sequence[LeftOut]) -> str:
    rows = [(escape(entry.run), escape(entry.reason)) for entry in entries]
    return "## Left out, and why\n\n" + grid(("run", "reason"), rows)
