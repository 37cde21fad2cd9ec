"""Weights files: the official layout, our own, and everything that is neither."""

import argparse
import json

import numpy as np
import open_clip
import plain_clipvg
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bench.errors import UsageError, WeightsError
from clipvg.checkpoint import open_network, save_own, trained_state
from clipvg.export import export_official, official_state
from clipvg.frozen import checked, open_frozen, values_hash
from clipvg.model.config import OFFICIAL
from clipvg.model.network import POSITIONS, ClipVG
from pipelines.clip.encoder import ClipOptions

POSITION_ALIAS = "image_encoder_clip_vg.positional_embedding"


def opened(path, context, **kwargs):
    return open_network(str(path), context(), **kwargs)


def without_dead(sizes):
    return [key for key in plain_clipvg.shapes(sizes) if not key.startswith("visu_proj.")]


def refused(path, context, *said):
    """That `path` is a WeightsError which names the file and says all of `said`."""
    with pytest.raises(WeightsError) as caught:
        opened(path, context)
    for part in (path.name, *said):
        assert part in str(caught.value), part


def test_the_formula_makes_the_published_layout(shared):
    listed = (shared.parent / "spec" / "clipvg_state_dict.txt").read_text()
    for arch, count in (("ViT-B/16", 689), ("ViT-L/14", 977)):
        table = listed.split(f"ML_CLIP_VG {arch}\n")[1].split("--- full state_dict")[1].split("--- aliased")[0]
        rows = [line.split(" ", 1) for line in map(str.strip, table.splitlines()[1:]) if line]
        assert len(rows) == count
        keys = plain_clipvg.shapes(plain_clipvg.OFFICIAL[arch])
        made = {k: f"{s} {d}".replace("torch.", "") for key, (s, d) in keys.items() for k in named(key)}
        assert made == dict(rows)


def named(key):
    return [key, *plain_clipvg.aliases(key)]


def test_the_official_layout(official_file, context, small_sizes, small_table):
    found = opened(official_file(), context)
    assert found.style == "official" and found.clip is None and not found.network.training
    state = found.network.state_dict()
    assert sorted(state) == sorted(without_dead(small_sizes))
    assert small_table["clip.visual.proj"].dtype == torch.float16
    assert all(t.dtype == torch.float32 and torch.equal(t, small_table[key].float()) for key, t in state.items())


@pytest.mark.parametrize("left_out", ["optimizer", "args", "aliases", "visu_proj", "everything else"])
def test_what_the_network_does_not_need_may_be_missing(
    left_out, official_file, context, tmp_path, small_sizes, small_table
):
    whole = opened(official_file(), context).network.state_dict()
    aliases = [alias for key in plain_clipvg.shapes(small_sizes) for alias in plain_clipvg.aliases(key)]
    if left_out in ("optimizer", "args"):
        path = official_file(**{left_out: None})
    elif left_out == "aliases":
        path = official_file(drop=aliases)
    elif left_out == "visu_proj":
        path = official_file(drop=("visu_proj.weight", "visu_proj.bias"))
    else:
        path = tmp_path / "plain.pt"
        torch.save({f"module.{key}": small_table[key] for key in without_dead(small_sizes)}, path)
    found = opened(path, context).network.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in whole.items())


def test_an_alias_that_is_a_copy_may_be_one_but_must_agree(official_file, context, small_table):
    state = small_table
    opened(official_file({POSITION_ALIAS: state[POSITIONS].clone()}), context)
    other = state[POSITIONS].clone()
    other[3, 5] += 1e-3
    refused(official_file({POSITION_ALIAS: other}), context, POSITION_ALIAS, POSITIONS, "should be one tensor")
    refused(official_file({POSITION_ALIAS: other[1:]}), context, POSITION_ALIAS)
    key = "text_encoder_clip_vg.transformer.resblocks.2.mlp.c_proj.bias"
    refused(official_file({key: state[key] + 1}), context, key)
    refused(official_file(drop=(POSITIONS,)), context, POSITION_ALIAS, f"not {POSITIONS}")


def test_keys_and_shapes_that_differ_are_listed(official_file, context):
    wrong = {"bbox_embed.layers.2.bias": torch.zeros(5), "mystery.weight": torch.zeros(1)}
    path = official_file(wrong, drop=("vl_transformer.encoder.layers.1.norm2.weight",))
    refused(
        path,
        context,
        "1 keys missing: vl_transformer.encoder.layers.1.norm2.weight",
        "1 keys not known to the model: mystery.weight",
        "bbox_embed.layers.2.bias (5,), the model has (4,)",
    )


def test_a_part_of_the_layers_is_not_enough(official_file, context, small_sizes):
    last = f"vl_transformer.encoder.layers.{small_sizes.layers - 1}."
    drop = [key for key in plain_clipvg.shapes(small_sizes) if key.startswith(last)]
    refused(official_file(drop=drop), context, "12 keys missing", last, "and 6 more")


@pytest.mark.parametrize(
    ("changes", "drop", "said"),
    [
        ({"language_prompt": torch.zeros(6)}, (), "ML_CLIP_VG_PROMPT"),
        ({}, ("ml_visu_proj.weight", "ml_visu_proj.bias"), "ml_visu_proj"),
        ({"clip.visual.conv1.weight": torch.zeros(128, 3, 4, 4)}, (), "width 128, patch 4"),
    ],
)
def test_other_variants(changes, drop, said, official_file, context):
    if "clip.visual.conv1.weight" in changes:
        changes = changes | {"image_encoder_clip_vg.conv1.weight": changes["clip.visual.conv1.weight"]}
    refused(official_file(changes, drop), context, said)


def test_one_of_another_size_of_picture_is_not_loaded_in_part(official_file, context, small_sizes):
    """As ViT-L/14 at 336 pixels is to L/14: of the same width and patch."""
    keys = (POSITIONS, POSITION_ALIAS, "vl_pos_embed.weight")
    larger = {key: torch.zeros(145 + (33 if key == keys[2] else 0), small_sizes.vision) for key in keys}
    refused(official_file(larger), context, f"{POSITIONS} (145, 128), the model has (65, 128)", "vl_pos_embed.weight")


def test_other_files(context, tmp_path, official_file):
    whole = official_file().read_bytes()
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    refused(tmp_path / "other.pth", context, "no checkpoint of CLIP-VG", "weight, bias")
    for content in ([1, 2], {"model": {"epoch": 3}}, {"model": {}}, {"model": None}, torch.zeros(3), {}):
        torch.save(content, tmp_path / "odd.pth")
        refused(tmp_path / "odd.pth", context, "holds no weights of a CLIP-VG")
    torch.save({0: torch.zeros(1)}, tmp_path / "numbered.pth")
    refused(tmp_path / "numbered.pth", context)
    for name, content in (("cut.pth", whole[:-5000]), ("text.pth", b"hello"), ("empty.pth", b"")):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, context, "cannot be read as plain weights")
    (tmp_path / "cut.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{}")
    refused(tmp_path / "cut.safetensors", context, "not a complete .safetensors file")
    with pytest.raises(WeightsError, match=r"'nowhere\.pth' are not there.*CLIP-VG"):
        opened("nowhere.pth", context)


def test_a_hostile_pickle_is_not_run(official_file, context, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    opened(official_file(args=argparse.Namespace(lr=1e-4, nested=argparse.Namespace(x=[1]))), context)
    for top in ({"args": Evil()}, {"args": argparse.Namespace(x=Evil())}, {"optimizer": Evil()}):
        refused(official_file(**top), context, "cannot be read as plain weights")
    refused(official_file({"clip.logit_scale": Evil()}), context, "cannot be read as plain weights")
    torch.save({"model": Evil()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    refused(tmp_path / "old.pth", context, "cannot be read as plain weights")
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def frozen_clip(small_table, tmp_path, context):
    """The small network's CLIP as an open_clip file, opened."""
    state = {k.removeprefix("clip."): t.float() for k, t in small_table.items() if k.startswith("clip.")}
    torch.save(state, tmp_path / "clip.pt")
    return open_frozen(ClipOptions(model="tiny-clip", pretrained="clip.pt"), context())


@pytest.fixture
def own_file(official_file, frozen_clip, context, tmp_path):
    """The small network as a file of ours."""
    network = opened(official_file(), context).network
    network.get_parameter(POSITIONS).data += 0.25  # trained, unlike the rest of CLIP
    save_own(tmp_path / "own.safetensors", network, frozen_clip, "clean", {"epochs": 3})
    return tmp_path / "own.safetensors", network


def test_our_own_layout_holds_what_is_trained(own_file, context, frozen_clip, small_table):
    path, network = own_file
    with safe_open(path, "pt") as file:
        keys = set(file.keys())
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    assert keys == set(trained_state(network))
    assert not any(key.startswith("clip.") for key in keys - {POSITIONS}) and POSITIONS in keys
    assert metadata["clip"] == {"model": "tiny-clip", "pretrained": "clip.pt", "values_sha256": frozen_clip.values}
    assert metadata["recipe"] == {"epochs": 3}
    found = opened(path, context)
    assert found.style == "clean" and found.clip.values == frozen_clip.values and not found.network.training
    for key, tensor in found.network.state_dict().items():
        if key in keys:
            assert torch.equal(tensor, network.state_dict()[key].half().float()), key
        else:
            assert torch.equal(tensor, small_table[key].float()), key


def test_another_clip_under_our_own_weights_is_refused(own_file, context, tmp_path, small_table, frozen_clip):
    path, _ = own_file
    state = {k.removeprefix("clip."): t.float() for k, t in small_table.items() if k.startswith("clip.")}
    moved = state | {"visual.positional_embedding": state["visual.positional_embedding"] + 1}
    assert values_hash(moved) == values_hash(state) == frozen_clip.values  # the part that is trained is not hashed
    assert values_hash({key: tensor.half() for key, tensor in state.items()}) == frozen_clip.values
    changed = state | {"visual.proj": state["visual.proj"] + 0.1}
    torch.save(changed, tmp_path / "other.pt")
    other = ClipOptions(model="tiny-clip", pretrained="other.pt")
    assert opened(path, context, clip=other).clip.options.pretrained == "clip.pt"  # the file knows better
    (tmp_path / "clip.pt").unlink()
    with pytest.raises(WeightsError) as caught:
        opened(path, context, clip=other)
    for said in (str(path), frozen_clip.values[:12], values_hash(changed)[:12], "other.pt", "[pipelines.clipvg.clip]"):
        assert said in str(caught.value)
    with pytest.raises(WeightsError, match=r"'clip\.pt' are not there"):
        opened(path, context)
    (tmp_path / "moved.pt").write_bytes(b"")
    torch.save(moved, tmp_path / "moved.pt")
    opened(path, context, clip=ClipOptions(model="tiny-clip", pretrained="moved.pt"))


def test_weights_that_are_moved_with_their_clip_find_it(own_file, context, tmp_path, frozen_clip):
    path, _ = own_file
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / "own.safetensors")
    (tmp_path / "clip.pt").rename(tmp_path / "elsewhere" / "clip.pt")
    assert opened(moved, context).clip.values == frozen_clip.values


@pytest.mark.parametrize("key", ["config", "clip", "preprocessing"])
@pytest.mark.parametrize("value", [None, '{"layers": "many"}', "[]"])
def test_metadata_of_another_kind(key, value, own_file, context, tmp_path):
    path, _ = own_file
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    if value is None:
        del metadata[key]
    else:
        metadata[key] = value
    save_file(tensors, tmp_path / "odd.safetensors", metadata)
    refused(tmp_path / "odd.safetensors", context, "its metadata is not that of a CLIP-VG")


def test_a_file_of_ours_with_a_part_missing(own_file, context, tmp_path):
    path, _ = own_file
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    del tensors["text_proj.bias"]
    save_file(tensors, tmp_path / "part.safetensors", metadata)
    refused(tmp_path / "part.safetensors", context, "1 keys missing: text_proj.bias")


def test_exported_the_official_code_gives_the_same_box(own_file, context, small_sizes, tmp_path):
    path, _ = own_file
    out = export_official(context({"weights": str(path)}), tmp_path / "exported.pth")
    with torch.serialization.safe_globals([argparse.Namespace]):
        held = torch.load(out, weights_only=True)
    state = held["model"]
    layout = plain_clipvg.shapes(small_sizes)
    assert sorted(state) == sorted(k for key in layout for k in named(key))
    for key, (shape, dtype) in layout.items():
        assert (tuple(state[key].shape), state[key].dtype) == (shape, dtype), key
        for alias in plain_clipvg.aliases(key):
            assert state[alias].data_ptr() == state[key].data_ptr(), alias  # kept once
    assert isinstance(held["args"], argparse.Namespace) and {"epoch", "val_accu"} <= held.keys()

    picture = np.random.default_rng(1).integers(0, 256, (50, 81, 3), np.uint8)
    pixels, masked, _ = plain_clipvg.preprocessed(picture, 64, 8)
    ids = plain_clipvg.token_ids("the red star left of it", 32)
    plain = plain_clipvg.forward({k: t.float() for k, t in state.items()}, small_sizes, pixels, masked, ids)
    with torch.no_grad():
        ours = opened(path, context).network(pixels[None], masked[None], ids[None])[0]
        again = opened(out, context).network(pixels[None], masked[None], ids[None])[0]
    # The exported CLIP is in float16, as the official one is on a GPU.
    torch.testing.assert_close(again, plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours, plain, atol=2e-3, rtol=0)


@pytest.mark.parametrize("arch", ["ViT-B/16", "ViT-B/32", "ViT-L/14"])
def test_the_exported_layout_of_every_variant(arch):
    sizes = plain_clipvg.OFFICIAL[arch]
    config = OFFICIAL[sizes.vision, sizes.patch]
    with torch.device("meta"):
        network = ClipVG(config, open_clip.create_model(config.clip, load_weights=False, device="meta"))
    made = {key: (tuple(t.shape), t.dtype) for key, t in official_state(network).items()}
    assert made == {k: as_filed for key, as_filed in plain_clipvg.shapes(sizes).items() for k in named(key)}


def test_what_the_official_code_cannot_build_is_not_exported(own_file, context, monkeypatch, tmp_path):
    path, _ = own_file
    monkeypatch.delitem(OFFICIAL, (128, 8))
    with pytest.raises(UsageError, match=r"--official: the official code builds ViT-B/16.*is tiny-clip at 64"):
        export_official(context({"weights": str(path)}), tmp_path / "exported.pth")
    assert not (tmp_path / "exported.pth").exists()


def test_another_size_of_picture(official_file, context):
    whole = opened(official_file(), context).network.state_dict()
    larger = opened(official_file(), context, image_size=96).network
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
    with pytest.raises(WeightsError, match="two plain transformers, such as ViT-B-16; RN50 is none"):
        checked(torch.nn.Linear(1, 1), "RN50")
