"""Measure full-size architectures on a RefCOCO-shaped load, with random weights, on a GPU or a CPU.

    python -m tools.benchmarks.full_size [--pipelines yolo-clip,detr-clip,ssd-clip,mdetr,clipvg] [--device cuda]

Speed does not depend on what the weights know. They are made on the spot, in the published formats, so that the loading
code is the real one: YOLO11x, DETR-R50, SSD300-VGG16, CLIP ViT-B/16, MDETR-R101, CLIP-VG B/16. The load is noise of
640 x 480 with 7 expressions and 12 proposals an image. For each pipeline: images/s and expressions/s, the share of
each stage, peak memory, the share it reaches of the device's own rate of matrix products (measured here, in the run's
precision), ms for one expression alone, and how many times faster it is than the same models called so, in turns on one
process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from bench.evaluation.opening import open_pipeline
from bench.grounding import LoadedScene, Query
from bench.memory import device_memory_mb, peak_memory_mb
from bench.settings import load_settings

WORDS = ("man", "woman", "dog", "left", "right", "red", "standing", "behind", "the", "car", "on", "table", "of")
EXPRESSIONS, PROPOSALS = 7, 12


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pipelines", default="yolo-clip,detr-clip,ssd-clip,mdetr,clipvg")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    resolved = load_settings(flags={"run.device": options.device})
    torch.manual_seed(0)
    scenes = load(options.images)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.pipelines.split(","):
            options = PARTS[name](Path(folder))
            opened = open_pipeline(name, "refcoco", resolved, options)
            print(json.dumps({"pipeline": name} | measure(opened.pipeline, opened.clock, scenes, options)), flush=True)


def load(images: int) -> list[LoadedScene]:
    """Noise, and expressions of three to six words, no two alike about one image."""
    rng = np.random.default_rng(0)
    out = []
    for i in range(images):
        image = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
        texts = [" ".join(rng.choice(WORDS, rng.integers(3, 7))) for _ in range(EXPRESSIONS)]
        out.append(LoadedScene(str(i), image, tuple(Query(f"{i}-{j}", text) for j, text in enumerate(texts))))
    return out


def measure(pipeline, clock, scenes, options):  # type: ignore[no-untyped-def]
    """Batches of scenes against one expression at a time, taking turns."""
    batches = [scenes[i : i + options.batch] for i in range(0, len(scenes), options.batch)]
    caches = [*getattr(pipeline, "caches", {}).values()]

    def together() -> float:
        for empty in caches:
            empty()
        began = now()
        for batch in batches:
            pipeline.ground(batch)
        return now() - began

    def one_at_a_time(some: list[LoadedScene]) -> float:
        began = now()
        for scene in some:
            for query in scene.queries:
                for empty in caches:
                    empty()
                pipeline.ground([LoadedScene(scene.id, scene.image, (query,))])
        return now() - began

    few = scenes[: max(1, len(scenes) // 8)]
    together(), one_at_a_time(few[:1])  # warm-up: kernels are chosen, memory is taken
    clock.take()
    fast, slow, stages = [], [], {}
    for _ in range(options.repeats):
        fast.append(together() / len(scenes))
        stages = clock.take()
        slow.append(one_at_a_time(few) / len(few))
        clock.take()
    images = 1 / statistics.median(fast)
    whole = sum(stages.values()) or 1.0
    proposals = pipeline.ground(scenes[:1])[0].proposals
    return {
        "images_per_s": round(images, 2),
        "expressions_per_s": round(images * EXPRESSIONS, 2),
        "matmul_share_percent": matmul_share(pipeline, batches[0], images / len(batches[0])),
        "one_at_a_time_ms": round(1000 * statistics.median(slow) / EXPRESSIONS, 2),
        "one_at_a_time_ratio": round(statistics.median(s / f for s, f in zip(slow, fast, strict=True)), 2),
        "stages_percent": {stage: round(100 * seconds / whole, 1) for stage, seconds in stages.items()},
        "proposals": None if proposals is None else len(proposals),
        "device_memory_mb": device_memory_mb(str(pipeline_device(pipeline))),
        "process_memory_mb": peak_memory_mb(),
        "parameters": pipeline.card.parameters,
    }


def matmul_share(pipeline, batch, per_second):  # type: ignore[no-untyped-def]
    """Products that a batch takes, times batches a second, as a share of what the device can do of nothing else."""
    from torch.utils.flop_counter import FlopCounterMode

    device = torch.device(str(pipeline_device(pipeline)))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    for empty in getattr(pipeline, "caches", {}).values():
        empty()
    with FlopCounterMode(display=False) as counted:
        pipeline.ground(batch)
    side, times = (8192, 20) if device.type == "cuda" else (1024, 5)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    began = now()
    for _ in range(times):
        a @ b
    rate = times * 2 * side**3 / (now() - began)
    return round(100 * counted.get_total_flops() * per_second / rate, 1)


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def pipeline_device(pipeline: object) -> object:
    """Return the device of a pipeline's engine; of a two-stage pipeline that of its CLIP."""
    engines = [pipeline, *getattr(getattr(pipeline, "ranker", None), "encoders", ())]
    return next((engine.engine.device for engine in engines if hasattr(engine, "engine")), "cpu")


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
    from pipelines.mdetr.inputs import small_tokenizer
    from pipelines.mdetr.model import Mdetr

    state = Mdetr(MdetrConfig()).state_dict()
    torch.save({"model": state, "model_ema": state, "epoch": 0, "args": Namespace()}, folder / "mdetr.pth")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text(small_tokenizer(WORDS, 100))
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | special
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    return {"weights": str(folder / "mdetr.pth"), "tokenizer": str(folder / "tokenizer")}


def clipvg(folder: Path) -> dict[str, object]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    import plain_clipvg

    state = plain_clipvg.official_state(plain_clipvg.OFFICIAL["ViT-B/16"])
    return {"weights": str(plain_clipvg.write_official(folder / "clipvg.pth", state))}


PARTS = {"yolo-clip": yolo_clip, "detr-clip": detr_clip, "ssd-clip": ssd_clip, "mdetr": mdetr, "clipvg": clipvg}

if __name__ == "__main__":
    main()
