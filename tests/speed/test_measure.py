"""A measurement whole: what is written, what is refused, and boxes that are not those of the accuracy pass."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_world import HashPipeline, MemoryImages, make_settings, make_split
from speed_parts import SHORT, Logged
from submissions import unpacked

from bench.errors import DataError, UsageError
from bench.evaluation.loop import evaluate
from bench.grounding import LoadedScene, PipelineContext, Prediction
from bench.runs.record import RunRecord
from bench.speed.measure import measure
from bench.speed.pair import measure_pair
from bench.speed.record import PairRecord, Rules, headline, read_speeds, speed_of
from bench.speed.resident import make_resident

Use = Callable[[Any], None]


@pytest.mark.slow
def test_everything_is_in_the_record(tmp_path: Path, use: Use) -> None:
    use(Logged)
    record, path = measure("hash", make_split(60), make_settings(tmp_path), rules=SHORT)
    ((stored, name),) = read_speeds(tmp_path)
    assert stored.model_copy(update={"sha256": ""}) == record and stored.sha256
    assert name == path.relative_to(tmp_path).as_posix()
    assert path.name.startswith("speed-") and record.settings_hash[:8] in path.name
    assert record.valid and not record.full and record.rules == SHORT
    assert [rate.cache for rate in record.offline] == ["cold", "texts warm"]
    assert record.single is not None and record.single.calls == 6 and record.single.p50_ms > 0
    assert record.images.count == record.images.of == 60 and record.images.ids == "new"
    assert record.proposals_per_image == 5.0 and set(record.stages) == {"rank", "outside stages"}
    assert record.memory.allocated_mb is None and "host_mb" in record.memory.unknown["allocated_mb"]
    assert record.memory.host_mb is None or record.memory.host_mb > 10
    assert record.energy.joules_per_expression is None and "CPU" in record.energy.unsupported
    (check,) = record.check
    assert check.n >= 100 and check.equal == check.n
    assert headline(record).batch_size == max(record.batch_search, key=lambda t: t["images_per_s"] or 0)["batch_size"]
    assert record.conditions["seconds"] > 0 and record.environment["cpu_cores"] == os.cpu_count()


@pytest.mark.slow
def test_a_stored_run_of_the_same_thing_is_checked_too_and_joined(tmp_path: Path, use: Use) -> None:
    use(HashPipeline)
    split, settings = make_split(), make_settings(tmp_path)
    run = evaluate("hash", split, settings)
    assert isinstance(run.record, RunRecord)
    # With the protocol's own rules: the pipeline is quick, and the clock of the test quicker.
    rules = Rules()
    record, _ = measure("hash", split, settings, rules=SHORT)
    assert [check.n for check in record.check] == [64, 64] and record.valid
    assert record.check[1].against == f"the run {run.folder.relative_to(tmp_path).as_posix()}"
    assert record.identity == run.record.identity and record.settings_hash == run.record.settings_hash
    full = record.model_copy(update={"rules": rules, "full": True})
    assert speed_of(run.record, [(full, "x")]) == full and speed_of(run.record, [(record, "x")]) is None
    # Another salt is another identity: nothing stored to check against.
    other, _ = measure("hash", split, settings, {"salt": 5}, SHORT)
    assert len(other.check) == 1 and other.settings_hash != record.settings_hash


@pytest.mark.slow
def test_a_stored_run_with_other_boxes_makes_it_invalid(tmp_path: Path, use: Use) -> None:
    use(HashPipeline)
    split, settings = make_split(), make_settings(tmp_path)
    folder = unpacked(evaluate("hash", split, settings).folder)
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    row = json.loads(lines[3])
    row["predictions"][0]["box"] = [0, 0, 1, 1]
    lines[3] = json.dumps(row)
    (folder / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    record, _ = measure("hash", split, settings, rules=SHORT)
    assert not record.valid and record.check[0].passed
    assert record.check[1].differing == (row["predictions"][0]["id"],) and record.check[1].equal == 63


@pytest.mark.slow
def test_a_pipeline_that_answers_otherwise_when_it_is_timed_is_caught(tmp_path: Path, use: Use) -> None:
    class Cheat(HashPipeline):
        """Remembers its answers by the scene, which `bench run` never asks twice, and guesses for scenes it meets anew
        once it has been asked often enough."""

        def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
            answers = super().ground(batch)
            if len(self.batches) < 10 or all("#" not in scene.id for scene in batch):
                return answers
            return [Prediction(answer.id, (0.0, 0.0, 1.0, 1.0)) for answer in answers]

    use(Cheat)
    record, path = measure("hash", make_split(60), make_settings(tmp_path), rules=SHORT)
    assert not record.valid and path.exists() and len(record.check[0].differing) == 20
    assert record.check[0].equal < record.check[0].n / 2


@pytest.mark.slow
def test_nothing_is_left_of_a_measurement_that_was_stopped(tmp_path: Path, use: Use) -> None:
    class Stopped(HashPipeline):
        def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
            if len(self.batches) == 25:
                raise KeyboardInterrupt
            return super().ground(batch)

    use(Stopped)
    with pytest.raises(KeyboardInterrupt):
        measure("hash", make_split(), make_settings(tmp_path), rules=SHORT)
    assert list(tmp_path.rglob("*.json*")) == []


@pytest.mark.slow
def test_a_limited_split_is_never_full(tmp_path: Path, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use(HashPipeline)
    monkeypatch.setattr(Rules, "full", True)
    record, _ = measure("hash", make_split().limited(6), make_settings(tmp_path), rules=SHORT)
    assert not record.full and record.identity.data.partial and record.images.count == 6
    whole, _ = measure("hash", make_split(6), make_settings(tmp_path), rules=SHORT)
    assert whole.full


def test_images_are_kept_up_to_a_cap_and_decoded_once(tmp_path: Path) -> None:
    source = MemoryImages(bad={"3.png"})
    resident = make_resident(make_split(24, source), cap_mb=10 * 32 * 24 * 3 / 2**20)
    assert len(resident.loaded) == 10 == len(resident.scenes) and resident.of == 24
    assert len(source.loaded) <= 14 and len(set(source.loaded)) == len(source.loaded)
    assert [scene.id for scene in resident.loaded] == [scene.id for scene in resident.scenes]
    numbers = [int(scene.id[1:]) for scene in resident.loaded]
    assert numbers == sorted(numbers) and numbers != list(range(10)) and 3 not in numbers
    assert [s.id for s in resident.batch(9, 3, "#1")] == [f"s{numbers[n]}#1" for n in (9, 0, 1)]
    with pytest.raises(DataError, match=r"none of its images can be read; the last one: .*broken"):
        make_resident(make_split(3, MemoryImages(gone=True)))


def test_what_nobody_takes_is_refused_before_any_image_is_decoded(tmp_path: Path, use: Use) -> None:
    use(HashPipeline)
    source = MemoryImages()
    with pytest.raises(UsageError, match="--compile: hash compiles nothing"):
        measure("hash", make_split(source=source), make_settings(tmp_path, compile=True), rules=SHORT)
    assert source.loaded == []


class Paced(HashPipeline):
    """Takes `pace` seconds a scene by a clock of its own, which also slows down for everybody as time goes on."""

    now = 0.0

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        Paced.now += self.options["pace"] * len(batch) * (1 + Paced.now)
        return super().ground(batch)


@pytest.mark.slow
def test_the_ratio_of_a_pair_survives_a_machine_that_slows_down(
    tmp_path: Path, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_name(context: PipelineContext) -> Paced:
        pipeline = Paced(context)
        pipeline.options["pace"] = {"slow": 0.02, "quick": 0.01}[context.name]
        return pipeline

    use(by_name)
    monkeypatch.setattr(Paced, "now", 0.0)
    monkeypatch.setattr("time.perf_counter", lambda: Paced.now)
    record, path = measure_pair(("slow", "quick"), make_split(), make_settings(tmp_path), rules=SHORT, rounds=8)
    assert record.ratio.median == pytest.approx(2.0, rel=0.05) and len(record.ratio.rounds) == 8
    assert record.second.expressions_per_s.high > 1.2 * record.second.expressions_per_s.low  # it did slow down
    assert path.parent == tmp_path / "runs" / "quick" / "tiny-val" and path.name.startswith("pair-")
    stored = PairRecord.model_validate_json(path.read_bytes())
    assert stored.model_copy(update={"sha256": ""}) == record and record.valid and not record.full
    assert read_speeds(tmp_path) == []
