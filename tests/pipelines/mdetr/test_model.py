"""The network against the plain forward pass, images encoded once against once a text, and which query answers."""

import copy

import plain_mdetr
import pytest
import torch

from pipelines.mdetr.model import query_scores, token_slots

TOKENS = torch.tensor([[0, 17, 300, 8, 2, 1, 1], [0, 200, 31, 9, 77, 4, 2], [0, 5, 2, 1, 1, 1, 1]])
PADDING = TOKENS == 1


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def pixels(count=1, height=70, width=101):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["small", "resnet18", "resnet50", "tf_efficientnet_b0", "tf_efficientnet_b3"])
def test_agrees_with_the_plain_forward_pass(network, backbone):
    model = copy.deepcopy(network(backbone)).double()  # in float32, random weights magnify the noise of sums
    image = pixels().double()
    output = model(image, TOKENS[:1, :5], PADDING[:1, :5])
    logits, boxes = plain_mdetr.forward(model.state_dict(), image[0], TOKENS[0, :5])
    assert output.logits.shape == (1, 1, 9, 41) and boxes.std(0).min() > 1e-2
    torch.testing.assert_close(output.boxes[0, 0], boxes, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.logits[0, 0].softmax(-1), logits.softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["small", "tf_efficientnet_b0"])
def test_a_image_encoded_once_answers_as_one_encoded_for_every_text(network, backbone):
    model = copy.deepcopy(network(backbone)).double()
    images = pixels(2).double()
    image_tokens = [part[[0, 0, 1]] for part in model.encode_image(images)]
    once = model.fuse(image_tokens, model.encode_text(TOKENS, PADDING), PADDING)
    for row, image in enumerate((0, 0, 1)):
        length = int((~PADDING[row]).sum())
        plain = model(images[image][None], TOKENS[row : row + 1, :length], PADDING[row : row + 1, :length])
        torch.testing.assert_close(once.boxes[:, row], plain.boxes[:, 0], atol=1e-9, rtol=0)
        torch.testing.assert_close(once.logits[:, row], plain.logits[:, 0], atol=1e-9, rtol=1e-9)


def test_padding_of_a_image_changes_nothing(network):
    """Training pads; the part that is image must give what it gives alone, but for the border of the convolutions."""
    model = network("small")
    alone = pixels(1, 64, 64)
    padded = torch.zeros(1, 3, 64, 96)
    padded[..., :64] = alone
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[..., 64:] = True
    (tokens, position, padding), whole = model.encode_image(padded, mask), model.encode_image(alone)
    assert padding.sum() == 8 * 4 and not whole[2].any()
    kept = position.view(1, 8, 12, -1)[:, :, :8].flatten(1, 2)
    torch.testing.assert_close(kept, whole[1])
    text = model.encode_text(TOKENS[:1], PADDING[:1])
    before = model.fuse((tokens, position, padding), text, PADDING[:1])
    tokens[padding] = 1e3
    torch.testing.assert_close(model.fuse((tokens, position, padding), text, PADDING[:1]).boxes, before.boxes)


def test_the_aligned_text_is_the_encoders_output(network):
    """As in the official code: the same text has other vectors in another image."""
    model = network()
    output = model(pixels(2), TOKENS[:1].expand(2, -1), PADDING[:1].expand(2, -1))
    assert output.text.shape == (2, TOKENS.shape[1], 16)
    torch.testing.assert_close(output.text.norm(dim=-1), torch.ones(2, TOKENS.shape[1]))
    assert (output.text[0] - output.text[1]).abs().max() > 1e-3


def logits_of(*queries, slots=8):
    """Queries given as {slot: probability}; the rest is spread over no object."""
    chance = torch.full((len(queries), slots + 1), 1e-6)
    for row, query in zip(chance, queries, strict=True):
        row[-1] = 1 - sum(query.values())
        for slot, value in query.items():
            row[slot] = value
    return chance.log()[None]


def test_alone_the_least_likely_nothing_wins():
    scores = query_scores(logits_of({1: 0.1, 2: 0.1}, {3: 0.3, 4: 0.3, 5: 0.3}, {2: 0.8}), None)
    torch.testing.assert_close(scores, torch.tensor([[0.2, 0.9, 0.8]]), atol=1e-4, rtol=0)


def test_a_phrase_asks_for_its_own_tokens():
    logits = logits_of({1: 0.3, 2: 0.3, 3: 0.3}, {5: 0.5, 6: 0.2}, {7: 0.9}).expand(3, -1, -1)
    masks = [torch.tensor([False] * 5 + [True] * 2 + [False]), None, torch.tensor([False, True])]
    expected = torch.tensor([[0.0, 0.5, 0.0], [0.9, 0.7, 0.9], [0.3, 0.0, 0.0]])
    torch.testing.assert_close(query_scores(logits, token_slots(masks, logits.shape[-1])), expected, atol=1e-4, rtol=0)


def test_tokens_beyond_the_slots_and_the_last_place_are_nobodys():
    logits = logits_of({0: 0.1}, {2: 0.2}, slots=3)  # no object is most likely everywhere
    beyond = token_slots([torch.tensor([False, False, True, True, True, True])], 4)
    assert query_scores(logits, beyond).argmax().item() == 1
    assert query_scores(logits, token_slots([torch.tensor([False] * 3 + [True] * 4)], 4)).tolist() == [[0.0, 0.0]]
