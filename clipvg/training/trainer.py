"""`bench train --pipeline clipvg`: the loop over steps and epochs, on one process or many, that can be killed anywhere.

order (seed, step) -> rows -> drawn, augmented -> device -> step        every step
step file                                                               every `save_every` steps and every epoch
validation by the harness, best weights kept, curves drawn              every `validate_every` epochs
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import torch

from bench.errors import RunError, SettingsError, UnknownName
from bench.runs.files import make_folder, write_atomically
from bench.settings import flattened, parse_table
from bench.trainable import Trained, TrainingJob
from clipvg.checkpoint import Opened, save_own
from clipvg.model.visual import multi_level_features
from clipvg.pipeline import ClipVGOptions, ClipVGPipeline
from clipvg.training.alignment import into_clip_space
from clipvg.training.beginning import accelerator_for, begin, in_half
from clipvg.training.feeding import Kept, Shared, Words, on_device
from clipvg.training.history import History
from clipvg.training.objective import Batch, Objective
from clipvg.training.order import Micro, Order
from clipvg.training.recipe import ClipVGRecipe, pace_of
from clipvg.training.rows import Rows, drawn_ahead
from clipvg.training.state import State, averaged, follow, load, save
from clipvg.training.stepping import NotFiniteError, Stepper, precision
from clipvg.training.stopwatch import Stopwatch
from clipvg.training.teaching import taught_clip
from clipvg.training.watch import Watch

log = logging.getLogger("bench.train")
# What may be changed between the beginning of a training and its going on.
FREE = {"workers", "save_every", "validate_every", "early_stop", "collapse_window", "log_every", "track", "batch"}
FREE |= {"curriculum"}

LAST = "last.pt"
CALIBRATING = 64  # rows that set the scale of a start in CLIP's space


def train(job: TrainingJob, shared: Shared | None = None) -> Mapping[str, Trained]:
    """Train, or go on with what was stopped; writes NAME.safetensors under `job.out` and its run in NAME.run/ there.
    `shared` makes it one of many trainings on the same CLIP, with what others have looked at and read before: the
    processes stay together for the next, and its score is that of the best weights as training had them; that of one
    which stands alone is of the weights as they lie in their file, in float16.

    Raises UnknownName, SettingsError, WeightsError, DataError, DeviceError, RunError.
    """
    recipe = parse_table(ClipVGRecipe, dict(job.recipe), f"bench.toml [train.{job.context.name}]")
    parts = ("clip", "network") if recipe.lesson.epochs and not recipe.start_from else ("network",)
    if job.part is not None and job.part not in parts:
        raise UnknownName("part of clipvg", job.part, parts)
    folder = job.out / f"{recipe.name}.run"
    make_folder(folder)
    accelerator = accelerator_for(job, recipe, folder)
    made: dict[str, Trained] = {}
    if "clip" in parts and job.part in (None, "clip"):
        with accelerator.main_process_first():  # the others find the file
            mine = replace(job, fresh=job.fresh and accelerator.is_main_process)
            taught = taught_clip(mine, recipe)
            made |= {"clip": taught} if taught else {}
    if job.part in (None, "network"):
        made |= Training(job, recipe, accelerator, folder, shared).run()
    return made if accelerator.is_main_process else {}


class Training:
    """One training of one network."""

    def __init__(
        self, job: TrainingJob, recipe: ClipVGRecipe, accelerator: Any, folder: Path, shared: Shared | None = None
    ) -> None:
        if recipe.cache_features and recipe.train_positions:
            raise SettingsError("cache_features keeps what CLIP sees, which train_positions changes: switch one off")
        self.job, self.recipe, self.seed = job, recipe, job.context.seed
        self.accelerator, self.folder = accelerator, folder
        self.device, self.lead = self.accelerator.device, self.accelerator.is_main_process
        self.network, self.clip = begin(recipe, job.context, job.out)
        self.objective = Objective(self.network, recipe).to(self.device)
        if self.device.type == "cuda" and precision(recipe, self.device) == "bfloat16":
            in_half(self.network)
        moves = None if recipe.cache_features else recipe.augmentation
        size, dataset = self.network.config.image_size, job.context.dataset
        if moves is not None:
            moves.long_sides(size)  # refused here, not by a worker
        self.rows = Rows(job.scenes, job.pictures, size, recipe.preprocessing, moves, dataset, self.seed)
        texts = frozenset(e.text for scene in job.scenes for e in scene.expressions)
        self.shared, self.alone = shared or Shared(texts), shared is None
        self.words = self.shared.words = self.shared.words or Words(self.network, self.shared.texts, self.device)
        self.cut = len(self.words.cut & texts)
        if recipe.start == "clip" and not recipe.start_from:
            self._into_clip_space()
        self.pace = pace_of(recipe, self.accelerator.num_processes)
        self.order = Order(len(self.rows), self.pace.effective, self.seed)
        self.steps = recipe.steps or recipe.epochs * self.order.steps_in_epoch
        self.epochs = -(-self.steps // self.order.steps_in_epoch)
        self.stepper = Stepper(self.accelerator, self.objective, recipe, self.pace, self.steps, self.epochs)
        self.trained, self.watch = self.objective.trained(), Watch(recipe, self.pace)
        self.state = State(self.identity())
        self.stopwatch = Stopwatch(0, 0.0)

    def _into_clip_space(self) -> None:
        rows = range(0, len(self.rows), -(-len(self.rows) // CALIBRATING))
        drawn = self.rows.read(Micro(0, 0, tuple(rows), len(rows), last=True, counts=True))
        batch = on_device(drawn, self.rows, self.rows.size // self.network.side, self.words)
        taps = self.network.config.taps
        with torch.no_grad():
            features = multi_level_features(self.network.clip.visual, batch.seen, taps)
        into_clip_space(self.network, features, batch.words)

    def identity(self) -> dict[str, str]:
        """What has to be the same for a step file to fit."""
        recipe = flattened(self.recipe.model_dump(mode="json", exclude=FREE))
        return {key: json.dumps(value) for key, value in recipe.items()} | {
            "rows": self.job.fingerprint[:12],
            "seed": str(self.seed),
            "rows in a step": str(self.pace.effective),
            "CLIP": self.clip.values[:12],
        }

    def run(self) -> Mapping[str, Trained]:
        """The whole training."""
        if self.lead:
            for gone in (*self.folder.glob(".*.tmp"), *([self.folder / LAST] if self.job.fresh else ())):
                gone.unlink(missing_ok=True)  # what a kill left; and a fresh training never goes on as the old one
        held = None if self.job.fresh else load(self.folder / LAST, self.state.identity)
        if held is not None:
            self._restore(held)
            log.info("clipvg: going on after step %s of %s", f"{held.step:,}", f"{self.steps:,}")
        elif self.recipe.ema:
            self.state.average = {name: p.detach().clone() for name, p in self.trained.items()}
        title = f"{self.recipe.name} on {self.job.split_name}"
        tracker = self.accelerator if self.recipe.track else None
        self.history = History(self.folder, title, self.state.step, tracker) if self.lead else None
        log.info("clipvg: %s rows, %s steps, %s", f"{len(self.rows):,}", f"{self.steps:,}", self.pace.said())
        if self.cut and self.lead:
            log.warning("clipvg: %s texts are cut at %d tokens", f"{self.cut:,}", self.network.context)
        self.stopwatch = Stopwatch(self.state.step, self.state.seconds)
        for number, passes in groupby(self._fed(), key=lambda fed: fed[0].step):
            self._step(number, passes)
            if self._enough():
                break
        if not self.state.best:  # the training is over, and its best weights were taken away: the last ones stand in
            self._validate(self.state.step // self.order.steps_in_epoch)
        if self.alone:
            self.accelerator.end_training()
        for tracker in [] if self.alone else self.accelerator.trackers:
            tracker.finish()
        return self._finish() if self.lead else {}

    def _fed(self) -> Iterator[tuple[Micro, Batch]]:
        """The forward passes that are left; the time spent waiting for them is kept."""
        share = (self.accelerator.process_index, self.accelerator.num_processes)
        left, batch = (self.state.step, self.steps), self.recipe.batch
        if self._enough() or left[0] == left[1]:
            return
        if self.recipe.cache_features:
            log.info("clipvg: looking once at %s pictures", f"{len(self.rows.scenes):,}")
            with self.stopwatch.away():
                kept = Kept(self.rows, self.network, self.device, self.shared.album)
            yield from kept.batches(self.order, left, batch, share, self.words)
            return
        workers, pinned = min(self.recipe.workers, os.cpu_count() or 1), self.device.type == "cuda"
        ahead = drawn_ahead(self.rows, self.order, left, batch, share, workers, pinned)
        patch = self.rows.size // self.network.side
        for drawn in self.stopwatch.awaited(ahead):
            yield drawn.micro, on_device(drawn, self.rows, patch, self.words)

    def _step(self, number: int, passes: Iterable[tuple[Micro, Batch]]) -> None:
        """The step `number`, from 0, and what is due after it."""
        recipe, epoch = self.recipe, number // self.order.steps_in_epoch
        try:
            found = self.stepper.step(number, epoch, self.seed, passes)
        except NotFiniteError as error:
            self._not_finite(number, error)
        self.state.step = step = number + 1
        if recipe.ema:
            follow(self.state.average, self.trained, recipe.ema)
        note = self.watch.note(step, found["loss"], found["spread"])
        if note and self.lead:
            log.warning("clipvg: %s", note)
        self._report(epoch + 1, found, note)
        epoch, at = divmod(step, self.order.steps_in_epoch)
        with self.stopwatch.away():
            if step == self.steps or (at == 0 and epoch % recipe.validate_every == 0):
                self._validate(epoch)
            if self.lead and (at == 0 or step % recipe.save_every == 0):
                self._save()

    def _report(self, epoch: int, found: Mapping[str, float], note: str) -> None:
        step = self.state.step
        if self.history is None or not (step % self.recipe.log_every == 0 or step == self.steps or note):
            return
        measured, left = self.stopwatch.read(step, self.steps, self.pace.effective)
        values = {key: float(f"{value:.6g}") for key, value in found.items()}
        self.history.add(step=step, epoch=epoch, **values, **measured, **({"note": note} if note else {}))
        terms = f"loss {found['loss']:.3f} (L1 {found['l1']:.3f}, GIoU {found['giou']:.3f})"
        rate = f"{measured['rows_per_second']:,.0f} rows/s, {measured['waiting']:.0%} waiting for data"
        where = f"epoch {epoch} of {self.epochs}, step {step:,} of {self.steps:,}"
        log.info(f"clipvg: {where}, {terms}, {rate}, {left:,.0f} min left")

    def _validate(self, epoch: int) -> None:
        """Scores the weights on the named split, keeps them when they are the best, and draws the curves."""
        from accelerate.utils import gather_object

        count = self.accelerator.num_processes
        with averaged(self.trained, self.state.average):
            opened = Opened(self.network.eval(), self.folder / "best.safetensors", self.recipe.preprocessing, self.clip)
            pipeline = ClipVGPipeline(ClipVGOptions(), self.job.context, opened)
            gather = gather_object if count > 1 else None
            scores = self.job.validate(pipeline, index=self.accelerator.process_index, count=count, gather=gather)
            if scores["accuracy"] > self.state.best.get("accuracy", -1.0):
                self.state.best = {"accuracy": scores["accuracy"], "epoch": epoch, "step": self.state.step}
                self.state.best["scores"] = scores
                if self.lead:
                    save_own(opened.path, self.network, self.clip, self.recipe.preprocessing, self._said())
        if self.history is not None:
            self.history.add(step=self.state.step, epoch=epoch, **{k: round(v, 6) for k, v in scores.items()})
            self.history.draw()
        log.info(
            f"clipvg: after epoch {epoch} Acc@0.5 {scores['accuracy']:.2%}, mean IoU {scores['mean_iou']:.2%} on "
            f"{self.job.validation_name} (best {self.state.best['accuracy']:.2%}, epoch {self.state.best['epoch']})"
        )

    def _enough(self) -> bool:
        """Whether so many epochs went by without a better one that the recipe stops early."""
        patience, epoch = self.recipe.early_stop, self.state.step // self.order.steps_in_epoch
        validated = epoch - epoch % self.recipe.validate_every
        return bool(patience and self.state.best and validated - self.state.best["epoch"] >= patience)

    def _finish(self) -> Mapping[str, Trained]:
        """The best weights under their own name, and their score."""
        out = self.job.out / f"{self.recipe.name}.safetensors"
        write_atomically(out, (self.folder / "best.safetensors").read_bytes())
        context = replace(
            self.job.context, options={"weights": str(out.resolve()), "clip": self.clip.options.model_dump()}
        )
        best = {**self.state.best}
        scores = best.pop("scores")
        if self.alone:
            scores = self.job.validate(ClipVGPipeline(ClipVGOptions(**context.options), context))
        notes = {
            "weights": "the best of all epochs",
            "chosen_on": self.job.validation_name,
            "best": best,
            "steps": self.state.step,
            "seconds": round(self.state.seconds),
            "effective_batch": self.pace.effective,
            "learning_rate": self.pace.learning_rate,
            "texts_cut": self.cut,
        }
        rounded = {key: round(value, 4) for key, value in scores.items()}
        return {"network": Trained(out, self._said(), rounded, notes)}

    def _not_finite(self, number: int, error: NotFiniteError) -> NoReturn:
        """Says which rows it was; the weights are those of the step before, and so is the step file."""
        epoch, rows = self.order.step(number)
        ids = [self.rows.expression(row)[1].id for row in rows.tolist()]
        said = {"step": number + 1, "epoch": epoch + 1, "expressions": ids, "terms": str(error)}
        path = self.folder / f"not-finite.{self.accelerator.process_index}.json"
        write_atomically(path, (json.dumps(said, indent=2) + "\n").encode())
        raise RunError(
            f"the loss or its gradient is not finite at step {number + 1:,} (epoch {epoch + 1}): {error}. "
            f"The step's expressions are in {path}; {self.folder / LAST} holds the last good weights. Try "
            "clip_norm = 0.1, a lower learning_rate or warm_up, with --fresh"
        )

    def _save(self) -> None:
        self.state.trained = {name: p.detach().cpu() for name, p in self.trained.items()}
        self.state.optimiser = self.stepper.optimiser.state_dict()
        self.state.seconds = self.stopwatch.total
        save(self.folder / LAST, self.state)

    def _restore(self, held: State) -> None:
        if held.trained.keys() != self.trained.keys():
            raise RunError(f"{self.folder / 'last.pt'}: its weights are of another network; --fresh begins anew")
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(held.trained[name])
        self.stepper.optimiser.load_state_dict(held.optimiser)
        held.average = {name: tensor.to(self.device) for name, tensor in held.average.items()}
        if not (self.folder / "best.safetensors").is_file():
            held.best = {}
        self.state = held

    def _said(self) -> dict[str, Any]:
        return self.recipe.model_dump(mode="json")
