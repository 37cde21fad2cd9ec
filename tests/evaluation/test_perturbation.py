"""Perturbed scenes: words and images that change as said, and predictions that come back to the image as it is."""

import numpy as np
import pytest
from fake_world import HashPipeline, make_settings, make_split
from hypothesis import given
from hypothesis import strategies as st

from bench import registry
from bench.clock import Clock
from bench.comparison.compare import compare
from bench.errors import RunError, UnknownName
from bench.evaluation.loop import evaluate
from bench.evaluation.opening import open_pipeline
from bench.evaluation.perturbation import KINDS, Perturbed, note_of, perturbed, shuffled, without_relations
from bench.grounding import Caption, LoadedScene, PipelineCard, Prediction, Query, ScoredBox
from bench.masks import decode, encode, of_box
from bench.runs.packed import stored_bytes
from bench.runs.store import Run

TEXTS = st.lists(st.sampled_from(["red", "left", "man", "RIGHT", "bus", "of", "the", "o'clock"]), max_size=6).map(
    " ".join
)
IMAGES = st.tuples(st.integers(1, 40), st.integers(1, 40)).map(
    lambda size: np.random.default_rng(size).integers(0, 256, (*size, 3), np.uint8)
)


def scene_of(image, *texts):
    return LoadedScene("s", image, tuple(Query(f"q{n}", text) for n, text in enumerate(texts)))


class Boxes:
    """Answers every query with one box of the image it gets, with a mask, proposals and a second box."""

    card = PipelineCard("boxes", "boxes", supervision="none")

    def __init__(self, *shares):
        self.shares, self.scenes = shares, []

    def ground(self, batch):
        self.scenes += batch
        return [self.answer(scene, query) for scene in batch for query in scene.queries]

    def answer(self, scene, query):
        height, width = scene.image.shape[:2]
        box = tuple(np.multiply(self.shares, (width, height) * 2).tolist())
        mask = of_box(box, height, width)
        return Prediction(query.id, box, 0.5, np.array([box]), mask=mask, others=(ScoredBox(box, 0.25, mask),))


@given(IMAGES, st.lists(TEXTS, min_size=1, max_size=3))
def test_to_mirror_twice_changes_nothing(image, texts):
    scene = scene_of(image, *texts)
    once = perturbed(scene, "mirror", 0)
    twice = perturbed(once, "mirror", 0)
    assert twice.queries == scene.queries and np.array_equal(twice.image, image)
    assert np.array_equal(once.image[:, ::-1], image)
    boxes = np.array([[0.0, 1, 2.5, 3], [1, 0, 40, 40]])
    np.testing.assert_allclose(twice.placed(once.placed(boxes)), boxes)


@given(IMAGES, st.sampled_from(["mirror", "resize"]))
def test_predictions_come_back_to_the_image_as_it_is(image, kind):
    inner = Boxes(0.25, 0.0, 0.5, 1.0)  # of the image that it gets
    height, width = image.shape[:2]
    (one,) = Perturbed(inner, kind, 0, Clock()).ground([scene_of(image, "man")])
    want = np.array([0.5, 0, 0.75, 1] if kind == "mirror" else [0.25, 0, 0.5, 1]) * [width, height, width, height]
    for box in (one.box, one.others[0].box, one.proposals[0]):
        np.testing.assert_allclose(box, want)
    assert decode(one.mask).shape == decode(one.others[0].mask).shape == (height, width)
    assert (one.score, one.others[0].score) == (0.5, 0.25)
    given_size = inner.scenes[0].image.shape[:2]
    assert given_size == (image.shape[:2] if kind == "mirror" else tuple(max(1, round(n / 2)) for n in (height, width)))
    # Boxes known before go the same way, forwards.
    np.testing.assert_allclose(inner.scenes[0].placed(want), np.multiply([0.25, 0, 0.5, 1], given_size[::-1] * 2))


def test_a_mask_is_mirrored_and_resized_to_the_pixel():
    inside = np.zeros((4, 6), bool)
    inside[1:3, :2] = True

    class Masked(Boxes):
        def answer(self, scene, query):
            return Prediction(query.id, (0.0, 1.0, 2.0, 3.0), mask=encode(inside))

    (one,) = Perturbed(Masked(), "mirror", 0, Clock()).ground([scene_of(np.zeros((4, 6, 3), np.uint8), "a")])
    assert np.array_equal(decode(one.mask), inside[:, ::-1]) and one.box == (4, 1, 6, 3)
    (one,) = Perturbed(Masked(), "resize", 0, Clock()).ground([scene_of(np.zeros((8, 12, 3), np.uint8), "a")])
    assert np.array_equal(decode(one.mask), inside.repeat(2, 0).repeat(2, 1)) and one.box == (0, 2, 4, 6)


@given(st.lists(st.text("abc'", min_size=1, max_size=3), max_size=7).map(" ".join), st.integers(0, 3))
def test_words_are_shuffled_by_the_text_and_the_seed_alone(text, seed):
    out = shuffled(text, seed)
    assert sorted(out.split()) == sorted(text.split()) and out == shuffled(text, seed)
    assert (out == text) == (len(set(text.split())) < 2)


def test_another_seed_is_another_order():
    text = "one two three four five six seven"
    assert len({shuffled(text, seed) for seed in range(5)}) == 5


@pytest.mark.parametrize(("text", "short"), [
    ("man left of the bus", "man"), ("the man next to a red car", "the man"), ("woman in red", "woman"),
    ("piece of cake on the plate", "piece of cake"), ("man that is standing", "man"), ("left man", "left man"),
    ("the left of the two dogs", "the left of the two dogs"), ("black and white cat", "black and white cat"),
    ("Guy, behind her", "Guy"), ("near the tree", "near the tree"), ("", ""),
])  # fmt: skip
def test_what_comes_before_the_first_relation_stays(text, short):
    assert without_relations(text) == short


def test_a_phrase_changes_within_its_caption():
    caption = Caption("To the left a man, right of two red dogs", 19, 40)
    query = Query("q", "right of two red dogs", caption)
    scene = LoadedScene("s", np.zeros((4, 4, 3), np.uint8), (query,))
    for kind in KINDS:
        (out,) = perturbed(scene, kind, 0).queries
        assert out.caption.text[out.caption.start : out.caption.end] == out.text or kind in ("jpeg", "resize")
    (out,) = perturbed(scene, "mirror", 0).queries
    assert out.caption.text == "To the right a man, left of two red dogs"
    (out,) = perturbed(scene, "prompt", 0).queries
    assert out.caption.text == "To the left a man, the region described by: right of two red dogs"


def test_a_jpeg_is_another_image_of_the_same_size():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    out = perturbed(scene_of(image, "a"), "jpeg", 0)
    assert out.image.shape == image.shape and out.image.dtype == np.uint8 and not np.array_equal(out.image, image)


def test_the_note_counts_what_stays():
    split = make_split(3)
    texts = [e.text for scene in split.scenes for e in scene.expressions]
    assert note_of("shuffle-words", 0, split.scenes).startswith(f"shuffle-words: {len(texts)} of {len(texts)} expr")
    assert "; 0 stay" in note_of("shuffle-words", 0, split.scenes)
    assert f"{len(texts)} stay, which have no relation" in note_of("drop-relations", 0, split.scenes)


class Reading(HashPipeline):
    """Remembers the texts that it gets."""

    def __init__(self, context):
        super().__init__(context)
        self.texts = READ

    def ground(self, batch):
        self.texts += [query.text for scene in batch for query in scene.queries]
        return super().ground(batch)


READ = []


@pytest.fixture
def use(monkeypatch):
    READ.clear()
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: Reading)


def run(results, kind="", **more):
    return evaluate("hash", make_split(), make_settings(results), {"perturb": kind} if kind else {}, **more)


def test_a_perturbed_run_is_one_of_its_own(tmp_path, use):
    plain = run(tmp_path)
    plain_texts = list(READ)
    READ.clear()
    other = run(tmp_path, "shuffle-words")
    assert [shuffled(text) for text in plain_texts] == READ and plain_texts != READ
    assert other.folder != plain.folder and other.record.identity.options == {"perturb": "shuffle-words"}
    assert other.record.signature == f"{plain.record.signature}|perturb:shuffle-words" == other.record.comparable
    assert other.record.name == "hash (shuffle-words)" and other.record.notes[0].startswith("shuffle-words: 64 of 64")
    assert other.record.settings_hash != plain.record.settings_hash
    assert other.record.identity.data == plain.record.identity.data  # the ground truth is the same
    # Both are done, and neither takes the other's place.
    assert run(tmp_path).folder == plain.folder and run(tmp_path, "shuffle-words").already_done
    # They are compared; another pipeline's run is not.
    assert compare([plain.folder, other.folder]).n == 64
    salted = evaluate("hash", make_split(), make_settings(tmp_path, {"salt": 1}))
    with pytest.raises(RunError, match=r"got perturbed scenes, and they differ in more .*salt"):
        compare([salted.folder, other.folder])


def test_a_perturbed_run_that_was_stopped_continues(tmp_path, use, monkeypatch):
    whole = run(tmp_path / "whole", "mirror")

    real, batches = Run.append, []

    def append(self, *args):
        if len(batches) == 1:
            raise KeyboardInterrupt
        batches.append(1)
        real(self, *args)

    monkeypatch.setattr(Run, "append", append)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", "mirror")
    monkeypatch.setattr(Run, "append", real)
    plain = run(tmp_path / "cut")  # another command, which an unfinished perturbed run does not stop
    again = run(tmp_path / "cut", "mirror")
    assert again.record.sessions == 2 and plain.folder != again.folder
    for stem in ("predictions", "outcomes"):
        assert stored_bytes(again.folder, stem) == stored_bytes(whole.folder, stem)


def test_an_unknown_kind_is_refused_by_name(tmp_path, use):
    with pytest.raises(UnknownName, match="no perturbation is called 'mirrors'"):
        open_pipeline("hash", make_split(), make_settings(tmp_path), {"perturb": "mirrors"})
