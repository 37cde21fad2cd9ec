"""Full-size networks with random weights, and images of noise with expressions, for the benchmarks.

Speed does not depend on what the weights know. They are made on the spot, in the published formats, so that the loading
code is the real one: YOLO11x, DETR-R50, SSD300-VGG16, CLIP ViT-B/16, MDETR-R101, CLIP-VG B/16 and L/14, TransVG R50
and R101, HiVG B/16, OneRef base.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.evaluation.opening import OpenPipeline, open_pipeline
from bench.grounding import Expression, ImageArray, LoadedScene, Scene
from bench.settings import Resolved

WORDS = ("man", "woman", "dog", "left", "right", "red", "standing", "behind", "the", "car", "on", "table", "of")
EXPRESSIONS, PROPOSALS = 7, 12


class Memory:
    """Images in memory, by scene: nobody decodes them."""

    def __init__(self, images: dict[str, ImageArray]) -> None:
        self.images = images

    def load(self, scene: Scene) -> ImageArray:
        return self.images[scene.id]

    def missing(self, scenes: object) -> list[str]:
        return []


def noise(
    images: int, size: tuple[int, int] = (480, 640), expressions: int = EXPRESSIONS
) -> tuple[list[Scene], Memory]:
    """Make images of noise, and expressions of three to six words, no two alike."""
    rng, height, width = np.random.default_rng(0), *size
    texts: dict[str, None] = {}
    while len(texts) < images * expressions:
        texts[" ".join(rng.choice(WORDS, rng.integers(3, 7)))] = None
    left, box = iter(texts), (10.0, 10.0, width / 2, height / 2)
    scenes = [
        Scene(f"{n}", "", width, height, tuple(Expression(f"{n}-{i}", next(left), box) for i in range(expressions)))
        for n in range(images)
    ]
    return scenes, Memory({scene.id: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for scene in scenes})


def loaded(scenes: list[Scene], images: Memory, expressions: int | None = None) -> list[LoadedScene]:
    """Return what a pipeline gets of scenes, with their first `expressions` or all."""
    return [LoadedScene(s.id, images.load(s), tuple(e.query for e in s.expressions[:expressions])) for s in scenes]


def opened(label: str, folder: Path, resolved: Resolved, small: bool = False, **options: object) -> OpenPipeline:
    """Open the pipeline of a label of PARTS at full size, or as it is for the embedded data.

    Its weights are made in `folder` once. Raises what `open_pipeline` raises.
    """
    name = label.removesuffix("-L14").removesuffix("-R101").removesuffix("-CLIP")
    if small:
        return open_pipeline(name, "shapes", resolved, options)
    folder /= label
    made = folder / "options.json"
    if not made.exists():
        folder.mkdir()
        made.write_text(json.dumps(PARTS[label](folder)))
    return open_pipeline(name, "refcoco", resolved, json.loads(made.read_text()) | options)


def clip_file(folder: Path) -> dict[str, object]:
    from pipelines.two_stage.clip.encoder import empty_model

    path = folder / "ViT-B-16.pt"
    if not path.exists():
        torch.save(empty_model("ViT-B-16").state_dict(), path)
    return {"model": "ViT-B-16", "pretrained": str(path)}


def yolo_clip(folder: Path) -> dict[str, object]:
    from pipelines.two_stage.proposers.yolo import ultralytics

    ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolo11x.yaml", ch=3, nc=80, verbose=False)
    torch.save({"epoch": -1, "model": None, "ema": model.half(), "train_args": {}}, folder / "yolo11x.pt")
    return {"proposer": everything(folder / "yolo11x.pt"), "clip": clip_file(folder)}


def detr_clip(folder: Path) -> dict[str, object]:
    from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig

    config = DetrConfig(use_timm_backbone=False, backbone=None, backbone_config=ResNetConfig(out_features=["stage4"]))
    DetrForObjectDetection(config).save_pretrained(folder / "detr")
    DetrImageProcessor().save_pretrained(folder / "detr")
    return {"proposer": everything(folder / "detr"), "clip": clip_file(folder)}


def ssd_clip(folder: Path) -> dict[str, object]:
    from torchvision.models.detection import ssd300_vgg16

    path = folder / "ssd300_vgg16.pth"
    torch.save(ssd300_vgg16(weights=None, weights_backbone=None).state_dict(), path)
    return {"proposer": everything(path), "clip": clip_file(folder)}


def everything(weights: Path) -> dict[str, object]:
    """A proposer that keeps 11 boxes, whatever they are, and the whole image."""
    return {"weights": str(weights), "confidence": 0.0, "top_k": PROPOSALS - 1}


def mdetr(folder: Path) -> dict[str, object]:
    from pipelines.mdetr.config import MdetrConfig
    from pipelines.mdetr.model import Mdetr
    from pipelines.tokens import small_tokenizer

    state = Mdetr(MdetrConfig()).state_dict()
    torch.save({"model": state, "model_ema": state, "epoch": 0, "args": Namespace()}, folder / "mdetr.pth")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text(small_tokenizer(WORDS, 100))
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | special
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    return {"weights": str(folder / "mdetr.pth"), "tokenizer": str(folder / "tokenizer")}


def clipvg(folder: Path, arch: str = "ViT-B/16") -> dict[str, object]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    import plain_clipvg

    state = plain_clipvg.official_state(plain_clipvg.OFFICIAL[arch])
    return {"weights": str(plain_clipvg.write_official(folder / "clipvg.pth", state))}


def transvg(folder: Path, blocks: tuple[int, ...] = (3, 4, 6, 3)) -> dict[str, object]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    import plain_transvg

    sizes = plain_transvg.Sizes(blocks=blocks)
    path = plain_transvg.write_official(folder / "transvg.pth", plain_transvg.official_state(sizes), sizes)
    vocabulary = plain_transvg.write_vocabulary(folder / "vocabulary", WORDS, 200)
    return {"weights": str(path), "tokenizer": str(vocabulary)}


def dynamic_mdetr(folder: Path, name: str = "Sizes", **changes: object) -> dict[str, object]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    import plain_dynamic_mdetr
    import plain_transvg

    sizes = getattr(plain_dynamic_mdetr, name)(**changes)
    state = plain_dynamic_mdetr.official_state(sizes)
    path = plain_dynamic_mdetr.write_official(folder / "dynamic-mdetr.pth", state, sizes)
    vocabulary = plain_transvg.write_vocabulary(folder / "vocabulary", WORDS, 200)
    return {"weights": str(path), "tokenizer": str(vocabulary)}


def hivg(folder: Path, name: str = "B/16 unc") -> dict[str, object]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    import plain_hivg

    state = plain_hivg.official_state(plain_hivg.OFFICIAL[name])
    return {"weights": str(plain_hivg.write_official(folder / "hivg.pth", state))}


def oneref(folder: Path, name: str = "base REC") -> dict[str, object]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    import plain_oneref

    state = plain_oneref.official_state(plain_oneref.OFFICIAL[name])
    pieces = [(f"▁{word}", -9.0) for word in WORDS] + [(f"▁unused{n}", -20.0) for n in range(63_997 - len(WORDS))]
    tokenizer = plain_oneref.write_spm(folder / "beit3.spm", pieces)
    return {"weights": str(plain_oneref.write_official(folder / "oneref.pth", state)), "tokenizer": str(tokenizer)}


PARTS = {
    "transvg": transvg,
    "transvg-R101": partial(transvg, blocks=(3, 4, 23, 3)),
    "dynamic-mdetr": dynamic_mdetr,
    "dynamic-mdetr-R101": partial(dynamic_mdetr, blocks=(3, 4, 23, 3)),
    "dynamic-mdetr-CLIP": partial(dynamic_mdetr, name="ClipSizes"),
    "clipvg": clipvg,
    "clipvg-L14": partial(clipvg, arch="ViT-L/14"),
    "mdetr": mdetr,
    "hivg": hivg,
    "oneref": oneref,
    "yolo-clip": yolo_clip,
    "detr-clip": detr_clip,
    "ssd-clip": ssd_clip,
}
