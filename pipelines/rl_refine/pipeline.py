"""RL box regression as a pipeline: a policy moves each expression's box until it stops.

    start = "image"                   from_image: the box is at first the whole image
    start = { kind = "clipvg" }       refine: at first it is another pipeline's box, which stays where no move is better

An image is encoded once, to a dense map of CLIP, and its proposals are made once. The policy is greedy: no chance is
in the boxes. A query that the pipeline before answered with no box has none here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torchvision.ops import roi_align

from bench.errors import SettingsError
from bench.grounding import Boxes, LoadedScene, PipelineContext, Prediction
from bench.hashing import sha256_file
from bench.settings import Table, takes
from pipelines import weights
from pipelines.canvas import Canvas, covered, letterboxed, normalised, stack_pixels, to_images
from pipelines.card import CardOptions, make_card, parse_options
from pipelines.rl_refine import checkpoint, environment
from pipelines.rl_refine.network import Observation, Policy, last_moves
from pipelines.start import joined_card, open_start
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions
from pipelines.two_stage.proposers.proposals import open_proposer


class ProposalOptions(Table):
    """[pipelines.rl-refine.proposals]."""

    proposer: dict[str, Any] = Field(
        default_factory=dict, description="as of a two-stage pipeline; none = no proposals"
    )


class RLRefineOptions(Table):
    """[pipelines.rl-refine]; `start` is parsed by the pipeline it names."""

    weights: str = Field("rl-refine.safetensors", description="a file of `bench train`, here or in BENCH_HOME/weights")
    start: dict[str, Any] | str = Field("image", description="image, or the pipeline whose boxes are refined")
    clip: ClipOptions = ClipOptions()
    prompt: str = Field("a photo of {}", pattern=r"\{\}")
    proposals: ProposalOptions = ProposalOptions()
    moves: int = Field(0, ge=0, description="most moves of a box; 0 = 12, and 24 from the whole image")
    pairs: int = Field(0, ge=0, description="boxes that are moved at once; 0 = 4096 on a GPU, 512 on a CPU")
    letterbox_threads: int = Field(4, ge=1)
    card: CardOptions = CardOptions()


class SceneFeatures(NamedTuple):
    """What is known of one image, whatever the text; on the host."""

    map: Tensor  # (D, h, w)
    bounds: Tensor  # (4,): left, top, right, bottom of the image in 0..1 of the canvas
    proposals: Tensor  # (K, 4) cxcywh in 0..1 of the canvas; 0 where there are fewer
    vectors: Tensor  # (K, D) unit vectors of the proposals
    scores: Tensor  # (K,)
    known: Tensor  # (K,)


class RLRefinePipeline:
    """Move the boxes of expressions by one policy."""

    def __init__(self, options: RLRefineOptions, context: PipelineContext, training: Policy | None = None) -> None:
        """`training` is a policy in training, used as it is."""
        self.options, self.clock, self.device = options, context.clock, torch.device(context.device)
        where = f"bench.toml [pipelines.{context.name}.proposals.proposer]"
        # 1. What the policy looks at: CLIP's map, proposals, the boxes to begin with.
        self.encoder = ClipEncoder(options.clip, context)
        self.size, self.width = self.encoder.image_size, check_clip(self.encoder)
        table = options.proposals.proposer
        self.proposer = open_proposer(table, where, context) if table else None
        self.start = None if options.start == "image" else open_start(options.start, context)
        self.moves = options.moves or (24 if self.start is None else 12)
        self.chunk = options.pairs or (4096 if self.device.type == "cuda" else 512)
        self.pool = ThreadPoolExecutor(options.letterbox_threads, thread_name_prefix="letterbox")
        # 2. The policy, which computes in float32: one wrong move is five pixels of a hundred.
        digest = {}
        if training is None:
            path = weights.find(options.weights, context, checkpoint.HOW)
            training, digest = checkpoint.open_policy(path, self.encoder.sha256), {"policy": sha256_file(path)}
            training.to(self.device)
        self.policy = training
        if training.config.proposals and self.proposer is None:
            raise SettingsError(
                f"bench.toml [pipelines.{context.name}]: proposals: the policy looks at {training.config.proposals} "
                "proposals of an image; name a proposer"
            )
        # 3. The card.
        parts: dict[str, Any] = {"clip": self.encoder} | ({"proposer": self.proposer} if self.proposer else {})
        names = {part: tuple(one.sha256) for part, one in parts.items()}
        names["clip"] = (options.clip.pretrained,)
        self.card = make_card(
            context,
            options.card,
            summary=f"a policy of at most {self.moves} moves on the map of {options.clip.model} at {self.size} px",
            paper="after Caicedo & Lazebnik, ICCV 2015; Shao et al., DeepSeekMath (GRPO), 2024",
            weights={"policy": options.weights} | {part: ", ".join(files) for part, files in names.items()},
            sha256=digest | {part: ", ".join(one.sha256.values()) for part, one in parts.items()},
            parameters=sum(p.numel() for p in training.parameters()) + sum(one.parameters for one in parts.values()),
            accelerated=self.encoder.accelerated,
            proposals=getattr(self.proposer, "annotated", ""),
            names={"policy": (options.weights,), **names},
        )
        if self.start is not None:
            self.card = joined_card(self.card, self.start.card)

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """List what empties the caches, those of the pipeline before among them."""
        before = dict(getattr(self.start, "caches", {}))

        def forget() -> None:
            self.encoder.forget_texts()
            before.get("texts", lambda: None)()

        return {**before, "texts": forget}

    @torch.inference_mode()
    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Ground every query of every scene -> predictions in order."""
        owned = [(index, query) for index, scene in enumerate(batch) for query in scene.queries]
        if not owned:
            return []
        canvases = self.canvases(batch)
        before = self.before(batch)
        texts = self.texts([query.text for _, query in owned])
        owners = np.array([index for index, _ in owned])
        # 1. Boxes on their canvases; only those that are boxes are moved.
        start = on_canvas(before, canvases, owners)
        real = np.flatnonzero(np.isfinite(start).all(axis=1))
        seen = observe(self.features(batch, canvases), owners[real], texts[torch.from_numpy(real)], start[real])
        # 2. The policy's moves.
        with self.clock.stage("moves"):
            last, steps, stopped = self.play(seen)
        after = to_images(last, canvases, owners[real])
        place = dict(zip(real.tolist(), range(len(real)), strict=True))
        out = []
        for number, ((_, query), old) in enumerate(zip(owned, before, strict=True)):
            row = place.get(number)
            if row is None:
                out.append(Prediction(query.id, None, note=old.note))
                continue
            # 3. A box that was not moved is the one it was, to the last bit.
            box: Any = tuple(after[row].tolist()) if steps[row] or old.box is None else old.box
            note = f"{steps[row]} moves, {'stopped' if stopped[row] else 'out of moves'}"
            note = "; ".join(filter(None, (old.note, self.encoder.cut(self.prompted(query.text)), note)))
            out.append(Prediction(query.id, box, note=note, proposals=old.proposals))
        return out

    def play(self, seen: Observation) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
        """Move boxes greedily -> the last (N, 4) cxcywh in 0..1 of the canvas, moves made, and whose policy stopped."""
        boxes, steps, stopped = [], [], []
        for first in range(0, len(seen), self.chunk):
            part = seen.rows(torch.arange(first, min(first + self.chunk, len(seen)))).to(self.device)
            prepared, pairs = self.policy.prepare(part), torch.arange(len(part), device=self.device)

            def choose(box: Tensor, before: Tensor, prepared: Any = prepared, pairs: Tensor = pairs) -> Tensor:
                time = torch.full((len(box),), len(before) / self.moves, device=box.device)
                scores: Tensor = self.policy(prepared, pairs, box, last_moves(before), time)
                return scores.argmax(dim=1)

            played = environment.roll_out(choose, part.start, part.bounds, self.moves)
            boxes.append(played.last.double().cpu().numpy())
            steps.append(played.steps.cpu().numpy())
            stopped.append((played.alive & (played.moves == environment.STOP)).any(dim=0).cpu().numpy())
        empty = [np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.bool_)]
        return tuple(np.concatenate([none, *parts]) for none, parts in zip(empty, (boxes, steps, stopped), strict=True))  # type: ignore[return-value]

    def prompted(self, text: str) -> str:
        """Return the text that CLIP gets."""
        return self.options.prompt.replace("{}", text.lower())

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts -> (N, D) unit vectors on the host."""
        with self.clock.stage("text encode"):
            return self.encoder.encode_texts([self.prompted(text) for text in texts]).cpu()

    def before(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Predict what is refined, a prediction a query: the whole image, or the box of the pipeline before."""
        if self.start is not None:
            return self.start.ground(batch)
        sizes = [(scene, (0.0, 0.0, float(scene.image.shape[1]), float(scene.image.shape[0]))) for scene in batch]
        return [Prediction(query.id, whole) for scene, whole in sizes for query in scene.queries]

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
            found = self.proposer.propose(batch) if self.proposer else [None] * len(batch)
        count = self.policy.config.proposals
        out = []
        for canvas, own, proposals in zip(canvases, maps, found, strict=True):
            edges = torch.tensor([canvas.left, canvas.top, canvas.right, canvas.bottom]) / self.size
            boxes, scores, known = torch.zeros(count, 4), torch.zeros(count), torch.zeros(count, dtype=torch.bool)
            if proposals is not None and len(proposals):
                rows = on_canvas_boxes(proposals.boxes[:count], canvas)
                boxes[: len(rows)], known[: len(rows)] = torch.from_numpy(rows).float(), True
                scores[: len(rows)] = torch.from_numpy(proposals.scores[:count]).float()
            out.append(SceneFeatures(own, edges, boxes, pooled(own, boxes), scores, known))
        return out

    def _maps(self, canvases: Sequence[Canvas]) -> Tensor:
        """CLIP's patches in the space of texts, (B, D, h, w) float32."""
        raw, edges = (part.to(self.device) for part in stack_pixels(canvases))
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


def on_canvas(
    before: Sequence[Prediction], canvases: Sequence[Canvas], owners: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Convert predictions' boxes -> (N, 4) cxcywh in 0..1 of their canvases, NaN where there is none or no number."""
    rows = [
        np.full(4, np.nan) if one.box is None else canvases[owner].to_canvas(one.box)
        for one, owner in zip(before, owners.tolist(), strict=True)
    ]
    return np.array(rows).reshape(-1, 4)


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


@takes(RLRefineOptions)
def rl_refine(context: PipelineContext) -> RLRefinePipeline:
    """Open the policy. Raises SettingsError, WeightsError."""
    return RLRefinePipeline(parse_options(RLRefineOptions, context), context)
