"""Perturbed scenes: what a pipeline gets is changed, and its predictions are mapped back to the image as it is.

    shuffle-words    the words of an expression in another order, by its own text and the seed alone
    drop-relations   only what comes before the first relation word ("man left of the bus" -> "man")
    mirror           the image flipped, left and right exchanged in the expressions
    prompt           the expression within PROMPT
    jpeg             the image encoded anew as JPEG of quality 30
    resize           the image at half its width and height

Ground truth, ids and stored boxes stay those of the original: a box on the mirrored image is flipped back, which
has the IoU that it has with the flipped ground truth. `placed` of a scene moves boxes that a file or an annotation has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from io import BytesIO
from itertools import count
from typing import Any

import numpy as np
from PIL import Image

from bench.boxes import mirror_xyxy
from bench.clock import Clock
from bench.evaluation.answering import ground_checked
from bench.evaluation.position_prior import ENDING
from bench.grounding import Box, Boxes, Caption, ImageArray, LoadedScene, Mask, Pipeline, Prediction, Query, Scene
from bench.masks import decode, encode

PROMPT = "the region described by: {}"
QUALITY = 30
WORD = re.compile(r"\w+")
# Relation words: prepositions, relatives and verbs, and a side or "next" before "of" or "to".
RELATIONS = ENDING - {"and", "or", "but", "of"}
BEFORE = "left right top bottom front back middle center centre end side edge corner next close"
SIDES = frozenset(BEFORE.split())
ARTICLES = frozenset({"the", "a", "an", "this", "these", "those"})
MIRRORED = re.compile(r"\b(left|right)(?=(?:most|hand|handed|side|wards?|er)?\b)", re.IGNORECASE)
INSIDE = re.compile("(left|right)", re.IGNORECASE)
UNMIRRORED_WORDS = "east west o'clock oclock clockwise counterclockwise anticlockwise"  # a flip makes them wrong
UNMIRRORED = frozenset(UNMIRRORED_WORDS.split())
DIRECTION = re.compile(r"o'?clock|\w+")
Size = tuple[int, int]  # width, height


def shuffled(text: str, seed: int = 0) -> str:
    """Put the words of a text, split at white space, in another order; one word alone stays."""
    words = text.split()
    if len(set(words)) < 2:
        return text
    for attempt in count():
        keys = [sha256(f"{seed}/{attempt}/{place}/{text}".encode()).digest() for place in range(len(words))]
        order = [words[place] for place in sorted(range(len(words)), key=keys.__getitem__)]
        if order != words:
            return " ".join(order)
    raise AssertionError


def without_relations(text: str) -> str:
    """Cut an English text before its first relation word that has more than an article before it."""
    matches = list(WORD.finditer(text))
    words = [match[0].casefold() for match in matches]
    for place, word in enumerate(words):
        side = word in SIDES and words[place + 1 : place + 2] in (["of"], ["to"])
        if (side or word in RELATIONS) and not ARTICLES.issuperset(words[:place]):
            return text[: matches[place].start()].rstrip(" ,;:-(")
    return text


def mirrored(text: str, whole: bool = True) -> str:
    """Swap left and right in a text, in their case; as whole words, or inside words too ("bright" -> "bleft")."""

    def other(match: re.Match[str]) -> str:
        side = match[1]
        swapped = "right" if side.lower() == "left" else "left"
        return swapped.upper() if side.isupper() else swapped.capitalize() if side[0].isupper() else swapped

    return (MIRRORED if whole else INSIDE).sub(other, text)


def has_unmirrored(text: str) -> bool:
    """Return whether a text has a direction that a flip makes wrong and no exchange mends ("3 o'clock")."""
    return not UNMIRRORED.isdisjoint(DIRECTION.findall(text.casefold()))


TEXTS: Mapping[str, Callable[[str, int], str]] = {
    "shuffle-words": shuffled,
    "drop-relations": lambda text, _: without_relations(text),
    "mirror": lambda text, _: mirrored(text),
    "prompt": lambda text, _: PROMPT.format(text),
}
KINDS = (*TEXTS, "jpeg", "resize")


class Perturbed:
    """A pipeline that gets perturbed scenes, and whose predictions are those of the scenes as they are."""

    def __init__(self, pipeline: Pipeline, kind: str, seed: int, clock: Clock) -> None:
        self.pipeline, self.card = pipeline, pipeline.card
        self._kind, self._seed, self._clock = kind, seed, clock

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """Return what the pipeline keeps between calls -> what empties it."""
        return dict(getattr(self.pipeline, "caches", {}))

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Return one prediction for every query of every scene, in order. Raises as `ground_checked`."""
        with self._clock.stage("perturb"):
            given = [perturbed(scene, self._kind, self._seed) for scene in batch]
        predictions = iter(ground_checked(self.pipeline, given))
        back: list[Prediction] = []
        for scene, other in zip(batch, given, strict=True):
            own = [next(predictions) for _ in scene.queries]
            if self._kind in ("mirror", "resize"):
                own = _back(own, self._kind, _size(other.image), _size(scene.image))
            back += own
        return back


def perturbed(scene: LoadedScene, kind: str, seed: int) -> LoadedScene:
    """Perturb a scene; nothing of it is prepared yet."""
    queries = tuple(_query(query, kind, seed) for query in scene.queries)
    image = _image(scene.image, kind)
    if kind not in ("mirror", "resize"):
        return LoadedScene(scene.id, image, queries)
    return LoadedScene(scene.id, image, queries, placed=partial(_moved, kind, _size(scene.image), _size(image)))


def note_of(kind: str, seed: int, scenes: Sequence[Scene]) -> str:
    """Say how many expressions of the scenes a perturbation changes."""
    texts = [expression.text for scene in scenes for expression in scene.expressions]
    if kind not in TEXTS:
        return f"{kind}: of all {len(scenes):,} images"
    changed = sum(TEXTS[kind](text, seed) != text for text in texts)
    why = {
        "shuffle-words": f"; {len(texts) - changed:,} stay, whose words are one or all the same",
        "drop-relations": f"; {len(texts) - changed:,} stay, which have no relation word after a noun",
        "mirror": f"; {sum(map(has_unmirrored, texts)):,} have words that a flip makes wrong, such as clockwise",
        "prompt": f': "{PROMPT.format("...")}"',
    }
    return f"{kind}: {changed:,} of {len(texts):,} expressions changed{why[kind]}"


def _query(query: Query, kind: str, seed: int) -> Query:
    """Perturb a query's text; within its caption the phrase alone, but all of a mirrored one."""
    if kind not in TEXTS:
        return query
    text = TEXTS[kind](query.text, seed)
    if query.caption is None:
        return replace(query, text=text)
    before, after = query.caption.text[: query.caption.start], query.caption.text[query.caption.end :]
    if kind == "mirror":
        before, after = mirrored(before), mirrored(after)
    return Query(query.id, text, Caption(before + text + after, len(before), len(before) + len(text)))


def _image(image: ImageArray, kind: str) -> ImageArray:
    if kind == "mirror":
        return np.ascontiguousarray(image[:, ::-1])
    if kind == "jpeg":
        with BytesIO() as file:
            Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
            return np.array(Image.open(file))
    if kind == "resize":
        width, height = (max(1, round(side / 2)) for side in _size(image))
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    return image


def _size(image: ImageArray) -> Size:
    return image.shape[1], image.shape[0]


def _moved(kind: str, of: Size, to: Size, boxes: Any) -> Boxes:
    """Move boxes (..., 4) between the image as it is and the perturbed one, from size `of` to size `to`."""
    if kind == "mirror":
        return mirror_xyxy(boxes, of[0])
    resized: Boxes = np.asarray(boxes, np.float64) * np.tile(np.divide(to, of), 2)
    return resized


def _back(predictions: Sequence[Prediction], kind: str, of: Size, to: Size) -> list[Prediction]:
    """Map the predictions about one perturbed image of size `of` back to the image of size `to`."""
    pools: dict[int, Boxes] = {}  # the predictions share an array of proposals

    def box(given: Box) -> Box:
        x1, y1, x2, y2 = _moved(kind, of, to, given).tolist()
        return (x1, y1, x2, y2)

    def mask(given: Mask | None) -> Mask | None:
        if given is None:
            return None
        inside = decode(given)
        if kind == "mirror":
            return encode(inside[:, ::-1])
        # The pixel whose centre is nearest.
        across, down = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(to, inside.shape[::-1], strict=True))
        return encode(inside[down][:, across])

    def pool(given: Boxes | None) -> Boxes | None:
        return None if given is None else pools.setdefault(id(given), _moved(kind, of, to, given))

    return [
        replace(
            each,
            box=None if each.box is None else box(each.box),
            mask=mask(each.mask),
            proposals=pool(each.proposals),
            others=tuple(other._replace(box=box(other.box), mask=mask(other.mask)) for other in each.others),
            attention=None,  # of the perturbed image, as the stages are
            stages=(),
        )
        for each in predictions
    ]
