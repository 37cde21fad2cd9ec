"""Tiny models with random weights and tiny tokenizers, saved as the hub's are, so that the real loading code runs."""

import numpy as np
import pytest
import torch
from transformers import (
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    SwinConfig,
)

from bench.grounding import LoadedScene, Query

WORDS = (
    "the",
    "a",
    "left",
    "right",
    "red",
    "blue",
    "big",
    "small",
    "box",
    "dog",
    "cat",
    "man",
    "woman",
    "of",
    "to",
    "in",
    "on",
    "with",
    "second",
    "from",
    "next",
    "sign",
    "girl",
)
TEXTS = ("the red box", "A small dog to the left of the big cat.", "man", "the second woman from the right?")


@pytest.fixture
def scenes():
    """Two pictures of different shapes with different numbers of queries; one text is asked twice."""
    random = np.random.default_rng(0)
    return [
        LoadedScene(
            "wide",
            random.integers(0, 256, (48, 80, 3), np.uint8),
            tuple(Query(f"w{i}", t) for i, t in enumerate((*TEXTS, TEXTS[0]))),
        ),
        LoadedScene("high", random.integers(0, 256, (90, 50, 3), np.uint8), (Query("h0", TEXTS[1]),)),
    ]


@pytest.fixture
def odd_scenes():
    """Pictures that trip processors up: one pixel, one row, three rows, much too long."""
    shapes = [(1, 1), (1, 40), (3, 30), (50, 2500), (2500, 50)]
    return [LoadedScene(str(s), np.full((*s, 3), 90, np.uint8), (Query(str(s), "the dog"),)) for s in shapes]


@pytest.fixture(scope="session")
def tiny_grounding_dino(tmp_path_factory):
    """family -> a folder."""

    def make(family):
        folder = tmp_path_factory.mktemp(family)
        # The delimiters' ids are wired into the model: [CLS], [SEP], full stop and question mark of BERT's vocabulary.
        vocabulary = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
        vocabulary |= {2000 + i: word for i, word in enumerate(WORDS)}
        rows = [vocabulary.get(i, f"[unused{i}]") for i in range(2000 + len(WORDS))]
        (folder / "vocab.txt").write_text("\n".join(rows))
        tokenizer = BertTokenizer.from_pretrained(folder)
        pictures = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 320})
        GroundingDinoProcessor(pictures, tokenizer).save_pretrained(folder)
        configuration, model = {
            "grounding-dino": (GroundingDinoConfig, GroundingDinoForObjectDetection),
            "mm-grounding-dino": (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection),
        }[family]
        swin = SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
        )
        sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 12, "max_text_len": 16}
        sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32)
        sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
        text = {"model_type": "bert", "vocab_size": len(rows), "hidden_size": 16, "num_hidden_layers": 1}
        text |= {"num_attention_heads": 2, "intermediate_size": 16}
        torch.manual_seed(0)
        made = model(configuration(backbone_config=swin, text_config=text, **sizes))
        with torch.no_grad():  # as it is initialised every text and every query would answer the same
            for parameter in made.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        made.save_pretrained(folder)
        return str(folder)

    return make
