"""Does the curriculum pay? Uncurated training, SSA and MSA on `shapes`, same budget, several seeds.

    python tests/benchmarks/curriculum.py --out /tmp/proof [--labels known,honest] [--seeds 0,1,2] [--at-once 2]

known   pseudo-labels of the generator, half of them spoilt at stated rates (`bench data noisy-labels`)
honest  those of the real label path: detector, tiny CLIP, and the three sources (`bench label`)

Everything is done by `bench` commands, printed as they run; what is done is not done again. The last word is a table in
Markdown: Acc@0.5 on shapes-val by the last weights of a training, each as long as the others, and how much of what was
kept is spoilt. Takes about an hour and a half on two cores, 5 minutes of it the CLIP's first lesson.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCH = [sys.executable, "-m", "bench.cli.main"]
SOURCES = ("template", "relation", "caption")
SCENES = "2500"


def call(*arguments: str | Path, log: Path) -> None:
    """One `bench` command; its words go to a file."""
    print("bench", *arguments, flush=True)
    with log.open("a") as file:
        subprocess.run([*BENCH, *map(str, arguments)], check=True, stdout=file, stderr=file)


def clip(out: Path) -> Path:
    """The CLIP that all networks stand on."""
    made = out / "clip.safetensors"
    if not made.is_file():
        lesson = ("--part", "clip", "--config", HERE / "curriculum.toml", "--out", out / "lesson")
        call("train", "--pipeline", "clipvg", "--split", "shapes-train", *lesson, log=out / "lesson.log")
        made.write_bytes((out / "lesson" / "proof-clip.safetensors").read_bytes())
    return made


def labels(out: Path, kind: str) -> list[Path]:
    """The label files of a kind, one a source."""
    files = [out / "labels" / kind / f"{source}.jsonl" for source in SOURCES]
    for source, file in zip(SOURCES, files, strict=True):
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            make = ("data", "noisy-labels", "--kind") if kind == "known" else ("label", "--source")
            call(*make, source, "--split", "shapes-train", "--limit", SCENES, "--out", file, log=out / "labels.log")
    return files


def one(out: Path, kind: str, seed: int) -> None:
    """Uncurated, SSA and MSA of one kind of labels and one seed."""
    files, folder = labels(out, kind), out / f"{kind}-{seed}"
    folder.mkdir(exist_ok=True)
    common = ["train", "--pipeline", "clipvg", "--split", "shapes-train", "--config", HERE / "curriculum.toml"]
    common += ["--set", f"clip.pretrained={clip(out)}", "--set", "lesson.epochs=0", "--seed", str(seed)]
    all_of_them = [part for file in files for part in ("--labels", file)]
    runs = {
        "uncurated": all_of_them,
        "ssa": ["--curriculum", "single", "--labels", files[0]],
        "msa": ["--curriculum", "multi", *all_of_them],
    }
    for name, arguments in runs.items():
        if not (folder / f"{name}.json").is_file():
            call(*common, *arguments, "--set", f"name={name}", "--out", folder, log=folder / f"{name}.log")


def spoilt(rows: list[dict]) -> float:
    """Share of rows whose words or box the generator spoilt; of honest rows nobody knows."""
    faults = [row["provenance"].get("noise") for row in rows]
    return float("nan") if None in faults else sum(fault != "none" for fault in faults) / max(1, len(faults))


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def table(out: Path, kinds: list[str], seeds: list[int]) -> str:
    """What came of it, as Markdown."""
    text = ["| labels | seed | single: uncurated | SSA | rows, spoilt | multi: uncurated | MSA | rows, spoilt |"]
    text.append("| --- | --- | ---: | ---: | --- | ---: | ---: | --- |")
    for kind, seed in product(kinds, seeds):
        folder = out / f"{kind}-{seed}"
        if not (folder / "msa.json").is_file():
            continue
        ssa, msa = (json.loads((folder / f"{n}.curriculum" / "manifest.json").read_text()) for n in ("ssa", "msa"))
        plain = json.loads((folder / "uncurated.json").read_text())["score"]["accuracy"]
        whole = {source: lines_of(out / "labels" / kind / f"{source}.jsonl") for source in SOURCES}
        kept = {n: {s: lines_of(folder / f"{n}.curriculum" / "selected" / f"{s}.jsonl") for s in SOURCES}
                for n in ("ssa", "msa")}  # fmt: skip
        every = [row for rows in whole.values() for row in rows]
        mine = [row for rows in kept["msa"].values() for row in rows]
        at, (one_kept, one_whole) = ssa["last"]["chosen"][0]["threshold"], (kept["ssa"]["template"], whole["template"])
        text.append(
            f"| {kind} | {seed} | {100 * ssa['measurers']['template']['accuracy']:.2f} | "
            f"{100 * ssa['last']['score']['accuracy']:.2f} | from {at:g}: {len(one_kept):,} of {len(one_whole):,}, "
            f"{100 * spoilt(one_kept):.0f} % of {100 * spoilt(one_whole):.0f} % | {100 * plain:.2f} | "
            f"{100 * msa['last']['score']['accuracy']:.2f} | {len(mine):,} of {len(every):,}, "
            f"{100 * spoilt(mine):.0f} % of {100 * spoilt(every):.0f} % |"
        )
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labels", default="known,honest")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--at-once", type=int, default=2)
    asked = parser.parse_args()
    out, kinds, seeds = asked.out.resolve(), asked.labels.split(","), [int(s) for s in asked.seeds.split(",")]
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes share the cores
    clip(out)
    for kind in kinds:
        labels(out, kind)
    with ThreadPoolExecutor(asked.at_once) as pool:
        list(pool.map(lambda pair: one(out, *pair), product(kinds, seeds)))
    print(table(out, kinds, seeds))


if __name__ == "__main__":
    main()
