"""The story of a curriculum: every decision with its evidence, as JSON, as a table, and as pictures.

manifest.json       everything
decisions.md        the same for people
thresholds.svg      thresholds against what a training on their rows was worth, for each source
reliability.svg     the reliability of every source under every measurer (the paper's histograms)
selected/*.jsonl    the chosen rows of each source, with their reliability
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.datasets.label_sources import SourceRows
from bench.reporting.charts import Panel, Series, line_chart
from bench.reporting.histograms import Histogram, histograms
from bench.runs.files import make_folder, write_atomically
from clipvg.curriculum.options import CurriculumOptions
from clipvg.curriculum.rows import Pool, Reliabilities
from clipvg.curriculum.search import Choice, Round, Selection, Trial

BARS = 25
FORMAT = 1


@dataclass
class Story:
    """What happened so far. Performances and scores are fractions."""

    kind: str
    options: CurriculumOptions
    pools: Mapping[str, Pool]
    files: Mapping[str, Sequence[Mapping[str, Any]]]
    judged: str = ""
    plan: list[dict[str, Any]] = field(default_factory=list)
    measurers: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    trials: dict[Selection, dict[str, Any]] = field(default_factory=dict)
    rounds: Sequence[Round] = ()
    warnings: list[str] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)

    def measurer(self, source: str, said: Mapping[str, Any], warning: str = "") -> None:
        """Notes where a source's measurer came from and how good it is."""
        self.measurers[source] = dict(said)
        if warning:
            self.warnings.append(warning)

    def score(self, measurer: str, source: str, found: Mapping[str, float]) -> None:
        """Notes H_ij."""
        values = list(found.values())
        share = {f"{h / 10:g}": round(sum(v >= h / 10 for v in values) / len(values), 4) for h in range(11)}
        counts = [0] * BARS
        for value in values:
            if value > 0:
                counts[min(BARS - 1, int(value * BARS))] += 1
        kind = "SR" if measurer == source else "CR"
        mean = sum(values) / len(values)
        self.scores[f"{measurer} on {source}"] = {
            "measurer": measurer, "source": source, "kind": kind, "rows": len(values), "mean": round(mean, 4),
            "at_least": share, "histogram": counts,
        }  # fmt: skip

    def trial(self, selection: Selection, rows: int, performance: float | None, node: str | None) -> None:
        """Notes what a selection was worth."""
        self.trials[selection] = {"rows": rows, "performance": performance, "node": node}

    def finish(
        self, chosen: Selection, rows: Sequence[str], node: str, found: Mapping[str, Any], score: Mapping[str, float],
        done: int,
    ) -> None:  # fmt: skip
        """Notes what was chosen and what came of it."""
        kept = {choice.source: sum(row.startswith(f"{choice.source}:") for row in rows) for choice in chosen}
        self.last = {
            "chosen": [_said(choice) for choice in chosen], "rows": len(rows), "kept": kept, "node": node,
            "judged": found["score"]["accuracy"], "score": dict(score), "nodes_done_in_this_run": done,
        }  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """What a record of the weights says of it."""
        kept = {name: [self.last["kept"].get(name, 0), len(pool.rows)] for name, pool in self.pools.items()}
        return {"kind": self.kind, "judged": self.judged, "chosen": self.last["chosen"], "kept": kept}

    def manifest(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        sources = {
            name: {
                "rows": len(pool.rows), "pictures": pool.pictures, "held_out": len(pool.held_out),
                "duplicates_dropped": pool.duplicates, "entities_per_phrase": round(pool.entities, 3),
                "files": [dict(file) for file in self.files[name]],
            }
            for name, pool in self.pools.items()
        }  # fmt: skip
        return {
            "format": FORMAT,
            "kind": self.kind,
            "judged": self.judged,
            "options": self.options.model_dump(mode="json"),
            "sources": sources,
            "plan": self.plan,
            "measurers": self.measurers,
            "reliability": self.scores,
            "rounds": self._rounds(),
            "last": self.last,
            "warnings": self.warnings,
        }

    def _rounds(self) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        held: Selection = ()
        for one in self.rounds:
            asked = {"measurers": [self._evidence(held, t) for t in one.measurers]}
            asked["thresholds"] = [self._evidence(held, t) for t in one.thresholds]
            chosen = None if one.chosen is None else _said(one.chosen)
            note = "" if one.chosen else "skipped: no row is reliable enough to begin with"
            out.append({"source": one.source, **asked, "chosen": chosen, "note": note})
            held = (*held, one.chosen) if one.chosen is not None else held
        return out

    def _evidence(self, held: Selection, trial: Trial) -> dict[str, Any]:
        return {**_said(trial.choice), **self.trials[(*held, trial.choice)]}


def write_story(story: Story, folder: Path, sources: Mapping[str, SourceRows], reliabilities: Reliabilities) -> None:
    """Writes all files of the story under `folder`, each whole or not at all. Raises RunError."""
    make_folder(folder / "selected")
    manifest = story.manifest()
    write_atomically(folder / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    write_atomically(folder / "decisions.md", decisions(manifest).encode())
    write_atomically(folder / "thresholds.svg", thresholds_chart(manifest).encode())
    panels = [
        Histogram(h["measurer"], h["source"], h["histogram"], h["rows"], h["mean"], h["kind"])
        for h in story.scores.values()
    ]
    write_atomically(folder / "reliability.svg", histograms("Reliability of the labels", panels).encode())
    for choice in (one.chosen for one in story.rounds if one.chosen is not None):
        lines = selected_lines(choice, story.pools[choice.source], sources[choice.source], reliabilities)
        write_atomically(folder / "selected" / f"{choice.source}.jsonl", "".join(lines).encode())


def selected_lines(choice: Choice, pool: Pool, source: SourceRows, reliabilities: Reliabilities) -> list[str]:
    """The rows of one choice in our own format, their provenance kept, their reliability and measurer added."""
    found = reliabilities[choice.measurer, choice.source]
    lines = []
    for name, (scene, expression) in pool.rows.items():
        if name in pool.held_out or found[name] < choice.threshold:
            continue
        own = name.partition(":")[2]
        said = {**source.provenance.get(own, {}), "reliability": round(found[name], 4), "measurer": choice.measurer}
        row: dict[str, Any] = {
            "image": scene.file,
            "text": expression.text,
            "box_xyxy": list(expression.box),
            "id": own,
        }
        size = {"width": scene.width, "height": scene.height} if scene.width and scene.height else {}
        lines.append(json.dumps(row | size | {"provenance": said}, ensure_ascii=False) + "\n")
    return lines


def decisions(manifest: Mapping[str, Any]) -> str:
    """The decisions as Markdown."""
    name = {"single": "Single-source", "multi": "Multi-source"}[manifest["kind"]]
    out = [f"# {name} self-paced adapting", "", f"Trials were {manifest['judged']}; numbers are Acc@0.5 in %.", ""]
    out += ["| source | rows | entities a phrase | its measurer | kept |", "| --- | ---: | ---: | ---: | ---: |"]
    for source, said in manifest["sources"].items():
        kept = manifest["last"]["kept"].get(source, 0)
        accuracy = manifest["measurers"][source].get("accuracy")
        shown = "given" if accuracy is None else f"{100 * accuracy:.1f}"
        share = f"{kept:,} ({100 * kept / said['rows']:.0f} %)"
        out.append(f"| {source} | {said['rows']:,} | {said['entities_per_phrase']:.2f} | {shown} | {share} |")
    for number, one in enumerate(manifest["rounds"], 1):
        out += ["", f"## {number}. {one['source']}", ""]
        if one["chosen"] is None:
            out.append(f"{one['note'].capitalize()}.")
            continue
        out += ["| measurer | threshold | rows | trial | |", "| --- | ---: | ---: | ---: | --- |"]
        seen: set[tuple[str, float]] = set()
        for trial in one["measurers"] + one["thresholds"]:
            if (trial["measurer"], trial["threshold"]) in seen:
                continue
            seen.add((trial["measurer"], trial["threshold"]))
            mark = "chosen" if all(trial[k] == one["chosen"][k] for k in ("measurer", "threshold")) else ""
            worth = "no row" if trial["performance"] is None else f"{100 * trial['performance']:.2f}"
            out.append(f"| {trial['measurer']} | {trial['threshold']:g} | {trial['rows']:,} | {worth} | {mark} |")
    last = manifest["last"]
    out += ["", f"Trained on {last['rows']:,} rows: **{100 * last['score']['accuracy']:.2f}**.", ""]
    return "\n".join(out + [f"Warning: {said}" for said in manifest["warnings"]])


def thresholds_chart(manifest: Mapping[str, Any]) -> str:
    """For each round a panel: thresholds across, what their rows were worth upwards; measurers not taken are dots."""
    panels = []
    for number, one in enumerate(manifest["rounds"], 1):
        lines: dict[str, dict[float, float]] = {}
        for trial in one["thresholds"] + one["measurers"]:
            if trial["performance"] is not None:
                lines.setdefault(trial["measurer"], {})[trial["threshold"]] = 100 * trial["performance"]
        series = [
            Series(f"by {measurer}", sorted(points), [points[h] for h in sorted(points)])
            for measurer, points in lines.items()
        ]
        if one["chosen"] is not None:
            measurer, h = one["chosen"]["measurer"], one["chosen"]["threshold"]
            series.append(Series("chosen", [h], [lines[measurer][h]]))
        end = "skipped" if one["chosen"] is None else f"{one['chosen']['measurer']} from {one['chosen']['threshold']:g}"
        title = f"{number}. {one['source']}: {end}"
        panels.append(Panel(title, "threshold of reliability", "Acc@0.5 of a training on the rows kept, %", series))
    return line_chart(f"Thresholds tried, {manifest['judged']}", panels)


def _said(choice: Choice) -> dict[str, Any]:
    return {"source": choice.source, "measurer": choice.measurer, "threshold": choice.threshold}
