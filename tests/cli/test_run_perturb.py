"""`bench run --perturb`: a run of its own, and what the perturbation costs against the plain run."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BIRDS = ("--split", "file:birds.jsonl")


@pytest.fixture
def birds(bench, tmp_path):
    """Images of 40 x 30 with three expressions each, and a quick bootstrap."""
    rows = []
    for number in range(6):
        Image.fromarray(np.full((30, 40, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
        rows += [
            {"id": f"{number}-{k}", "image": f"{number}.png", "width": 40, "height": 30, "text": text, "box_xyxy": box}
            for k, (text, box) in enumerate(
                [("the whole left", [0, 0, 40, 30]), ("corner", [0, 0, 9, 9]), ("man left of it", [0, 0, 30, 30])]
            )
        ]
    (tmp_path / "birds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bench.toml").write_text("[evaluation]\ndraws = 200\n[run]\ndevice = 'cpu'\n")
    return bench


def row_of(out):
    return json.loads(out.splitlines()[-1])["rows"][0]


def test_a_baseline_without_language_has_no_drop_on_shuffled_words(birds):
    words = ("run", "--pipeline", "whole-image", *BIRDS)
    # 1. Nothing to compare with yet: the message has the command.
    code, out, err = birds(*words, "--perturb", "shuffle-words", "--json")
    row = row_of(out)
    assert code == 0 and row["drop"] is None and row["perturbed"] == "shuffle-words"
    assert row["pipeline"] == "whole-image (shuffle-words)" and row["signature"].endswith("|v1|perturb:shuffle-words")
    assert "make it with `bench run --pipeline whole-image --split file:birds.jsonl --json`" in err
    assert "shuffle-words: 12 of 18 expressions changed; 6 stay, whose words are one or all the same" in err
    # 2. That command, and the first one again.
    code, out, _ = birds(*words, "--json")
    plain = row_of(out)
    assert code == 0 and "drop" not in plain and "perturbed" not in plain
    code, out, err = birds(*words, "--perturb=shuffle-words")
    assert code == 0 and "done before" in err
    assert "whole-image (shuffle-words) on file:birds: shuffle-words costs 0.00 points" in out
    assert "includes 0" in out and "a pipeline that scores the same on shuffled words has not read them" in out
    code, out, _ = birds(*words, "--perturb", "shuffle-words", "--json")
    drop = row_of(out)["drop"]
    assert drop["difference"] == 0 and drop["run_dir"] == plain["run_dir"] and drop["acc@0.5"] == plain["acc@0.5"]


@pytest.mark.slow
def test_a_perturbed_run_is_never_ranked_beside_plain_ones(birds):
    for more in ((), ("--perturb", "mirror"), ("--perturb", "resize")):
        code, out, err = birds("run", "--pipeline", "centre-box", *BIRDS, *more)
        assert code == 0, err
    assert "resize costs 0.00 points" in out
    # The plain run is what the pipeline's name means, and the perturbed one is given by its folder.
    assert birds("run", "--pipeline", "whole-image", *BIRDS)[0] == 0
    code, out, err = birds("compare", "centre-box", "whole-image", *BIRDS)
    assert code == 0, err
    records = {path.parent: json.loads(path.read_text()) for path in Path("results").rglob("run.json")}
    (mirror,) = [folder for folder, record in records.items() if record["name"] == "centre-box (mirror)"]
    code, _, err = birds("compare", mirror, "whole-image", *BIRDS)
    assert code == 2 and "one got perturbed scenes" in err
    code, out, err = birds("score", mirror, "--json")
    assert code == 0 and row_of(out)["signature"].endswith("|perturb:mirror"), err
