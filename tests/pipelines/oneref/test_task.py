"""OneRef in training: the losses from their formulas, what starts from what, masks that follow, and resuming."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_world import SCENES, VALIDATION, lines_of, stopped_and_resumed

from bench.errors import DataError, SettingsError, WeightsError
from bench.grounding import LoadedScene
from bench.masks import decode
from bench.training.gradient_check import gradient_check
from bench.training.step import OptimisationStep
from bench.training.trainer import Trainer, train
from pipelines.augmentation import Augment, augmented
from pipelines.canvas import letterboxed, mask_on
from pipelines.oneref.network import OneRef, OneRefConfig
from pipelines.oneref.pipeline import oneref
from pipelines.oneref.recipe import OneRefTraining
from pipelines.oneref.task import OneRefTask, dice, focal, patches_in

STILL = {"crop": "off", "jitter_share": 0.0, "translate": False, "scales": (32,)}


def test_the_default_config_is_the_second_phase_of_the_official_scripts():
    c = OneRefTraining()
    assert (c.epochs, c.learning_rate, c.reference_batch, c.weight_decay, c.betas) == (
        20,
        3e-5,
        192,
        1e-4,
        (0.9, 0.999),
    )
    assert (c.schedule, c.schedule_by, c.warm_up, c.clip_norm, c.ema, c.drop_path) == ("cosine", "epoch", 0, 0, 0, 0.1)
    assert (c.l1, c.giou, c.focal, c.dice, c.constraint) == (1, 1, 20, 2, 1)
    assert (c.augment.crop, c.augment.flip_share, c.augment.blur_share) == ("official", 0, 0)
    assert c.augment.long_sides(384) == (384, 352, 320, 288, 256, 224, 192)


@pytest.mark.parametrize(("config", "tensors"), [
    # Of REC's 504 official entries: without logit_scale, mask_token and text_proj's two, which REC does not use.
    ({}, 500), ({"freeze": True}, 10), ({"head": "masks"}, 500), ({"head": "both"}, 509),
])  # fmt: skip
def test_what_is_trained(config, tensors):
    task = OneRefTask.__new__(OneRefTask)
    task.config = OneRefTraining(**config)
    with torch.device("meta"):
        task.model = OneRef(OneRefConfig(masks=task.config.head != "boxes"))
    (group,) = task.parameter_groups()
    assert len(group.parameters) == tensors
    heads = {name.partition(".")[0] for name in group.parameters} - {"beit3"}
    assert ("bbox_embed" in heads) == (task.config.head != "masks")
    assert ("bn3" in heads) == (task.config.head != "boxes")


def test_losses_are_those_of_their_formulas():
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(3, 7)), rng.random((3, 7)) < 0.4
    p = 1 / (1 + np.exp(-logits))
    each = np.where(truth, 0.25 * (1 - p) ** 2 * -np.log(p), 0.75 * p**2 * -np.log(1 - p))
    np.testing.assert_allclose(focal(torch.tensor(logits), torch.tensor(truth)), each.mean(axis=1), atol=1e-6)
    ratio = (2 * (p * truth).sum(axis=1) + 1) / (p.sum(axis=1) + truth.sum(axis=1) + 1)
    np.testing.assert_allclose(dice(torch.tensor(logits), torch.tensor(truth)), 1 - ratio, atol=1e-6)
    # A box from pixel 16 to 48 across and 0 to 20 down, of 64 pixels in patches of 16: first pixels 16, 32; 0, 16.
    marked = patches_in(torch.tensor([[0.5, 10 / 64, 0.5, 20 / 64]]), 4, 16)[0].view(4, 4)
    assert marked.nonzero().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]


@pytest.mark.parametrize("crop", ["off", "official", "safe"])
def test_a_mask_follows_its_image_through_the_augmentation(crop):
    """Where the image is painted white and black, the mask is what is white on the canvas, but for its edge."""
    rng = np.random.default_rng(1)
    inside = np.zeros((90, 120), bool)
    inside[20:70, 30:100] = rng.random((5, 7)).repeat(10, 0).repeat(10, 1) < 0.5
    inside[20:30, 30:40] = inside[60:70, 90:100] = True
    image = (inside * np.uint8(255))[..., None].repeat(3, axis=2)
    options = Augment(crop=crop, jitter_share=0.0, crop_share=1.0, short_sides=(100, 150), crop_sides=(80, 140))
    cropped = 0
    for n in range(20):
        canvas, *_ = augmented(image, (30, 20, 100, 70), "it", 224, options, "official", np.random.default_rng(n))
        white, mask = canvas.pixels[..., 0] / 255, mask_on(canvas, inside)
        sure = np.abs(white - 0.5) > 0.45
        assert (mask == (white > 0.5))[sure].mean() > 0.985
        cropped += canvas.corner != (0, 0)
    assert (cropped > 5) == (crop != "off")
    # Without augmentation it is torch's own nearest, as in the official evaluation.
    canvas = letterboxed(image, 64, "official")
    nearest = F.interpolate(torch.tensor(inside)[None, None].float(), size=(48, 64), mode="nearest")[0, 0].bool()
    assert np.array_equal(mask_on(canvas, inside)[canvas.top : canvas.bottom], nearest)


@pytest.mark.parametrize("head", ["boxes", "masks", "both"])
def test_everything_that_is_trained_gets_a_gradient(job, head):
    norms = gradient_check(OneRefTask(job(head=head)))["gradient_norms"]
    assert min(norm for name, norm in norms.items() if "k_proj" not in name) > 0


@pytest.mark.parametrize("head", ["boxes", "masks"])
def test_rows_of_an_image_share_its_embedding_with_the_same_losses(job, head):
    task = OneRefTask(job(head=head, augment=STILL))
    task.model.eval()
    rows, data = list(range(9)), task.dataset()
    together, apart = task.collate(data.samples(0, rows)), task.collate([data.sample(0, row) for row in rows])
    assert len(together.images) < len(apart.images) == 9
    one, other = (task.losses(batch, torch.Generator()) for batch in (together, apart))
    assert {*one} >= ({"focal", "dice"} if head == "masks" else {"patch_focal", "patch_dice"})
    assert all(torch.allclose(one[key], other[key], atol=1e-5) for key in one)


def test_both_heads_have_the_losses_of_either_and_answer_with_a_box_and_a_mask(job, context, tmp_path):
    task = OneRefTask(job(head="both", augment=STILL, temperature=0.1, mask_share=0.5))
    task.model.eval()
    data = task.dataset()
    batch = task.collate([data.sample(0, row) for row in range(5)])
    terms = task.losses(batch, torch.Generator())
    # 1. Cosines are divided by the temperature; three of five rows have masks, and count for all of them.
    pixels, ids, padding = task.inputs(batch)
    image, text = task.model.encode(task.model.embed_image(pixels), ids, padding)
    words = task.model.words(text[:, 0])
    grid = F.interpolate(task.model.mask(image[:, 1:], words)[:, None] / 0.1, size=(32, 32), mode="bilinear")[:, 0]
    wanted = F.pad(dice(grid, batch.masks)[:3] * 5 / 3, (0, 2))
    assert torch.allclose(terms["dice"], wanted, atol=1e-5)
    cosines = task.model.similarity(image[:, 1:], words)
    assert torch.allclose(terms["patch_focal"], focal(cosines / 0.1, patches_in(batch.targets, 4, 8)), atol=1e-5)
    # 2. The file answers with both.
    task.save(tmp_path / "both.safetensors")
    pipeline = oneref(context("oneref", options={"weights": str(tmp_path / "both.safetensors")}))
    scene = task.job.scenes[0]
    loaded = LoadedScene("a", task.job.images.load(scene), tuple(e.query for e in scene.expressions[:2]))
    for n, prediction in enumerate(pipeline.ground([loaded])):
        canvas = letterboxed(loaded.image, 32, "official")
        box = canvas.to_image(terms["boxes"][n : n + 1].detach().double().numpy())[0]
        np.testing.assert_allclose(prediction.box, box, atol=0.5)  # saved in float16
        assert prediction.mask is not None


@pytest.mark.slow
@pytest.mark.parametrize("head", ["boxes", "masks"])
def test_it_learns_and_its_file_is_what_the_pipeline_opens(job, context, head):
    mine = job(head=head, epochs=10, learning_rate=3e-3, log_every=4, validate_every=10, augment=STILL)
    made = train(OneRefTask(mine))
    losses = [line["loss"] for line in lines_of(mine.out) if "loss" in line]
    assert losses[-1] < 0.95 * losses[0]
    assert ("mask_miou" if head == "masks" else "accuracy") in made.score
    loaded = [LoadedScene(s.id, mine.images.load(s), tuple(e.query for e in s.expressions)) for s in mine.validation]
    pipeline = oneref(context("oneref", options={"weights": str(made.path)}))
    answers = pipeline.ground(loaded)
    assert all((a.mask is not None) == (head == "masks") for a in answers)
    again = OneRefTask(job("again", start_from=str(made.path), head="masks", freeze=True))
    assert again.model.config.masks and not any(n.startswith("beit3") for n in again.parameter_groups()[0].parameters)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"head": "masks"}, {"group": "image", "ema": 0.8}])
def test_killed_anywhere_it_ends_in_the_same_bits(job, changes):
    kills = [(OptimisationStep, "step", 2, False), (Trainer, "validate", 1, True), (Trainer, "finish", 1)]
    assert stopped_and_resumed(lambda out: OneRefTask(job(out, **changes)), kills)[-1] == 8


def test_the_encoder_starts_from_a_beit3(job, tmp_path):
    sizes = {"width": 16, "layers": 2, "heads": 2, "image_size": 16, "patch": 8, "positions": 24, "text": 12}
    words = OneRefTask(job()).model.config.words
    source = OneRef(OneRefConfig(**sizes, words=words)).state_dict()
    beit3 = {k: t for k, t in source.items() if k.startswith(("beit3", "language_head", "vision_head"))}
    torch.save({"model": beit3 | {"logit_scale": torch.zeros(())}}, tmp_path / "beit3.pth")
    task = OneRefTask(job(beit3=str(tmp_path / "beit3.pth")))
    own = task.model.state_dict()
    assert task.notes["beit3"] == {"file": "beit3.pth", "taken": len(beit3)}
    table = "beit3.encoder.embed_positions.A.weight"
    assert all(torch.equal(own[key], beit3[key]) for key in beit3 if key != table)
    assert torch.equal(own[table][:3], beit3[table][:3]) and own[table].shape == (19, 16)
    wanted = F.interpolate(beit3[table][3:].T.reshape(1, 16, 2, 2), size=(4, 4), mode="bicubic")
    assert torch.allclose(own[table][3:].T.reshape(1, 16, 4, 4), wanted)
    torch.save({"model": {k: t for k, t in beit3.items() if "ffn" not in k}}, tmp_path / "beit3.pth")
    with pytest.raises(WeightsError, match=r"beit3\.pth: no BEiT-3 for this network: 24 of its 92 tensors .*fc1"):
        OneRefTask(job("other", beit3=str(tmp_path / "beit3.pth")))


def test_mistakes(job):
    with pytest.raises(SettingsError, match=r"train\.oneref.*epoch"):
        OneRefTask(job(epoks=3))
    with pytest.raises(SettingsError, match="flip_share: masks are not mirrored"):
        OneRefTask(job(head="masks", augment={"flip_share": 0.5}))
    with pytest.raises(WeightsError, match=r"beit3\.spm"):
        OneRefTask(job(tokenizer="beit3.spm"))
    bare = [replace(s, expressions=tuple(replace(e, mask=None) for e in s.expressions)) for s in SCENES]
    with pytest.raises(DataError, match="the train split has no masks"):
        OneRefTask(job(head="masks", fields={"scenes": bare}))
    first = replace(SCENES[0], expressions=(replace(SCENES[0].expressions[0], mask=None),))
    with pytest.raises(DataError, match=r"train-000000\.png, expression .*: it has no mask"):
        OneRefTask(job(head="masks", fields={"scenes": [first, *SCENES[1:]]})).dataset().sample(0, 0)
    assert decode(VALIDATION[0].expressions[0].mask).any()
