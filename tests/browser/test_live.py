"""Live in the browser, on a model whose steps are slow: few runs, the last value, nothing that waits, a fair turn."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from app.engine.engine import Engine
from app.ui import build, launch
from tests.browser.conftest import WAIT, open_page
from tests.helpers.stand_in_inpaint import InpaintingStandIn

STEP = 0.05  # seconds; a look is 10 of them


@pytest.fixture(scope="module")
def pipe() -> InpaintingStandIn:
    return InpaintingStandIn(seconds=STEP)


@pytest.fixture(scope="module")
def slow(pipe: InpaintingStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page on that model, which has told how fast it is."""
    engine = Engine({"shapes": "A"}, device="cpu", load=lambda _: pipe)
    engine.warm("shapes")
    demo = build(engine, tmp_path_factory.mktemp("runs"))
    _, address, _ = launch(demo, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield address
    demo.close()


@pytest.fixture
def visit(browser: Browser, slow: str, pipe: InpaintingStandIn) -> Iterator[Callable[[], Page]]:
    """Opens a fresh page on it."""
    opened = []

    def open_one() -> Page:
        opened.append(open_page(browser, slow))
        expect(opened[-1].locator("#generate-live input")).to_be_checked()  # a picture takes half a second
        return opened[-1]

    pipe.log.clear()
    pipe.drawn.clear()
    yield open_one
    for page in opened:
        page.context.close()
        assert page.errors == []


def wait_until_idle(pipe: InpaintingStandIn) -> None:
    """Until nothing was drawn for a while."""
    while True:
        before = len(pipe.log)
        time.sleep(20 * STEP)
        if len(pipe.log) == before and (not pipe.log or pipe.log[-1] == "closed"):
            return


def wait_until_more(pipe: InpaintingStandIn, before: int) -> None:
    """Until the log has more than so many entries: what the page shows of a quick look may pass between two glances."""
    until = time.monotonic() + WAIT / 1000
    while len(pipe.log) == before and time.monotonic() < until:
        time.sleep(STEP)
    assert len(pipe.log) > before


def drag(page: Page, control: str, moves: int) -> None:
    """Move a slider so many times within a second, and hold it."""
    box = page.locator(f"#{control} input[type=range]").bounding_box()
    across = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 10, across)
    page.mouse.down()
    for i in range(moves):
        page.mouse.move(box["x"] + 10 + (i + 1) * 3, across)
        time.sleep(1 / moves)


def test_a_slider_that_moves_is_followed_and_drawn_when_let_go(
    visit: Callable[[], Page], pipe: InpaintingStandIn
) -> None:
    """Catches a run for each of thirty moves, a last value that is never shown, and a look that is taken for the
    result."""
    page = visit()
    page.fill("#generate-count input[type=number]", "1")
    drag(page, "generate-scale", 30)
    status = page.locator("#generate-status")
    expect(status).to_contain_text("A quick look: 10 steps")
    wait_until_idle(pipe)
    assert pipe.log.count("start") < 30 and pipe.log.count("start") == pipe.log.count("closed")
    assert pipe.log[-2] == "step 9"
    expect(page.locator("#generate-gallery")).to_be_hidden()
    page.mouse.up()
    expect(status).to_contain_text("25 steps in")
    wait_until_idle(pipe)
    scale = float(page.input_value("#generate-scale input[type=number]"))
    assert scale > 3.8 and pipe.drawn[-1] == (scale, 25) and pipe.drawn[-2] == (scale, 10)
    expect(page.locator("#generate-gallery img").first).to_be_visible()


def test_generate_draws_the_look_with_all_steps(visit: Callable[[], Page], pipe: InpaintingStandIn) -> None:
    """Catches a press that waits behind what is drawn live, and other pictures than those of the look."""
    page = visit()
    page.fill("#generate-seed input", "77")
    page.keyboard.press("Tab")
    expect(page.locator("#generate-status")).to_contain_text("A quick look")
    wait_until_idle(pipe)
    assert {steps for _, steps in pipe.drawn} == {10}  # a field that is left is no slider that is let go
    page.locator("#generate-keep-seed input").uncheck()
    page.click("#generate-start")
    expect(page.locator("#generate-status")).to_contain_text("25 steps in")
    assert page.input_value("#generate-seed input") == "77"
    wait_until_idle(pipe)
    assert pipe.drawn[-1][1] == 25


def test_two_visitors_who_draw_live_take_turns(visit: Callable[[], Page], pipe: InpaintingStandIn) -> None:
    """Catches a visitor who keeps the model for as long as they move a slider."""
    one, other = visit(), visit()
    drag(one, "generate-scale", 20)
    drag(other, "generate-scale", 20)
    for page in (one, other):
        expect(page.locator("#generate-status")).to_contain_text("A quick look")
    wait_until_idle(pipe)
    assert pipe.log.count("start") == pipe.log.count("closed") < 40


def test_a_stroke_is_drawn_on_the_canvas(visit: Callable[[], Page], pipe: InpaintingStandIn, tmp_path: Path) -> None:
    """Catches a canvas that is taken from the hand, a look that replaces the mask, and a stroke that nobody draws."""
    page = visit()
    page.get_by_role("tab", name="Inpaint").click()
    page.locator("#inpaint-live input").check()
    page.locator("#inpaint-examples button").first.click()
    canvas = page.locator("#inpaint-painter canvas")
    expect(page.locator("#inpaint-painter")).to_contain_text("% masked")
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def stroke(dy: int) -> None:
        page.mouse.move(middle[0] - 40, middle[1] + dy)
        page.mouse.down()
        page.mouse.move(middle[0] + 40, middle[1] + dy, steps=4)
        page.mouse.up()

    before = canvas.screenshot()
    stroke(0)
    status = page.locator("#inpaint-status")
    expect(status).to_contain_text("A quick look")
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    looked = canvas.screenshot()
    assert looked != before
    drawn = len(pipe.log)
    stroke(30)
    wait_until_more(pipe, drawn)
    expect(status).to_contain_text("A quick look")
    expect(canvas).to_be_visible()
    wait_until_idle(pipe)
    expect(page.get_by_label("Undo")).to_be_enabled()
    page.locator("#inpaint-live input").uncheck()
    drawn = len(pipe.log)
    stroke(60)
    time.sleep(10 * STEP)
    assert len(pipe.log) == drawn
