"""`shapes-several`: the scenes of `shapes` with expressions that refer to nothing, to one object or to several.

Each scene has its own first expression, one about the class of which it has most objects ("all stars", where there are
two or more), and one about a class that it lacks ("the heart"). Nothing is drawn at random, so it is the same on every
machine; images are those of `shapes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from bench.datasets.readers.rows import targets_of
from bench.datasets.shapes import SCENES, Shapes, ShapesImages, make_scene
from bench.datasets.shapes.language import PLURALS
from bench.datasets.shapes.layout import SHAPES
from bench.datasets.split import Part, Split
from bench.grounding import Expression, Scene

if TYPE_CHECKING:
    from bench.settings import Resolved


def several_scene(scene: Scene, index: int) -> Scene:
    """Give a scene of `shapes` expressions of none, one and several; `index` varies which absent class is named."""
    return Scene(scene.id, scene.file, scene.width, scene.height, tuple(_expressions(scene, index)), scene.objects)


def _expressions(scene: Scene, index: int) -> Iterator[Expression]:
    # 1. One object, as in `shapes`.
    yield from scene.expressions[:1]
    # 2. All objects of the commonest class, the first of several in the order of classes.
    boxes = {shape: [obj.box for obj in scene.objects if obj.category == shape] for shape in SHAPES}
    shape = max(SHAPES, key=lambda name: len(boxes[name]))
    if len(boxes[shape]) > 1:
        box, also = targets_of(boxes[shape])
        text = f"all {PLURALS.get(shape, f'{shape}s')}"
        yield Expression(f"{scene.id}-all", text, box, None, "several", shape, len(boxes[shape]), also)
    # 3. A class that is not there.
    absent = [name for name in SHAPES if not boxes[name]]
    if absent:
        box, _ = targets_of(())
        yield Expression(f"{scene.id}-none", f"the {absent[index % len(absent)]}", box, kind="none")


@dataclass(frozen=True)
class ShapesSeveral(Shapes):
    """The data set; the seed is that of [data.shapes]."""

    name: str = "shapes-several"
    title: str = "Shapes with none and several (embedded, procedural)"

    @property
    def parts(self) -> Sequence[Part]:
        return (Part("val", 1196, None, 400), Part("test", 1197, None, 400))

    def load(self, part: str, resolved: Resolved) -> Split:
        """Make the part's scenes in order."""
        seed = resolved.settings.data.shapes.seed
        scenes = _scenes(seed, part)
        name = f"shapes-several-{part}"
        return Split(name, f"Shapes with none and several {part}", scenes, ShapesImages(seed), self.terms, several=True)


@lru_cache(maxsize=2)
def _scenes(seed: int, part: str) -> tuple[Scene, ...]:
    return tuple(several_scene(make_scene(seed, part, index), index) for index in range(SCENES[part]))


dataset = ShapesSeveral()
