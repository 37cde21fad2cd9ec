"""The network against the plain forward pass, and every shortcut against the long way."""

import copy

import open_clip
import plain_clipvg
import pytest
import torch

from clipvg.network import (
    OFFICIAL,
    PAD,
    POSITIONS,
    ClipVG,
    ClipVGConfig,
    resized_positions,
    text_features,
    up_to_longest,
)


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
    with torch.device("meta"):  # nothing is drawn, nothing held
        network = ClipVG(config, open_clip.create_model(config.clip, load_weights=False, device="meta"))
    counted = [p.numel() for key, p in network.named_parameters() if not key.startswith("clip.") or key == POSITIONS]
    assert sum(counted) == trained
    expected = {k: shape for k, (shape, _) in plain_clipvg.shapes(plain_clipvg.OFFICIAL[arch]).items()}
    dead = {"visu_proj.weight", "visu_proj.bias"}
    assert {k: tuple(t.shape) for k, t in network.state_dict().items()} == {
        k: shape for k, shape in expected.items() if k not in dead
    }


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
    tokens = small_network.fuse(
        small_network.encode_image(small_batch[0]), small_batch[1], text_tokens, small_batch[2] == PAD
    )
    close(head(tokens[:, 0]).sigmoid(), torch.stack(plain))


def test_either_half_of_the_question_matters(small_network, small_batch):
    pixels, masked, ids = small_batch
    boxes = small_network(pixels, masked, ids)
    assert (small_network(pixels.flip(0), masked, ids) - boxes).abs().max(1).values.min() > 1e-3
    assert (small_network(pixels, masked, ids.flip(0)) - boxes).abs().max(1).values.min() > 1e-3


def test_the_first_token_alone_is_what_it_is_among_all(small_network, small_batch):
    pixels, masked, ids = small_batch
    image_tokens, text_tokens = small_network.encode_image(pixels), small_network.encode_text(ids)
    whole = small_network.fuse(image_tokens, masked, text_tokens, ids == PAD)
    alone = small_network.fuse(image_tokens, masked, text_tokens, ids == PAD, only_first=True)
    assert whole.shape == (4, 1 + 32 + 1 + 64, 64) and alone.shape == (4, 1, 64)
    close(alone, whole[:, :1])


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


def test_masked_tokens_are_not_looked_at(small_network, small_batch):
    pixels, masked, ids = small_batch
    image_tokens, text_tokens = small_network.encode_image(pixels), small_network.encode_text(ids)
    before = small_network.fuse(image_tokens, masked, text_tokens, ids == PAD)[:, 0]
    text_tokens[ids == PAD] = 1e3
    image_tokens[:, 1:][masked] = 1e3
    close(small_network.fuse(image_tokens, masked, text_tokens, ids == PAD)[:, 0], before)
    image_tokens[:, 0] += 1.0  # the class token is
    assert (small_network.fuse(image_tokens, masked, text_tokens, ids == PAD)[:, 0] - before).abs().max(
        1
    ).values.min() > 1e-3


def test_a_text_run_to_its_end_gives_the_tokens_of_the_whole_context(small_network, small_batch):
    ids = small_batch[2][:3]
    short = up_to_longest(ids)
    assert short.shape == (3, 12)
    close(text_features(small_network.clip, short), text_features(small_network.clip, ids)[:, :12])
    assert up_to_longest(torch.zeros(2, 32, dtype=torch.long)).shape == (2, 1)
    inside = ids[:1].clone()
    inside[0, 1] = 0  # padding's id inside the text ends nothing
    assert up_to_longest(inside).shape == (1, 3)


def test_shorter_ids_give_the_same_boxes(small_network, small_batch):
    pixels, masked, ids = (part[:3] for part in small_batch)
    close(small_network(pixels, masked, up_to_longest(ids)), small_network(pixels, masked, ids), 1e-7)


def test_boxes_do_not_depend_on_the_batch(small_network, small_batch):
    whole = small_network(*small_batch)
    for row in range(4):
        close(small_network(*(part[row : row + 1] for part in small_batch)), whole[row : row + 1], 3e-7)


def test_activations_computed_again_give_the_same_gradients(small_network, small_batch):
    gradients = []
    for recompute in (False, True):
        network = copy.deepcopy(small_network)
        network.recompute = recompute
        positions = network.get_parameter(POSITIONS).requires_grad_()
        with torch.enable_grad():
            network(*small_batch).sum().backward()
        gradients.append(positions.grad)
    assert gradients[0].abs().max() > 0
    close(gradients[1], gradients[0])


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


def test_another_size_of_image(small_network, small_batch):
    _, _, ids = small_batch
    config = ClipVGConfig(**small_network.config.model_dump() | {"image_size": 96})
    larger = ClipVG(config, copy.deepcopy(small_network.clip)).double().eval()
    larger.bbox_embed.float()
    assert larger.side == 12 and larger.vl_pos_embed.weight.shape == (1 + 32 + 1 + 144, 64)
    boxes = larger(torch.zeros(4, 3, 96, 96, dtype=torch.float64), torch.zeros(4, 144, dtype=torch.bool), ids)
    assert boxes.shape == (4, 4) and ((boxes > 0) & (boxes < 1)).all()
