"""A visitor's day on the Generate and Compare tabs, in a real browser with a real (tiny, untrained) model."""

import base64
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

from app.common import recipes
from app.engine.settings import SAMPLING
from tests.browser.conftest import put, visit

WATCH = """() => {
  window.previews = new Set();
  const look = () => document.querySelectorAll("#generate-stage img").forEach((img) => window.previews.add(img.src));
  const everything = {childList: true, subtree: true, attributes: true};
  new MutationObserver(look).observe(document.querySelector("#generate-stage"), everything);
}"""
DROP = """([target, data]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "picture.png", {type: "image/png"}));
  document.querySelector(target).dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
}"""

# In the page: a click from outside may arrive when a fast run is over.
STOP_AT = """([tab, text]) => new MutationObserver((_, observer) => {
    const stop = document.querySelector(`#${tab}-stop`);
    if (!stop?.offsetParent || !document.querySelector(`#${tab}-status`)?.innerText.match(text)) return;
    observer.disconnect();
    stop.click();
}).observe(document.body, {childList: true, subtree: true, characterData: true})"""


def open_advanced(page: Page) -> None:
    """Unfold what is seldom needed."""
    page.click("#generate-advanced > button")


def pick(page: Page, text: str) -> None:
    """Leave one class in the picker, found by typing."""
    page.click("#generate-classes .remove-all")
    page.fill("#generate-classes input", text)
    page.locator("#generate-classes").get_by_role("option").first.click()
    page.keyboard.press("Escape")


def value_of(page: Page, control: str) -> float:
    return float(page.input_value(f"#{control} input[type=number]"))


def generate(page: Page) -> list[Image.Image]:
    """Press Generate and wait for the pictures."""
    page.click("#generate-start")
    expect(page.locator("#generate-stop")).to_be_visible()
    expect(page.locator("#generate-start")).to_be_visible()
    return pictures(page)


def pictures(page: Page) -> list[Image.Image]:
    """What the gallery shows."""
    return [Image.open(io.BytesIO(data)) for data in files(page)]


def files(page: Page) -> list[bytes]:
    images = page.locator("#generate-gallery .grid-container img")
    expect(images.first).to_be_visible()
    return [page.request.get(image.get_attribute("src")).body() for image in images.all()]


def test_before_anything_is_drawn(page: Page, tmp_path: Path) -> None:
    """Catches a Generate button below the fold at 1280 x 800, and a page wider than its window; a control without its
    line of help, and one whose help lies over the page all the time; a plot of settings that are not the chosen ones;
    and a page that hangs or says a bare "Error" on an empty seed or a picture from elsewhere."""
    box = page.locator("#generate-start").bounding_box()
    assert box["y"] + box["height"] <= 800
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert "tiny" in page.inner_text("#about")
    assert "CPU" in page.inner_text("#about")

    open_advanced(page)
    for setting in SAMPLING.values():
        help_line = page.locator(f"#generate-{setting.id} .info-text")
        expect(help_line).to_have_text(setting.help)
        expect(help_line).to_have_css("opacity", "0")
        page.hover(f"#generate-{setting.id}")
        expect(help_line).to_have_css("opacity", "1")

    curve = page.locator("#generate-curve svg")
    expect(curve).to_contain_text("12 of 25 steps need no guidance")
    put(page, "generate-power", 0.01)
    expect(curve).not_to_contain_text("no guidance")
    put(page, "generate-steps", 10)
    expect(curve.locator(".guided use, .skipped use")).to_have_count(10)

    page.fill("#generate-seed input", "")
    page.click("#generate-start")
    expect(page.locator(".toast-body").last).to_contain_text("The seed must be a whole number from 0")
    expect(page.locator(".toast-body [role=button] button")).to_have_count(0)  # axe: nested-interactive
    expect(page.locator("#generate-start")).to_be_visible()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    page.set_input_files("#generate-recipe input[type=file]", tmp_path / "a.png")
    expect(page.locator(".toast-body").last).to_contain_text("This picture carries no recipe")


def test_a_class_by_typing_previews_and_a_picture(page: Page) -> None:
    """Catches a filter that does not filter a thousand classes, a preview that stands still, a flat result."""
    pick(page, "golden retr")
    expect(page.locator("#generate-classes")).to_contain_text("golden retriever")
    put(page, "generate-seed", 0)
    put(page, "generate-steps", 20)
    page.evaluate(WATCH)
    found = generate(page)
    assert page.evaluate("window.previews.size") >= 3
    assert len(found) == 4
    for picture in found:
        assert picture.size == (32, 32)
        assert np.asarray(picture.convert("RGB")).std() > 5
    expect(page.locator("#generate-gallery")).to_contain_text("seed 3 · golden retriever")
    expect(page.locator("#generate-status")).to_contain_text(re.compile(r"20 steps in .* of them without guidance"))


def test_looking_through_the_steps(page: Page) -> None:
    """Catches a scrubber that shows the same step everywhere, and a last step that is not the result."""
    put(page, "generate-steps", 12)
    generate(page)
    seen = set()
    for step in (1, 5, 9):
        put(page, "generate-step", step)
        first = page.locator("#generate-stage img").first
        expect(first).to_be_visible()
        page.wait_for_function("seen => !seen.includes(document.querySelector('#generate-stage img').src)", arg=[*seen])
        seen.add(first.get_attribute("src"))
    page.get_by_label("What it sees").click()
    page.wait_for_function("seen => !seen.includes(document.querySelector('#generate-stage img').src)", arg=[*seen])
    page.get_by_label("What it will become").click()
    put(page, "generate-step", 12)
    expect(page.locator("#generate-gallery")).to_be_visible()
    expect(page.locator("#generate-stage img")).to_have_count(0)


def test_stop_in_the_middle(page: Page) -> None:
    """Catches a run that goes on, a page that is not ready again, and previews that are lost."""
    put(page, "generate-steps", 250)
    put(page, "generate-count", 16)
    page.evaluate(STOP_AT, ["generate", "Step [1-9].* of 250"])  # of the run, not of a look
    page.click("#generate-start")
    expect(page.locator("#generate-status")).to_contain_text("Stopped after step")
    expect(page.locator("#generate-start")).to_be_visible()
    stopped = int(re.search(r"step (\d+) of 250", page.inner_text("#generate-status"))[1])
    assert 0 < stopped < 250
    put(page, "generate-step", 1)
    expect(page.locator("#generate-stage img").first).to_be_visible()
    put(page, "generate-steps", 3)
    put(page, "generate-count", 4)
    assert len(generate(page)) == 4


def test_a_dropped_picture_sets_all_controls_and_comes_out_again(page: Page) -> None:
    """Catches a control that is forgotten, and pixels that depend on the batch they were made in."""
    pick(page, "tabby")
    put(page, "generate-seed", 1234)
    open_advanced(page)
    page.click("#generate-sampler input")
    page.get_by_role("option", name="ddpm").click()
    page.wait_for_function("document.querySelector('#generate-steps input[type=number]').value == 250")
    put(page, "generate-steps", 9)
    put(page, "generate-scale", 2.5)
    put(page, "generate-power", 1.25)
    generate(page)
    kept = files(page)[2]
    visit(page, page.url)
    page.evaluate(DROP, ["#generate-recipe button", base64.b64encode(kept).decode()])
    expect(page.locator("#generate-status")).to_contain_text("Recipe loaded: seed 1236")
    expect(page.locator("#generate-classes")).to_contain_text("tabby")
    controls = {"seed": 1236, "count": 1, "steps": 9, "scale": 2.5, "power": 1.25}
    assert {name: value_of(page, f"generate-{name}") for name in controls} == controls
    assert page.input_value("#generate-sampler input") == "ddpm"
    (again,) = generate(page)
    assert again.convert("RGB").tobytes() == Image.open(io.BytesIO(kept)).convert("RGB").tobytes()


def test_ctrl_enter_and_the_same_seed_again(page: Page) -> None:
    """Catches a shortcut that fires twice or not at all, and a button that takes another seed or keeps none."""
    put(page, "generate-steps", 3)
    page.click("#generate-seed input")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#generate-gallery img").first).to_be_visible()
    page.locator("#generate-gallery .grid-container button").nth(2).click()
    seed = value_of(page, "generate-seed")  # of its own, for nobody typed one
    expect(page.get_by_label("Keep the seed").first).not_to_be_checked()
    page.click(f"text=Use seed {seed + 2:.0f} again")
    expect(page.locator("#generate-seed input")).to_have_value(f"{seed + 2:.0f}")
    expect(page.get_by_label("Keep the seed").first).to_be_checked()
    assert value_of(page, "generate-count") == 1


def test_two_visitors_take_turns(page: Page, another: Page) -> None:
    """Catches a visitor who sees the other's pictures, or is stopped by the other's Stop button."""
    open_advanced(page)
    page.click("#generate-sampler input")
    page.locator("#generate-sampler").get_by_role("option", name="ddpm", exact=True).click()
    put(page, "generate-steps", 1000)  # with 16 images: long enough for what the other visitor does meanwhile
    put(page, "generate-count", 16)
    put(another, "generate-steps", 4)
    put(another, "generate-seed", 77)
    page.click("#generate-start")
    expect(page.locator("#generate-status")).to_contain_text(re.compile("Step [1-9]"))
    another.click("#generate-start")
    expect(another.locator("#generate-stop")).to_be_visible()
    page.click("#generate-stop")
    expect(page.locator("#generate-status")).to_contain_text("Stopped after step")
    expect(another.locator("#generate-gallery")).to_contain_text("seed 77")
    assert page.locator("#generate-gallery img").count() == 0


def test_another_model_can_be_chosen(page: Page) -> None:
    """The shipped one: catches classes of the model before, a header that lies, and a picture of another size."""
    expect(page.locator("#generate-classes")).to_contain_text("tench")
    page.click("#model input")
    page.get_by_role("option", name="avatars", exact=True).click()
    expect(page.locator("#about")).to_contain_text("128 px")
    expect(page.locator("#generate-classes")).not_to_contain_text("tench")
    pick(page, "landscape")
    put(page, "generate-seed", 0)
    put(page, "generate-steps", 8)
    page.evaluate(WATCH)
    found = generate(page)
    assert page.evaluate("window.previews.size") >= 3
    assert [picture.size for picture in found] == [(128, 128)] * 4
    assert min(np.asarray(picture.convert("RGB")).std() for picture in found) > 5
    expect(page.locator("#generate-gallery")).to_contain_text("seed 0 · landscape")


def test_a_grid_is_drawn_cell_by_cell_saved_and_loaded(page: Page, tmp_path: Path) -> None:
    """Catches a grid without its recipe, one that cannot be stopped, and a cell that opens as another one."""
    page.get_by_role("tab", name="Compare").click()
    put(page, "compare-steps", 4)
    page.fill("#compare-rows-typed input, #compare-rows-typed textarea", "1, 6")
    page.click("#compare-start")
    expect(page.locator("#compare-status")).to_contain_text("6 cells in")
    with page.expect_download() as download:
        page.click("#compare-save")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert recipes.read(file, "compare")["rows"] == {"axis": "guidance_scale", "values": [1.0, 6.0]}
    sheet = np.asarray(Image.open(file).convert("RGB"))
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 500

    cell = page.locator("#compare-stage button.cell").nth(4)  # the second class, scale 6
    expect(cell.locator("img")).to_have_attribute("alt", re.compile("^scale 6, .*: open in Generate$"))
    name = cell.locator("img").get_attribute("alt").split(", ", 1)[1].removesuffix(": open in Generate")
    cell.click()
    expect(page.locator("#generate-start")).to_be_visible()
    expect(page.locator("#generate-classes")).to_contain_text(name)
    assert {key: value_of(page, f"generate-{key}") for key in ("scale", "steps", "count")} == {
        "scale": 6, "steps": 4, "count": 1,
    }  # fmt: skip

    page.get_by_role("tab", name="Compare").click()
    put(page, "compare-steps", 250)
    page.evaluate(STOP_AT, ["compare", "of 6 cells, step"])
    page.click("#compare-start")
    expect(page.locator("#compare-status")).to_contain_text(re.compile("Stopped after [0-5] of 6 cells"))

    page.set_input_files("#compare-recipe input[type=file]", file)
    expect(page.locator("#compare-status")).to_contain_text("Recipe loaded")
    assert value_of(page, "compare-steps") == 4
    page.get_by_role("tab", name="Generate").click()
    page.set_input_files("#generate-recipe input[type=file]", file)
    expect(page.locator(".toast-body")).to_contain_text("recipe for another tab")


def test_two_classes_are_mixed_by_a_slider(page: Page) -> None:
    """Catches a slider that changes nothing, a caption that hides the mix, and one that *Use again* forgets."""
    put(page, "generate-steps", 3)
    put(page, "generate-count", 1)
    page.get_by_role("button", name="Mix with another class").click()
    put(page, "generate-mix-share", 0.25)
    generate(page)
    expect(page.locator("#generate-gallery")).to_contain_text(re.compile(r"tench 75% \+ .* 25%"))
    put(page, "generate-mix-share", 0)
    page.click("#generate-again")
    page.wait_for_function("document.querySelector('#generate-mix-share input[type=number]').value == 0.25")
