"""Official files and our own: variants, strictness, messages, and the way there and back."""

import math
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import plain_transvg
import pytest
import torch

from bench.errors import WeightsError
from pipelines.transvg import checkpoint
from pipelines.transvg.checkpoint import config_of, open_network, unpack
from pipelines.transvg.network import TransVG, TransVGConfig

R50, NOWHERE = plain_transvg.Sizes(), Path("none.pth")


def empty(sizes):
    return {key: torch.empty(shape, device="meta") for key, shape in plain_transvg.shapes(sizes).items()}


@pytest.mark.parametrize(
    ("blocks", "tokens", "keys", "numbers", "parameters"),
    [
        ((3, 4, 6, 3), 20, 622, 149_852_100, 149_745_860),
        ((3, 4, 6, 3), 40, 622, 149_857_220, 149_750_980),
        (plain_transvg.R101, 20, 877, None, 168_685_764),
    ],
)
def test_the_variant_is_read_off_the_shapes(blocks, tokens, keys, numbers, parameters):
    state = empty(replace(R50, blocks=blocks, tokens=tokens))
    assert len(state) == keys and numbers in (None, sum(math.prod(t.shape) for t in state.values()))
    for args in (Namespace(), Namespace(max_query_len=tokens, nheads=8), Namespace(max_query_len=17)):
        config = config_of(TransVG, state, args, NOWHERE)
        assert config.backbone == ("resnet50" if blocks[2] == 6 else "resnet101")
        assert (config.tokens, config.image_size) == (tokens, 640)
    assert config == TransVGConfig(backbone=config.backbone, tokens=tokens)
    with torch.device("meta"):
        network = TransVG(config)
    assert network.state_dict().keys() == state.keys()
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_another_number_of_heads_is_the_files_word():
    assert config_of(TransVG, empty(plain_transvg.SMALL), Namespace(nheads=4), NOWHERE).heads == 4


@pytest.mark.slow
def test_a_file_that_differs_is_refused_by_its_keys(official, official_file, vocabulary, tmp_path):
    context = official()

    def refused(path, *parts):
        with pytest.raises(WeightsError) as caught:
            open_network(TransVG, str(path), str(vocabulary), context)
        for part in (Path(path).name, *parts):
            assert part in str(caught.value), part

    refused(official_file(drop=("reg_token.weight",)), "1 keys missing: reg_token.weight")
    refused(official_file({"more.weight": torch.zeros(2)}), "not known to the model: more.weight")
    refused(official_file({"visu_proj.bias": torch.zeros(2)}), "visu_proj.bias (2,), the model has (64,)")
    refused(official_file(drop=("vl_pos_embed.weight",)), "not the weights of a TransVG")
    refused(official_file(args=Namespace(bert_enc_num=6)), "BERT's layer 6")
    torch.save({"model": {"epoch": 3}}, tmp_path / "other.pth")
    refused(tmp_path / "other.pth", "holds no weights of a TransVG")
    (tmp_path / "text.pth").write_text("no pickle")
    refused(tmp_path / "text.pth", "not a readable pickle")
    refused("pipelines/weights/tiny-mdetr.safetensors", "its format is 'bench-mdetr', not 'bench-transvg'")
    refused("gone.pth", "github.com/djiajunustc/TransVG")


def test_a_tokenizer_of_more_words_is_refused(official, official_file, tmp_path):
    large = plain_transvg.write_vocabulary(tmp_path / "large", ("word",), plain_transvg.SMALL.words + 1)
    with pytest.raises(WeightsError, match=r"121 tokens, but best_checkpoint\.pth knows 120"):
        open_network(TransVG, str(official_file()), str(large), official())


@pytest.mark.slow
def test_names_that_older_libraries_add_are_tolerated(official, official_file, vocabulary, small_table):
    """The prefix of DataParallel, BERT's position_ids, and a file of the table alone."""
    added = {"textmodel.bert.embeddings.position_ids": torch.arange(512)[None]}
    state = {f"module.{key}": tensor for key, tensor in (small_table | added).items()}
    loaded = open_network(TransVG, str(official_file(model=state)), str(vocabulary), official())
    assert loaded.style == "official" and not loaded.network.training
    assert torch.equal(loaded.network.reg_token.weight, small_table["reg_token.weight"])


@pytest.mark.slow
def test_our_own_file_has_sizes_tokenizer_and_style(official, official_file, vocabulary, tmp_path):
    loaded = open_network(TransVG, str(official_file()), str(vocabulary), official())
    checkpoint.save(tmp_path / "own.safetensors", replace(loaded, style="clean"), {"epochs": 1})
    state, config, about = unpack(TransVG, tmp_path / "own.safetensors")
    assert (config, about["preprocessing"], about["recipe"]) == (loaded.network.config, "clean", {"epochs": 1})
    again = open_network(TransVG, str(tmp_path / "own.safetensors"), str(vocabulary), official())
    assert again.style == "clean" and state.keys() == again.network.state_dict().keys()
    # float16 and back
    assert torch.equal(again.network.visu_proj.weight, loaded.network.visu_proj.weight.half().float())
