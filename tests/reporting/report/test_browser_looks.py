"""The report in headless Chromium: that it stays within itself, and can be read by everybody (see `visit`)."""

import pytest
from report_page import count, shown
from report_world import EVIL, NASTY, World, make_split


def test_expressions_are_text(visit, world):
    page = visit()
    texts = {c.get_attribute("data-id"): c.locator(".text").text_content() for c in page.locator(".card").all()}
    for n in range(len(NASTY)):
        if f"{n}-0" in texts:
            assert texts[f"{n}-0"] == NASTY[n]
    assert page.evaluate("window.hacked") is None
    assert page.locator("[name=a] option").nth(1).text_content() == f"2 {world.runs[1].label}"
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
    messages = []
    page.on("console", lambda message: messages.append(message.text))
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
    assert sum("Content Security Policy" in line for line in messages) >= 4
    page.close()


def test_without_images_boxes_stand_on_a_blank_frame(visit, world, tmp_path):
    split = make_split(gone=[scene.file for scene in world.split.scenes])
    file = World(split, world.results, world.runs, world.answers).report(tmp_path / "gone.html")["path"]
    page = visit("#e=0-0", file=file)
    assert page.locator("#stage image").count() == 0 and page.locator("#stage .blank").count() == 1
    assert page.locator("#stage .answer").count() == 2
    assert f"no such image; {EVIL}" in page.locator("#detail-facts").inner_text()


def test_one_run_alone(visit, world, tmp_path):
    alone = World(world.split, world.results, world.runs[:1], world.answers[:1])
    page = visit("#show=a-wrong", file=alone.report(tmp_path / "one.html")["path"])
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


def test_a_narrow_window_shows_every_part_and_says_which_tables_scroll(visit):
    cut = """() => [...document.querySelectorAll(".top nav a, .theme button")].filter((e) => {
      const box = e.getBoundingClientRect();
      const middle = box.top + box.height / 2;
      return ![box.left + 1, box.right - 1].every((x) => document.elementFromPoint(x, middle) === e);
    }).map((e) => e.textContent)"""
    hinted = """() => [...document.querySelectorAll(".scroll")].filter((e) => e.checkVisibility()).map((e) =>
      [e.scrollWidth > e.clientWidth + 1, getComputedStyle(e, "::before").content.includes("scroll")])"""
    for width in (320, 400, 1280):
        page = visit(width=width)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert page.evaluate(cut) == []
        tables = page.evaluate(hinted)
        assert all(wider == told for wider, told in tables)
        assert any(told for _, told in tables) if width < 1000 else not all(told for _, told in tables)


def test_themes_follow_the_system_and_the_switch(visit):
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = visit(scheme="light"), visit(scheme="dark")
    white, black = light.evaluate(paper), dark.evaluate(paper)
    assert white != black
    light.click(".theme [data-theme=dark]")
    assert light.evaluate(paper) == black
    assert light.locator(".theme [data-theme=dark]").get_attribute("aria-pressed") == "true"
    for _ in range(5):  # stored; a busy browser may hand the next page what was stored a moment late
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
  const ratios = [];
  for (const e of document.querySelectorAll("body *:not(svg *, script, style, option, :disabled)")) {
    const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!text || !e.checkVisibility({ visibilityProperty: true }) || e.closest(".hidden, .skip")) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    ratios.push([ratio, `${e.tagName}.${e.className} ${e.textContent.slice(0, 30)}`]);
  }
  return ratios.sort((x, y) => x[0] - y[0]);
}"""  # of every text that is visible: WCAG's ratio to the first solid colour behind it, lowest first


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("hash_", ["", "#e=1-0"])
def test_letters_stand_out_from_what_is_behind_them(visit, scheme, hash_):
    page = visit(hash_, scheme=scheme)
    ratios = page.evaluate(CONTRAST)
    assert len(ratios) > 200
    assert ratios[0][0] >= 4.5, ratios[:5]


def test_what_has_the_focus_is_visible(visit):
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
