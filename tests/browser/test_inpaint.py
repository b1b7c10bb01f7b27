"""A visitor's day on the Inpaint tab, in a real browser with a real (tiny, untrained) model."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from app.common import recipes
from app.inpaint.page import find_examples
from app.inpaint.request import mask_from
from tests.browser.conftest import open_page, put

PICTURE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
PASTE = """(data) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "pasted.png", {type: "image/png"}));
  document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true}));
}"""

# What was done by now is drawn
DRAWN = """async () => {
  await window.mdtPainter.settled();
  for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame);
}"""
HELD = "() => new Promise((done) => setTimeout(done, 250))"  # longer than a tap of a key

FRAMES = """() => {
  window.frames_seen = 0;
  const count = () => (window.frames_seen++, requestAnimationFrame(count));
  count();
}"""


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    Image.fromarray(PICTURE).save(path)
    return path


def status(page: Page, text: str | re.Pattern) -> None:
    """Wait for a status."""
    expect(page.locator("#inpaint-status")).to_contain_text(text)


def open_file(page: Page, file: Path, button: str = "Open picture") -> None:
    """Through the button's file dialog."""
    page.set_input_files(f"input[data-testid='{button}-upload-button']", file)


def start_with(page: Page, picture: Path) -> None:
    """The tab, with a picture opened and quick settings."""
    page.get_by_role("tab", name="Inpaint").click()
    open_file(page, picture)
    status(page, "Paint over")
    page.locator("#inpaint-preset").get_by_label("Fast").click()
    page.click("#inpaint-advanced > button")
    put(page, "inpaint-steps", 4)
    put(page, "inpaint-grow", 3)
    put(page, "inpaint-feather", 2)


def canvas_box(page: Page, size: tuple[int, int] = (128, 96)) -> tuple[float, float, float]:
    """(left, top, scale) of the whole picture in the window, once the painter shows it."""
    expect(page.locator("#inpaint-painter .masked")).to_contain_text("masked")
    page.evaluate(DRAWN)
    canvas = page.locator("#inpaint-painter canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    scale = min(box["width"] / size[0], box["height"] / size[1])
    left, top = (
        box[at] + (box[side] - scale * n) / 2 for at, side, n in zip("xy", ("width", "height"), size, strict=True)
    )
    return left, top, scale


def paint(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A stroke with the mouse, between points given in parts of the picture."""
    left, top, scale = canvas_box(page)
    points = [(left + x * 128 * scale, top + y * 96 * scale) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=6)
    page.mouse.up()


def canvas_pixels(page: Page) -> np.ndarray:
    """(H, W, 3) of what the canvas shows."""
    data = page.evaluate("document.querySelector('#inpaint-painter canvas').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB")).astype(int)


def seen_mask(page: Page, size: tuple[int, int] = (128, 96)) -> np.ndarray:
    """(H, W) of the picture: where the canvas changes while Tab, which hides the mask, is held."""
    page.mouse.move(0, 0)  # no ring of the brush
    left, top, scale = canvas_box(page, size)
    box = page.locator("#inpaint-painter canvas").bounding_box()
    page.locator("#inpaint-painter canvas").focus()
    page.evaluate(DRAWN)
    masked = canvas_pixels(page)
    page.keyboard.down("Tab")
    page.evaluate(HELD)
    page.evaluate(DRAWN)
    without = canvas_pixels(page)
    page.keyboard.up("Tab")
    columns, rows = (
        ((np.arange(n) + 0.5) * scale + start - box[at]).astype(int)
        for n, start, at in zip(size, (left, top), "xy", strict=True)
    )
    return (masked != without).any(-1)[rows][:, columns]


def overlay(page: Page, before: str) -> str:
    """The file that shows what will be repainted, once it is another than before."""
    other = "(before) => window.mdtPainter.settled().then(({overlay: now}) => now?.path !== before && now?.path)"
    return page.wait_for_function(other, arg=before).json_value()


def press(page: Page, *keys: str) -> None:
    """Keys on the canvas."""
    page.locator("#inpaint-painter canvas").focus()
    for key in keys:
        page.keyboard.press(key)


def masked(page: Page, text: str | re.Pattern) -> None:
    """Wait for what is said of the mask."""
    expect(page.locator("#inpaint-painter .masked")).to_have_text(text)


def inpaint(page: Page, tmp_path: Path, name: str, start: bool = True) -> Path:
    """Press Inpaint, wait for the result, save it."""
    if start:
        page.click("#inpaint-start")
    status(page, re.compile(r"\d+ steps in"))
    expect(page.locator("#inpaint-comparison img").first).to_be_visible()
    with page.expect_download() as download:
        page.click("#inpaint-save")
    download.value.save_as(tmp_path / name)
    return tmp_path / name


def near(mask: np.ndarray, reach: int) -> np.ndarray:
    """All pixels within a square of the mask."""
    padded = np.pad(mask, reach)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))
    return windows.any((2, 3))


def test_before_anything_is_painted(page: Page, picture: Path) -> None:
    """Catches an Inpaint button below the fold at 1280 x 800, and a page wider than its window; RePaint with the steps
    of MDT, and a preset that stays chosen beside it; and a picture that is pasted and goes nowhere."""
    page.get_by_role("tab", name="Inpaint").click()
    box = page.locator("#inpaint-start").bounding_box()
    assert box["y"] + box["height"] <= 800
    box = page.locator("#inpaint-view").bounding_box()
    assert box["y"] + box["height"] <= 800
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280

    page.click("#inpaint-advanced > button")
    page.click("#inpaint-method input")
    page.get_by_role("option", name="RePaint").click()
    expect(page.locator("#inpaint-steps input[type=number]")).to_have_value("50")
    expect(page.locator("#inpaint-preset input:checked")).to_have_count(0)

    page.evaluate(PASTE, base64.b64encode(picture.read_bytes()).decode())
    status(page, "Paint over")
    masked(page, "Nothing masked yet")


def test_paint_run_compare_and_paint_on(page: Page, picture: Path, tmp_path: Path) -> None:
    """Catches a mask that is shifted or not the one seen, pixels that change outside it, a run that starts with the
    mask before the last stroke, and a variant that cannot be painted on, or not with its mask."""
    start_with(page, picture)
    put(page, "inpaint-count", 2)
    put(page, "inpaint-seed", 0)
    paint(page, (0.45, 0.4), (0.55, 0.5))
    page.keyboard.press("Control+Enter")  # at once: the server does not have the mask yet
    first = inpaint(page, tmp_path, "first.png", start=False)
    recipe = recipes.read(first, "inpaint")
    mask = mask_from(recipe)
    assert mask.shape == (96, 128)
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() - 0.45 * 96) < 1
    assert abs(columns.mean() - 0.5 * 128) < 1, "the stroke went through the middle"
    pixels = np.asarray(Image.open(first).convert("RGB"))
    changed = (pixels != PICTURE).any(-1)
    assert changed[mask].mean() > 0.9
    assert not changed[~near(mask, 3)].any()

    page.locator("#inpaint-variants .thumbnail-item").nth(1).click()
    expect(page.locator("#inpaint-save")).to_contain_text("seed 1")
    page.locator("#inpaint-keep input").check()
    page.click("#inpaint-use")
    status(page, "This is the picture now")
    assert (seen_mask(page) == mask).all()
    put(page, "inpaint-count", 1)
    paint(page, (0.4, 0.2), (0.45, 0.2))
    second = inpaint(page, tmp_path, "second.png")
    again = np.asarray(Image.open(second).convert("RGB"))
    both = mask_from(recipes.read(second, "inpaint"))
    assert both[mask].all() and both.sum() > mask.sum()
    assert (again != PICTURE).any(-1)[both].mean() > 0.9
    assert not (again != PICTURE).any(-1)[~near(both, 3)].any()
    page.click("#inpaint-use")
    status(page, "This is the picture now")
    assert (seen_mask(page) == both).all()


def test_before_and_after(page: Page, picture: Path, tmp_path: Path) -> None:
    """Catches a line that cannot be dragged, and a key that does not show what was before, or does while one types."""
    start_with(page, picture)
    paint(page, (0.45, 0.4), (0.55, 0.5))
    inpaint(page, tmp_path, "a.png")
    pair = page.locator("#inpaint-comparison .pair")
    split = "(pair) => getComputedStyle(pair).getPropertyValue('--split')"
    assert pair.evaluate(split) == "50%"
    pair.evaluate("(pair) => pair.scrollIntoView({block: 'center', behavior: 'instant'})")
    box = pair.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 50, steps=4)
    page.mouse.up()
    assert 78 <= float(pair.evaluate(split).rstrip("%")) <= 82
    page.keyboard.down("b")
    assert pair.evaluate(split) == "100%"
    page.keyboard.up("b")
    assert 78 <= float(pair.evaluate(split).rstrip("%")) <= 82
    page.locator("#inpaint-class input").focus()
    page.keyboard.down("b")
    assert pair.evaluate(split) != "100%"
    page.keyboard.up("b")


def test_what_will_be_repainted_lies_over_the_picture(page: Page, picture: Path) -> None:
    """Catches a drawing of a mask that is no more, one that ignores the edge, and a legend that is cut."""
    start_with(page, picture)
    page.get_by_role("button", name="What will be repainted").click()
    legend = page.locator("#inpaint-painter .legend")
    expect(legend).to_contain_text("The mask is empty")
    paint(page, (0.45, 0.4), (0.55, 0.5))
    expect(legend).to_contain_text("Teal: new")
    assert legend.evaluate("(node) => node.scrollWidth <= node.clientWidth || node.clientWidth === 0")
    drawing = overlay(page, "none yet")
    narrow = seen_mask(page).sum()
    put(page, "inpaint-grow", 20)
    overlay(page, drawing)
    wide = seen_mask(page).sum()
    assert wide > 1.3 * narrow
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(legend).to_contain_text("The mask is empty")
    assert not seen_mask(page).any()


def test_everything_can_be_undone(page: Page, picture: Path, tmp_path: Path) -> None:
    """Catches a mask lost under one stroke, an Undo that skips Invert, Clear or a loaded mask, a Ctrl+Z that reaches a
    field, and one in a field that reaches the mask."""
    start_with(page, picture)
    mask = np.zeros((96, 128), bool)
    mask[:, :64] = True
    Image.fromarray(mask).save(tmp_path / "m.png")
    open_file(page, tmp_path / "m.png", "Load mask")
    masked(page, "50% masked")
    paint(page, (0.9, 0.2), (0.9, 0.8))
    stroke = seen_mask(page)
    assert stroke[mask].all() and stroke[:, 110:].any() and not stroke[:, 70:100].any()
    press(page, "x")
    assert (seen_mask(page) == ~stroke).all()
    press(page, "Delete")
    masked(page, "Nothing masked yet")
    put(page, "inpaint-seed", 5)
    for expected in (~stroke, stroke, mask, ~mask & mask):
        press(page, "Control+z")
        assert (seen_mask(page) == expected).all()
    press(page, "Control+z")
    for expected in (mask, stroke, ~stroke):
        press(page, "Control+Shift+z")
        assert (seen_mask(page) == expected).all()
    expect(page.locator("#inpaint-seed input")).to_have_value("5")
    page.locator("#inpaint-seed input").focus()
    page.keyboard.press("Control+z")
    page.keyboard.press("e")
    assert (seen_mask(page) == ~stroke).all()
    expect(page.get_by_role("button", name="Brush")).to_have_attribute("aria-pressed", "true")


def test_tools_without_a_pointer(page: Page, picture: Path) -> None:
    """Catches a rectangle that cannot be laid by keys or by numbers, a brush that stays, keys that are not listed."""
    start_with(page, picture)
    canvas_box(page)
    press(page, "r", "ArrowDown", "ArrowRight", "ArrowRight", "Shift+ArrowRight", "Enter")
    rows, columns = np.nonzero(seen_mask(page))
    assert (rows.min(), rows.max()) == (36, 59) and columns.min() > 48 and columns.max() > 82
    press(page, "Delete")
    page.get_by_text("Rectangle by numbers").click()
    for name, value in {"left": 8, "top": 4, "width": 64, "height": 48}.items():
        page.get_by_label(f"Rectangle: {name}").fill(str(value))
    page.get_by_role("button", name="Mask it", exact=True).click()
    masked(page, "25% masked")
    expected = np.zeros((96, 128), bool)
    expected[4:52, 8:72] = True
    assert (seen_mask(page) == expected).all()
    size = page.locator("#inpaint-painter .size")
    before = size.inner_text()
    press(page, "]", "]")
    assert int(size.inner_text().split()[0]) > int(before.split()[0])
    press(page, "?")
    expect(page.locator("#inpaint-painter .keys")).to_contain_text("invert")
    press(page, "Escape")
    expect(page.locator("#inpaint-painter .keys")).to_be_hidden()
    press(page, "Tab")
    assert page.evaluate("document.activeElement.tagName") != "CANVAS", "Tab leads on"
    page.locator("#inpaint-class input").focus()
    expect(page.get_by_role("option").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("option")).to_have_count(0)
    assert not page.evaluate("document.querySelector('#inpaint-class').matches(':focus-within')"), "its list took Tab"


def test_a_stroke_that_is_given_up_leaves_nothing(page: Page, picture: Path) -> None:
    """Catches a rectangle that Escape, Undo or another tool ends half-way, and that goes on as a brush stroke."""
    start_with(page, picture)
    for tool, key in (("r", "Escape"), ("l", "e"), ("b", "Control+z"), ("r", "b")):
        press(page, tool)
        left, top, scale = canvas_box(page)
        page.mouse.move(left + 20 * scale, top + 20 * scale)
        page.mouse.down()
        page.mouse.move(left + 60 * scale, top + 40 * scale, steps=3)
        press(page, key)
        page.mouse.move(left + 100 * scale, top + 80 * scale, steps=3)
        page.mouse.up()
        masked(page, "Nothing masked yet")
        assert not seen_mask(page).any(), (tool, key)


def test_lasso_and_eraser(page: Page, picture: Path) -> None:
    """Catches a lasso that does not fill, an eraser that paints, and a zoom that shifts the mask."""
    start_with(page, picture)
    left, top, scale = canvas_box(page)
    press(page, "l")
    corners = [(20, 20), (100, 20), (100, 80), (20, 80)]
    page.mouse.move(left + 20 * scale, top + 20 * scale)
    page.mouse.down()
    for x, y in corners:
        page.mouse.move(left + x * scale, top + y * scale, steps=3)
    page.mouse.up()
    filled = seen_mask(page)
    assert filled[22:78, 22:98].all() and not filled[:18].any() and not filled[:, 103:].any()
    press(page, "e")
    page.mouse.move(left + 64 * scale, top + 48 * scale)
    page.mouse.wheel(0, -500)  # twice as large around the pointer
    page.mouse.down()
    page.mouse.up()
    press(page, "0")
    hole = filled & ~seen_mask(page)
    rows, columns = np.nonzero(hole)
    assert hole.any() and abs(rows.mean() - 47.5) < 1 and abs(columns.mean() - 63.5) < 1


def test_one_finger_paints_and_two_move(page: Page, picture: Path) -> None:
    """Catches a pinch that paints, and a finger that scrolls the page."""
    start_with(page, picture)
    left, top, scale = canvas_box(page)
    screen = page.context.new_cdp_session(page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": left + x * scale, "y": top + y * scale, "id": i} for i, (x, y) in enumerate(places)]
        screen.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (40, 40))
    touch("touchMove", (60, 40))
    touch("touchMove", (80, 40))
    touch("touchEnd")
    painted = seen_mask(page)
    assert painted[40, 40:80].all() and not painted[70:].any()
    touch("touchStart", (30, 80))
    touch("touchStart", (30, 80), (90, 80))
    touch("touchMove", (10, 80), (110, 80))
    touch("touchEnd")
    press(page, "0")
    assert (seen_mask(page) == painted).all()


def test_stop_and_bad_input_lose_nothing(page: Page, picture: Path, tmp_path: Path) -> None:
    """Catches a mask that is gone after Stop or after a file that cannot be opened, a bare "Error", and a painter that
    sends nothing any more once an upload was refused."""
    start_with(page, picture)
    page.click("#inpaint-start")
    expect(page.locator(".toast-body").last).to_contain_text("The mask is empty")
    paint(page, (0.45, 0.4), (0.55, 0.5))
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:3000])
    open_file(page, tmp_path / "cut.png")
    expect(page.locator(".toast-body").last).to_contain_text("damaged or cut short")
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    open_file(page, tmp_path / "small.png", "Load mask")
    expect(page.locator(".toast-body").last).to_contain_text("The mask has 8 x 8 pixels, the picture 128 x 96")
    page.route("**/upload*", lambda route: route.fulfill(status=429, body="Wait a bit."))
    paint(page, (0.1, 0.1), (0.2, 0.1))
    expect(page.get_by_test_id("toast-text").last).to_have_text("Wait a bit.")
    page.unroute("**/upload*")
    put(page, "inpaint-steps", 1000)
    put(page, "inpaint-count", 3)  # a run that is not over before the page has shown its first step
    page.click("#inpaint-start")
    status(page, re.compile("Step [1-9]"))
    page.click("#inpaint-stop")
    status(page, "Stopped after step")
    expect(page.locator("#inpaint-painter canvas")).to_be_visible()
    assert seen_mask(page).any()
    put(page, "inpaint-steps", 3)
    put(page, "inpaint-count", 1)
    mask = mask_from(recipes.read(inpaint(page, tmp_path, "a.png"), "inpaint"))
    assert 300 < mask.sum() < 5000 and mask[10, 19]


def test_a_mask_from_a_file_inverted_and_a_recipe(page: Page, picture: Path, tmp_path: Path) -> None:
    """Catches an inverted invert, and a recipe that forgets the mask or a control."""
    start_with(page, picture)
    mask = np.zeros((96, 128), bool)
    mask[30:60, 40:80] = True
    Image.fromarray(~mask).save(tmp_path / "m.png")
    open_file(page, tmp_path / "m.png", "Load mask")
    masked(page, "90% masked")
    page.get_by_role("button", name="Invert").click()
    assert (seen_mask(page) == mask).all()
    put(page, "inpaint-seed", 77)
    put(page, "inpaint-strength", 0.8)
    saved = inpaint(page, tmp_path, "a.png")
    assert (mask_from(recipes.read(saved, "inpaint")) == mask).all()

    page.reload()
    page.get_by_role("tab", name="Inpaint").click()
    assert (seen_mask(page) == mask).all(), "picture and mask are still there"
    open_file(page, picture)
    masked(page, "Nothing masked yet")
    page.set_input_files("#inpaint-recipe input[type=file]", saved)
    status(page, "Recipe loaded: seed 77. Press Inpaint for the same picture again")
    assert (seen_mask(page) == mask).all()
    again = inpaint(page, tmp_path, "b.png")
    assert Image.open(again).convert("RGB").tobytes() == Image.open(saved).convert("RGB").tobytes()


def test_a_picture_is_sent_into_a_tab_that_was_never_opened(page: Page) -> None:
    """Catches an empty page in its place, and a picture that cannot be painted on."""
    put(page, "generate-steps", 2)
    page.click("#generate-start")
    expect(page.locator("#generate-gallery img").first).to_be_visible()
    expect(page.locator("#generate-again")).to_be_enabled()
    page.click("#generate-send")
    expect(page.locator("#inpaint-start")).to_be_visible()
    left, top, scale = canvas_box(page, (32, 32))
    assert canvas_pixels(page).std() > 5, "the picture is seen"
    page.mouse.move(left + 16 * scale, top + 14 * scale)
    page.mouse.down()
    page.mouse.move(left + 16 * scale, top + 18 * scale)
    page.mouse.up()
    page.locator("#inpaint-preset").get_by_label("Fast").click()
    page.click("#inpaint-advanced > button")
    put(page, "inpaint-steps", 2)
    put(page, "inpaint-grow", 1)
    page.click("#inpaint-start")
    status(page, re.compile(r"\d+ steps in"))


def test_an_examples_mask_is_seen(page: Page) -> None:
    """Catches a mask that is used but not drawn, or drawn in another place; one stroke keeps it, and Undo, too."""
    page.get_by_role("tab", name="Inpaint").click()
    for number, (picture, mask_file) in enumerate(find_examples()):
        mask = np.asarray(Image.open(mask_file).convert("L")) > 127
        page.locator("#inpaint-examples .thumbnail-item").nth(number).click()
        masked(page, re.compile(f"^{100 * mask.mean():.0f}% masked$"))
        size = Image.open(picture).size
        canvas_box(page, size)
        seen = seen_mask(page, size)
        assert (seen != mask).mean() < 0.01
        press(page, "r", "ArrowDown", "Enter")
        assert (seen_mask(page, size)[mask]).mean() > 0.98
        press(page, "Control+z")
        assert (seen_mask(page, size) == seen).all()


def test_a_large_picture_is_painted_on_a_copy(page: Page, tmp_path: Path) -> None:
    """4000 x 3000: catches a canvas of twelve million pixels, a mask of fewer than 2048, and a stroke that hangs."""
    Image.linear_gradient("L").resize((4000, 3000)).convert("RGB").save(tmp_path / "large.png")
    page.get_by_role("tab", name="Inpaint").click()
    open_file(page, tmp_path / "large.png")
    left, top, scale = canvas_box(page, (4000, 3000))
    page.mouse.click(left + 500 * scale, top + 500 * scale)
    page.click("#inpaint-closer")  # of so small a part the model would see next to nothing
    expect(page.locator("#inpaint-closer")).to_be_hidden()
    page.click("#inpaint-advanced > button")
    expect(page.locator("#inpaint-area input")).to_have_value("Around the mask only")
    page.evaluate(FRAMES)
    page.mouse.move(left + 1000 * scale, top + 1500 * scale)
    page.mouse.down()
    page.mouse.move(left + 3000 * scale, top + 1500 * scale, steps=40)
    frames = page.evaluate("window.frames_seen")
    page.mouse.up()
    assert frames >= 10
    value = page.evaluate("window.mdtPainter.settled()")
    assert Image.open(value["mask"]["path"]).size == (2048, 1536)
    assert value["size"] == [4000, 3000]


def test_the_tab_on_a_phone(browser: Browser, url: str, picture: Path) -> None:
    """390 px wide: catches a control outside the page, and a target too small for a finger."""
    page = open_page(browser, url, {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True})
    start_with(page, picture)
    canvas_box(page)
    page.get_by_role("button", name="What will be repainted").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for control in page.locator("#inpaint-painter :is(button, input, summary)").all():
        if control.is_visible():
            box = control.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 390
            assert box["height"] >= 44, control.evaluate("(node) => node.outerHTML")
    assert page.errors == []
    page.context.close()
