"""The pipeline over real small networks: its tokens, where samples start, and what its boxes depend on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.errors import SettingsError, WeightsError
from bench.grounding import LoadedScene
from pipelines.diffusion.checkpoint import open_head
from pipelines.diffusion.network import DiffusionHead
from pipelines.diffusion.pipeline import diffusion
from pipelines.on_canvas import FusesTokens

NETWORKS = ("clipvg", "transvg")


def boxes_of(predictions):
    return {p.id: p.box for p in predictions}


def same(ours, theirs, atol=1e-2):
    assert ours.keys() == theirs.keys()
    for key, box in ours.items():
        assert np.allclose(box, theirs[key], atol=atol), (key, np.subtract(box, theirs[key]))


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_hook_gives_every_token_and_the_networks_own_boxes(source, some, kind):
    below = source(kind)
    canvases = [below.prepare(scene.image) for scene in some]
    pairs = [(n, query.text) for n, scene in enumerate(some) for query in scene.queries]
    cells = []

    def fuse(rows, padding):
        fused = below.fused(rows, padding)
        assert fused.tokens.shape == (*rows[0].shape[:1], 1 + rows[0].shape[1], below.width)
        assert torch.equal(fused.before, rows[0]) and (fused.cells < below.side**2).all()
        kept = torch.ones_like(fused.cells, dtype=torch.bool) if padding is None else ~padding
        cells.extend(row[keep & (row >= 0)] for row, keep in zip(fused.cells, kept, strict=True))
        return fused.boxes

    assert isinstance(below, FusesTokens)
    with torch.inference_mode():
        boxes = below.engine.ground(canvases, pairs, fuse)
        assert torch.allclose(boxes, below.rows(canvases, pairs)[:, :4], atol=1e-5)
    # The cells of a wide image are whole rows of the canvas, each once.
    for row in cells:
        assert len(row) == len(row.unique()) and len(row) % below.side == 0


@pytest.mark.parametrize("kind", NETWORKS)
def test_boxes_are_those_of_the_contents_alone(opened, some, kind):
    pipeline = opened(kind)
    together = boxes_of(pipeline.ground(some))
    same(boxes_of([p for scene in reversed(some) for p in pipeline.ground([scene])]), together)
    new = [LoadedScene(f"{s.id}#1", s.image, s.queries) for s in some]
    same(boxes_of(pipeline.ground(new)), together)
    alone = [replace(scene, queries=(query,)) for scene in some for query in reversed(scene.queries)]
    same(boxes_of(pipeline.ground(alone)), together)
    predictions = pipeline.ground(some)
    assert all(0 <= p.score <= 1 + 1e-6 for p in predictions)


def test_another_seed_samples_other_boxes(opened, some):
    first, again, other = (boxes_of(opened(seed=seed).ground(some)) for seed in (0, 0, 1))
    same(first, again, atol=0)
    assert not any(np.allclose(first[key], other[key], atol=1e-3) for key in first)


@pytest.fixture
def no_head(monkeypatch):
    """A head that predicts what it is given: samples end where they start."""

    def predict(self, memory, noisy, u):
        return noisy[None], torch.zeros(noisy.shape[:-1])

    monkeypatch.setattr(DiffusionHead, "predict", predict)


def test_a_refined_box_starts_at_the_networks_own_or_another_pipelines(opened, source, some, no_head):
    few = {"truncate": 1e-6, "steps": 1}
    own = boxes_of(source("clipvg").ground(some))
    inside = {key: box for key, box in own.items() if box[0] > 1 and box[1] > 1}
    refined = boxes_of(opened(start="network", **few).ground(some))
    assert len(inside) > 3 and all(np.allclose(refined[key], inside[key], atol=1.5) for key in inside)
    centred = opened(start={"kind": "centre-box", "share": 0.25}, **few)
    for scene in some:
        height, width = scene.image.shape[:2]
        expected = np.array([0.375 * width, 0.375 * height, 0.625 * width, 0.625 * height])
        assert all(np.allclose(p.box, expected, atol=1.5) for p in centred.ground([scene]))
    assert "from the boxes of centre-box" in centred.card.summary
    apart = boxes_of(opened(start="network", truncate=1.0, steps=1).ground(some))
    assert not any(np.allclose(apart[key], inside[key], atol=1.5) for key in inside)


def test_the_other_pipeline_gets_the_scenes_as_they_are(opened, some, monkeypatch):
    """Boxes of a file would else not move with a perturbed image; speed would find the other's cache full."""
    centred, given = opened(start="centre-box"), []
    answers = centred.start.ground
    monkeypatch.setattr(centred.start, "ground", lambda batch: given.extend(batch) or answers(batch), raising=False)
    moved = [replace(scene, placed=lambda boxes: boxes + 1, prepared=None) for scene in some]
    centred.ground(moved)
    assert [scene.placed for scene in given] == [scene.placed for scene in moved]
    emptied = []
    monkeypatch.setattr(centred.start, "caches", {"theirs": lambda: emptied.append(1)}, raising=False)
    centred.caches["theirs"]()
    assert emptied == [1] and "texts" in centred.caches


def test_where_another_pipeline_has_no_box_the_networks_own_is_refined(opened, some, no_head, monkeypatch):
    centred = opened(start="centre-box", truncate=1e-6, steps=1)
    answers = centred.start.ground
    monkeypatch.setattr(
        centred.start,
        "ground",
        lambda batch: [replace(answers(batch)[0], box=None), *answers(batch)[1:]],
        raising=False,
    )
    own = opened(start="network", truncate=1e-6, steps=1)
    first, *rest = centred.ground(some)
    theirs, *others = own.ground(some)
    assert np.allclose(first.box, theirs.box, atol=1e-3)
    assert not any(np.allclose(a.box, b.box, atol=1) for a, b in zip(rest, others, strict=True))


def test_the_card_names_the_head_and_the_network_below(opened, source):
    card = opened().card
    below = source("clipvg").card
    assert {"diffusion", "network clipvg", "network clip"} == card.weights.keys() == card.sha256.keys()
    assert card.sha256["network clipvg"] == below.sha256["clipvg"] and card.parameters > below.parameters
    assert "from noise in 2 steps" in card.summary and "over the tokens of clipvg" in card.summary
    assert "refined in" in opened(start="network").card.summary


def test_mistakes(whole, head_file, tmp_path):
    path = head_file("clipvg")
    with pytest.raises(SettingsError, match=r"start: .*neither noise, network nor the name of a pipeline"):
        diffusion(whole(weights=path, start="nose"))
    with pytest.raises(SettingsError, match=r"network\]: mdetr gives no tokens; clipvg and transvg do"):
        diffusion(whole(weights=path, network={"kind": "mdetr"}))
    with pytest.raises(WeightsError, match=r"trained on the tokens of clipvg .* names transvg"):
        diffusion(whole(weights=path, network={"kind": "transvg"}))
    with pytest.raises(SettingsError, match="network: 'clipvgg' is no pipeline"):
        diffusion(whole(weights=path, network={"kind": "clipvgg"}))
    with pytest.raises(SettingsError, match="diffusion starts from diffusion"):
        whole(weights=path, start="diffusion")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(WeightsError, match="not a complete"):
        diffusion(whole(weights=str(tmp_path / "junk.safetensors")))
    made = whole()
    other = tmp_path / "clip.safetensors"
    other.write_bytes((made.folder / "pipelines/weights/tiny-clip.safetensors").read_bytes())
    with pytest.raises(WeightsError, match="its metadata is not that of a diffusion head"):
        open_head(str(other), made.options["network"], made)
