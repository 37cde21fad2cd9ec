"""SAM and SAM 2 around a pipeline, by the library's own models: tiny, random weights, files of the real format."""

import json

import numpy as np
import pytest
import torch
import transformers as hf
from small_models import sam, sam2

from bench.errors import SettingsError, UnknownName, WeightsError
from bench.evaluation.identity import data_identity, hash_of, identity_of, weights_of
from bench.evaluation.loop import evaluate
from bench.evaluation.opening import open_pipeline, pipeline_context
from bench.grounding import LoadedScene, Query
from bench.hashing import spelled_out
from bench.masks import decode
from bench.runs.integrity import checked_record, complete_rows
from bench.runs.shards import Rank
from bench.settings import load_settings
from bench.tables import complete, same_options

BOXES = [(5.0, 5.0, 40.0, 30.0), (20.5, 8.0, 89.0, 49.0), (-10.0, -10.0, 200.0, 200.0)]


@pytest.fixture(scope="module", params=[sam, sam2], ids=["sam", "sam2"])
def model(request, tmp_path_factory):
    """(kind, folder) of a model of each family."""
    folder = tmp_path_factory.mktemp("models") / request.param.__name__
    torch.manual_seed(0)
    hf.utils.logging.disable_progress_bar()
    request.param(folder)
    return request.param.__name__, str(folder)


@pytest.fixture
def resolved(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    flags = {"run.device": "cpu", "run.offline": True, "results": str(tmp_path / "results"), "evaluation.draws": 200}
    return load_settings(flags=flags)


def image_of(height=50, width=90):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)


def test_a_mask_is_the_librarys_own_for_the_box(model, resolved):
    kind, folder = model
    pipeline = open_pipeline("whole-image", "shapes", resolved, {"masks": {"kind": kind, "weights": folder}}).pipeline
    image = image_of()
    masks = pipeline.segment(image, BOXES[:2])
    whole, own = (hf.SamProcessor, hf.SamModel) if kind == "sam" else (hf.Sam2Processor, hf.Sam2Model)
    processor = whole(hf.AutoImageProcessor.from_pretrained(folder))
    inputs = processor(images=[image], input_boxes=[[list(box) for box in BOXES[:2]]], return_tensors="pt")
    with torch.inference_mode():
        network = own.from_pretrained(folder).eval()
        wanted = {k: v for k, v in inputs.items() if k in ("pixel_values", "input_boxes")}
        out = network(**{k: v.float() for k, v in wanted.items()}, multimask_output=False)
    sizes = [inputs["original_sizes"]] + ([inputs["reshaped_input_sizes"]] if kind == "sam" else [])
    (inside,) = processor.image_processor.post_process_masks(out.pred_masks, *sizes)
    for n, box in enumerate(BOXES[:2]):
        mine, theirs = decode(masks[box]), inside[n, 0].numpy()
        assert mine.shape == (50, 90) and (mine != theirs).mean() < 0.002  # a pixel at the edge may go either way


def test_every_box_gets_one_and_an_image_is_encoded_once(model, resolved, monkeypatch):
    kind, folder = model
    options = {"masks": {"kind": kind, "weights": folder, "boxes_at_once": 2}}
    pipeline = open_pipeline("whole-image", "shapes", resolved, options).pipeline
    encoded = []
    embed = pipeline.model.get_image_embeddings
    monkeypatch.setattr(pipeline.model, "get_image_embeddings", lambda x, **k: encoded.append(x) or embed(x, **k))
    scenes = [
        LoadedScene(str(n), image_of(height, width), tuple(Query(f"{n}-{k}", "it") for k in range(3)))
        for n, (height, width) in enumerate(((50, 90), (90, 50), (300, 9)))
    ]
    predictions = pipeline.ground(scenes)
    assert [p.id for p in predictions] == [q.id for s in scenes for q in s.queries] and len(encoded) == 3
    for scene, *own in zip(scenes, predictions[::3], predictions[1::3], predictions[2::3], strict=True):
        assert {tuple(p.mask["size"]) for p in own} == {scene.image.shape[:2]} and own[0].mask is own[2].mask
    assert len(pipeline.segment(scenes[0].image, BOXES)) == 3  # in two passes of the decoder


def test_a_run_has_the_masks_and_another_identity(model, resolved, tmp_path):
    kind, folder = model
    from bench.datasets.load import load_split

    split, table = load_split("shapes-val", resolved).limited(3), {"masks": {"kind": kind, "weights": folder}}
    run = evaluate("centre-box", split, resolved, table, rank=Rank())
    bare = evaluate("centre-box", split, resolved, {}, rank=Rank())
    record = checked_record(run.folder)
    assert record.metrics.hits == bare.record.metrics.hits and bare.record.metrics.masks is None
    assert record.metrics.masks.n == split.counts.expressions
    assert record.settings_hash != bare.record.settings_hash and "masks" in record.identity.weights
    assert f"masks of the boxes by {kind}" in record.card["summary"]
    rows = complete_rows(run.folder, record, split.scenes)
    assert all(answer.mask for row in rows.values() for answer in row.answers)
    # The same command again reports it, and the identity is of the weights' contents.
    assert evaluate("centre-box", split, resolved, table, rank=Rank()).already_done
    context = pipeline_context("centre-box", split, resolved, table)
    card = open_pipeline("centre-box", split, resolved, table).card
    identity = identity_of(context, data_identity(split), False, card.weights, weights_of(card))
    assert hash_of(identity) == record.settings_hash
    assert identity.options["masks"]["weights"].startswith("sha256:") and folder not in json.dumps(
        identity.model_dump()
    )


def test_the_short_form_and_the_table_with_its_defaults():
    assert spelled_out({"masks": "sam"}) == {"masks": {"kind": "sam"}}
    filled = complete("pipelines", "whole-image", {"masks": {"kind": "sam2"}})
    assert filled["masks"] == {"kind": "sam2", "weights": "facebook/sam2.1-hiera-tiny", "boxes_at_once": 64}
    assert same_options("whole-image", {"masks": {"kind": "sam2"}}, filled)
    assert not same_options("whole-image", {}, filled)


def test_bad_options_are_named(resolved, tmp_path):
    for masks, error, says in (
        ("saam", UnknownName, "no mask maker is called 'saam'; did you mean 'sam'"),
        (
            {"kind": "sam", "weight": "x"},
            SettingsError,
            r"\[pipelines.whole-image.masks\]: unknown key 'weight'; did",
        ),
        ({"kind": "sam", "weights": str(tmp_path / "none")}, WeightsError, "none"),
        ("sam", WeightsError, "(?s)masks 'sam': the weights facebook/sam-vit-base are not there.*hf download"),
    ):
        with pytest.raises(error, match=says):
            open_pipeline("whole-image", "shapes", resolved, {"masks": masks})
