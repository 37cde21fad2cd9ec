"""A grounder of a few lines with a training of its own: what runs over any task is tested on it, without CLIP-VG."""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from bench import registry
from bench.grounding import PipelineCard, Prediction
from bench.hashing import sha256_file
from bench.registry import Method
from bench.settings import parse_table
from bench.training.config import TrainConfig
from bench.training.optimiser import decay_split
from bench.training.task import Batch, TrainTask
from pipelines.weights import read_safetensors, write_safetensors

GRID, WORDS = 8, 32


def encode(picture, text):
    """The image as GRID x GRID mean colours and the text as a bag of hashed words: (192 + 32,) float32."""
    parts = [np.array_split(row, GRID, axis=1) for row in np.array_split(picture, GRID, axis=0)]
    colours = np.array([cell.mean((0, 1)) / 255 for row in parts for cell in row]).ravel()
    words = np.bincount([crc32(word.encode()) % WORDS for word in text.split()], minlength=WORDS)
    return np.concatenate([colours, words]).astype(np.float32)


class Network(nn.Sequential):
    """Boxes cxcywh in 0..1 of the image."""

    def __init__(self):
        super().__init__(nn.Linear(3 * GRID**2 + WORDS, 64), nn.ReLU(), nn.Linear(64, 4), nn.Sigmoid())


class Grounder:
    def __init__(self, context, network=None):
        self.name, path = context.name, context.options.get("weights", "")
        self.network = network or Network().eval()
        if network is None:
            self.network.load_state_dict(read_safetensors(Path(path))[0])
        hashes = {"tiny": sha256_file(Path(path))} if path else {}
        self.card = PipelineCard(self.name, "a few lines", weights={"tiny": path}, sha256=hashes)

    @torch.inference_mode()
    def ground(self, batch):
        return [self._predict(scene.picture, query) for scene in batch for query in scene.queries]

    def _predict(self, picture, query):
        x, y, w, h = self.network(torch.from_numpy(encode(picture, query.text))[None])[0].double().tolist()
        height, width = picture.shape[:2]
        box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        return Prediction(query.id, box)


@dataclass(frozen=True)
class Rows(Batch):
    inputs: Tensor
    targets: Tensor


class Expressions:
    def __init__(self, job):
        self.pictures = job.pictures
        self.rows = [(scene, expression) for scene in job.scenes for expression in scene.expressions]

    def __len__(self):
        return len(self.rows)

    def name(self, index):
        return self.rows[index][1].id

    def sample(self, epoch, index):
        scene, expression = self.rows[index]
        picture = self.pictures.load(scene)
        height, width = picture.shape[:2]
        x1, y1, x2, y2 = expression.box
        target = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        return encode(picture, expression.text), np.array(target, np.float32)


class Config(TrainConfig):
    name: str = "small"
    epochs: int = 1
    batch: int = 4
    reference_batch: int = 8
    learning_rate: float = 1e-2
    validate_every: int = 100
    workers: int = 0


class TinyTask(TrainTask):
    def __init__(self, job):
        super().__init__(job)
        self.loss_weights = {"l1": 1.0}
        self.config = parse_table(Config, dict(job.recipe), f"bench.toml [train.{job.context.name}]")
        torch.manual_seed(job.context.seed)
        self.model = Network()
        if self.config.start_from:
            self.model.load_state_dict(read_safetensors(Path(self.config.start_from))[0])

    def dataset(self, augment=True):
        return Expressions(self.job)

    def collate(self, samples):
        return Rows(*(torch.from_numpy(np.stack(column)) for column in zip(*samples, strict=True)))

    def losses(self, batch, rng):
        return {"l1": (self.model(batch.inputs) - batch.targets).abs().sum(1)}

    def parameter_groups(self):
        return decay_split(dict(self.model.named_parameters()))

    def pipeline(self):
        return Grounder(self.job.context, self.model.eval())

    def save(self, path):
        write_safetensors(path, self.model.state_dict(), {})


def tasks(job):
    return {"network": lambda: TinyTask(job)}


TINY = Method("tiny_method:Grounder", tasks="tiny_method:tasks")


@contextmanager
def installed(folder, monkeypatch):
    """Install the method as a package that lies in `folder`: for this process, and for those it starts."""
    info = folder / "tiny_method-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-method\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[bench.pipelines]\ntiny = tiny_method:TINY\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parent}")
    registry._entries.cache_clear()
    yield
    registry._entries.cache_clear()
