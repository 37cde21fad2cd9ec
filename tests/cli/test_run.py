"""`bench run` as a user meets it: products, flags, exit codes, and JSON on the last line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import registry
from bench.errors import WeightsError

KEYS = {
    *(
        "pipeline",
        "split",
        "n",
        "hits",
        "acc@0.5",
        "ci95",
        "ci95_note",
        "acc@0.7",
        "acc@0.9",
        "mean_iou",
        "oracle@0.5",
        "no_box",
    ),
    *("errors", "strata", "expressions_per_s", "images_per_s", "peak_memory_mb", "run_dir"),
}
BIRDS = ("--split", "file:birds.jsonl")
BOTH = ("--pipeline", "whole-image,centre-box", *BIRDS)


@pytest.fixture
def run(bench, tmp_path):
    """run(*words) -> exit code, stdout, stderr; in a folder with six images, birds.jsonl and a quick bootstrap."""
    rows = []
    for number in range(6):
        Image.fromarray(np.full((30, 40, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
        rows += [
            {"id": f"{number}-{k}", "image": f"{number}.png", "width": 40, "height": 30, "text": text, "box_xyxy": box}
            for k, (text, box) in enumerate([("the whole", [0, 0, 40, 30]), ("the corner", [0, 0, 9, 9])])
        ]
    (tmp_path / "birds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bench.toml").write_text("[evaluation]\ndraws = 100\n[run]\ndevice = 'cpu'\n")
    return lambda *words: bench("run", *words)


def rows_of(out):
    return json.loads(out.splitlines()[-1])["rows"]


def test_the_product_and_json_on_the_last_line(run):
    code, out, err = run(*BOTH, "--json")
    assert code == 0, err
    rows = rows_of(out)
    assert out.count("\n") == 1, "human text goes to stderr"
    assert [(row["pipeline"], row["split"], row["n"]) for row in rows] == [
        ("whole-image", "file:birds", 12),
        ("centre-box", "file:birds", 12),
    ]
    assert set(rows[0]) >= KEYS and rows[0]["hits"] == 6 and rows[0]["acc@0.5"] == 0.5
    assert all((Path(row["run_dir"]) / "run.json").is_file() for row in rows)
    assert Path(rows[0]["run_dir"]).parent.parent == Path("results/runs/whole-image")


@pytest.mark.slow
def test_a_table_for_people_and_the_second_time_nothing_is_computed(run):
    code, out, err = run(*BOTH, "--results", "here")
    assert code == 0 and "whole-image" in out and "50.00" in out and "done before" not in err
    code, out, err = run(*BOTH, "--results", "here")
    assert code == 0 and "50.00" in out and err.count("done before, nothing computed") == 2 and "--fresh" in err
    code, _, err = run(*BOTH, "--results", "here", "--fresh")
    assert code == 0 and "done before" not in err and len(list(Path("here").rglob("run.json"))) == 4


@pytest.mark.parametrize(("words", "message"), [
    (("--pipeline", "whole-image,largest", *BIRDS), "no pipeline is called 'largest'"),
    (("--pipeline", "whole-image", *BIRDS, "--split", "shape-val"), "no split is called 'shape-val'"),
    (("--pipeline", "centre-box", *BIRDS, "--set", "views"), "--set views: expected KEY=VALUE"),
    (("--pipeline", "centre-box", *BIRDS, "--config", "no.toml"), "no.toml: no such settings file"),
    (("--pipeline", "centre-box", *BIRDS, "--device", "gpu"), "no device is called 'gpu'"),
    (("--pipeline", "whole-image", *BIRDS, "--dtype", "bfloat16"), "--dtype bfloat16: whole-image"),
    (("--pipeline", "fixed-box", *BIRDS, "--on", "shape"), "did you mean 'shapes'"),
])  # fmt: skip
def test_mistakes_are_one_message_and_leave_nothing(run, words, message):
    code, out, err = run(*words)
    assert (code, out) == (2, "") and message in err and "Traceback" not in err
    assert not Path("results").exists()


def test_unreadable_images_exit_with_three(run):
    Path("2.png").write_bytes(Path("2.png").read_bytes()[:60])
    Path("4.png").write_bytes(b"")
    code, out, err = run("--pipeline", "whole-image", *BIRDS, "--json")
    (row,) = rows_of(out)
    assert code == 3 and row["errors"] == 2 and row["n"] == 12 and row["hits"] == 4
    assert "images without predictions: 2" in err and "4.png: the file is empty" in err


@pytest.mark.slow
def test_flags_and_the_lines_of_another_data_set_are_in_force(run):
    toml = "[evaluation]\ndraws = 100\n[pipelines.fixed-box]\ngrid = 3\nsample = 20\non.shapes.grid = 4\n"
    Path("bench.toml").write_text(toml)
    words = ("--limit", "4", "--batch-size", "3", "--seed", "5", "--dtype", "float32", "--device", "cpu", "--json")
    code, out, err = run("--pipeline", "fixed-box", *BIRDS, "--on", "shapes", *words)  # it is fitted on shapes-train
    assert code == 0, err
    (row,) = rows_of(out)
    record = json.loads((Path(row["run_dir"]) / "run.json").read_text())
    identity = record["identity"]
    assert row["n"] == 8 and identity["data"]["partial"] is True and record["settings"]["run"]["batch_size"] == 3
    assert (identity["seed"], identity["dtype"], identity["options"]["grid"]) == (5, "float32", 4)
    assert record["argv"][:2] == ["bench", "run"]


def test_one_failing_pair_does_not_lose_the_others(run, monkeypatch):
    real = registry.pipeline_factory

    def broken(context):
        raise WeightsError("w.pt: cut short; fetch it again")

    monkeypatch.setattr(registry, "pipeline_factory", lambda name: broken if name == "whole-image" else real(name))
    code, out, err = run(*BOTH, "--json")
    assert code == 2 and [row["pipeline"] for row in rows_of(out)] == ["centre-box"]
    assert "whole-image on file:birds: w.pt: cut short; fetch it again" in err
