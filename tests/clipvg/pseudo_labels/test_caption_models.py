"""Captions by models of transformers: tiny ones with random weights, sampling, and neighbours that do not matter."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    BatchFeature,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from bench.grounding import Scene
from clipvg.pseudo_labels.caption import caption
from clipvg.pseudo_labels.caption_models import nucleus_noise, open_caption_model

WORDS = ("a", "the", "red", "blue", "dog", "cat", "man", "on", "next", "to", "of", "two", "star", "circle")


@pytest.fixture(scope="module")
def tiny_blip(tmp_path_factory):
    """A folder."""
    folder = tmp_path_factory.mktemp("blip")
    rows = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(rows))
    tokenizer = BertTokenizer.from_pretrained(folder)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = tower | {"vocab_size": len(rows), "encoder_hidden_size": 16, "max_position_embeddings": 32}
    text |= {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(text_config=text, vision_config=tower | {"image_size": 32, "patch_size": 16}, projection_dim=16)
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():  # as initialised it has the same caption for every image
            parameter.add_(0.4 * torch.randn_like(parameter))
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def open_model(tiny_blip, context):
    def make(top_p=0.0, seed=0, length=6):
        return open_caption_model(tiny_blip, "", top_p, length, context(options={}, seed=seed))

    return make


def images(count=5):
    random = np.random.default_rng(0)
    shapes = [(40, 60, 3), (60, 40, 3), (32, 32, 3), (3, 40, 3), (200, 100, 3)]
    return [
        (Scene(str(i), f"{i}.jpg", None, None, ()), random.integers(0, 256, shapes[i % 5], np.uint8))
        for i in range(count)
    ]


@pytest.mark.slow
def test_greedy_is_the_librarys_own(open_model, tiny_blip):
    ours = open_model()(images())
    processor = BlipProcessor.from_pretrained(tiny_blip)
    model = BlipForConditionalGeneration.from_pretrained(tiny_blip).eval()
    for (_, image), text in zip(images(), ours, strict=True):
        if image.shape[0] > 8:  # thinner than 1:8 is widened first
            inputs = processor(images=image, return_tensors="pt")
            tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False, num_beams=1)
            assert text == processor.decode(tokens[0], skip_special_tokens=True).strip()
    assert len(set(ours)) > 1 and all(word in WORDS for text in ours for word in text.split())


@pytest.mark.slow
def test_sampled_captions_are_each_images_own(open_model):
    sampled = open_model(0.9)(images())
    assert [open_model(0.9)([one])[0] for one in images()] == sampled
    assert open_model(0.9, seed=1)(images()) != sampled
    assert sampled != open_model()(images())
    alike = [(scene, images()[0][1]) for scene, _ in images()]  # the same pixels under other names
    assert len(set(open_model(0.9)(alike))) > 1


def test_noise_samples_the_nucleus():
    """Words come as often as they are likely within the nucleus, and none from outside it."""
    chances = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = nucleus_noise(0.8, range(4000))(torch.zeros(4000, 1), chances.log().expand(4000, 4)).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert shares.tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    tiny = nucleus_noise(0.01, range(50))(torch.zeros(50, 1), chances.log().expand(50, 4)).argmax(dim=1)
    assert tiny.tolist() == [0] * 50


class Chatting:
    """A processor with a chat template, and its model: it answers with its prompt and "dog"."""

    chat_template = "..."
    device = dtype = None

    def apply_chat_template(self, messages, add_generation_prompt):
        (message,) = messages
        assert add_generation_prompt and message["content"][0] == {"type": "image"}
        return message["content"][1]["text"]

    def __call__(self, text, images, padding, padding_side, return_tensors):
        assert len(text) == len(images) and padding_side == "left"
        ids = torch.tensor([[ord(letter) for letter in one] for one in text])
        return BatchFeature({"input_ids": ids, "pixel_values": torch.zeros(len(images), 3)})

    def generate(self, input_ids, **_):
        return torch.cat([input_ids, torch.tensor([[*b" dog "]]).expand(len(input_ids), -1)], dim=1)

    def batch_decode(self, tokens, skip_special_tokens):
        return ["".join(map(chr, row)) for row in tokens.tolist()]


def test_a_model_that_chats_gets_the_prompt_and_its_answer_is_the_caption(monkeypatch, context):
    chatting = Chatting()
    chatting.dtype = torch.float32
    monkeypatch.setattr("pipelines.hub.load_pretrained", lambda *_: chatting)
    monkeypatch.setattr("pipelines.hub.load_model", lambda *_, **__: chatting)
    model = open_caption_model("chat", "What is it?", 0.8, 20, context(options={}))
    assert model(images(2)) == ["dog", "dog"]


@pytest.mark.slow
def test_as_a_source(blank_job, propose, tiny_blip, open_model):
    """The caption goes to what it names, with the model's name; batches do not matter."""
    files = tuple(f"{i}.jpg" for i in range(6))
    words = [(word, (10, 10, 60, 60), 0.9) for word in ("dog", "cat", "man", "star", "circle")]
    propose(dict.fromkeys("012345", words))
    options = {"objects": {"proposer": {"kind": "fixed"}}, "model": tiny_blip, "max_new_tokens": 6, "nouns": "any"}
    labels = list(caption(blank_job(options, files)))
    assert labels and all(x.provenance["caption_model"] == tiny_blip for x in labels)
    assert all(x.provenance["noun"] in x.text for x in labels)
    job = blank_job(options | {"batch_size": 4}, files)
    again = [x for scenes in (job.scenes[:1], job.scenes[1:]) for x in caption(replace(job, scenes=scenes))]
    assert [(x.scene.id, x.text) for x in again] == [(x.scene.id, x.text) for x in labels]
