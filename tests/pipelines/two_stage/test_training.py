"""The trainings of two-stage pipelines: they fine-tune, the seed decides, they resume, and mistakes are named."""

from dataclasses import replace

import pytest
import torch
from training_world import check_one_process, stopped_and_resumed

from bench.errors import SettingsError, UsageError, WeightsError
from bench.grounding import LoadedScene
from bench.settings import load_settings, merged
from bench.training.gradient_check import gradient_check
from bench.training.jobs import train_pipeline
from bench.training.step import OptimisationStep
from bench.training.trainer import train
from pipelines import weights
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions
from pipelines.two_stage.clip.ranking import RankerOptions
from pipelines.two_stage.pipeline import tasks
from pipelines.two_stage.proposers.proposals import open_proposer
from tools.tiny_weights.architectures import write_clip, write_detr, write_ssd

SHAPES = ["circle", "cross", "heart", "moon", "ring", "square", "star", "triangle"]
PARTS = [("ssd-clip", "detector"), ("detr-clip", "detector"), ("ssd-clip", "clip")]
SHORT = {"epochs": 2, "batch": 5, "workers": 0, "save_every": 1, "log_every": 1, "learning_rate": 1e-3, "ema": 0.5}
OF_CLIP = {"wise": False, "warm_up": 10, "early_stop": 0}


def start_file(folder, pipeline, part, names=SHAPES):
    """A small network with random weights."""
    folder.mkdir(exist_ok=True)
    path = folder / f"start-{pipeline}-{part}-{len(names)}.safetensors"
    if part == "clip":
        write_clip(path, "tiny-clip", ["striped plain dotted checkered red green blue star circle ring"], seed=0)
    elif pipeline == "ssd-clip":
        write_ssd(path, names, 0, image_size=64, stem=8, channels=(16, 16, 16, 16), pyramid=16)
    else:
        write_detr(path, names, 0, image_size=64, width=32, decoder_layers=2, queries=8)
    return path


@pytest.fixture
def make(job, tmp_path):
    """make(pipeline, part, out="out", seed=0, names=..., **changes): a task."""

    def task(pipeline, part, out="out", seed=0, names=SHAPES, **changes):
        start = start_file(tmp_path / "start", pipeline, part, names)
        recipe = {"start_from": str(start), **SHORT, **(OF_CLIP if part == "clip" else {}), **changes}
        return tasks(job(pipeline, out, seed, **{part: recipe}))[part]()

    return task


@pytest.mark.slow
@pytest.mark.parametrize(("pipeline", "part"), PARTS)
def test_it_resumes_to_the_bit(make, pipeline, part):
    """After a stop in the second epoch; which also shows that the seed decides everything."""
    of_clip = {"batch": 12, "ema": 0.0, "candidates": 4}  # its step file is large
    changes, stop_at = (of_clip, 1) if part == "clip" else ({}, 4)
    stopped_and_resumed(lambda out: make(pipeline, part, out, **changes), [(OptimisationStep, "step", stop_at)])


@pytest.mark.slow
@pytest.mark.parametrize(("pipeline", "part"), PARTS)
def test_it_learns_a_little_and_another_seed_makes_others(make, pipeline, part, caplog):
    long = {"epochs": 24, "batch": 12, "ema": 0.0, "learning_rate": 3e-3, "save_every": 99, "validate_every": 24}
    small = {"candidates_from": "annotations", "candidates": 4, "epochs": 5, "loss": "choose"}
    long |= small if part == "clip" else {"backbone_share": 1.0, "keep_images": True}
    with caplog.at_level("INFO", "bench.train"):
        first = weights.read_safetensors(train(make(pipeline, part, **long)).path)[0]
    losses = [float(r.message.partition("loss ")[2].split()[0]) for r in caplog.records if ", loss " in r.message]
    assert losses[-1] < 0.9 * losses[0]
    other = weights.read_safetensors(train(make(pipeline, part, "other", seed=1, **long | {"epochs": 1})).path)[0]
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["ssd-clip", "detr-clip"])
def test_a_trained_detector_opens(make, context, loaded, pipeline):
    made = train(make(pipeline, "detector"))
    kind = pipeline.removesuffix("-clip")
    assert made.path.name == f"{kind}.safetensors" and made.recipe["epochs"] == 2
    assert 0 <= made.score["recall@0.75"] <= made.score["recall@0.5"] <= 1
    table = {"kind": kind, "weights": str(made.path), "confidence": 0.0}
    (proposals,) = open_proposer(table, "test", context()).propose([LoadedScene("s", loaded[1][0].image, ())])
    assert len(proposals) >= 2 and set(proposals.labels) <= {*SHAPES, ""}


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["ssd-clip", "detr-clip"])
@pytest.mark.parametrize(("names", "kept"), [(["thing", "stuff"], False), ([*SHAPES, "tree"], True)])
def test_classes_that_the_start_lacks_make_a_new_head(make, pipeline, names, kept):
    """Everything else starts as in the file; where it knows the split's classes, its own stay."""
    task = make(pipeline, "detector", names=names)
    assert task.names == (names if kept else SHAPES)
    start = weights.read_safetensors(start_file(task.job.out.parent / "start", pipeline, "detector", names))[0]
    same = {key: torch.equal(tensor, start[key]) for key, tensor in task.model.state_dict().items()
            if start[key].shape == tensor.shape}  # fmt: skip
    assert all(same.values()) and (len(same) == len(start)) == kept


@pytest.mark.slow
def test_a_torchvision_network_goes_through_its_file(job, context, tmp_path, loaded):
    from torchvision.models import get_model

    torch.manual_seed(0)
    state = get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None).state_dict()
    torch.save(state, tmp_path / "lite.pth")
    task = tasks(job("ssd-clip", detector={"start_from": str(tmp_path / "lite.pth")}))["detector"]()
    assert task.names == SHAPES  # of which COCO knows none
    task.save(tmp_path / "ssd.safetensors")
    table = {"kind": "ssd", "weights": str(tmp_path / "ssd.safetensors"), "confidence": 0.0}
    (proposals,) = open_proposer(table, "test", context()).propose([LoadedScene("s", loaded[1][0].image, ())])
    assert len(proposals) and set(proposals.labels) <= {*SHAPES, ""}


@pytest.mark.slow
def test_a_trained_clip_opens(make, context):
    made = train(make("ssd-clip", "clip", epochs=1))
    assert {"accuracy", "accuracy/attribute"} <= made.score.keys() and made.recipe["model"] == "tiny-clip"
    encoder = ClipEncoder(ClipOptions(model="tiny-clip", pretrained=str(made.path)), context())
    assert encoder.encode_texts(["the red star"]).shape == (1, 96)


@pytest.mark.slow
def test_the_first_step_of_a_batch_is_taken_whole(make):
    """The check's loss is that of all scenes together, and so are its gradients."""
    checked = gradient_check(make("ssd-clip", "clip"))
    task = make("ssd-clip", "clip")
    data = task.dataset(augment=False)
    terms = task.losses(task.collate([data.sample(0, row) for row in range(len(data))]), torch.Generator())
    loss = sum(task.loss_weights[name] * term for name, term in terms.items())
    assert checked["rows"] == len(data) and checked["loss"] == pytest.approx(loss.item(), rel=1e-4)
    loss.backward()
    expected = task.model.visual.conv1.weight.grad.norm().item()
    assert checked["gradient_norms"]["visual.conv1.weight"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("pipeline", "part"), PARTS)
def test_several_processes_are_refused(make, tmp_path, pipeline, part):
    check_one_process(make(pipeline, part), tmp_path)


@pytest.mark.slow
def test_without_a_start_it_goes_on_from_the_pipelines_own(job):
    parts = tasks(job("detr-clip"))
    assert parts["detector"]().config.start_from == "pipelines/weights/tiny-detr.safetensors"
    config = parts["clip"]().config
    assert (config.model, config.start_from) == ("tiny-clip", "pipelines/weights/tiny-clip.safetensors")


def test_mistakes_are_named(job):
    with pytest.raises(SettingsError, match=r"train\.ssd-clip\].*unknown key 'clap'.*detector.*clip"):
        tasks(job("ssd-clip", clap={}))
    with pytest.raises(SettingsError, match=r"\[train\.detr-clip\.detector\].*'epoch'.*epochs"):
        tasks(job("detr-clip", detector={"epoch": 3}))["detector"]()
    with pytest.raises(WeightsError, match=r"gone\.safetensors"):
        tasks(job("ssd-clip", detector={"start_from": "gone.safetensors"}))["detector"]()


@pytest.mark.parametrize(
    ("environment", "fresh", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, False, "yolo-clip, part detector: ultralytics.*one proc"),
        ({}, True, "ultralytics.*starts anew.*--fresh"),
    ],
)
def test_what_ultralytics_cannot_do_is_refused(monkeypatch, tmp_path, environment, fresh, message):
    pytest.importorskip("ultralytics")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    resolved = load_settings(flags={"run.device": "cpu", "run.offline": True, "data.shapes.train": 2})
    with pytest.raises(UsageError, match=message):
        train_pipeline("yolo-clip", "shapes-train", resolved, "detector", None, tmp_path, None, {}, fresh=fresh)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("views", [["roi"], ["crop", "roi"]])
def test_a_clip_is_trained_on_the_views_of_its_ranker(job, context, tmp_path, views):
    start = start_file(tmp_path / "start", "yolo-clip", "clip")
    options = merged(context().options, {"ranker": {"views": views}})
    given = replace(job("yolo-clip", clip={"start_from": str(start)}), context=context(options=options))
    task = tasks(given)["clip"]()
    batch = task.collate([task.dataset().sample(0, n) for n in range(2)])
    losses = task.losses(batch, torch.Generator())
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and ("view" in losses) == (len(views) > 1)
    assert task.model.visual.class_embedding.grad.abs().sum() > 0
    # The loss is that of these views.
    task.towers.ranker = RankerOptions(views=("blur",))
    assert not torch.isclose(task.losses(batch, torch.Generator())["choose"], losses["choose"])
