"""YOLO proposals, any detection model of ultralytics (AGPL-3.0, the only file that runs it).

Images are letterboxed as ultralytics does for a single image: the smallest canvas of whole strides around the
image scaled to `image_size`. Images that share a canvas share a forward pass, so an image's boxes never depend on
its neighbours, which the package's own batches do not promise.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.errors import MissingPackage, WeightsError, first_line
from bench.grounding import Boxes, ImageArray, LoadedScene, PipelineContext
from bench.hashing import sha256_file
from bench.install import pip_install
from pipelines import weights
from pipelines.engine import in_groups
from pipelines.two_stage.proposers.proposals import Proposals, Proposer, ProposerOptions, opener

FORMAT = "bench-yolo"
GREY = 114 / 255  # what ultralytics pads with


class YoloOptions(ProposerOptions):
    """[pipelines.*.proposer]. The threshold is low: a ranker needs recall, not precision."""

    weights: str = Field("yolo11x.pt", description="a file, or a name that ultralytics publishes")
    image_size: int = Field(640, ge=32, description="the long side of the detector's input")
    confidence: float = Field(0.1, ge=0, le=1)
    nms_iou: float = Field(0.6, gt=0, le=1, description="class-agnostic")


class YoloProposer(Proposer):
    """Boxes of a YOLO for many images at once."""

    def __init__(self, options: YoloOptions, context: PipelineContext) -> None:
        self.options = options
        self.device = torch.device(context.device)
        path = find(options.weights, context)
        self.sha256 = {path.name: sha256_file(path)}
        model = read_model(path)
        self.names: dict[int, str] = {int(k): v for k, v in dict(model.names).items()}
        self.end2end = bool(getattr(model, "end2end", False))
        self.stride = int(torch.as_tensor(model.stride).max())
        self.parameters = sum(p.numel() for p in model.parameters())
        # Half precision on a GPU only: ultralytics' own default for speed; boxes are decoded in float32 either way.
        self.dtype = torch.float16 if self.device.type == "cuda" and context.dtype != "float32" else torch.float32
        self.model = model.fuse(verbose=False).eval().to(self.device, self.dtype)
        if self.dtype != torch.float32:
            decode_in_float32(self.model.model[-1])
        self.accelerated = context.acceleration.apply(self.model, dtype=self.dtype != torch.float32)
        if context.acceleration.compile:
            head = self.model.model[-1]
            # As a tensor its numbers are known only when the head runs, and the compiler would stop at every layer;
            # and anchors kept for the last shape would have every other shape compiled anew.
            head.stride, head.dynamic = head.stride.tolist(), True

    def propose(self, scenes: Sequence[LoadedScene]) -> list[Proposals]:
        """Return one `Proposals` for each scene's image, RGB uint8 (H, W, 3)."""
        return in_groups(scenes, lambda scene: self._canvas(scene.image), self._detect)

    def prepare(self, image: ImageArray) -> Tensor | None:
        """Letterbox an image -> (3, h, w) in 0..1; None on a GPU."""
        return self._letterboxed([image], self._canvas(image))[0] if self.device.type == "cpu" else None

    def _canvas(self, image: ImageArray) -> tuple[int, int]:
        height, width = _scaled(image.shape, self.options.image_size)
        return tuple(-(-side // self.stride) * self.stride for side in (height, width))  # type: ignore[return-value]

    @torch.inference_mode()
    def _detect(self, scenes: Sequence[LoadedScene]) -> list[Proposals]:
        from ultralytics.utils.nms import non_max_suppression

        images = [scene.image for scene in scenes]
        canvas, prepared = self._canvas(images[0]), [scene.prepared for scene in scenes]
        if any(one is None for one in prepared):  # images of one size are copied and scaled together
            prepared = in_groups(images, lambda image: image.shape, lambda some: self._letterboxed(some, canvas))
        batch = torch.stack(prepared)  # (B, 3, h, w)
        out = self.model(batch.to(self.dtype))
        out = out[0] if isinstance(out, (tuple, list)) else out
        rows = non_max_suppression(
            out.float(),
            self.options.confidence,
            self.options.nms_iou,
            agnostic=True,
            max_det=max(300, self.options.top_k),
            nc=len(self.names),
            max_time_img=60.0,  # a time limit would make the boxes depend on how busy the machine is
            end2end=self.end2end,
        )
        tables = np.split(torch.cat(rows).double().cpu().numpy(), np.cumsum([len(r) for r in rows])[:-1])  # one copy
        return [self._in_pixels(table, image, canvas) for table, image in zip(tables, images, strict=True)]

    def _letterboxed(self, images: Sequence[ImageArray], canvas: tuple[int, int]) -> Tensor:
        """Scale and centre images of one size, RGB uint8 (H, W, 3), on grey -> (B, 3, h, w) in 0..1."""
        size = _scaled(images[0].shape, self.options.image_size)
        tensor = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2).float().contiguous() / 255
        if tuple(tensor.shape[-2:]) != size:
            tensor = F.interpolate(tensor, size, mode="bilinear", align_corners=False, antialias=False)
        top, left = (canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2
        pad = (left, canvas[1] - size[1] - left, top, canvas[0] - size[0] - top)
        return F.pad(tensor, pad, value=GREY)

    def _in_pixels(self, table: Boxes, image: ImageArray, canvas: tuple[int, int]) -> Proposals:
        """Move rows (N, 6), x1, y1, x2, y2, score, class, from the canvas to pixels of the image."""
        shape = image.shape
        height, width = _scaled(shape, self.options.image_size)
        shift = np.array([(canvas[1] - width) // 2, (canvas[0] - height) // 2] * 2)
        scale = np.array([shape[1] / width, shape[0] / height] * 2)
        boxes = (table[:, :4] - shift) * scale
        labels = tuple(self.names.get(int(c), "") for c in table[:, 5])
        return self.options.tidied(Proposals(boxes, table[:, 4], labels), image)


open_yolo = opener(YoloOptions, YoloProposer)


def decode_in_float32(head: Any) -> None:
    """Have a 16-bit Detect head decode its boxes in float32, in place: in float16 they are up to half a pixel off."""
    decode = head._inference
    head.dfl.float()

    def inference(raw: dict[str, Any]) -> Tensor:
        # Of the maps only size and number type count, as those of the anchors.
        maps = [one[:, :1].float() for one in raw["feats"]]
        out: Tensor = decode(raw | {"boxes": raw["boxes"].float(), "scores": raw["scores"].float(), "feats": maps})
        return out

    head._inference = inference


def _scaled(shape: Sequence[int], long_side: int) -> tuple[int, int]:
    """Compute height and width with the long side at `long_side`."""
    ratio = long_side / max(shape[0], shape[1])
    return max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio))


def find(name: str, context: PipelineContext) -> Path:
    """Return the file of detection weights, fetched by name if need be. Raises WeightsError."""
    return weights.find(name, context, "name a file of `bench train` or of ultralytics, or a name that it publishes")


def ultralytics() -> Any:
    """Import the package, quiet and without installing others. Raises MissingPackage."""
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("YOLO_VERBOSE", "false")
    try:
        import ultralytics as package
    except ImportError as error:
        raise MissingPackage(
            f"YOLO proposals need the package ultralytics (AGPL-3.0), which cannot be imported ({error}): "
            f"{pip_install('yolo')}"
        ) from None
    from PIL import Image
    from ultralytics.utils import patches

    # It replaces Pillow's open for the whole process by one that installs a package where a file is no image.
    Image.open = getattr(patches, "_image_open", Image.open)
    return package


def read_model(path: Path) -> Any:
    """Read a detection model: our .safetensors, its plan in the metadata, or ultralytics' .pt. Raises WeightsError.

    Of a .pt only known model classes are rebuilt, and nothing is executed.
    """
    ultralytics()
    from ultralytics.nn.tasks import DetectionModel, torch_safe_load

    if path.suffix == ".safetensors":
        state, metadata = weights.read_safetensors(path)
        if metadata.get("format") != FORMAT:
            raise WeightsError(f"{path}: not a detector of `bench train` (its metadata has no format {FORMAT!r})")
        model = DetectionModel(metadata["plan"], ch=3, nc=len(metadata["names"]), verbose=False)
        weights.load_strictly(model, state, str(path))
        model.names = dict(enumerate(metadata["names"]))
        return model
    try:
        checkpoint, _ = torch_safe_load(str(path), safe_only=True)
        model = checkpoint.get("ema") or checkpoint["model"]
    except Exception as error:  # anything a broken or hostile file can provoke
        raise WeightsError(
            f"{path}: not an ultralytics detection checkpoint that can be read safely ({first_line(error)})"
        ) from None
    if not isinstance(model, nn.Module) or not isinstance(model, DetectionModel):
        raise WeightsError(f"{path}: holds a {type(model).__name__}, not a detection model")
    return model.float()
