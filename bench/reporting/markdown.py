"""The leaderboard as Markdown: padded columns that read well as plain text too, and every name escaped."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.evaluation.protocols import PROTOCOLS
from bench.reporting.boards import Board, Leaderboard, LeftOut
from bench.reporting.table import BLANK, interval, percent, rate

INTRO = """\
# Leaderboard

Made by `bench leaderboard` from the runs in [`runs`](runs); never edited by hand. A table holds runs of one signature
only: the same split with the same content, under the same protocol, complete, from committed code. Acc@0.5 in percent
with its 95 % interval from a bootstrap over pictures; rows whose intervals overlap may differ by chance. Ceiling: how
often some proposal of a two-stage pipeline would have been a hit. ex/s: expressions a second, of the whole run with
decoding. Every digit is in [LEADERBOARD.csv](LEADERBOARD.csv), the strata too in [LEADERBOARD.json](LEADERBOARD.json).
"""
MARKS: tuple[tuple[str, Callable[[Mapping[str, Any]], bool], str], ...] = (
    ("†", lambda r: r["provenance"] == "imported", "boxes made elsewhere and scored here"),
    (
        "‡",
        lambda r: r["saw_test_images"] == "yes",
        "its training saw test pictures, so the score may flatter it: the RefCOCO family's val and test pictures lie "
        "in COCO train2014 and train2017, and a detector trained there has seen the very boxes that are asked for",
    ),
    (
        "§",
        lambda r: r["saw_test_images"] == "unknown",
        "whether its training saw test pictures is not known, so the score may flatter it too",
    ),
    ("¶", lambda r: bool(r["errors"]), "some pictures could not be read; their expressions are misses"),
)

PROPOSALS = {
    "gt": "Every pipeline here chose among the annotated boxes of all things in a picture, not among its own",
    "gt-referred": "Every pipeline here chose among the annotated boxes of the things that a picture's expressions are "
    "about, fewer than there are in it, not among its own",
}


def leaderboard_markdown(found: Leaderboard) -> str:
    """The whole of LEADERBOARD.md."""
    parts = [INTRO]
    if not found.boards:
        parts.append("No complete run yet.\n")
    names = [(board.split, board.protocol, board.proposals) for board in found.boards]
    parts += [_board(board, names.count(name) > 1) for board, name in zip(found.boards, names, strict=True)]
    parts += _weights_behind(found.boards)
    if found.left_out:
        parts.append(_left_out(found.left_out))
    return "\n".join(parts)


def _board(board: Board, namesake: bool) -> str:
    title = escape(board.split) + ("" if board.protocol == "iou" else f", protocol {escape(board.protocol)}")
    title += f", proposals {escape(board.proposals)}" if board.proposals else ""
    hits_at = PROTOCOLS[board.protocol].hits_at if board.protocol in PROTOCOLS else ""
    facts = (
        f"{board.expressions:,} expressions, {board.pictures:,} pictures; protocol {escape(board.protocol)}"
        f"{f' ({hits_at})' if hits_at else ''}; data {_code(board.fingerprint, 8)}"
    )
    if board.proposals:
        facts += f". {PROPOSALS.get(board.proposals, f'Proposals given: {escape(board.proposals)}')}"
    if namesake:
        facts += " (another table holds runs on other data of the same name)"
    used = [(mark, reason) for mark, applies, reason in MARKS if any(applies(r) for r in board.rows)]
    notes = "".join(f"{mark} {reason}  \n" for mark, reason in used)
    header = tuple(name for name, _, _ in COLUMNS)
    right = [number for number, (_, aligned, _) in enumerate(COLUMNS) if aligned]
    table = grid(header, [tuple(cell(r) for _, _, cell in COLUMNS) for r in board.rows], right)
    return f"## {title}\n\n{facts}\n\n{table}" + (f"\n{notes}" if notes else "")


def _weights_behind(boards: Sequence[Board]) -> list[str]:
    """What the weights of each row were trained on and their licences: a row for each different answer."""
    splits: dict[tuple[str, ...], list[str]] = {}
    for board in boards:
        for r in board.rows:
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


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A Markdown table whose columns line up in plain text; `right` numbers the columns that are aligned right."""
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
    """Data as one line of plain Markdown text: no markup, no HTML, no new cell or row."""
    flat = " ".join(text.split())
    flat = "".join(c for c in flat if unicodedata.category(c) not in ("Cc", "Cf") or c == "\u200d")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(flat, quote=False))


def _width(text: str) -> int:
    """Columns of a terminal: wide letters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _name(r: Mapping[str, Any]) -> str:
    return escape(r["pipeline"]) + "".join(f" {mark}" for mark, applies, _ in MARKS if applies(r))


def _code(digest: str, digits: int) -> str:
    """The first digits of a hash, as code; backslashes do not escape there, so only letters and digits are kept."""
    kept = re.sub(r"[^0-9A-Za-z]", "", digest)[:digits]
    return f"`{kept}`" if kept else BLANK


def _weights(r: Mapping[str, Any]) -> str:
    return ", ".join(_code(sha, 8) for _, sha in sorted(r["weights"].items()) if sha) or BLANK


COLUMNS: tuple[tuple[str, bool, Callable[[Mapping[str, Any]], str]], ...] = (
    ("pipeline", False, _name),
    ("Acc@0.5", True, lambda r: f"{percent(r['acc@0.5'])} {interval(r['ci95'])}".replace("[", r"\[")),
    ("Acc@0.7", True, lambda r: percent(r["acc@0.7"])),
    ("Acc@0.9", True, lambda r: percent(r["acc@0.9"])),
    ("mIoU", True, lambda r: percent(r["mean_iou"])),
    ("ceiling", True, lambda r: percent(r["oracle@0.5"])),
    ("ex/s", True, lambda r: rate(r["expressions_per_s"])),
    ("pictures/s", True, lambda r: rate(r["pictures_per_s"])),
    ("device", False, lambda r: escape(r["device"]) or BLANK),
    ("weights", False, _weights),
    ("date", False, lambda r: escape(r["date"])),
    ("commit", False, lambda r: _code(r["commit"] or "", 7)),
)
