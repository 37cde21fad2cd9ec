"""Weights files: the official layout, our own, and everything that is neither."""

import argparse

import plain_clipvg
import pytest
import torch
from checkpoints import named, opened, refused

from bench.errors import WeightsError
from clipvg.network import POSITIONS

POSITION_ALIAS = "image_encoder_clip_vg.positional_embedding"


def without_dead(sizes):
    return [key for key in plain_clipvg.shapes(sizes) if not key.startswith("visu_proj.")]


def test_the_formula_makes_the_published_layout(real):
    listed = (real.parent / "spec" / "clipvg_state_dict.txt").read_text()
    for arch, count in (("ViT-B/16", 689), ("ViT-L/14", 977)):
        table = listed.split(f"ML_CLIP_VG {arch}\n")[1].split("--- full state_dict")[1].split("--- aliased")[0]
        rows = [line.split(" ", 1) for line in map(str.strip, table.splitlines()[1:]) if line]
        assert len(rows) == count
        keys = plain_clipvg.shapes(plain_clipvg.OFFICIAL[arch])
        made = {k: f"{s} {d}".replace("torch.", "") for key, (s, d) in keys.items() for k in named(key)}
        assert made == dict(rows)


@pytest.mark.slow
def test_the_official_layout(official_file, context, small_sizes, small_table):
    loaded, style, clip = opened(official_file(), context)
    assert style == "official" and clip is None and not loaded.training
    state = loaded.state_dict()
    assert sorted(state) == sorted(without_dead(small_sizes))
    assert small_table["clip.visual.proj"].dtype == torch.float16
    assert all(t.dtype == torch.float32 and torch.equal(t, small_table[key].float()) for key, t in state.items())


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["optimizer", "args", "aliases", "visu_proj", "everything else"])
def test_what_the_network_does_not_need_may_be_missing(
    left_out, official_file, context, tmp_path, small_sizes, small_table
):
    whole = opened(official_file(), context)[0].state_dict()
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
    loaded = opened(path, context)[0].state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in whole.items())


@pytest.mark.slow
def test_an_alias_that_is_a_copy_may_be_one_but_must_agree(official_file, context, small_table):
    state = small_table
    opened(official_file({POSITION_ALIAS: state[POSITIONS].clone()}), context)
    other = state[POSITIONS].clone()
    other[3, 5] += 1e-3
    refused(official_file({POSITION_ALIAS: other}), context, POSITION_ALIAS, POSITIONS, "should be the same tensor")
    refused(official_file({POSITION_ALIAS: other[1:]}), context, POSITION_ALIAS)
    key = "text_encoder_clip_vg.transformer.resblocks.2.mlp.c_proj.bias"
    refused(official_file({key: state[key] + 1}), context, key)
    refused(official_file(drop=(POSITIONS,)), context, POSITION_ALIAS, f"not {POSITIONS}")


@pytest.mark.slow
def test_keys_and_shapes_that_differ_are_listed(official_file, context, small_sizes):
    wrong = {"bbox_embed.layers.2.bias": torch.zeros(5), "mystery.weight": torch.zeros(1)}
    path = official_file(wrong, drop=("vl_transformer.encoder.layers.1.norm2.weight",))
    refused(
        path,
        context,
        "1 keys missing: vl_transformer.encoder.layers.1.norm2.weight",
        "1 keys not known to the model: mystery.weight",
        "bbox_embed.layers.2.bias (5,), the model has (4,)",
    )
    last = f"vl_transformer.encoder.layers.{small_sizes.layers - 1}."
    drop = [key for key in plain_clipvg.shapes(small_sizes) if key.startswith(last)]
    refused(official_file(drop=drop), context, "12 keys missing", last, "and 6 more")
    # Another size of image, as ViT-L/14 at 336 pixels is to L/14: of the same width and patch.
    keys = (POSITIONS, POSITION_ALIAS, "vl_pos_embed.weight")
    larger = {key: torch.zeros(145 + (33 if key == keys[2] else 0), small_sizes.vision) for key in keys}
    refused(official_file(larger), context, f"{POSITIONS} (145, 128), the model has (65, 128)", "vl_pos_embed.weight")


@pytest.mark.parametrize(
    ("changes", "drop", "message"),
    [
        ({"language_prompt": torch.zeros(6)}, (), "ML_CLIP_VG_PROMPT"),
        ({}, ("ml_visu_proj.weight", "ml_visu_proj.bias"), "ml_visu_proj"),
        ({"clip.visual.conv1.weight": torch.zeros(128, 3, 4, 4)}, (), "width 128, patch 4"),
    ],
)
def test_other_variants(changes, drop, message, official_file, context):
    if "clip.visual.conv1.weight" in changes:
        changes = changes | {"image_encoder_clip_vg.conv1.weight": changes["clip.visual.conv1.weight"]}
    refused(official_file(changes, drop), context, message)


def test_other_files(context, tmp_path, official_file):
    whole = official_file().read_bytes()
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    refused(tmp_path / "other.pth", context, "not a checkpoint of CLIP-VG", "weight, bias")
    for content in ([1, 2], {"model": {"epoch": 3}}, {"model": {}}, {"model": None}, torch.zeros(3), {}):
        torch.save(content, tmp_path / "odd.pth")
        refused(tmp_path / "odd.pth", context, "holds no weights of a CLIP-VG")
    torch.save({0: torch.zeros(1)}, tmp_path / "numbered.pth")
    refused(tmp_path / "numbered.pth", context)
    for name, content, why in (
        ("cut.pth", whole[:-5000], "a broken or cut archive"),
        ("text.pth", b"hello", "not a readable pickle"),
        ("empty.pth", b"", "not a readable pickle"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, context, why)
    (tmp_path / "cut.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{}")
    refused(tmp_path / "cut.safetensors", context, "not a complete .safetensors file")
    with pytest.raises(WeightsError, match=r"(?s)nowhere\.pth are not there.*BENCH_HOME/weights.*CLIP-VG"):
        opened("nowhere.pth", context)


def test_a_hostile_pickle_is_not_run(official_file, context, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    opened(official_file(args=argparse.Namespace(lr=1e-4, nested=argparse.Namespace(x=[1]))), context)
    for top in ({"args": Evil()}, {"args": argparse.Namespace(x=Evil())}, {"optimizer": Evil()}):
        refused(official_file(**top), context, "only plain containers are admitted")
    refused(official_file({"clip.logit_scale": Evil()}), context, "only plain containers are admitted")
    torch.save({"model": Evil()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    refused(tmp_path / "old.pth", context, "only plain containers are admitted")
    assert not (tmp_path / "ran").exists()
