"""The table that papers print: rows merge splits, values are the stored ones, significance is the paired test's."""

import csv
import io
import re

import pytest
from submissions import unpacked

from bench.comparison.compare import compare
from bench.comparison.paired import holm
from bench.comparison.ranks import compare_with
from bench.datasets.split import Split
from bench.errors import UnknownName, UsageError
from bench.grounding import Expression, Scene
from bench.imported.scoring import import_boxes
from bench.reporting.exports.paper import caption, headings, paper_csv, paper_latex, paper_markdown
from bench.reporting.paper_rows import published_rows
from bench.reporting.paper_table import paper_splits, paper_table
from bench.reporting.published import published
from bench.runs.record import read_record, signature
from bench.runs.store import write_record

BOX = (0.0, 0.0, 40.0, 40.0)
FAMILY = ("refcoco-val", "refcoco-testA", "refcoco-testB")
pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path):
    """store(name, split, hits, ...): a clean run on 60 images of one expression; boxes from `first` on are hits."""

    def write(name, split, hits, first=0, training="full", weights="w", data="the man", protocol="iou", **options):
        scenes = tuple(Scene(f"p{n}", f"p{n}.jpg", 100, 100, (Expression(f"e{n}", data, BOX),)) for n in range(60))
        rows = ", ".join(f'"e{n}": [0, 0, 40, {40 if first <= n < first + hits else 4}]' for n in range(60))
        file = tmp_path / f"{weights}.json"
        file.write_text(f"{{{rows}}}")
        record, folder = import_boxes(file, Split(split, "Mine", scenes, None), tmp_path, name=name, protocol=protocol)
        identity = record.identity.model_copy(
            update={"options": options, "weights": {"net": weights * 8}, "dtype": "float32", "device": "cpu"}
        )
        card = {"saw_test_images": "no", "supervision": training, "weights": {"net": f"/there/{weights}.pth"}}
        changes = {"provenance": "run", "imported": None, "card": card, "identity": identity}
        changes |= {
            "git": {"commit": "0" * 40, "dirty": False},
            "settings_hash": (weights + str(options)).encode().hex(),
        }
        moved = folder.with_name(f"{folder.name}-{weights}-{len(list(folder.parent.iterdir()))}")
        folder.rename(moved)
        write_record(moved, record.model_copy(update=changes))
        return moved

    return write


def table(results, splits=FAMILY, against=None, wanted=("none",), **more):
    return paper_table(results, splits, against, wanted=wanted, **more)


def test_a_data_set_stands_for_the_parts_that_papers_print():
    assert paper_splits(["refcoco", "refcocog", "referit", "flickr30k-val"]) == (
        *FAMILY, "refcocog-val", "refcocog-test", "referit-test", "flickr30k-val",
    )  # fmt: skip
    assert paper_splits(["refcocog-umd-val", "file:my/own.jsonl", "ref-adv-s"]) == (
        *("refcocog-val", "file:own", "file:ref-adv-s"),
    )
    with pytest.raises(UnknownName, match="'refcoco"):
        paper_splits(["refcocoo"])
    titles = headings(("refcoco-val", "refcoco-testA", "refcoco+-val", "refcocog-val", "refcocog-google-val"))
    assert [title for title, _ in titles] == ["RefCOCO", "RefCOCO+", "refcocog", "refcocog-google"]


def test_runs_of_one_pipeline_are_one_row_with_weights_of_each_data_set(tmp_path, store):
    store("net", "refcoco-val", 30, weights="a")
    store("net", "refcoco-testA", 45, weights="b")
    store("frozen", "refcoco-val", 6, training="zero-shot", weights="c")
    store("frozen", "refcoco-testA", 12, training="zero-shot", weights="d")
    rows = {row.name: row.values for row in table(tmp_path).ours}
    assert rows["net"] == {"refcoco-val": 50.0, "refcoco-testA": 75.0}
    # Weights that are not trained for a data set are another model on each.
    assert rows["frozen (weights c.pth)"] == {"refcoco-val": 10.0} and "frozen (weights d.pth)" in rows
    text = paper_markdown(table(tmp_path))
    assert re.search(r"\| net +\| full +\| +\*\*50.00\*\* \| +\*\*75.00\*\* \| +– \|", text)


def test_settings_of_one_pipeline_are_rows_that_say_what_differs(tmp_path, store):
    store("net", "refcoco-val", 30, weights="a")
    store("net", "refcoco-val", 33, weights="a", ranker={"prompt": "a {}"})
    store("net", "refcoco-val", 36, training="pseudo", weights="p")
    store("net", "refcoco-testA", 36, training="pseudo", weights="p")
    names = {row.name: round(row.values["refcoco-val"]) for row in table(tmp_path).ours}
    assert names == {"net (full)": 50, "net (full, ranker.prompt a {})": 55, "net (pseudo)": 60}
    with pytest.raises(UsageError, match=r"--against net: several rows: net \(pseudo\)"):
        table(tmp_path, against="net")
    with pytest.raises(UnknownName, match="nett"):
        table(tmp_path, against="nett")
    assert table(tmp_path, against="net (full)").tests == 2


def test_two_weights_on_one_split_are_two_rows(tmp_path, store):
    store("net", "refcoco-val", 30, weights="a")
    store("net", "refcoco-val", 33, weights="b")
    store("net", "refcoco-testA", 33, weights="b")
    names = {row.name: {*row.values} for row in table(tmp_path).ours}
    assert names == {
        "net (weights a.pth)": {"refcoco-val"},
        "net (weights b.pth)": {"refcoco-val", "refcoco-testA"},
    }


def test_a_table_mixes_neither_protocols_nor_data(tmp_path, store):
    store("net", "refcoco-val", 30)
    store("strict", "refcoco-val", 60, protocol="strict")
    for name in ("old", "older"):
        store(name, "refcoco-val", 60, data="another text")
    store("net2", "refcoco-val", 31)
    store("net3", "refcoco-val", 32)
    made = table(tmp_path)
    assert [row.name for row in made.ours] == ["net", "net2", "net3"]
    assert made.notes and "left out: 2 runs on other data of the name refcoco-val" in made.notes[0]
    assert [row.name for row in table(tmp_path, protocol="strict").ours] == ["strict"]


def test_significance_is_that_of_the_paired_comparison_with_holm_over_the_table(tmp_path, store):
    base = store("base", "refcoco-val", 30)
    near = store("near", "refcoco-val", 31)
    good = store("good", "refcoco-val", 50)
    store("base", "refcoco-testA", 40)
    poor = store("poor", "refcoco-testA", 10)
    store("absent", "refcoco-testB", 10)
    made = table(tmp_path, against="base")
    rows = {row.name: row for row in made.ours}
    assert rows["good"].signs == {"refcoco-val": "↑"} and rows["poor"].signs == {"refcoco-testA": "↓"}
    assert rows["near"].signs == {} and rows["absent"].signs == {} and rows["base"].signs == {}
    assert made.tests == 3
    one = [compare([base, other]).pairs[0].p for other in (near, good)]
    base_a = next(folder for folder in tmp_path.glob("runs/base/refcoco-testA/*"))
    expected = holm([*one, compare([base_a, poor]).pairs[0].p])
    assert [rows["near"].p["refcoco-val"], rows["good"].p["refcoco-val"], rows["poor"].p["refcoco-testA"]] == (
        pytest.approx(expected)
    )
    assert "Holm's correction for 3 tests" in caption(made)
    text = paper_markdown(made)
    assert "**83.33** ↑" in text and "16.67 ↓" in text
    assert "↑ significantly better than base" in text and "↓ significantly worse than base" in text
    assert text.index("method") < text.index("good")
    assert "significantly" not in paper_markdown(table(tmp_path)).partition("\n\n")[2]


@pytest.mark.parametrize("metric", ["acc@0.7", "acc@0.9", "mean_iou"])
def test_other_metrics(tmp_path, store, metric):
    store("base", "refcoco-val", 30)
    store("good", "refcoco-val", 50)
    made = paper_table(tmp_path, FAMILY, "base", metric, wanted=("none",))
    rows = {row.name: row for row in made.ours}
    assert rows["good"].values["refcoco-val"] == pytest.approx(83.33 if metric != "mean_iou" else 85.0, abs=0.01)
    assert rows["good"].signs == {"refcoco-val": "↑"}


def test_a_run_without_outcomes_is_not_compared_and_said(tmp_path, store):
    store("base", "refcoco-val", 30)
    (unpacked(store("good", "refcoco-val", 50)) / "outcomes.jsonl").unlink()
    made = table(tmp_path, against="base")
    assert made.tests == 0 and "not compared: good on refcoco-val" in made.notes[0]


def test_the_difference_has_the_baseline_subtracted(tmp_path, store):
    runs = [(read_record(folder), folder.relative_to(tmp_path).as_posix()) for folder in (
        store("base", "refcoco-val", 30), store("good", "refcoco-val", 45))]  # fmt: skip
    ((difference, p),) = compare_with(tmp_path, runs[0], runs[1:])
    assert difference == pytest.approx(0.25) and p < 0.01


def test_published_rows_and_their_sources(tmp_path, store):
    store("clipvg", "refcoco-val", 30)
    usual = table(tmp_path, wanted=())
    names = [row.name for row in usual.published]
    assert {"QRNet", "LBYL-Net", "ReSC-large", "HiVG-L", "OneRef-L", "Dynamic-MDETR", "SimVG-L, decoder branch"} <= {
        *names
    }
    assert {row.training for row in usual.published} == {"full"}  # as our rows
    assert "TransVG, the ICCV numbers" not in names  # a variant, unless it is named
    by_name = table(tmp_path, wanted=("TransVG, the ICCV numbers", "reclip"))
    assert [row.name for row in by_name.published] == ["ReCLIP, detected boxes", "TransVG, the ICCV numbers"]
    assert by_name.published[0].signs == {"refcoco-testA": "?", "refcoco-testB": "?"}  # recalled
    with pytest.raises(UnknownName, match="'QRNet'"):
        table(tmp_path, wanted=("QRnett",))
    every = table(tmp_path, wanted=("all",)).published
    assert {entry.method for entry in published() if entry.metric == "acc@0.5" and {*entry.values} & {*FAMILY}} == {
        row.name for row in every
    }
    for row in every:
        assert set(row.sources) == set(row.values)
    text = paper_markdown(by_name)
    assert "source 1: FGVP repository, README and code (read)" in text and "46.10 ?" in text
    assert "? recalled, inferred or from a third party" in text


def test_bold_is_the_best_of_published_and_of_ours_separately(tmp_path, store):
    store("worse", "refcoco-val", 20)
    store("better", "refcoco-val", 30)
    store("better", "refcoco-testA", 30)
    made = table(tmp_path, wanted=("QRNet", "TransVG++"))
    bold = {(row.name, split) for row in made.rows for split in FAMILY if made.is_best(row, split)}
    assert bold == {
        *(("TransVG++", "refcoco-val"), ("TransVG++", "refcoco-testA"), ("QRNet", "refcoco-testB")),
        ("better", "refcoco-val"),  # on testA it is alone
    }
    assert published_rows(("shapes-val",), "acc@0.5", ("all",)) == ()
    assert published_rows(("file:refcoco-val",), "acc@0.5", ("all",)) == ()  # own data, whatever it is called
    assert len(published_rows(("file:ref-adv-s",), "acc@0.5", ("all",))) == 32


def without_escapes(text):
    return re.sub(r"\\[&%$#_{}]", "", text)


def test_latex_is_whole(tmp_path, store):
    hostile = "a & b_c 100% $x$ {y} \\input{z}"
    store("base", "refcoco-val", 30)
    store(hostile, "refcoco-val", 50)
    store("base", "refcocog-val", 50)
    splits = paper_splits(["refcoco", "refcocog"])
    text = paper_latex(paper_table(tmp_path, splits, "base", wanted=("QRNet", "ReCLIP", "TransVG++")))
    body = text.split("\\begin{tabular}")[1].partition("\\end{tabular}")[0]
    columns = len(re.match(r"\{([lr]+)\}", body)[1])
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    widths = {
        without_escapes(line).count("&") + sum(int(n) - 1 for n in re.findall(r"multicolumn\{(\d)\}", line))
        for line in lines
    }
    assert widths == {columns - 1} and len(lines) == 2 + 3 + 2
    assert [body.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    assert r"\cmidrule(lr){4-6} \cmidrule(lr){7-8}" in body
    for name in ("table*", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1
    plain = without_escapes(text)
    assert plain.count("$") % 2 == 0 and plain.count("{") == plain.count("}")
    assert "%" not in re.sub(r"(?m)^% .*", "", plain)
    assert r"a \& b\_c 100\% \$x\$ \{y\} \textbackslash{}input\{z\} & -- & full & \textbf{83.33}$^{\uparrow}$" in text
    assert r"46.10$^{?}$" in text and r"$\uparrow$ significantly better than base." in text
    rule = body.index("TransVG++") < body.index(r"\midrule", body.index("TransVG++")) < body.index("\nbase &")
    assert rule


def test_csv_has_every_value_and_its_source(tmp_path, store):
    store("=base", "refcoco-val", 30)
    store("good", "refcoco-val", 50)
    made = paper_table(tmp_path, FAMILY, "=base", wanted=("QRNet",))
    lines = list(csv.DictReader(io.StringIO(paper_csv(made))))
    assert [line["method"] for line in lines] == ["QRNet", "'=base", "good"]
    assert lines[0]["refcoco-val"] == "84.01" and "CLIP-VG (Xiao" in lines[0]["refcoco-val source"]
    assert lines[2]["refcoco-val significance"] == "better" and float(lines[2]["refcoco-val p_holm"]) < 0.05
    assert lines[2]["refcoco-testA"] == "" and lines[2]["refcoco-val source"].startswith("runs/good/")


def test_there_must_be_something_to_show(tmp_path, store):
    with pytest.raises(UsageError, match="no complete run on refcoco-val"):
        table(tmp_path)
    store("proposals", "refcoco-val", 5)
    (folder,) = tmp_path.glob("runs/*/*/*/run.json")
    record = read_record(folder.parent)
    given = record.model_copy(
        update={"proposals": "gt", "signature": signature("iou", record.identity.data, proposals="gt")}
    )
    write_record(folder.parent, given)
    with pytest.raises(UsageError, match="no complete run"):
        table(tmp_path)
