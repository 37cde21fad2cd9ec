"""The embedded data: the same on every machine, unique referents, the promised mix."""

import math
import re
from collections import Counter

import numpy as np
import pytest

from bench.datasets.fingerprint import fingerprint
from bench.datasets.load import load_split
from bench.datasets.shapes import ShapesImages, make_scene
from bench.datasets.shapes.language import KINDS, write_expressions
from bench.datasets.shapes.layout import COLOURS, OUTLINES, SHAPES, SINE, TEXTURES, UNIT, extent, make_layout, outline
from bench.datasets.shapes.rng import Rng
from bench.settings import load_settings

SEED = 2026
# Whoever changes the generator makes another data set: these lines, and every published number, change with it.
FINGERPRINTS = {
    "val": "9e8d203846efdc050207a68343a349bb3fb579d95f8d13ddc02d714edc9d67e4",
    "test": "610b8ac76d050bab14ea437fc3d0e02857bb6eb8c9a8d55e021275019d37ea25",
}


@pytest.fixture(scope="module")
def splits():
    return {part: load_split(f"shapes-{part}", load_settings()) for part in ("val", "test")}


@pytest.mark.slow
@pytest.mark.parametrize("part", FINGERPRINTS)
def test_annotations_are_the_same_on_every_machine(splits, part):
    assert fingerprint(splits[part].scenes) == FINGERPRINTS[part]


def test_no_sine_is_near_a_rounding_edge():
    for degrees in range(360):
        exact = 10_000 * math.sin(math.radians(degrees))
        assert abs(exact - SINE[degrees]) < 0.4999


def test_the_rng_is_a_known_stream():
    rng = Rng("layout", 2026, "val", 0)
    assert [rng.below(1000) for _ in range(6)] == [902, 193, 12, 876, 363, 247]
    counts = Counter(Rng("x", i).below(6) for i in range(6000))
    assert set(counts) == set(range(6)) and min(counts.values()) > 850


@pytest.mark.parametrize("part", ("val", "test"))
def test_size_and_mix(splits, part):
    split = splits[part]
    expressions = [e for s in split.scenes for e in s.expressions]
    assert len(split.scenes) == 400 and len(expressions) >= 2000
    assert all(3 <= len(s.expressions) <= 8 for s in split.scenes)
    shares = Counter(e.kind for e in expressions)
    assert set(shares) == {kind for kind, _ in KINDS}
    assert min(shares.values()) > 0.08 * len(expressions)
    assert len({e.id for e in expressions}) == len(expressions)
    assert all(len({e.text for e in s.expressions}) == len(s.expressions) for s in split.scenes)
    sides = [
        max(e.box[2] - e.box[0], e.box[3] - e.box[1]) / math.sqrt(s.width * s.height)
        for s in split.scenes
        for e in s.expressions
    ]
    assert np.mean([0.2 <= side <= 0.5 for side in sides]) > 0.7
    assert 0.03 < np.mean([side < 0.2 for side in sides]) < 0.3


def test_scenes_do_not_depend_on_their_number():
    few = load_split("shapes-train", load_settings(flags={"data.shapes.train": 5}))
    assert few.scenes == tuple(make_scene(SEED, "train", i) for i in range(5))
    other = load_split("shapes-train", load_settings(flags={"data.shapes.train": 5, "data.shapes.seed": 7}))
    assert other.fingerprint != few.fingerprint


@pytest.mark.slow
def test_boxes_are_tight_around_what_is_drawn():
    for index in range(12):
        scene, layout = make_scene(SEED, "val", index), make_layout(SEED, "val", index)
        image = ShapesImages(SEED).load(scene)
        assert image.shape == (scene.height, scene.width, 3) and image.dtype == np.uint8
        for obj in layout.objects:
            left, top, right, bottom = (v / UNIT for v in obj.extent)
            assert 0 < left < right < scene.width and 0 < top < bottom < scene.height
            assert extent(obj.rings) == obj.extent


def test_an_object_fills_its_box_in_the_image():
    """Where an object is drawn, the image differs from the same scene without it, and only around its box."""
    from bench.datasets.shapes.drawing import draw
    from bench.datasets.shapes.layout import Layout

    layout = make_layout(SEED, "val", 3)
    last = layout.objects[-1]
    without = Layout(layout.width, layout.height, layout.objects[:-1])
    changed = np.abs(draw(layout, SEED, "val", 3).astype(int) - draw(without, SEED, "val", 3)).sum(2) > 60
    ys, xs = np.nonzero(changed)
    box = np.array(last.extent) / UNIT
    assert np.abs(np.array([xs.min(), ys.min()]) - box[:2]).max() <= 3
    assert np.all(np.array([xs.max(), ys.max()]) - box[2:] <= 12)  # the shadow falls right and down


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_turn_and_stretch(shape):
    def box(turn, stretch):
        return extent(outline(shape, (4000, 4000), 800, turn, stretch))

    plain, wide, whole = box(0, 1000), box(0, 2000), box(360, 1000)
    assert plain == whole and (wide[2] - wide[0]) == pytest.approx(2 * (plain[2] - plain[0]), abs=4)
    assert wide[3] - wide[1] == plain[3] - plain[1]
    assert max(abs(v) for ring in OUTLINES[shape] for point in ring for v in point) <= 1000


# --- meaning: read back from the words alone, by code that shares nothing with the generator ------------------------


def group(words: str, objects) -> list[int]:
    """The objects that the attributes named in `words` fit."""
    named = [w.removesuffix("es") if w == "crosses" else w for w in re.findall(r"[a-z]+", words)]
    named = [w[:-1] if w.endswith("s") and w[:-1] in SHAPES else w for w in named]
    return [
        i
        for i, t in enumerate(objects)
        if all(w == t.shape for w in named if w in SHAPES)
        and all(w == t.colour for w in named if w in COLOURS)
        and all(w == t.texture for w in named if w in TEXTURES)
    ]


def centre(obj, axis):
    return (obj.extent[axis] + obj.extent[axis + 2]) / 2


def understood(kind: str, text: str, objects) -> set[int]:
    """What a careful reader takes `text` to mean."""
    if kind == "attribute":
        return set(group(text, objects))
    if kind == "comparison":
        area = {i: objects[i].area for i in group(text, objects)}
        pick = max if re.search(r"big|larg", text) else min
        return {pick(area, key=area.get)}
    if kind == "location":
        axis, sign = next(v for k, v in WAYS.items() if re.search(k, text))
        return {max(group(text, objects), key=lambda i: sign * centre(objects[i], axis))}
    if kind == "ordinal":
        place = ["first", "second", "third", "fourth"].index(re.search(r"first|second|third|fourth", text)[0])
        axis, sign = WAYS[re.search(r"from (?:the )?(left|right|top|bottom)", text)[1]]
        return {sorted(group(text, objects), key=lambda i: -sign * centre(objects[i], axis))[place]}
    words, relation, other = re.fullmatch(
        r"(.*?) (left of|to the left of|right of|to the right of|above|over|higher than|below|under|beneath|next to"
        r"|closest to|nearest) the (.*)",
        text,
    ).groups()
    (anchor,) = group(other, objects)
    if relation in ("next to", "closest to", "nearest"):
        return {
            min(
                group(words, objects),
                key=lambda i: math.dist(*((centre(objects[j], 0), centre(objects[j], 1)) for j in (i, anchor))),
            )
        }
    axis, sign = next(v for k, v in WAYS.items() if re.search(k, relation))
    return {i for i in group(words, objects) if sign * (centre(objects[i], axis) - centre(objects[anchor], axis)) > 0}


WAYS = {
    "left": (0, -1), "right": (0, 1), "top|upper|above|over|higher": (1, -1),
    "bottom|lower|lowest|below|under|beneath": (1, 1),
}  # fmt: skip
WAYS |= {"top": (1, -1), "bottom": (1, 1)}


@pytest.mark.slow
def test_every_expression_means_exactly_its_object():
    kinds = Counter()
    for index in range(300):
        layout = make_layout(SEED, "val", index)
        for kind, text, target in write_expressions(layout, SEED, "val", index):
            assert understood(kind, text, layout.objects) == {target}, (index, text)
            kinds[kind] += 1
    assert min(kinds.values()) > 100


def test_a_mask_is_the_part_of_an_object_that_is_drawn():
    """Whatever colour an object has changes just the pixels of its mask, but for those that it shares at its edge."""
    from dataclasses import replace

    from bench.datasets.annotations import annotations_of
    from bench.datasets.shapes import drawing
    from bench.masks import decode

    for index in range(4):
        scene, layout = make_scene(SEED, "val", index), make_layout(SEED, "val", index)
        masks = {e.ref_id: decode(e.mask) for e in scene.expressions}
        for ref_id, mask in masks.items():
            number = int(ref_id.rpartition("-")[2])
            objects = list(layout.objects)
            images = []
            for colour in ("purple", "yellow"):
                objects[number] = replace(objects[number], colour=colour, texture="plain")
                drawn = drawing.draw(replace(layout, objects=tuple(objects)), SEED, "val", index)
                images.append(drawn.astype(int))
            changed = np.abs(images[0] - images[1])[..., 0]  # purple and yellow differ by 113 in red
            part = changed / 113
            sure = np.abs(part - 0.5) > 0.3
            assert mask.any() and ((part > 0.5) == mask)[sure].all() and sure.mean() > 0.97
        known = annotations_of([scene])
        assert known.masks == {n: e.mask for n, e in enumerate(scene.expressions)}


def test_shapes_several_has_none_one_and_several_of_what_is_drawn():
    for part, expressions in (("val", 1_196), ("test", 1_197)):
        split = load_split(f"shapes-several-{part}", load_settings())
        plain = {scene.id: scene for scene in load_split(f"shapes-{part}", load_settings()).scenes}
        assert (split.counts.expressions, split.counts.images) == (expressions, 400)
        assert split.several and split.protocol == "several" and split.dataset == "shapes-several"
        for scene in split.scenes:
            own, *_, none = scene.expressions
            assert own == plain[scene.id].expressions[0] and none.targets == () and none.kind == "none"
            assert none.text.removeprefix("the ") not in {obj.category for obj in scene.objects}
            for each in scene.expressions[1:-1]:
                boxes = [obj.box for obj in scene.objects if obj.category == each.category]
                assert len(boxes) > 1 and each.targets == tuple(sorted(boxes)) and each.same_category == len(boxes)
    assert split.fingerprint[:8] == "e25e30c3"
