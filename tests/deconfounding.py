"""What holds for every network that takes the red-style deconfounder: a check over its task and its pipeline."""

import pytest
import torch
from training_world import VALIDATION, stopped_and_resumed

from bench.errors import SettingsError
from bench.grounding import LoadedScene
from bench.training.step import OptimisationStep
from pipelines.weights import read_safetensors

OPTIONS = {"entries": 4, "code": 6}
PREFIX = "deconfounder."


def boxes_of(pipeline, images):
    scenes = [LoadedScene(s.id, images.load(s), tuple(e.query for e in s.expressions)) for s in VALIDATION]
    return torch.tensor([answer.box for answer in pipeline.ground(scenes)])


def check_deconfounder(make_task, open_file, tmp_path):
    """`make_task(out, **changes of the config)` and `open_file(path, **options)` are the network's."""
    # 1. Off, there is no trace of it; on, everything else starts as without.
    off, on = make_task("off"), make_task("on", deconfounder=OPTIONS)
    states = [task.model.state_dict() for task in (off, on)]
    own = {key for key in states[1] if key.startswith(PREFIX)}
    assert states[0].keys() == states[1].keys() - own and len(own) == 4
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    images = on.job.images
    assert torch.equal(boxes_of(off.pipeline(), images), boxes_of(on.pipeline(), images))
    # 2. Its three maps are trained, its dictionary is not; a kill changes no bit.
    dictionary = states[1][f"{PREFIX}dictionary"].clone()
    assert dictionary.shape == (4, 6) and dictionary.std() > 0.1
    trained = {name for group in on.parameter_groups() for name in group.parameters}
    assert trained & own == own - {f"{PREFIX}dictionary"}
    changes = {"deconfounder": OPTIONS, "ema": 0.8, "epochs": 3, "learning_rate": 3e-3}
    stopped_and_resumed(lambda out: make_task(out, **changes), [(OptimisationStep, "step", 5)])
    (path,) = (tmp_path / "whole").glob("*.safetensors")
    state = read_safetensors(path)[0]
    assert torch.equal(state[f"{PREFIX}dictionary"], dictionary.half())
    assert all(state[f"{PREFIX}{name}.weight"].abs().max() > 0 for name in ("query", "key", "out"))
    # 3. The file opens with it, the card names it, and it moves the boxes, with and without savings alike.
    fast, plain = open_file(path), open_file(path, fast=False)
    assert "red-style deconfounder of 4 entries (a re-derivation of RED" in fast.card.summary
    trained_boxes = boxes_of(fast, images)
    for pipeline in (fast, plain):
        pipeline.network.deconfounder.out.weight.mul_(1000)
    fast.engine.forget_texts()
    boxes = boxes_of(fast, images)
    assert torch.allclose(boxes, boxes_of(plain, images), atol=1e-2)
    assert not torch.allclose(boxes, trained_boxes, atol=0.1)
    # 4. A training goes on from it with its own dictionary, and only under its own sizes.
    again = make_task("again", start_from=str(path), preprocessing="auto", deconfounder=OPTIONS)
    assert torch.equal(again.model.deconfounder.dictionary, dictionary.half().float())
    with pytest.raises(SettingsError, match=r"deconfounder of 4 entries of 6 numbers.*set deconfounder\.entries=4"):
        make_task("other", start_from=str(path), preprocessing="auto")
    with pytest.raises(SettingsError, match=r"entries = 99, but the training split has \d+ different expressions"):
        make_task("few", deconfounder={"entries": 99})
