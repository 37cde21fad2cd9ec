"""The training of a CLIP in whole: what is learnt, written, followed and refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.errors import DataError, SettingsError, WeightsError
from bench.grounding import Expression, Scene, SceneObject
from bench.settings import merged
from bench.training.trainer import train
from pipelines import weights
from pipelines.two_stage.clip import encoder
from pipelines.two_stage.clip.as_published import has_quick_gelu
from pipelines.two_stage.clip.encoder import empty_model, open_clip
from pipelines.two_stage.pipeline import as_trained, options_of, tasks, two_stage
from pipelines.two_stage.tuning.validation import evenly, mixed

TINY = "pipelines/weights/tiny-clip.safetensors"
SHORT = {"epochs": 1, "batch": 6, "workers": 0, "log_every": 1, "learning_rate": 1e-3, "warm_up": 1, "early_stop": 0,
         "wise": False, "candidates_from": "annotations", "candidates": 4}  # fmt: skip
TINT = {"views": ["tint"], "tint_colour": [200, 0, 90], "tint_line": 1.0}


@pytest.fixture
def make(job):
    """make(out="out", **recipe): the clip's task of ssd-clip on 12 scenes, from the shipped weights."""

    def task(out="out", **recipe):
        return tasks(job("ssd-clip", out, clip={**SHORT, **recipe}))["clip"]()

    return task


def first_batch(task, count=3):
    data = task.dataset(augment=False)
    return task.collate([data.sample(0, number) for number in range(count)])


@pytest.mark.slow
def test_the_file_brings_its_views_and_its_card(make, context):
    made = train(make(ranker={**TINT, "prompt": "a {}"}))
    opened = context(
        "yolo-clip", options=merged(context("yolo-clip").options, {"clip": {"pretrained": str(made.path)}})
    )
    options = as_trained(options_of(opened), opened)
    assert options.ranker.views == ("tint",) and options.ranker.tint.colour == (200, 0, 90)
    # Of the project's own table for shapes: the prompt is that of its weights, the temperature no weights' own.
    assert options.ranker.prompt == "a {}" and options.ranker.temperature == 8.0
    own = replace(opened, options=merged(opened.options, {"clip": {"model": "ViT-B-32"}}))
    assert as_trained(options_of(own), own).clip.model == "ViT-B-32"
    # An option that is given wins.
    other = replace(opened, options=merged(opened.options, {"ranker": {"views": ["crop"]}}))
    assert as_trained(options_of(other), other).ranker.views == ("crop",)
    # The model as well: on photographs the table names another one.
    photographs = context("yolo-clip", "refcoco")
    photographs = replace(photographs, options=merged(photographs.options, {"clip": {"pretrained": str(made.path)}}))
    assert as_trained(options_of(photographs), photographs).clip.model == "tiny-clip"
    # The card by the file alone: annotations of this data set were seen, its test images not.
    card = two_stage(opened).card
    assert card.supervision == "full" and card.trained_on == "shapes-train"
    assert card.saw_test_images == "no"
    metadata = weights.read_metadata(made.path)
    assert metadata["kept_out"] == {"images": 0, "expressions": 0, "parts": {}, "unknown": []}
    assert metadata["base"].keys() == {"tiny-clip.safetensors"} and metadata["trained_on"]["split"] == "shapes-train"


@pytest.mark.slow
def test_mixtures_of_first_and_tuned_weights(make, monkeypatch):
    """The curve is stored; nothing of one end is nothing of it to the bit."""
    task = make(wise=True, wise_images=3)
    scores = iter([0.1, 0.3, 0.2, 0.3, *[0.0] * 7])
    monkeypatch.setattr("pipelines.two_stage.tuning.validation.on_split",
                        lambda scenes, *_: lambda pipeline: {"accuracy": next(scores)})  # fmt: skip
    made = train(task)
    wise = made.notes["wise"]
    assert wise["share"] == 0.1 and wise["images"] == 3 and len(wise["accuracy"]) == 11
    assert wise["accuracy"]["0.3"] == 0.3 and weights.read_metadata(made.path)["wise"] == wise
    tuned = weights.read_safetensors(made.path.parent / "clip.run" / "best.safetensors")[0]
    first = task.towers.open(TINY)[0].state_dict()
    written = weights.read_safetensors(made.path)[0]
    expected = (0.9 * first["visual.proj"] + 0.1 * tuned["visual.proj"]).half().float()
    torch.testing.assert_close(written["visual.proj"], expected, rtol=1e-3, atol=1e-5)
    for share, end in ((0.0, first), (1.0, tuned)):
        same = mixed(first, tuned, share)
        assert all(torch.equal(same[name], end[name]) for name in first)
    assert not all(torch.equal(first[name], tuned[name]) for name in first)


@pytest.mark.slow
def test_projections_over_features_that_are_computed_once(make, monkeypatch):
    task = make(train="projection", epochs=3, ranker=TINT, batch=12, validate_every=9)
    before = {name: p.clone() for name, p in task.model.state_dict().items()}
    # Features, projected, are the vectors of the whole CLIP.
    (scene,) = first_batch(task, 1).scenes
    assert not scene.image.size and scene.features.shape[:2] == (1, len(scene.boxes))
    whole = make("other", ranker=TINT)
    with torch.no_grad():
        (vectors,) = whole.towers.regions([task.job.images.load(task.job.scenes[0])], [scene.boxes])
        torch.testing.assert_close(task.towers.project(scene.features, True), vectors, rtol=0, atol=1e-5)
        (features,) = task.texts([scene.texts[0]])[0]
        (text,) = whole.towers.encode_texts(whole.towers.tokens([scene.texts[0]]))
        torch.testing.assert_close(task.towers.project(features, False), text, rtol=0, atol=1e-5)
    seen = []
    compute = task.towers.image_features
    monkeypatch.setattr(task.towers, "image_features", lambda *given: seen.append(1) or compute(*given))
    after = weights.read_safetensors(train(task).path)[0]
    assert len(seen) == 12
    changed = {name for name, tensor in before.items() if not torch.equal(tensor.half().float(), after[name])}
    assert changed == {"visual.proj", "text_projection"}


@pytest.mark.slow
def test_adapters_are_merged_in_the_file(make, context):
    task = make(train="lora", lora_rank=2, ranker=TINT)
    assert (
        task.config.learning_rate == 1e-3 and make("auto", train="lora", learning_rate=0.0).config.learning_rate == 1e-4
    )
    made = train(task)
    first, after = weights.read_safetensors(context().folder / TINY)[0], weights.read_safetensors(made.path)[0]
    assert first.keys() == after.keys()
    changed = {name for name in first if not torch.equal(first[name], after[name])}
    assert changed and all(".attn." in name and name.endswith("weight") for name in changed)


@pytest.mark.parametrize(
    ("recipe", "terms"),
    [({"loss": "choose"}, {"choose", "view"}), ({}, {"choose", "view", "batch"}), ({"loss": "infonce"}, {"batch"}),
     ({"loss": "siglip"}, {"siglip"}),
     ({"keep": 0.5, "description": 1.0}, {"choose", "view", "batch", "keep", "description"}),
     ({"loss": "choose", "ranker": TINT}, {"choose"})],
)  # fmt: skip
def test_every_loss_reaches_both_towers(make, recipe, terms):
    task = make(**recipe)
    for group in task.parameter_groups():
        for parameter in group.parameters.values():
            parameter.requires_grad_(True)
    losses = task.losses(first_batch(task), torch.Generator())
    assert losses.keys() == terms and all(loss.isfinite() for loss in losses.values())
    assert terms - {"view"} == task.loss_weights.keys() - {"view"}
    sum(losses.values()).backward()
    assert task.model.visual.conv1.weight.grad.any() and task.model.token_embedding.weight.grad.any()


def test_siglip_starts_where_its_paper_does(make):
    task = make(loss="siglip")
    names = {name for group in task.parameter_groups() for name in group.parameters}
    assert "logit_bias" in names and task.model.logit_scale.exp().item() == pytest.approx(10)
    assert task.towers.bias.item() == -10


def test_in_batch_negatives_are_what_is_referred_to(make):
    sample = make(loss="infonce", candidates=8).dataset(augment=False).sample(0, 0)
    referred = {e.box for e in make().job.scenes[0].expressions}
    assert set(map(tuple, sample.boxes[:-1].tolist())) == referred
    # Of one image alone there are none.
    task = make(loss="infonce")
    one, three = (task.losses(first_batch(task, count), torch.Generator())["batch"].item() for count in (1, 3))
    assert one == 0 < three


def test_a_scale_that_grows_is_clamped(make, tmp_path):
    task = make(largest_scale=20.0)
    task.model.logit_scale.data.fill_(9.0)
    task.save(tmp_path / "x.safetensors")
    written = weights.read_safetensors(tmp_path / "x.safetensors")[0]["logit_scale"]
    assert written.exp().item() == pytest.approx(20, rel=1e-2)


def test_what_no_list_tells_of_is_refused(job, context):
    of_coco = replace(context("ssd-clip"), dataset="refcoco")
    with pytest.raises(
        DataError, match=r"no list of refcoco-val, .*bench data prepare refcoco --annot.*kept_out=known"
    ):
        tasks(replace(job("ssd-clip", clip=SHORT), context=of_coco))["clip"]()
    task = tasks(replace(job("ssd-clip", clip={**SHORT, "kept_out": "known"}), context=of_coco))["clip"]()
    assert len(task.notes["kept_out"]["unknown"]) == 9 and len(task.job.scenes) == 12


def test_mistakes_are_named(make):
    for recipe, message in (
        ({"ranker": {"view": ["tint"]}}, r"\[train.ssd-clip.clip.ranker\].*view.*views"),
        ({"ranker": {"tint_alpha": 0.2}}, "tint_alpha.*add it to views"),
        ({"loss": "choice"}, "choice|loss"),
        ({"train": "projection", "keep": 0.1}, "keep is of whole towers"),
    ):
        with pytest.raises(SettingsError, match=message):
            make(**recipe)


def test_pipelines_of_every_proposer_train_their_clip(job):
    for name in ("yolo-clip", "detr-clip", "ssd-clip", "reclip"):
        assert "clip" in tasks(job(name))
    assert list(tasks(job("reclip"))) == ["detector", "clip"]  # on shapes it has a YOLO


def test_validation_images_are_spread():
    scenes = [Scene(str(n), f"{n}.png", 9, 9, (Expression(str(n), "a", (0, 0, 1, 1)),) * (n % 2)) for n in range(20)]
    assert [s.id for s in evenly(scenes, 5)] == ["1", "5", "9", "13", "17"] and len(evenly(scenes, 99)) == 10


SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def small(folder):
    """Tell open_clip of a CLIP that trains in seconds."""
    (folder / "models").mkdir()
    (folder / "models" / "small-test-clip.json").write_text(json.dumps(SMALL))
    open_clip.add_model_config(folder / "models")


LOOKS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


@pytest.mark.slow
def test_a_published_tag_is_tuned_and_opened_as_it_was_published(job, context, tmp_path, monkeypatch):
    """A tag's card may have another activation and other statistics than the model's table: the file keeps both."""
    small(tmp_path)
    card = {"small-test-clip": {"made": {"hf_hub": "owner/small", "quick_gelu": True, **LOOKS}}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small-test-clip", card["small-test-clip"])
    torch.manual_seed(0)
    published = empty_model("small-test-clip", force_quick_gelu=True)
    weights.write_safetensors(tmp_path / "open_clip_model.safetensors", published.state_dict(), {})
    given, file = [], tmp_path / "open_clip_model.safetensors"
    monkeypatch.setattr(encoder.hub, "find_weights", lambda source, *_: given.append(source.hub) or file)
    recipe = {**SHORT, "model": "small-test-clip", "start_from": "made", "train": "last", "epochs": 1}
    task = tasks(job("ssd-clip", clip=recipe))["clip"]()
    assert has_quick_gelu(task.model) and task.towers.preprocessing._mean.flatten().tolist() == pytest.approx(
        [0.5, 0.4, 0.3]
    )
    made = train(task)
    assert set(given) == {"owner/small"} and made.notes["compare"]["pipelines"].keys() == {"as it stands", "zero-shot"}
    opened = encoder.ClipEncoder(encoder.ClipOptions(model="small-test-clip", pretrained=str(made.path)), context())
    assert has_quick_gelu(opened.model) and opened.preprocessing._std.flatten().tolist() == pytest.approx(
        [0.2, 0.3, 0.4]
    )
    # So it gives the vectors of the weights in training, to half precision.
    best = weights.read_safetensors(made.path.parent / "clip.run" / "best.safetensors")[0]
    task.model.load_state_dict(best)
    view = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(opened.encode_images(view), task.towers.encode_images(view), rtol=0, atol=1e-4)


def test_statistics_that_are_none_are_refused(context, tmp_path):
    path = tmp_path / "odd.safetensors"
    odd = {"open_clip": {"preprocess": {"mean": "grey"}}}
    weights.write_safetensors(path, empty_model("tiny-clip").state_dict(), odd)
    with pytest.raises(WeightsError, match=r"odd\.safetensors: its metadata has .*grey.*3 numbers each"):
        encoder.open_model(encoder.ClipOptions(model="tiny-clip", pretrained=str(path)), context())


# --- the reason for the view: places in an image ---------------------------------------------------------------------
class Twins:
    """Images of two equal squares and a disc, somewhere."""

    def boxes(self, scene):
        rng = np.random.default_rng(int(scene.id))
        lefts = sorted(rng.choice(4, 3, replace=False) * 12)
        return [(float(x), float(y), x + 10.0, y + 10.0) for x, y in zip(lefts, rng.integers(0, 38, 3), strict=True)]

    def load(self, scene):
        image = np.full((48, 48, 3), 255, np.uint8)
        for number, (x1, y1, x2, y2) in enumerate(self.boxes(scene)):
            image[int(y1) : int(y2), int(x1) : int(x2)] = (0, 0, 200) if number == int(scene.id) % 3 else (200, 0, 0)
        return image

    def missing(self, scenes):
        return []


def twins(number):
    images, name = Twins(), str(number)
    boxes = images.boxes(Scene(name, f"{name}.png", 48, 48, ()))
    blue = number % 3
    left, right = (box for place, box in enumerate(boxes) if place != blue)
    texts = {"blue": boxes[blue], "left red": left, "right red": right}
    expressions = tuple(Expression(f"{name}-{text}", text, box, category="square") for text, box in texts.items())
    objects = tuple(SceneObject("square", box) for box in boxes)
    return Scene(name, f"{name}.png", 48, 48, expressions, objects)


@pytest.mark.slow
def test_places_are_learnt_by_heart_with_a_tint_and_never_by_crops(job, tmp_path):
    """32 scenes: what the left one of two equal squares is, no crop of it tells."""
    small(tmp_path)
    torch.manual_seed(0)
    start = tmp_path / "start.safetensors"
    weights.write_safetensors(start, empty_model("small-test-clip").state_dict(), {})
    scenes, right = [twins(number) for number in range(32)], {}
    for view in ("tint", "crop"):
        recipe = {**SHORT, "model": "small-test-clip", "start_from": str(start), "ranker": {"views": [view]}}
        recipe |= {
            "epochs": 40 if view == "tint" else 15,
            "batch": 16,
            "validate_every": 99,
            "jitter": 0.0,
            "layer_decay": 1.0,
            "loss": "choose",
        }
        given = job("ssd-clip", view, clip={**recipe, "learning_rate": 2e-3, "save_every": 99}, images=Twins())
        given = replace(given, scenes=scenes, validation=scenes[:1], validation_images=Twins())
        task = tasks(replace(given, validate=lambda pipeline: {"accuracy": 0.0}))["clip"]()
        train(task)
        batch = first_batch(task, 32)
        with torch.no_grad():
            regions = task.towers.regions([s.image for s in batch.scenes], [s.boxes for s in batch.scenes])
            texts = task.towers.encode_texts(batch.texts).split(3)
        chosen = [(mine @ own.sum(0).T).argmax(1).tolist() for mine, own in zip(texts, regions, strict=True)]
        truth = [scene.overlap.argmax(1).tolist() for scene in batch.scenes]
        hits = np.array(chosen) == np.array(truth)
        right[view] = {"places": hits[:, 1:].mean(), "blue": hits[:, 0].mean()}
    assert right["tint"]["places"] > 0.95 and right["crop"]["places"] < 0.7
    assert right["tint"]["blue"] > 0.95 and right["crop"]["blue"] > 0.95
