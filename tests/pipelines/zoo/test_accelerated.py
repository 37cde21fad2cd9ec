"""The modern pipelines under --compile and --channels-last: the same boxes, and what is compiled is what is called."""

from collections import Counter

import numpy as np
import pytest
from torch import nn

from bench.acceleration import Acceleration
from bench.registry import pipeline_factory

CASES = {
    "grounding-dino": (
        "tiny_grounding_dino",
        "grounding-dino",
        {"GroundingDinoConvModel", "GroundingDinoForObjectDetection"},
    ),
    "mm-grounding-dino": (
        "tiny_grounding_dino",
        "mm-grounding-dino",
        {"MMGroundingDinoConvModel", "MMGroundingDinoForObjectDetection"},
    ),
    "owlv2": ("tiny_owl", "owlv2", {"Owlv2VisionTransformer", "Owlv2TextTransformer"}),
    "florence-2": ("tiny_florence", None, {"Florence2VisionBackbone", "BartEncoder"}),
    "qwen-vl": ("tiny_qwen", "qwen2_5_vl", {"Qwen2_5_VisionTransformerPretrainedModel"}),
}


@pytest.fixture(params=CASES)
def build(request, context):
    fixture, which, called = CASES[request.param]
    made = request.getfixturevalue(fixture)
    folder = made(which) if which else made

    def make(acceleration):
        options = {"weights": folder} | ({"max_new_tokens": 8} if which is None or "qwen" in which else {})
        changes = {"options": options, "acceleration": acceleration}
        return pipeline_factory(request.param)(context(request.param, **changes))

    return make, called


def answers(pipeline, scenes):
    return [np.array(prediction.box or (0, 0, 0, 0)) for prediction in pipeline.ground(scenes)]


def test_what_is_compiled_is_called_and_answers_stay(build, scenes, monkeypatch):
    make, expected = build
    plain = answers(make(Acceleration()), scenes)
    called = Counter()

    def remembered(module, **kwargs):
        module.register_forward_pre_hook(lambda m, _: called.update([type(m).__name__]))

    monkeypatch.setattr(nn.Module, "compile", remembered)
    acceleration = Acceleration(compile=True, channels_last=True, dtype="bfloat16")
    pipeline = make(acceleration)
    fast = answers(pipeline, scenes)
    assert set(called) == expected
    assert pipeline.card.accelerated == {"compile", "channels-last", "dtype"}
    acceleration.refuse_untaken("it", pipeline.card.accelerated)
    for one, other, side in zip(plain, fast, [max(s.image.shape) for s in scenes for _ in s.queries], strict=True):
        assert np.abs(one - other).max() <= 1e-4 * side
