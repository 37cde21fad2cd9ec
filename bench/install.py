"""The pip command that installs an extra of this package, as it works here."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, distribution, requires

from bench.settings import PROJECT

NAME = "grounding-bench"


def pip_install(extra: str) -> str:
    """Write the command for an extra: from the clone, from the address that pip recorded, or from the index."""
    if (PROJECT / "pyproject.toml").is_file():
        return f'pip install -e "{PROJECT}[{extra}]"'
    try:
        record = json.loads(distribution(NAME).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        record = {}
    url, vcs = record.get("url", ""), record.get("vcs_info")
    if vcs:
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    return f'pip install "{NAME}[{extra}] @ {url}"' if url else f'pip install "{NAME}[{extra}]"'


def bring_module(module: str, owner: str) -> str:
    """Say how a missing module is installed: by an extra of ours, or by the package `owner` that imports it."""
    try:
        lines = requires(NAME) or []
    except PackageNotFoundError:
        lines = []
    for line in lines:
        package = re.match(r"[\w.-]+", line)
        if package and package[0].lower().replace("-", "_") == module.partition(".")[0].lower():
            extra = re.search(r"extra == ['\"](\w+)['\"]", line)
            return pip_install(extra[1]) if extra else f'pip install "{line.partition(";")[0].strip()}"'
    return f"the documentation of {owner} says which package brings it"
