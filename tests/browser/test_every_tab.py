"""Every tab before, while and after a run, for those who see badly, use no mouse, or hold a phone."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import LAPTOP, open_page, put

AXE = Path(__file__).with_name("axe.min.js").read_text(encoding="utf-8")
EXAMPLES = sorted(Path(__file__).parents[2].glob("assets/examples/*[0-9].png"))
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
TABS = {
    "Generate": "generate",
    "Inpaint": "inpaint",
    "Compare": "compare",
    "Walk": "walk",
    "Training progress": "render",
    "Teach": "teach",
}
NO_NAMES = ("", "Dropdown", "Radio", "⚄")  # which Gradio, or a sign, says of anything
VIEWS = [("laptop", "light"), ("phone", "dark")]

FIND = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations.flatMap((rule) =>
  rule.nodes.map((node) => `${rule.id}: ${node.target} ${node.failureSummary.replaceAll("\\n", " ")}`))"""
# What can be touched: its name, edges and size. Gradio measures its tabs on a copy that nobody sees.
CONTROLS = """() => [...document.querySelectorAll(
    "button, input, textarea, select, summary, canvas, a[href], [role=button], label:has([type=radio])")]
  .filter((node) => node.checkVisibility({opacityProperty: true, visibilityProperty: true}) &&
    !node.closest("[aria-hidden=true]"))
  .map((node) => [node, node.getBoundingClientRect()]).filter(([_, box]) => box.width && box.height)
  .map(([node, box]) => ({
    name: node.ariaLabel || node.innerText || node.labels?.[0]?.innerText || node.title || "",
    where: `${node.localName}#${node.id} ${node.className}: ${[box.left, box.right, box.height].map(Math.round)}`,
    outside: box.left < 0 || box.right > innerWidth,
    small: Math.min(box.width, box.height) < 44 && !node.matches("input, canvas, a")}))"""


IN_VIEW = """() => [...document.querySelectorAll(".status")].filter((node) => node.checkVisibility())
  .map((node) => node.getBoundingClientRect()).some(({top, bottom}) => top >= 0 && bottom < innerHeight)"""

# Tabs that are too narrow for their names.
CUT = """() => [...document.querySelectorAll("[role=tab]")].filter((tab) => tab.scrollWidth > tab.clientWidth)
  .map((tab) => tab.innerText)"""

# Controls that do not show, by a ring around them or what they lie in, that the keyboard is on them.
UNSEEN = """() => [...document.querySelectorAll("button, input, textarea, summary, canvas, a[href], [tabindex]")]
  .filter((node) => node.tabIndex >= 0 && node.checkVisibility({opacityProperty: true, visibilityProperty: true}))
  .filter((node) => {
    node.focus();
    const around = [node, node.parentElement, node.parentElement.parentElement].map((each) => getComputedStyle(each));
    return node === document.activeElement &&
      !around.some(({outlineStyle, outlineWidth}) => outlineStyle !== "none" && parseFloat(outlineWidth) >= 2);
  }).map((node) => node.outerHTML.slice(0, 200))"""

# A press, and at once the visitor's own finger.
PRESS_AND_SCROLL = """(button) => {
  button.click();
  window.dispatchEvent(new Event("touchmove"));
}"""

LISTEN = """() => {
  window.heard = [];
  const region = document.querySelector(".heard");
  new MutationObserver(() => window.heard.push(region.innerText)).observe(region, {childList: true});
}"""


@pytest.fixture(scope="module", params=VIEWS, ids="-".join)
def view(request: pytest.FixtureRequest, browser: Browser, url: str) -> Iterator[Page]:
    """One page for all tests of this file."""
    device, scheme = request.param
    page = open_page(
        browser, url, (PHONE if device == "phone" else LAPTOP) | {"color_scheme": scheme, "reduced_motion": "reduce"}
    )
    page.add_script_tag(content=AXE)
    page.evaluate(LISTEN)
    page.is_phone = device == "phone"
    yield page
    page.context.close()


def open_tab(page: Page, name: str) -> None:
    """Where a row has no room for all tabs, the last ones are in a menu."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():
        page.get_by_label("More tabs").click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()


def check(page: Page, state: str) -> None:
    """Nothing that axe finds, no control without a name of its own, none outside the page or too small for a finger."""
    assert page.evaluate(FIND) == [], state
    controls = page.evaluate(CONTROLS)
    assert len(controls) > 5
    nameless = [c["where"] for c in controls if c["name"].strip() in NO_NAMES or "undefined" in c["name"]]
    assert nameless == [], state
    assert [c["where"] for c in controls if c["outside"]] == [], state
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, state
    assert page.evaluate(CUT) == [], state
    if page.is_phone:
        assert [c["where"] for c in controls if c["small"]] == [], state


@pytest.mark.slow
@pytest.mark.parametrize("name", TABS)
def test_a_tab_can_be_read_and_reached(view: Page, name: str) -> None:
    """Catches faint text, controls without names, roles that fit nothing, what a phone cuts off or makes tiny, and a
    page that scrolls to a run, or does not, against the visitor's will."""
    prefix = TABS[name]
    start, stop = view.locator(f"#{prefix}-start"), view.locator(f"#{prefix}-stop")
    open_tab(view, name)
    expect(start).to_be_visible()
    expect(start).to_be_enabled()
    check(view, "before")
    view.keyboard.press("Tab")
    assert view.evaluate(UNSEEN) == []
    view.keyboard.press("Escape")  # the list of the last one
    if name == "Inpaint":
        view.locator("#inpaint-examples .thumbnail-item").first.click()
        expect(view.locator("#inpaint-painter .masked")).to_contain_text("% masked")
        check(view, "with a picture")
        view.click("#inpaint-advanced > button")
        expect(view.locator("#inpaint-steps")).to_be_visible()
        check(view, "unfolded")
    if name == "Teach":  # what it learns then, and how it ends: test_teach.py
        view.set_input_files("#teach-drop-0 input[type=file]", EXAMPLES)
        expect(view.locator(".pairs img")).to_have_count(2 * len(EXAMPLES))
        view.click("#teach-advanced > button")
        expect(view.locator("#teach-steps")).to_be_visible()
        return check(view, "with pictures")
    steps = "training-steps" if prefix == "render" else f"{prefix}-steps"
    put(view, steps, 240 if view.is_phone else 250)  # a strip is drawn once for all visitors
    if name == "Generate":
        put(view, "generate-count", 16)  # a run that outlasts what is looked at meanwhile
    if view.is_phone:
        view.evaluate("scrollTo(0, document.body.scrollHeight)")
    start.press("Enter")
    expect(stop).to_be_focused()
    view.wait_for_function(IN_VIEW)  # on a phone it lies above the controls
    view.evaluate("window.heard = []")
    check(view, "while it runs")
    stop.evaluate_all("(buttons) => buttons[0]?.click()")  # unless the run is over by now
    expect(start).to_be_focused()
    assert len(view.evaluate("window.heard")) <= 2, "the steps of a run are read aloud"
    put(view, steps, 3)
    view.evaluate("scrollTo(0, document.body.scrollHeight)")
    start.evaluate(PRESS_AND_SCROLL)
    expect(view.locator(f"#{prefix}-status")).to_contain_text(re.compile(r" in \d"))  # "Waiting" has an in, too
    expect(start).to_be_visible()
    if view.is_phone and name == "Generate":  # the longest page
        assert not view.evaluate(IN_VIEW), "the page scrolls against the visitor's finger"
    check(view, "when it is done")
