"""DETR proposals: tiny random models of several families, saved as the hub saves them, and our own small one."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForObjectDetection, DetrImageProcessor, RTDetrImageProcessor

from bench.boxes import iou_pairwise
from bench.errors import WeightsError
from bench.grounding import LoadedScene
from pipelines.folding import fold_norms
from pipelines.two_stage.proposers import detr
from pipelines.two_stage.proposers.detr import FOLDED, DetrOptions, DetrProposer, read_model, write_model
from pipelines.two_stage.proposers.tasks import DetrTask

RESNET = {"model_type": "rt_detr_resnet", "embedding_size": 8, "hidden_sizes": [8, 12, 16, 24], "depths": [1] * 4}
RESNET |= {"layer_type": "basic", "out_indices": [2, 3, 4]}
NECK = {"backbone_config": RESNET, "encoder_in_channels": [12, 16, 24], "encoder_hidden_dim": 16, "d_model": 16}
NECK |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "decoder_in_channels": [16] * 3, "num_queries": 12}
NECK |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_layers": 2, "hidden_expansion": 0.5}
PLAIN = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "num_queries": 12}
PLAIN |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "backbone": None}
PLAIN |= {"use_timm_backbone": False, "use_pretrained_backbone": True}  # as facebook/detr-resnet-50 says
PLAIN |= {"backbone_config": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12, 16, 24]}}
PLAIN["backbone_config"] |= {"depths": [1] * 4, "layer_type": "basic", "out_features": ["stage4"]}
FAMILIES = {"detr": PLAIN, "rt_detr_v2": NECK, "d_fine": NECK, "conditional_detr": PLAIN}


def save(family, folder):
    """A folder as the hub's repositories are, with random weights that tell images apart."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, id2label={i: f"c{i}" for i in range(5)}, **FAMILIES[family])
    model = AutoModelForObjectDetection.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:  # as initialised, all queries answer nearly the same
            parameter.data.normal_(0, (2 if FAMILIES[family] is PLAIN else 0.6) * parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    if family in ("detr", "conditional_detr"):
        processor = DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    else:
        processor = RTDetrImageProcessor(size={"height": 64, "width": 64})
    processor.save_pretrained(folder)
    return model, processor


@pytest.fixture(scope="module", params=list(FAMILIES))
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return folder, *save(request.param, folder)


def scenes():
    rng = np.random.default_rng(0)
    sizes = [(60, 90), (90, 60), (60, 90), (33, 120)]
    return [LoadedScene(str(i), rng.integers(0, 255, (*size, 3), np.uint8), ()) for i, size in enumerate(sizes)]


@pytest.mark.slow
def test_neighbours_do_not_matter_and_boxes_are_those_of_the_plain_model(context, saved):
    """Images of several sizes together; each as alone, and as the library's own three calls say it."""
    folder, model, processor = saved
    options = DetrOptions(weights=str(folder), confidence=0.0, top_k=200, same_iou=1.0, whole_image=False)
    proposer = DetrProposer(options, context())
    images = scenes()
    for scene, mine in zip(images, proposer.propose(images), strict=True):
        (alone,) = proposer.propose([scene])
        assert mine.labels == alone.labels and np.allclose(mine.boxes, alone.boxes, atol=1e-3)
        with torch.inference_mode():
            out = model(**processor(images=scene.image, return_tensors="pt"))
        (plain,) = processor.post_process_object_detection(out, threshold=0.0, target_sizes=[scene.image.shape[:2]])
        height, width = scene.image.shape[:2]
        theirs = plain["boxes"].numpy().clip(0, [width, height, width, height])
        names = [model.config.id2label[int(c)] for c in plain["labels"]]
        apart = np.abs(mine.boxes[:, None] - theirs).max(axis=2)
        apart += 1e3 * np.abs(mine.scores[:, None] - plain["scores"].numpy())
        apart[np.array(mine.labels)[:, None] != np.array(names)] = np.inf
        assert len(mine) >= 2 and apart.min(axis=1).max() < 0.05
        real = (theirs[:, 2:] - theirs[:, :2]).prod(axis=1) >= 1
        assert mine.scores[0] == pytest.approx(plain["scores"].numpy()[real].max(), abs=1e-5)


@pytest.mark.slow
def test_a_batch_has_the_pixels_and_the_boxes_of_the_processor(context, saved, monkeypatch):
    """Also where images were prepared before, one by one; and in a batch the device is copied from once."""
    folder, _, processor = saved
    options = DetrOptions(weights=str(folder), confidence=0.01, top_k=200, same_iou=1.0)
    proposer, images = DetrProposer(options, context()), scenes()
    for scene in images:
        theirs = processor(images=scene.image, do_pad=False, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(proposer.prepare(scene.image), theirs)
    prepared = [replace(scene, prepared=proposer.prepare(scene.image)) for scene in images]
    found = [proposer.propose(images), proposer.propose(prepared)]
    monkeypatch.setattr(detr, "SCORES", {})
    for plain, *ours in zip(proposer.propose(images), *found, strict=True):
        for mine in ours:
            assert mine.labels == plain.labels and len(mine) > 2
            assert np.abs(mine.boxes - plain.boxes).max() < 1e-4 and np.abs(mine.scores - plain.scores).max() < 1e-6


@pytest.mark.slow
def test_nothing_is_fetched_for_the_backbone(context, saved, monkeypatch):
    """facebook/detr's configurations ask for a pretrained backbone; the checkpoint holds it already."""
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("a connection was tried"))
    proposer = DetrProposer(DetrOptions(weights=str(saved[0])), context(offline=False))
    assert proposer.parameters == sum(p.numel() for p in saved[1].parameters())
    assert proposer.sha256[f"{saved[0].name}/model.safetensors"]


@pytest.mark.slow
def test_every_family_fine_tunes(context, job, saved, tmp_path):
    """A bfloat16 step on images of several sizes; the file opens with the model's own processor."""
    task = DetrTask(job("detr-clip", start_from=str(saved[0])))
    data = task.dataset()
    batch = task.collate([data.sample(0, index) for index in range(3)])
    with torch.autocast("cpu", torch.bfloat16):
        terms = task.losses(batch, torch.Generator())
    terms["detection"].backward()
    assert all(torch.isfinite(term) for term in terms.values()) and "loss_bbox" in terms
    with torch.no_grad():
        next(p for p in reversed(list(task.model.parameters())) if p.grad is not None and p.grad.any()).mul_(1.1)
    task.save(path := tmp_path / "detr.safetensors")
    assert read_model(path)[1].to_dict() == task.processor.to_dict()
    before = task.model.eval()(pixel_values=batch.pixels[:1].float()).pred_boxes
    after = read_model(path)[0].eval()(pixel_values=batch.pixels[:1].float()).pred_boxes
    assert torch.allclose(before, after, atol=0.05)


def test_a_processor_that_is_none_and_a_pickle_are_refused(saved, tmp_path):
    write_model(tmp_path / "x.safetensors", *saved[1:], {"processor": {"image_processor_type": "GenerationMixin"}})
    with pytest.raises(WeightsError, match="'GenerationMixin', which is no image processor"):
        read_model(tmp_path / "x.safetensors")
    (tmp_path / "x.pt").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"x\.pt: expected a \.safetensors"):
        read_model(tmp_path / "x.pt")


@pytest.mark.slow
def test_the_same_box_under_several_classes_is_one_proposal(context, tmp_path):
    save("rt_detr_v2", tmp_path)
    everything = {"weights": str(tmp_path), "confidence": 0.0, "top_k": 200, "whole_image": False}
    (kept,) = DetrProposer(DetrOptions(**everything, same_iou=0.9), context()).propose(scenes()[:1])
    overlap = iou_pairwise(kept.boxes, kept.boxes)[~np.eye(len(kept), dtype=bool)]
    assert len(kept) >= 2 and overlap.max() <= 0.9


def test_weights_that_are_nowhere_say_how_to_get_them(context):
    with pytest.raises(WeightsError, match=r"(?s)detr-resnet-50.*offline.*weights/huggingface.*hf download"):
        DetrProposer(DetrOptions(), context())
    with pytest.raises(WeightsError, match=r"gone\.safetensors"):
        DetrProposer(DetrOptions(weights="gone.safetensors"), context())


@pytest.mark.slow
def test_half_a_checkpoint_is_refused(context, tmp_path):
    from safetensors.torch import load_file, save_file

    save("detr", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    lost = next(k for k in state if "bbox_predictor" in k)
    save_file({k: v for k, v in state.items() if k != lost}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"1 of its keys are missing.*bbox_predictor"):
        DetrProposer(DetrOptions(weights=str(tmp_path)), context())


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FOLDED))
def test_an_architecture_that_is_folded_computes_the_same(tmp_path, family):
    """With statistics that are not those of a new norm, where the wrong convolution would change all boxes."""
    plain, _ = save(family, tmp_path)
    for module in plain.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.3), module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.3, 0.9), module.bias.data.normal_(0, 0.1)
    plain.double()  # many anchors of an untrained network score alike: in 32 bits rounding chooses among them
    folded = copy.deepcopy(plain)
    assert fold_norms(folded) > 4
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        expected, out = plain(pixel_values=pixels), folded(pixel_values=pixels)
    for mine, theirs in ((out.pred_boxes, expected.pred_boxes), (out.logits, expected.logits)):
        assert torch.allclose(mine, theirs, atol=1e-9)


@pytest.mark.slow
def test_an_architecture_of_unknown_order_is_not_folded(context, tmp_path, monkeypatch):
    save("detr", tmp_path)
    options = DetrOptions(weights=str(tmp_path))
    norms = [any("running_var" in key for key in DetrProposer(options, context()).model.state_dict())]
    monkeypatch.setattr(detr, "FOLDED", frozenset())
    norms += [any("running_var" in key for key in DetrProposer(options, context()).model.state_dict())]
    assert norms == [False, True]
