"""label-clip: the proposal whose class name is nearest to the expression, by CLIP's text tower.

A baseline beside label-only: it has the words of a detector's classes and their meaning ("puppy" is near "dog"), but
no image, so its score is what names alone are worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from bench.grounding import LoadedScene, PipelineContext, Prediction
from bench.settings import Table, takes
from pipelines.card import CardOptions, make_parts_card, parse_options
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions
from pipelines.two_stage.proposers.proposals import Proposals, predictions
from pipelines.zoo.baselines import Baseline, open_named


class LabelClipOptions(Table):
    """[pipelines.label-clip]."""

    proposer: dict[str, Any] = Field(default_factory=dict)
    clip: ClipOptions = ClipOptions()
    prompt: str = Field("a photo of {}", pattern=r"\{\}", description="of class names and expressions alike")
    card: CardOptions = CardOptions()


@takes(LabelClipOptions)
def label_clip(context: PipelineContext) -> Baseline:
    """Open label-clip, over any proposer that names its classes.

    Among the boxes of the nearest class the most confident one is the answer; without any box, a counted miss.
    """
    options = parse_options(LabelClipOptions, context)
    proposer, encoder = open_named(options.proposer, context), ClipEncoder(options.clip, context)
    summary = f"the proposal whose class name is nearest to the expression by {options.clip.model}'s text tower"
    paper, parts = "Radford et al., CLIP, ICML 2021", {"proposer": proposer}
    card = make_parts_card(context, options.card, summary, paper, parts, [encoder], proposer.annotated)

    def prompted(text: str) -> str:
        return options.prompt.replace("{}", text.lower())

    def predict(batch: Sequence[LoadedScene], proposals: Sequence[Proposals]) -> list[Prediction]:
        # 1. Every different text of the batch once.
        with context.clock.stage("text encode"):
            expressions = [prompted(query.text) for scene in batch for query in scene.queries]
            names = [*dict.fromkeys(label for each in proposals for label in each.labels)]
            vectors = encoder.encode_texts(expressions + [prompted(name) for name in names])
            texts = vectors[: len(expressions)].split([len(scene.queries) for scene in batch])
            column = {name: at for at, name in enumerate(names)}
        # 2. One cosine a class: its boxes are equally near to the bit, and the first of them is the most confident.
        answers = []
        with context.clock.stage("rank"):
            for scene, mine, text in zip(batch, proposals, texts, strict=True):
                near = (
                    (text @ vectors[len(expressions) :].T)
                    .double()
                    .cpu()
                    .numpy()[:, [column[label] for label in mine.labels]]
                )
                best = near.argmax(axis=1) if len(mine) else None
                answers += predictions(scene, mine, best, None if best is None else mine.scores[best])
        return answers

    return Baseline(card, predict, proposer, context, {"texts": encoder.forget_texts})
