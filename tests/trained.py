"""Stops and resumes trainings in tests of tasks: what every task has to hold."""

from types import SimpleNamespace

import pytest
import torch

from bench.errors import UsageError
from bench.training.step import OptimisationStep
from bench.training.trainer import Trainer, train
from pipelines.weights import read_safetensors


def weights_of(task):
    """Train a task to its end; its weights as they lie in the file."""
    return read_safetensors(train(task).path)[0]


def check_resumes(make, stop_at):
    """`make(out)` -> a task: stopped at a step and resumed, it ends with the bits of a training that went through."""
    whole = weights_of(make("whole"))
    step = OptimisationStep.step

    def stopping(self, number, *rest):
        if number == stop_at:
            raise KeyboardInterrupt
        return step(self, number, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OptimisationStep, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(make("stopped"))
    resumed = weights_of(make("stopped"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)


def check_one_process(task, tmp_path):
    """Two processes are refused by name, as scope "batch" has to."""
    two = SimpleNamespace(num_processes=2, process_index=0, is_main_process=True, device=torch.device("cpu"))
    with pytest.raises(UsageError, match=r"compares the samples of a whole batch.*start one process"):
        Trainer(task, two, tmp_path)
