"""--compile, --channels-last and --dtype: applied to what a pipeline calls, to the same boxes, or refused by name."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_world import HashPipeline, make_settings, make_split
from torch import nn

from bench import registry
from bench.acceleration import Acceleration
from bench.datasets.load import load_split
from bench.errors import UsageError
from bench.evaluation.identity import hash_of
from bench.evaluation.loop import evaluate
from bench.evaluation.opening import Caching, open_pipeline
from bench.grounding import LoadedScene, PipelineContext
from bench.runs.record import read_record
from bench.settings import PROJECT, load_settings

CALLED = {  # on shapes: what is compiled and then called, by class
    "yolo-clip": {"DetectionModel", "VisionTransformer", "Transformer"},
    "ssd-clip": {"Pyramid", "SSDHead", "VisionTransformer", "Transformer"},
    "detr-clip": {"RTDetrV2ForObjectDetection", "VisionTransformer", "Transformer"},
    "mdetr": {"Backbone", "RobertaModel", "Transformer"},
    "clipvg": {"ResidualAttentionBlock", "Transformer", "Encoder"},
    "clip-pooling": {"ResidualAttentionBlock", "Transformer"},
    "rl-refine": {"Pyramid", "SSDHead", "ResidualAttentionBlock", "Transformer", "Encoder"},  # clipvg among them
}


@pytest.fixture(scope="module")
def scenes() -> list[LoadedScene]:
    split = load_split("shapes-val", load_settings()).limited(2)
    return [LoadedScene(s.id, split.images.load(s), tuple(e.query for e in s.expressions)) for s in split.scenes]


def boxes(name: str, scenes: Sequence[LoadedScene], **run: Any) -> np.ndarray[Any, Any]:
    resolved = load_settings(flags={f"run.{key}": value for key, value in {"device": "cpu", **run}.items()})
    pipeline = open_pipeline(name, "shapes", resolved)
    return np.array([prediction.box for prediction in pipeline.ground(scenes)])


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLED)
def test_a_pipeline_compiles_what_it_calls_and_lays_it_out(
    name: str, scenes: list[LoadedScene], monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[nn.Module] = []
    applied = Acceleration.apply
    called: Counter[str] = Counter()

    def remembered(module: nn.Module, **kwargs: Any) -> None:
        assert kwargs == {"dynamic": True}
        module.register_forward_pre_hook(lambda m, _: called.update([type(m).__name__]))

    plain = boxes(name, scenes)
    monkeypatch.setattr(nn.Module, "compile", remembered)
    monkeypatch.setattr(Acceleration, "apply", lambda self, n, *a, **k: networks.append(n) or applied(self, n, *a, **k))
    fast = boxes(name, scenes, compile=True, channels_last=True)
    assert set(called) == CALLED[name]
    kernels = [p for m in networks for p in m.parameters() if p.dim() == 4 and min(p.shape[1:3]) > 1]
    assert kernels and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    assert np.abs(fast - plain).max() < 0.02  # a ten-thousandth of 192 pixels


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_vectors(scenes: list[LoadedScene], monkeypatch: pytest.MonkeyPatch) -> None:
    """A real torch.compile, by its backend that stops at the graph; the sizes of batches are unknowns in it."""
    from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions

    options = ClipOptions(model="tiny-clip", pretrained="pipelines/weights/tiny-clip.safetensors")

    def encoder(acceleration: Acceleration) -> ClipEncoder:
        context = PipelineContext(
            "x", "shapes", {}, PROJECT, PROJECT, "cpu", "float32", 0, True, None, list, None, acceleration
        )  # type: ignore[arg-type]
        return ClipEncoder(options, context)

    compiling = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda m, **kw: compiling(m, backend="eager", **kw))
    graphs: list[int] = []
    plain, fast = encoder(Acceleration()), encoder(Acceleration(compile=True))
    views = torch.rand(7, 3, plain.image_size, plain.image_size)
    for count in (2, 7, 5):
        assert torch.allclose(fast.encode_images(views[:count]), plain.encode_images(views[:count]), atol=1e-5)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] >= 1 and len(set(graphs)) == 1, "another batch was compiled anew"
    torch._dynamo.reset()


@pytest.mark.slow
def test_what_was_not_taken_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("centre-box", "whole-image"):
        for flag, run in (("compile", {"compile": True}), ("channels-last", {"channels_last": True})):
            with pytest.raises(UsageError, match=f"--{flag}: {name} "):
                open_pipeline(name, "shapes", load_settings(flags={f"run.{k}": v for k, v in run.items()}))
    # On a CPU a detector computes in float32 whatever is asked.
    for name in ("centre-box", "largest-proposal", "label-only"):
        with pytest.raises(UsageError, match=f"--dtype bfloat16: {name} does not compute in bfloat16 here"):
            open_pipeline(name, "shapes", load_settings(flags={"run.dtype": "bfloat16", "run.device": "cpu"}))
        open_pipeline(name, "shapes", load_settings(flags={"run.dtype": "float32", "run.device": "cpu"}))
    # Somebody else's pipeline, which knows nothing of any of it.
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: HashPipeline)
    with pytest.raises(UsageError, match="--compile: hash compiles nothing"):
        evaluate("hash", make_split(), make_settings(tmp_path, compile=True))
    assert not (tmp_path / "runs").exists()


def test_stored_runs_keep_their_hash() -> None:
    folders = [path.parent for path in (PROJECT / "results" / "runs").glob("*/shapes-val/*/run.json")]
    ours = [
        record for record in map(read_record, folders) if record.provenance == "run" and not record.identity.compile
    ]
    assert len(ours) >= 5 and all(hash_of(record.identity) == record.settings_hash for record in ours)


@pytest.mark.slow
def test_pipelines_with_caches_say_how_to_empty_them(scenes: list[LoadedScene]) -> None:
    for name in ("reclip", "clipvg", "mdetr", "label-clip"):
        caches = {"texts", "phrases"} if name == "reclip" else {"texts"}
        pipeline = open_pipeline(name, "shapes", load_settings()).pipeline
        assert isinstance(pipeline, Caching) and set(pipeline.caches) == caches
        first = [p.box for p in pipeline.ground(scenes)]
        cache = pipeline.engine._texts if name in ("clipvg", "mdetr") else None  # type: ignore[attr-defined]
        assert cache is None or len(cache) > 0
        for empty in pipeline.caches.values():
            empty()
        assert not cache and [p.box for p in pipeline.ground(scenes)] == first
    assert not getattr(open_pipeline("centre-box", "shapes", load_settings()).pipeline, "caches", {})
