"""The first minute: a class by its picture, settings that are still there, links, and what was made."""

import re

from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import open_page
from tests.browser.test_studio import open_advanced, put, value_of

SETTINGS = {"seed": 123, "count": 3, "steps": 7, "scale": 2.2, "power": 0.5}


def shown(page: Page) -> dict[str, float]:
    """What the controls of SETTINGS say."""
    return {name: value_of(page, f"generate-{name}") for name in SETTINGS}


def test_settings_survive_a_reload_and_travel_in_a_link(page: Page, browser: Browser, url: str) -> None:
    """Catches a control that is forgotten, a fold that closes, an address that lies, a link that opens nothing."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_advanced(page)
    fresh = shown(page)
    for name, value in SETTINGS.items():
        put(page, f"generate-{name}", value)
    page.get_by_role("tab", name="Inpaint").click()
    expect(page).to_have_url(re.compile(r"\?tab=inpaint$"))
    page.reload()
    expect(page.locator("#inpaint-start")).to_be_visible()
    page.get_by_role("tab", name="Generate").click()
    expect(page.locator("#generate-power input[type=number]")).to_have_value("0.5")
    assert shown(page) == SETTINGS
    page.click("#generate-link")
    expect(page.locator("#generate-link")).to_have_text("Link copied")
    other = open_page(browser, page.evaluate("navigator.clipboard.readText()"))
    expect(other.locator("#generate-seed input")).to_have_value("123")
    expect(other).to_have_url(re.compile(r"/\?tab=generate$"))  # a reload keeps what is changed from here on
    open_advanced(other)
    assert shown(other) == SETTINGS
    other.click("#generate-reset")
    expect(other.locator("#generate-seed input")).to_have_value(f"{fresh['seed']:.0f}")
    assert shown(other) == fresh
    other.context.close()


def test_a_link_from_anybody_opens_the_page(browser: Browser, url: str) -> None:
    """Catches a page that stays empty, or says a bare "Error"."""
    page = open_page(browser, url + "?tab=generate&seed=nothing&sampler=[]&class_labels=<b>nobody</b>&model={}")
    expect(page.locator(".toast-body")).to_contain_text("tiny has no class '<b>nobody</b>'")
    assert value_of(page, "generate-seed") == 0
    assert page.errors == []
    page.context.close()


def test_a_class_by_its_picture_and_how_it_was_made(browser: Browser, url: str) -> None:
    """Catches a picture that draws another class, and a history that is gone after a reload or brings back nothing."""
    page = open_page(browser, url + "?tab=generate&model=avatars&num_inference_steps=2&num_images=2")
    page.click("#generate-stage [data-label='13']")
    expect(page.locator("#generate-gallery")).to_contain_text("sprouts")
    seed = value_of(page, "generate-seed")
    expect(page.locator("#generate-made")).to_be_visible()
    page.reload()
    page.click("#generate-made > button")
    put(page, "generate-steps", 5)
    page.locator("#generate-history .thumbnail-item").nth(1).click()
    expect(page.locator("#generate-status")).to_contain_text(f"Recipe loaded: seed {seed + 1:.0f}. Press Generate")
    assert value_of(page, "generate-steps") == 2
    expect(page.get_by_label("Keep the seed").first).to_be_checked()
    page.context.close()
