"""TransVG in training: what starts from what, what is trained how, what is refused, and that it resumes bit for bit."""

import plain_transvg
import pytest
import torch
import torchvision
from deconfounding import check_deconfounder
from training_world import lines_of, stopped_and_resumed
from transformers import BertConfig, BertModel

from bench.errors import SettingsError, WeightsError
from bench.grounding import LoadedScene
from bench.training import trainer
from bench.training.gradient_check import gradient_check
from bench.training.log import TrainingLog
from bench.training.step import OptimisationStep
from bench.training.trainer import Trainer, train
from pipelines.transvg.network import TransVG, TransVGConfig
from pipelines.transvg.pipeline import transvg
from pipelines.transvg.recipe import TransVGTraining
from pipelines.transvg.task import TransVGTask

SIZES = plain_transvg.SMALL


def test_the_default_config_is_the_papers():
    config = TransVGTraining()
    assert (config.epochs, config.drop_at, config.drop, config.schedule, config.schedule_by) == (
        90, pytest.approx(60 / 90), 0.1, "drop", "epoch",
    )  # fmt: skip
    assert (config.learning_rate, config.weight_decay, config.betas) == (1e-4, 1e-4, (0.9, 0.999))
    assert (config.l1, config.giou, config.reference_batch, config.clip_norm, config.ema) == (1, 1, 64, 0, 0)
    augment = config.augment
    assert (augment.crop, augment.flip_share, augment.flip_words, augment.blur_share) == ("official", 0.5, "inside", 0)
    assert augment.long_sides(640) == (640, 608, 576, 544, 512, 480, 448)


def test_parts_are_trained_as_in_the_official_code():
    """Numbers of the official code's groups, but for BERT's pooler, which gets no gradient there."""
    task = TransVGTask.__new__(TransVGTask)
    task.config = TransVGTraining()
    with torch.device("meta"):
        task.model = TransVG(TransVGConfig())
    groups = task.parameter_groups()
    sizes = [(len(g.parameters), sum(p.numel() for p in g.parameters.values()), g.lr_scale) for g in groups]
    pooler = 768 * 768 + 768
    assert sizes == [
        (84, 8_393_732, 1.0), (42, 23_232_512, 0.1), (74, 8_414_976, 0.1), (197, 109_482_240 - pooler, 0.1),
    ]  # fmt: skip
    task.config = TransVGTraining(text_share=0.0)
    assert [len(g.parameters) for g in task.parameter_groups()] == [84, 42, 74]


def test_everything_that_is_trained_gets_a_gradient(job):
    norms = gradient_check(TransVGTask(job()))["gradient_norms"]
    assert min(norm for name, norm in norms.items() if "key.bias" not in name) > 0
    assert not any("pooler" in name for name in norms)


def test_clean_preprocessing_brings_crops_and_words_that_stay_true(job):
    clean = TransVGTask(job(augment={})).augmentation
    assert (clean.crop, clean.flip_words, clean.flip_share) == ("safe", "whole", 0.5)
    official = TransVGTask(job(augment={}, preprocessing="auto")).augmentation
    assert (official.crop, official.flip_words) == ("official", "inside")
    assert TransVGTask(job(augment={"flip_words": "inside"})).augmentation.flip_words == "inside"


@pytest.fixture
def detr(small_table, tmp_path):
    """detr(**changes): a file as DETR's code leaves it, on the small network's image branch, with heads of its own."""

    def write(**changes):
        prefix = "visumodel."
        state = {key.removeprefix(prefix): t for key, t in small_table.items() if key.startswith(prefix)}
        others = {"query_embed.weight": torch.zeros(100, 64), "class_embed.weight": torch.zeros(92, 64)}
        torch.save({"model": state | others | changes, "epoch": 3}, tmp_path / "detr-r50.pth")
        return str(tmp_path / "detr-r50.pth")

    return write


SAME = {
    "image_size": SIZES.image, "tokens": SIZES.tokens, "hidden": SIZES.hidden, "feedforward": SIZES.feedforward,
    "encoder_layers": SIZES.encoder_layers, "layers": 1,
    "text_encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
}  # fmt: skip


@pytest.mark.slow
def test_the_image_branch_starts_from_a_detr(job, detr, small_table, tmp_path):
    task = TransVGTask(job(detr=detr(), network=SAME))
    assert task.notes["detr"] == {"file": "detr-r50.pth", "taken": 291, "of": 291}
    for key in ("visumodel.input_proj.bias", "visumodel.backbone.0.body.layer4.2.bn3.running_var"):
        assert torch.equal(task.model.state_dict()[key], small_table[key])
    # Another width of the encoder: most of the branch still comes.
    other = {f"transformer.encoder.layers.{i}.linear1.bias": torch.zeros(7) for i in range(2)}
    assert TransVGTask(job(detr=detr(**other), network=SAME)).taken["taken"] == 289
    with pytest.raises(WeightsError, match=r"a DETR on resnet50, but network\.backbone is resnet101"):
        TransVGTask(job(detr=detr(), network=SAME | {"backbone": "resnet101"}))
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match=r"resnet18\.pth: no DETR for this network: 0 of the image branch's 291"):
        TransVGTask(job(detr=str(tmp_path / "resnet18.pth"), network=SAME))


@pytest.mark.slow
def test_the_text_branch_starts_from_a_bert(job, vocabulary, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    bert = BertModel(BertConfig(vocab_size=SIZES.words, **sizes))
    bert.save_pretrained(tmp_path / "bert")
    task = TransVGTask(job(bert=str(tmp_path / "bert"), tokenizer=str(vocabulary)))
    own = task.model.textmodel.bert.state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in bert.state_dict().items())
    assert task.options(tmp_path / "own.safetensors")["tokenizer"] == str(vocabulary)
    assert (task.loaded.tokenizer_json, len(task.loaded.tokenizer)) == ("", SIZES.words)


@pytest.mark.slow
def test_it_learns_and_its_file_is_what_the_pipeline_opens(job, context):
    augment = {"crop": "off", "flip_share": 0.0}
    mine = job(epochs=12, learning_rate=3e-3, log_every=4, validate_every=12, augment=augment)
    made = train(TransVGTask(mine))
    losses = [line["loss"] for line in lines_of(mine.out) if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    loaded = [LoadedScene(s.id, mine.images.load(s), tuple(e.query for e in s.expressions)) for s in mine.validation]
    pipeline = transvg(context("transvg", options={"weights": str(made.path)}))
    answers = pipeline.ground(loaded)
    assert "clean preprocessing" in pipeline.card.summary and all(a.box is not None for a in answers)
    again = TransVGTask(job("again", start_from=str(made.path), preprocessing="auto"))
    assert again.loaded.style == "clean" and gradient_check(again)["rows"] == 25


@pytest.mark.slow
def test_rows_of_an_image_share_its_encoding_with_the_same_losses(job):
    plain = {"augment": {"crop": "off", "jitter_share": 0.0, "translate": False, "scales": (32,), "flip_share": 0.0}}
    task = TransVGTask(job(group="image", **plain))
    task.model.eval()
    rows, data = list(range(9)), task.dataset()
    together, apart = task.collate(data.samples(0, rows)), task.collate([data.sample(0, row) for row in rows])
    assert len(together.images) < len(apart.images) == 9
    one, other = (task.losses(batch, torch.Generator()) for batch in (together, apart))
    assert all(torch.allclose(one[key], other[key], atol=1e-6) for key in ("l1", "giou", "boxes"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"workers": 1}, {"group": "image", "ema": 0.8, "clip_norm": 1.0},
     {"preprocessing": "official", "augment": {}, "dtype": "bfloat16"}],
)  # fmt: skip
def test_killed_anywhere_it_ends_in_the_same_bits(job, changes):
    kills = [(OptimisationStep, "step", call, after) for call, after in ((2, False), (5, True), (1, True))]
    kills += [(Trainer, "validate", 1, True), (trainer, "save", 1), (TrainingLog, "draw", 1), (Trainer, "finish", 1)]
    assert stopped_and_resumed(lambda out: TransVGTask(job(out, **changes)), kills)[-1] == 8


def test_mistakes(job, context):
    with pytest.raises(SettingsError, match=r"train\.transvg.*epoch"):
        TransVGTask(job(epoks=3))
    with pytest.raises(SettingsError, match="48 is more than the canvas's 32 pixels"):
        TransVGTask(job(augment={"crop": "safe", "scales": [48]})).dataset()
    with pytest.raises(WeightsError, match=r"detr-r50-unc\.pth[\s\S]*github\.com/djiajunustc/TransVG"):
        TransVGTask(job(detr="detr-r50-unc.pth"))
    with pytest.raises(WeightsError, match=r"none\.pth"):
        transvg(context("transvg", options={"weights": "none.pth"}))


@pytest.mark.slow
def test_with_a_red_style_deconfounder(job, context, tmp_path):
    def opened(path, **options):
        return transvg(context("transvg", dataset="shapes", options={"weights": str(path), **options}))

    check_deconfounder(lambda out, **changes: TransVGTask(job(out, **changes)), opened, tmp_path)
