"""The network against the plain forward pass, and an image seen once against an image seen for every text."""

import copy

import plain_mdetr
import pytest
import torch

TOKENS = torch.tensor([[0, 17, 300, 8, 2, 1, 1], [0, 200, 31, 9, 77, 4, 2], [0, 5, 2, 1, 1, 1, 1]])
PADDING = TOKENS == 1


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def pixels(count=1, height=70, width=101):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backbone", ["small", "resnet18", "resnet50", "tf_efficientnet_b0", "tf_efficientnet_b3"])
def test_agrees_with_the_plain_forward_pass(network, backbone):
    model = copy.deepcopy(network(backbone)).double()  # in float32, random weights magnify the noise of sums
    image = pixels().double()
    found = model(image, TOKENS[:1, :5], PADDING[:1, :5])
    logits, boxes = plain_mdetr.forward(model.state_dict(), image[0], TOKENS[0, :5])
    assert found.logits.shape == (1, 1, 9, 41) and boxes.std(0).min() > 1e-2
    torch.testing.assert_close(found.boxes[0, 0], boxes, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.logits[0, 0].softmax(-1), logits.softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", ["small", "tf_efficientnet_b0"])
def test_a_image_seen_once_answers_as_one_seen_for_every_text(network, backbone):
    model = copy.deepcopy(network(backbone)).double()
    images = pixels(2).double()
    image_tokens = model.encode_image(images).repeated(torch.tensor([2, 1]))
    once = model.fuse(image_tokens, model.encode_text(TOKENS, PADDING), PADDING)
    for row, image in enumerate((0, 0, 1)):
        length = int((~PADDING[row]).sum())
        plain = model(images[image][None], TOKENS[row : row + 1, :length], PADDING[row : row + 1, :length])
        torch.testing.assert_close(once.boxes[:, row], plain.boxes[:, 0], atol=1e-9, rtol=0)
        torch.testing.assert_close(once.logits[:, row], plain.logits[:, 0], atol=1e-9, rtol=1e-9)


def test_the_text_and_the_image_matter(network):
    model = network()
    found = model(pixels(1).expand(2, -1, -1, -1), TOKENS[:2], PADDING[:2])
    assert (found.boxes[0, 0] - found.boxes[0, 1]).abs().max() > 1e-4
    other = model(pixels(2)[1:], TOKENS[:1], PADDING[:1])
    assert (found.boxes[0, 0] - other.boxes[0, 0]).abs().max() > 1e-4


def test_padding_of_a_image_is_not_seen(network):
    """Training pads; the part that is image must give what it gives alone, but for the border of the convolutions."""
    model = network("small")
    alone = pixels(1, 64, 64)
    padded = torch.zeros(1, 3, 64, 96)
    padded[..., :64] = alone
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[..., 64:] = True
    padded_tokens, whole = model.encode_image(padded, mask), model.encode_image(alone)
    assert padded_tokens.padding.sum() == 8 * 4 and not whole.padding.any()
    kept = padded_tokens.position.view(1, 8, 12, -1)[:, :, :8].flatten(1, 2)
    torch.testing.assert_close(kept, whole.position)
    text = model.encode_text(TOKENS[:1], PADDING[:1])
    before = model.fuse(padded_tokens, text, PADDING[:1])
    padded_tokens.tokens[padded_tokens.padding] = 1e3
    torch.testing.assert_close(model.fuse(padded_tokens, text, PADDING[:1]).boxes, before.boxes)


def test_the_aligned_text_is_the_encoders_output(network):
    """As in the official code: the same text has other vectors in another image."""
    model = network()
    output = model(pixels(2), TOKENS[:1].expand(2, -1), PADDING[:1].expand(2, -1))
    assert output.text.shape == (2, TOKENS.shape[1], 16)
    torch.testing.assert_close(output.text.norm(dim=-1), torch.ones(2, TOKENS.shape[1]))
    assert (output.text[0] - output.text[1]).abs().max() > 1e-3
