"""Trainings one after the other, each from the weights of the one before: a finished one is not done again.

A stage is a node of the memo of finished work (bench/runs/memo.py) under OUT/nodes. A stage that ends below its start
hands on what it started from, so none makes the weights worse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.hashing import find_file, sha256_file
from bench.runs.files import write_atomically
from bench.runs.memo import Memo, Result, digest
from bench.runs.shards import from_environment
from bench.training.config import TrainConfig
from bench.training.task import Trained, Training, TrainingJob, TrainTask
from bench.training.trainer import BEST, LAST, launch, train


class StagedTraining(Training):
    """The stages of one part. Each is laid over the job's recipe, and its weights are the next one's `start_from`.

    `files` names what the first stage starts from; a file that changed is another start.
    """

    def __init__(
        self, job: TrainingJob, config: TrainConfig, stages: Sequence[Mapping[str, Any]], files: Sequence[str],
        make: Callable[[TrainingJob], TrainTask],
    ) -> None:  # fmt: skip
        super().__init__(job)
        self.config, self.stages, self.files, self.make = config, stages, files, make

    def first(self) -> TrainTask:
        """Return the task of the first stage."""
        return self.make(self._job(0, self.job.out, ""))

    def run(self) -> Trained | None:
        """Train the stages that are left; return the weights on the first process, None on others."""
        rank, name = from_environment(), self.config.name
        if rank.size > 1:
            launch(self.job, self.config.model_copy(update={"track": ""}), self.job.out)
        memo = Memo(self.job.out / "nodes", agree, rank.index == 0, title=self.job.context.name)
        kept, notes, before = "", list[Mapping[str, Any]](), self._start()
        score = -1.0
        for number in range(len(self.stages)):
            key = {**before, **self._table(number)}
            folder = memo.folder / f"stage-{digest(key)}"
            path = folder / f"{name}.safetensors"

            def work(folder: Path, number: int = number, start: str = kept) -> Result:
                task = self.make(self._job(number, folder, start))  # stopped, it has its step file there
                trained = train(task, last=False)
                if trained is None:
                    return {}
                result = {"score": trained.score[task.metric], "notes": dict(trained.notes)}
                return {**result, "sha256": sha256_file(trained.path)}

            def intact(result: Result, path: Path = path) -> bool:
                return not self.job.fresh and path.is_file() and sha256_file(path) == result["sha256"]

            # 1. The stage, or what it left; its step file goes once its record is there.
            what = f"stage {number + 1} of {len(self.stages)}"
            _, result = memo.run("stage", key, what, work, intact)
            for heavy in (LAST, BEST) if memo.lead else ():
                (folder / f"{name}.run" / heavy).unlink(missing_ok=True)
            # 2. Its weights go on, unless it lost.
            better = result["score"] >= score
            notes.append({**result["notes"], "score": result["score"], "kept": better})
            kept, score = (str(path.resolve()), result["score"]) if better else (kept, score)
            before = {"before": folder.name}
        if not memo.lead:
            return None
        # 3. The last weights under their own name, scored as they lie in their file.
        out = self.job.out / f"{name}.safetensors"
        write_atomically(out, Path(kept).read_bytes())
        scores = self.make(self._job(len(self.stages) - 1, self.job.out, kept)).evaluate(out)
        rounded = {metric: round(value, 4) for metric, value in scores.items()}
        return Trained(out, self.config.model_dump(mode="json"), rounded, {"stages": notes})

    def _job(self, number: int, out: Path, start: str) -> TrainingJob:
        table = {**self.job.recipe, **self.stages[number], **({"start_from": start} if start else {})}
        return replace(self.job, recipe=table, out=out)

    def _table(self, number: int) -> dict[str, Any]:
        """What the weights of a stage depend on, of its recipe."""
        config = self.config.model_copy(update=dict(self.stages[number]))
        return {"recipe": config.model_dump(mode="json", exclude={*config.FREE, "name", "start_from"})}

    def _start(self) -> dict[str, Any]:
        """What the first stage depends on besides: rows, seed, and the contents of its files."""
        job, files = self.job, {}
        for name in self.files:
            path = find_file(name, job.context)
            files[name] = sha256_file(path) if path else ""
        return {"pipeline": job.context.name, "rows": job.fingerprint, "seed": job.context.seed, "files": files}


def agree(value: Any) -> Any:
    """Return the first process's value on every process."""
    if from_environment().size == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]
