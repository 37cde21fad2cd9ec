"""Training a policy: what is observed once, stages, and kills."""

import numpy as np
import pytest
import torch
from training_world import Stepping, stopped_and_resumed

from bench.errors import SettingsError
from bench.grounding import LoadedScene
from bench.training.stages import StagedTraining
from bench.training.step import OptimisationStep
from bench.training.trainer import Trainer
from pipelines.canvas import letterboxed
from pipelines.rl_refine import checkpoint, task
from pipelines.rl_refine.environment import inside
from pipelines.rl_refine.task import RLRefineTask, training
from pipelines.rows import Rows


def test_what_is_observed_is_what_the_pipeline_sees(job):
    made = RLRefineTask(job())
    data = made.dataset()
    seen, rows = data.observation, Rows(made.job, made.grounder.observer.size, "clean", None)
    assert len(data) == len(seen) == len(rows) and data.name(3) == rows.name(3)
    # 1. The boxes to begin with are those of the pipeline before, on the canvas; targets are the truth's.
    scene = rows.scenes[0]
    image = rows.load(scene)
    canvas = letterboxed(image, made.grounder.observer.size, "clean")
    before = made.grounder.start.ground([LoadedScene(scene.id, image, tuple(e.query for e in scene.expressions))])
    assert made.grounder.start.card.name == "clipvg" and len(before) > 3
    for number, (expression, prediction) in enumerate(zip(scene.expressions, before, strict=True)):
        box = torch.tensor(canvas.to_canvas(prediction.box), dtype=torch.float32)
        torch.testing.assert_close(seen.start[number], inside(box, seen.bounds[0]), atol=1e-4, rtol=0)
        np.testing.assert_allclose(seen.targets[number], canvas.to_canvas(expression.box), atol=1e-6)
    # 2. A batch has the images of its rows, each once.
    batch = made.collate([0, 1, len(data) - 1])
    assert len(batch.maps) == 2 and batch.owners.tolist() == [0, 0, 1]
    torch.testing.assert_close(batch.maps[batch.owners], seen.maps[seen.owners[[0, 1, len(data) - 1]]])


@pytest.mark.parametrize("method", ["imitation", "grpo"])
def test_a_step_changes_every_part_of_the_policy(job, method):
    stepping = Stepping(RLRefineTask(job(method=method, learning_rate=1e-2)))
    before = stepping.weights()
    values = stepping.step()
    assert {"imitation": {"imitation", "agreement"}, "grpo": {"policy", "kl", "entropy", "reward", "dropped", "steps"}}[
        method] < set(values)  # fmt: skip
    assert [name for name, weight in stepping.weights().items() if torch.equal(weight, before[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["imitation", "grpo"])
def test_killed_anywhere_it_ends_in_the_same_bits(job, method):
    kills = [(OptimisationStep, "step", 3, False), (Trainer, "validate", 1, True)]
    assert stopped_and_resumed(lambda out: RLRefineTask(job(out, method=method)), kills)[-1] >= 3


@pytest.mark.slow
def test_the_second_stage_starts_from_the_imitation_and_images_are_encoded_once(job, monkeypatch):
    calls, observe = [], task.observe_all
    monkeypatch.setattr(task, "observe_all", lambda *given: calls.append(1) or observe(*given))
    stages = [{"method": "imitation", "steps": 2}, {"method": "grpo", "steps": 2, "learning_rate": 1e-4}]
    whole = training(job(stages=stages))
    assert isinstance(whole, StagedTraining)
    trained = whole.run()
    assert len(calls) == 1 and [note["steps"] for note in trained.notes["stages"]] == [2, 2]
    again = RLRefineTask(job("again"))
    policy = checkpoint.open_policy(str(trained.path), again.grounder.observer.encoder.sha256, again.job.context)[0]
    assert policy.config.embed == 96 and policy.config.proposals == 4


def test_a_recipe_that_is_wrong_is_named(job):
    for wrong, message in (
        ({"epizodes": 3}, r"train\.rl-refine\]: unknown key 'epizodes'; did you mean 'episodes'"),
        ({"episodes": 1}, r"train\.rl-refine\]: episodes: .*greater than or equal to 2"),
        ({"stages": [{"method": "dqn"}]}, r"train\.rl-refine\]: stages\.0\.method: .*'imitation' or 'grpo'"),
    ):
        with pytest.raises(SettingsError, match=message):
            training(job(**wrong))
