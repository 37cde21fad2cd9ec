"""Format the leaderboard as LaTeX tables (booktabs): one for each signature, which a comment names.

Needs \\usepackage{booktabs}. Names are escaped; letters beyond Latin need XeLaTeX or LuaLaTeX and a font with them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable

from bench.reporting.boards import Board
from bench.reporting.cells import BLANK, interval_of
from bench.reporting.marks import NOISY, legend, marks
from bench.reporting.rows import Row
from bench.reporting.table import Column, busy, filled_columns

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",  # \textquotedbl is not in every font encoding
    "–": "--",
    "—": "---",
    "−": "$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "…": r"\ldots{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}
SIGNS = {
    "†": r"\dagger",
    "‡": r"\ddagger",
    "§": r"\S",
    "¶": r"\P",
    "◊": r"\diamond",
    "○": r"\circ",
    "?": "?",
}
SIGNS |= {"□": r"\sqcup", "↑": r"\uparrow", "↓": r"\downarrow"}
HEADERS = {"Acc@0.5": "Acc@0.5", "0.7": "Acc@0.7", "0.9": "Acc@0.9", "mIoU": "mIoU", "ex/s": "Expr./s", "ms": "ms"}
HEAD = "% Made by `bench leaderboard export latex`; needs \\usepackage{booktabs}.\n"


def leaderboard_latex(boards: Iterable[Board], chosen: Collection[str] = ()) -> str:
    """Return the tables one after the other: the `chosen` columns, or those in which some cell is not blank."""
    return HEAD + "".join(f"\n{_table(board, chosen)}" for board in boards)


def escape(text: str) -> str:
    """Return data as one line of LaTeX text: no command, no comment, no new cell or row."""
    flat = " ".join(text.split())
    flat = "".join(c for c in flat if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
    # A ligature would make -- a dash and `` a quotation mark.
    plain = "".join(SPECIAL.get(c, c) for c in flat)
    return re.sub(r"(?<=[-`'])(?=[-`'])", "{}", plain) if "-" in flat or "`" in flat or "'" in flat else plain


def _table(board: Board, chosen: Collection[str]) -> str:
    columns = []
    for column, texts in filled_columns("l", board.rows, chosen):
        cells = [_cell(column, r, text) for r, text in zip(board.rows, texts, strict=True)]
        if chosen or "l" not in column.optional or set(cells) - {"--"}:
            columns.append((column, cells))
    headers = [HEADERS.get(column.header) or escape(column.header.capitalize()) for column, _ in columns]
    lines = [" & ".join(cells) + r" \\" for cells in zip(*(cells for _, cells in columns), strict=True)]
    notes = [f"${SIGNS[sign]}$ {escape(why)}" for sign, why in legend(board.rows)]
    notes += [rf"$\sim$ {NOISY}"] if any(busy(r) for r in board.rows) else []
    accuracy = "F1 = 1, N-acc, T-acc, F1" if any("several" in row for row in board.rows) else "Acc@0.5"
    caption = (
        f"{escape(board.split)}: {board.expressions:,} expressions about {board.images:,} images, protocol "
        f"{escape(board.protocol)}. {accuracy} in percent with its 95\\,\\% interval (bootstrap over images). "
        f"{''.join(f'{note}. ' for note in notes)}".rstrip()
    )
    label = re.sub(r"[^a-z0-9]+", "-", f"{board.split}-{board.protocol}-{board.fingerprint[:8]}".lower()).strip("-")
    signature = "".join(c for c in board.signature if c.isprintable())
    return (
        f"% {signature}\n"
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{caption}}}\n\\label{{tab:{label}}}\n"
        f"\\begin{{tabular}}{{{''.join('r' if column.right else 'l' for column, _ in columns)}}}\n\\toprule\n"
        + " & ".join(headers)
        + " \\\\\n\\midrule\n"
        + "".join(f"{line}\n" for line in lines)
        + "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def _cell(column: Column, r: Row, text: str) -> str:
    """Return the text as LaTeX, with what only LaTeX adds; a rate in brackets is no measured speed."""
    if column.name == "pipeline":
        signs = "".join(SIGNS[sign] for sign, _ in marks(r))
        return escape(text) + (f"$^{{{signs}}}$" if signs else "")
    if column.name == "acc@0.5":
        return f"{text} {{\\footnotesize {interval_of(r)}}}"
    if column.name == "beside":
        return ", ".join(f"{entry['value']:.2f}" for entry in r["published"] if entry["metric"] == "acc@0.5") or "--"
    if text == BLANK or text.startswith("("):
        return "--"
    return escape(text).replace(SPECIAL["~"], r"$\sim$").replace(" ", r"\,").replace("-", "--")
