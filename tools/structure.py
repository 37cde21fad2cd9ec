"""The structure of bench, pipelines and clipvg in numbers, from the files alone.

    python -m tools.structure            one line a number
    python -m tools.structure --json     the same, with the lists behind them

A file imports what its statements name, at the top or inside a function; `if TYPE_CHECKING` does not count.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("bench", "pipelines", "clipvg")
SHORT = 80  # lines under which a file with a single importer belongs to it
LEVEL = {"bench": 0, "pipelines": 1, "clipvg": 2}  # a package imports its own level and those below
ROOMS = ("cli", "demo", "doctor", "predicting", "leaderboard", "labelling", "training", "speed", "reporting")
RETIRED = re.compile(
    r"\b(said|found|held|told|asked|shown|seen|taught|lesson|beginning|judging|measurer|remembered|pictures?)\b", re.I
)


def sources(folders: tuple[str, ...] = PACKAGES, root: Path = ROOT) -> dict[str, str]:
    """Read the Python files of some folders: path from the root -> text."""
    paths = sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def imports(files: dict[str, str]) -> dict[str, set[str]]:
    """File -> the other files of `files` that it imports."""
    modules = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in files}
    out: dict[str, set[str]] = {}
    for file, text in files.items():
        names: list[str] = []
        for node in _statements(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                # `from package import module` is the module, `from module import name` the module before it.
                names += [
                    full if (full := f"{node.module}.{alias.name}") in modules else node.module for alias in node.names
                ]
            elif isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
        out[file] = {modules[name] for name in names if name in modules} - {file}
    return out


def _statements(tree: ast.AST) -> list[ast.AST]:
    """Every node of a module but those under `if TYPE_CHECKING`."""
    out: list[ast.AST] = []
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
            continue
        out.append(node)
        todo += ast.iter_child_nodes(node)
    return out


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Return the files of one import circle; empty where there is none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def upward(arrows: dict[str, set[str]]) -> list[str]:
    """List the imports that run up: a package of a higher level, and bench's core importing a room of a command."""
    out = []
    for file, targets in arrows.items():
        for target in targets:
            (package, *rest), (other, *place) = file.split("/"), target.split("/")
            up = LEVEL[other] > LEVEL[package] or (place[0] == "cli" and "cli" not in rest[:1])
            core = package == other == "bench" and rest[0] in ("datasets", "runs", "evaluation")
            if up or (core and place[0] in ROOMS):
                out.append(f"{file} -> {target}")
    return sorted(out)


def measure(root: Path = ROOT) -> dict[str, Any]:
    """Measure the packages of a checkout: numbers, and the lists behind them."""
    files, tests = sources(root=root), sources(("tests",), root)
    arrows = imports(files)
    classes = [node for text in files.values() for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    lines = {file: text.count("\n") for file, text in files.items()}
    importers = {file: [other for other, targets in arrows.items() if file in targets] for file in files}
    comments = sum(line.lstrip().startswith("#") for text in files.values() for line in text.splitlines())
    most = max(arrows, key=lambda file: len(arrows[file]))
    return {
        "files": len(files),
        "lines": sum(lines.values()),
        "test_lines": sum(text.count("\n") for text in tests.values()),
        "classes": len(classes),
        "dataclasses": sum("dataclass" in ast.dump(item) for node in classes for item in node.decorator_list),
        "most_imports": [most, len(arrows[most])],
        "short_files_with_one_importer": [
            file
            for file in files
            if 0 < lines[file] < SHORT and len(importers[file]) == 1 and not file.endswith("__init__.py")
        ],
        "files_over_300_lines": [file for file in files if lines[file] > 300],
        "comment_lines_percent": round(100 * comments / sum(lines.values()), 2),
        "retired_words": {file: n for file, text in files.items() if (n := len(RETIRED.findall(text)))},
        "circle": circle(arrows),
        "upward": upward(arrows),
    }


if __name__ == "__main__":
    numbers = measure()
    if "--json" in sys.argv:
        print(json.dumps(numbers, indent=1))
    else:
        for name, value in numbers.items():
            counted = (
                sum(value.values()) if isinstance(value, dict) else len(value) if isinstance(value, list) else value
            )
            print(f"{name:32} {value if name == 'most_imports' else counted}")
