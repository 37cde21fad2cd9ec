"""Old spellings that are still read, until version 0.3: keys of files and settings, options, names of pipelines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

KEYS = {
    "pictures": "images",
    "pictures_per_s": "images_per_s",
    "proposals_per_picture": "proposals_per_image",
    "other_picture": "other_image",
    "per_picture": "per_image",
    "whole_picture": "whole_image",
    "keep_pictures": "keep_images",
    "measurer": "scorer",
    "measurers": "scorers",
    "measurer_data": "scorer_data",
    "measurer_sha256": "scorer_sha256",
}
OPTIONS = {
    "--pictures": "--images",
    "--no-pictures": "--no-images",
    "--per-picture": "--per-image",
    "--measurer": "--scorer",
}
COMMAND_OPTIONS = {  # command -> options that have another name there now; "" where none is needed
    "data prepare": {"--keep": "--annotation-ids"},
    "data verify": {"--images": "", "--no-images": "--annotations-only"},
    "data sheet": {"--images": "--scenes"},
    "label stats": {"--images": "--scenes"},
    "label score": {"--lists": "--official-files"},
}
SUBCOMMANDS = {  # command -> options that are commands below it now
    "leaderboard": {"--submit": "submit", "--published": "published", "--export": "export"},
}
O_WAS_RESULTS = ("run", "score", "compare", "speed", "list", "leaderboard", "report")
PIPELINES = {"whole-picture": "whole-image"}
MEMO_RESULT = "found"  # of node.json (bench/runs/memo.py), where it is "result" now
CRITERIA = {"held-out": "pseudo"}  # of a curriculum
# Today's spelling -> the one that hashes are made of: a curriculum's finished work stays known.
HASHED = {
    "scorer": "measurer",
    "pseudo-labels set aside": "held-out pseudo-labels",
    "agreement between scorers": "agreement between measurers",
}


def current(value: Any) -> Any:
    """Return a value of JSON or TOML with its keys, and the pipelines it names, in today's spelling."""
    if isinstance(value, dict):
        return {KEYS.get(key, key): current(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [current(inner) for inner in value]
    return PIPELINES.get(value, value) if isinstance(value, str) else value


def current_arguments(arguments: list[str]) -> list[str]:
    """Return a command's arguments with today's options and subcommands; each old one is named on stderr."""
    arguments = _without_train_step(_with_subcommand(arguments))
    words = [each for each in arguments if not each.startswith("-")]
    renamed = COMMAND_OPTIONS.get(" ".join(words[:2]), {})
    out: list[str] = []
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        new = renamed.get(OPTIONS.get(option, option), OPTIONS.get(option))
        if _is_short(option, "-o") and _o_is_results(arguments, place):
            option, equals, value = "-o", "=" * (argument != "-o"), argument[2:]
            new = "--results"
        if new is not None:
            _note(option, new or "the default")
        if new != "":
            out.append(f"{new or option}{equals}{value}")
    return out


def _note(old: str, new: str) -> None:
    print(f"bench: {old} is now {new}; the old spelling goes in version 0.3", file=sys.stderr)


def _with_subcommand(arguments: list[str]) -> list[str]:
    """Turn an option that is a subcommand now into it: leaderboard --submit DIR becomes leaderboard submit DIR."""
    command, *rest = arguments or [""]
    for at, argument in enumerate(rest):
        option, equals, value = argument.partition("=")
        if name := SUBCOMMANDS.get(command, {}).get(option):
            _note(f"{command} {option}", f"{command} {name}")
            return [command, name, *([value] if equals else []), *rest[at + 1 :], *rest[:at]]
    return arguments


def _without_train_step(arguments: list[str]) -> list[str]:
    """Turn bench doctor --train-step PIPELINE into bench train --check-step --pipeline PIPELINE."""
    if arguments[:1] != ["doctor"] or not any(each.partition("=")[0] == "--train-step" for each in arguments):
        return arguments
    _note("doctor --train-step NAME", "train --check-step --pipeline NAME")
    renamed = [each.replace("--train-step", "--pipeline", 1) for each in arguments[1:]]
    return ["train", "--check-step", *renamed]


def _is_short(argument: str, option: str) -> bool:
    return argument.startswith(option) and not argument.startswith("--")


def _o_is_results(arguments: list[str], place: int) -> bool:
    """Tell whether `-o` has its old meaning here, --results: it is --out in the commands that have one."""
    words = [each for each in arguments if not each.startswith("-")]
    if not words or words[0] not in O_WAS_RESULTS:
        return False
    if words[0] != "report" and words[:2] != ["leaderboard", "export"]:
        return True
    value = arguments[place][2:] or next(iter(arguments[place + 1 :]), "")  # --out, unless it cannot be
    return Path(value).is_dir() or any(each.partition("=")[0] == "--out" for each in arguments)
