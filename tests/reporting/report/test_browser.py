"""The report in headless Chromium: what people do with it, and that it stays within itself (see `visit`)."""

import re
from urllib.parse import parse_qs, urlencode

import numpy as np
import pytest
from playwright.sync_api import expect
from report_world import EVIL, NASTY, World, make_split

PAGE = 24


@pytest.fixture(scope="module")
def hits(world):
    """(runs, expressions) whether each is right."""
    return np.array([run.outcomes.hit for run in world.answers])


@pytest.fixture(scope="module")
def ids(world):
    return [e.id for scene in world.split.scenes for e in scene.expressions]


def count(page):
    return int(page.locator("#count b").inner_text().replace(",", ""))


def shown(page):
    return [card.get_attribute("data-id") for card in page.locator(".card").all()]


def state_of(page):
    return parse_qs(page.evaluate("location.hash.slice(1)"), keep_blank_values=True)


def close(page):
    """Leaves the large view; a dialog says that it is closed a moment after the key."""
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(re.compile(r"[#&]e="))


def drawn(page, card="0-0"):
    """Labels of the runs whose boxes are drawn on a card."""
    return page.locator(f'.card[data-id="{card}"] .answer title').evaluate_all("all => all.map(e => e.textContent)")


def test_only_one_page_of_cards_is_there(visit, ids):
    page = visit()
    assert count(page) == len(ids) == 100
    assert shown(page) == ids[:PAGE]
    page.click("#next")
    assert shown(page) == ids[PAGE : 2 * PAGE]
    assert page.locator("#page").inner_text() == "page 2 of 5"


def test_every_way_to_show_counts_as_the_outcomes_do(visit, hits, world):
    page = visit()
    a, b = hits[0], hits[1]
    none = ~np.array([run.outcomes.answered for run in world.answers])
    wanted = {
        "all": np.ones_like(a), "a-right": a & ~b, "b-right": b & ~a, "differ": a ^ b, "a-wrong": ~a,
        "all-wrong": ~hits.any(axis=0), "all-right": hits.all(axis=0), "some": hits.any(axis=0) & ~hits.all(axis=0),
        "no-box": none[0],
    }  # fmt: skip
    options = page.locator("[name=show] option").evaluate_all("all => all.map(e => e.value)")
    assert options == list(wanted)
    for name, which in wanted.items():
        page.select_option("[name=show]", name)
        assert count(page) == which.sum(), name
        assert page.locator("#count").inner_text() == f"{which.sum()} of 100 expressions"
    page.select_option("[name=a]", "2")
    assert count(page) == none[2].sum() > 0


def test_filters_work_together_and_are_cleared(visit, world):
    expressions = [e for scene in world.split.scenes for e in scene.expressions]
    page = visit()
    page.select_option('[data-cut="kind"]', "relation")
    page.select_option('[data-cut="same category"]', "4+")
    wanted = [e.id for e in expressions if e.kind == "relation" and e.same_category >= 4]
    assert shown(page) == wanted and wanted
    page.fill("[name=q]", "BLUE 3")
    assert shown(page) == [e.id for e in expressions if e.id in wanted and "blue" in e.text and "3" in e.text + e.id]
    page.fill("[name=q]", "no such words")
    assert count(page) == 0 and page.locator("#empty").is_visible()
    page.click("#clear-empty")
    assert count(page) == 100 and not page.locator("#empty").is_visible()
    assert "cut.kind" not in state_of(page)


@pytest.mark.parametrize(
    "sort, value",
    [
        ("a-over-b", lambda a, b: b - a),
        ("b-over-a", lambda a, b: a - b),
        ("a-low", lambda a, b: a),
        ("a-high", lambda a, b: -a),
    ],
)
def test_orders(visit, world, ids, sort, value):
    page = visit(f"#sort={sort}")
    a, b = (np.floor(np.maximum(run.outcomes.iou, 0) * 1000 + 1e-9) for run in world.answers[:2])
    order = np.argsort(value(a, b), kind="stable")
    assert shown(page) == [ids[i] for i in order[:PAGE]]


def test_ids_are_sorted_as_people_count(visit):
    assert shown(visit("#sort=id"))[:8] == ["0-0", "1-0", "1-1", "2-0", "2-1", "2-2", "3-0", "3-1"]


def test_boxes_are_where_the_answers_are(visit, world):
    page = visit()
    wanted = next(a for a in world.answers[0].rows["s0"].answers if a.id == "0-0").box
    held = page.locator('.card[data-id="0-0"] .answer.p0 .own').evaluate(
        "r => ['x', 'y', 'width', 'height'].map((n) => Number(r.getAttribute(n)))"
    )
    x1, y1, x2, y2 = wanted
    assert held == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.11)
    truth = page.locator('.card[data-id="0-0"] .truth .own').evaluate("r => Number(r.getAttribute('x'))")
    assert truth == 3
    assert page.locator('.card[data-id="0-0"] .scene').get_attribute("viewBox") == "0 0 96 64"


def test_what_is_drawn_is_switched_with_boxes_and_keys(visit, world):
    labels = [run.label for run in world.shown]
    page = visit()
    assert drawn(page) == labels[:2]
    page.check('[data-run="2"]')
    page.keyboard.press("1")
    assert [label for label in labels if label in drawn(page)] == drawn(page)
    assert labels[0] not in drawn(page) and labels[1] in drawn(page)
    assert state_of(page)["on"] == labels[1:]
    assert page.locator(".card .truth").count() == PAGE
    page.keyboard.press("g")
    assert page.locator(".card .truth").count() == 0 and not page.is_checked("#truth")
    assert page.locator(".card .pool").count() == 0
    page.keyboard.press("p")
    assert page.locator('.card[data-id="0-0"] .pool').count() == 2  # the one annotated box, and the whole picture
    page.uncheck('[data-run="1"]')
    assert page.locator(".card .pool").count() == 0  # `poor` makes none


def test_keys_page_and_search(visit, ids):
    page = visit()
    for key, first in (("j", PAGE), ("ArrowRight", 2 * PAGE), ("k", PAGE), ("ArrowLeft", 0), ("k", 0)):
        page.keyboard.press(key)
        assert shown(page)[0] == ids[first], key
    page.keyboard.press("/")
    page.keyboard.type("j1")  # what is typed is no key
    assert page.input_value("[name=q]") == "j1" and state_of(page) == {"q": ["j1"]}
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    page.keyboard.press("s")
    assert page.locator("[name=a]").input_value() == "1"


def test_an_expression_large_and_back(visit, ids, world):
    page = visit()
    page.locator(".card button").nth(1).click()
    assert page.locator("#detail").is_visible() and state_of(page)["e"] == [ids[1]]
    page.keyboard.press("j")
    assert state_of(page)["e"] == [ids[2]]
    assert page.locator("#detail-place").inner_text() == "3 of 100"
    rows = page.locator("#detail-runs tr")
    verdicts = [rows.nth(n).locator("td").nth(3).get_attribute("aria-label") for n in range(3)]
    assert verdicts == ["right" if run.outcomes.hit[2] else "wrong" for run in world.answers]
    page.keyboard.press("3")
    assert page.locator("#stage .answer").count() == 3 - sum(not run.outcomes.answered[2] for run in world.answers)
    close(page)
    assert not page.locator("#detail").is_visible()


def test_the_back_button_closes_what_was_opened(visit):
    page = visit("#show=differ")
    before = shown(page)
    page.locator(".card button").first.click()
    page.go_back()
    assert not page.locator("#detail").is_visible()
    assert shown(page) == before and state_of(page) == {"show": ["differ"]}


def test_a_link_restores_everything(visit, world, ids, hits):
    labels = [run.label for run in world.shown]
    said = {
        "e": "2-1", "a": labels[1], "b": labels[2], "show": "differ", "sort": "a-low", "q": "thing",
        "cut.kind": "relation",
        "truth": "0", "proposals": "1", "on": labels[1],
    }  # fmt: skip
    page = visit("#" + urlencode(said))
    assert page.locator("#detail").is_visible()
    assert page.locator("#detail-text").inner_text() == "the red thing 1 of 2"
    assert page.locator("[name=a]").input_value() == "1" and page.locator("[name=b]").input_value() == "2"
    assert page.locator('[data-cut="kind"]').input_value() == "relation" and page.input_value("[name=q]") == "thing"
    assert not page.is_checked("#truth") and page.is_checked("#proposals")
    assert page.locator("#stage .answer title").all_text_contents() == [labels[1]]
    expressions = [e for scene in world.split.scenes for e in scene.expressions]
    wanted = [
        n for n, e in enumerate(expressions)
        if e.kind == "relation" and "thing" in e.text and hits[1][n] != hits[2][n]
    ]  # fmt: skip
    assert count(page) == len(wanted) > 0
    close(page)
    again = visit(page.evaluate("location.hash"))
    assert shown(again) == shown(page) and state_of(again) == state_of(page)


def test_every_change_is_in_the_address(visit, ids):
    page = visit()
    page.select_option("[name=show]", "a-wrong")
    page.select_option("[name=sort]", "id")
    page.select_option('[data-cut="category"]', "cup")
    page.fill("[name=q]", "thing & 1")
    page.fill("[name=q]", "thing 1")
    page.click("#swap")
    page.keyboard.press("g")
    page.locator("#proposals").check()
    other = visit(page.evaluate("location.hash"))
    assert shown(other) == shown(page) and count(other) == count(page) < 100
    assert other.locator("[name=a]").input_value() == "1" and other.is_checked("#proposals")


def test_links_that_name_what_is_not_there(visit):
    page = visit("#e=nobody&a=nothing&show=what&cut.kind=odd&page=-3&sort=constructor&on=x&cut.__proto__=y")
    assert count(page) == 100 and not page.locator("#detail").is_visible()
    assert visit("#page=999").locator("#page").inner_text() == "page 5 of 5"
    assert visit("#strata").locator("#strata").is_visible()


def test_the_matrix_leads_to_its_flips(visit, hits):
    page = visit()
    page.locator(".matrix tbody tr").nth(0).locator("td").nth(2).locator("a").click()
    assert count(page) == (hits[0] & ~hits[2]).sum()
    assert page.locator("[name=b]").input_value() == "2"
    assert page.locator("#controls").is_visible()
    page.locator(".facts a").nth(1).click()
    assert count(page) == (~hits.any(axis=0)).sum()


def test_expressions_are_text(visit, world):
    page = visit()
    texts = {c.get_attribute("data-id"): c.locator(".text").text_content() for c in page.locator(".card").all()}
    for n in range(len(NASTY)):
        if f"{n}-0" in texts:
            assert texts[f"{n}-0"] == NASTY[n]
    assert page.evaluate("window.hacked") is None
    assert page.locator("[name=a] option").nth(1).text_content() == f"2 {world.shown[1].label}"
    assert EVIL in page.locator('[data-cut="category"]').inner_text()
    for which in ("0-0", "1-0", "3-0"):
        opened = visit(f"#e={which}")
        assert opened.locator("#detail-text").text_content() == NASTY[int(which[0])]
        assert opened.evaluate("window.hacked") is None
    assert opened.locator("#detail-text").evaluate("e => getComputedStyle(e).direction") == "rtl"
    page.fill("[name=q]", NASTY[0])
    assert shown(page) == ["0-0"]


def test_the_policy_is_kept(browser, report):
    """What would get in anyway may neither run nor call home."""
    page = browser.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(report.as_uri())
    assert page.evaluate("fetch('https://example.org').then(() => 'came', () => 'refused')") == "refused"
    page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "window.hacked = 1";
      document.body.append(script);
      document.body.setAttribute("onclick", "window.hacked = 2");
      document.body.append(Object.assign(new Image(), { src: "https://example.org/a.png" }));
    }""")
    page.click("body", position={"x": 2, "y": 200})
    assert page.evaluate("window.hacked") is None
    assert sum("Content Security Policy" in line for line in said) >= 4
    page.close()


def test_without_pictures_boxes_stand_on_a_blank_frame(visit, world, tmp_path):
    split = make_split(gone=[scene.file for scene in world.split.scenes])
    file = World(split, world.results, world.shown, world.answers).report(tmp_path / "gone.html").path
    page = visit("#e=0-0", file=file)
    assert page.locator("#stage image").count() == 0 and page.locator("#stage .blank").count() == 1
    assert page.locator("#stage .answer").count() == 2
    assert f"no such picture; {EVIL}" in page.locator("#detail-facts").inner_text()


def test_one_run_alone(visit, world, tmp_path):
    alone = World(world.split, world.results, world.shown[:1], world.answers[:1])
    page = visit("#show=a-wrong", file=alone.report(tmp_path / "one.html").path)
    assert count(page) == (~world.answers[0].outcomes.hit).sum()
    assert not page.locator("[name=b]").is_visible()
    options = page.locator("[name=show] option").evaluate_all("all => all.map(e => e.value)")
    assert options == ["all", "a-wrong", "all-wrong", "all-right", "no-box"]


@pytest.mark.parametrize("width", [320, 400, 768])
def test_a_narrow_window_has_nothing_to_scroll_sideways(visit, width):
    for hash_ in ("", "#e=1-0"):
        page = visit(hash_, width=width, height=700)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if hash_:
            assert page.locator("#detail").evaluate("e => e.scrollWidth <= e.clientWidth")


def test_themes_follow_the_system_and_the_switch(visit):
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = visit(scheme="light"), visit(scheme="dark")
    white, black = light.evaluate(paper), dark.evaluate(paper)
    assert white != black
    light.click(".theme [data-theme=dark]")
    assert light.evaluate(paper) == black
    assert light.locator(".theme [data-theme=dark]").get_attribute("aria-pressed") == "true"
    for _ in range(5):  # remembered; a busy browser may hand the next page what was stored a moment late
        light.reload()
        light.wait_for_selector("html[data-ready]", state="attached")
        if light.evaluate(paper) == black:
            break
    assert light.evaluate(paper) == black
    dark.click(".theme [data-theme=light]")
    assert dark.evaluate(paper) == white


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return rgb("white");
  };
  const found = [];
  for (const e of document.querySelectorAll("body *:not(svg *, script, style, option, :disabled)")) {
    const said = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!said || !e.checkVisibility({ visibilityProperty: true }) || e.closest(".hidden, .skip")) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([ratio, `${e.tagName}.${e.className} ${e.textContent.slice(0, 30)}`]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""  # of every text that is seen: WCAG's ratio to the first solid colour behind it, lowest first


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("hash_", ["", "#e=1-0"])
def test_letters_stand_out_from_what_is_behind_them(visit, scheme, hash_):
    page = visit(hash_, scheme=scheme)
    found = page.evaluate(CONTRAST)
    assert len(found) > 200
    assert found[0][0] >= 4.5, found[:5]


def test_what_has_the_focus_is_seen(visit):
    page = visit()
    for _ in range(4):
        page.keyboard.press("Tab")
        focused = page.evaluate("""() => {
          const style = getComputedStyle(document.activeElement);
          return [style.outlineStyle, style.outlineWidth];
        }""")
        assert focused[0] == "solid" and float(focused[1].removesuffix("px")) >= 2


def test_everything_that_is_used_has_a_name(visit):
    page = visit("#e=1-0")
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, select, input, a, dialog, [role=region]")]
      .filter((e) => !e.getAttribute("aria-label") && !e.getAttribute("aria-labelledby"))
      .filter((e) => !e.labels?.length && !e.textContent.trim())
      .map((e) => e.outerHTML)""")
    assert nameless == []


def test_on_paper(visit):
    page = visit()
    page.emulate_media(media="print")
    assert not page.locator("#controls").is_visible() and not page.locator(".top").is_visible()
    assert page.locator(".board").is_visible()
