"""Weights: where files are searched, and which are refused."""

import logging
import pickle
import re

import open_clip
import pytest
import torch

from bench.errors import MissingPackage, SettingsError, UnknownName, WeightsError
from bench.hashing import find_file
from bench.install import pip_install
from pipelines import weights
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions, empty_model
from pipelines.two_stage.pipeline import options_of, two_stage
from pipelines.two_stage.proposers import yolo
from pipelines.two_stage.proposers.yolo import YoloOptions, YoloProposer, read_model

TINY_CLIP = "pipelines/weights/tiny-clip.safetensors"
TINY_YOLO = "pipelines/weights/tiny-yolo.safetensors"


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_file_is_looked_for_in_three_places(context, tmp_path):
    ctx = context(folder=tmp_path / "a", home=tmp_path / "b")
    assert find_file("w.pt", ctx) is None
    for place in (tmp_path / "b" / "weights", tmp_path / "a"):
        place.mkdir(parents=True)
        (place / "w.pt").write_bytes(b"x")
        assert find_file("w.pt", ctx) == (place / "w.pt").resolve()


def test_round_trip_in_half_precision(tmp_path):
    state = {"a": torch.randn(3, 4), "n": torch.tensor(7)}
    weights.write_safetensors(tmp_path / "w.safetensors", state, {"names": ["x", "y"], "n": 3})
    back, metadata = weights.read_safetensors(tmp_path / "w.safetensors")
    assert metadata == {"names": ["x", "y"], "n": 3}
    assert torch.equal(back["a"], state["a"].half().float()) and back["n"] == 7
    assert list(tmp_path.iterdir()) == [tmp_path / "w.safetensors"]


def test_equal_weights_are_equal_files(tmp_path):
    metadata = {f"key {n}": n for n in range(12)}
    files = [tmp_path / f"{n}.safetensors" for n in range(6)]
    for file in files:
        weights.write_safetensors(file, {"b": torch.arange(5.0), "a": torch.ones(3, 2)}, metadata)
    assert len({file.read_bytes() for file in files}) == 1
    tensors, stored = weights.read_safetensors(files[0])
    assert stored == metadata and torch.equal(tensors["b"], torch.arange(5.0))


def test_another_architecture_is_refused_with_the_keys(tmp_path):
    model = torch.nn.Linear(3, 2)
    message = r"1 keys missing: bias; 1 keys not known .*: other; 1 keys of another shape"
    with pytest.raises(WeightsError, match=message):
        weights.load_strictly(model, {"weight": torch.zeros(5, 2), "other": torch.zeros(1)}, "w")


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04" + b"x" * 30])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_broken_files_are_one_message(context, tmp_path, content, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=path.name):
        read_model(path)
    with pytest.raises(WeightsError, match=path.name):
        ClipEncoder(ClipOptions(model="tiny-clip", pretrained=str(path)), context())


@pytest.mark.slow
@pytest.mark.parametrize("pack", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_a_hostile_checkpoint_is_refused_and_never_run(context, tmp_path, pack):
    path, trace = tmp_path / "w.pt", tmp_path / "it-ran"
    pack({"model": Bomb(trace), "state_dict": Bomb(trace)}, path)
    with pytest.raises(WeightsError, match=r"w\.pt"):
        read_model(path)
    with pytest.raises(WeightsError, match=r"w\.pt"):
        ClipEncoder(ClipOptions(model="tiny-clip", pretrained=str(path)), context())
    assert not trace.exists()


def test_a_checkpoint_of_something_else(tmp_path, context):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"w\.pt"):
        read_model(tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="no format 'bench-yolo'"):
        YoloProposer(YoloOptions(weights=TINY_CLIP), context())


def test_what_is_not_there_says_where_it_was_looked_for(context, tmp_path):
    with pytest.raises(WeightsError, match=r"(?s)yolo99z\.pt.*home.*weights.*bench fetch yolo99z\.pt"):
        YoloProposer(YoloOptions(weights="yolo99z.pt"), context())
    for options, error, message in (
        ({"model": "tiny-clip", "pretrained": "nowhere/w.pt"}, WeightsError, r"nowhere/w\.pt"),
        ({"model": "ViT-B16"}, UnknownName, "ViT-B-16"),
        ({"pretrained": "openia"}, UnknownName, "published weights of ViT-B-16.*openai"),
        ({}, WeightsError, r"(?s)ViT-B-16 openai are not there.*offline.*bench fetch 'ViT-B-16 openai'"),
    ):
        with pytest.raises(error, match=message):
            ClipEncoder(ClipOptions(**options), context())


def test_the_weights_flag(context):
    both = context(options={"weights": "proposer=a.pt,clip=b.safetensors", "clip": {"model": "tiny-clip"}})
    options = options_of(both)
    assert options.proposer == {"weights": "a.pt"} and options.clip.pretrained == "b.safetensors"
    assert options_of(context(options={"weights": "a.pt"})).proposer == {"weights": "a.pt"}
    with pytest.raises(SettingsError, match="proposer=FILE,clip=FILE"):
        options_of(context(options={"weights": "detector=a.pt"}))
    with pytest.raises(SettingsError, match=r"proposer\].*'confidance'.*'confidence'"):
        two_stage(context(options={"proposer": {"kind": "yolo", "confidance": 0.1}}))


def test_without_ultralytics_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ultralytics", None)
    with pytest.raises(MissingPackage, match=re.escape(pip_install("yolo"))):
        yolo.ultralytics()


@pytest.mark.slow
def test_an_empty_model_silences_open_clip_alone(monkeypatch, caplog):
    """Its warning that the weights are random, and neither other logs nor the level that the process has set."""
    create = open_clip.create_model

    def logging_meanwhile(*args, **kwargs):
        logging.getLogger("bench").warning("from elsewhere")
        return create(*args, **kwargs)

    monkeypatch.setattr(open_clip, "create_model", logging_meanwhile)
    empty_model("tiny-clip", device="meta")
    assert [record.getMessage() for record in caplog.records] == ["from elsewhere"]
    monkeypatch.setattr(logging.root.manager, "disable", logging.INFO)
    empty_model("tiny-clip", device="meta")
    assert logging.root.manager.disable == logging.INFO


def test_a_value_beyond_float16_keeps_its_tensor_in_float32(tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {"large": torch.tensor([1e6, 1.5]), "small": torch.tensor([0.1])}
    weights.write_safetensors(path, tensors, {})
    kept = weights.read_safetensors(path)[0]
    assert torch.equal(kept["large"], tensors["large"]) and torch.equal(kept["small"], tensors["small"].half().float())
    with pytest.raises(WeightsError, match=r"w\.safetensors: not written: bad holds values that are not finite"):
        weights.write_safetensors(path, {"bad": torch.tensor([float("nan")])}, {})
    assert torch.equal(weights.read_safetensors(path)[0]["large"], tensors["large"])  # the file before is still there
