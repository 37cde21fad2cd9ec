"""MRefM against the plain page: visual tokens, what is hidden, both steps; training, resuming, and what follows it."""

import json
from dataclasses import replace

import numpy as np
import plain_mrefm
import plain_oneref
import pytest
import torch
import torch.nn.functional as F
from fake_world import make_context
from PIL import Image
from training_world import IMAGES, lines_of, run_training, stopped_and_resumed

from bench.datasets.shapes import make_scene
from bench.errors import DataError, SettingsError, WeightsError
from bench.training.gradient_check import gradient_check
from bench.training.step import OptimisationStep
from bench.training.trainer import Trainer, train
from pipelines.oneref import checkpoint, masking, vqkd
from pipelines.oneref.mrefm import MRefMTask, MRefMTraining, tasks
from pipelines.oneref.pipeline import oneref
from pipelines.oneref.recipe import MRefM
from pipelines.oneref.task import OneRefTask
from pipelines.oneref.tokenizer import SpmTokenizer

STILL = {"crop": "off", "jitter_share": 0.0, "translate": False, "scales": (32,)}
SIZES = plain_oneref.Sizes(width=16, depth=2, heads=2, image=32, patch=8, positions=24, codes=12)


@pytest.fixture
def codes(tmp_path):
    """A visual tokenizer's file, of images half as wide as the network's."""
    return plain_mrefm.write_vqkd(tmp_path / "vqkd.pth")


@pytest.fixture
def pre(job, codes):
    """pre(out="out", mrefm={}, **changes): a job of MRefM's pre-training."""

    def make(out="out", mrefm=None, **changes):
        table = {"head": "mrefm", "mrefm": {"codes": str(codes)} | (mrefm or {}), "augment": STILL, "drop_path": 0.0}
        return job(out, **(table | changes))

    return make


def test_the_default_config_is_the_second_phase_of_the_official_scripts():
    c = MRefMTraining()
    assert (c.epochs, c.batch, c.learning_rate, c.weight_decay, c.drop_path) == (100, 32, 5e-5, 1e-4, 0.1)
    m = c.mrefm
    assert (m.image_share, m.target_share, m.text_share, m.smoothing, m.drop_worst, m.drop_after) == (
        0.35, 0.75, 0.4, 0.1, 0.2, 12_000,
    )  # fmt: skip
    assert m.image_relation == m.text_relation == 0 and "batch" not in c.FREE


@pytest.mark.parametrize("side", [2, 4, 3])
def test_visual_tokens_are_the_plain_pages(tmp_path, side):
    tokenizer = vqkd.load(plain_mrefm.write_vqkd(tmp_path / "v.pth", side=side, width=128, codes=40))
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))
    state = plain_mrefm.vqkd_state(side=side, width=128, codes=40)
    names = tokenizer(pixels)
    assert names.tolist() == [plain_mrefm.names_of(state, image, 8) for image in pixels]
    assert len(names.unique()) > 5


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("encode_task_layer.2.bias"), r"missing: encode_task_layer\.2\.bias"),
    (lambda s: s.pop("quantize.embedding.weight"), "not a visual tokenizer of BEiT v2"),
    (lambda s: s.update({"encoder.blocks.9999999.norm1.bias": torch.zeros(3)}), "missing"),
    (lambda s: s.update({"encoder.blocks.x.norm1.bias": torch.zeros(3)}), "missing"),
    (lambda s: s.update({"encoder.pos_embed": torch.zeros(3)}), "not a visual tokenizer"),
])  # fmt: skip
def test_another_file_is_named(tmp_path, change, message):
    state = plain_mrefm.vqkd_state()
    change(state)
    torch.save({"model": state}, tmp_path / "v.pth")
    with pytest.raises(WeightsError, match=message):
        vqkd.load(tmp_path / "v.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "v.pth").read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"cut\.pth"):
        vqkd.load(tmp_path / "cut.pth")


def test_hidden_patches_are_as_many_as_the_official_rule_says():
    targets = torch.tensor([[0.5, 0.5, 0.2, 0.1], [0.02, 0.03, 0.1, 0.1], [0.5, 0.5, 1.0, 1.0]])
    rng = torch.Generator().manual_seed(0)
    hidden = masking.hidden_patches(targets, 24, MRefM(), rng).view(3, 24, 24)
    # Row 0: corners 9.6, 10.8, 14.4, 13.2 cut to 9, 10, 14, 13, then one more: 7 x 5 patches, 8 of them stay.
    inside = hidden[0, 9:14, 8:15]
    assert int(inside.sum()) == 35 - int(35 * 0.25)
    # Row 1: corners -0.7, -0.5, 1.7, 1.9 are cut to 0, 0, 1, 1; one more, and the canvas ends above and left.
    assert int(hidden[1, :2, :2].sum()) == 4 - int(4 * 0.25)
    assert int(hidden[2].sum()) == 576 - 144
    alone = masking.hidden_patches(targets[:1] * 0 - 1, 24, MRefM(), rng)  # no box on the canvas
    assert int(alone.sum()) == 576 - int(576 * 0.65)
    again = masking.hidden_patches(targets, 24, MRefM(), torch.Generator().manual_seed(0)).view(3, 24, 24)
    assert torch.equal(again, hidden)


def test_replaced_tokens_are_as_many_as_the_official_rule_says_and_the_target_first():
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 90, (400, 12), generator=rng)
    lengths = torch.arange(400) % 10 + 3
    padding = torch.arange(12)[None] >= lengths[:, None]
    ids[padding] = 1
    first = torch.full((400, 2), -1)
    first[:, 0] = 1
    first[200:, 1] = 2
    new, hidden = masking.replaced(ids, padding, first, 100, 0.4, rng)
    wanted = [max(1, min(int((n - 1) * 0.4 + 0.5), n - 1)) for n in lengths.tolist()]
    assert hidden.sum(dim=1).tolist() == wanted
    assert not hidden[:, 0].any() and not (hidden & padding).any() and hidden[:, 1].all()
    assert hidden[200:, 2].tolist() == [n > 1 for n in wanted[200:]]
    assert torch.equal(new[~hidden], ids[~hidden])
    masked, same = (new[hidden] == 99).float().mean(), (new[hidden] == ids[hidden]).float().mean()
    assert 0.72 < masked < 0.88 and 0.06 < same < 0.16


def test_words_for_target_and_object():
    assert masking.by_rules("the red man behind a small car") == ("man", "car")
    assert masking.by_rules("") == ("", "")

    class Token:
        def __init__(self, text, dep):
            self.text, self.dep_ = text, dep

    doc = [Token("man", "ROOT"), Token("behind", "prep"), Token("car", "pobj")]
    assert masking.words_in(doc) == ("man", "car")
    assert masking.words_in([Token("he", "nsubj"), *doc]) == ("he", "car") and masking.words_in([]) == ("", "")
    tokenizer = SpmTokenizer.of_pieces([("▁man", -1.0), ("▁the", -1.0), ("▁", -3.0), ("c", -4.0)], 5)
    places = masking.first_places(["the the man", "c man", "the the the man"], tokenizer, lambda _: ("man", "the"))
    assert places.tolist() == [[3, 1], [3, -1], [-1, 1]]  # the last text is cut before its man


def filled_task(job):
    """A task whose network holds the plain page's weights, and those."""
    task = MRefMTask(job)
    sizes = replace(SIZES, words=task.model.config.words)
    state = plain_oneref.official_state(sizes)
    unused = checkpoint.TRAINING
    task.model.load_state_dict({key: t for key, t in state.items() if not key.startswith(unused)})
    return task, state, sizes


@pytest.mark.parametrize("relation", [0.0, 1.0])
def test_both_steps_are_the_plain_pages(pre, tmp_path, relation):
    some = pre()
    names = [e.id for scene in some.scenes for e in scene.expressions]
    numbers = torch.randn(len(names), 10, generator=torch.Generator().manual_seed(3))
    (tmp_path / "scores.json").write_text(json.dumps(dict(zip(names, numbers.tolist(), strict=True))))
    mrefm = {"scores": str(tmp_path / "scores.json")} if relation else {}
    task, w, s = filled_task(pre(mrefm={"image_relation": relation, "text_relation": relation} | mrefm))
    task.model.eval()
    data = task.dataset()
    batch = task.collate([data.sample(0, row) for row in range(5)])
    tokenizer, state = task.loaded.tokenizer, plain_mrefm.vqkd_state()
    pixels, _, _ = task.inputs(batch)
    owner = batch.owners.tolist() if batch.owners is not None else range(5)
    ids, padding = tokenizer(batch.texts)
    if relation:  # scores are over all places
        room = (0, 12 - ids.shape[1])
        ids, padding = F.pad(ids, room, value=1), F.pad(padding, room, value=True)
    # 1. Patches.
    options, rng = task.config.mrefm, torch.Generator().manual_seed(5)
    hidden = masking.hidden_patches(batch.targets, 4, options, rng)
    named = [plain_mrefm.names_of(state, image, 8) for image in batch.images]
    rows = [
        (pixels[owner[n]], ids[n], padding[n], batch.targets[n], hidden[n].nonzero()[:, 0].tolist()) for n in range(5)
    ]
    wanted = plain_mrefm.image_step(w, s, rows, [named[owner[n]] for n in range(5)])
    task.step = 4
    without = () if relation else ("image_relation",)
    check_terms(task.losses(batch, torch.Generator().manual_seed(5)), wanted, without)
    # 2. Tokens; and late in training, without the worst.
    rng = torch.Generator().manual_seed(5)
    first = masking.first_places(batch.texts, tokenizer, task.words)
    given, places = masking.replaced(ids, padding, first, len(tokenizer), 0.4, rng)
    rows = [
        (pixels[owner[n]], ids[n], padding[n], batch.targets[n], given[n], places[n].nonzero()[:, 0].tolist())
        for n in range(5)
    ]
    scores = numbers[:5] if relation else None
    for step, dropped in ((5, 0.0), (12_001, 0.2)):
        task.step = step
        wanted = plain_mrefm.text_step(w, s, rows, scores, dropped)
        check_terms(task.losses(batch, torch.Generator().manual_seed(5)), wanted)


def check_terms(terms, wanted, without=()):
    assert terms.keys() == wanted.keys() - set(without)
    for name, term in terms.items():
        assert term.shape == (5,)
        np.testing.assert_allclose(float(term.mean()), float(wanted[name]), rtol=1e-5, err_msg=name)


def test_what_is_trained(pre):
    task = MRefMTask(pre())
    (group,) = task.parameter_groups()
    heads = {name.partition(".")[0] for name in group.parameters}
    assert heads == {"beit3", "language_head", "vision_head", "mim_head", "mlm_head"}
    assert "beit3.vision_embed.mask_token" in group.parameters
    norms = gradient_check(task)["gradient_norms"]  # of an image step
    assert norms["mim_head.weight"] > 0 and norms["beit3.vision_embed.mask_token"] > 0 and not norms["mlm_head.weight"]
    task.step = 1
    assert gradient_check(task)["gradient_norms"]["mlm_head.weight"] > 0
    frozen = MRefMTask(pre(freeze=True)).parameter_groups()[0].parameters
    assert not any(name.startswith("beit3") for name in frozen)


@pytest.mark.slow
def test_it_learns_and_is_followed_by_a_fine_tuning(pre, job, tmp_path):
    mine = pre(epochs=16, learning_rate=3e-3, log_every=1, validate_every=16)
    made = train(tasks(mine)["network"]())
    lines = [line for line in lines_of(mine.out) if "loss" in line]
    for name, even in (("image_tokens", 0), ("text_tokens", 1)):
        own = [line[name] for line in lines if name in line]
        assert [line["step"] % 2 == 1 - even for line in lines if name in line] == [True] * len(own)
        assert np.mean(own[-4:]) < 0.95 * np.mean(own[:4])
    assert made.score.keys() == {"masked_accuracy", "image_tokens", "text_tokens", "pointing"}
    context = make_context(tmp_path, name="oneref", dataset="shapes", options={"weights": str(made.path)})
    with pytest.raises(WeightsError, match="MRefM's pre-training, whose box head is not trained; fine-tune it first"):
        oneref(context)
    again = MRefMTask(pre("again", start_from=str(made.path)))
    own, given = again.model.state_dict(), checkpoint.load_network(made.path).state_dict()
    assert own.keys() == given.keys() and all(torch.equal(own[key], given[key]) for key in own)
    tuned = tasks(job("tuned", start_from=str(made.path), epochs=1, augment=STILL))["network"]()
    assert type(tuned) is OneRefTask and not tuned.model.config.codes
    assert torch.equal(tuned.model.vision_head.weight, given["vision_head.weight"])
    oneref(replace(context, options={"weights": str(train(tuned).path)}))


def test_an_official_checkpoint_is_gone_on_from(pre, job, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WIDTH", 8)
    pieces = [("▁the", -2.0), ("▁red", -3.0), ("▁", -4.0)]
    monkeypatch.setattr(SpmTokenizer.__init__, "__defaults__", (3 + len(pieces),))
    spm = plain_oneref.write_spm(tmp_path / "beit3.spm", pieces)
    state = plain_oneref.official_state(replace(SIZES, words=12))
    path = plain_oneref.write_official(tmp_path / "mrefm.pth", state)
    options = {"start_from": str(path), "tokenizer": str(spm)}
    for task in (MRefMTask(pre("a", **options)), OneRefTask(job("b", **options))):
        own = task.model.state_dict()
        assert all(torch.equal(own[key], state[key]) for key in own)
        assert ("mlm_head.weight" in own) == isinstance(task, MRefMTask)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"group": "image", "ema": 0.8, "mrefm": {"image_relation": 1.0}}])
def test_killed_anywhere_it_ends_in_the_same_bits(pre, changes):
    kills = [(OptimisationStep, "step", 2, False), (Trainer, "validate", 1, True), (Trainer, "finish", 1)]
    assert stopped_and_resumed(lambda out: MRefMTask(pre(out, **changes)), kills)[-1] == 8


@pytest.mark.slow
def test_two_processes_alternate_together(codes, tmp_path):
    """Two processes alternate together; the head that a step leaves out gets no gradient, and so no decay either."""
    for part, count in (("train", 2), ("val", 1)):
        lines = []
        for number in range(count):
            scene = make_scene(2026, part, number)
            Image.fromarray(IMAGES.load(scene)).save(tmp_path / scene.file)
            lines += [{"image": scene.file, "text": e.text, "box_xyxy": e.box} for e in scene.expressions[:4]]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "small.toml").write_text(f"""[train.oneref]
    head = "mrefm"
    mrefm = {{ codes = "{codes}" }}
    beit3 = ""
    tokenizer = ""
    network = {{ width = 16, layers = 1, heads = 2, image_size = 32, patch = 8, positions = 24, text = 12 }}
    augment = {{ crop = "off", scales = [32] }}
    drop_path = 0.0
    epochs = 2
    batch = 2
    reference_batch = 4
    workers = 0
    log_every = 1
    """)
    words = ["--pipeline", "oneref", "--split", f"file:{tmp_path / 'train.jsonl'}"]
    words += ["--validate", f"file:{tmp_path / 'val.jsonl'}", "--config", str(tmp_path / "small.toml")]
    words += ["--out", str(tmp_path / "two")]
    done = run_training(2, words)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line for line in lines_of(tmp_path / "two") if "loss" in line]
    assert ["image_tokens" in line for line in steps] == [True, False, True, False]
    state = torch.load(next((tmp_path / "two").glob("*.run/last.pt")), weights_only=True)
    taken = [int(state["optimiser"]["state"][n]["step"]) for n in range(len(state["trained"]))]
    counts = dict(zip(state["trained"], taken, strict=True))
    assert counts["mim_head.weight"] == counts["mlm_head.weight"] == 2 and counts["vision_head.weight"] == 4


def test_mistakes(pre, tmp_path):
    other = plain_mrefm.write_vqkd(tmp_path / "other.pth", patch=16)
    with pytest.raises(SettingsError, match="codes: its patches have 16 pixels, the network's 8"):
        MRefMTask(pre(mrefm={"codes": str(other)}))
    with pytest.raises(WeightsError, match=r"nothing\.pth"):
        MRefMTask(pre(mrefm={"codes": "nothing.pth"}))
    with pytest.raises(SettingsError, match="text_relation: it needs the semantic scores: set scores=FILE"):
        MRefMTask(pre(mrefm={"text_relation": 1.0}))
    for text, message in (
        ("[]", "expected a JSON object"), ('{"a": [1, 2]}', "a: expected 10 finite numbers"),
        ('{"a": [0, 0, 0, 0, 0, 0, 0, 0, 0, NaN]}', "."), ('{"a": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]}', "has no semantic"),
    ):  # fmt: skip
        (tmp_path / "scores.json").write_text(text)
        with pytest.raises(DataError, match=message):
            MRefMTask(pre(mrefm={"text_relation": 1.0, "scores": str(tmp_path / "scores.json")})).dataset()
