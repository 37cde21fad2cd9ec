"""The trainer: the loop over steps and epochs of any task, on one process or many, that can be killed anywhere.

sampler(seed, step) -> samples -> collate -> device -> step       every step
step file                                                         every `save_every` steps and every epoch
validation by the harness, best weights kept, curves drawn        every `validate_every` epochs
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import torch

from bench.errors import RunError, UsageError
from bench.runs.files import make_folder, write_atomically
from bench.runs.provenance import redacted
from bench.settings import flattened
from bench.training.checkpoint import State, buffers_of, ema_weights, load, save, update_ema
from bench.training.config import batch_plan
from bench.training.image_cache import use_image_cache
from bench.training.log import Timer, TrainingLog, collapse_detector, progress_bar
from bench.training.sampler import MicroBatch, MicroBatches, StepSampler, batches_ahead, micro_batches, worker_count
from bench.training.step import NotFiniteError, OptimisationStep, StepValues
from bench.training.step import launch as launch
from bench.training.task import Batch, Trained, TrainTask

log = logging.getLogger("bench.train")
LAST, BEST = "last.pt", "best.safetensors"


def train(task: TrainTask, last: bool = True) -> Trained | None:
    """Train a task, or resume a stopped training; return its weights on the first process, None on others.

    Writes NAME.safetensors under the job's folder and its run in NAME.run/ there. The score of `last`, a training that
    stands alone, is that of the weights as they lie in their file; of one of many, that of the best weights in memory.
    Ctrl-C leaves the step file; the same command resumes. Raises UsageError, SettingsError, WeightsError, DataError,
    DeviceError, RunError.
    """
    folder = task.job.out / f"{task.config.name}.run"
    make_folder(folder)
    run = Trainer(task, launch(task.job, task.config, folder, task.alternates), folder, last)
    run.resume()
    config, steps_in_epoch = run.config, run.sampler.steps_in_epoch
    try:
        with progress_bar(run.name, run.steps, run.state.step) as advance:
            # 1. The sampler says which samples make which step; worker processes draw and collate them ahead.
            for number, batches in run.steps_left():
                # 2. Forward and backward of every micro batch, clipping, schedule, optimiser.
                values = run.step.step(number, batches)
                run.state.step = step = number + 1
                epoch, place = divmod(step, steps_in_epoch)
                validates = step == run.steps or (place == 0 and epoch % config.validate_every == 0)
                saves = place == 0 or step == run.steps or step % config.save_every == 0
                # 3. The EMA of the weights.
                if config.ema:
                    update_ema(run.state.average, run.averaged(), config.ema)
                # 4. A line of the log about the step before, so that nobody waits for this one; before anything is
                # written, about this one too: a loss that is not finite ends the training here.
                advance(run.report(values, wait=validates or saves))
                with run.timer.exclude():
                    # 5. Validation by the harness; the best weights are kept.
                    if validates:
                        run.validate(epoch)
                    # 6. The step file, from which the same command goes on.
                    if saves and run.lead:
                        run.save()
                # 7. Early stop.
                if run.has_stopped_early():
                    break
    except KeyboardInterrupt:
        step_text, command = f"{run.state.step:,}", " ".join(redacted())
        log.warning("%s: stopped after step %s; the same command resumes it: %s", run.name, step_text, command)
        raise
    return run.finish()


class Trainer:
    """One training of one task."""

    def __init__(self, task: TrainTask, accelerator: Any, folder: Path, last: bool = True) -> None:
        self.task, self.job, self.config = task, task.job, task.config
        self.accelerator, self.folder, self.last = accelerator, folder, last
        self.device, self.lead = accelerator.device, accelerator.is_main_process
        self.name = self.job.context.name
        self.plan = batch_plan(self.config, accelerator.num_processes)
        if task.loss_scope == "batch" and (self.plan.accumulate > 1 or accelerator.num_processes > 1):
            whole = self.plan.batch * self.plan.accumulate
            raise UsageError(
                f"{self.name}: its loss compares the samples of a whole batch, so gradients of parts do not add up: "
                f"start one process, and set batch={whole} or a smaller reference_batch"
            )
        self.cache = use_image_cache(task, accelerator)
        self.data = MicroBatches(task, task.dataset())
        rows, seed = len(self.data.dataset), self.job.context.seed
        self.sampler = StepSampler(rows, self.plan.effective, seed, self.data.groups)
        self.steps = self.config.steps or self.config.epochs * self.sampler.steps_in_epoch
        self.step = OptimisationStep(accelerator, task, self.plan, self.sampler, self.steps, self.data.draw)
        self.trained, self.buffers = self.step.trained, buffers_of(task.model)
        self.collapse_note = collapse_detector(self.config, self.plan)
        self.state, self.timer = State(self.identity()), Timer(0, 0.0)
        self.taken: deque[StepValues] = deque()  # steps that nothing was reported about
        self.history: TrainingLog | None = None

    def identity(self) -> dict[str, str]:
        """Return what has to be the same for a step file to fit."""
        table = flattened(self.config.model_dump(mode="json", exclude=set(self.config.FREE)))
        return {key: json.dumps(value) for key, value in table.items()} | {
            "rows": self.job.fingerprint[:12],
            "seed": str(self.sampler.seed),
            "rows in a step": str(self.plan.effective),
            "shorter side": str(self.task.shorter_side if self.cache else 0),  # what images may be reduced to
            **self.task.identity,
        }

    def steps_left(self) -> Iterator[tuple[int, Iterator[tuple[MicroBatch, Batch]]]]:
        """Yield each step that is left with its forward passes; the time spent waiting for them is counted."""
        if self.has_stopped_early() or self.state.step == self.steps:
            return
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        micros = micro_batches(self.sampler, self.state.step, self.steps, self.plan.batch, process, processes)
        # A dataset that is in memory needs no processes that draw ahead.
        workers = 0 if getattr(self.data.dataset, "in_memory", False) else self.config.workers
        batches = batches_ahead(self.data, micros, worker_count(workers, self.device.type), self.device)
        yield from groupby(self.timer.waiting(batches), key=lambda pair: pair[0].step)

    def report(self, values: StepValues, wait: bool) -> str:
        """Report the steps before this one, and this one if it is to be waited for; return a note on the last."""
        self.taken.append(values)
        note = ""
        while len(self.taken) > (0 if wait else 1):
            note = self._report(self.taken.popleft())
        return note

    def _report(self, taken: StepValues) -> str:
        """Write a step's values to the log where a line is due, warn of a collapse, return the loss as a note."""
        try:
            values = taken.read()
        except NotFiniteError as error:
            self.not_finite(taken.number, error)
        step, loss = taken.number + 1, f"loss {values['loss']:.3f}"
        epoch = taken.number // self.sampler.steps_in_epoch + 1
        note = self.collapse_note(step, values["loss"], values["spread"]) if "spread" in values else ""
        if note and self.lead:
            log.warning("%s: %s", self.name, note)
        if self.history is None or not (step % self.config.log_every == 0 or step == self.steps or note):
            return loss
        rates, left = self.timer.rates(self.state.step, self.steps, self.plan.effective)
        rounded = {key: float(f"{value:.6g}") for key, value in values.items()}
        cached = {} if self.cache is None else self.cache.rates()
        self.history.add(step=step, epoch=epoch, **rounded, **rates, **cached, **({"note": note} if note else {}))
        terms = ", ".join(f"{key} {value:.3f}" for key, value in values.items() if key in self.task.loss_weights)
        speed = f"{rates['rows_per_second']:,.0f} rows/s, {rates['waiting']:.0%} waiting for data"
        speed += f", {cached['image_cache_hits']:.0%} of images from the cache" if cached else ""
        where = f"epoch {epoch} of {self.step.epochs}, step {step:,} of {self.steps:,}"
        log.info(f"{self.name}: {where}, {loss} ({terms}), {speed}, {left:,.0f} min left")
        return loss

    def averaged(self) -> dict[str, torch.Tensor]:
        """Return what the EMA covers: the trained weights, and buffers of numbers."""
        return {**self.trained, **{name: t for name, t in self.buffers.items() if t.is_floating_point()}}

    def validate(self, epoch: int) -> None:
        """Score the weights on the validation split, keep them when they are the best, and draw the curves."""
        from accelerate.utils import gather_object

        count = self.accelerator.num_processes
        gather = gather_object if count > 1 else None
        self.task.model.eval()
        with ema_weights(self.averaged(), self.state.average):
            scores = self.task.evaluate(index=self.accelerator.process_index, count=count, gather=gather)
            score = scores[self.task.metric]
            if score > self.state.best.get(self.task.metric, -1.0):
                self.state.best = {self.task.metric: score, "epoch": epoch, "step": self.state.step, "scores": scores}
                if self.lead:
                    self.task.save(self.folder / BEST)
        if self.history is not None:
            self.history.add(step=self.state.step, epoch=epoch, **{k: round(v, 6) for k, v in scores.items()})
            self.history.draw(tuple(self.task.loss_weights))
        best = self.state.best
        log.info(
            f"{self.name}: after epoch {epoch} {_title(self.task.metric)} {score:.2%} on {self.job.validation_name} "
            f"(best {best[self.task.metric]:.2%}, epoch {best['epoch']})"
        )

    def has_stopped_early(self) -> bool:
        """Return whether so many epochs went by without a better one that the training stops."""
        patience, epoch = self.config.early_stop, self.state.step // self.sampler.steps_in_epoch
        validated = epoch - epoch % self.config.validate_every
        return bool(patience and self.state.best and validated - self.state.best["epoch"] >= patience)

    def finish(self) -> Trained | None:
        """End the training; give the best weights their own name, and their score."""
        if not self.state.best:  # the training is over, and its best weights were taken away: the last ones stand in
            self.validate(self.state.step // self.sampler.steps_in_epoch)
        if self.history is not None:
            self.history.close()
        if self.last:
            self.accelerator.end_training()
            if self.cache is not None:
                self.cache.close()
        else:  # the processes stay together for the next training
            for tracker in self.accelerator.trackers:
                tracker.finish()
        if not self.lead:
            return None
        out = self.job.out / f"{self.config.name}.safetensors"
        self.task.publish(self.folder / BEST, out)
        best = {**self.state.best}
        scores = best.pop("scores")
        if self.last:
            scores = self.task.evaluate(out)
            score = f"{_title(self.task.metric)} {scores[self.task.metric]:.2%} on {self.job.validation_name}"
            log.info(f"{self.name}: {score}, weights in {out}")
            if self.task.metric == "accuracy":
                again = f"bench run --pipeline {self.name} --split {self.job.validation_command}"
                log.info(f"{self.name}: evaluate them with {again} --weights {self.task.options(out)['weights']}")
        notes = {
            "weights": "the best of all epochs",
            "chosen_on": self.job.validation_name,
            "best": best,
            "steps": self.state.step,
            "seconds": round(self.state.seconds),
            "effective_batch": self.plan.effective,
            "learning_rate": self.plan.learning_rate,
            **self.task.notes,
        }
        rounded = {key: round(value, 4) for key, value in scores.items()}
        return Trained(out, self.config.model_dump(mode="json"), rounded, notes)

    def not_finite(self, number: int, error: NotFiniteError) -> NoReturn:
        """Name the samples; the weights are those of the step before, and so is the step file."""
        epoch = number // self.sampler.steps_in_epoch
        ids = [self.data.dataset.name(row) for row in error.rows]
        record = {"step": number + 1, "epoch": epoch + 1, "expressions": ids, "terms": str(error)}
        path = self.folder / f"not-finite.{self.accelerator.process_index}.json"
        write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())
        raise RunError(
            f"the loss or its gradient is not finite at step {number + 1:,} (epoch {epoch + 1}): {error}. Samples to "
            f"blame: {', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''} (all in {path}); {self.folder / LAST} holds "
            "the last good weights. Try clip_norm = 0.1, a lower learning_rate or warm_up, with --fresh"
        )

    def save(self) -> None:
        """Write the step file."""
        self.state.trained = {name: p.detach().cpu() for name, p in self.trained.items()}
        self.state.buffers = {name: tensor.cpu() for name, tensor in self.buffers.items()}
        self.state.optimiser = self.step.optimiser.state_dict()
        self.state.seconds = self.timer.total
        save(self.folder / LAST, self.state)

    def resume(self) -> None:
        """Put back what the step file holds, where there is one that fits, and open the log."""
        if self.lead:
            for gone in (*self.folder.glob(".*.tmp"), *([self.folder / LAST] if self.job.fresh else ())):
                gone.unlink(missing_ok=True)  # a kill's leavings; and a fresh training never resumes the old one
        self.accelerator.wait_for_everyone()
        state = load(self.folder / LAST, self.state.identity)
        if state is not None:
            self._put_back(state)
        elif self.config.ema:
            self.state.average = {name: p.detach().clone() for name, p in self.averaged().items()}
        tracker = self.accelerator if self.config.track else None
        title = f"{self.config.name} on {self.job.split_name}"
        self.history = TrainingLog(self.folder, title, self.state.step, tracker) if self.lead else None
        log.info("%s: %s rows, %s steps, %s", self.name, f"{self.sampler.rows:,}", f"{self.steps:,}", self.plan)
        self.timer = Timer(self.state.step, self.state.seconds)

    def _put_back(self, state: State) -> None:
        if state.trained.keys() != self.trained.keys() or state.buffers.keys() != self.buffers.keys():
            raise RunError(f"{self.folder / LAST}: its weights are of another network; --fresh starts anew")
        with torch.no_grad():
            for name, tensor in {**self.trained, **self.buffers}.items():
                tensor.copy_({**state.trained, **state.buffers}[name])
        self.step.optimiser.load_state_dict(state.optimiser)
        state.average = {name: tensor.to(self.device) for name, tensor in state.average.items()}
        if not (self.folder / BEST).is_file():
            state.best = {}
        self.state = state
        log.info("%s: resuming after step %s of %s", self.name, f"{state.step:,}", f"{self.steps:,}")


def _title(metric: str) -> str:
    return "Acc@0.5" if metric == "accuracy" else metric
