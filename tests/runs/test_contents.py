"""One set of contents is one run: whatever names a file, wherever it lies, and in records of before."""

import json
from dataclasses import replace

import pytest
from fake_world import HashPipeline, make_settings, make_split

from bench import registry
from bench.errors import RunError
from bench.evaluation.loop import evaluate
from bench.hashing import sha256_file, sha256_folder, spelled_out
from bench.reporting.boards import collect
from bench.runs import provenance
from bench.runs.contents import by_contents, hash_of, options_by_contents, weights_by_part
from bench.runs.record import read_record

ONE, TWO = "1" * 64, "2" * 64
TABLE = {"proposer": {"kind": "yolo", "weights": "published.pt"}}


class Detector(HashPipeline):
    """Answers by its file of weights; its card has the file's name, as those of proposers do."""

    stop = False

    def __init__(self, context):
        super().__init__(context)
        path = context.folder / context.options["proposer"]["weights"]
        self.options["salt"] = sha256_file(path)
        self.card = replace(self.card, weights={"proposer": path.name}, sha256={"proposer": sha256_file(path)})

    def ground(self, batch):
        if self.stop:
            raise KeyboardInterrupt
        return super().ground(batch)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Runs `hash` with flags; the working folder is empty but for the weights a.pt, and no code is dirty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: Detector)
    monkeypatch.setattr(provenance, "git_state", lambda *_: {"commit": "c" * 40, "dirty": False})
    (tmp_path / "a.pt").write_bytes(b"weights")

    def run(flags, name="hash", fresh=False):
        settings = make_settings(tmp_path / "results", TABLE)
        tables = settings.settings.model_copy(update={"pipelines": {"hash": TABLE, "other": TABLE}})
        resolved = replace(settings, settings=tables, folder=tmp_path)
        return evaluate(name, make_split(6), resolved, flags, fresh=fresh)

    return run


def spellings(folder):
    return (
        {"weights": str(folder / "a.pt")},
        {"weights": "a.pt"},
        {"weights": "proposer=a.pt"},
        {"proposer": {"weights": "a.pt"}},
        {"proposer": {"weights": str(folder / "a.pt")}},
    )


def rows(results):
    (board,) = collect(results).boards
    return {row["pipeline"]: row for row in board.rows}, len(board.rows)


def test_three_spellings_are_one_run_and_one_row(tmp_path, world):
    first, *others = spellings(tmp_path)
    made = world(first)
    for flags in others:
        assert world(flags).already_done, flags
    again = [world(flags, fresh=True) for flags in others]
    assert {run.record.settings_hash for run in again} == {made.record.settings_hash}
    (tmp_path / "b.pt").write_bytes(b"other weights")
    world({"weights": "b.pt"}, name="other")
    table, count = rows(tmp_path / "results")
    assert count == 2 and len(table["hash"]["history"]) == 4
    assert all(row["rank"] in ([1, 1], [1, 2], [2, 2]) for row in table.values()), "ranks count each model once"
    assert str(tmp_path) not in json.dumps(made.record.identity.model_dump(mode="json"))


def test_two_files_of_one_name_are_two_runs(tmp_path, world):
    made = world({"weights": "a.pt"})
    (tmp_path / "a.pt").write_bytes(b"retrained")
    other = world({"weights": "a.pt"})
    assert not other.already_done and other.record.settings_hash != made.record.settings_hash
    assert rows(tmp_path / "results")[1] == 2


def test_a_run_goes_on_after_its_file_was_moved(tmp_path, world, monkeypatch):
    monkeypatch.setattr(Detector, "stop", True)
    with pytest.raises(KeyboardInterrupt):
        world({"weights": "a.pt"})
    monkeypatch.setattr(Detector, "stop", False)
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "a.pt").rename(tmp_path / "elsewhere" / "best.pt")
    (tmp_path / "a.pt").write_bytes(b"another")
    with pytest.raises(RunError, match=r"weights\.proposer: was '"):
        world({"weights": "a.pt"})
    run = world({"weights": str(moved)})
    assert run.record.sessions == 2 and run.record.status == "complete"
    assert len(list((tmp_path / "results").rglob("run.json"))) == 1


def as_before(path, options):
    """Rewrite run.json as version 0.1 wrote it: names in its options, and a hash of them alone."""
    record = json.loads(path.read_bytes())
    identity = record["identity"]
    identity["options"] = options
    record["settings_hash"] = hash_of({key: value for key, value in identity.items() if key != "weights"})
    record["settings"].pop("options", None)
    record.pop("sha256", None)
    path.write_text(json.dumps(record))
    return record["settings_hash"]


def test_records_of_before_join_their_row_and_are_continued(tmp_path, world):
    run = world({"weights": "a.pt"})
    for status in ("complete", "running"):
        old = as_before(run.folder / "run.json", {**TABLE, "weights": "/home/somebody/nets/a.pt"})
        again = read_record(run.folder)
        assert old != again.settings_hash == run.record.settings_hash
        assert again.identity == run.record.identity
        if status == "complete":
            assert world({"proposer": {"weights": "a.pt"}}).already_done
            world({"weights": "a.pt"}, fresh=True)
            table, count = rows(tmp_path / "results")
            assert count == 1 and len(table["hash"]["history"]) == 1
        else:
            text = (run.folder / "run.json").read_text().replace('"status": "complete"', '"status": "running"')
            (run.folder / "run.json").write_text(text)
            [path.unlink() for path in run.folder.parent.glob("*/run.json") if path.parent != run.folder]
            done = world({"weights": "a.pt"})
            assert done.folder == run.folder and done.record.sessions == 2


def test_names_that_no_hash_is_known_for_lose_their_folder():
    options = {"tokenizer": "/models/roberta-base", "weights": "C:\\nets\\x.pth", "prompt": "a photo of a/an {}"}
    assert options_by_contents(options, {}, {}, "refcoco") == {
        "tokenizer": "roberta-base", "weights": "x.pth", "prompt": "a photo of a/an {}"
    }  # fmt: skip
    assert by_contents({"identity": {"options": options}})["identity"]["options"] == options  # no record at all
    assert by_contents([1]) == [1]


def test_every_name_of_a_card_leads_to_its_hash():
    names = {"proposer": "best.pt", "clip": "ViT-B-32 openai, RN50x16 openai, tiny /nets/best.pt"}
    weights = {"proposer": ONE, "clip": f"{TWO}, {'3' * 64}, {'4' * 64}"}
    options = {
        "proposer": {"kind": "yolo", "weights": "/a/best.pt"},
        "clip": {"model": "ViT-B-32", "pretrained": "openai"},
        "ensemble": [
            {"model": "RN50x16", "pretrained": "openai"},
            {"model": "tiny", "pretrained": "/other/best.pt"},
        ],
        "card": {"licence": "see best.pt"},
    }
    made = options_by_contents(options, names, weights, "refcoco")
    assert made["proposer"] == {"kind": "yolo", "weights": f"sha256:{ONE}"}
    assert [each["pretrained"][7] for each in (made["clip"], *made["ensemble"])] == ["2", "3", "4"]
    assert made["card"] == options["card"]
    assert options_by_contents(made, names, weights, "refcoco") == made, "it is done once"


def test_a_model_of_the_hub_and_its_folder_are_the_same():
    made = []
    for name, prefix in (("owner/model", "owner/model"), ("/cache/of/model", "model")):
        hashes = {f"{prefix}/part-{n}.safetensors": digest for n, digest in enumerate((ONE, TWO))}
        weights = weights_by_part({"model": name}, hashes)
        made.append((weights, options_by_contents({"weights": name}, {"model": name}, weights, "file")))
    assert made[0] == made[1] == ({"model": f"{ONE}, {TWO}"}, {"weights": f"sha256:{ONE}, {TWO}"})
    # A proposer's card has one name a file.
    names = {"proposer": "owner/model/a.safetensors, owner/model/b.safetensors"}
    options = {"proposer": {"weights": "owner/model"}}
    found = options_by_contents(options, names, {"proposer": f"{ONE}, {TWO}"}, "file")
    assert found == {"proposer": {"weights": f"sha256:{ONE}, {TWO}"}}


def test_files_for_a_data_set_and_folders_of_tokenizers(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name / ".cache"
        folder.mkdir(parents=True)
        (folder / "lock").write_text(name)
        (folder.parent / "vocab.json").write_text("{}")
        (folder.parent / "README.md").write_text(name)
    assert sha256_folder(tmp_path / "one") == sha256_folder(tmp_path / "two")
    (tmp_path / "two" / "vocab.json").write_text("[]")
    assert sha256_folder(tmp_path / "one") != sha256_folder(tmp_path / "two")
    assert sha256_folder(tmp_path) is None, "images, say: never read whole"
    asked = []
    options_by_contents(
        {"proposer": {"kind": "file", "file": "{dataset}_dets.json"}, "ranker": {"margin": "auto"}}, {}, {}, "refcoco",
        lambda key, name: asked.append((key, name)),
    )  # fmt: skip
    assert asked == [("file", "refcoco_dets.json")], "a word is no path, whatever lies in the working folder"


def test_the_shorthand_stands_for_the_parts_that_there_are():
    assert spelled_out({"weights": "a.pt"}) == {"weights": "a.pt"}
    assert spelled_out({"weights": "a.pt", "segments": {}}) == {"segments": {}, "clip": {"pretrained": "a.pt"}}
    both = spelled_out({"weights": "clip=c.pt,proposer=a.pt", "proposer": {"kind": "yolo", "weights": "b.pt"}})
    assert both == {"proposer": {"kind": "yolo", "weights": "a.pt"}, "clip": {"pretrained": "c.pt"}}
    assert spelled_out({"weights": "head=a.pt", "proposer": {}}) == {"weights": "head=a.pt", "proposer": {}}
