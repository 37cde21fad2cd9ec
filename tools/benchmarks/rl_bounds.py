"""Show what the moves of rl-refine could reach on a split, and what needs no policy, beside what its policy reaches.

    python -m tools.benchmarks.rl_bounds --split shapes-val [--start clipvg] [--weights FILE] [--limit N]

no moves            the boxes to begin with
nearest proposal    the proposal of the largest IoU with that box, CLIP's proposal the one most like the text
oracle              the greedy oracle, which knows the target: the bound of the 17 moves; and toward the best proposal
policy              greedy, its moves, and how many boxes it stopped by itself

Boxes are compared on the canvas, so numbers may differ from a run's in the last digit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from bench.datasets.load import load_split
from bench.evaluation.opening import open_pipeline
from bench.settings import load_settings
from bench.training.setup import make_job
from pipelines import layers
from pipelines.rl_refine.environment import oracle, roll_out
from pipelines.rl_refine.observing import observe_all
from pipelines.rl_refine.pipeline import RLRefinePipeline
from pipelines.rows import Rows


def line(name: str, boxes: Tensor, targets: Tensor, note: str = "") -> None:
    """Print mean IoU and accuracies of boxes (N, 4)."""
    _, iou = layers.giou(boxes, targets)
    shares = "  ".join(f"{100 * (iou >= at).float().mean():5.1f}" for at in (0.5, 0.7, 0.9))
    print(f"{name:24s} {100 * iou.mean():5.1f}  {shares}  {note}")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--split", default="shapes-val")
    parser.add_argument("--start", help="the pipeline whose boxes are moved, or image")
    parser.add_argument("--weights", help="the policy")
    parser.add_argument("--limit", type=int, help="use only the first so many images")
    given = parser.parse_args()
    resolved = load_settings(flags={"pipelines.rl-refine.start": given.start})
    split = load_split(given.split, resolved)
    split = split if given.limit is None else split.limited(given.limit)
    options = {"weights": given.weights} if given.weights else {}
    pipeline = open_pipeline("rl-refine", split, resolved, options).pipeline
    assert isinstance(pipeline, RLRefinePipeline)
    rows = Rows(make_job("rl-refine", split, split, resolved, {}, Path()), pipeline.observer.size, "clean", None)
    view = observe_all(rows, pipeline.observer, pipeline.before)
    targets, bounds, each = view.targets, view.bounds, torch.arange(len(view))
    assert targets is not None
    print(f"{given.split + ', ' + str(len(view)):24s} {'mIoU':>5s}  {'@0.5':>5s}  {'@0.7':>5s}  {'@0.9':>5s}")
    line("no moves", view.start, targets)
    if view.proposals.shape[1]:
        near, best = (layers.giou(box[:, None], view.proposals)[1] for box in (view.start, targets))
        for name, score in (
            ("nearest proposal", near),
            ("CLIP's proposal", view.scores[..., 1]),
            ("best proposal", best),
        ):
            chosen = view.proposals[each, score.masked_fill(~view.known, -2).argmax(dim=1)]
            line(name, chosen, targets)
            if name == "nearest proposal":
                toward = roll_out(lambda box, _, to=chosen: oracle(box, to, bounds), view.start, bounds, pipeline.moves)
                line("moved to the nearest", toward.last, targets)
    line(
        "oracle",
        roll_out(lambda box, _: oracle(box, targets, bounds), view.start, bounds, pipeline.moves).last,
        targets,
    )
    last, steps, stopped = pipeline.play(view)
    note = (
        f"{steps.mean():.1f} moves, {100 * stopped.mean():.1f} % stopped, {100 * (steps == 0).mean():.1f} % never moved"
    )
    line("policy", torch.from_numpy(last).float(), targets, note)


if __name__ == "__main__":
    main()
