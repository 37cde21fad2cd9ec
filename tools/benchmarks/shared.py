"""What several benchmarks share: RefCOCO's commonest sizes, a pipeline's context, and waiting for a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.clock import Clock
from bench.grounding import PipelineContext

SIZES = ((640, 480), (480, 640), (640, 427), (500, 375))


def make_context(folder: Path, device: str, dtype: str = "float32", **options: Any) -> PipelineContext:
    """Make what CLIP-VG's factory is given for RefCOCO."""
    return PipelineContext(
        name="clipvg",
        dataset="refcoco",
        options=options,
        folder=folder,
        home=folder,
        device=device,
        dtype=dtype,
        seed=0,
        offline=True,
        clock=Clock(),
        train_scenes=list,
    )


def synchronise(device: torch.device | str) -> None:
    """Wait for a GPU's work; a CPU's is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
