"""Record a curriculum: every decision with its evidence, as JSON, as tables, and as drawings.

manifest.json       everything
decisions.md        the same for people
thresholds.svg      thresholds against the score of a training on their rows, for each source
reliability.svg     the reliability of every source under every scorer (the paper's histograms)
selected/*.jsonl    the chosen rows of each source, with their reliability
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.datasets.readers.labels import SourceRows
from bench.reporting.charts import Panel, line_chart
from bench.reporting.reliability_chart import BARS, reliability_chart
from bench.runs.files import make_folder, write_atomically
from clipvg.curriculum.pools import Pool, kept_rows
from clipvg.curriculum.search import Choice, CurriculumOptions, Round, Selection, Trial, best_of, chosen_of

FORMAT = 1


@dataclass
class CurriculumRecord:
    """What was done so far; performances and scores are fractions.

    `reliabilities` is (scorer, source) -> row -> IoU, `trials` selection -> rows, score and node.
    """

    kind: str
    options: CurriculumOptions
    sources: Mapping[str, SourceRows]
    pools: Mapping[str, Pool]
    metric: str = ""
    plan: list[dict[str, Any]] = field(default_factory=list)
    scorers: dict[str, dict[str, Any]] = field(default_factory=dict)
    reliabilities: dict[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)
    trials: dict[Selection, dict[str, Any]] = field(default_factory=dict)
    rounds: Sequence[Round] = ()
    warnings: list[str] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)

    @property
    def chosen(self) -> Selection:
        """The choices of all rounds."""
        return chosen_of(self.rounds)

    def kept(self, *selection: Choice) -> list[str]:
        """Return the rows that a selection keeps."""
        return kept_rows(selection, self.pools, self.reliabilities)

    def finish(self, node: str, result: Mapping[str, Any], score: Mapping[str, float], done: int) -> None:
        """Add the last training: its node, the result there, and its score on the validation split."""
        self.last = {
            "chosen": [asdict(choice) for choice in self.chosen],
            "rows": len(self.kept(*self.chosen)),
            "kept": {choice.source: len(self.kept(choice)) for choice in self.chosen},
            "node": node,
            "selection_score": result["score"]["accuracy"],
            "score": dict(score),
            "nodes_done_in_this_run": done,
        }

    def summary(self) -> dict[str, Any]:
        """Return its part of the record of the weights."""
        kept = {name: [self.last["kept"].get(name, 0), len(pool.rows)] for name, pool in self.pools.items()}
        return {"kind": self.kind, "selection_metric": self.metric, "chosen": self.last["chosen"], "kept": kept}

    def manifest(self) -> dict[str, Any]:
        """Return all of it as plain JSON."""
        sources = {
            name: {
                "rows": len(pool.rows),
                "images": len({scene.file for scene, _ in pool.rows.values()}),
                "held_out": len(pool.held_out),
                "duplicates_dropped": pool.duplicates,
                "entities_per_phrase": round(pool.entities, 3),
                "files": [dict(file) for file in self.sources[name].files],
            }
            for name, pool in self.pools.items()
        }
        return {
            "format": FORMAT,
            "kind": self.kind,
            "selection_metric": self.metric,
            "options": self.options.model_dump(mode="json"),
            "sources": sources,
            "plan": self.plan,
            "scorers": self.scorers,
            "reliability": {f"{m} on {s}": _distribution(m, s, rows) for (m, s), rows in self.reliabilities.items()},
            "rounds": [self._round(number, one) for number, one in enumerate(self.rounds)],
            "last": self.last,
            "warnings": self.warnings,
        }

    def _round(self, number: int, one: Round) -> dict[str, Any]:
        before = chosen_of(self.rounds[:number])

        def evidence(trial: Trial) -> dict[str, Any]:
            choice, _ = trial
            return {**asdict(choice), **self.trials[(*before, choice)]}

        source, scorers, thresholds = one
        chosen = best_of(thresholds)
        return {
            "source": source,
            "scorers": [evidence(trial) for trial in scorers],
            "thresholds": [evidence(trial) for trial in thresholds],
            "chosen": asdict(chosen) if chosen else None,
            "note": "" if chosen else "skipped: no row is reliable enough to start with",
        }

    def write(self, folder: Path) -> None:
        """Write all files under `folder`, each whole or not at all. Raises RunError."""
        make_folder(folder / "selected")
        manifest = self.manifest()
        panels = [{**h, "counts": h["histogram"]} for h in manifest["reliability"].values()]
        files = {
            "manifest.json": json.dumps(manifest, indent=2) + "\n",
            "decisions.md": decisions(manifest),
            "thresholds.svg": thresholds_chart(manifest),
            "reliability.svg": reliability_chart("Reliability of the labels", panels),
            **{f"selected/{choice.source}.jsonl": "".join(self._lines(choice)) for choice in self.chosen},
        }
        for name, text in files.items():
            write_atomically(folder / name, text.encode())

    def _lines(self, choice: Choice) -> list[str]:
        """The rows of one choice in our own format: provenance kept, reliability and scorer added."""
        pool, source = self.pools[choice.source], self.sources[choice.source]
        reliability, lines = self.reliabilities[choice.scorer, choice.source], []
        for name in self.kept(choice):
            scene, expression = pool.rows[name]
            own = name.partition(":")[2]
            added = {"reliability": round(reliability[name], 4), "scorer": choice.scorer}
            row: dict[str, Any] = {"image": scene.file, "text": expression.text, "box_xyxy": list(expression.box)}
            row["id"] = own
            if scene.width and scene.height:
                row |= {"width": scene.width, "height": scene.height}
            row["provenance"] = {**source.provenance.get(own, {}), **added}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        return lines


def _distribution(scorer: str, source: str, rows: Mapping[str, float]) -> dict[str, Any]:
    """H_ij: how reliable a source's rows are under a scorer."""
    values = np.array(list(rows.values()))
    counts, _ = np.histogram(values[values > 0], bins=BARS, range=(0, 1))
    return {
        "scorer": scorer,
        "source": source,
        "kind": "SR" if scorer == source else "CR",
        "rows": len(values),
        "mean": round(float(values.mean()), 4),
        "at_least": {f"{h / 10:g}": round(float((values >= h / 10).mean()), 4) for h in range(11)},
        "histogram": counts.tolist(),
    }


def decisions(manifest: Mapping[str, Any]) -> str:
    """Return the decisions as Markdown."""
    name = {"single": "Single-source", "multi": "Multi-source"}[manifest["kind"]]
    out = [
        f"# {name} self-paced adapting",
        "",
        f"Trials were {manifest['selection_metric']}; numbers are Acc@0.5 in %.",
        "",
    ]
    out += ["| source | rows | entities a phrase | its scorer | kept |", "| --- | ---: | ---: | ---: | ---: |"]
    for source, counts in manifest["sources"].items():
        kept = manifest["last"]["kept"].get(source, 0)
        accuracy = manifest["scorers"][source].get("accuracy")
        score = "given" if accuracy is None else f"{100 * accuracy:.1f}"
        share = f"{kept:,} ({100 * kept / counts['rows']:.0f} %)"
        out.append(f"| {source} | {counts['rows']:,} | {counts['entities_per_phrase']:.2f} | {score} | {share} |")
    for number, one in enumerate(manifest["rounds"], 1):
        out += ["", f"## {number}. {one['source']}", ""]
        if one["chosen"] is None:
            out.append(f"{one['note'].capitalize()}.")
            continue
        out += ["| scorer | threshold | rows | trial | |", "| --- | ---: | ---: | ---: | --- |"]
        trials = {(t["scorer"], t["threshold"]): t for t in one["scorers"] + one["thresholds"]}
        chosen = (one["chosen"]["scorer"], one["chosen"]["threshold"])
        for (scorer, threshold), trial in trials.items():
            score = "no row" if trial["performance"] is None else f"{100 * trial['performance']:.2f}"
            mark = "chosen" if (scorer, threshold) == chosen else ""
            out.append(f"| {scorer} | {threshold:g} | {trial['rows']:,} | {score} | {mark} |")
    last = manifest["last"]
    out += ["", f"Trained on {last['rows']:,} rows: **{100 * last['score']['accuracy']:.2f}**.", ""]
    return "\n".join(out + [f"Warning: {warning}" for warning in manifest["warnings"]])


def thresholds_chart(manifest: Mapping[str, Any]) -> str:
    """Draw a panel a round: thresholds across, scores upwards; scorers not chosen are dots."""
    panels = []
    for number, one in enumerate(manifest["rounds"], 1):
        lines: dict[str, dict[float, float]] = {}
        for trial in one["thresholds"] + one["scorers"]:
            if trial["performance"] is not None:
                lines.setdefault(trial["scorer"], {})[trial["threshold"]] = 100 * trial["performance"]
        series = [(f"by {m}", sorted(points), [points[h] for h in sorted(points)]) for m, points in lines.items()]
        end = "skipped"
        if one["chosen"] is not None:
            scorer, h = one["chosen"]["scorer"], one["chosen"]["threshold"]
            series.append(("chosen", [h], [lines[scorer][h]]))
            end = f"{scorer} from {h:g}"
        title = f"{number}. {one['source']}: {end}"
        panels.append(Panel(title, "threshold of reliability", "Acc@0.5 of a training on the rows kept, %", series))
    return line_chart(f"Thresholds tried, {manifest['selection_metric']}", panels)
