"""The reader of documented commands itself: a check of documents that finds nothing would pass for ever."""

import pytest
from documented import PAGES, commands, refusal


@pytest.fixture
def page(tmp_path):
    def write(text):
        path = tmp_path / "page.md"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_commands_are_found_wherever_they_are_launched_from(page):
    found = commands(
        page(
            "```sh\nbench list  # a note\n.venv/bin/bench run -p a \\\n  -s b\n```\nand\n"
            "```text\nOMP_NUM_THREADS=1 torchrun --nproc-per-node 4 --no-python bench run -p a -s b | tee log\n"
            "srun accelerate launch --multi_gpu -m bench.cli.main train -p a -s b && echo done\n```\n"
            "```python\nbench nothing\n```\n"
        )
    )
    assert found == [
        ["list"], ["run", "-p", "a", "-s", "b"], ["run", "-p", "a", "-s", "b"], ["train", "-p", "a", "-s", "b"],
    ]  # fmt: skip


def test_sentences_are_no_commands(page):
    assert commands(page("```text\nyou'll see what bench run says\nthis is what bench prints\n```\n")) == []


@pytest.mark.parametrize(
    "right",
    ["run -p a -s b --limit 3", "data list", "label --source template --split a --out b", "label stats a b", "run ..."],
)
def test_a_command_that_exists_passes(right):
    assert refusal(right.split()) == ""


@pytest.mark.parametrize(("wrong", "said"), [
    ("run -p a -s b --limt 3", "--limt"), ("speed -p a", "--split"), ("rnu -p a -s b", "rnu"), ("data lst", "lst"),
    ("data", ""), ("label stats --sheets a", "--sheets"), ("run -p a -s b --limit three", "--limit"),
    ("list pipeline", "pipeline"), ("score one two", "two"), ("run --pipelines ...", "--pipelines"),
])  # fmt: skip
def test_a_command_that_does_not_exist_is_refused(wrong, said):
    why = refusal(wrong.split())
    assert why and said in why


def test_every_page_is_looked_at():
    names = {page.name for page in PAGES}
    assert {"README.md", "datasets.md", "reproduce.md", "clusters.md", "cli.md"} <= names
