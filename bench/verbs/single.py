"""One picture and one expression, outside any split: what `bench predict` asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.boxes import clip_xyxy
from bench.datasets.load import load_split
from bench.datasets.pictures import decode
from bench.errors import BenchError, PictureError, UsageError
from bench.evaluation.pipelines import open_pipeline
from bench.grounding import LoadedScene, Picture, Prediction, Query
from bench.settings import Resolved

QUERY = "0"


@dataclass(frozen=True)
class Single:
    """The answer to one expression about one picture."""

    pipeline: str
    source: str
    text: str
    picture: Picture
    prediction: Prediction

    def as_json(self) -> dict[str, Any]:
        """The contract of `bench predict --json`: boxes in pixels of the original picture, 6 decimals; the score, 9."""
        height, width = self.picture.shape[:2]
        box, proposals = self.prediction.box, self.prediction.proposals
        if box is not None and not np.isfinite(box).all():
            box = None
        return {
            "pipeline": self.pipeline,
            "image": self.source,
            "width": width,
            "height": height,
            "text": self.text,
            "box_xyxy": None if box is None else clip_xyxy(box, width, height).round(6).tolist(),
            "box_xyxy_unclipped": None if box is None else [round(float(v), 6) for v in box],
            "score": None if self.prediction.score is None else round(float(self.prediction.score), 9),
            "query": self.prediction.query_index,
            "proposals": None if proposals is None else proposals.round(6).tolist(),
            "note": self.prediction.note,
        }

    def draw(self, out: Path) -> None:
        """Draw the answer into a picture file; its suffix says the format. Raises UsageError."""
        from bench.reporting.drawing import draw_answer, save_picture

        record = self.as_json()
        save_picture(draw_answer(self.picture, record["box_xyxy"], self.text, record["proposals"] or ()), out)


def predict_one(
    pipeline: str,
    text: str,
    resolved: Resolved,
    image: Path | None = None,
    scene: str | None = None,
    dataset: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Single:
    """Ask `pipeline` about `image` or about SPLIT/ID. `dataset` names the lines of bench.toml to use.

    Raises UsageError, PictureError, and whatever building the pipeline raises.
    """
    if not text.strip():
        raise UsageError("--text is empty: say what to look for")
    if (image is None) == (scene is None):
        raise UsageError("give either --image FILE or --scene SPLIT/ID")
    source, picture, own = _picture(image, scene, resolved)
    opened = open_pipeline(pipeline, dataset or own, resolved, options)
    answers = opened.ground([LoadedScene(source, picture, (Query(QUERY, text),))])
    if len(answers) != 1:
        raise BenchError(f"pipeline {pipeline!r} gave {len(answers)} answers to one query")
    return Single(pipeline, source, text, picture, answers[0])


def _picture(image: Path | None, scene: str | None, resolved: Resolved) -> tuple[str, Picture, str]:
    """Its name, its pixels, and the data set it belongs to."""
    if image is not None:
        try:
            return str(image), decode(image.read_bytes(), str(image)), "file"
        except OSError as error:
            raise PictureError(f"{image}: cannot be read ({error.strerror})") from None
    split_name, _, identifier = str(scene).rpartition("/")
    split = load_split(split_name, resolved)
    found = next((s for s in split.scenes if s.id == identifier), None)
    if found is None:
        raise UsageError(f"{split_name} has no scene {identifier!r}; its first one is {split.scenes[0].id!r}")
    return str(scene), split.pictures.load(found), split.dataset
