"""The memo of finished work, where several processes share it."""

from clipvg.curriculum.memo import Memo


def test_a_process_that_is_not_the_first_takes_the_first_ones_values(tmp_path):
    values = iter([None, {"score": 1}])
    memo = Memo(tmp_path / "nodes", lambda _: next(values), lead=False)
    assert memo.run("train", {"a": 1}, "a training", lambda folder: {})[1] == {"score": 1}
    assert not (tmp_path / "nodes").exists()
