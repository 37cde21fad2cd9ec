"""`bench leaderboard` as typed."""

import json
import sys

import pytest

from bench.cli.main import main


@pytest.fixture
def bench(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["bench", *argv])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return run


def test_write_check_and_json(bench, tmp_path):
    line = {"image": "p.jpg", "text": "cat", "box_xyxy": [0, 0, 9, 9], "id": "a"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "theirs.json").write_text('{"a": [0, 0, 9, 9]}')
    assert bench("score", "--predictions", "theirs.json", "--split", "file:mine.jsonl", "-o", "out")[0] == 0
    (run,) = (tmp_path / "out").glob("runs/*/*/*/run.json")
    run.write_text(run.read_text().replace('"dirty": true', '"dirty": false'))  # whatever this checkout is

    code, out, err = bench("leaderboard", "-o", "out", "--check")
    assert (code, out) == (1, "")
    assert "LEADERBOARD.md" in err
    code, out, err = bench("leaderboard", "-o", "out", "--json")
    assert code == 0
    (table,) = json.loads(out)["tables"]
    assert table["rows"][0]["acc@0.5"] == 1
    assert "runs shown: 1, tables: 1" in err
    code, out, err = bench("leaderboard", "-o", "out", "--check")
    assert code == 0
    assert "up to date" in out
    text = (tmp_path / "out" / "LEADERBOARD.md").read_text()
    assert "theirs †" in text
    (tmp_path / "out" / "LEADERBOARD.md").write_text(text + "by hand")
    assert bench("leaderboard", "-o", "out", "--check")[0] == 1
