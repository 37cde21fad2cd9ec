"""The leaderboard in other formats: whole, escaped, and as those who read them expect it."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_world import imported

from bench.datasets.split import Split
from bench.errors import RunError, UnknownName, UsageError
from bench.grounding import Expression, Scene
from bench.reporting.boards import collect
from bench.reporting.exports import latex
from bench.reporting.exports.fiftyone import fiftyone_files
from bench.reporting.exports.hub import hub_files, scalar
from bench.reporting.exports.latex import leaderboard_latex
from bench.reporting.leaderboard import export
from bench.settings import load_settings

HOSTILE = 'a & b_c 100% $x$ #1 {y} \\input{/etc/passwd} ~^ "q" <z> | `k` --- \u202e\x1b\nnew & row \\\\'


def boards(results):
    return collect(results).boards


def without_escapes(text):
    """LaTeX text without what is escaped, so that whatever special character is left is markup."""
    return re.sub(r"\\[&%$#_{}]", "", text)


def balanced(text):
    depth = 0
    for character in without_escapes(text):
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    return depth == 0


@pytest.mark.slow
def test_latex_is_whole(tmp_path, store, split):
    store(HOSTILE, 4, card={"saw_test_images": "yes", "parameters": 5})
    store("tame", 2)
    store("clipvg", 2, on=split("refcoco+-val"), card={"trained_on": "the train split of the data set"})
    text = leaderboard_latex(boards(tmp_path))
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert {text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{", r"\label{")} == {2}
    assert latex.escape("a--b") == "a-{}-b" and latex.escape("plain-name") == "plain-name"  # no ligature
    assert balanced(text) and without_escapes(text).count("$") % 2 == 0
    assert set(re.findall(r"\\([a-zA-Z]+)", text)) <= {
        *("begin", "end", "centering", "caption", "label", "toprule", "midrule", "bottomrule", "footnotesize"),
        *("textbar", "textgreater", "textless", "textbackslash", "textasciitilde", "textasciicircum"),
        *("char", "ddagger", "S", "usepackage"),
    }
    for table in text.split(r"\begin{tabular}")[1:]:
        columns = len(re.match(r"\{([lr]+)\}", table)[1])
        rows = [line for line in table.partition(r"\end{tabular}")[0].splitlines() if line.endswith(r"\\")]
        assert {without_escapes(row).count("&") for row in rows} == {columns - 1}
    assert "\n% acc@0.5|iou>=0.5|mine-val|" in text and r"$\ddagger$ its training included test images" in text
    assert r"80.00 {\footnotesize [" in text and "\x1b" not in text and "\u202e" not in text
    assert "%" not in without_escapes(re.sub(r"(?m)^% .*", "", text))
    assert r"a \& b\_c 100\% \$x\$ \#1 \{y\} \textbackslash{}input\{/etc/passwd\}" in text
    assert "69.55, 71.08" in text and text.count("Published") == 1  # only where something was


@given(st.text(max_size=60))
def test_escaped_latex_is_text(text):
    cell = latex.escape(text)
    assert "\n" not in cell and balanced(cell)
    assert not re.search(r"[&%#_^~]", re.sub(r"\\[&%$#_{}]", "", cell))
    commands = re.findall(r"\\([a-zA-Z]+)", cell)
    assert all(command.startswith("text") or command in ("geq", "ldots", "char") for command in commands)


def test_hub_results_are_what_the_hubs_own_library_reads(tmp_path, store, split):
    yaml = pytest.importorskip("yaml")
    huggingface_hub = pytest.importorskip("huggingface_hub")
    store("clipvg", 4, on=split("refcoco-val"))
    store("yolo-clip", 2, on=split("refcocog-test"), card={"saw_test_images": "yes"})
    files = hub_files(boards(tmp_path))
    assert set(files) == {"clipvg/.eval_results/refcoco-val.yaml", "yolo-clip/.eval_results/refcocog-test.yaml"}
    (entry,) = huggingface_hub.parse_eval_result_entries(yaml.safe_load(files["clipvg/.eval_results/refcoco-val.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("jxu124/refcoco-benchmark", "refcoco_unc_val", 80.0)
    assert entry.dataset_revision == "2f2f892835bbf44b4db81f1c4ad6d46a3e9e4359" and entry.date == "2026-01-02"
    (row,) = boards(tmp_path)[0].rows
    assert row["signature"] in entry.notes and "95 % interval [" in entry.notes
    again = huggingface_hub.eval_result_entries_to_yaml([entry])
    assert again == yaml.safe_load(files["clipvg/.eval_results/refcoco-val.yaml"])


@pytest.mark.slow
def test_hub_names_and_namesakes(tmp_path, store, split):
    on = split("refcoco-val")
    store("../../etc/passwd", 4, on=on)
    store("twice", 2, on=on, settings_hash="a" * 64)
    store("twice", 3, on=on, settings_hash="b" * 64)
    store("strict", 3, on=on, protocol="strict")
    assert set(hub_files(boards(tmp_path))) == {
        "etc-passwd/.eval_results/refcoco-val.yaml",
        "twice/.eval_results/refcoco-val.yaml",
        "twice/.eval_results/refcoco-val-aaaaaaaa.yaml",
        "strict/.eval_results/refcoco-val-strict.yaml",
    }


def test_a_split_that_is_on_no_hub(tmp_path, store):
    store("a", 4)
    with pytest.raises(UsageError, match="mine-val has no known data set on the hub"):
        hub_files(boards(tmp_path))
    with pytest.raises(UsageError, match="OWNER/NAME"):
        hub_files(boards(tmp_path), "shapes")
    (text,) = hub_files(boards(tmp_path), "me/my-data").values()
    assert '    id: "me/my-data"\n    task_id: "mine-val"\n' in text and "revision" not in text


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_a_yaml_scalar_is_read_as_it_was(text):
    yaml = pytest.importorskip("yaml")
    line = scalar(text)
    line.encode()
    assert "\n" not in line
    expected = re.sub("[\ud800-\udfff]", "\ufffd", text)
    assert yaml.safe_load(f"- {line}\n") == [expected]


@pytest.fixture
def imaged():
    """Two images of another size, three expressions, one of them of an image in a folder."""
    scenes = (
        Scene("s1", "a/one.jpg", 200, 100, (
            Expression("e0", "left <man>", (0, 0, 50, 50), kind="attribute"), Expression("e1", "dog", (10, 10, 60, 90)),
        )),
        Scene("s2", "two.jpg", 100, 100, (Expression("e2", "cat", (0, 0, 40, 40)),)),
    )  # fmt: skip
    return Split("mine-val", "Mine", scenes, None)


@pytest.mark.slow
def test_fiftyone_boxes_are_shares_of_the_image(tmp_path, imaged):
    boxes = {"e0": {"box": [0, 0, 50, 50], "score": 0.5}, "e1": [-10, 0, 100, 400]}
    imported(tmp_path, imaged, "theirs", boxes)
    imported(tmp_path, imaged, "ground_truth", {"e0": None, "e1": None, "e2": [1, 1, 2, 2]})
    (board,) = boards(tmp_path)
    files = {name: json.loads(text) for name, text in fiftyone_files(tmp_path, board, imaged).items()}
    assert len(files) == 3 and {"ground_truth.json", "theirs.json"} < set(files)
    assert all(set(file) == {"classes", "labels"} and file["classes"] is None for file in files.values())
    truth = files["ground_truth.json"]["labels"]
    assert set(truth) == {"a/one", "two"}
    assert truth["a/one"][0] == {
        "label": "left <man>",
        "bounding_box": [0.0, 0.0, 0.25, 0.5],
        "attributes": {"expression": "e0", "kind": "attribute"},
    }
    first, second = files["theirs.json"]["labels"]["a/one"]
    assert first["bounding_box"] == [0.0, 0.0, 0.25, 0.5] and first["confidence"] == 0.5
    assert first["attributes"] == {"expression": "e0", "iou": 1.0, "hit": True}
    assert second["bounding_box"] == [0.0, 0.0, 0.5, 1.0] and "confidence" not in second  # clipped to the image
    assert second["attributes"]["hit"] is False
    assert files["theirs.json"]["labels"]["two"] == []  # no answer, no box


def test_fiftyone_needs_the_same_data_and_the_images_sizes(tmp_path, split):
    data = Split("mine-val", "Mine", (Scene("s", "p.jpg", None, None, (Expression("e", "x", (0, 0, 9, 9)),)),), None)
    imported(tmp_path, data, "theirs", {"e": [0, 0, 9, 9]})
    (board,) = boards(tmp_path)
    with pytest.raises(UsageError, match=r"size of p\.jpg is not annotated"):
        fiftyone_files(tmp_path, board, data)
    with pytest.raises(RunError, match="the runs are about"):
        fiftyone_files(tmp_path, board, split())


@pytest.mark.slow
def test_writing(tmp_path, store, split):
    resolved = load_settings()
    with pytest.raises(UsageError, match="no complete run yet"):
        export("csv", tmp_path / "x.csv", tmp_path, resolved)
    store("a", 3)
    store("b", 3, on=split("refcoco-val"))
    for form in ("md", "csv", "latex"):
        (path,) = export(form, tmp_path / f"out.{form}", tmp_path, resolved)
        both = path.read_text()
        with pytest.raises(UsageError, match="--force replaces it"):
            export(form, path, tmp_path, resolved, split="mine-val")
        assert path.read_text() == both
        export(form, path, tmp_path, resolved, split="mine-val", force=True)
        assert "refcoco-val" in both and "refcoco-val" not in path.read_text() and "mine-val" in path.read_text()
        with pytest.raises(UsageError, match="is a folder"):
            export(form, tmp_path, tmp_path, resolved)
    assert "](LEADERBOARD.csv)" not in (tmp_path / "out.md").read_text()
    with pytest.raises(UnknownName, match="'refcoco-val'"):
        export("csv", tmp_path / "y.csv", tmp_path, resolved, split="refcoco-vall")
    with pytest.raises(UsageError, match="writes several into a folder"):
        export("hub", tmp_path / "out.md", tmp_path, resolved)
    with pytest.raises(UsageError, match="choose one with --split"):
        export("fiftyone", tmp_path / "51", tmp_path, resolved)
    with pytest.raises(UsageError, match="no known data set on the hub"):
        export("hub", tmp_path / "hub", tmp_path, resolved)
    assert not (tmp_path / "hub").exists()  # everything is made before anything is written
    (path,) = export("hub", tmp_path / "hub", tmp_path, resolved, split="refcoco-val")
    assert path == tmp_path / "hub" / "b" / ".eval_results" / "refcoco-val.yaml"


def test_chosen_columns(tmp_path, store):
    store("a", 3)
    results, resolved = tmp_path, load_settings()
    chosen = ("acc@0.7", "mean_iou", "training_data")
    for form in ("md", "csv", "latex"):
        (path,) = export(form, tmp_path / f"some.{form}", results, resolved, columns=chosen)
        text = path.read_text()
        assert ("Acc@0.7" in text or "acc@0.7" in text) and "params" not in text.lower() and "60.00 [" not in text
    assert (tmp_path / "some.csv").read_text().splitlines()[0] == "pipeline,acc@0.7,mean_iou,training_data"
    with pytest.raises(UnknownName, match="did you mean 'mean_iou'"):
        export("csv", tmp_path / "x.csv", results, resolved, columns=("mean_iuo",))
