"""One batch asked of a pipeline: checked answers out, and half the batch where the device's memory is too small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.errors import BenchError, DeviceError
from bench.evaluation.decode import Decoded
from bench.grounding import LoadedScene, Pipeline, Prediction
from bench.memory import free, out_of_memory
from bench.runs.predictions import SceneAnswers, from_predictions


class Asker:
    """Asks a pipeline. `size` scenes make a batch; running out of memory halves it for good and leaves a note."""

    def __init__(self, pipeline: Pipeline, name: str, size: int) -> None:
        self.pipeline, self.name, self.size = pipeline, name, size
        self._notes: list[str] = []

    def rows(self, batch: Sequence[Decoded]) -> list[SceneAnswers]:
        """One row a scene, in order. Raises BenchError, naming the pipeline, for answers that do not fit the queries.

        DeviceError when the memory is too small for a single scene.
        """
        loaded = [_loaded(d) for d in batch if d.picture is not None]
        answers = iter(self._ask([scene for scene in loaded if scene.queries]))
        rows = []
        for decoded in batch:
            if decoded.picture is None:
                rows.append(SceneAnswers(decoded.scene.id, (), error=decoded.error))
            elif not decoded.scene.expressions:
                rows.append(SceneAnswers(decoded.scene.id, ()))
            else:
                rows.append(replace(next(answers), size=_unannotated_size(decoded)))
        return rows

    def take_note(self) -> str:
        """What is to be said about the batches since the last call; empty when nothing is."""
        notes, self._notes = "; ".join(self._notes), []
        return notes

    def _ask(self, scenes: Sequence[LoadedScene]) -> list[SceneAnswers]:
        if not scenes:
            return []
        failure = ""
        try:
            return self._checked(scenes, list(self.pipeline.ground(scenes)))
        except BenchError:
            raise
        except Exception as error:
            if not out_of_memory(error):
                where = ", ".join(scene.id for scene in scenes[:3]) + (", ..." if len(scenes) > 3 else "")
                raise BenchError(
                    f"pipeline {self.name!r} failed on the scenes {where}: {type(error).__name__}: {error}"
                ) from error
            failure = str(error).partition("\n")[0]
        # Outside the except: while the exception lives, its frames hold on to the tensors that must be freed.
        if len(scenes) == 1:
            raise DeviceError(
                f"pipeline {self.name!r} runs out of memory on the single scene {scenes[0].id} ({failure}); "
                "use --dtype float16 or bfloat16, a smaller model, or --device cpu"
            )
        free()
        half = (len(scenes) + 1) // 2
        self.size = min(self.size, half)
        self._notes.append(f"out of memory with {len(scenes)} scenes in a batch: went on with {half}")
        return self._ask(scenes[:half]) + self._ask(scenes[half:])

    def _checked(self, scenes: Sequence[LoadedScene], given: Sequence[object]) -> list[SceneAnswers]:
        asked = [query.id for scene in scenes for query in scene.queries]
        if len(given) != len(asked):
            raise BenchError(f"pipeline {self.name!r} gave {len(given)} answers to {len(asked)} queries")
        predictions: list[Prediction] = []
        for want, prediction in zip(asked, given, strict=True):
            if not isinstance(prediction, Prediction):
                kind = type(prediction).__name__
                raise BenchError(f"pipeline {self.name!r} answered query {want!r} with {kind}, not with a Prediction")
            if prediction.id != want:
                raise BenchError(
                    f"pipeline {self.name!r} answered {prediction.id!r} where {want!r} was asked; "
                    "answers go in the order of the queries"
                )
            predictions.append(prediction)
        rows, start = [], 0
        for scene in scenes:
            end = start + len(scene.queries)
            try:
                rows.append(from_predictions(scene.id, predictions[start:end]))
            except (TypeError, ValueError, AttributeError) as error:
                raise BenchError(
                    f"pipeline {self.name!r}, scene {scene.id}: an answer that is not a box of 4 numbers, xyxy pixels, "
                    f"with proposals (N, 4): {error}"
                ) from error
            start = end
        return rows


def _loaded(decoded: Decoded) -> LoadedScene:
    """What the pipeline may see of a scene: never the annotated boxes."""
    assert decoded.picture is not None
    queries = tuple(e.query for e in decoded.scene.expressions)
    return LoadedScene(decoded.scene.id, decoded.picture, queries)


def _unannotated_size(decoded: Decoded) -> tuple[int, int] | None:
    """Width and height of the picture where the annotations do not say: the predictions are clipped to it."""
    if decoded.picture is None or decoded.scene.width is not None:
        return None
    height, width = decoded.picture.shape[:2]
    return width, height
