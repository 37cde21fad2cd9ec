"""label-clip: the proposal whose class name is nearest to the expression, both as CLIP's text tower sees them.

A baseline beside label-only: it knows the words of a detector's classes and what they mean ("puppy" is near "dog"), but
never looks at an image, so whatever it scores is what names alone are worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from bench.grounding import LoadedScene, PipelineContext, Prediction
from bench.settings import Table, parse_table, takes
from pipelines.card import CardOptions, make_parts_card
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions
from pipelines.two_stage.proposers.proposals import Proposer, open_proposer


class LabelClipOptions(Table):
    """[pipelines.label-clip]."""

    proposer: dict[str, Any] = Field(default_factory=dict)
    clip: ClipOptions = ClipOptions()
    prompt: str = Field("a photo of {}", pattern=r"\{\}", description="of class names and expressions alike")
    card: CardOptions = CardOptions()


class LabelClip:
    """Among the boxes of the nearest class, the most confident one; without any box, a counted miss."""

    def __init__(
        self, proposer: Proposer, encoder: ClipEncoder, options: LabelClipOptions, context: PipelineContext
    ) -> None:
        self._proposer, self._encoder, self._prompt, self._clock = proposer, encoder, options.prompt, context.clock
        summary = f"the proposal whose class name is nearest to the expression by {options.clip.model}'s text tower"
        paper, parts = "Radford et al., CLIP, ICML 2021", {"proposer": proposer}
        self.card = make_parts_card(context, options.card, summary, paper, parts, [encoder], proposer.annotated)

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """The vectors of texts and class names."""
        return {"texts": self._encoder.forget_texts}

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """One prediction for every query of every scene, in order."""
        with self._clock.stage("detect"):
            proposals = self._proposer.propose(batch)
        with self._clock.stage("text encode"):
            asked = [self._prompted(query.text) for scene in batch for query in scene.queries]
            named = [self._prompted(label) for found in proposals for label in found.labels]
            vectors = self._encoder.encode_texts(asked + named)
            texts = vectors[: len(asked)].split([len(scene.queries) for scene in batch])
            labels = vectors[len(asked) :].split([len(found) for found in proposals])
        with self._clock.stage("rank"):
            answers = []
            for scene, found, text, label in zip(batch, proposals, texts, labels, strict=True):
                # Rounded: boxes of one class are equally near, and the first of them is the most confident.
                near = (text @ label.T).double().cpu().numpy().round(6)  # (Q, R)
                for query, row in zip(scene.queries, near, strict=True):
                    best = int(row.argmax()) if len(found) else None
                    box = None if best is None else tuple(found.boxes[best].tolist())
                    score = None if best is None else float(found.scores[best])
                    answers.append(Prediction(query.id, box, score, found.boxes, found.note))
        return answers

    def _prompted(self, text: str) -> str:
        return self._prompt.replace("{}", text.lower())


@takes(LabelClipOptions)
def label_clip(context: PipelineContext) -> LabelClip:
    """label-clip, over any proposer that names what it finds."""
    where = f"bench.toml [pipelines.{context.name}]"
    options = parse_table(LabelClipOptions, context.options, where)
    table = {"whole_image": False} | options.proposer  # it has no name
    proposer = open_proposer(table, f"{where}.proposer", context)
    return LabelClip(proposer, ClipEncoder(options.clip, context), options, context)
