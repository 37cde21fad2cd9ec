"""One evaluation for visual grounding: an image and a referring expression in, one box out.

    from bench import evaluate, load_pipeline, load_split

    split = load_split("shapes-val", limit=20)
    pipeline = load_pipeline("yolo-clip", on=split)
    print(evaluate(pipeline, split))

The names in `__all__` are the ones that stay (docs/library.md). They are fetched at their first use, so that
`import bench` itself loads nothing, torch least of all.
"""

from typing import TYPE_CHECKING

__all__ = [
    "BenchError",
    "Evaluation",
    "Expression",
    "LoadedScene",
    "OpenPipeline",
    "Pipeline",
    "PipelineCard",
    "Prediction",
    "Query",
    "Scene",
    "Split",
    "evaluate",
    "load_pipeline",
    "load_split",
    "predict",
]

if TYPE_CHECKING:
    from bench.api import Evaluation, OpenPipeline, evaluate, load_pipeline, load_split, predict
    from bench.datasets.split import Split
    from bench.errors import BenchError
    from bench.grounding import Expression, LoadedScene, Pipeline, PipelineCard, Prediction, Query, Scene
else:
    _HOMES = {
        "bench.api": ("Evaluation", "OpenPipeline", "evaluate", "load_pipeline", "load_split", "predict"),
        "bench.datasets.split": ("Split",),
        "bench.errors": ("BenchError",),
        "bench.grounding": ("Expression", "LoadedScene", "Pipeline", "PipelineCard", "Prediction", "Query", "Scene"),
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module

        for home, names in _HOMES.items():
            if name in names:
                globals()[name] = getattr(import_module(home), name)
                return globals()[name]
        raise AttributeError(f"module 'bench' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
