"""A small CLIP-VG, filled by the plain reference's formula, as a network and as the official table it came from."""

from functools import cache

import open_clip
import plain_clipvg
import pytest
import torch
from fake_world import make_context
from training_world import IMAGES, SCENES, VALIDATION, images, make_job, scenes  # noqa: F401 - fixtures

from clipvg.network import OFFICIAL, ClipVG, ClipVGConfig
from clipvg.official import NAMES
from pipelines import weights
from pipelines.rows import Rows
from pipelines.two_stage.clip.encoder import empty_model

CONFIG = ClipVGConfig(
    clip="tiny-clip", taps=(0, 1, 3), image_size=64, hidden=64, heads=4, feedforward=96, layers=3, dropout=0.1
)
SIZES = plain_clipvg.Sizes(
    vision=128, patch=8, depth=4, taps=(0, 1, 3), vision_heads=4, text=96, text_depth=3, text_heads=4, embed=96,
    hidden=64, feedforward=96, layers=3, heads=4, image=64, context=32,
)  # fmt: skip


@cache
def official_table():
    """The small network's official table with a GPU's number types; the tensors are shared by all tests."""
    return plain_clipvg.official_state(SIZES)


@pytest.fixture(scope="session")
def small_sizes():
    """The plain reference's sizes of the small network."""
    return SIZES


@pytest.fixture(scope="session")
def small_table():
    """The small network's official table as a file has it: float16 and float32."""
    return official_table()


@pytest.fixture(scope="session")
def small_state():
    """The small network's official table in float64: aliases, dead projection and all."""
    return {key: tensor.double() for key, tensor in official_table().items()}


@pytest.fixture(scope="session")
def small_network(small_state):
    """The small network, float64 but for its box head, in eval mode, with those weights; no test is to change it."""
    network = ClipVG(CONFIG, empty_model("tiny-clip")).double()
    own = {key: small_state[key] for key in plain_clipvg.shapes(SIZES) if not key.startswith("visu_proj.")}
    network.load_state_dict(own, strict=True)
    network.bbox_embed.float()  # boxes are made in float32 whatever the network runs in
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def small_batch():
    """Four images and texts: pixels (4, 3, 64, 64) float64, masked patches (4, 64), ids (4, 32)."""
    generator = torch.Generator().manual_seed(3)
    masked = torch.zeros(4, 8, 8, dtype=torch.bool)
    masked[1, :2], masked[1, 6:], masked[2, :, 5:], masked[3, :3, :] = True, True, True, True
    ids = torch.zeros(4, 32, dtype=torch.long)
    for row, length in enumerate((3, 12, 7, 32)):
        ids[row, :length] = torch.randint(1, 49000, (length,), generator=generator)
        ids[row, 0], ids[row, length - 1] = 49406, 49407
    ids[3, 5] = 0  # "!" inside a word: masked like padding, with words behind it
    pixels = torch.randn(4, 3, 64, 64, generator=generator, dtype=torch.float64)
    return pixels, masked.flatten(1), ids


@pytest.fixture
def context(tmp_path):
    """context(options, **changes): what the factory of clipvg is given."""
    return lambda options=None, **changes: make_context(
        tmp_path, **{"dataset": "refcoco", "options": options or {}, **changes}
    )


@pytest.fixture
def small_is_official(monkeypatch):
    """The official layout is recognised by its shapes: for a test, the small network's shapes are official too."""
    monkeypatch.setitem(OFFICIAL, (SIZES.vision, SIZES.patch), CONFIG)
    monkeypatch.setitem(NAMES, CONFIG.clip, "tiny")


@pytest.fixture
def official_file(small_is_official, tmp_path):
    """official_file(changes=None, drop=(), **top): a file of the small network as a GPU leaves it, tensors changed or
    left out, and the other entries of the file.
    """

    def write(changes=None, drop=(), **top):
        state = official_table() | (changes or {})
        return plain_clipvg.write_official(
            tmp_path / "best_checkpoint.pth", {key: t for key, t in state.items() if key not in drop}, **top
        )

    return write


NETWORK = {"taps": [0], "image_size": 32, "hidden": 32, "heads": 2, "feedforward": 32, "layers": 1, "dropout": 0.0}


@pytest.fixture(scope="session", autouse=True)
def one_tokenizer():
    """Reading the vocabulary takes longer than a whole training here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip, "get_tokenizer", cache(open_clip.get_tokenizer))
        yield


@pytest.fixture
def rows(make_job):  # noqa: F811
    """rows(augment=None, seed=0, ...): the scenes' rows at 32 pixels."""

    def make(augment=None, seed=0, scenes=SCENES, images=IMAGES, style="clean", dataset="shapes"):  # noqa: F811
        job = make_job("clipvg", {}, scenes=scenes, images=images, seed=seed)
        object.__setattr__(job.context, "dataset", dataset)
        return Rows(job, 32, style, augment)

    return make


@pytest.fixture(scope="session")
def clip_weights(tmp_path_factory):
    """The file of a small CLIP with random weights; only the words of shapes have any."""
    torch.manual_seed(0)
    clip = empty_model("tiny-clip")
    texts = [e.text for scene in (*SCENES, *VALIDATION) for e in scene.expressions]
    used = open_clip.get_tokenizer("tiny-clip")(texts).unique()
    with torch.no_grad():
        kept = clip.token_embedding.weight[used].clone()
        clip.token_embedding.weight.zero_()
        clip.token_embedding.weight[used] = 10 * kept  # texts that a network can tell apart
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    weights.write_safetensors(path, clip.state_dict(), {})
    return path


@pytest.fixture(scope="session")
def table(clip_weights):
    """table(**changes): [train.clipvg] for a second's training: 2 epochs of 4 steps, the last of a single row."""

    def make(**changes):
        base = {
            "name": "small", "clip": {"model": "tiny-clip", "pretrained": str(clip_weights)}, "network": NETWORK,
            "preprocessing": "clean", "augment": {"crop": "safe"}, "epochs": 2, "batch": 4, "reference_batch": 8,
            "learning_rate": 1e-3, "workers": 0, "save_every": 1, "log_every": 1,
        }  # fmt: skip
        return base | changes

    return make


@pytest.fixture
def job(make_job, table):  # noqa: F811
    """job(out="out", **changes of the config): what `bench train` hands to clipvg's task."""

    def make(out="out", *, fields=None, **changes):
        return make_job("clipvg", table(**changes), out, **(fields or {}))

    return make
