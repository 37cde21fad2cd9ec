"""What a reader must know of a pipeline's weights: the `card` table that stands beside them in bench.toml."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from bench.grounding import SawTestImages


class CardOptions(BaseModel):
    """[pipelines.*.card]. `saw_test_images`: whether the training pictures hold a data set's val or test pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trained_on: str = ""
    licence: str = ""
    saw_test_images: SawTestImages = "unknown"
