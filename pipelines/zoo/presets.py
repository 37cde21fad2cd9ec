"""Presets of chat models: prompt, readers, coordinate frame and resizing, as data (known_vlms.toml).

    preset + options ─► question(text) ─► the model ─► answer ─► prediction: parsed, one box chosen, in pixels

The frame is declared by the preset or by the user, never chosen by the ground truth.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from bench.errors import SettingsError, UnknownName, WeightsError
from bench.grounding import Box, Prediction, ScoredBox
from bench.imported.frames import FRAMES, resized, to_pixels
from bench.settings import Table
from pipelines.zoo.readers import ReaderName, Several, choose, parse_answer

SENT = "sent pixels"
Y_FIRST = "y first"
FILE = Path(__file__).parent / "known_vlms.toml"
OVERRIDES = ("prompt", "readers", "frame", "axes")


class Resize(Table):
    """How an image is resized before it is sent; without a key as it is."""

    multiple: int = Field(0, ge=0, description="sides are multiples of it")
    fewest: int = Field(4, ge=1, description="squares of `multiple` pixels")
    most: int = Field(16384, ge=1)
    longest: int = Field(0, ge=0, description="long side; smaller images stay")

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Compute the size at which an image is sent."""
        if self.multiple:
            sides = resized(np.array([[width, height]], np.float64), self.multiple, self.fewest, self.most)
            return int(sides[0, 0]), int(sides[0, 1])
        share = self.longest / max(width, height) if self.longest else 1.0
        return (max(1, round(width * share)), max(1, round(height * share))) if share < 1 else (width, height)


class AnswerOptions(Table):
    """Options of every pipeline that parses a chat model's answers; they replace what the preset has."""

    preset: str = Field("", description="of known_vlms.toml; empty = by the model's type, where that is known")
    prompt: str = Field("", pattern=r"^$|\{\}", description="in place of the preset's; {} is the expression")
    readers: tuple[ReaderName, ...] = Field((), description="in place of the preset's")
    frame: str = Field("", description="what the numbers count, in place of the preset's")
    axes: Literal["", "x first", "y first"] = Field("", description="in place of the preset's")
    several: Several = Field("first", description="which box of several counts; refuse = a miss, all = every one")


class Preset(Table):
    """One entry of known_vlms.toml."""

    version: int = Field(ge=1)
    prompt: str = Field(pattern=r"\{\}")
    readers: tuple[ReaderName, ...] = Field(min_length=1)
    frame: str
    axes: Literal["x first", "y first"] = "x first"
    resize: Resize = Resize()
    model_types: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()
    source: str = Field(min_length=10)


@dataclass(frozen=True, slots=True)
class Prompting:
    """A preset with the options laid over it; `mark` names all of it for the signature: "qwen3@1,first"."""

    preset: Preset
    several: Several
    mark: str

    def question(self, text: str) -> str:
        """Put an expression into the prompt; it must not be able to contain a model's own tags."""
        return self.preset.prompt.replace("{}", text.replace("<", " "))

    def prediction(
        self,
        query_id: str,
        answer: str,
        size: tuple[int, int],
        sent: tuple[int, int],
        remarks: Sequence[str] = (),
        usage: tuple[int, int, float] | None = None,
    ) -> Prediction:
        """Make the prediction of an answer about an image of `size` that was sent at another, (width, height) each."""
        parsed = parse_answer(answer, self.preset.readers)
        boxes = [self.in_pixels(box, size, sent) for box in parsed.boxes]
        return chosen(query_id, boxes, parsed.reader, self.several, answer, remarks, usage)

    def in_pixels(self, box: Box, size: tuple[int, int], sent: tuple[int, int]) -> Box:
        """Convert the numbers of an answer to xyxy pixels of the image."""
        frame = self.preset.frame
        of, grown = (sent, (size[0] / sent[0], size[1] / sent[1])) if frame == SENT else (size, (1.0, 1.0))
        numbers, sides = np.array([box], np.float64), np.array([of], np.float64)
        x1, y1, x2, y2 = to_pixels(_frame_name(frame, self.preset.axes), numbers, sides)[0].tolist()
        return (x1 * grown[0], y1 * grown[1], x2 * grown[0], y2 * grown[1])


def chosen(
    query_id: str,
    boxes: Sequence[Box],
    reader: str,
    several: Several,
    answer: str,
    remarks: Sequence[str] = (),
    usage: tuple[int, int, float] | None = None,
) -> Prediction:
    """Choose one box, in pixels, of an answer; the note states how the answer was parsed, or why there is no box.

    With the rule `all` every box is in the prediction, and an answer that states that nothing is there says so.
    """
    others: tuple[ScoredBox, ...] = ()
    if several == "all":
        boxes = [b for b in boxes if b[0] < b[2] and b[1] < b[3]] or boxes
        others = tuple(map(ScoredBox, boxes[1:]))
    box, notes = choose(boxes, several), [*remarks]
    if not reader:
        notes.append("no box: the answer cannot be parsed")
    elif not boxes:
        notes.append("no box: the answer states that there is none")
    elif box is None:
        notes.append(f"no box: {len(boxes)} boxes are refused")
    elif box[0] >= box[2] or box[1] >= box[3]:
        box = None
        notes.append("no box: its corners are the wrong way round")
    else:
        notes.append(f"parsed as {reader}")
        if len(boxes) > 1:
            notes.append(f"{'all' if several == 'all' else f'the {several}'} of {len(boxes)} boxes")
    none = 1.0 if several == "all" and reader and not boxes else None
    others = others if box is not None else ()
    return Prediction(query_id, box, note="; ".join(notes), others=others, none=none, answer=answer, usage=usage)


def prompting(
    options: AnswerOptions, where: str, model_type: str = "", default: str = "", sets: bool = False
) -> Prompting:
    """Lay a pipeline's options over a preset: the named one, else that of the model's type, else `default`.

    With `sets` the rule for several boxes is `all`, unless the options name another one than the first.
    Raises UnknownName, SettingsError for a frame that is none or that nobody declared, WeightsError for a model type
    that no preset is for.
    """
    presets = known()
    by_type = {kind: name for name, preset in presets.items() for kind in preset.model_types}
    name = options.preset or by_type.get(model_type, default)
    if not name:
        raise WeightsError(
            f"{where}: {model_type} is a model of which it is not written down what its coordinates count; name a "
            f"preset (--set preset=...: {', '.join(presets)}); known types: {', '.join(by_type)}"
        )
    if name not in presets:
        raise UnknownName("preset", name, presets)
    own: dict[str, Any] = {key: value for key in OVERRIDES if (value := getattr(options, key))}
    preset = presets[name].model_copy(update=own)
    frames = sorted({SENT, *(each.removesuffix(f", {Y_FIRST}") for each in FRAMES)})
    if _frame_name(preset.frame, preset.axes) not in FRAMES:
        wrong = f"no frame is called {preset.frame!r}" if preset.frame else f"preset {name!r} declares no frame"
        wrong += f" with {Y_FIRST}" if preset.frame and preset.axes == Y_FIRST else ""
        raise SettingsError(f"{where}: {wrong}; state what the model's numbers count: --set frame=..., one of {frames}")
    changed = hashlib.sha256(repr(sorted(own.items())).encode()).hexdigest()[:8]
    rule: Several = "all" if sets and options.several == "first" else options.several
    return Prompting(preset, rule, f"{name}@{preset.version}{f'+{changed}' if own else ''},{rule}")


@cache
def known() -> dict[str, Preset]:
    """Load every preset, by name."""
    return {name: Preset.model_validate(table) for name, table in tomllib.loads(FILE.read_text("utf-8")).items()}


def _frame_name(frame: str, axes: str) -> str:
    name = "pixels" if frame == SENT else frame
    return f"{name}, {Y_FIRST}" if axes == Y_FIRST else name
