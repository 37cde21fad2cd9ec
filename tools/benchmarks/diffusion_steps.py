"""Measure the small diffusion head by its steps and sampling seeds, and whether it refines boxes.

    python -m tools.benchmarks.diffusion_steps [--split shapes-val] [--steps 1 2 4 8] [--seeds 5] [--samples 16]
        [--starts noise network yolo-clip] [--weights FILE]

Everything but the sampling is computed once: tokens do not depend on steps, seed or start. Boxes are those of `bench
run --pipeline diffusion --set steps=.. --set start=.. --seed ..`. A row is a mean over seeds, with the lowest and the
highest; p is of the paired bootstrap over images against the boxes that are refined, or against the regression head's
where samples start from noise, at the first seed. Times are processor seconds as a share of the network's own pass.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.comparison.paired import paired_interval, paired_p
from bench.datasets.load import load_split
from bench.evaluation.confidence import confidence
from bench.evaluation.opening import open_pipeline
from bench.evaluation.outcomes import Outcomes, outcomes
from bench.evaluation.protocols import protocol
from bench.evaluation.statistics import resampled_sums
from bench.grounding import LoadedScene, Prediction
from bench.runs.numbers import Bootstrap
from bench.runs.predictions import from_predictions
from bench.settings import load_settings
from pipelines.canvas import to_images
from pipelines.diffusion.sampling import noise_of

DRAWS = 10_000
MEASURES = ("Acc@0.5", "Acc@0.7", "Acc@0.9", "mIoU")


class Bench:
    """The pipeline with everything but the sampling computed."""

    def __init__(self, split: str, options: dict[str, Any]) -> None:
        resolved = load_settings(flags={"run.device": "cpu"})
        self.split, self.resolved = load_split(split, resolved), resolved
        self.pipeline: Any = open_pipeline("diffusion", self.split, resolved, options).pipeline
        scenes = self.split.scenes
        self.scenes = [
            LoadedScene(s.id, self.split.images.load(s), tuple(e.query for e in s.expressions)) for s in scenes
        ]
        self.canvases = [self.pipeline.prepare(scene.image) for scene in self.scenes]
        self.owned = [(n, query) for n, scene in enumerate(self.scenes) for query in scene.queries]
        self.pairs = [(n, query.text) for n, query in self.owned]
        self.hashes = [self.pipeline.image_hash(canvas) for canvas in self.canvases]
        begun = time.process_time()
        own = self.pipeline.source.rows(self.canvases, self.pairs)
        self.pass_seconds = time.process_time() - begun
        self.regressed = self.scored(own)
        engine = self.pipeline.engine
        self.encoded = engine.encode_images(self.canvases), engine.encode_texts(text for _, text in self.pairs)
        self.memories: list[Any] = []
        engine.fuse(*self.encoded, self.pairs, self._remember)

    def _remember(self, rows: Any, padding: Any) -> torch.Tensor:
        fused = self.pipeline.source.fused(rows, padding)
        self.memories.append((fused.boxes, self.pipeline.head.memory(fused)))
        return fused.boxes

    def sampled(self, seed: int, given: torch.Tensor | None, **options: Any) -> tuple[Outcomes, float]:
        """Sample every expression -> its outcomes, and the processor seconds of the sampling alone."""
        pipeline, seconds = self.pipeline, 0.0
        pipeline.options = pipeline.options.model_copy(update=options)
        noise = np.stack([noise_of(seed, self.hashes[n], text, pipeline.options.samples) for n, text in self.pairs])
        beside = (torch.from_numpy(noise), *(() if given is None else (given,)))
        memories = iter(self.memories)

        def fuse(rows: Any, padding: Any, *brought: torch.Tensor) -> torch.Tensor:
            nonlocal seconds
            begun = time.process_time()
            out: torch.Tensor = pipeline.sample(*next(memories), *brought)
            seconds += time.process_time() - begun
            return out

        rows = pipeline.engine.fuse(*self.encoded, self.pairs, fuse, beside)
        return self.scored(rows[:, :4], rows[:, 4]), seconds

    def scored(self, boxes: torch.Tensor, scores: torch.Tensor | None = None) -> Outcomes:
        """Compare boxes (N, 4), cxcywh on the canvas, with the annotations."""
        owners = np.array([n for n, _ in self.owned])
        corners = to_images(boxes.numpy().astype(np.float64), self.canvases, owners).tolist()
        given = [None] * len(corners) if scores is None else scores.tolist()
        return self.outcomes(
            [Prediction(q.id, tuple(box), s) for (_, q), box, s in zip(self.owned, corners, given, strict=True)]
        )

    def outcomes(self, predictions: Sequence[Prediction]) -> Outcomes:
        """Compare predictions, in order, with the annotations."""
        rest = iter(predictions)
        rows = [from_predictions(s.id, [next(rest) for _ in s.queries]) for s in self.scenes]
        return outcomes(self.split.scenes, rows, protocol("iou"))

    def start(self, name: str) -> tuple[Outcomes, torch.Tensor | None]:
        """Return the outcomes of what is refined, and its boxes where they are another pipeline's."""
        if name in ("noise", "network"):
            return self.regressed, None
        other = open_pipeline(name, self.split, self.resolved).pipeline
        predictions = other.ground(self.scenes)
        boxes = [
            np.full(4, np.nan) if p.box is None else self.canvases[n].to_canvas(p.box)
            for (n, _), p in zip(self.owned, predictions, strict=True)
        ]
        return self.outcomes(predictions), torch.from_numpy(np.stack(boxes)).float()


def measures(results: Outcomes) -> dict[str, np.ndarray[Any, Any]]:
    """Return what each expression counts for each measure, (N,) each."""
    hits = {f"Acc@{at}": (results.iou >= at).astype(float) for at in (0.5, 0.7, 0.9)}
    return hits | {"mIoU": np.round(results.iou, 6)}


def paired(before: Outcomes, after: Outcomes) -> str:
    """Compare two: the difference in points with its interval and p, of each measure."""
    image = before.image
    counts = np.bincount(image).astype(float)
    cells = []
    for name in MEASURES:
        a, b = (np.bincount(image, weights=measures(each)[name]) for each in (before, after))
        totals = resampled_sums(np.stack([a, b, counts], axis=1), DRAWS, 0)
        drawn, gains = (totals[:, 1] - totals[:, 0]) / totals[:, 2], b - a
        low, high = paired_interval(drawn, gains, counts, 0.95)
        p, difference = paired_p(drawn, -gains, counts), gains.sum() / counts.sum()
        cells.append(f"{name} {100 * difference:+.2f} [{100 * low:.2f}, {100 * high:.2f}] p {p:.2g}")
    return ", ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--split", default="shapes-val")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, nargs="+", default=[16])
    parser.add_argument("--starts", nargs="+", default=["noise", "network"])
    parser.add_argument("--truncate", type=float, nargs="+", default=[0.3])
    parser.add_argument("--weights", default="pipelines/weights/tiny-diffusion.safetensors")
    given = parser.parse_args()
    with torch.inference_mode():
        world = Bench(given.split, {"weights": given.weights})
        values = measures(world.regressed)
        print("regression head:", ", ".join(f"{name} {100 * values[name].mean():.2f}" for name in MEASURES))
        for name in given.starts:
            before, boxes = world.start(name)
            if boxes is not None:
                values = measures(before)
                print(f"{name}:", ", ".join(f"{m} {100 * values[m].mean():.2f}" for m in MEASURES))
            for truncate, samples, steps in (
                (t, k, n)
                for t in (given.truncate if name != "noise" else [1.0])
                for k in given.samples
                for n in given.steps
            ):
                start = "noise" if name == "noise" else "network"
                options = {"start": start, "steps": steps, "samples": samples, "truncate": truncate}
                runs, times = zip(*(world.sampled(seed, boxes, **options) for seed in range(given.seeds)), strict=True)
                lines = [[100 * measures(run)[m].mean() for run in runs] for m in MEASURES]
                cells = [
                    f"{m} {np.mean(v):.2f} ({min(v):.2f}-{max(v):.2f})" for m, v in zip(MEASURES, lines, strict=True)
                ]
                print(f"{name}, u {truncate}, {samples} samples, {steps} steps: {', '.join(cells)}, ", end="")
                print(f"sampling {np.mean(times) / world.pass_seconds:.2f} of the network's pass")
                worth = confidence(runs[0], Bootstrap(draws=100, seed=0, confidence=0.95))
                covered = ", ".join(f"{c.coverage:.0%} {100 * c.accuracy:.2f}" for c in worth.covered)
                assert worth.calibration is not None
                print(f"    {paired(before, runs[0])}")
                print(
                    f"    covered {covered}; area {100 * worth.aurc:.2f}; ECE {100 * worth.calibration.ece:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
