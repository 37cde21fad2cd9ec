"""Readers of a chat model's answer: text -> the boxes in it, in the model's own numbers.

    json    the whole answer, or its one fenced block: {"bbox_2d": [x1, y1, x2, y2]}, a list of such, or bare lists
    tuple   nothing but numbers: (x1, y1, x2, y2), [[x1, y1, x2, y2]], (x1, y1), (x2, y2)
    tags    <box>...</box>, <|box_start|>...<|box_end|>, <|det|>...<|/det|>, <bbox>...</bbox>, <loc_1>..., {<1>...},
            and <answer>...</answer> around one of the two above
    prose   sentences with four numbers in brackets, or with two corner points

A reader returns None for a text that is not of its form, and an empty list for one that states that nothing is there.
None of them raises, and their time is proportional to the text's length: no pattern here steps back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeGuard

from bench.grounding import Box

Several = Literal["first", "largest", "refuse", "all"]
ReaderName = Literal["json", "tuple", "tags", "prose"]

KEYS = ("bbox_2d", "box_2d", "bbox", "box", "bboxes", "boxes")
MOST = 1e9  # beyond it a number is no coordinate; NaN and infinities are not below it either
NUMERIC = frozenset("0123456789.,;+-eE()[]{} \t\r\n`")
NUMBER = re.compile(r"[-+]?[0-9]++(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?")
TAGGED = re.compile(r"<\|?(?:box_start|box|bbox|det)\|?>([^<]*+)(?=<)")
BINS = re.compile(r"\s*+".join([r"<loc_?([0-9]{1,5})>"] * 4))
PERCENT = re.compile(r"\{" + r"<([0-9]{1,3})>" * 4 + r"\}")
_N = r"\s*+(?:[xy][0-9a-z]{0,3}\s*+=\s*+)?([-+]?[0-9]++(?:\.[0-9]++)?)\s*+"
IN_BRACKETS = re.compile(rf"[(\[]{_N},{_N}(?:,{_N},{_N})?[)\]]")  # a box, or a corner point


class Parsed(NamedTuple):
    """The boxes of an answer, as its numbers stand; `reader` took it, "" where none did.

    Without a box and with a reader, the answer states that nothing is there; without a reader it cannot be read.
    """

    boxes: tuple[Box, ...]
    reader: str


def parse_answer(text: str, readers: Sequence[str]) -> Parsed:
    """Parse an answer with the first reader that takes it; what a model thinks before `</think>` is not its answer."""
    answer = text.rpartition("</think>")[2]
    for name in readers:
        boxes = READERS[name](answer)
        if boxes is not None:
            return Parsed(tuple(boxes), name)
    return Parsed((), "")


def choose(boxes: Sequence[Box], several: Several) -> Box | None:
    """Choose one of several boxes by a rule; None for none, and where several are refused."""
    if len(boxes) < 2 or several in ("first", "all"):
        return boxes[0] if boxes else None
    if several == "refuse":
        return None
    return max(boxes, key=lambda b: max(0.0, b[2] - b[0]) * max(0.0, b[3] - b[1]))


def read_json(text: str) -> list[Box] | None:
    """Read JSON, alone or in the one fenced block."""
    # Split, not searched: a pattern for fences would look for each end again and again.
    parts = text.split("```")
    if len(parts) > 3:
        return None
    block = parts[0] if len(parts) == 1 else parts[1].removeprefix("json")
    try:
        return _boxes_of(json.loads(block))
    except (ValueError, RecursionError):
        return None


def _boxes_of(value: Any) -> list[Box] | None:
    """Collect the boxes of parsed JSON; [] for null and for an empty list."""
    if value is None or value == []:
        return []
    if isinstance(value, dict):
        keys = [key for key in KEYS if key in value]
        return _boxes_of(value[keys[0]]) if keys else None
    if _is_box(value):
        return [_box(value)]
    if not isinstance(value, list):
        return None
    items = [
        next((item[key] for key in KEYS if key in item), None) if isinstance(item, dict) else item for item in value
    ]
    return [_box(item) for item in items if _is_box(item)] or None


def read_tuple(text: str) -> list[Box] | None:
    """Read an answer that is nothing but the numbers of boxes."""
    return _fours(text) if NUMERIC.issuperset(text) else None


def read_tags(text: str) -> list[Box] | None:
    """Read the boxes between a model's tags."""
    if "<answer>" in text:
        inner = text.rpartition("<answer>")[2].partition("</answer>")[0]
        boxes = read_json(inner)
        return read_tuple(inner) if boxes is None else boxes
    for pattern in (BINS, PERCENT):
        if matches := pattern.findall(text):
            return [_box(numbers) for numbers in matches]
    boxes = [box for inner in TAGGED.findall(text) for box in _fours(inner.replace("|", " ")) or ()]
    return boxes or None


def read_prose(text: str) -> list[Box] | None:
    """Read the boxes of sentences: four numbers in brackets, else corner points, two a box."""
    matches = [match.groups() for match in IN_BRACKETS.finditer(text)]
    boxes = [_box(numbers) for numbers in matches if numbers[2] is not None]
    points = [numbers[:2] for numbers in matches if numbers[2] is None]
    if not boxes and len(points) % 2 == 0:
        boxes = [_box((*a, *b)) for a, b in zip(points[::2], points[1::2], strict=True)]
    return [box for box in boxes if _is_box(list(box))] or None


READERS: dict[str, Callable[[str], list[Box] | None]] = {
    "json": read_json,
    "tuple": read_tuple,
    "tags": read_tags,
    "prose": read_prose,
}


def _fours(text: str) -> list[Box] | None:
    """Read numbers four by four; None where they do not come out even."""
    numbers = [float(number) for number in NUMBER.findall(text)]
    if not numbers or len(numbers) % 4 or not all(abs(number) < MOST for number in numbers):
        return None
    return [_box(numbers[at : at + 4]) for at in range(0, len(numbers), 4)]


def _is_box(value: Any) -> TypeGuard[list[float]]:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < MOST for v in value)
    )


def _box(numbers: Sequence[Any]) -> Box:
    x1, y1, x2, y2 = map(float, numbers)
    return (x1, y1, x2, y2)
