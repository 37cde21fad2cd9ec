"""The file as text: data stays data, nothing is fetched, and the tables say what the runs say."""

import base64
import hashlib
import html
import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_world import EVIL, NASTY, World, imported, make_split
from speed_parts import make_speed
from submissions import unpacked

from bench.cli.main import load_command, main
from bench.datasets.load import load_split
from bench.errors import RunError, UsageError
from bench.reporting.cells import interval, percent
from bench.reporting.report.drawings import confidences, speeds
from bench.reporting.report.gallery import answered
from bench.reporting.report.page import as_json, render
from bench.reporting.report.selection import choose
from bench.settings import PROJECT, load_settings


class Elements(HTMLParser):
    """Every element with its attributes and the text up to the next tag."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.into = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.into = []
        self.elements.append((tag, dict(attributes), self.into))

    def handle_endtag(self, tag):
        self.into = []

    def handle_data(self, data):
        self.into.append(data)

    def text_of(self, tag, **wanted):
        fitting = [t for name, given, t in self.elements if name == tag and wanted.items() <= given.items()]
        return ["".join(texts) for texts in fitting]


@pytest.fixture(scope="module")
def text(report):
    return report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def elements(text):
    return Elements(text)


@pytest.mark.parametrize("text", [*NASTY, EVIL, "]]>", "<\x00", "&lt;"])
def test_json_cannot_end_its_element(text):
    attributes = as_json({"text": text})
    assert not re.search("[<>&\u2028\u2029]", attributes)
    assert json.loads(attributes) == {"text": text}


@pytest.mark.slow
def test_the_data_comes_back_as_it_was(elements, world):
    (attributes,) = elements.text_of("script", id="gallery-data")
    data = json.loads(attributes)
    assert data["text"] == [e.text for s in world.split.scenes for e in s.expressions]
    assert [run["label"] for run in data["runs"]] == [run.label for run in world.runs]
    assert set(NASTY) <= set(data["text"])


def test_no_name_becomes_markup(text, elements):
    assert "window.hacked" in text  # it is there, as text
    assert EVIL not in text and NASTY[0] not in text
    assert not any("onerror" in given or given.get("src") == "x" for _, given, _ in elements.elements)
    scripts = [attributes for tag, attributes, _ in elements.elements if tag == "script"]
    assert len(scripts) == 2 + 40 and [attributes for attributes in scripts if not attributes.get("type")] == [{}]


def test_half_a_surrogate_pair_does_not_stop_a_report(world, tmp_path):
    split = replace(world.split, name="half \ud800 a pair", known_fingerprint=world.split.fingerprint)
    made = World(split, world.results, world.runs, world.answers).report(tmp_path / "r.html")
    assert "<bdi>half ? a pair</bdi>" in made["path"].read_text(encoding="utf-8")


def test_every_image_once_and_only_images(elements):
    images = elements.text_of("script", type="text/plain")
    assert len(images) == 40
    assert all(base64.b64decode(text, validate=True)[:3] == b"\xff\xd8\xff" for text in images)


def test_nothing_leads_out_of_the_file(elements):
    for tag, attributes, _ in elements.elements:
        for name in ("src", "href", "data", "action", "srcset", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, attributes)
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "style" not in attributes and not any(name.startswith("on") for name in attributes)


def test_the_policy_lets_its_own_script_and_style_alone(elements):
    (policy,) = [attributes["content"] for tag, attributes, _ in elements.elements if attributes.get("http-equiv")]
    (script,), (style,) = [t for t in elements.text_of("script") if "use strict" in t], elements.text_of("style")
    for name, inside in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy and "connect-src" not in policy
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", script + style)


def test_what_scores_are_worth_has_a_part_with_a_chart(elements, text, world):
    part = text.split('id="confidence"')[1].split("</section>")[0]
    rows = part.split("<tbody>")[1].split("<tr>")[1:]
    assert len(rows) == len(world.runs) == 3
    for row, run in zip(rows, world.runs, strict=True):
        assert f">{percent(run.record.metrics.accuracy)}<small>{interval(run.record.metrics.ci95)}" in row
    assert "poor" in part and "expressions without a box come last" in html.unescape(part)
    (chart,) = [given for tag, given, _ in elements.elements if tag == "img" and "Accuracy by coverage" in given["alt"]]
    assert chart["src"].startswith("data:image/svg+xml")
    assert "#confidence" in [given.get("href") for tag, given, _ in elements.elements if tag == "a"]


def test_runs_without_scores_have_no_such_part(world):
    bare = [replace(each.outcomes, scores=np.full(len(each.outcomes.iou), np.nan)) for each in world.answers]
    given = [replace(each, outcomes=one) for each, one in zip(world.answers, bare, strict=True)]
    assert confidences(given) is None
    part = confidences([given[0], *world.answers[1:]])
    assert [row["number"] for row in part["rows"]] == [1, 2]
    assert part["notes"][0] == f"Left out (no scores): {world.runs[0].label}."


def test_the_leaderboard_has_the_records_numbers(text, world):
    table = text.split('class="board"')[1].split("</table>")[0]
    rows = table.split("<tr>")[2:]
    assert len(rows) == len(world.runs)
    for row, run in zip(rows, world.runs, strict=True):
        metrics = run.record.metrics
        assert f"<bdi>{run.label}</bdi>" in html.unescape(row)
        assert f">{percent(metrics.accuracy)}</td>" in row and f">{interval(metrics.ci95)}</td>" in row
        assert f">{percent(metrics.mean_iou)}</td>" in row
        runs = text.split('id="runs"')[1]  # and how they were made
        assert run.record.signature in html.unescape(runs) and run.record.settings_hash in runs
        assert "w: " + "ab" * 32 in runs


def test_strata_say_their_numbers(text, world):
    strata = text.split('id="strata"')[1].split("</section>")[0]
    cells = world.runs[0].record.metrics.strata["kind"]
    for label, cell in cells.items():
        band = strata.split(f"<bdi>{label}</bdi><small>{cell.n}</small>")[1].split("</div>")[0]
        assert f'x="{percent(cell.accuracy)}%"' in band and f'x1="{percent(cell.ci95[0])}%"' in band
    assert "<bdi>attribute</bdi>" in strata and "spatial words" not in strata  # one label alone cuts nothing


def test_pairs_agree_with_the_cells(text, world):
    a, b = (run.outcomes.hit for run in world.answers[:2])
    row = text.split('class="pairs"')[1].split("<tr>")[2]
    both, only_a, only_b, neither = (a & b).sum(), (a & ~b).sum(), (b & ~a).sum(), (~a & ~b).sum()
    section = re.sub(r"<svg.*", "", row.split('class="cells">')[1], flags=re.DOTALL)
    assert [int(n) for n in re.findall(r">?(\d+)(?:</a>)? ?(?:·|\s*$)", section)] == [both, only_a, only_b, neither]
    assert f"{100 * (a.mean() - b.mean()):+.2f}".replace("-", "−") in row


def test_pairs_of_few_flips_share_one_note_and_zero_has_no_sign(world, tmp_path):
    right = {e.id: list(e.box) for scene in world.split.scenes for e in scene.expressions}
    wrong = {name: {**right, name: [0, 0, 1, 1]} for name in ("0-0", "5-0")}
    boxes = {"best": right, "equal": right, "third": wrong["0-0"], "fourth": wrong["5-0"]}
    folders = [str(imported(tmp_path, world.split, name, those)) for name, those in boxes.items()]
    split, runs = choose(folders, world.split, tmp_path)
    answers = [answered(run, split.scenes) for run in runs]
    text = World(split, tmp_path, runs, answers).report(tmp_path / "r.html", limit=1)["path"].read_text("utf-8")
    section = text.split('id="comparison"')[1].split("</section>")[0]
    (note,) = re.findall('class="remark">(.*?)</p>', section)
    assert "1 and 3 on 1, 1 and 4 on 1, 2 and 3 on 1, 2 and 4 on 1, 3 and 4 on 2;" in note
    assert [run.label for run in runs] == ["best", "equal", "fourth", "third"] and "McNemar 1.000" in section
    assert ">0.00</td>" in section and not re.search(r"[-−+]0\.0+(?!\d)", text)


@pytest.mark.slow
def test_runs_that_cannot_be_compared_say_so(world, tmp_path):
    alone = World(world.split, world.results, world.runs[:1], world.answers[:1]).report(tmp_path / "alone.html")
    assert 'href="#comparison"' not in alone["path"].read_text(encoding="utf-8")  # one run has no other to compare with
    shutil.copytree(world.results, tmp_path / "results")
    folders = [tmp_path / "results" / run.folder.relative_to(world.results) for run in world.runs]
    (unpacked(folders[0]) / "outcomes.jsonl").unlink()
    split, runs = choose([str(folder) for folder in folders], world.split, tmp_path / "results")
    made = World(split, tmp_path / "results", runs, world.answers).report(tmp_path / "r.html")
    section = made["path"].read_text(encoding="utf-8").split('id="comparison"')[1].split("</section>")[0]
    assert "bench score" in section and "--keep" in section and "<table" not in section


@pytest.mark.slow
def test_a_split_without_its_images(world, tmp_path):
    split = make_split(gone=[scene.file for scene in world.split.scenes])
    made = World(split, world.results, world.runs, world.answers).report(tmp_path / "r.html")
    text = made["path"].read_text(encoding="utf-8")
    assert (made["missing"], made["images"], made["expressions"]) == (40, 40, 100)
    assert "40 of 40 images are missing" in text and 'type="text/plain"' not in text
    assert EVIL not in text


@pytest.mark.slow
def test_the_first_images_only(world, tmp_path):
    made = world.report(tmp_path / "sub" / "r.html", limit=4, thumbnail=64)
    assert (made["images"], made["expressions"], made["thumbnail"]) == (4, 10, 64)
    text = made["path"].read_text(encoding="utf-8")
    assert "10 expressions about the first 4 of 40 images" in text
    assert made["bytes"] == made["path"].stat().st_size
    with pytest.raises(RunError, match=r"r\.html"):
        world.report(tmp_path / "sub" / "r.html" / "r.html", limit=1)


def test_curves_come_in_as_images(world, tmp_path):
    inside = "<title>Loss &amp; all</title><script>window.hacked=1</script>"
    curves = f"<svg xmlns='http://www.w3.org/2000/svg'>{inside}</svg>"
    (tmp_path / "a.run").mkdir()
    (tmp_path / "a.run" / "curves.svg").write_text(curves)
    (tmp_path / "scored").mkdir()
    (tmp_path / "scored" / "reliability.svg").write_text("<svg><title>Reliability</title></svg>")
    made = world.report(tmp_path / "r.html", trainings=[tmp_path / "a.run"], reliabilities=[tmp_path / "scored"])
    page = Elements(made["path"].read_text(encoding="utf-8"))
    charts = [attributes for tag, attributes, _ in page.elements if tag == "img"]
    images = [attributes for attributes in charts if not attributes["alt"].startswith("What scores are worth")]
    assert [attributes["alt"] for attributes in images] == ["Loss & all", "Reliability"]
    assert base64.b64decode(images[0]["src"].partition(",")[2]).decode() == curves
    assert "a.run/curves.svg" in "".join(page.text_of("bdi"))


@pytest.mark.parametrize("content", [None, b"not a drawing", b"\xff\xfe<svg"])
def test_folders_without_curves_are_refused(world, tmp_path, content):
    if content is not None:
        (tmp_path / "curves.svg").write_bytes(content)
    with pytest.raises(UsageError, match=r"curves\.svg"):
        world.report(tmp_path / "r.html", trainings=[tmp_path])
    assert not (tmp_path / "r.html").exists()


def test_a_template_that_names_what_is_not_there_fails_loudly():
    with pytest.raises(Exception, match="undefined"):
        render({"comparison": None, "confidence": None, "drawings": []}, {}, [])


@pytest.mark.slow
def test_a_chart_of_the_runs_that_were_timed(world, tmp_path, text):
    results = tmp_path / "results"
    shutil.copytree(world.results, results)
    folders = [results / run.folder.relative_to(world.results) for run in world.runs]
    record = world.runs[0].record
    speed = make_speed(123.0, name=record.name, identity=record.identity, environment=record.environment)
    (folders[0].parent / "speed-20261122-100000-00000000.json").write_text(speed.model_dump_json())
    drawn = speeds(choose([str(folder) for folder in folders], world.split, results)[1], "tiny-val")
    (chart,) = drawn["charts"]
    assert "sure" in chart["text"] and "123" in chart["text"] and "poor" not in chart["text"]
    (note,), (command,) = drawn["notes"], drawn["commands"]
    untimed = html.unescape(text.split('id="speed"')[1].split("</section>")[0])
    assert "None of these runs is timed yet" in untimed and "bench speed --pipeline 'sure," in untimed
    assert "--split tiny-val" in untimed and "data:image" not in untimed
    assert note.startswith("Not timed: ") and "poor" in note and "sure" not in command


@pytest.mark.slow
def test_every_command_of_a_page_can_be_pasted(tmp_path, monkeypatch, capsys):
    """Own data in a folder, a run with the weights of another data set: each command parses and finds its split."""
    shutil.copytree(PROJECT / "tests" / "own", tmp_path / "my own")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    split = "file:my own/own.jsonl"
    common = ["--split", split, "--results", "r"]
    for words in (
        ["run", "--pipeline", "whole-image,centre-box", *common, "--on", "shapes", "--device", "cpu"],
        ["run", "-p", "centre-box", *common, "--on", "shapes", "--fresh", "--set=share=0.4"],
        ["report", *common, "--out", "page.html"],
    ):
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code in (0, None), capsys.readouterr().err
    page = Elements((tmp_path / "page.html").read_text(encoding="utf-8"))
    commands = [text for tag in ("code", "bdi") for text in page.text_of(tag) if re.match(r"bench .*-", text)]
    timing = " ".join(command for command in commands if command.startswith("bench speed"))
    assert "--set=share=0.4" in timing and "--device cpu" in timing and any("bench run" in line for line in commands)
    for command in commands:
        given = parsed(command)
        assert given["on"] == "shapes" and given["results"] == Path("r")
        for name in [given["split"]] if isinstance(given["split"], str) else given["split"]:
            assert load_split(name, load_settings()).counts.expressions == 8, name


def parsed(command):
    """What the parser makes of a command line without groups; fails where it would."""
    _, name, *words = shlex.split(command)
    return load_command(name).make_context(name, words).params
