"""`shapes`, the embedded data: scenes made on the fly from a seed, so that everything runs anywhere.

rng.py      integers at random      ->  outlines.py  polygons      ->  layout.py  what stands where
language.py  what is said about it   ->  drawing.py   pixels        ->  this file  the data set
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from bench.datasets.shapes.language import say
from bench.datasets.shapes.layout import make_layout, pixels
from bench.datasets.split import Part, Split
from bench.grounding import Expression, ImageArray, Scene, SceneObject

if TYPE_CHECKING:
    from bench.settings import Resolved

SCENES = {"train": 6000, "val": 400, "test": 400}  # train: the default of [data.shapes]


def make_scene(seed: int, part: str, index: int) -> Scene:
    """One scene with its expressions; the same on every machine."""
    layout = make_layout(seed, part, index)
    same = Counter(thing.shape for thing in layout.things)
    name = f"{part}-{index:06d}"
    expressions = []
    for number, saying in enumerate(say(layout, seed, part, index)):
        thing = layout.things[saying.target]
        expressions.append(
            Expression(
                id=f"{name}-{number}",
                text=saying.text,
                box=pixels(thing.extent),
                ref_id=f"{name}-{saying.target}",
                kind=saying.kind,
                category=thing.shape,
                same_category=same[thing.shape],
            )
        )
    objects = [SceneObject(t.shape, pixels(t.extent), f"{t.texture} {t.colour} {t.shape}") for t in layout.things]
    return Scene(name, f"{name}.png", layout.width, layout.height, tuple(expressions), tuple(objects))


@dataclass(frozen=True)
class ShapesImages:
    """Draws a scene's image when it is asked for; nothing lies on disk."""

    seed: int

    def load(self, scene: Scene) -> ImageArray:
        from bench.datasets.shapes.drawing import draw

        part, _, index = scene.id.rpartition("-")
        return draw(make_layout(self.seed, part, int(index)), self.seed, part, int(index))

    def missing(self, scenes: Sequence[Scene]) -> list[str]:
        return []


@dataclass(frozen=True)
class Shapes:
    """The embedded data set; `[data.shapes]` of bench.toml sets its seed and the size of its train part."""

    name: str = "shapes"
    title: str = "Shapes (embedded, procedural)"
    terms: str = "made by this program; no restrictions"
    where: str = "nothing to get: the scenes are made on the fly"

    @property
    def parts(self) -> Sequence[Part]:
        return (Part("train"), Part("val", 2222, 1577, 400), Part("test", 2195, 1592, 400))

    def ready(self, part: str, resolved: Resolved) -> bool:
        return True

    def load(self, part: str, resolved: Resolved) -> Split:
        """The part's scenes in order; scene i is the same however many are asked for."""
        knobs = resolved.settings.data.shapes
        count = knobs.train if part == "train" else SCENES[part]
        asked = _asked(knobs.seed, part, count)
        return Split(f"shapes-{part}", f"Shapes {part}", asked, ShapesImages(knobs.seed), self.terms)


@lru_cache(maxsize=4)
def _asked(seed: int, part: str, count: int) -> tuple[Scene, ...]:
    """The scenes with expressions among the first `count`; kept, for thinking the train part up takes ten seconds."""
    scenes = (make_scene(seed, part, index) for index in range(count))
    return tuple(scene for scene in scenes if scene.expressions)


dataset = Shapes()
