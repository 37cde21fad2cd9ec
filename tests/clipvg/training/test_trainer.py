"""The trainer: what a training writes, what it goes on from, when it stops."""

import json
import logging
import math
import threading
from dataclasses import replace

import pytest
import torch

from bench.errors import RunError, SettingsError, UnknownName, WeightsError
from bench.grounding import LoadedScene
from clipvg.pipeline import clipvg
from clipvg.training import stepping, trainer
from clipvg.training.trainer import train
from pipelines.weights import read_safetensors


def ran(job):
    """The training, its weights' tensors and its lines."""
    made = train(job)["network"]
    return made, read_safetensors(made.path)[0], lines(job)


def lines(job):
    return [json.loads(line) for line in (job.out / "small.run/training.jsonl").read_text().splitlines()]


def test_what_a_training_leaves(job, context, caplog):
    caplog.set_level(logging.INFO, "bench.train")
    mine = job()
    before = threading.active_count()
    made, tensors, written = ran(mine)
    assert made.path == mine.out / "small.safetensors"
    names = {path.name for path in (mine.out / "small.run").iterdir()}
    assert names == {"last.pt", "best.safetensors", "training.jsonl", "curves.svg"}
    assert (mine.out / "small.run/curves.svg").read_text().startswith("<svg")
    steps = [line for line in written if "loss" in line]
    assert [(line["step"], line["epoch"]) for line in steps] == [(n, 1 + (n > 4)) for n in range(1, 9)]
    assert {"l1", "giou", "learning_rate", "spread", "rows_per_second", "waiting", "seconds"} <= steps[0].keys()
    assert all(0 <= line["waiting"] <= 1 and math.isfinite(line["loss"]) for line in steps)
    scores = [line for line in written if "accuracy" in line]
    assert [(line["step"], line["epoch"], line["n"]) for line in scores] == [(4, 1, 6), (8, 2, 6)]
    assert made.notes["chosen_on"] == "shapes-val" and made.notes["best"]["epoch"] in (1, 2)
    assert made.notes["best"]["accuracy"] == max(line["accuracy"] for line in scores)
    assert (made.notes["steps"], made.notes["effective_batch"], made.notes["texts_cut"]) == (8, 8, 0)
    assert made.recipe["learning_rate"] == 1e-3 and set(made.score) >= {"accuracy", "mean_iou", "n"}
    assert not any(key.startswith("clip.") for key in tensors if key != "clip.visual.positional_embedding")
    assert "epoch 2 of 2, step 8 of 8" in caplog.text and "on shapes-val (best" in caplog.text
    assert threading.active_count() <= before + 4  # no pool of threads is left by each validation
    loaded = [LoadedScene(s.id, mine.pictures.load(s), tuple(e.query for e in s.expressions)) for s in mine.validation]
    pipeline = clipvg(context({"weights": str(made.path)}, dataset="shapes"))
    answers = pipeline.ground(loaded)
    assert pipeline.style == "clean" and len(answers) == 6 and all(a.box is not None for a in answers)


def test_the_score_is_that_of_the_file(job, context):
    made, _, written = ran(job(epochs=1))
    validated = next(line for line in written if "accuracy" in line)
    assert made.score["accuracy"] == pytest.approx(validated["accuracy"], abs=1e-4)
    assert made.score["mean_iou"] == pytest.approx(validated["mean_iou"], abs=1e-3)  # kept in float16


def test_it_learns(job):
    frozen = {"cache_features": True, "train_positions": False, "dtype": "float32"}
    _, _, written = ran(
        job(epochs=12, learning_rate=3e-3, auxiliary="patches", log_every=4, validate_every=12, **frozen)
    )
    losses = [line["l1"] + line["giou"] for line in written if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    assert [line["epoch"] for line in written if "accuracy" in line] == [12]


def test_the_same_seed_makes_the_same_weights_another_does_not(job, same):
    first, second, other = (ran(job(out, epochs=1, seed=seed))[1] for out, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert same(first, second) and not same(first, other)


def test_a_finished_training_computes_nothing_again(job, monkeypatch):
    mine = job()
    made, tensors, written = ran(mine)
    held = (mine.out / "small.run/last.pt").read_bytes()
    monkeypatch.setattr(stepping.Stepper, "step", lambda *_: pytest.fail("a step was taken"))
    monkeypatch.setattr(trainer, "drawn_ahead", lambda *_: pytest.fail("a row was drawn"))
    again, same_tensors, same_lines = ran(mine)
    assert again.score == made.score and again.notes == made.notes
    assert same_lines == written and (mine.out / "small.run/last.pt").read_bytes() == held
    assert all(torch.equal(tensors[key], same_tensors[key]) for key in tensors)


def test_another_recipe_is_refused_until_it_is_to_begin_anew(job):
    train(job(epochs=1))
    with pytest.raises(RunError, match="4 steps with other settings") as refused:
        train(job(epochs=1, learning_rate=2e-3))
    assert "learning_rate: 0.001 there, 0.002 now" in str(refused.value) and "epochs" not in str(refused.value)
    with pytest.raises(RunError, match="rows in a step: 8 there, 16 now"):
        train(job(epochs=1, batch=16))
    with pytest.raises(RunError, match="seed: 0 there, 1 now"):
        train(job(epochs=1, seed=1))
    made = train(job(epochs=1, learning_rate=2e-3, fresh=True))["network"]
    assert made.recipe["learning_rate"] == 2e-3


def test_what_does_not_change_the_weights_may_change(job):
    train(job(epochs=1))
    free = {"log_every": 3, "workers": 1, "save_every": 7, "validate_every": 2, "early_stop": 5, "collapse_window": 11}
    train(job(epochs=1, batch=2, **free))  # 2 x 4 rows instead of 4 x 2


class StopHereError(Exception):
    """What a test stops a training with."""


def stop_at(monkeypatch, step):
    """The training stops before this step, counted from 1."""
    real = stepping.Stepper.step

    def limited(self, number, *rest):
        if number + 1 == step:
            raise StopHereError
        return real(self, number, *rest)

    monkeypatch.setattr(stepping.Stepper, "step", limited)


def test_begun_anew_means_that_the_old_one_is_gone(job, monkeypatch, same):
    """Stopped before its first step file, a fresh training must not go on as the old one."""
    old = ran(job(epochs=1, save_every=99))[1]
    with monkeypatch.context() as patch, pytest.raises(StopHereError):
        stop_at(patch, 2)
        train(job(epochs=1, save_every=99, fresh=True, learning_rate=2e-3))
    made, tensors, _ = ran(job(epochs=1, save_every=99, learning_rate=2e-3))
    assert made.notes["steps"] == 4 and not same(old, tensors)


def test_a_part_that_is_none(job):
    with pytest.raises(UnknownName, match="part of clipvg"):
        train(job(part="detector"))
    with pytest.raises(UnknownName, match="network"):
        train(job(part="clip"))  # the CLIP is taken as it is: there is no such part
    with pytest.raises(SettingsError, match=r"train\.clipvg.*epoch"):
        train(job(epoks=3))
    with pytest.raises(SettingsError, match="cache_features"):
        train(job(cache_features=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_scales_that_the_canvas_cannot_hold_are_said_at_once(job, workers):
    with pytest.raises(SettingsError, match="48 is more than the canvas's 32 pixels") as refused:
        train(job(augment={"crop": "safe", "scales": [48]}, workers=workers))
    assert "Traceback" not in str(refused.value)


def scores_of(monkeypatch, mine, accuracies):
    """The same job, validated by these accuracies one after the other, then 0.5."""
    left = iter(accuracies)
    return replace(mine, validate=lambda *_, **__: {"accuracy": next(left, 0.5), "mean_iou": 0.1, "n": 6.0})


def test_the_best_weights_are_kept_not_the_last(job, monkeypatch, same):
    mine = scores_of(monkeypatch, job(epochs=3), (0.2, 0.6, 0.4))
    made, tensors, _ = ran(mine)
    assert made.notes["best"] == {"accuracy": 0.6, "epoch": 2, "step": 8}
    kept = torch.load(mine.out / "small.run/last.pt", weights_only=True)["trained"]
    assert not all(torch.equal(tensors[key], kept[key].half().float()) for key in tensors if key in kept)
    assert same(tensors, read_safetensors(mine.out / "small.run/best.safetensors")[0])


@pytest.mark.parametrize(
    ("every", "patience", "accuracies", "steps"),
    [
        (1, 2, (0.5, 0.6, 0.4, 0.3, 0.2), 16),
        (1, 2, (0.5, 0.6, 0.4, 0.7, 0.6, 0.5), 24),
        (2, 1, (0.5, 0.4), 16),  # an epoch that was not looked at is not one without a better one
        (1, 0, (0.5,) * 6, 24),
    ],
)
def test_early_stop(job, monkeypatch, every, patience, accuracies, steps):
    cached = {"cache_features": True, "train_positions": False, "save_every": 99}
    mine = scores_of(monkeypatch, job(epochs=6, early_stop=patience, validate_every=every, **cached), accuracies)
    made = train(mine)["network"]
    assert made.notes["steps"] == steps and made.notes["best"]["accuracy"] == max(accuracies)
    assert train(mine)["network"].notes["steps"] == steps  # and it stays stopped


def test_the_average_of_the_weights_is_what_is_scored_and_kept(job, same):
    plain, averaged = job("plain", epochs=1), job("averaged", epochs=1, ema=0.5)
    weights, kept = ran(plain)[1], ran(averaged)[1]
    held = [torch.load(j.out / "small.run/last.pt", weights_only=True) for j in (plain, averaged)]
    assert same(held[0]["trained"], held[1]["trained"]) and not held[0]["average"]
    key = "bbox_embed.layers.2.weight"
    assert torch.equal(kept[key], held[1]["average"][key].half().float()) and not torch.equal(kept[key], weights[key])


def test_a_loss_that_is_not_finite_stops_with_the_last_good_step_kept(job, monkeypatch, same):
    with monkeypatch.context() as patch, pytest.raises(StopHereError):
        stop_at(patch, 6)
        train(job("good"))
    mine, real = job(), stepping.Stepper.step

    def poisoned(self, number, epoch, seed, passes):
        passes = list(passes)
        if number == 5:
            passes[-1][1].targets[0] = float("inf")
        return real(self, number, epoch, seed, passes)

    monkeypatch.setattr(stepping.Stepper, "step", poisoned)
    with pytest.raises(RunError, match=r"not finite at step 6 \(epoch 2\).*last\.pt holds the last good weights"):
        train(mine)
    said = json.loads((mine.out / "small.run/not-finite.0.json").read_text())
    known = {e.id for scene in mine.scenes for e in scene.expressions}
    assert said["step"] == 6 and len(said["expressions"]) == 8 and set(said["expressions"]) <= known
    good, held = (torch.load(mine.out.parent / out / "small.run/last.pt", weights_only=True) for out in ("good", "out"))
    assert held["step"] == 5 and same(good["trained"], held["trained"]) and same(good["optimiser"], held["optimiser"])
    with pytest.raises(RunError, match="not finite"):  # again the same step, from there
        train(mine)


def test_the_watch_speaks_in_log_and_history(job, caplog, monkeypatch):
    monkeypatch.setattr(stepping, "spread", lambda *_: 0.01)
    quiet = {"learning_rate": 1e-9, "collapse_window": 10, "log_every": 100, "auxiliary": "off"}
    mine = job(epochs=4, cache_features=True, train_positions=False, **quiet)
    ran(mine)
    assert caplog.text.count("no progress") == 1
    (noted,) = [line for line in lines(mine) if "note" in line]
    assert noted["step"] >= 10 and "Worth trying" in noted["note"]


def test_it_goes_on_from_weights_of_its_own(job, context, same):
    first, tensors, _ = ran(job("first", epochs=1))
    mine = job("second", start_from=str(first.path), epochs=1, learning_rate=1e-12, weight_decay=0.0)
    made, after, _ = ran(mine)
    assert all(torch.allclose(tensors[key], after[key], atol=1e-6) for key in tensors)
    assert made.score == first.score
    with pytest.raises(WeightsError, match="nowhere"):
        train(job("third", start_from="nowhere.safetensors"))


def test_it_goes_on_from_an_official_file(job, official_file, small_table, clip_weights, tmp_path):
    path = official_file()
    clip = {k.removeprefix("clip."): t.float() for k, t in small_table.items() if k.startswith("clip.")}
    torch.save(clip, tmp_path / "its-clip.pt")
    its_own = {"model": "tiny-clip", "pretrained": str(tmp_path / "its-clip.pt")}
    network = {"image_size": 64, "taps": [0], "hidden": 8}  # sizes are the file's, but for the canvas's
    changes = {"start_from": str(path), "network": network, "preprocessing": "official", "epochs": 1}
    made, tensors, _ = ran(job(clip=its_own, learning_rate=1e-12, weight_decay=0.0, **changes))
    key = "ml_visu_proj.weight"
    assert torch.allclose(tensors[key], small_table[key].float(), atol=1e-4)
    assert read_safetensors(made.path)[1]["config"]["taps"] == [0, 1, 3]
    with pytest.raises(WeightsError, match=r"a CLIP tiny-clip of its own.*clip\.pretrained"):  # before it is trained
        train(job("other", clip={"model": "tiny-clip", "pretrained": str(clip_weights)}, **changes))


def test_weights_of_its_own_say_themselves_which_clip_is_theirs(job, table):
    first = train(job("first", epochs=1))["network"]
    made = train(job("second", start_from=str(first.path), epochs=1, clip={"model": "tiny-clip", "pretrained": ""}))
    assert read_safetensors(made["network"].path)[1]["clip"] == read_safetensors(first.path)[1]["clip"]


def test_best_weights_that_were_taken_away_are_made_again(job, same):
    mine = job(epochs=1)
    made, tensors, _ = ran(mine)
    (mine.out / "small.run/best.safetensors").unlink()
    again, after, _ = ran(mine)
    assert same(tensors, after) and again.score == made.score and again.notes["best"] == made.notes["best"]


def test_texts_that_were_cut_are_counted_whenever_the_training_was_stopped(job, scenes, caplog):
    long = "the " + "very " * 60 + "big star"
    texts = replace(scenes[0].expressions[0], text=long), replace(scenes[0].expressions[1], text="星" * 20)
    mine = job(epochs=1, scenes=(replace(scenes[0], expressions=(*texts, *scenes[0].expressions[2:])), *scenes[1:]))
    assert train(mine)["network"].notes["texts_cut"] == 2
    assert train(mine)["network"].notes["texts_cut"] == 2
    assert "2 texts are cut at 32 tokens" in caplog.text
