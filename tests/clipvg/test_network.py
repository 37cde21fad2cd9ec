"""The network against the plain forward pass, and every shortcut against the long way."""

import copy

import numpy as np
import open_clip
import plain_clipvg
import pytest
import torch

from clipvg.network import OFFICIAL, PAD, POSITIONS, ClipVG, pack, resized_positions, text_features
from pipelines.layers import Packed, attend


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def close(ours, theirs, atol=1e-9):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("of", "arch", "trained"),
    [((768, 16), "ViT-B/16", 21_832_964 - 262_656), ((1024, 14), "ViT-L/14", 38_920_452 - 393_984)],
)
def test_what_is_trained_and_what_the_keys_are(of, arch, trained):
    config = OFFICIAL[of]
    with torch.device("meta"):  # nothing is drawn, nothing stored
        network = ClipVG(config, open_clip.create_model(config.clip, load_weights=False, device="meta"))
    counted = [p.numel() for key, p in network.named_parameters() if not key.startswith("clip.") or key == POSITIONS]
    assert sum(counted) == trained
    expected = {k: shape for k, (shape, _) in plain_clipvg.shapes(plain_clipvg.OFFICIAL[arch]).items()}
    del expected["visu_proj.weight"], expected["visu_proj.bias"]  # dead
    assert {k: tuple(t.shape) for k, t in network.state_dict().items()} == expected


@pytest.mark.parametrize("arch", ["ViT-B/16", "ViT-B/32", "ViT-L/14"])
def test_sizes_of_the_variants(arch):
    sizes = plain_clipvg.OFFICIAL[arch]
    config = OFFICIAL[sizes.vision, sizes.patch]
    towers = open_clip.get_model_config(config.clip)
    assert (config.taps, config.hidden, config.layers) == (sizes.taps, sizes.hidden, sizes.layers)
    assert (config.heads, config.feedforward, config.image_size) == (sizes.heads, sizes.feedforward, sizes.image)
    assert (towers["vision_cfg"]["layers"], towers["text_cfg"]["layers"]) == (sizes.depth, sizes.text_depth)
    assert towers["vision_cfg"]["width"] // towers["vision_cfg"].get("head_width", 64) == sizes.vision_heads
    assert towers["text_cfg"]["heads"] == sizes.text_heads and towers["quick_gelu"]


def test_agrees_with_the_plain_forward_pass(small_network, small_sizes, small_state, small_batch):
    boxes = small_network(*small_batch)
    plain = [plain_clipvg.forward(small_state, small_sizes, *row) for row in zip(*small_batch, strict=True)]
    close(boxes, torch.stack(plain).float(), 1e-6)
    assert boxes.std(0).min() > 1e-2  # images and texts do matter
    head = copy.deepcopy(small_network.bbox_embed).double()
    text_tokens = small_network.encode_text(small_batch[2])
    image_tokens = small_network.encode_image(small_batch[0])
    tokens = small_network.fuse(image_tokens, small_batch[1], text_tokens, small_batch[2] == PAD)
    close(head(tokens[:, 0]).sigmoid(), torch.stack(plain))


def test_masked_tokens_may_be_left_out(small_network, small_batch):
    pixels, masked, ids = small_batch
    image_tokens, text_tokens = small_network.encode_image(pixels), small_network.encode_text(ids)
    whole = small_network.fuse(image_tokens, masked, text_tokens, ids == PAD)[:, 0]
    slots = torch.cat([small_network.word_slots(32), small_network.image_slots()])
    for row in range(4):
        keep = torch.cat([ids[row] != PAD, torch.tensor([True]), ~masked[row]])
        tokens = torch.cat([text_tokens[row], image_tokens[row]])[keep]
        left = small_network.fuse_tokens(tokens[None], torch.cat([slots[:1], slots[1:][keep]])[None], None, True)
        close(left[0], whole[row : row + 1])
    # Their order does not matter either, as long as each keeps its slot.
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))
    mixed = torch.cat([slots[:1], slots[1:][keep][order]])[None]
    close(small_network.fuse_tokens(tokens[order][None], mixed, None, True)[0], whole[3:])


def test_tokens_are_laid_out_without_padding():
    rng = np.random.default_rng(0)
    patches = rng.random((2, 16)) < 0.5
    texts, owners = [np.array([1, 3, 4]), np.array([1, 2]), np.array([1, 2, 3, 5])], np.array([0, 1, 0])
    out = pack(texts, patches, owners, 32)
    table = [0, *np.concatenate(texts), *(out.image % 17 + 33)]
    assert out.image.tolist() == [17 * n + slot for n in range(2) for slot in (0, *1 + np.flatnonzero(patches[n]))]
    lengths = [1 + len(text) + 1 + patches[owner].sum() for text, owner in zip(texts, owners, strict=True)]
    assert len(out.source) == len(out.slots) == sum(lengths) and out.rows.shape == (3, max(lengths))
    assert out.kept.sum(dim=1).tolist() == lengths and torch.equal(out.kept.flatten().nonzero()[:, 0], out.places)
    for row, (text, owner, length) in enumerate(zip(texts, owners, lengths, strict=True)):
        here = out.rows[row, :length]
        assert here.tolist() == [*range(sum(lengths[:row]), sum(lengths[: row + 1]))]
        wanted = [0, *text, 33, *34 + np.flatnonzero(patches[owner])]
        assert out.slots[here].tolist() == [table[index] for index in out.source[here]] == wanted
        tokens = out.source[here][1 + len(text) :] - 10  # of the images' own
        assert {int(out.image[token]) // 17 for token in tokens} == {owner}
    assert pack(texts[:1] * 3, patches[[0, 0]], owners, 32).kept is None  # all of one length


@pytest.mark.parametrize("alike", [False, True])
@torch.enable_grad()
def test_packed_sequences_are_the_padded_ones(alike, small_network, small_batch):
    """Outputs and gradients; one image is shared by two texts."""
    network = copy.deepcopy(small_network).requires_grad_(True)
    masked, ids, owners = small_batch[1][[1, 2]], small_batch[2][[3, 1, 2]], torch.tensor([0, 1, 0])
    if alike:
        masked, ids = masked[:1].expand(2, -1), ids[:1].expand(3, -1)
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(3, 32, 64, generator=generator, dtype=torch.float64, requires_grad=True)
    image = torch.randn(2, 65, 64, generator=generator, dtype=torch.float64, requires_grad=True)
    inputs = {"text": text, "image": image, "register": network.reg_token.weight, **dict(network.named_parameters())}

    def gradients(boxes):
        boxes.square().sum().backward()
        out = {name: tensor.grad for name, tensor in inputs.items() if tensor.grad is not None}
        for tensor in inputs.values():
            tensor.grad = None
        return out

    padded = network.fuse(image[owners], masked[owners], text, ids == PAD, only_first=True)[:, 0]
    wanted = gradients(padded)
    packing = pack([1 + np.flatnonzero(row != PAD) for row in ids], ~masked.numpy(), owners.numpy(), 32)
    assert (packing.kept is None) == alike
    table = torch.cat([text[ids != PAD], image.flatten(0, 1)[packing.image]])
    every, register = (network.fuse_packed(table, packing, only_first) for only_first in (False, True))
    close(every[packing.rows[:, 0]], padded)
    close(register, padded)
    mine = gradients(register)
    assert mine.keys() == wanted.keys() and len(mine) > 3 * 12
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-9, atol=1e-11, msg=name)
    assert min(float(wanted[name].abs().max()) for name in ("text", "image", "register")) > 1e-3


def test_dropout_falls_on_packed_tokens_too(small_network):
    attention = copy.deepcopy(small_network.vl_transformer.encoder.layers[0].self_attn).train()
    x = torch.ones(3, 64, dtype=torch.float64)
    packed = Packed(
        torch.tensor([[0, 1], [2, 0]]), torch.tensor([0, 1, 2]), torch.tensor([[True, True], [True, False]])
    )
    attention.dropout = 0.5
    draws = {float(attend(attention, x, x, x, packed).sum()) for _ in range(8)}
    assert len(draws) > 1
    attention.eval()
    assert len({float(attend(attention, x, x, x, packed).sum()) for _ in range(2)}) == 1


def test_a_text_run_to_its_end_gives_the_tokens_of_the_whole_context(small_network, small_batch):
    ids = small_batch[2][:3]
    close(text_features(small_network.clip, ids[:, :12]), text_features(small_network.clip, ids)[:, :12])


def test_positions_of_another_size():
    positions = torch.randn(1 + 49, 6, generator=torch.Generator().manual_seed(0))
    assert resized_positions(positions, 7) is positions
    larger = resized_positions(positions, 10)
    assert larger.shape == (101, 6) and torch.equal(larger[0], positions[0])
    flat = torch.cat([positions[:1], torch.full((49, 6), 0.25)])
    close(resized_positions(flat, 4)[1:], torch.full((16, 6), 0.25), 1e-6)
    rows = torch.arange(7.0).repeat_interleave(7)[:, None]  # a ramp from top to bottom stays one
    ramp = resized_positions(torch.cat([rows[:1], rows]), 14)[1:].view(14, 14)
    assert (ramp.diff(dim=0) >= 0).all() and torch.allclose(ramp, ramp[:, :1]) and ramp[-1, 0] > 6
