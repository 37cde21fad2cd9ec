"""What a trained proposer is worth to a ranker."""

from __future__ import annotations

import numpy as np

from bench.boxes import iou_pairwise
from bench.grounding import LoadedScene
from bench.training.task import TrainingJob
from pipelines.proposers.proposals import Proposer

BATCH = 32


def recall(proposer: Proposer, job: TrainingJob) -> dict[str, float]:
    """The share of validation expressions with a proposal at IoU 0.5 and 0.75, the mean best IoU, and the proposals of
    a picture. `proposer` must not append the whole picture, which is no finding of its own.
    """
    best, made = [np.zeros(0)], 0
    for start in range(0, len(job.validation), BATCH):
        scenes = job.validation[start : start + BATCH]
        loaded = [LoadedScene(scene.id, job.validation_pictures.load(scene), ()) for scene in scenes]
        proposals = proposer.propose(loaded)
        made += sum(map(len, proposals))
        best += [
            iou_pairwise([e.box for e in scene.expressions], mine.boxes.reshape(-1, 4)).max(axis=1, initial=0.0)
            for scene, mine in zip(scenes, proposals, strict=True)
        ]
    overlap = np.concatenate(best)
    asked = max(1, len(overlap))
    return {
        "recall@0.5": float((overlap >= 0.5).sum() / asked),
        "recall@0.75": float((overlap >= 0.75).sum() / asked),
        "mean_iou": round(float(overlap.sum() / asked), 4),
        "proposals_per_picture": made / max(1, len(job.validation)),
    }
