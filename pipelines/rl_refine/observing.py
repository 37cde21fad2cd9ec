"""What a policy looks at: CLIP's map of an image, proposals and their vectors, texts; each image and text once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from bench.clock import Clock
from bench.errors import SettingsError
from bench.grounding import Boxes, LoadedScene, PipelineContext, Prediction, Scene
from bench.training.feature_cache import AT_ONCE
from pipelines.canvas import Canvas, covered, letterboxed, normalised, stack_pixels
from pipelines.rl_refine import environment
from pipelines.rl_refine.network import Observation
from pipelines.rows import Rows
from pipelines.start import on_canvas
from pipelines.two_stage.clip.encoder import ClipEncoder
from pipelines.two_stage.proposers.proposals import Proposer


class SceneFeatures(NamedTuple):
    """What is known of one image, whatever the text; on the host."""

    map: Tensor  # (D, h, w)
    bounds: Tensor  # (4,): left, top, right, bottom of the image in 0..1 of the canvas
    proposals: Tensor  # (K, 4) cxcywh in 0..1 of the canvas; 0 where there are fewer
    vectors: Tensor  # (K, D) unit vectors of the proposals
    scores: Tensor  # (K,)
    known: Tensor  # (K,)


class Observer:
    """Encode images and texts by one CLIP, and take up to `count` proposals of each image, for a policy."""

    def __init__(
        self, encoder: ClipEncoder, prompt: str, proposer: Proposer | None, count: int, threads: int, clock: Clock
    ) -> None:
        """Raises SettingsError for a CLIP without patches in the space of texts."""
        check_clip(encoder)
        self.encoder, self.prompt, self.proposer, self.count, self.clock = encoder, prompt, proposer, count, clock
        self.size = encoder.image_size
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="letterbox")

    def accelerate(self, context: PipelineContext) -> frozenset[str]:
        """Apply the context's acceleration to what is called, in place; return what it took."""
        visual: Any = self.encoder.model.visual
        return self.encoder.accelerated | context.acceleration.apply(visual, [*visual.transformer.resblocks])

    def prompted(self, text: str) -> str:
        """Return the text that CLIP gets."""
        return self.prompt.replace("{}", text.lower())

    def cut(self, text: str) -> str:
        """Return a note when a text has more tokens than CLIP takes, else nothing."""
        return self.encoder.cut(self.prompted(text))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts -> (N, D) unit vectors on the host."""
        with self.clock.stage("text encode"):
            return self.encoder.encode_texts([self.prompted(text) for text in texts]).cpu()

    def canvases(self, batch: Sequence[LoadedScene]) -> list[Canvas]:
        """Put images on CLIP's square."""
        with self.clock.stage("letterbox"):
            return list(self.pool.map(lambda scene: letterboxed(scene.image, self.size, "clean"), batch))

    @torch.inference_mode()
    def features(self, batch: Sequence[LoadedScene], canvases: Sequence[Canvas]) -> list[SceneFeatures]:
        """Encode images and find their proposals, each alone."""
        with self.clock.stage("image encode"):
            maps = torch.cat(list(self.encoder.engine.chunked("images", canvases, self._maps))).cpu()
        with self.clock.stage("detect"):
            proposed = self.proposer.propose(batch) if self.proposer else [None] * len(batch)
        out = []
        for canvas, own, proposals in zip(canvases, maps, proposed, strict=True):
            edges = torch.tensor([canvas.left, canvas.top, canvas.right, canvas.bottom]) / self.size
            boxes, scores = torch.zeros(self.count, 4), torch.zeros(self.count)
            known = torch.zeros(self.count, dtype=torch.bool)
            if proposals is not None and len(proposals):
                rows = on_canvas_boxes(proposals.boxes[: self.count], canvas)
                boxes[: len(rows)], known[: len(rows)] = torch.from_numpy(rows).float(), True
                scores[: len(rows)] = torch.from_numpy(proposals.scores[: self.count]).float()
            out.append(SceneFeatures(own, edges, boxes, pooled(own, boxes), scores, known))
        return out

    def _maps(self, canvases: Sequence[Canvas]) -> Tensor:
        """CLIP's patches in the space of texts, (B, D, h, w) float32."""
        raw, edges = (part.to(self.encoder.device) for part in stack_pixels(canvases))
        pixels = normalised(raw, covered(edges, self.size), "clean").to(self.encoder.dtype)
        visual = self.encoder.model.visual
        last = len(visual.transformer.resblocks) - 1
        (grid,) = visual.forward_intermediates(
            pixels, indices=[last], normalize_intermediates=True, intermediates_only=True
        )["image_intermediates"]
        return torch.einsum("bchw,cd->bdhw", grid, visual.proj).float()


def check_clip(encoder: ClipEncoder) -> int:
    """Return the width of a CLIP's space. Raises SettingsError for an image tower without patches in that space."""
    visual: Any = encoder.model.visual
    if not all(hasattr(visual, part) for part in ("conv1", "ln_post", "proj", "forward_intermediates")):
        raise SettingsError(
            f"clip.model: a policy needs a CLIP whose image tower is a plain ViT; {encoder.options.model} has none. "
            "ViT-B-16 would do"
        )
    return int(visual.proj.shape[1])


def pooled(patches: Tensor, boxes: Tensor) -> Tensor:
    """Average patches (D, h, w) over boxes (K, 4) cxcywh in 0..1 by RoIAlign -> (K, D) unit vectors."""
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=1)
    cells = roi_align(patches[None], [corners * patches.shape[-1]], 3, sampling_ratio=2, aligned=True)
    return F.normalize(cells.mean(dim=(2, 3)), dim=1)


def on_canvas_boxes(boxes: Boxes, canvas: Canvas) -> NDArray[np.float64]:
    """Convert xyxy pixels of an image (N, 4) -> cxcywh in 0..1 of its canvas."""
    return np.array([canvas.to_canvas(tuple(box)) for box in boxes.tolist()]).reshape(-1, 4)


def observe(
    scenes: Sequence[SceneFeatures], owners: NDArray[np.int64], texts: Tensor, start: NDArray[np.float64]
) -> Observation:
    """Join images' features, and for each of N pairs its image, text (N, D) and box to begin with (N, 4)."""
    maps, bounds, proposals, vectors, scores, known = (torch.stack(parts) for parts in zip(*scenes, strict=True))
    mine = torch.from_numpy(owners)
    cosine = torch.einsum("nkd,nd->nk", vectors[mine], texts)
    limits = bounds[mine]
    begin = environment.inside(torch.from_numpy(start).float(), limits)
    return Observation(
        maps, mine, texts, limits, proposals[mine], torch.stack([scores[mine], cosine], dim=2), known[mine], begin
    )


def observe_all(
    rows: Rows, observer: Observer, before: Callable[[Sequence[LoadedScene]], list[Prediction]]
) -> Observation:
    """Observe every expression of some rows, with its target; each image is decoded once. Raises ImageError.

    `before` predicts the boxes to begin with.
    """
    features, begin, targets, owners, texts = [], [], [], [], []

    def load(scene: Scene) -> LoadedScene:
        return LoadedScene(scene.id, rows.load(scene), tuple(e.query for e in scene.expressions))

    scenes = [scene for scene in rows.scenes if scene.expressions]
    for first in range(0, len(scenes), AT_ONCE):
        some = scenes[first : first + AT_ONCE]
        batch = list(observer.pool.map(load, some))
        # 1. What does not depend on a text; the map in 16 bits, for it is most of the memory.
        canvases = observer.canvases(batch)
        features += [each._replace(map=each.map.half()) for each in observer.features(batch, canvases)]
        # 2. The box to begin with; where there is none, the whole image.
        mine = np.array([n for n, scene in enumerate(some) for _ in scene.expressions])
        boxes = on_canvas(before(batch), canvases, mine.tolist())
        whole = np.array([each.to_canvas((0.0, 0.0, *size)) for each, size in zip(canvases, sizes(batch), strict=True)])
        begin.append(np.where(np.isfinite(boxes).all(axis=1, keepdims=True), boxes, whole[mine]))
        # 3. Texts and targets.
        texts += [expression.text for scene in some for expression in scene.expressions]
        targets += [rows.target(canvases[n], e) for n, scene in enumerate(some) for e in scene.expressions]
        owners.append(first + mine)
    observation = observe(features, np.concatenate(owners), observer.texts(texts), np.concatenate(begin))
    return observation.with_targets(torch.tensor(np.array(targets), dtype=torch.float32))


def sizes(batch: Sequence[LoadedScene]) -> list[tuple[float, float]]:
    """List width and height of images."""
    return [(float(scene.image.shape[1]), float(scene.image.shape[0])) for scene in batch]
