"""A context for building pipelines by hand, a few scenes of the embedded data, and small models of the hub."""

import numpy as np
import pytest
import tokenizers
from fake_world import make_context
from small_models import write_family

from bench.datasets.shapes import ShapesImages, make_scene
from bench.evaluation.validation import on_split
from bench.grounding import LoadedScene, Query
from bench.settings import PROJECT, load_settings
from bench.tables import with_start
from bench.training.task import TrainingJob

WORDS = ("the red star on the left of a small blue circle", "a big Yellow square, above it two dogs", "nothing at all")


@pytest.fixture
def context(tmp_path):
    """context(name, dataset="shapes", **changes): what `name`'s factory is given on a CPU, offline."""

    def make(name="yolo-clip", dataset="shapes", options=None, **changes):
        settings = load_settings()
        options = settings.table("pipelines", name, dataset) if options is None else options
        options = with_start(options, settings, dataset, (name,))
        fields = {"name": name, "dataset": dataset, "options": options, "folder": PROJECT, "home": tmp_path / "home"}
        scenes = {"train_scenes": lambda: [make_scene(2026, "train", i) for i in range(60)]}
        return make_context(tmp_path, **{**fields, **scenes, **changes})

    return make


@pytest.fixture(scope="session")
def loaded():
    """The first 16 scenes of shapes-val as a pipeline sees them, and the scenes themselves."""
    images = ShapesImages(2026)
    scenes = [make_scene(2026, "val", i) for i in range(16)]
    samples = [LoadedScene(s.id, images.load(s), tuple(e.query for e in s.expressions)) for s in scenes]
    return scenes, samples


@pytest.fixture
def job(context, tmp_path):
    """job(pipeline, out="out", seed=0, **recipe): a training of 12 scenes of shapes, validated on 4."""
    images = ShapesImages(2026)
    scenes, validation = ([make_scene(2026, part, i) for i in range(n)] for part, n in (("train", 12), ("val", 4)))

    def make(pipeline, out="out", seed=0, images=images, **recipe):
        return TrainingJob(
            scenes=scenes,
            images=images,
            validation=validation,
            validation_images=images,
            recipe=recipe,
            out=tmp_path / out,
            context=context(pipeline, seed=seed),
            validate=on_split(validation, images),
            split_name="shapes-train",
            validation_name="shapes-val",
            fingerprint="f" * 64,
        )

    return make


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory):
    """hub_folder(family): the folder of a small model with random weights."""
    folders = {}

    def make(family):
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp("hub") / family
            folders[family].mkdir()
            write_family(folders[family], family)
        return str(folders[family])

    return make


TEXTS = ("the red box", "A small dog to the left of the big cat.", "man", "the second woman from the right?")


@pytest.fixture
def scenes():
    """Two images of different shapes with different numbers of queries; one text comes twice."""
    rng = np.random.default_rng(0)
    wide, high = (rng.integers(0, 256, (*shape, 3), np.uint8) for shape in ((48, 80), (90, 50)))
    queries = tuple(Query(f"w{i}", text) for i, text in enumerate((*TEXTS, TEXTS[0])))
    return [LoadedScene("wide", wide, queries), LoadedScene("high", high, (Query("h0", TEXTS[1]),))]


@pytest.fixture(scope="session")
def roberta_folder(tmp_path_factory):
    """vocab.json and merges.txt of a byte-level BPE with RoBERTa's special tokens, made on the spot."""
    folder = tmp_path_factory.mktemp("roberta")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.model.save(str(folder))
    return folder
