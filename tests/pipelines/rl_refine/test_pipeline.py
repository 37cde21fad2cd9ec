"""The policy as a pipeline on the shipped CLIP, SSD and CLIP-VG: what it leaves alone, its start, what it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.errors import SettingsError, WeightsError
from bench.grounding import Prediction
from bench.hashing import sha256_file
from bench.registry import pipeline_factory
from bench.settings import PROJECT
from pipelines.rl_refine import checkpoint, environment
from pipelines.rl_refine.network import Policy, PolicyConfig
from pipelines.rl_refine.observing import check_clip
from pipelines.rl_refine.pipeline import rl_refine

CLIP = PROJECT / "clipvg/weights/tiny-clipvg-clip.safetensors"
SIZES = PolicyConfig(embed=96, channels=4, cells=4, hidden=16, proposals=4)


@pytest.fixture
def written(tmp_path):
    """written(scale, sizes, clip): the file of a policy whose weights are random, times `scale`."""

    def make(scale=0.0, sizes=SIZES, clip=None):
        torch.manual_seed(0)
        policy = Policy(sizes)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter *= scale
        path = tmp_path / "policy.safetensors"
        checkpoint.save(path, policy, clip or {CLIP.name: sha256_file(CLIP)}, {})
        return path

    return make


@pytest.fixture
def opened(written, context):
    """opened(scale=0, sizes=SIZES, **options): the pipeline of such a policy."""

    def make(scale=0.0, sizes=SIZES, **options):
        table = context("rl-refine").options | {"weights": str(written(scale, sizes))} | options
        return rl_refine(context("rl-refine", options=table))

    return make


def test_zero_weights_change_nothing(opened, context, loaded):
    """The first of equal scores is to stop: every box is the one before, to the last bit."""
    scenes = loaded[1][:3]
    before = pipeline_factory("clipvg")(context("clipvg")).ground(scenes)
    after = opened().ground(scenes)
    assert [p.box for p in after] == [p.box for p in before] and {p.note for p in after} == {""}


def test_any_policy_gives_the_same_boxes_twice_and_they_are_inside(opened, loaded):
    scenes = loaded[1][:3]
    pipeline = opened(scale=3.0)
    first, second = pipeline.ground(scenes), pipeline.ground(scenes)
    assert [p.box for p in first] == [p.box for p in second] and any(p.note == "out of moves" for p in first)
    sizes = [scene.image.shape[1::-1] for scene in scenes for _ in scene.queries]
    for prediction, (width, height) in zip(first, sizes, strict=True):
        x1, y1, x2, y2 = prediction.box
        assert -1e-3 <= x1 < x2 <= width + 1e-3 and -1e-3 <= y1 < y2 <= height + 1e-3


def test_from_the_image_the_first_box_is_the_whole_image(opened, loaded):
    pipeline = opened(start="image")
    assert pipeline.moves == 24 and "start" not in "".join(pipeline.card.weights)
    wholes = [(0.0, 0.0, *map(float, s.image.shape[1::-1])) for s in loaded[1][:2] for _ in s.queries]
    assert [prediction.box for prediction in pipeline.ground(loaded[1][:2])] == wholes


def test_the_policy_moves_toward_its_scores(opened, loaded, monkeypatch):
    """A policy that always prefers one move makes it until the moves are over."""
    pipeline = opened(start="image", moves=3)
    with torch.no_grad():
        pipeline.policy.head.layers[-1].bias[environment.NAMES.index("smaller") + 1] = 1.0
    (prediction, *_), image = pipeline.ground(loaded[1][:1]), loaded[1][0].image
    height, width = image.shape[:2]
    share = 1 / 1.2**3
    wanted = np.array([width * (1 - share), height * (1 - share), width * (1 + share), height * (1 + share)]) / 2
    np.testing.assert_allclose(prediction.box, wanted, atol=1e-3)
    assert prediction.note == "out of moves"


def test_boxes_that_are_none_and_boxes_that_are_odd(opened, loaded):
    pipeline, scene = opened(scale=3.0), loaded[1][0]
    width, height = scene.image.shape[1::-1]
    odd = [None, (np.nan,) * 4, (5.0, 5.0, 5.0, 5.0), (-50.0, -50.0, -20.0, -20.0), (0.0, 0.0, 9e9, 9e9)]
    queries = scene.queries[:1] * len(odd)
    pipeline.start = SimpleNamespace(
        ground=lambda batch: [Prediction(q.id, box) for q, box in zip(queries, odd, strict=True)]
    )
    boxes = [p.box for p in pipeline.ground([type(scene)(scene.id, scene.image, queries)])]
    assert boxes[:2] == [None, None]
    assert all(np.isfinite(box).all() for box in boxes[2:])
    for box in boxes[2:]:
        assert box in odd or (min(box) >= -1e-3 and box[2] <= width + 1e-3 and box[3] <= height + 1e-3)


def test_without_proposals(opened, loaded):
    table = {"proposals": {"proposer": {}}}
    pipeline = opened(scale=3.0, sizes=SIZES.model_copy(update={"proposals": 0}), **table)
    assert pipeline.observer.proposer is None and all(p.box for p in pipeline.ground(loaded[1][:1]))
    with pytest.raises(SettingsError, match=r"rl-refine\]: proposals: the policy looks at 4 proposals .* name a prop"):
        opened(**table)


def test_the_card_is_of_all_that_takes_part(opened):
    card = opened().card
    assert set(card.weights) == {"policy", "clip", "proposer", "start clipvg", "start clip"} == set(card.sha256)
    assert "from the boxes of clipvg" in card.summary and card.supervision in ("full", "unknown")


def test_files_that_are_no_policy(written, context):
    table = context("rl-refine").options
    foreign = written(clip={"other.safetensors": "0" * 64})
    with pytest.raises(WeightsError, match=r"learned on the CLIP other\.safetensors, not on this tiny-clipvg-clip"):
        rl_refine(context("rl-refine", options=table | {"weights": str(foreign)}))
    other = table["clip"]["pretrained"]
    with pytest.raises(WeightsError, match=r"its metadata is not that of a policy \(.*its format is"):
        rl_refine(context("rl-refine", options=table | {"weights": other}))
    with pytest.raises(WeightsError, match=r"bench train --pipeline rl-refine"):
        rl_refine(context("rl-refine", options=table | {"weights": "none.safetensors"}))


def test_a_clip_without_patches_is_refused():
    encoder = SimpleNamespace(model=SimpleNamespace(visual=object()), options=SimpleNamespace(model="RN50"))
    with pytest.raises(SettingsError, match=r"needs a CLIP whose image tower is a plain ViT; RN50 has none"):
        check_clip(encoder)
