"""Write the report as one file: templates filled, scripts, styles and images inside, and the file's own policy.

Data cannot become markup: the template escapes it, the gallery's JSON has no character that could end its element, and
the scripts build the page from text alone. The file's policy allows its own script and styles (by their hashes) and the
images it holds, and no connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.datasets.split import Split
from bench.reporting.cells import percent
from bench.reporting.report import drawings, sections
from bench.reporting.report.comparing import comparing
from bench.reporting.report.gallery import answered, columns
from bench.reporting.report.selection import ReportRun
from bench.reporting.report.thumbnails import Thumbnail, thumbnails
from bench.runs.files import make_folder, write_atomically

TEMPLATES = Path(__file__).parent / "templates"
STYLES = ("base.css", "parts.css", "gallery.css")
SCRIPTS = (
    "data.js", "state.js", "filters.js", "overlay.js", "cards.js", "detail.js", "controls.js", "keyboard.js", "main.js",
)  # fmt: skip
ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
NEEDS = {
    "comparison": "comparison",
    "confidence": "confidence",
    "training": "drawings",
}  # parts that depend on what there is
PARTS = ("leaderboard", "comparison", "strata", "confidence", "speed", "training", "gallery", "runs")


def write_report(
    split: Split,
    runs: Sequence[ReportRun],
    out: Path,
    limit: int | None = None,
    thumbnail: int | None = None,
    trainings: Sequence[Path] = (),
    reliabilities: Sequence[Path] = (),
) -> dict[str, Any]:
    """Write the report of `runs` (selection.py), best first, on the whole `split` that they answered.

    Returns what was written: path, bytes, runs, expressions, images (of the gallery), missing (those without a small
    image), thumbnail (pixels). The gallery has the split's first `limit` images, the longer side of at most `thumbnail`
    pixels. Raises RunError for a run whose files do not fit together or an `out` that cannot be written, UsageError for
    folders without curves.
    """
    drawn = drawings.stored_drawings(trainings, reliabilities)
    answers = [answered(run, split.scenes) for run in runs]
    scenes = split.scenes[: limit if limit is not None else len(split.scenes)]
    small, pixels = thumbnails(scenes, split.images, thumbnail)
    data = columns(scenes, small, answers)
    context = {
        "head": sections.head(split, runs, answers),
        "board": sections.board(runs),
        "comparison": comparing(runs, sections.metrics_of(runs[0].record).bootstrap),
        "strata": sections.strata(runs),
        "confidence": drawings.confidences(answers),
        "speed": drawings.speeds(runs, split.argument),
        "drawings": drawn,
        "gallery": _gallery(split, len(scenes), small, len(data["id"])),
        "runs": [sections.made(run) for run in runs],
    }
    page = render(context, data, small)
    make_folder(out.absolute().parent)
    write_atomically(out, page)
    missing = sum(isinstance(jpeg, str) for *_, jpeg in small)
    counts = {"runs": len(runs), "expressions": len(data["id"]), "images": len(scenes)}
    return {"path": out, "bytes": len(page), **counts, "missing": missing, "thumbnail": pixels}


def render(context: Mapping[str, Any], data: Mapping[str, Any], small: Sequence[Thumbnail]) -> bytes:
    """Return the whole file, UTF-8."""
    style = "".join(_read(name) for name in STYLES)
    script = '"use strict";\n(() => {\n' + "".join(_read(name) for name in SCRIPTS) + "})();\n"
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.globals["percent"] = percent
    environment.filters["coded"] = _coded
    parts = [(part, part.title()) for part in PARTS if part not in NEEDS or context[NEEDS[part]]]
    page = environment.get_template("page.html.j2").render(
        **context,
        parts=parts,
        policy=policy(style, script),
        style=Markup(style),  # ours: nothing of the data is in it
        script=Markup(script),
        data=as_json(data),
        images=["" if isinstance(jpeg, str) else Markup(base64.b64encode(jpeg).decode()) for *_, jpeg in small],
    )
    return page.encode("utf-8", "replace")  # half of a surrogate pair, which JSON may hold, is no letter


def policy(style: str, script: str) -> str:
    """Return the content security policy: nothing from anywhere but what is in the file."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def as_json(value: Any) -> Markup:
    """Return JSON that can stand in a <script> element: no character of it can end the element or start another."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(ESCAPED))


def _gallery(split: Split, images: int, small: Sequence[Thumbnail], expressions: int) -> dict[str, Any]:
    some = f"The {expressions:,} expressions about the first {images:,} of {len(split.scenes):,} images"
    which = f"All {expressions:,} expressions" if images == len(split.scenes) else some
    why = [why for *_, why in small if isinstance(why, str)]
    blank = f"{len(why):,} of {images:,} images are missing; their boxes are drawn on a blank frame."
    notes = [f"{blank} {why[0]}"] if why else []
    return {"text": f"{which}, with the predictions drawn on the image.", "notes": notes}


def _coded(text: str) -> Markup:
    """Return text in which what stands between two backticks is code; everything is escaped."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if n % 2 else part for n, part in enumerate(parts))


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
