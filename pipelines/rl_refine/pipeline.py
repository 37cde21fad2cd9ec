"""RL box regression as a pipeline: a policy moves each expression's box until it stops.

    start = "image"                   from_image: the box is at first the whole image
    start = { kind = "clipvg" }       refine: at first it is another pipeline's box, which stays where no move is better

An image is encoded once, to a dense map of CLIP, and its proposals are made once. The policy is greedy: no chance is
in the boxes. A query that the pipeline before answered with no box has none here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bench.errors import SettingsError
from bench.grounding import LoadedScene, PipelineContext, Prediction
from bench.settings import Table, takes
from pipelines.canvas import to_images
from pipelines.card import CardOptions, make_card, parse_options
from pipelines.rl_refine import checkpoint, environment
from pipelines.rl_refine.network import Observation, Policy, last_moves
from pipelines.rl_refine.observing import Observer, observe
from pipelines.start import joined_caches, joined_card, on_canvas, open_start
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions
from pipelines.two_stage.proposers.proposals import open_proposer

NewPolicy = Callable[[ClipEncoder], Policy]


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


class RLRefinePipeline:
    """Move the boxes of expressions by one policy."""

    def __init__(self, options: RLRefineOptions, context: PipelineContext, training: NewPolicy | None = None) -> None:
        """`training` makes a policy in training, used as it is, for the CLIP that is opened."""
        self.options, self.clock, self.device = options, context.clock, torch.device(context.device)
        where = f"bench.toml [pipelines.{context.name}.proposals.proposer]"
        # 1. What the policy looks at: CLIP's map and proposals; and the boxes to begin with.
        encoder, table = ClipEncoder(options.clip, context), options.proposals.proposer
        proposer = open_proposer(table, where, context) if table else None
        self.start = None if options.start == "image" else open_start(options.start, context)
        self.moves = options.moves or (24 if self.start is None else 12)
        self.chunk = options.pairs or (4096 if self.device.type == "cuda" else 512)
        # 2. The policy, which computes in float32: one wrong move is five pixels of a hundred.
        digest = {}
        if training is None:
            policy, digest["policy"] = checkpoint.open_policy(options.weights, encoder.sha256, context)
        else:
            policy = training(encoder)
        self.policy, count = policy.to(self.device), policy.config.proposals
        self.observer = Observer(encoder, options.prompt, proposer, count, options.letterbox_threads, context.clock)
        if count and proposer is None:
            raise SettingsError(
                f"bench.toml [pipelines.{context.name}]: proposals: the policy looks at {count} proposals of an "
                "image; name a proposer"
            )
        # 3. The card.
        parts: dict[str, Any] = {"clip": encoder} | ({"proposer": proposer} if proposer else {})
        names = {part: tuple(one.sha256) for part, one in parts.items()}
        names["clip"] = (options.clip.pretrained,)
        self.card = make_card(
            context,
            options.card,
            summary=f"a policy of {self.moves} moves at most, on {options.clip.model} at {encoder.image_size} px",
            paper="after Caicedo & Lazebnik, ICCV 2015; Shao et al., DeepSeekMath (GRPO), 2024",
            weights={"policy": options.weights} | {part: ", ".join(files) for part, files in names.items()},
            sha256=digest | {part: ", ".join(one.sha256.values()) for part, one in parts.items()},
            parameters=sum(p.numel() for p in policy.parameters()) + sum(one.parameters for one in parts.values()),
            accelerated=self.observer.accelerate(context),
            proposals=getattr(proposer, "annotated", ""),
            names={"policy": (options.weights,), **names},
        )
        if self.start is not None:
            self.card = joined_card(self.card, self.start.card)

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """List what empties the caches, those of the pipeline before among them."""
        return joined_caches({"texts": self.observer.encoder.forget_texts}, self.start)

    @torch.inference_mode()
    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Ground every query of every scene -> predictions in order."""
        owned = [(index, query) for index, scene in enumerate(batch) for query in scene.queries]
        if not owned:
            return []
        canvases = self.observer.canvases(batch)
        before = self.before(batch)
        texts = self.observer.texts([query.text for _, query in owned])
        owners = np.array([index for index, _ in owned])
        # 1. Boxes on their canvases; only those that are boxes are moved.
        start = on_canvas(before, canvases, owners.tolist())
        real = np.flatnonzero(np.isfinite(start).all(axis=1))
        features = self.observer.features(batch, canvases)
        observation = observe(features, owners[real], texts[torch.from_numpy(real)], start[real])
        # 2. The policy's moves.
        with self.clock.stage("moves"):
            last, steps, stopped = self.play(observation)
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
            note = "" if stopped[row] else "out of moves"
            note = "; ".join(filter(None, (old.note, self.observer.cut(query.text), note)))
            out.append(Prediction(query.id, box, note=note, proposals=old.proposals))
        return out

    def play(self, observation: Observation) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
        """Move boxes greedily -> the last (N, 4) cxcywh in 0..1 of the canvas, moves made, and whose policy stopped."""
        boxes, steps, stopped = [], [], []
        for first in range(0, len(observation), self.chunk):
            part = observation.rows(torch.arange(first, min(first + self.chunk, len(observation)))).to(self.device)
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

    def before(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Predict what is refined, a prediction a query: the whole image, or the box of the pipeline before."""
        if self.start is not None:
            return self.start.ground(batch)
        sizes = [(scene, (0.0, 0.0, float(scene.image.shape[1]), float(scene.image.shape[0]))) for scene in batch]
        return [Prediction(query.id, whole) for scene, whole in sizes for query in scene.queries]


@takes(RLRefineOptions)
def rl_refine(context: PipelineContext) -> RLRefinePipeline:
    """Open the policy. Raises SettingsError, WeightsError."""
    return RLRefinePipeline(options_of(context), context)


def options_of(context: PipelineContext) -> RLRefineOptions:
    """Parse the pipeline's table. Raises SettingsError."""
    return parse_options(RLRefineOptions, context)
