"""A CLIP of open_clip in training: regions and texts to unit vectors, and its weights to a file."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.grounding import Boxes, ImageArray, PipelineContext
from bench.training.feature_cache import TextFeatureCache
from bench.training.task import ParameterGroup
from pipelines import weights
from pipelines.two_stage.clip.as_published import has_quick_gelu
from pipelines.two_stage.clip.encoder import (
    ClipOptions,
    Preprocessing,
    encode_causally,
    is_causal,
    open_clip,
    open_model,
    open_tokenizer,
    token_ids,
)
from pipelines.two_stage.clip.pooling import PoolingOptions, RegionPooling
from pipelines.two_stage.clip.ranking import RankerOptions
from pipelines.two_stage.clip.views import make_views
from pipelines.two_stage.tuning.lora import merged_state
from pipelines.two_stage.tuning.parameters import Unprojected, parameter_groups, projected
from pipelines.two_stage.tuning.recipe import ClipTraining

SIGLIP_SCALE, SIGLIP_BIAS = 10.0, -10.0  # where a model without a bias begins (SigLIP, section 3)


class Towers:
    """A CLIP with what a recipe trains of it. With train = projection the towers are frozen, and encode features."""

    def __init__(self, config: ClipTraining, ranker: RankerOptions, context: PipelineContext, seed: int) -> None:
        """Open the CLIP in float32. Raises SettingsError, WeightsError, UnknownName."""
        self.config, self.ranker, self.device = config, ranker, torch.device(context.device)
        self.context = replace(context, dtype="float32")
        torch.manual_seed(seed)
        self.model, self.sha256 = self.open(config.start_from)
        self.tokenizer = open_tokenizer(config.model, context)
        self.causal, self.preprocessing = is_causal(self.model, self.tokenizer), Preprocessing(self.model)
        self.pooling = None
        if "roi" in ranker.views:
            self.pooling = RegionPooling(self.model, config.model, PoolingOptions(fine=1))
        # Hidden in a list, so that nobody takes it for a part of what is trained.
        self.first = [copy.deepcopy(self.model).requires_grad_(False).eval()] if config.keep else []
        self.bias: Tensor | None = getattr(self.model, "logit_bias", None)
        self.groups = parameter_groups(self.model, config)
        if config.loss == "siglip" and self.bias is None:
            self.bias = torch.nn.Parameter(torch.tensor(SIGLIP_BIAS, device=self.device))
            with torch.no_grad():
                self.model.logit_scale.fill_(math.log(SIGLIP_SCALE))
            self.groups.append(ParameterGroup({"logit_bias": self.bias}, weight_decay=0.0))

    def open(self, pretrained: str) -> tuple[Any, Mapping[str, str]]:
        """Open weights of the same model on the device, with their hash."""
        model, sha256 = open_model(ClipOptions(model=self.config.model, pretrained=pretrained), self.context)
        return model.to(self.device), sha256

    @property
    def projects(self) -> bool:
        """Tell whether features are computed once, and only projected in training."""
        return self.config.train == "projection"

    @torch.no_grad()
    def limit_scale(self) -> Tensor:
        """Clamp the logits' scale to the recipe's largest; return it."""
        self.model.logit_scale.clamp_(0, math.log(self.config.largest_scale))
        scale: Tensor = self.model.logit_scale
        return scale

    def regions(self, images: Sequence[ImageArray], boxes: Sequence[Boxes]) -> list[Tensor]:
        """Encode the boxes (K, 4) xyxy pixels of images by every view of the ranker -> (V, K, D) of each image."""
        ranker, views = self.ranker, list[Tensor]()
        if ranker.drawn:
            shape = (self.preprocessing.size, ranker.margin, self.device, ranker.resize, None, ranker.tint)
            drawn = make_views(images, boxes, ranker.drawn, *shape)  # (V, sum of K, 3, S, S)
            views = list(self.encode_images(drawn.flatten(0, 1)).unflatten(0, drawn.shape[:2]))
        if self.pooling is not None:
            views.append(self.pooling.encode_boxes(images, boxes, ranker.margin, ranker.resize))
        return list(torch.stack(views).split([len(own) for own in boxes], dim=1))

    def encode_images(self, views: Tensor, model: Any = None) -> Tensor:
        """Encode views (N, 3, S, S) in 0..1 -> (N, D) unit vectors, or features where only these are projected."""
        pixels = self.preprocessing.normalised(views)
        out: Tensor = (model or self.model).encode_image(pixels, normalize=not self.projects)
        return out

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Tokenise texts in lower case with the ranker's prompt -> (N, L)."""
        prompted = [self.ranker.prompt.replace("{}", text.lower()) for text in texts]
        ids: Tensor = token_ids(self.tokenizer, prompted) if self.causal else self.tokenizer(prompted)
        return ids

    def encode_texts(self, ids: Tensor, model: Any = None) -> Tensor:
        """Encode token ids (N, L) -> (N, D) unit vectors."""
        if self.causal:
            ends = ids.argmax(dim=1) + torch.arange(len(ids), device=ids.device) * ids.shape[1]
            return encode_causally(model or self.model, ids, ends)
        out: Tensor = (model or self.model).encode_text(ids, normalize=True)
        return out

    def text_features(self, texts: Sequence[str]) -> TextFeatureCache:
        """Make the cache of the text tower's features before the projection."""

        def encode(some: list[str]) -> list[tuple[Tensor, ...]]:
            ids = self.tokenizer([self.ranker.prompt.replace("{}", text.lower()) for text in some])
            with Unprojected(self.model):
                return [(row,) for row in self.model.encode_text(ids.to(self.device)).float()]

        return TextFeatureCache(texts, encode)

    @torch.no_grad()
    def image_features(self, image: ImageArray, boxes: Boxes) -> Tensor:
        """Compute an image's features before the projection -> (V, K, W)."""
        with Unprojected(self.model):
            return self.regions([image], [boxes])[0].float()

    def project(self, features: Tensor, image: bool) -> Tensor:
        """Project features (..., W) -> (..., D) unit vectors."""
        return projected(features, self.model, image)

    def moved(self, images: Sequence[ImageArray], ids: Tensor, texts: Tensor) -> Tensor:
        """Compute how far texts (N, D) and whole images are from the first weights' vectors, 1 - cosine each."""
        whole = [np.array([[0.0, 0.0, *image.shape[1::-1]]]) for image in images]
        views = make_views(images, whole, ["crop"], self.preprocessing.size, 0.0, self.device)[0]
        now = self.encode_images(views)
        with torch.no_grad():
            before, first = self.encode_images(views, self.first[0]), self.encode_texts(ids, self.first[0])
        return (1 - F.cosine_similarity(texts, first)).mean() + (1 - F.cosine_similarity(now, before)).mean()

    @property
    def made(self) -> dict[str, Any]:
        """Return what open_clip's table of the model does not say of these weights: a tag may have it otherwise."""
        looks = open_clip.get_model_preprocess_cfg(self.model)
        preprocess = {key: [float(value) for value in looks[key]] for key in ("mean", "std")}
        return {"quick_gelu": has_quick_gelu(self.model), "preprocess": preprocess}

    def save(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the weights in float16, adapters merged."""
        self.limit_scale()
        weights.write_safetensors(path, merged_state(self.model), metadata)
