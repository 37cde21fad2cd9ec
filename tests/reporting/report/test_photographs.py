"""Pages of real photographs: hard expressions, small objects, 27 to 31 images, and the scores measured on them."""

import json
import re

import pytest

from bench.datasets.load import load_split
from bench.evaluation.loop import evaluate
from bench.reporting.report.page import write_report
from bench.reporting.report.selection import choose
from bench.settings import load_settings

# Hits of label-only with YOLOv8-nano's proposals (yolov8n.pt, sha256 fee04d4a), expressions, images.
FACTS = {
    "ref-adv": (1, 31, 31),
    "refcocos": (4, 28, 27),
    "pictures": (15, 32, 4),
}


def lines_of(real, name):
    """The JSONL lines of a set; of refcocos those that have a target and whose photographs are there."""
    if name != "refcocos":
        path = real / ("ref_adv/ref-adv.jsonl" if name == "ref-adv" else "pictures/expressions.jsonl")
        return path.read_text(), path.parent
    folder = real / "refcocos" / "pictures"
    rows = json.loads((real / "refcocos" / "refcocos_test.json").read_text())
    lines = [
        {
            "image": row["file_name"],
            "text": row["normal_caption"],
            "box_xyxy": row["solution"],
            "id": row["annotation_id"],
        }
        for row in rows
        if row["solution"] and (folder / row["file_name"]).is_file()
    ]
    return "".join(json.dumps(line) + "\n" for line in lines), folder


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTS)
def test_a_page_of_photographs(real, visit, tmp_path, name):
    pytest.importorskip("ultralytics")
    text, images = lines_of(real, name)
    (tmp_path / f"{name}.jsonl").write_text(text)
    flags = {"run.device": "cpu", "evaluation.draws": 200, "results": str(tmp_path), "data.images.file": str(images)}
    resolved = load_settings(flags=flags)
    split = load_split(f"file:{tmp_path / name}.jsonl", resolved)
    yolo = {"weights": str(real / "weights" / "yolov8n.pt")}
    runs = [evaluate(each, split, resolved, given) for each, given in (("whole-image", None), ("label-only", yolo))]
    hits, expressions, photographs = FACTS[name]
    assert [run.record.metrics.hits for run in runs] == [0, hits]
    made = write_report(*choose([str(run.folder) for run in runs], split, tmp_path), tmp_path / "page.html")
    assert (made["expressions"], made["images"], made["missing"]) == (expressions, photographs, 0)
    assert made["thumbnail"] == 640 and made["bytes"] < 120_000 * photographs + 250_000
    html = made["path"].read_text(encoding="utf-8")
    assert html.count('type="text/plain"') == photographs and not re.search(r"[-−]0\.0+(?!\d)", html)
    page = visit(file=made["path"], width=400)  # which fails for any request and any message
    assert page.locator(".card image").count() == min(24, expressions)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    # The frame of a small object leaves its middle visible.
    covered = page.evaluate("""() => [...document.querySelectorAll(".truth .own")].filter((e) => {
      const { width, height } = e.getBoundingClientRect();
      const side = Math.min(width, height);
      return side > 6 && parseFloat(getComputedStyle(e).strokeWidth) * 2 > side;
    }).length""")
    assert covered == 0
