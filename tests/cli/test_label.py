"""`bench label`: what a source is given, what is written of its labels, and the commands over the files."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from bench import registry
from bench.cli.main import app
from bench.datasets.load import load_split
from bench.datasets.readers.index_lists import read_index_list
from bench.datasets.readers.jsonl import read_jsonl
from bench.datasets.readers.labels import load_labels
from bench.errors import DataError, UnknownName, UsageError
from bench.hashing import sha256_file
from bench.labelling import PseudoLabel
from bench.settings import load_settings


class Fake:
    """A source that makes `rows` labels of each image but of every `skip`th, and keeps its jobs."""

    def __init__(self):
        self.rows, self.skip, self.name, self.jobs, self.stray, self.stop = 2, 4, "template", [], None, None

    def __call__(self, job):
        self.jobs.append(job)
        for number, scene in enumerate(job.scenes, 1):
            height, width = job.images.load(scene).shape[:2]
            if number % self.skip == 0:
                continue
            for row in range(self.rows):
                provenance = {"source": self.name, "detector": "d.pt", "score": 0.5, "entities": 1, "template": "n"}
                box = (0.0, row, width / 2, height / 2 + row)
                if self.stop == (scene.id, row):
                    raise KeyboardInterrupt
                yield PseudoLabel(self.stray or scene, f"thing {row}", box, provenance)


@pytest.fixture
def fake(monkeypatch):
    source, load = Fake(), registry.load

    def fake_load(group, name, part="pipeline"):
        real = load(group, name, part)  # an unknown name is refused
        if group != registry.LABEL_SOURCES:
            return real
        source.name = name
        return source

    monkeypatch.setattr(registry, "load", fake_load)
    return source


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "few.toml"
    (tmp_path / "weights.bin").write_bytes(b"w")
    path.write_text(
        "[data.shapes]\ntrain = 8\n"
        f"[label.template]\ntop_n = 3\nlist = '{tmp_path}/weights.bin'\n"
        "[label.template.on.shapes]\nspread = 25\n[label.template.on.refcoco]\nspread = 50\n"
    )
    return path


def label(*args, config=None):
    given = ["--config", config] if config else []
    return CliRunner().invoke(app, ["label", *map(str, [*args, *given])])


def made(config, out, *args, source="template"):
    done = label("--source", source, "--split", "shapes-train", "--out", out, "--device", "cpu", *args, config=config)
    assert done.exception is None, (done.exception, done.output)
    return done


def last(done):
    return json.loads(done.stdout.splitlines()[-1])


def test_a_source_gets_images_and_options_and_nothing_else(config, tmp_path, fake):
    out = tmp_path / "new" / "t.jsonl"
    made(config, out, "--limit", 5, "--set", "top_n=7", "--set", "attributes.most=2", "--seed", 3)
    (job,) = fake.jobs
    assert len(job.scenes) == 5 and not any(scene.expressions for scene in job.scenes)
    assert job.options.items() >= {"top_n": 7, "spread": 25, "attributes": {"most": 2}}.items()
    assert "on" not in job.options and job.context.options == job.options and job.where == "[label.template]"
    assert job.context.seed == 3 and job.context.candidates is None
    assert not hasattr(job.images, "objects")
    with pytest.raises(UsageError):
        job.context.train_scenes()


def test_the_file_its_record_and_its_lists(config, tmp_path, fake):
    out = tmp_path / "t.jsonl"
    done = made(config, out, "--lists", tmp_path / "lists", "--threshold", 0.7, "--json")
    record = json.loads((tmp_path / "t.json").read_text())
    assert last(done) == {"file": str(out), **record}
    counts = ("images", "images_with_rows", "images_without_rows", "rows")
    assert [record[key] for key in counts] == [8, 6, 2, 12]
    assert record["sha256"] == sha256_file(out) and record["split"] == "shapes-train"
    assert record["source"] == "template" and record["options"]["spread"] == 25
    assert record["files"][str(tmp_path / "weights.bin")] == sha256_file(tmp_path / "weights.bin")
    assert record["made_by"] == {"detector": {"d.pt": 12}}
    assert record["command"] and {"git", "environment", "seed", "seconds"} <= set(record)
    # The file trains: images are those of the split's data set.
    assert load_labels("shapes-train", [out], load_settings(config))[0].counts.expressions == 12
    assert record["lists"][0] == "shapes/train_separate/1_shapes_train_pseudo_template_0_7.pth"
    scenes = read_index_list(tmp_path / "lists" / record["lists"][1], "shapes")
    assert [len(scene.expressions) for scene in scenes] == [2] * 6
    before = out.read_bytes()
    text = made(config, out).stdout
    assert out.read_bytes() == before and "12 rows about 6 images" in text and "2 images without a row" in text


@pytest.mark.parametrize("torn", [False, True])
def test_labels_that_were_made_are_not_made_again_after_a_stop(config, tmp_path, fake, torn):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "t.jsonl"
    fake.skip = 100
    made(config, whole)
    scenes = [scene.id for scene in fake.jobs.pop().scenes]
    words = ("--source", "template", "--split", "shapes-train", "--out", out, "--device", "cpu")
    for fake.stop, start in (((scenes[3], 0), 0), ((scenes[5], 1), 2)):
        done = label(*words, config=config)
        assert done.exit_code == 130 and "the same command continues" in done.stderr and not out.exists()
        assert [scene.id for scene in fake.jobs.pop().scenes] == scenes[start:]
    fake.stop = None
    if torn:  # as a power cut may leave it
        stored = tmp_path / ".t.jsonl.resume"
        stored.write_bytes(stored.read_bytes()[:-9] + bytes(4))
    text = made(config, out).stdout
    start = 4 if torn else 5
    assert [scene.id for scene in fake.jobs.pop().scenes] == scenes[start:] and f"{start} images before" in text
    assert out.read_bytes() == whole.read_bytes() and not list(tmp_path.glob(".*"))
    assert json.loads((tmp_path / "t.json").read_text())["made_by"] == {"detector": {"d.pt": 16}}


def test_labels_of_other_settings_are_made_anew(config, tmp_path, fake):
    words = ("--source", "template", "--split", "shapes-train", "--out", tmp_path / "t.jsonl", "--device", "cpu")
    fake.skip = 100
    fake.stop = (load_split("shapes-train", load_settings(config)).scenes[5].id, 0)
    label(*words, config=config)
    fake.stop = None
    made(config, tmp_path / "t.jsonl", "--set", "top_n=7")
    assert len(fake.jobs.pop().scenes) == 8


def test_a_source_without_a_label_or_with_a_stray_one_leaves_nothing(config, tmp_path, fake):
    words = ("--source", "template", "-s", "shapes-train", "--out", tmp_path / "t.jsonl", "--device", "cpu")
    fake.stray = load_split("shapes-val", load_settings(config)).scenes[0]
    done = label(*words, config=config)
    assert isinstance(done.exception, DataError) and "none of the images" in str(done.exception)
    fake.skip = 1
    done = label(*words, config=config)
    assert isinstance(done.exception, DataError)
    assert "not one label for 8 images of shapes-train" in str(done.exception) and "--set" in str(done.exception)
    assert not list(tmp_path.glob("*t.js*"))


@pytest.mark.parametrize(("change", "kind", "message"), (
    ({"--source": "templte"}, UnknownName, "did you mean 'template'"),
    ({"--split": "shapes-trian"}, UnknownName, "shapes-train"),
    ({"--out": "t.pth"}, UsageError, "t.jsonl"),
    ({"--set": "top_n"}, UsageError, "KEY=VALUE"),
    ({"--split": None}, UsageError, "--images"),
    ({"--images": "."}, UsageError, "with --split NAME"),
    ({"--source": None}, UsageError, "--source"),
    ({"--out": None}, UsageError, "--out"),
    ({"--split": None, "--images": ".", "--lists": "lists"}, UsageError, "official lists"),
))  # fmt: skip
def test_what_a_user_can_do_wrong(config, tmp_path, monkeypatch, fake, change, kind, message):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    given = {"--source": "template", "--split": "shapes-train", "--out": "t.jsonl"} | change
    done = label(*(word for pair in given.items() if pair[1] is not None for word in pair), config=config)
    assert isinstance(done.exception, kind) and message in str(done.exception), done.exception
    assert not fake.jobs and not list(tmp_path.glob("*.jsonl"))


def test_images_that_nobody_annotated(config, tmp_path, fake):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(photos / f"{number}.png")
    out = tmp_path / "own.jsonl"
    done = label("--source", "caption", "--images", photos, "--out", out, "--device", "cpu", config=config)
    assert done.exception is None, done.exception
    assert [scene.file for scene in read_jsonl(out)] == [f"photos/{n}.png" for n in range(3)]
    split = load_split(f"file:{out}", load_settings(config))
    assert not split.images.missing(split.scenes) and split.images.load(split.scenes[0]).shape == (30, 40, 3)
    assert json.loads((tmp_path / "own.json").read_text())["split"] == "file:photos"
    drawn = label("stats", out, "--sheet", tmp_path / "sheet.png", config=config)
    assert drawn.exception is None and Image.open(tmp_path / "sheet.png").size[0] > 300


@pytest.fixture
def files(config, tmp_path, fake):
    out = []
    for source in ("template", "relation"):
        out.append(tmp_path / f"{source}.jsonl")
        made(config, out[-1], source=source)
    return out


@pytest.mark.slow
def test_stats_of_files_by_source_and_a_sheet(config, tmp_path, files):
    sources = last(label("stats", *files, "--json", config=config))["sources"]
    assert [s["source"] for s in sources] == ["template", "relation"]
    assert sources[0]["rows"] == 12 and sources[0]["entities"] == 1
    assert sources[0]["rows_per_image"] == {"least": 2, "mean": 2, "most": 2}
    assert sources[0]["area"]["0.5"] == pytest.approx(0.25, abs=0.01)
    table = label("stats", *files, "--split", "shapes-train", config=config).stdout
    assert "template" in table and "relation" in table and "rows an image, mean" in table
    sizes = []
    for most in (1, 3):
        out = tmp_path / f"{most}.png"
        done = label("stats", *files, "--sheet", out, "--scenes", most, config=config)
        assert done.exception is None and f"drawn in {out}" in done.stdout.replace("\n", "")
        sizes.append(Image.open(out).size)
    assert sizes[1][0] > 2 * sizes[0][0]


@pytest.mark.slow
def test_export_goes_by_the_records_or_by_the_split(config, tmp_path, files):
    done = label("export", *files, "--out", tmp_path / "lists")
    assert done.exception is None, done.exception
    names = [line.rpartition("/")[2] for line in done.stdout.split()]
    assert names[1:] == ["2_shapes_train_pseudo_relation_0_5.pth", "shapes_train_pseudo.pth"]
    merged = read_index_list(tmp_path / "lists" / "shapes" / names[2], "shapes")
    assert sum(len(scene.expressions) for scene in merged) == 24
    (tmp_path / "relation.json").unlink()
    done = label("export", *files, "--out", tmp_path / "again")
    assert isinstance(done.exception, UsageError) and "--split" in str(done.exception)
    done = label("export", *files, "--out", tmp_path / "again", "--split", "refcoco-train", "--json")
    assert last(done)["lists"][-1] == str(tmp_path / "again" / "unc" / "unc_train_pseudo.pth")
    separate = tmp_path / "lists" / "shapes" / "train_separate" / names[1]
    stats = label("stats", separate, "-s", "shapes-train", "--json", config=config)
    assert last(stats)["sources"][0]["source"] == "relation"


@pytest.mark.slow
def test_what_a_user_can_do_wrong_with_files(config, tmp_path, files):
    listed = tmp_path / "x.pth"
    listed.write_bytes(b"x")
    for args, kind, message in (
        (("stats", listed), UsageError, "--split"),
        (("stats", tmp_path / "none.jsonl"), DataError, "cannot be read"),
        (("stats", files[0], "--split", "shapes-trian"), UnknownName, "shapes-train"),
        (("export", files[0], "--out", tmp_path / "l", "--split", "file:x"), UsageError, "official lists"),
        (("export", files[0], "--out", tmp_path / "l", "--threshold", 2), UsageError, "0 to 1"),
        (("--source", "template", "stats", files[0]), UsageError, "after its name"),
    ):
        done = label(*args)
        assert isinstance(done.exception, kind) and message in str(done.exception), (args, done.exception)
