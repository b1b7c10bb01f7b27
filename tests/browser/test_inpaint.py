"""A visitor's day on the Inpaint tab, in a real browser with a real (tiny, untrained) model."""

import base64
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from app.common import recipes
from app.inpaint.request import mask_from

PICTURE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
PASTE = """(data) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "pasted.png", {type: "image/png"}));
  document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true}));
}"""


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    Image.fromarray(PICTURE).save(path)
    return path


def status(page: Page, text: str | re.Pattern) -> None:
    """Wait for a status."""
    expect(page.locator("#inpaint-status")).to_contain_text(text)


def put(page: Page, control: str, value: float) -> None:
    """Type a number into a slider's or number's field."""
    page.fill(f"#inpaint-{control} input[type=number]", str(value))
    page.keyboard.press("Tab")


def open_file(page: Page, file: Path, button: str = "Open picture") -> None:
    """Through the button's file dialog."""
    page.set_input_files(f"input[data-testid='{button}-upload-button']", file)


def start_with(page: Page, picture: Path) -> None:
    """The tab, with a picture opened and quick settings."""
    page.get_by_role("tab", name="Inpaint").click()
    open_file(page, picture)
    status(page, "Paint over")
    page.locator("#inpaint-preset").get_by_label("Fast").click()
    put(page, "steps", 4)
    put(page, "grow", 3)
    put(page, "feather", 2)


def paint(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A stroke with the mouse, between points given in parts of the canvas."""
    canvas = page.locator("#inpaint-editor canvas").first
    expect(canvas).to_be_visible()
    page.wait_for_timeout(1500)  # the editor has drawn the picture
    box = canvas.bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=6)
    page.mouse.up()
    page.wait_for_timeout(500)


def inpaint(page: Page, tmp_path: Path, name: str) -> Path:
    """Press Inpaint, wait for the result, save it."""
    page.click("#inpaint-start")
    status(page, re.compile(r"\d+ steps in"))
    expect(page.locator("#inpaint-slider img").first).to_be_visible()
    with page.expect_download() as download:
        page.click("#inpaint-save")
    download.value.save_as(tmp_path / name)
    return tmp_path / name


def near(mask: np.ndarray, reach: int) -> np.ndarray:
    """All pixels within a square of the mask."""
    padded = np.pad(mask, reach)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))
    return windows.any((2, 3))


def test_the_tab_fits_without_scrolling(page: Page) -> None:
    """Catches an Inpaint button below the fold at 1280 x 800, and a page wider than its window."""
    page.get_by_role("tab", name="Inpaint").click()
    box = page.locator("#inpaint-start").bounding_box()
    assert box["y"] + box["height"] <= 800
    box = page.locator("#inpaint-feather").bounding_box()
    assert box["y"] + box["height"] <= 800
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_a_method_chosen_by_hand_brings_its_steps(page: Page) -> None:
    """Catches RePaint with the steps of MDT, and a preset that stays chosen beside it."""
    page.get_by_role("tab", name="Inpaint").click()
    page.click("#inpaint-method input")
    page.get_by_role("option", name="RePaint").click()
    expect(page.locator("#inpaint-steps input[type=number]")).to_have_value("50")
    expect(page.locator("#inpaint-preset input:checked")).to_have_count(0)


def test_paint_run_compare_and_paint_on(page: Page, picture: Path, tmp_path: Path) -> None:
    """Catches a mask that is shifted, pixels that change outside it, and a variant that cannot be painted on."""
    start_with(page, picture)
    paint(page, (0.45, 0.4), (0.55, 0.5))
    page.get_by_label("What will be repainted").click()
    expect(page.locator("#inpaint-footprint img")).to_be_visible()
    expect(page.locator("#inpaint-editor")).to_be_hidden()
    put(page, "count", 2)
    first = inpaint(page, tmp_path, "first.png")
    recipe = recipes.read(first, "inpaint")
    mask = mask_from(recipe)
    assert mask.shape == (96, 128)
    rows, columns = np.nonzero(mask)
    assert 20 < rows.mean() < 70
    assert 40 < columns.mean() < 90, "the stroke went through the middle"
    pixels = np.asarray(Image.open(first).convert("RGB"))
    changed = (pixels != PICTURE).any(-1)
    assert changed[mask].mean() > 0.9
    assert not changed[~near(mask, 3)].any()

    page.locator("#inpaint-variants .thumbnail-item").nth(1).click()
    expect(page.locator("#inpaint-save")).to_contain_text("seed 1")
    page.click("#inpaint-use")
    status(page, "This is the picture now")
    put(page, "count", 1)
    paint(page, (0.4, 0.2), (0.45, 0.2))
    second = inpaint(page, tmp_path, "second.png")
    again = np.asarray(Image.open(second).convert("RGB"))
    both = mask | mask_from(recipes.read(second, "inpaint"))
    assert (again != PICTURE).any(-1)[both].mean() > 0.9
    assert not (again != PICTURE).any(-1)[~near(both, 3)].any()


def test_stop_and_bad_input_lose_nothing(page: Page, picture: Path, tmp_path: Path) -> None:
    """Catches a mask that is gone after Stop or after a file that cannot be opened, and a bare "Error"."""
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
    put(page, "steps", 1000)
    put(page, "count", 8)  # a run that is not over before the page has shown its first step
    page.click("#inpaint-start")
    status(page, re.compile("Step [1-9]"))
    page.click("#inpaint-stop")
    status(page, "Stopped after step")
    expect(page.locator("#inpaint-editor canvas").first).to_be_visible()
    put(page, "steps", 3)
    put(page, "count", 1)
    mask = mask_from(recipes.read(inpaint(page, tmp_path, "a.png"), "inpaint"))
    assert 300 < mask.sum() < 5000


def test_a_mask_from_a_file_inverted_and_a_recipe(page: Page, picture: Path, tmp_path: Path) -> None:
    """Catches an inverted invert, and a recipe that forgets the mask or a control."""
    start_with(page, picture)
    mask = np.zeros((96, 128), bool)
    mask[30:60, 40:80] = True
    Image.fromarray(~mask).save(tmp_path / "m.png")
    open_file(page, tmp_path / "m.png", "Load mask")
    page.wait_for_timeout(2500)
    page.click("#inpaint-invert")
    page.wait_for_timeout(2500)
    put(page, "seed", 77)
    put(page, "strength", 0.8)
    saved = inpaint(page, tmp_path, "a.png")
    assert (mask_from(recipes.read(saved, "inpaint")) == mask).all()

    page.reload()
    page.get_by_role("tab", name="Inpaint").click()
    open_file(page, picture)
    status(page, "Paint over")
    page.set_input_files("#inpaint-recipe input[type=file]", saved)
    status(page, "Recipe loaded: seed 77. Press Inpaint for the same picture again")
    page.wait_for_timeout(2500)
    again = inpaint(page, tmp_path, "b.png")
    assert Image.open(again).convert("RGB").tobytes() == Image.open(saved).convert("RGB").tobytes()


def test_a_picture_is_pasted_and_one_is_sent_from_generate(page: Page, picture: Path) -> None:
    """Catches a paste that goes nowhere, and a hidden tab that does not get its picture."""
    page.get_by_role("tab", name="Inpaint").click()
    page.evaluate(PASTE, base64.b64encode(picture.read_bytes()).decode())
    status(page, "Paint over")
    expect(page.locator("#inpaint-editor canvas").first).to_be_visible()
    page.get_by_role("tab", name="Generate").click()
    page.fill("#generate-steps input[type=number]", "2")
    page.keyboard.press("Tab")
    page.click("#generate-start")
    expect(page.locator("#generate-gallery img").first).to_be_visible()
    expect(page.locator("#generate-again")).to_be_enabled()
    page.click("#generate-send")
    expect(page.locator("#inpaint-start")).to_be_visible()
    paint(page, (0.48, 0.45), (0.52, 0.55))
    page.locator("#inpaint-preset").get_by_label("Fast").click()
    put(page, "steps", 2)
    put(page, "grow", 1)
    page.click("#inpaint-start")
    status(page, re.compile(r"\d+ steps in"))
