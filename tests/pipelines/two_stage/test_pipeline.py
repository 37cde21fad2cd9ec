"""yolo-clip on the embedded data with the shipped weights: right boxes, the same for every batch size."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from bench.boxes import iou_elementwise
from bench.evaluation.decoding import Preparing
from bench.grounding import LoadedScene, Query
from bench.settings import merged
from pipelines.two_stage.clip import encoder as encoder_module
from pipelines.two_stage.clip.encoder import ClipOptions
from pipelines.two_stage.pipeline import two_stage

TINY_CLIP = ClipOptions(model="tiny-clip", pretrained="pipelines/weights/tiny-clip.safetensors")


@pytest.fixture
def pipeline(context):
    return two_stage(context())


@pytest.mark.slow
def test_most_attribute_expressions_are_found(pipeline, loaded):
    scenes, images = loaded
    truth = {e.id: e for s in scenes for e in s.expressions}
    attribute = [p for p in pipeline.ground(images) if truth[p.id].kind == "attribute"]
    hits = [float(iou_elementwise(p.box, truth[p.id].box)) >= 0.5 for p in attribute]
    assert len(hits) > 20 and np.mean(hits) > 0.8


@pytest.mark.slow
def test_answers_are_in_order_and_among_the_proposals(pipeline, loaded):
    scenes, images = loaded
    answers = pipeline.ground(images)
    assert [p.id for p in answers] == [e.id for s in scenes for e in s.expressions]
    for scene in scenes:
        mine = [p for p in answers if p.id.startswith(scene.id)]
        assert len({id(p.proposals) for p in mine}) == 1
        assert all(list(p.box) in p.proposals.tolist() and 0 < p.score <= 1 for p in mine)
        assert mine[0].proposals[-1].tolist() == [0, 0, scene.width, scene.height]


@pytest.mark.slow
def test_all_proposals_where_several_are_wanted(pipeline, context, loaded):
    _, images = loaded
    for one, every in zip(
        pipeline.ground(images[:4]), two_stage(context(several=True)).ground(images[:4]), strict=True
    ):
        assert (one.id, one.box, one.note) == (every.id, every.box, every.note)
        assert every.score == pytest.approx(one.score) and 0 < len(every.others) < len(every.proposals)
        assert {each.box for each in every.boxes} <= {tuple(box) for box in every.proposals.tolist()}


@pytest.mark.slow
def test_odd_texts_are_answered_and_a_cut_is_noted(pipeline, loaded):
    _, images = loaded
    texts = ("⭐🔴", "النجمة الحمراء", "the red star " * 170, "x")
    scene = LoadedScene("s", images[0].image, tuple(Query(str(i), t) for i, t in enumerate(texts)))
    answers = pipeline.ground([scene])
    assert all(p.box is not None and np.isfinite(p.box).all() for p in answers)
    assert [bool(p.note) for p in answers] == [False, False, True, False]
    assert "cut from 512 to 32 tokens" in answers[2].note


@pytest.mark.slow
def test_half_precision_chooses_the_same_regions(context, loaded):
    """Where bfloat16 decides otherwise, the two candidates were near equals."""
    _, images = loaded
    full = two_stage(context()).ground(images)
    half = two_stage(context(dtype="bfloat16")).ground(images)
    other = [(a, b) for a, b in zip(full, half, strict=True) if a.box != b.box]
    assert len(other) <= 0.05 * len(full)
    assert all(a.score < 0.7 for a, _ in other)


def test_openai_weights_come_with_quickgelu(context, monkeypatch, tmp_path):
    """By tag, as published: the tag's card says that they were trained with QuickGELU."""
    file = tmp_path / "open_clip_model.safetensors"
    file.write_bytes(b"weights")
    calls, wanted = {}, []
    monkeypatch.setattr(encoder_module.hub, "find_weights", lambda source, *a: wanted.append(source.hub) or file)
    monkeypatch.setattr(encoder_module.open_clip, "create_model", lambda *a, **k: calls.update(k, name=a[0]))
    _, hashes = encoder_module.open_model(ClipOptions(), context())
    assert calls["name"] == "ViT-B-16" and calls["pretrained"] == str(file) and calls["force_quick_gelu"]
    assert wanted == ["timm/vit_base_patch16_clip_224.openai"]
    assert hashes == {file.name: hashlib.sha256(b"weights").hexdigest()}
    encoder_module.open_model(ClipOptions(pretrained="laion2b_s34b_b88k"), context())
    assert not calls["force_quick_gelu"]


@pytest.mark.slow
def test_options_change_the_answer(context, loaded):
    _, images = loaded
    base = context()
    scores = []
    for change in ({}, {"views": ["crop"]}, {"views": ["blur"]}, {"subtract": 1.0}, {"prompt": "{} {}"}):
        ctx = context(options=merged(base.options, {"ranker": change}))
        scores.append([p.score for p in two_stage(ctx).ground(images[:2])])
    assert len({tuple(np.round(s, 5)) for s in scores}) == len(scores)


@pytest.fixture
def reclip(context):
    return two_stage(context("reclip"))


@pytest.mark.slow
def test_rules_find_what_clip_alone_does_not(pipeline, reclip, loaded):
    scenes, images = loaded
    truth = {e.id: e for s in scenes for e in s.expressions}

    grounded = {grounder: grounder.ground(images[:8]) for grounder in (pipeline, reclip)}

    def hits(grounder, kinds):
        answers = [p for p in grounded[grounder] if truth[p.id].kind in kinds]
        return np.mean([float(iou_elementwise(p.box, truth[p.id].box)) >= 0.5 for p in answers])

    assert hits(reclip, ("location", "relation")) > hits(pipeline, ("location", "relation")) + 0.25
    assert hits(reclip, ("attribute",)) == hits(pipeline, ("attribute",))


@pytest.mark.slow
def test_clips_are_added_up(context, loaded):
    """The same CLIP twice is one CLIP twice as sure."""
    _, images = loaded
    tiny = TINY_CLIP.model_dump()
    once, twice = (two_stage(context(options=merged(context().options, {"ensemble": more}))) for more in ([], [tiny]))
    a, b = (pipeline.ranker.rank(images[:1], pipeline.proposer.propose(images[:1]))[0] for pipeline in (once, twice))
    np.testing.assert_allclose(b, a**2 / (a**2).sum(1, keepdims=True), atol=1e-5)
    assert twice.card.parameters > once.card.parameters and "tiny-clip + tiny-clip" in twice.card.summary


@pytest.mark.slow
@pytest.mark.parametrize("relations", ["off", "rules"])
def test_a_batch_without_any_proposal_is_missed_not_crashed(context, relations):
    table = context().options | {"ranker": {"relations": relations, "prompt": "{}"}}
    table["proposer"] = table["proposer"] | {"whole_image": False, "confidence": 1.0}
    scene = LoadedScene("s", np.zeros((60, 80, 3), np.uint8), (Query("q", "the red star on the left"),))
    (answer,) = two_stage(context(options=table)).ground([scene])
    assert answer.box is None and answer.score is None and len(answer.proposals) == 0


@pytest.mark.slow
def test_the_roi_view_adds_to_the_others(context, loaded):
    """Log-probabilities of two views together are those of each, up to a constant; a batch is as its scenes alone."""
    scenes = [LoadedScene(s.id, s.image[: 160 + 8 * n], s.queries) for n, s in enumerate(loaded[1][:3])]

    def logits(views, size=3):
        ranker = two_stage(context(options=merged(context().options, {"ranker": {"views": views}})))
        assert ranker.card.summary
        answers = [row for n in range(0, 3, size) for row in rows(ranker, scenes[n : n + size])]
        return [np.log(row) - np.log(row).mean(axis=1, keepdims=True) for row in answers]

    def rows(pipeline, some):
        return pipeline.ranker.rank(some, pipeline.proposer.propose(some))

    roi, crop, both, alone = logits(["roi"]), logits(["crop"]), logits(["crop", "roi"]), logits(["roi"], 1)
    for one, other, sums, single in zip(roi, crop, both, alone, strict=True):
        np.testing.assert_allclose(one + other, sums, atol=1e-3)
        np.testing.assert_allclose(one, single, atol=1e-3)
        assert np.abs(one - other).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo-clip", "ssd-clip", "detr-clip"])
def test_what_was_prepared_in_the_decode_threads_is_taken(context, loaded, name):
    pipeline, scenes = two_stage(context(name)), loaded[1][:3]
    assert isinstance(pipeline, Preparing)
    prepared = [replace(scene, prepared=pipeline.prepare(scene.image)) for scene in scenes]
    for mine, plain in zip(pipeline.proposer.propose(prepared), pipeline.proposer.propose(scenes), strict=True):
        assert mine.labels == plain.labels and np.abs(mine.boxes - plain.boxes).max() < 1e-4
    # The image itself is not resized again.
    others = [replace(scene, image=np.zeros_like(scene.image)) for scene in prepared]
    for mine, plain in zip(pipeline.proposer.propose(others), pipeline.proposer.propose(scenes), strict=True):
        assert mine.labels == plain.labels


def test_a_proposer_without_prepare_does(pipeline):
    pipeline.proposer = object()  # of another package
    assert pipeline.prepare(np.zeros((4, 4, 3), np.uint8)) is None
