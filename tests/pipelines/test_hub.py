"""Models by id or folder: a message that helps when they are not there, nothing random, nothing executed."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from bench.errors import WeightsError
from bench.fetching.sources import source_of
from bench.hashing import sha256_file
from pipelines import hub

TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 12}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path / "tiny-bert")
    return tmp_path / "tiny-bert"


def test_a_folder_is_found_from_every_place(context, folder):
    model = hub.load_model(AutoModel, str(folder), context(), "BERT")
    assert not model.training and model.dtype == torch.float32
    digest = sha256_file(folder / "model.safetensors")
    assert hub.hashes(str(folder), context()) == {"tiny-bert/model.safetensors": digest}
    for changes in ({"folder": folder.parent}, {"home": folder.parent.parent}):
        where = context(**changes)
        if "home" in changes:
            (where.home / "weights").mkdir(exist_ok=True)
            (where.home / "weights" / "tiny-bert").symlink_to(folder)
        assert hub.load_model(AutoModel, "tiny-bert", where, "BERT").config.hidden_size == 8


def snapshot_of(context, name):
    """The place of a model in the hub's cache, whose folder is not there yet."""
    repository, commit = hub.cache_folder(context()) / f"models--someone--{name}", "0123456789abcdef" * 2 + "01234567"
    for part in ("refs", "snapshots"):
        (repository / part).mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return repository / "snapshots" / commit


def test_an_id_is_read_from_the_cache(context, folder):
    folder.rename(snapshot_of(context, "tiny-bert"))
    assert hub.load_model(AutoModel, "someone/tiny-bert", context(), "BERT").config.hidden_size == 8
    assert list(hub.hashes("someone/tiny-bert", context())) == ["someone/tiny-bert/model.safetensors"]


def test_what_is_not_cached_says_how_to_get_it(context):
    with pytest.raises(WeightsError) as caught:
        hub.load_pretrained(AutoConfig, "someone/nothing", context(), "GroundingDINO")
    message = str(caught.value)
    for part in ("GroundingDINO", "someone/nothing", str(hub.cache_folder(context())), "hf download", "offline"):
        assert part in message
    with pytest.raises(WeightsError, match=r"no folder './nothing' with a config\.json"):
        hub.load_pretrained(AutoConfig, "./nothing", context(), "GroundingDINO")


def test_half_a_checkpoint_is_refused(context, folder):
    deeper = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(deeper))
    with pytest.raises(WeightsError, match=r"16 of its keys are missing: encoder\.layer\.1"):
        hub.load_model(AutoModel, str(folder), context(), "BERT")
    wider = deeper | {"num_hidden_layers": 1, "intermediate_size": 16}
    (folder / "config.json").write_text(json.dumps(wider))
    with pytest.raises(WeightsError, match="BERT"):
        hub.load_model(AutoModel, str(folder), context(), "BERT")


def test_code_beside_weights_is_not_run(context, tmp_path):
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}))
    (evil / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        hub.load_pretrained(AutoConfig, str(evil), context(), "Evil")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_gives_tensors_only(context, folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (folder / "model.safetensors").unlink()
    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        hub.load_model(AutoModel, str(folder), context(), "BERT")
    assert not (tmp_path / "ran").exists()


def test_a_weights_file_of_an_id_is_read_from_the_cache(context):
    snapshot = snapshot_of(context, "grounder")
    snapshot.mkdir()
    (snapshot / "model.safetensors").write_bytes(b"weights")
    (snapshot / "other.pth").write_bytes(b"others")
    files = ("clipvg.safetensors", "model.safetensors")
    offline = context(offline=True)

    def find(name):
        source = source_of(name, "", offline)
        return hub.find_weights(source._replace(files=source.files or files), offline, "CLIP-VG")

    assert find("someone/grounder").read_bytes() == b"weights"
    assert find("someone/grounder/other.pth").read_bytes() == b"others"
    with pytest.raises(WeightsError, match=r"(?s)CLIP-VG: .*someone/nobody are not there.*hf download someone/nobody"):
        find("someone/nobody")


@pytest.mark.parametrize(
    ("name", "is_id"),
    [("me/model", True), ("me/model/file.pth", True), ("folder/file.pth", False), ("/me/model", False),
     ("../me/model", False), ("model", False), ("a/b/c/d", False)],
)  # fmt: skip
def test_what_can_be_an_id(name, is_id, context):
    assert bool(source_of(name, "", context()).hub) is is_id
