"""The network against the plain forward pass, and every shortcut against the long way."""

import copy

import open_clip
import plain_clipvg
import pytest
import torch

from clipvg.network import OFFICIAL, PAD, POSITIONS, ClipVG, resized_positions, text_features


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
