"""Packed files: the same bytes back, a tenth of the size, and never another file than the one of the record."""

import hashlib
import json
import random
from pathlib import Path

import pytest
from fake_world import HashPipeline, MemoryImages, make_settings, make_split

from bench import registry
from bench.errors import RunError
from bench.evaluation.loop import evaluate
from bench.runs import outcomes, store
from bench.runs.outcomes import read_outcomes
from bench.runs.packed import LONG, STEMS, _parts, json_lines, pack, packed_name, stored_bytes, unpack
from bench.runs.record import read_record
from bench.runs.store import stored_rows, write_continued, write_packed

SHIPPED = Path(__file__).parents[2] / "results" / "runs"


@pytest.fixture(autouse=True)
def pipeline(monkeypatch):
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: HashPipeline)


def run(results, **images):
    return evaluate("hash", make_split(6, MemoryImages(**images)), make_settings(results))


def plain(folder):
    """Leave a run as version 0.1 wrote it."""
    record = read_record(folder)
    write_continued(folder, record, record)


@pytest.mark.parametrize("text", [
    b"",
    b"no numbers\n",
    b'{"box":[0.0,-0.0,12.5,-3.25],"score":1e-06,"big":2000.5,"more":[1999.999999,123456.123456]}\n',
    '{"note":"0.10 s, 1.0.2, 3.5e-05, \u00e9","size":[1,2]}\n'.encode(),
    b'{"text":"a zero byte \x00 and 0.5"}\n',
    b"[0.00005,0.50,-0.05,01.5,-0.0,0.0001,0.0,-1999.5,5e-05, 1.25]",
    b"0.5,0.123456,0.1234567,.5,5.,+1.5,1.5-2.5\n",
])  # fmt: skip
def test_every_text_comes_back(text):
    assert unpack(pack(text)) == text and pack(text) == pack(text)


def test_predictions_shrink_to_less_than_a_sixth_and_random_ones_come_back():
    rng = random.Random(0)
    boxes = [[round(rng.uniform(-5, 640), 6) for _ in range(4)] for _ in range(4000)]
    text = "".join(json.dumps({"id": str(n), "box": box, "score": rng.random()}) + "\n" for n, box in enumerate(boxes))
    packed = pack(text.encode())
    assert unpack(packed) == text.encode() and 6 * len(packed) > len(text)  # random digits: 4 bytes a number
    rows = [{"id": str(n), "box": box, "score": 0.5} for n, box in enumerate(boxes[:50] * 80)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    assert 10 * len(pack(text.encode())) < len(text)


def test_a_long_text_comes_back_whatever_its_numbers_and_lines():
    rng = random.Random(1)
    numbers = [
        rng.choice((1, -1)) * round(rng.uniform(0, 10 ** rng.randint(-5, 3)), rng.randint(1, 7)) for _ in range(380_000)
    ]
    lines = [json.dumps(numbers[at : at + 9], separators=(",", ":")) for at in range(0, len(numbers), 9)]
    text = "\n".join(lines).encode()
    packed = pack(text)
    assert len(text) > LONG and 4 * len(_parts(packed)[1]) > LONG
    assert unpack(packed) == text and pack(text) == packed
    assert 2 * len(packed) < len(text), "most numbers are found"


@pytest.mark.parametrize("lines", [
    ['{"a":[0.5,1.25],"b":"x"}', '{"a":[7.125]}'],
    ['{"id":"[9.5]","a":[0.5,2.5]}', '{"a":[7.125,-3.5]}'],
    ['{"id":"[Infinity,0.5]","a":[0.5,Infinity]}', '{"a":[7.125]}'],
    ['{"a":[1,2]}', "{}"],
])  # fmt: skip
def test_lines_are_parsed_without_writing_their_numbers_out(lines):
    text = "".join(line + "\n" for line in lines).encode()
    stored, loads = json_lines(*_parts(pack(text)))
    assert [loads(line) for line in stored] == [json.loads(line) for line in lines]


@pytest.mark.slow
def test_the_shipped_runs_shrink_to_about_a_tenth():
    """But for masks, whose run-length encoding is packed already, and their numbers of pixels."""
    texts = [stored_bytes(path.parent, stem) for path in sorted(SHIPPED.glob("*/*/*/run.json")) for stem in STEMS]
    texts = [text for text in texts if b'"counts"' not in text and b'"masks"' not in text]
    assert len(texts) >= 45
    assert sum(len(pack(text)) for text in texts) <= 0.105 * sum(map(len, texts))


@pytest.mark.parametrize("broken", [b"", b"{}", pack(b"[0.5]")[:-3], pack(b"[0.5]") + b"x", pack(b"[0.5]")[:40]])
def test_what_is_no_packed_file(broken):
    with pytest.raises(ValueError, match="not a packed file"):
        unpack(broken)


def test_a_file_larger_than_any_is_not_unpacked():
    with pytest.raises(ValueError, match="larger than any"):
        unpack(pack(b"a" * 10_000), most=5_000)


def test_a_finished_run_is_packed_and_reads_as_before(tmp_path):
    done = run(tmp_path)
    files = sorted(path.name for path in done.folder.iterdir())
    assert files == ["batches.packed", "outcomes.packed", "predictions.packed", "run.json"]
    hashes = {name: hashlib.sha256((done.folder / name).read_bytes()).hexdigest() for name in files[:3]}
    assert read_record(done.folder).files == hashes == done.record.files
    rows, ids = stored_rows(done.folder), read_outcomes(done.folder).ids
    plain(done.folder)
    assert sorted(path.suffix for path in done.folder.iterdir()) == [".json", ".jsonl", ".jsonl", ".jsonl"]
    assert (stored_rows(done.folder), read_outcomes(done.folder).ids) == (rows, ids)
    assert run(tmp_path).already_done, "a run of version 0.1 is finished too"
    write_packed(done.folder, read_record(done.folder))
    assert read_record(done.folder).files == hashes and stored_rows(done.folder) == rows


def test_another_file_than_the_records_is_refused(tmp_path):
    folder = run(tmp_path).folder
    for stem, read in (("predictions", stored_rows), ("outcomes", read_outcomes)):
        path = folder / packed_name(stem)
        path.write_bytes(pack(b""))
        with pytest.raises(RunError, match=rf"{stem}\.packed: is not the file that this run wrote"):
            read(folder)
    path.unlink()
    with pytest.raises(RunError, match="has no outcomes"):
        read_outcomes(folder)


def test_a_run_whose_images_are_read_later_is_unpacked_and_packed_again(tmp_path):
    whole, some = run(tmp_path / "a"), run(tmp_path / "b", bad={"3.png"})
    assert some.record.metrics.errors == 1 and packed_name("predictions") in some.record.files
    ended = run(tmp_path / "b")
    assert ended.folder == some.folder and ended.record.sessions == 2
    for stem in ("predictions", "outcomes"):
        assert stored_bytes(ended.folder, stem) == stored_bytes(whole.folder, stem)
    assert len(stored_bytes(ended.folder, "batches").splitlines()) == 2
    assert len(list(ended.folder.iterdir())) == 4


class Killed(BaseException):
    pass


@pytest.mark.parametrize("bad", [set(), {"3.png"}])
def test_a_kill_between_any_two_steps_loses_nothing(tmp_path, monkeypatch, bad):
    """Each write and removal of a run's end, or of its going on, is the last one once."""
    whole = run(tmp_path / "whole")
    wanted = [stored_bytes(whole.folder, stem) for stem in ("predictions", "outcomes")]
    kills = 0
    for step in range(40):
        results, left = tmp_path / str(step), [step]
        if bad:
            run(results, bad=bad)

        def counted(real, left=left):
            def call(*arguments, **options):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return real(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for module, name in ((store, "write_atomically"), (outcomes, "write_atomically"), (store, "_drop")):
                patch.setattr(module, name, counted(getattr(module, name)))
            try:
                run(results)
            except Killed:
                kills += 1
        ended = run(results)
        assert [stored_bytes(ended.folder, stem) for stem in ("predictions", "outcomes")] == wanted
        assert ended.record.metrics == whole.record.metrics
        names = {path.name for path in ended.folder.iterdir()} - {"lock"}
        assert names == {"run.json", *map(packed_name, STEMS)}
        assert len(list(results.rglob("run.json"))) == 1
        if left[0] > 0:
            break
    assert kills >= 8, "the steps were reached"
