"""What a test in a browser reads off the report's page."""

import re
from urllib.parse import parse_qs

from playwright.sync_api import expect


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
