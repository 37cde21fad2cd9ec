"""What every drawing as SVG text needs: words made safe and made to fit, and colours for light and dark readers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

LIGHT = ("#0b63c4", "#c2410c", "#0f766e", "#8b2fc9", "#8a6100", "#b3246b")
DARK = ("#6cb6ff", "#ff9e64", "#5eead4", "#d2a8ff", "#e3b341", "#ff8ac0")
SMALL, LARGE = 11, 16  # sizes of letters
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(title: str, said: str, width: float, height: float, style: str, parts: Iterable[str]) -> str:
    """A whole SVG document with `title` as its headline; `said` is what it shows, for who cannot see it."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width} {height:.0f}" width="{width}" '
            f'height="{height:.0f}">',
            f"<title>{safe(title)}</title>",
            f"<desc>{safe(said)}</desc>",
            f"<style>{style}</style>",
            f'<rect class="paper" width="{width}" height="{height:.0f}"/>',
            text("head", 20, 30, fitted(title, width - 40, LARGE)),
            *parts,
            "</svg>\n",
        ]
    )


def text(kind: str, x: float, y: float, said: str, anchor: str = "start") -> str:
    """Words whose baseline is at `y`; `kind` is a class of `style`."""
    return f'<text class="{kind}" x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{safe(said)}</text>'


def safe(said: str) -> str:
    """`said` as XML may hold it."""
    return escape(NOT_XML.sub("�", said))


def width_of(said: str, size: float) -> float:
    """About as wide as the text gets in any sans-serif, in pixels; a little too much rather than too little."""
    return sum(1.05 if unicodedata.east_asian_width(c) in "WF" else 0.62 for c in said) * size


def fitted(said: str, most: float, size: float) -> str:
    """`said`, its end replaced by "…" where it would be wider than `most` pixels."""
    said = " ".join(said.split())
    if width_of(said, size) <= most:
        return said
    while said and width_of(f"{said}…", size) > most:
        said = said[:-1]
    return f"{said}…"


def style(shapes: str = "") -> str:
    """The style sheet: letters, grid and colours by number (`s0` strokes, `t0` fills), light and dark.

    `shapes` are a drawing's own rules, the same in both modes.
    """

    def mode(paper: str, ink: str, muted: str, faint: str, colours: Sequence[str]) -> str:
        rules = [f".paper{{fill:{paper}}}.head,.name{{fill:{ink}}}.label,.tick{{fill:{muted}}}"]
        rules += [f".grid{{stroke:{faint}}}.axis{{stroke:{muted}}}"]
        rules += [f".s{n}{{stroke:{colour}}}.t{n}{{fill:{colour}}}" for n, colour in enumerate(colours)]
        return "".join(rules)

    letters = (
        f"text{{font:{SMALL}px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}}"
        f".head{{font-size:{LARGE}px;font-weight:600}}.name{{font-size:{SMALL + 2}px;font-weight:600}}"
        ".grid,.axis{fill:none;stroke-width:1}"
    )
    light = mode("#ffffff", "#1f2328", "#57606a", "#e4e7eb", LIGHT)
    dark = mode("#0d1117", "#e6edf3", "#9aa4af", "#262c36", DARK)
    return f"{letters}{shapes}{light}@media(prefers-color-scheme:dark){{{dark}}}"
