"""A small CLIP-VG, filled by the plain reference's formula, as a network and as the official table it came from."""

from contextlib import nullcontext
from functools import cache

import plain_clipvg
import pytest
import torch

from bench.grounding import PipelineContext
from clipvg.export import NAMES
from clipvg.model.config import OFFICIAL, ClipVGConfig
from clipvg.model.network import ClipVG
from pipelines.clip.encoder import empty_model

CONFIG = ClipVGConfig(
    clip="tiny-clip", taps=(0, 1, 3), image_size=64, hidden=64, heads=4, feedforward=96, layers=3, dropout=0.1
)
SIZES = plain_clipvg.Sizes(
    vision=128,
    patch=8,
    depth=4,
    taps=(0, 1, 3),
    vision_heads=4,
    text=96,
    text_depth=3,
    text_heads=4,
    embed=96,
    hidden=64,
    feedforward=96,
    layers=3,
    heads=4,
    image=64,
    context=32,
)


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
    """Four pictures and texts: pixels (4, 3, 64, 64) float64, masked patches (4, 64), ids (4, 32)."""
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


class NoClock:
    def stage(self, name):
        return nullcontext()


@pytest.fixture
def context(tmp_path):
    """context(**changes): what the factory of clipvg is given on a CPU, offline."""

    def make(options=None, **changes):
        fields = {
            "name": "clipvg",
            "dataset": "refcoco",
            "options": options or {},
            "folder": tmp_path,
            "home": tmp_path / "home",
            "device": "cpu",
            "dtype": "float32",
            "seed": 0,
            "offline": True,
            "clock": NoClock(),
            "train_scenes": list,
        }
        return PipelineContext(**(fields | changes))

    return make


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
