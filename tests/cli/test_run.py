"""`bench run` as a user meets it: names, products, flags, exit codes, and JSON on the last line."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.cli import main as program

KEYS = {
    *("pipeline", "split", "n", "hits", "acc@0.5", "ci95", "acc@0.7", "acc@0.9", "mean_iou", "oracle@0.5", "no_box"),
    *("errors", "strata", "expressions_per_s", "images_per_s", "peak_memory_mb", "run_dir"),
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with six little images and birds.jsonl about them, and settings for a quick bootstrap."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for number in range(6):
        Image.fromarray(np.full((30, 40, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
        rows += [
            {"id": f"{number}-{k}", "image": f"{number}.png", "width": 40, "height": 30, "text": text, "box_xyxy": box}
            for k, (text, box) in enumerate([("the whole", [0, 0, 40, 30]), ("the corner", [0, 0, 9, 9])])
        ]
    (tmp_path / "birds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bench.toml").write_text("[evaluation]\ndraws = 100\n[run]\ndevice = 'cpu'\n")
    return tmp_path


def bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of `bench run ...`, in this process."""
    monkeypatch.setattr(sys, "argv", ["bench", "run", *words])
    code = 0
    try:
        program.main()
    except SystemExit as left:
        code = int(left.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, data: Path) -> Any:
    return lambda *words: bench(capsys, monkeypatch, *words)


BOTH = ("--pipeline", "whole-image,centre-box", "--split", "file:birds.jsonl")


def test_the_product_and_json_on_the_last_line(run: Any, data: Path) -> None:
    code, out, err = run(*BOTH, "--json")
    assert code == 0, err
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert out.count("\n") == 1, "human text goes to stderr"
    assert [(row["pipeline"], row["split"], row["n"]) for row in rows] == [
        ("whole-image", "file:birds", 12),
        ("centre-box", "file:birds", 12),
    ]
    assert set(rows[0]) >= KEYS and rows[0]["hits"] == 6 and rows[0]["acc@0.5"] == 0.5
    for row in rows:
        assert (Path(row["run_dir"]) / "run.json").is_file()
    assert Path(rows[0]["run_dir"]).parent == Path("results/runs/whole-image/file-birds")


def test_a_table_for_people_and_the_second_time_nothing_is_computed(run: Any) -> None:
    code, out, err = run(*BOTH, "-o", "here")
    assert code == 0 and "whole-image" in out and "50.00" in out and "done before" not in err
    code, out, err = run(*BOTH, "-o", "here")
    assert code == 0 and "50.00" in out and err.count("done before, nothing computed") == 2 and "--fresh" in err
    code, _, err = run(*BOTH, "-o", "here", "--fresh")
    assert code == 0 and "done before" not in err
    assert len(list(Path("here").rglob("run.json"))) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--pipeline", "centre-bx", "--split", "file:birds.jsonl"),
            "no pipeline is called 'centre-bx'; did you mean 'centre-box'",
        ),
        (
            ("--pipeline", "centre-box", "--split", "refcoco-tset"),
            "no split is called 'refcoco-tset'; did you mean 'refcoco",
        ),
        (("--pipeline", "centre-box", "--split", "file:absent.jsonl"), "absent.jsonl"),
        (
            ("--pipeline", "centre-box", "--split", "file:birds.jsonl", "--set", "views"),
            "--set views: expected KEY=VALUE",
        ),
        (
            ("--pipeline", "centre-box", "--split", "file:birds.jsonl", "--config", "no.toml"),
            "no.toml: no such settings file",
        ),
        (("--pipeline", "centre-box", "--split", "file:birds.jsonl", "--device", "gpu"), "no device is called 'gpu'"),
    ],
)
def test_mistakes_are_one_readable_line_and_leave_nothing(run: Any, words: Sequence[str], message: str) -> None:
    code, out, err = run(*words)
    assert code == 2 and out == "" and message in err and "Traceback" not in err
    assert not Path("results").exists()


def test_a_typing_mistake_is_found_before_anything_is_run(run: Any) -> None:
    code, _, err = run("--pipeline", "whole-image,largest", "--split", "file:birds.jsonl")
    assert code == 2 and "no pipeline is called 'largest'" in err and not Path("results").exists()
    code, _, err = run("--pipeline", "whole-image", "--split", "file:birds.jsonl", "--split", "shape-val")
    assert code == 2 and "no split is called 'shape-val'" in err and not Path("results").exists()


def test_unreadable_images_leave_with_three(run: Any, data: Path) -> None:
    (data / "2.png").write_bytes((data / "2.png").read_bytes()[:60])
    (data / "4.png").write_bytes(b"")
    code, out, err = run("--pipeline", "whole-image", "--split", "file:birds.jsonl", "--json")
    row = json.loads(out.splitlines()[-1])["rows"][0]
    assert code == 3 and row["errors"] == 2 and row["n"] == 12 and row["hits"] == 4
    assert "unreadable images: 2" in err and "4.png: the file is empty" in err


def test_limit_and_seed_and_batch_size_are_in_force(run: Any) -> None:
    words = ("--pipeline", "whole-image", "--split", "file:birds.jsonl", "--json")
    code, out, _ = run(*words, "--limit", "4", "--batch-size", "3", "--seed", "5", "--dtype", "float32")
    row = json.loads(out.splitlines()[-1])["rows"][0]
    record = json.loads((Path(row["run_dir"]) / "run.json").read_text())
    assert code == 0 and row["n"] == 8 and record["identity"]["data"]["partial"] is True
    assert record["settings"]["run"]["batch_size"] == 3 and record["identity"]["seed"] == 5
    assert record["identity"]["dtype"] == "float32" and record["argv"][:2] == ["bench", "run"]


def test_a_number_type_that_nothing_computes_in_is_refused_by_name(run: Any, data: Path) -> None:
    code, _, err = run("--pipeline", "whole-image", "--split", "file:birds.jsonl", "--dtype", "bfloat16")
    assert code == 2 and "--dtype bfloat16: whole-image" in err and not (data / "results").exists()


def test_the_lines_of_another_data_set_hold_where_on_names_it(run: Any, data: Path) -> None:
    (data / "bench.toml").write_text(
        "[evaluation]\ndraws = 100\n[pipelines.fixed-box]\ngrid = 3\nsample = 20\n"
        "[pipelines.fixed-box.on.shapes]\ngrid = 4\n"
    )
    words = ("--pipeline", "fixed-box", "--split", "file:birds.jsonl", "--json")
    code, out, err = run(*words, "--on", "shapes")  # what it fits comes from shapes-train, too
    assert code == 0, err
    folder = Path(json.loads(out.splitlines()[-1])["rows"][0]["run_dir"])
    assert json.loads((folder / "run.json").read_text())["identity"]["options"]["grid"] == 4
    code, _, err = run(*words, "--on", "shape")
    assert code == 2 and "did you mean 'shapes'" in err


def test_one_failing_pair_does_not_lose_the_others(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import registry
    from bench.errors import WeightsError

    real = registry.pipeline_factory

    def broken(context: Any) -> Any:
        raise WeightsError("w.pt: cut short; fetch it again")

    monkeypatch.setattr(registry, "pipeline_factory", lambda name: broken if name == "whole-image" else real(name))
    code, out, err = run(*BOTH, "--json")
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert code == 2 and [row["pipeline"] for row in rows] == ["centre-box"]
    assert "whole-image on file:birds: w.pt: cut short; fetch it again" in err


def test_options_from_flags(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import registry

    seen: list[dict[str, Any]] = []
    real = registry.pipeline_factory

    def spying(context: Any) -> Any:
        seen.append(dict(context.options))
        return real("whole-image")(context)

    monkeypatch.setattr(registry, "pipeline_factory", lambda name: spying)
    words = ["--set", "views=blur", "--set", "ranker.top=5", "--set", "ranker.on=true", "--set", 'prompt="a {}"']
    run("--pipeline", "label-only", "--split", "file:birds.jsonl", "--weights", "some.pt", *words)
    assert seen[0].items() >= {"views": "blur", "prompt": "a {}", "weights": "some.pt"}.items()
    assert seen[0]["ranker"].items() >= {"top": 5, "on": True}.items()


def test_no_torch_and_quick_for_a_pipeline_that_needs_none(data: Path) -> None:
    script = (
        "import sys; from bench.cli.main import main\n"
        "sys.argv = 'bench run --pipeline whole-image --split file:birds.jsonl --device auto'.split()\n"
        "try: main()\nexcept SystemExit as left: assert not left.code, left.code\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=data, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_needs_no_heavy_package() -> None:
    script = (
        "import sys; import bench.cli.run\n"
        "sys.exit(', '.join({'torch', 'numpy', 'pydantic', 'PIL', 'rich.table'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
