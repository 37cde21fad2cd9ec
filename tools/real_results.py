"""Make results/real: what the commands of the README give on real files, without the files.

    python -m tools.real_results DATA --out results/real

DATA holds the index lists, predictions and photographs named in SOURCES. Everything is computed in a temporary folder;
counts, fingerprints, the leaderboard and the comparisons are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.datasets.load import load_split
from bench.hashing import sha256_file
from bench.settings import load_settings

DATASETS = {"refcoco": "val testA testB", "refcoco+": "val testA testB", "refcocog": "val", "referit": "val"} | {
    "flickr30k": "val test"
}
OBJECTS = "refcoco-testA-objects"  # one expression of each of the 1,975 objects of RefCOCO testA
PHOTOGRAPHS = {"ref-adv": "ref_adv", "refcocos": "refcocos/pictures", "coco-4": "pictures"}
BASELINES = "centre-box,whole-image,random-proposal,largest-proposal,label-only"
LBYL = ("--supervision", "full", "--trained-on", "RefCOCO train", "--url", "https://github.com/svip-lab/LBYL-Net")
REC_EVAL = ("--url", "https://github.com/teaywright/REC-Eval", "--trained-on")
QWEN = (*REC_EVAL, "not published")
INTERNVL = (*REC_EVAL, "not stated")
DINO = (*REC_EVAL, "Objects365, GoldG, Cap4M", "--supervision", "zero-shot", "--saw-test-images", "no")
IMPORTED = (  # file, name, split, card
    ("lbyl_bert_unc_val.json", "LBYL-Net (BERT)", "refcoco-val", LBYL),
    ("lbyl_lstm_unc_val.json", "LBYL-Net (LSTM)", "refcoco-val", LBYL),
    ("rec_eval/qwen25vl.jsonl", "Qwen2.5-VL-7B", OBJECTS, QWEN),
    ("rec_eval/internvl.jsonl", "InternVL2.5-8B", OBJECTS, INTERNVL),
    ("rec_eval/dino.jsonl", "GroundingDINO-T, threshold 0.4", OBJECTS, DINO),
)
COMPARED = (
    ("refcoco-val", ("LBYL-Net (BERT)", "LBYL-Net (LSTM)")),
    (OBJECTS, ("Qwen2.5-VL-7B", "InternVL2.5-8B", "GroundingDINO-T, threshold 0.4")),
)
SOURCES = """\
| files | from |
| --- | --- |
| index lists of RefCOCO, RefCOCO+, RefCOCOg, ReferIt and Flickr30k Entities | `fest007/LVVVG` at fc2fff2 |
| boxes of LBYL-Net for RefCOCO val | LBYL-Net (Huang et al., CVPR 2021); its authors report 79.72 (BERT) and 78.50 \
(LSTM) |
| answers of Qwen2.5-VL-7B, InternVL2.5-8B and GroundingDINO-T (box threshold 0.4) about RefCOCO testA | \
`teaywright/REC-Eval` at a8d22ac |
| Ref-Adv: 31 photographs with one expression each | `ref-adv/ref-adv.github.io` at b669abf (Ref-Adv, ICLR 2026) |
| refcocos: 28 expressions with one box, about photographs of COCO val2017 | `kuoyang1999/refcocos-annotator` at \
a1380b8 |
| coco-4: 32 expressions of RefCOCO, RefCOCO+ and RefCOCOg about 4 photographs of COCO train2014 | the same lists, \
COCO |
| YOLOv8-nano, the detector of the baselines | ultralytics |
"""


class Bench:
    """Runs `bench` commands in a folder of their own, and keeps them as a reader would type them."""

    def __init__(self, data: Path, work: Path) -> None:
        self.data, self.work = data.resolve(), work
        self.typed: list[str] = []

    def __call__(self, *words: str) -> str:
        """Run a command; return its stdout. Raises CalledProcessError."""
        shown = [word.replace(f"{self.data}", "DATA").replace(f"{self.work}/", "") for word in words]
        self.typed.append("bench " + " ".join(f'"{word}"' if " " in word else word for word in shown))
        print(self.typed[-1], file=sys.stderr)
        command = [sys.executable, "-m", "bench.cli.main", *words]
        environment = os.environ | {"BENCH_HOME": str(self.work / "home"), "COLUMNS": "100"}
        return subprocess.run(
            command, cwd=self.work, env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout


def write_photographs(data: Path, work: Path) -> None:
    """Write the expressions about photographs, and those of testA, as JSONL files in the working folder."""
    ref_adv = (data / "ref_adv/ref-adv.jsonl").read_text()
    rows = json.loads((data / "refcocos/refcocos_test.json").read_text())
    there = {path.name for path in (data / "refcocos/pictures").iterdir()}
    refcocos = [
        {"image": name, "text": row["normal_caption"], "box_xyxy": row["solution"]}
        for row in rows
        if row["solution"] and (name := Path(row["image"]).name) in there
    ]
    four = [json.loads(line) for line in (data / "pictures/expressions.jsonl").read_text().splitlines()]
    objects = (data / "predictions/rec_eval/refcoco-testA.jsonl").read_text()
    texts = {"ref-adv": ref_adv, OBJECTS: objects}
    texts |= {
        name: "".join(json.dumps(row) + "\n" for row in rows)
        for name, rows in {"refcocos": refcocos, "coco-4": four}.items()
    }
    for name, text in texts.items():
        (work / f"{name}.jsonl").write_text(text)


def make(data: Path, work: Path, photographs: bool = True) -> str:
    """Run every command in `work`; return the text of README.md. `photographs` runs the baselines, which need torch."""
    bench = Bench(data, work)
    write_photographs(bench.data, work)
    # 1. The real lists: prepared, and their counts checked.
    for name in DATASETS:
        bench("data", "prepare", name, "--annotations", str(bench.data / "index"))
    # 2. Predictions of published models.
    for file, name, split, card in IMPORTED:
        about = split if split in ("refcoco-val",) else f"file:{split}.jsonl"
        bench("score", "--predictions", f"{bench.data}/predictions/{file}", "--split", about, "--name", name, *card)
    # 3. Baselines on photographs.
    for name, folder in PHOTOGRAPHS.items() if photographs else ():
        shutil.copytree(bench.data / folder, work, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.json*"))
        weights = f"proposer.weights={bench.data}/weights/yolov8n.pt"
        for pipeline in BASELINES.split(","):
            settings = ("--set", weights) if pipeline not in ("centre-box", "whole-image") else ()
            bench("run", "--pipeline", pipeline, "--split", f"file:{name}.jsonl", *settings)
    # 4. Tables and comparisons; the runs are not kept, so the table is an export, which does not lead to them.
    bench("leaderboard")
    for form in ("md", "csv"):
        bench("leaderboard", "export", form, "--out", str(work / f"LEADERBOARD.{form}"))
    compared = []
    for split, names in COMPARED:
        about = split if split in ("refcoco-val",) else f"file:{split}.jsonl"
        compared.append(f"### {split}\n\n```text\n{bench('compare', *names, '--split', about).strip()}\n```\n")
    return page(bench, compared)


def page(bench: Bench, compared: list[str]) -> str:
    """Return README.md: sources, counts and fingerprints, comparisons, and the commands."""
    resolved = load_settings(None, {"data.home": str(bench.work / "home")})
    own = [(name, bench.work / f"{name}.jsonl") for name in (OBJECTS, *PHOTOGRAPHS)]
    lists = {"refcoco": "unc", "refcoco+": "unc+", "refcocog": "gref_umd", "referit": "referit", "flickr30k": "flickr"}
    files = [
        (f"{name}-{part}", bench.data / f"index/{lists[name]}_{part}.pth")
        for name, parts in DATASETS.items()
        for part in parts.split()
    ]
    rows = []
    for name, path in files + own:
        split = load_split(f"file:{path}" if path.suffix == ".jsonl" else name, resolved)
        count = split.counts
        cells = (
            f"`{name}`",
            f"{count.expressions:,}",
            f"{count.images:,}",
            split.fingerprint[:8],
            sha256_file(path)[:8],
        )
        rows.append("| " + " | ".join(cells) + " |\n")
    head = "| split | expressions | images | fingerprint | sha256 of the file |\n| --- | ---: | ---: | --- | --- |\n"
    return (
        "# Real files\n\nMade by `python -m tools.real_results DATA`. The files are not in this repository; their\n"
        "owners' terms hold. The scores are in [LEADERBOARD.md](LEADERBOARD.md); counts and comparisons are below.\n\n"
        f"{SOURCES}\n## Counts and fingerprints\n\n{head}{''.join(rows)}\n## Comparisons\n\n{chr(10).join(compared)}\n"
        "## Commands\n\n```text\n" + "\n".join(bench.typed) + "\n```\n"
    )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/real"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        text = make(options.data, work)
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "README.md").write_text(text)
        for table in (work / "LEADERBOARD.md", work / "LEADERBOARD.csv", work / "results/LEADERBOARD.json"):
            shutil.copy(table, options.out)


if __name__ == "__main__":
    main()
