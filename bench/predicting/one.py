"""Ground expressions in one image, outside any split: `bench predict`, the demo page and the library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from bench.boxes import clip_xyxy
from bench.datasets.images import decode
from bench.datasets.load import load_split
from bench.errors import ImageError, UsageError
from bench.evaluation import opening
from bench.evaluation.answering import ground_checked
from bench.grounding import Box, ImageArray, LoadedScene, Pipeline, PipelineCard, Prediction, Query, ScoredBox
from bench.inputs import load_bytes
from bench.settings import Resolved

SHAPES = "shapes-train"  # the training split of the embedded drawings, as cards name it
DRAWN_ONLY = "trained on drawn shapes only; its box on a photograph means nothing"

ImageLike = str | Path | ImageArray | Image.Image


@dataclass(frozen=True, repr=False)
class SingleAnswer:
    """Hold the answer to one expression about one image; `threshold` is the score from which several boxes count."""

    pipeline: str
    source: str
    text: str
    image: ImageArray
    prediction: Prediction
    threshold: float | None = None

    @property
    def box(self) -> Box | None:
        """Return the box, xyxy pixels, clipped to the image; None for no box."""
        return self._clipped(self.prediction.box)

    def _clipped(self, box: Box | None) -> Box | None:
        if box is None or not np.isfinite(box).all():
            return None
        height, width = self.image.shape[:2]
        x1, y1, x2, y2 = clip_xyxy(box, width, height).tolist()
        return (x1, y1, x2, y2)

    @property
    def boxes(self) -> tuple[ScoredBox, ...]:
        """Return every box, clipped to the image, with at least the threshold as score or without a score."""
        least = -math.inf if self.threshold is None else self.threshold
        kept = [each for each in self.prediction.boxes if each.score is None or each.score >= least]
        clipped = [(self._clipped(each.box), each) for each in kept]
        return tuple(each._replace(box=box) for box, each in clipped if box is not None)

    @property
    def score(self) -> float | None:
        """Return the model's own score, where it has one."""
        return self.prediction.score

    def __repr__(self) -> str:
        box = "no box" if self.box is None else "[" + ", ".join(f"{v:.1f}" for v in self.box) + "]"
        score = "" if self.score is None else f", score {self.score:.3f}"
        return f"<{self.pipeline} on {self.text!r}: {box}{score}>"

    def as_json(self) -> dict[str, Any]:
        """Make the object of `bench predict --json`: boxes in pixels of the image, 6 decimals; the score, 9."""
        height, width = self.image.shape[:2]
        clipped, proposals = self.box, self.prediction.proposals
        box = None if clipped is None else self.prediction.box
        return {
            "pipeline": self.pipeline,
            "image": self.source,
            "width": width,
            "height": height,
            "text": self.text,
            "box_xyxy": None if clipped is None else [round(v, 6) for v in clipped],
            "box_xyxy_unclipped": None if box is None else [round(float(v), 6) for v in box],
            "score": None if self.prediction.score is None else round(float(self.prediction.score), 9),
            "query": self.prediction.query_index,
            "proposals": None if proposals is None else proposals.round(6).tolist(),
            "mask": self.prediction.mask,
            "note": self.prediction.note,
            **({} if self.threshold is None else {"several": [_plain(each) for each in self.boxes]}),
        }

    def drawn(self) -> Image.Image:
        """Draw the answer with its mask, proposals, attention and stages on the image, the expression beneath."""
        from bench.reporting.drawing import draw_answer

        record = self.as_json()
        made, proposals = self.prediction, record["proposals"] or ()
        box, score, stages = record["box_xyxy"], self.score, made.stages
        others: list[Box] = []
        if self.threshold is not None:  # the best box may lie below it, and proposals would hide the others
            every = [each.box for each in self.boxes]
            box, others, proposals = (every[0] if every else None), every[1:], ()
            score = score if every else None
        return draw_answer(
            self.image, box, self.text, proposals, None, score, made.attention, made.mask, stages, others
        )

    def draw(self, out: str | Path) -> None:
        """Draw the answer into an image file; its suffix names the format. Raises UsageError."""
        from bench.reporting.drawing import save_image

        save_image(self.drawn(), Path(out))


def _plain(each: ScoredBox) -> dict[str, Any]:
    score = None if each.score is None else round(each.score, 9)
    return {"box_xyxy": [round(v, 6) for v in each.box], "score": score}


class CallablePipeline(opening.OpenPipeline):
    """An open pipeline that grounds where it is called: `pipeline(image, text)`."""

    # A text is a sequence of texts, too, to the type checker; the first signature that fits counts.
    @overload
    def __call__(self, image: ImageLike, text: str) -> SingleAnswer: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, image: ImageLike, text: Sequence[str]) -> list[SingleAnswer]: ...
    def __call__(self, image: ImageLike, text: str | Sequence[str]) -> SingleAnswer | list[SingleAnswer]:
        """Ground one expression in an image, or several, for which the image is encoded once."""
        return predict(self, image, text)


def predict(
    pipeline: Pipeline, image: object, text: str | Sequence[str], name: str | None = None
) -> SingleAnswer | list[SingleAnswer]:
    """Ground one expression in an image, or several; raises as `ground_texts` and `as_image`."""
    source, pixels = as_image(image)
    answers = ground_texts(pipeline, source, pixels, [text] if isinstance(text, str) else text, name)
    return answers[0] if isinstance(text, str) else answers


def ground_texts(
    pipeline: Pipeline, source: str, image: ImageArray, texts: Sequence[str], name: str | None = None
) -> list[SingleAnswer]:
    """Ground `texts` in one image, which is encoded once; answers in their order.

    `source` names the image, `name` the pipeline, by default as its card does. Raises UsageError
    for an empty text, BenchError for answers that do not fit the queries.
    """
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise UsageError("an expression is empty: say what to look for")
    name = pipeline.card.name if name is None else name
    queries = tuple(Query(str(number), text) for number, text in enumerate(texts))
    answers = ground_checked(pipeline, [LoadedScene(source, image, queries)], name) if queries else []
    return [SingleAnswer(name, source, text, image, answer) for text, answer in zip(texts, answers, strict=True)]


def warned(answer: SingleAnswer, card: PipelineCard) -> SingleAnswer:
    """Note on an answer about a user's own image that the weights were trained on drawn shapes alone."""
    parts = [part.strip() for part in card.trained_on.split(";")]
    if not all(part.endswith(SHAPES) for part in parts):
        return answer
    note = "; ".join(filter(None, (answer.prediction.note, DRAWN_ONLY)))
    return replace(answer, prediction=replace(answer.prediction, note=note))


def as_image(given: object) -> tuple[str, ImageArray]:
    """Name and decode a file, a PIL image or RGB uint8 (H, W, 3). Raises ImageError, UsageError.

    Pixels without a file are named by their content, for a pipeline may cache features under the image's name.
    """
    if isinstance(given, (str, Path)):
        return str(given), read_image(Path(given).expanduser())
    if isinstance(given, Image.Image):
        given = np.array(given.convert("RGB"))
    if isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim == 3 and given.shape[2] == 3:
        return f"image-{sha256(given.tobytes()).hexdigest()[:16]}", given
    what = f"an array of {given.dtype} {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
    raise UsageError(f"an image is a file's path, a PIL image or RGB uint8 (H, W, 3), not {what}")


def read_image(path: Path) -> ImageArray:
    """Decode an image file. Raises ImageError."""
    return decode(load_bytes(path, "image_mb", ImageError), str(path))


def image_of(scene: str, resolved: Resolved) -> tuple[ImageArray, str]:
    """Decode the image of a split's scene, SPLIT/ID; returns it and its data set. Raises UsageError, ImageError."""
    split_name, _, identifier = scene.rpartition("/")
    split = load_split(split_name, resolved)
    for candidate in split.scenes:
        if candidate.id == identifier:
            return split.images.load(candidate), split.dataset
    raise UsageError(f"{split_name} has no scene {identifier!r}; its first one is {split.scenes[0].id!r}")


def ground_one(
    pipeline: str,
    image: Path | None,
    scene: str | None,
    text: str,
    resolved: Resolved,
    on: str | None,
    options: Mapping[str, Any],
    several: float | None = None,
) -> SingleAnswer:
    """Open a pipeline and ground one expression in an image file or a split's scene, SPLIT/ID.

    `on` names the data set whose lines of bench.toml hold; with `several` all boxes of at least that score count.
    Raises UsageError, ImageError, and as `open_pipeline`.
    """
    if not text.strip():
        raise UsageError("--text is empty: say what to look for")
    if (image is None) == (scene is None):
        raise UsageError("give either --image FILE or --scene SPLIT/ID")
    pixels, dataset = (read_image(image), opening.OWN_DATA) if image is not None else image_of(str(scene), resolved)
    opened = opening.open_pipeline(pipeline, on or dataset, resolved, options, several=several is not None)
    answer = replace(ground_texts(opened, str(image or scene), pixels, [text], pipeline)[0], threshold=several)
    return answer if image is None else warned(answer, opened.card)
