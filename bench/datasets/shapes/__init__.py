"""`shapes`, the embedded data: scenes made on the fly from a seed, so that everything runs anywhere.

rng.py       random integers  ->  layout.py   polygons, and where the objects stand
language.py  expressions      ->  drawing.py  pixels      ->  this file  the data set
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bench.datasets.shapes.language import write_expressions
from bench.datasets.shapes.layout import make_layout, pixels
from bench.datasets.split import Part, Split
from bench.grounding import Expression, ImageArray, Mask, Scene, SceneObject

if TYPE_CHECKING:
    from bench.settings import Resolved

SCENES = {"train": 6000, "val": 400, "test": 400}  # train: the default of [data.shapes]


class ShapeMask(Mapping[str, Any]):
    """The mask of an object's visible part, drawn when it is looked at: loading a split makes thousands of them."""

    def __init__(self, seed: int, part: str, index: int, number: int) -> None:
        self._scene, self._number = (seed, part, index), number

    def __getitem__(self, key: str) -> Any:
        return _masks(*self._scene)[self._number][key]

    def __iter__(self) -> Iterator[str]:
        return iter(("size", "counts"))

    def __len__(self) -> int:
        return 2


@lru_cache(maxsize=1024)
def _masks(seed: int, part: str, index: int) -> list[Mask]:
    from bench.datasets.shapes.drawing import visible
    from bench.masks import encode

    return [encode(inside) for inside in visible(make_layout(seed, part, index))]


def make_scene(seed: int, part: str, index: int) -> Scene:
    """Make one scene with its expressions; the same on every machine."""
    layout = make_layout(seed, part, index)
    same = Counter(obj.shape for obj in layout.objects)
    name = f"{part}-{index:06d}"
    masks = [ShapeMask(seed, part, index, number) for number in range(len(layout.objects))]
    expressions = []
    for number, (kind, text, target) in enumerate(write_expressions(layout, seed, part, index)):
        obj = layout.objects[target]
        box, ref_id = pixels(obj.extent), f"{name}-{target}"
        own = (f"{name}-{number}", text, box, ref_id, kind, obj.shape, same[obj.shape])
        expressions.append(Expression(*own, mask=masks[target]))
    objects = [SceneObject(t.shape, pixels(t.extent), f"{t.texture} {t.colour} {t.shape}") for t in layout.objects]
    return Scene(name, f"{name}.png", layout.width, layout.height, tuple(expressions), tuple(objects))


@dataclass(frozen=True)
class ShapesImages:
    """An ImageSource that draws a scene's image when it is loaded; nothing lies on disk."""

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
        """Make the part's scenes in order; scene i is the same whatever their number."""
        settings = resolved.settings.data.shapes
        scenes = _scenes(settings.seed, part, settings.train if part == "train" else SCENES[part])
        return Split(f"shapes-{part}", f"Shapes {part}", scenes, ShapesImages(settings.seed), self.terms)


@lru_cache(maxsize=4)
def _scenes(seed: int, part: str, count: int) -> tuple[Scene, ...]:
    """Make the scenes with expressions among the first `count`; kept, for the train part takes ten seconds."""
    scenes = (make_scene(seed, part, index) for index in range(count))
    return tuple(scene for scene in scenes if scene.expressions)


dataset = Shapes()
