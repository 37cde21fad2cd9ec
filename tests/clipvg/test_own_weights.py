"""Weights files of our own layout, and the official layout written from them."""

import json

import numpy as np
import open_clip
import plain_clipvg
import pytest
import torch
from checkpoints import named, opened, refused
from safetensors import safe_open
from safetensors.torch import save_file

from bench.errors import UsageError, WeightsError
from clipvg.checkpoint import open_frozen, save_own, trained_state, values_hash
from clipvg.network import OFFICIAL, POSITIONS, ClipVG, check_clip
from clipvg.official import official_state
from clipvg.pipeline import export_official
from pipelines.two_stage.clip.encoder import ClipOptions

POSITION_ALIAS = "image_encoder_clip_vg.positional_embedding"


@pytest.fixture
def frozen_clip(small_table, tmp_path, context):
    """The small network's CLIP as an open_clip file: the options that open it, and its hash."""
    state = {k.removeprefix("clip."): t.float() for k, t in small_table.items() if k.startswith("clip.")}
    torch.save(state, tmp_path / "clip.pt")
    options = ClipOptions(model="tiny-clip", pretrained="clip.pt")
    return options, open_frozen(options, context())[1]


@pytest.fixture
def own_file(official_file, frozen_clip, context, tmp_path):
    """The small network as a file of ours."""
    network = opened(official_file(), context)[0]
    network.get_parameter(POSITIONS).data += 0.25  # trained, unlike the rest of CLIP
    save_own(tmp_path / "own.safetensors", network, frozen_clip, "clean", {"epochs": 3})
    return tmp_path / "own.safetensors", network


@pytest.mark.slow
def test_our_own_layout_has_what_is_trained(own_file, context, frozen_clip, small_table):
    path, network = own_file
    with safe_open(path, "pt") as file:
        keys = set(file.keys())
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    assert keys == set(trained_state(network))
    assert not any(key.startswith("clip.") for key in keys - {POSITIONS}) and POSITIONS in keys
    assert metadata["clip"] == {"model": "tiny-clip", "pretrained": "clip.pt", "values_sha256": frozen_clip[1]}
    assert metadata["recipe"] == {"epochs": 3}
    loaded, style, clip = opened(path, context)
    assert style == "clean" and clip == frozen_clip and not loaded.training
    for key, tensor in loaded.state_dict().items():
        if key in keys:
            assert torch.equal(tensor, network.state_dict()[key].half().float()), key
        else:
            assert torch.equal(tensor, small_table[key].float()), key


@pytest.mark.slow
def test_another_clip_under_our_own_weights_is_refused(own_file, context, tmp_path, small_table, frozen_clip):
    path, _ = own_file
    state = {k.removeprefix("clip."): t.float() for k, t in small_table.items() if k.startswith("clip.")}
    moved = state | {"visual.positional_embedding": state["visual.positional_embedding"] + 1}
    assert values_hash(moved) == values_hash(state) == frozen_clip[1]  # the part that is trained is not hashed
    assert values_hash({key: tensor.half() for key, tensor in state.items()}) == frozen_clip[1]
    changed = state | {"visual.proj": state["visual.proj"] + 0.1}
    torch.save(changed, tmp_path / "other.pt")
    other = ClipOptions(model="tiny-clip", pretrained="other.pt")
    assert opened(path, context, clip=other)[2][0].pretrained == "clip.pt"  # the file knows better
    (tmp_path / "clip.pt").unlink()
    with pytest.raises(WeightsError) as caught:
        opened(path, context, clip=other)
    for part in (str(path), frozen_clip[1][:12], values_hash(changed)[:12], "other.pt", "[pipelines.clipvg.clip]"):
        assert part in str(caught.value)
    with pytest.raises(WeightsError, match=r"clip\.pt are not there"):
        opened(path, context)
    (tmp_path / "moved.pt").write_bytes(b"")
    torch.save(moved, tmp_path / "moved.pt")
    opened(path, context, clip=ClipOptions(model="tiny-clip", pretrained="moved.pt"))


@pytest.mark.slow
def test_weights_that_are_moved_with_their_clip_find_it(own_file, context, tmp_path, frozen_clip):
    path, _ = own_file
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / "own.safetensors")
    (tmp_path / "clip.pt").rename(tmp_path / "elsewhere" / "clip.pt")
    assert opened(moved, context)[2][1] == frozen_clip[1]


def test_metadata_of_another_kind_and_a_part_missing(own_file, context, tmp_path):
    path, _ = own_file
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    odd = tmp_path / "odd.safetensors"
    for key in ("config", "clip", "preprocessing"):
        for value in ({}, {key: '{"layers": "many"}'}, {key: "[]"}):
            save_file(tensors, odd, {name: text for name, text in metadata.items() if name != key} | value)
            refused(odd, context, "its metadata is not that of a CLIP-VG")
    del tensors["text_proj.bias"]
    save_file(tensors, odd, metadata)
    refused(odd, context, "1 keys missing: text_proj.bias")


@pytest.mark.slow
def test_exported_the_official_code_gives_the_same_box(own_file, context, small_sizes, tmp_path):
    path, _ = own_file
    out = export_official(context({"weights": str(path)}), tmp_path / "exported.pth")
    file = torch.load(out, weights_only=True)  # as torch.load is by default, in the authors' scripts too
    state = file["model"]
    layout = plain_clipvg.shapes(small_sizes)
    assert sorted(state) == sorted(k for key in layout for k in named(key))
    for key, (shape, dtype) in layout.items():
        assert (tuple(state[key].shape), state[key].dtype) == (shape, dtype), key
        for alias in plain_clipvg.aliases(key):
            assert state[alias].data_ptr() == state[key].data_ptr(), alias  # kept once
    assert file.keys() == {"model", "epoch", "val_accu"}

    image = np.random.default_rng(1).integers(0, 256, (50, 81, 3), np.uint8)
    pixels, masked, _ = plain_clipvg.preprocessed(image, 64, 8)
    ids = plain_clipvg.token_ids("the red star left of it", 32)
    plain = plain_clipvg.forward({k: t.float() for k, t in state.items()}, small_sizes, pixels, masked, ids)
    with torch.no_grad():
        ours = opened(path, context)[0](pixels[None], masked[None], ids[None])[0]
        again = opened(out, context)[0](pixels[None], masked[None], ids[None])[0]
    # The exported CLIP is in float16, as the official one is on a GPU.
    torch.testing.assert_close(again, plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours, plain, atol=2e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["ViT-B/16", "ViT-B/32", "ViT-L/14"])
def test_the_exported_layout_of_every_variant(arch):
    sizes = plain_clipvg.OFFICIAL[arch]
    config = OFFICIAL[sizes.vision, sizes.patch]
    with torch.device("meta"):
        network = ClipVG(config, open_clip.create_model(config.clip, load_weights=False, device="meta"))
    made = {key: (tuple(t.shape), t.dtype) for key, t in official_state(network).items()}
    assert made == {k: as_filed for key, as_filed in plain_clipvg.shapes(sizes).items() for k in named(key)}


@pytest.mark.slow
def test_what_the_official_code_cannot_build_is_not_exported(own_file, context, monkeypatch, tmp_path):
    path, _ = own_file
    monkeypatch.delitem(OFFICIAL, (128, 8))
    with pytest.raises(UsageError, match=r"--official: the official code builds ViT-B/16.*is tiny-clip at 64"):
        export_official(context({"weights": str(path)}), tmp_path / "exported.pth")
    assert not (tmp_path / "exported.pth").exists()


@pytest.mark.slow
def test_another_size_of_image(official_file, context):
    whole = opened(official_file(), context)[0].state_dict()
    larger = opened(official_file(), context, image_size=96)[0]
    assert larger.config.image_size == 96 and larger.side == 12 and not larger.training
    state = larger.state_dict()
    words = 1 + 32 + 1
    assert torch.equal(state["vl_pos_embed.weight"][:words], whole["vl_pos_embed.weight"][:words])
    assert torch.equal(state[POSITIONS][0], whole[POSITIONS][0]) and state[POSITIONS].shape == (145, 128)
    same = [key for key in whole if key not in (POSITIONS, "vl_pos_embed.weight")]
    assert all(torch.equal(state[key], whole[key]) for key in same)
    with pytest.raises(WeightsError, match="image_size = 100 is no multiple of the patch of 8 pixels; take 96"):
        opened(official_file(), context, image_size=100)


def test_a_clip_of_another_kind():
    with pytest.raises(WeightsError, match="two plain transformers, such as ViT-B-16; RN50 is not one"):
        check_clip(torch.nn.Linear(1, 1), "RN50")
