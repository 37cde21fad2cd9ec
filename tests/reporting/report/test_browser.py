"""The report in headless Chromium: what people do with it (see `visit`)."""

from urllib.parse import urlencode

import numpy as np
import pytest
from report_page import close, count, drawn, shown, state_of

PAGE = 24


@pytest.fixture(scope="module")
def hits(world):
    """(runs, expressions) whether each is right."""
    return np.array([run.outcomes.hit for run in world.answers])


@pytest.fixture(scope="module")
def ids(world):
    return [e.id for scene in world.split.scenes for e in scene.expressions]


def test_only_one_page_of_cards_is_there(visit, ids):
    page = visit()
    assert count(page) == len(ids) == 100 and shown(page) == ids[:PAGE]
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


@pytest.mark.parametrize("sort, value", [
    ("a-over-b", lambda a, b: b - a), ("b-over-a", lambda a, b: a - b), ("a-low", lambda a, b: a),
    ("a-high", lambda a, b: -a),
])  # fmt: skip
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
    drawn_box = page.locator('.card[data-id="0-0"] .answer.p0 .own').evaluate(
        "r => ['x', 'y', 'width', 'height'].map((n) => Number(r.getAttribute(n)))"
    )
    x1, y1, x2, y2 = wanted
    assert drawn_box == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.11)
    truth = page.locator('.card[data-id="0-0"] .truth .own').evaluate("r => Number(r.getAttribute('x'))")
    assert truth == 3
    assert page.locator('.card[data-id="0-0"] .scene').get_attribute("viewBox") == "0 0 96 64"


def test_what_is_drawn_is_switched_with_boxes_and_keys(visit, world):
    labels = [run.label for run in world.runs]
    page = visit()
    assert drawn(page) == labels[:2]
    page.check('[data-run="2"]')
    page.keyboard.press("1")
    assert [label for label in labels if label in drawn(page)] == drawn(page)
    assert labels[0] not in drawn(page) and labels[1] in drawn(page)
    assert state_of(page)["on"] == labels[1:] and page.locator(".card .truth").count() == PAGE
    page.keyboard.press("g")
    assert page.locator(".card .truth").count() == 0 and not page.is_checked("#truth")
    assert page.locator(".card .pool").count() == 0
    page.keyboard.press("p")
    assert page.locator('.card[data-id="0-0"] .pool').count() == 2  # the one annotated box, and the whole image
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
    labels = [run.label for run in world.runs]
    state = {
        "e": "2-1", "a": labels[1], "b": labels[2], "show": "differ", "sort": "a-low", "q": "thing",
        "cut.kind": "relation",
        "truth": "0", "proposals": "1", "on": labels[1],
    }  # fmt: skip
    page = visit("#" + urlencode(state))
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
    page.click("#swap")
    page.keyboard.press("g")
    again = visit(page.evaluate("location.hash"))
    assert shown(again) == shown(page) and state_of(again) == state_of(page)


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
