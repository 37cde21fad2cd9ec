"""The command line of this folder; see its `__init__.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.cli.options import assignments
from bench.cli.output import log_to_stderr
from bench.errors import BenchError
from tools.tiny_weights.recipes import PARTS, run


def main() -> None:
    parser = argparse.ArgumentParser("python -m tools.tiny_weights", description="Make the small weights of shapes.")
    parser.add_argument("part", choices=[*PARTS, "mdetr", "all"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the part's recipe")
    options = parser.parse_args()
    log_to_stderr("bench.train", True)
    if options.part == "all" and options.set:
        parser.error("--set changes the recipe of one part: name the part")
    try:
        for part in [*PARTS, "mdetr"] if options.part == "all" else [options.part]:
            print(run(part, options.out, options.seed, options.device, assignments(options.set)))
    except BenchError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
