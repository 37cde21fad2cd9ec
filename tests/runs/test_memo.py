"""The memo of finished work, where several processes share it."""

import json

from bench.runs.memo import Memo, digest


def test_a_process_that_is_not_the_first_takes_the_first_ones_values(tmp_path):
    values = iter([None, {"score": 1}])
    memo = Memo(tmp_path / "nodes", lambda _: next(values), lead=False)
    assert memo.run("train", {"a": 1}, "a training", lambda folder: {})[1] == {"score": 1}
    assert not (tmp_path / "nodes").exists()


def test_a_record_under_the_old_key_is_read_and_a_changed_file_makes_the_work_anew(tmp_path):
    key = {"a": 1}
    for result_key in ("found", "result"):
        folder = tmp_path / f"score-{digest(key)}"
        folder.mkdir(exist_ok=True)
        (folder / "node.json").write_text(json.dumps({result_key: {"score": 1}}))
        assert Memo(tmp_path).run("score", key, "a scoring", lambda folder: {"score": 2})[1] == {"score": 1}
    anew = Memo(tmp_path).run("score", key, "a scoring", lambda folder: {"score": 2}, lambda result: False)[1]
    assert anew == {"score": 2}
