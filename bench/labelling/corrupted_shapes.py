"""Corrupted pseudo-labels of `shapes`: made from the truth, then spoilt at stated rates.

Three kinds, as the sources of real ones: `template` says what an object looks like or where it is (one entity),
`relation` how it stands to another (two), `caption` names several objects of the scene in a sentence whose box is the
first one's (three or more). A row is right, or has one fault:

    wrong attribute   a colour or texture that the object does not have
    wrong object      the box of another object of the scene
    shifted box       the box moved and scaled until its IoU with the true one is 0.1 to 0.45

A row depends on the two seeds, the kind, the part, the scene's index and the row's place alone. Rates only say which
rows are spoilt, and a higher rate spoils the same rows and more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice

from bench.datasets.shapes.language import Candidate, by_attribute, by_location, by_relation, phrases_of
from bench.datasets.shapes.layout import COLOURS, TEXTURES, UNIT, Layout, PlacedShape, make_layout, pixels
from bench.datasets.shapes.rng import Rng
from bench.errors import UsageError
from bench.grounding import Scene
from bench.labelling import PseudoLabel

KINDS = ("template", "relation", "caption")
FAULTS = ("wrong attribute", "wrong object", "shifted box")
SHIFTED_IOU = (0.1, 0.45)
TRIES = 400  # draws for a shifted box; about one in five is good
STEPS = 1_000_000  # the finest rate
# A caption names what it is about first, then other objects: {head} and {others}.
CAPTIONS = (
    "{head}, {others}", "{head} with {others}", "{head} together with {others}", "a picture of {head} with {others}",
)  # fmt: skip
Extent = tuple[int, int, int, int]  # left, top, right, bottom in quarter pixels


Rates = tuple[float, float, float]  # shares of rows with each of FAULTS; the rest is right
# One row before its fault: a form, its words, the object it is about, and how many objects it names.
Claim = tuple[str, dict[str, str], int, int]


def check_rates(rates: Rates) -> None:
    """Raise UsageError for rates that are no shares of 1, or more than 1 together."""
    if not all(math.isfinite(share) and 0 <= share <= 1 for share in rates) or sum(rates) > 1 + 1e-9:
        listed = ", ".join(f"{share:g}" for share in rates)
        raise UsageError(f"rates of faults are shares, 0 to 1, and together 1 at most; these are {listed}")


def _fault(rates: Rates, draw: int) -> str:
    """Return the fault of a row whose draw is 0 to STEPS - 1, "none" for a right one."""
    for fault, below in zip(FAULTS, accumulate(rates), strict=True):
        if draw < round(below * STEPS):
            return fault
    return "none"


def noisy_labels_of(
    scenes: Iterable[Scene], kind: str, data_seed: int, seed: int, rates: Rates, per_image: int = 6
) -> Iterator[PseudoLabel]:
    """Yield the rows about scenes of `shapes`, one scene after the other; nothing but their names is read."""
    for scene in scenes:
        part, _, index = scene.id.rpartition("-")
        yield from noisy_labels(kind, part, int(index), data_seed, seed, rates, per_image)


def noisy_labels(
    kind: str, part: str, index: int, data_seed: int, seed: int, rates: Rates, per_image: int = 6
) -> list[PseudoLabel]:
    """Make up to `per_image` rows of a kind about one scene; fewer, or none, where it allows no more.

    `data_seed` is the generator's, `seed` that of the rows. Boxes are xyxy pixels, exact to a quarter. Provenance has
    the `noise` ("none" or a fault of the list above) and the `true_box` of what the words are about. Raises UsageError.
    """
    if kind not in KINDS:
        raise UsageError(f"--kind {kind}: it is {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    layout = make_layout(data_seed, part, index)
    if len(layout.objects) < 2:  # no other object to mistake it for
        return []
    scene = Scene(f"{part}-{index:06d}", f"{part}-{index:06d}.png", layout.width, layout.height, ())
    made: list[PseudoLabel] = []
    key = (data_seed, seed, kind, part, index)
    for number, claim in enumerate(islice(_claims(kind, layout, Rng("rows", *key)), per_image)):
        rng = Rng("fault", *key, number)
        fault = _fault(rates, rng.below(STEPS))
        form, words, place, entities = claim
        target = layout.objects[place]
        text, extent = form.format(**words), target.extent
        if fault == "wrong attribute":
            text = _misdescribed(claim, target, rng)
        elif fault == "wrong object":
            extent = rng.pick([t for i, t in enumerate(layout.objects) if i != place]).extent
        elif fault == "shifted box":
            extent = _shifted(extent, (layout.width * UNIT, layout.height * UNIT), rng)
        provenance = {"source": kind, "detector": "shapes", "score": 1.0, "template": form, "entities": entities}
        provenance |= {"noise": fault, "true_box": list(pixels(target.extent))}
        made.append(PseudoLabel(scene, text, pixels(extent), provenance))
    return made


def _claims(kind: str, layout: Layout, rng: Rng) -> Iterator[Claim]:
    """Yield true claims in random order, no text twice."""
    phrases = list(phrases_of(layout.objects))
    pools: dict[str, list[Candidate]] = {}
    if kind != "relation":
        pools = {"attribute": list(by_attribute(phrases)), "location": list(by_location(layout, phrases))}
    if kind != "template":
        pools["relation"] = list(by_relation(layout, phrases))
    weights = {"attribute": 36, "location": 20, "relation": 19}  # as often as the expressions of the data set
    texts: set[str] = set()
    while left := [(name, weights[name]) for name in pools if pools[name]]:
        pool = pools[rng.weighted(left)]
        candidate = pool.pop(rng.below(len(pool)))
        claim = _caption(candidate, layout, rng) if kind == "caption" else _plain(candidate, rng)
        if claim is not None and (text := claim[0].format(**claim[1])) not in texts:
            texts.add(text)
            yield claim


def _plain(candidate: Candidate, rng: Rng) -> Claim:
    target, forms, words = candidate
    return rng.pick(forms), words, target, 2 if "other" in words else 1


def _caption(candidate: Candidate, layout: Layout, rng: Rng) -> Claim | None:
    """Make a sentence about a candidate's object and others; None where the scene has not three objects to name."""
    target, forms, words = candidate
    # Of a place or a relation the plainest form: "the {np} on the left", "the {np} above the {other}".
    head = rng.pick(("the {np}", "{a} {np}")) if "a" in words else forms[0]
    named = 1 + ("other" in words)
    full = [f"{t.texture} {t.colour} {t.shape}" for i, t in enumerate(layout.objects) if i != target]
    # A relation's other object is named already: it is the only one that the words for it fit.
    rest = [phrase for phrase in dict.fromkeys(full) if "other" not in words or not _fits(words["other"], phrase)]
    chosen = rng.sample(rest, rng.between(3 - named, 4 - named))
    if named + len(chosen) < 3:
        return None
    others = [f"{_article(phrase)} {phrase}" for phrase in chosen]
    listed = ", ".join(others[:-1]) + " and " * (len(others) > 1) + others[-1]
    form = rng.pick(CAPTIONS).replace("{head}", head)
    return form, words | {"others": listed}, target, named + len(chosen)


def _fits(phrase: str, full: str) -> bool:
    """Whether a noun phrase fits an object that is described in full."""
    return set(phrase.split()) <= set(full.split())


def _misdescribed(claim: Claim, target: PlacedShape, rng: Rng) -> str:
    """Write the claim with one colour or texture that its object has not; put in where it names none."""
    form, named, *_ = claim
    words = named["np"].split()
    places = [i for i, word in enumerate(words) if word in COLOURS or word in TEXTURES]
    if places:
        place = rng.pick(places)
        known = COLOURS if words[place] in COLOURS else TEXTURES
        words[place] = rng.pick([w for w in known if w not in (target.colour, target.texture)])
    else:
        words.insert(0, rng.pick([colour for colour in COLOURS if colour != target.colour]))
    wrong = " ".join(words)
    return form.format(**named | {"np": wrong, "a": _article(wrong)})


def _shifted(true: Extent, size: tuple[int, int], rng: Rng) -> Extent:
    """Make a box in an image of `size` (in quarter pixels) that overlaps the true one a little: IoU in SHIFTED_IOU."""
    width, height = true[2] - true[0], true[3] - true[1]
    for _ in range(TRIES):
        w, h = width * rng.between(50, 180) // 100, height * rng.between(50, 180) // 100
        left = true[0] + (width - w) // 2 + width * rng.between(-70, 70) // 100
        top = true[1] + (height - h) // 2 + height * rng.between(-70, 70) // 100
        box = (left, top, left + w, top + h)
        inside = left >= 0 and top >= 0 and box[2] <= size[0] and box[3] <= size[1]
        if inside and SHIFTED_IOU[0] <= _iou(true, box) <= SHIFTED_IOU[1]:
            return box
    # Always possible: the middle of it, half as wide and high.
    return (true[0] + width // 4, true[1] + height // 4, true[0] + width * 3 // 4, true[1] + height * 3 // 4)


def _iou(a: Extent, b: Extent) -> float:
    """Compute the IoU from integers, so that it is the same everywhere."""
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return 0.0
    shared = across * down
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def _article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" else "a"
