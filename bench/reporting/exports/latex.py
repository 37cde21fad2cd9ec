"""The leaderboard as LaTeX tables (booktabs): one for each signature, which the caption says.

Needs \\usepackage{booktabs}. Names are escaped; letters beyond Latin ones need XeLaTeX or LuaLaTeX and a font that has
them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench.reporting.boards import Board
from bench.reporting.columns import parameters, rank
from bench.reporting.table import BLANK, percent, rate

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
    "…": r"\ldots{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}
HEAD = "% Made by `bench leaderboard --export latex`; needs \\usepackage{booktabs}.\n"


def leaderboard_latex(boards: Iterable[Board]) -> str:
    """The tables one after the other. Columns in which no row says anything are left out."""
    return HEAD + "".join(f"\n{_table(board)}" for board in boards)


def escape(text: str) -> str:
    """Data as one line of LaTeX text: no command, no comment, no new cell or row."""
    flat = " ".join(text.split())
    flat = "".join(c for c in flat if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
    # A ligature would make -- a dash and `` a quotation mark.
    plain = "".join(SPECIAL.get(c, c) for c in flat)
    return re.sub(r"(?<=[-`'])(?=[-`'])", "{}", plain) if "-" in flat or "`" in flat or "'" in flat else plain


def _breakable(signature: str) -> str:
    """Escaped, and a line may end after each of its parts."""
    return escape(signature).replace(SPECIAL["|"], SPECIAL["|"] + r"\allowbreak{}")


def _table(board: Board) -> str:
    columns = [(name, aligned, [cell(r) for r in board.rows]) for name, aligned, cell in COLUMNS]
    shown = [column for column in columns if column[0] in ALWAYS or set(column[2]) - {"--"}]
    lines = [" & ".join(cells) + r" \\" for cells in zip(*(cells for _, _, cells in shown), strict=True)]
    caption = (
        f"{escape(board.split)}: {board.expressions:,} expressions about {board.pictures:,} pictures, protocol "
        f"{escape(board.protocol)}. Acc@0.5 in percent with its 95\\,\\% interval (bootstrap over pictures). "
        f"{_remarks(board)}Signature: \\texttt{{{_breakable(board.signature)}}}."
    )
    label = re.sub(r"[^a-z0-9]+", "-", f"{board.split}-{board.protocol}-{board.fingerprint[:8]}".lower()).strip("-")
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{caption}}}\n\\label{{tab:{label}}}\n"
        f"\\begin{{tabular}}{{{''.join(aligned for _, aligned, _ in shown)}}}\n\\toprule\n"
        + " & ".join(name for name, _, _ in shown)
        + " \\\\\n\\midrule\n"
        + "".join(f"{line}\n" for line in lines)
        + "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def _remarks(board: Board) -> str:
    said = ""
    if any(r["saw_test_images"] == "yes" for r in board.rows):
        said += r"$\dagger$ has seen test pictures in training. "
    if any(r["speed"] and r["speed"]["noisy"] for r in board.rows):
        said += r"$\sim$ measured on a busy machine. "
    return said


def _name(r: Mapping[str, Any]) -> str:
    return escape(r["pipeline"]) + (r"$^\dagger$" if r["saw_test_images"] == "yes" else "")


def _accuracy(r: Mapping[str, Any]) -> str:
    low, high = r["ci95"]
    return f"{percent(r['acc@0.5'])} {{\\footnotesize [{percent(low)}, {percent(high)}]}}"


def _measured(pick: Callable[[Mapping[str, Any]], float | None]) -> Callable[[Mapping[str, Any]], str]:
    """A cell of the joined speed; the whole evaluation's own rate is no speed and has no place in a paper's table."""

    def cell(r: Mapping[str, Any]) -> str:
        value = pick(r["speed"]) if r["speed"] else None
        return "--" if value is None else (r"$\sim$" if r["speed"]["noisy"] else "") + rate(value)

    return cell


def _published(r: Mapping[str, Any]) -> str:
    found = [f"{entry['value']:.2f}" for entry in r["published"] if entry["metric"] == "acc@0.5"]
    return ", ".join(found) or "--"


def _dashed(said: str) -> str:
    return "--" if said == BLANK else said


ALWAYS = ("Rank", "Pipeline", "Acc@0.5", "mIoU")
COLUMNS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("Rank", "r", lambda r: _dashed(rank(r)).replace("-", "--", 1) if r["rank"] else "--"),
    ("Pipeline", "l", _name),
    ("Acc@0.5", "r", _accuracy),
    ("Published", "r", _published),
    ("mIoU", "r", lambda r: percent(r["mean_iou"])),
    ("Ceiling", "r", lambda r: _dashed(percent(r["oracle@0.5"]))),
    ("Expr./s", "r", _measured(lambda s: float(s["expressions_per_s"]["median"]))),
    ("ms", "r", _measured(lambda s: s["p50_ms"])),
    ("Params", "r", lambda r: _dashed(parameters(r)).replace(" ", r"\,")),
    ("Training", "l", lambda r: escape(r["training_data"])),
)
