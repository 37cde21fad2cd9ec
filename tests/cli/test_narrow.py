"""At 80 columns no name of a pipeline, split or run is broken, whatever else a table must go without."""

import io
import re

import pytest
from report_world import imported
from rich.console import Console

from bench import registry
from bench.datasets.load import split_names
from bench.datasets.split import Split
from bench.grounding import Expression, Scene
from bench.reporting.terminal import print_rows, print_table
from bench.runs.record import read_record

PIPELINES = registry.names(registry.PIPELINES)


@pytest.fixture
def narrow(bench, monkeypatch):
    """narrow(*words, width=80): the lines of the command on a terminal, without colours."""

    def run(*words, width=80):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("FORCE_COLOR", "1")
        code, out, err = bench(*words)
        assert code == 0, err
        return re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()

    return run


def stands_whole(name, lines):
    return any(re.search(rf"(?<![\w/+-]){re.escape(name)}(?![\w/+-])", line) for line in lines)


@pytest.mark.parametrize("words", [("list", "pipelines"), ("doctor",)])
def test_every_pipeline_is_whole(narrow, words, monkeypatch):
    monkeypatch.setattr("bench.doctor.machine.matmul_gflops", lambda *_: {"float32": 100.0}, raising=False)
    lines = narrow(*words)
    assert [name for name in PIPELINES if not stands_whole(name, lines)] == []
    if words[0] == "list":
        assert max(map(len, lines)) <= 80
        assert "what it does" in lines[0] and "trainable" in lines[0] and "no room for: licence, weights" in lines[-1]


@pytest.mark.parametrize("words", [("list", "splits"), ("data", "list")])
def test_every_split_is_whole(narrow, words):
    lines = narrow(*words)
    assert [name for name in split_names() if not stands_whole(name, lines)] == []


def test_every_pipeline_of_ours_says_what_it_does(narrow):
    lines = "\n".join(narrow("list", "pipelines", width=250))
    assert "GroundingDINO's boxes, ranked by CLIP" in lines and "no room for" not in lines
    from bench.doctor.readiness import costs

    assert set(costs()["what"]) == {
        name for name in PIPELINES if registry.origin(registry.PIPELINES, name).startswith("grounding-bench")
    }


def data(texts=("the man", "a cat with a long tail on the left of it")):
    scenes = []
    for n in range(3):
        expressions = tuple(Expression(f"e{n}-{k}", text, (0, 0, 40, 40)) for k, text in enumerate(texts))
        scenes.append(Scene(f"p{n}", f"p{n}.jpg", 100, 100, expressions))
    return Split("refcocog-google-val", "Mine", tuple(scenes), None)


NAMES = (
    "mm-grounding-dino",
    "grounding-dino+clip",
    "random-proposal",
    "largest-proposal",
    "clip-pooling",
    "florence-2",
)


@pytest.fixture
def records(tmp_path):
    boxes = {f"e{n}-{k}": [0, 0, 40, 4 if k else 40] for n in range(3) for k in range(2)}
    return [read_record(imported(tmp_path, data(), name, boxes)) for name in NAMES]


def printed(draw, width=80):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    draw(console)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("some", [1, 2, 6])
def test_runs_and_their_strata_fit(records, some):
    lines = printed(lambda console: print_rows(records[:some], console))
    assert max(map(len, lines)) <= 80
    tables = "\n".join(lines).split("Acc@0.5 % by stratum")
    for name in NAMES[:some]:
        assert stands_whole(name, tables[0].splitlines())
        assert sum(stands_whole(name, table.splitlines()) for table in tables[1:]) == 1
    assert len(tables) == {1: 2, 2: 3, 6: 4}[some]  # two names fit side by side, two with their intervals do not
    strata = "\n".join(tables[1:])
    assert "length" in strata and "people" in strata
    assert "same category" not in strata and "box area" not in strata  # of one label


def test_a_stored_run_is_whole(narrow, records, tmp_path):
    lines = narrow("list", "runs", "--results", tmp_path)
    folders = [str(path.parent) for path in tmp_path.glob("runs/*/*/*/run.json")]
    assert len(folders) == len(NAMES) and all(folder in lines for folder in folders)
    assert sum("acc@0.5 50.00" in line for line in lines) == len(NAMES)


def test_comparing_and_published_values(narrow, records, tmp_path):
    lines = narrow("compare", *NAMES[:2], "-s", "refcocog-google-val", "--results", tmp_path)
    assert all(any(line.split()[1:2] == [name] for line in lines) for name in NAMES[:2])
    lines = narrow("leaderboard", "published", "refcoco-val")
    assert max(map(len, lines)) <= 80 and any("no room for: protocol" in line for line in lines)
    assert any("84.29" in line and "CLIP-VG" in line for line in lines)


def test_a_name_that_is_wider_than_the_terminal_has_a_line_of_its_own():
    from rich.table import Table

    table = Table(box=None)
    table.add_column("run", no_wrap=True)
    table.add_column("score", no_wrap=True)
    table.add_row("x" * 70, "[62.29")
    assert printed(lambda console: print_table(console, table), 40)[:2] == ["x" * 70, "    score [62.29"]


def test_a_file_has_no_edge():
    from rich.table import Table

    table = Table(box=None)
    for name in ("run", "source"):
        table.add_column(name)
    table.add_row("y z" * 100, "word " * 100)
    console = Console(file=io.StringIO(), width=80)
    print_table(console, table, ("source",))
    assert len(console.file.getvalue().splitlines()) == 2
