"""Count what the full-size models cost: products counted while our own code runs them, for bench/doctor/costs.toml.

    python -m tools.benchmarks.gflops >> counts.jsonl      # minutes on a CPU; nothing is downloaded

Random weights and noise of 640 x 480: products do not depend on what the weights know. Each pipeline gets one
image with one expression and the same image with five; the difference is four expressions, the rest is the image.
A multiplication and its addition are two operations, as in a device's rate. Two-stage: as if there were 12 boxes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench.grounding import LoadedScene
from bench.settings import load_settings
from tools.benchmarks.full_size import cold, counted
from tools.benchmarks.random_weights import PARTS, PROPOSALS, clip_file, loaded, noise, opened, yolo_clip


def main() -> None:
    sys.argv[1:] = sys.argv[1:] or [*PARTS, "seg-clip", "clip-pooling", "largest-proposal", *HUB]
    resolved = load_settings(flags={"run.device": "cpu"})
    scene = loaded(*noise(1))[0]
    PARTS.update(MORE)
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:]:
            if name in HUB:
                HUB[name]()
                continue
            one = opened(name, Path(folder), resolved)
            pipeline = one.pipeline
            for part in vars(pipeline).values():
                if isinstance(part, torch.nn.Module):
                    part.requires_grad_(False)  # the counter's hooks want a graph otherwise
            counts = []
            for queries in (1, 5):
                part = LoadedScene(scene.id, scene.image, scene.queries[:queries])
                counts.append(counted(partial(cold, one, [part])))
            expression = (counts[1] - counts[0]) / 4
            image = counts[0] - expression
            if hasattr(pipeline, "proposer") and hasattr(pipeline, "ranker"):
                number = len(pipeline.proposer.propose([scene])[0])
                detector = counted(partial(pipeline.proposer.propose, [scene]))
                image = detector + (image - detector) * PROPOSALS / number  # noise has hardly any objects
            say(name, image, expression, pipeline.card.parameters)


def say(name: str, image: float, expression: float, parameters: int | None) -> None:
    numbers = {"image": round(image, 1), "expression": round(expression, 2), "parameters": parameters}
    print(json.dumps({"pipeline": name} | numbers), flush=True)


def clip_only(folder: Path) -> dict[str, object]:
    return {"clip": clip_file(folder)}


def yolo_only(folder: Path) -> dict[str, object]:
    return {"proposer": yolo_clip(folder)["proposer"]}


def count(name: str, model: torch.nn.Module, backbone: Callable[[], object], **inputs: torch.Tensor) -> None:
    """Count a model of transformers called once; `backbone` is its work for the image whatever the text."""
    whole, image = counted(partial(model, **inputs)), counted(backbone)
    say(name, image, whole - image, sum(p.numel() for p in model.parameters()))


def grounding_dino() -> None:
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    ids = torch.tensor([[101, 1996, 2417, 2482, 1012, 102]])
    pixels, mask = torch.zeros(1, 3, 800, 1066), torch.ones(1, 800, 1066, dtype=torch.long)
    model = GroundingDinoForObjectDetection(GroundingDinoConfig()).eval().requires_grad_(False)
    backbone = partial(model.model.backbone, pixels, mask)
    count("grounding-dino", model, backbone, pixel_values=pixels, pixel_mask=mask, input_ids=ids)


def owl() -> None:
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2TextConfig, Owlv2VisionConfig

    vision = Owlv2VisionConfig(image_size=960, patch_size=16)
    config = Owlv2Config(text_config=Owlv2TextConfig().to_dict(), vision_config=vision.to_dict())
    ids, pixels = torch.ones(1, 16, dtype=torch.long), torch.zeros(1, 3, 960, 960)
    model = Owlv2ForObjectDetection(config).eval().requires_grad_(False)
    count("owlv2", model, partial(model.image_embedder, pixel_values=pixels), pixel_values=pixels, input_ids=ids)


MORE: dict[str, Callable[[Path], dict[str, object]]] = {
    "seg-clip": clip_only,
    "clip-pooling": clip_only,
    "largest-proposal": yolo_only,
}
HUB: dict[str, Callable[[], None]] = {"grounding-dino": grounding_dino, "owlv2": owl}

if __name__ == "__main__":
    main()
