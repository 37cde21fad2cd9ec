"""Format the table that papers print (bench/reporting/paper_table.py) as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from itertools import groupby

from bench.datasets.load import FILE, find_dataset
from bench.reporting.cells import BLANK as DASH
from bench.reporting.exports.latex import SIGNS, escape
from bench.reporting.markdown import escape as escape_markdown
from bench.reporting.markdown import grid
from bench.reporting.paper_rows import PaperRow
from bench.reporting.paper_table import BETTER, TITLES, WORSE, PaperTable
from bench.reporting.table import spreadsheet

HEAD = "% Made by `bench table`; needs \\usepackage{booktabs}.\n"


def headings(splits: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Group splits by data set: its title with the names of its parts."""
    named = [(split, "") if split.startswith(FILE) else tuple(split.rsplit("-", 1)) for split in splits]
    groups = [(name, [part for _, part in each]) for name, each in groupby(named, key=lambda pair: pair[0])]
    titles = [dataset.title.partition(" (")[0] if (dataset := find_dataset(name)) else name for name, _ in groups]
    return [
        (title if titles.count(title) == 1 else name, parts)
        for title, (name, parts) in zip(titles, groups, strict=True)
    ]


def caption(table: PaperTable) -> str:
    """Say in a few plain sentences what the table shows."""
    titles = [title for title, _ in headings(table.splits)]
    where = " and ".join(filter(None, (", ".join(titles[:-1]), titles[-1])))
    text = f"{TITLES[table.metric]} (%) on {where}, protocol {table.protocol}. "
    if table.published and table.ours:
        text += "Above the rule: published values under their sources' own rules; below: our runs. "
    elif table.published:
        text += "Published values under their sources' own rules. "
    text += "Bold: the best value, of published and of our rows separately."
    if table.against:
        text += (
            f" {BETTER} {WORSE}: significantly better or worse than {table.against} (paired bootstrap over images, "
            f"Holm's correction for {table.tests} test{'' if table.tests == 1 else 's'}, p ≤ 0.05)."
        )
    return text


def _sources(table: PaperTable) -> dict[str, int]:
    """Number the sources of published values in the order of the rows."""
    names = dict.fromkeys(source for row in table.published for source in row.sources.values())
    return {name: number for number, name in enumerate(names, 1)}


def _lines(
    table: PaperTable,
    rows: Sequence[PaperRow],
    name: Callable[[PaperRow], str],
    cell: Callable[[PaperRow, str], str],
    plain: Callable[[str], str],
) -> list[list[str]]:
    """Return the cells of rows: method, backbone, training, values, numbers of the sources; `plain` escapes text."""
    sources = _sources(table)

    def numbered(row: PaperRow) -> str:
        return ", ".join(str(sources[each]) for each in dict.fromkeys(row.sources.values()))

    backbone, source = any(row.backbone for row in table.rows), bool(sources)
    return [
        [
            name(row),
            *([plain(row.backbone or DASH)] if backbone else []),
            plain(row.training),
            *(cell(row, split) if split in row.values else plain(DASH) for split in table.splits),
            *([numbered(row) or "ours"] if source else []),
        ]
        for row in rows
    ]


def _first(table: PaperTable) -> list[str]:
    return ["method", *(["backbone"] if any(row.backbone for row in table.rows) else []), "training"]


def paper_markdown(table: PaperTable) -> str:
    """Return the table with its caption, legend and sources as Markdown."""

    def cell(row: PaperRow, split: str) -> str:
        text = f"{row.values[split]:.2f}"
        return " ".join(filter(None, (f"**{text}**" if table.is_best(row, split) else text, row.signs.get(split))))

    def name(row: PaperRow) -> str:
        return escape_markdown(row.name) + "".join(f" {sign}" for sign, _ in row.marks)

    first = _first(table)
    header = [*first, *(f"{title} {part}".strip() for title, parts in headings(table.splits) for part in parts)]
    header += ["source"] if table.published else []
    right = range(len(first), len(first) + len(table.splits))
    rule = [[""] * len(header)] if table.published and table.ours else []
    above, below = (_lines(table, rows, name, cell, escape_markdown) for rows in (table.published, table.ours))
    notes = [f"{sign} {why}" for sign, why in table.legend]
    notes += [f"source {number}: {escape_markdown(source)}" for source, number in _sources(table).items()]
    body = grid(header, [*above, *rule, *below], tuple(right))
    return f"{caption(table)}\n\n{body}" + ("\n" + "".join(f"{note}  \n" for note in notes) if notes else "")


def paper_csv(table: PaperTable) -> str:
    """Return a line a method; for each split its value in percent, source, and p against the chosen row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fields = ("value", "source", "significance", "p_holm") if table.against else ("value", "source")
    per_split = [split if each == "value" else f"{split} {each}" for split in table.splits for each in fields]
    writer.writerow(["rows", "method", "backbone", "training", "protocol", "metric", "marks", *per_split])
    words = {BETTER: "better", WORSE: "worse"}
    for row in table.rows:
        cells: list[object] = ["published" if row.sources else "ours", row.name, row.backbone, row.training]
        cells += [" ".join(row.protocols), table.metric, "; ".join(word for _, word in row.marks)]
        for split in table.splits:
            source = row.sources.get(split) or (row.runs[split][1] if split in row.runs else "")
            cells += [row.values.get(split), source]
            if table.against:
                cells += [words.get(row.signs.get(split, ""), ""), row.p.get(split)]
        writer.writerow([spreadsheet(each) for each in cells])
    return out.getvalue()


def paper_latex(table: PaperTable) -> str:
    """Return the table as LaTeX (booktabs), with legend and sources below it."""

    def raised(signs: str) -> str:
        return f"$^{{{''.join(SIGNS[sign] for sign in signs)}}}$" if signs else ""

    def cell(row: PaperRow, split: str) -> str:
        text = f"{row.values[split]:.2f}"
        return (rf"\textbf{{{text}}}" if table.is_best(row, split) else text) + raised(row.signs.get(split, ""))

    def name(row: PaperRow) -> str:
        return escape(row.name) + raised("".join(sign for sign, _ in row.marks))

    def lines(rows: Sequence[PaperRow]) -> str:
        return "".join(" & ".join(cells) + " \\\\\n" for cells in _lines(table, rows, name, cell, escape))

    first, groups, at = _first(table), [], len(_first(table)) + 1
    rules = []
    for title, parts in headings(table.splits):
        groups.append(rf"\multicolumn{{{len(parts)}}}{{c}}{{{escape(title)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + len(parts) - 1}}}")
        at += len(parts)
    last = ["source"] if table.published else []
    top = " & ".join([*("" for _ in first), *groups, *("" for _ in last)]) + r" \\"
    parts = [escape(part) for _, parts in headings(table.splits) for part in parts]
    header = [*(each.capitalize() for each in first), *parts, *(each.capitalize() for each in last)]
    notes = [f"${SIGNS[sign]}$ {escape(why)}." for sign, why in table.legend]
    notes += [f"Source {number}: {escape(source)}." for source, number in _sources(table).items()]
    title = escape(caption(table)).replace(BETTER, rf"${SIGNS[BETTER]}$").replace(WORSE, rf"${SIGNS[WORSE]}$")
    body = "\\midrule\n".join(filter(None, (lines(table.published), lines(table.ours))))
    return (
        f"{HEAD}\\begin{{table*}}\n\\centering\n\\caption{{{title}}}\n\\label{{tab:grounding}}\n"
        f"\\begin{{tabular}}{{{'l' * len(first)}{'r' * len(table.splits)}{'l' * len(last)}}}\n\\toprule\n"
        f"{top}\n{' '.join(rules)}\n{' & '.join(header)} \\\\\n"
        f"\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"
        + (f"\n\\smallskip\n{{\\footnotesize {' '.join(notes)}\\par}}\n" if notes else "")
        + "\\end{table*}\n"
    )
