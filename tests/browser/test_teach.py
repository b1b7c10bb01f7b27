"""The Teach tab in a real browser: six pictures are dropped, learnt from, seen to come, stopped and gone on with."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import open_page, put, visit
from tests.browser.test_every_tab import AXE, PHONE, check, open_tab
from train.teach import process

STEPS = 20_000  # more than are waited for


def step(page: Page) -> int:
    """The step that the status line names."""
    found = re.search(r"step ([\d,]+) of", page.locator("#teach-status").inner_text())
    return int(found[1].replace(",", "")) if found else 0


@pytest.fixture
def teaching(runs: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing was taught before, and what is taught ends with the test."""
    monkeypatch.setenv("TMPDIR", str(temporary))
    shutil.rmtree(runs, ignore_errors=True)
    yield
    while run := process.running_now():
        process.stop(run)
        time.sleep(0.5)


@pytest.fixture
def phone(browser: Browser, url: str) -> Iterator[Page]:
    """Dark, until somebody turns on the light and loads the page again."""
    page = open_page(browser, url, PHONE | {"color_scheme": "dark", "reduced_motion": "reduce"})
    page.is_phone = True
    yield page
    page.context.close()
    assert page.errors == []


def look_at(page: Page, state: str) -> None:
    """What can be seen and reached; see test_every_tab."""
    page.add_script_tag(content=AXE)
    check(page, state)


@pytest.mark.slow
def test_six_pictures_become_a_class(phone: Page, teaching: None, tmp_path: Path) -> None:
    """Catches a button that starts nothing, a page that does not see the samples come, a stop that loses what was
    learnt, a page loaded again that does not find the run, a model that opens without its new class, and on the way
    what cannot be read or reached on a phone."""
    page = phone
    files = []
    for i in range(6):
        files.append(tmp_path / f"{i}.png")
        Image.new("RGB", (40, 32), (40 * i, 200 - 30 * i, 90)).save(files[-1])
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:40])
    open_tab(page, "Teach")
    page.set_input_files("#teach-drop-0 input[type=file]", [*files, broken])
    expect(page.locator(".pairs figure")).to_have_count(6)
    expect(page.locator(".pairs img")).to_have_count(12)
    expect(page.locator(".refused")).to_contain_text("broken.png")
    expect(page.locator("#teach-time")).to_contain_text("A step takes")

    page.click("#teach-start")
    expect(page.locator(".toast-body.error")).to_contain_text("Give the class of these pictures a name")
    page.click(".toast-close")
    page.fill("#teach-name-0 :is(input, textarea)", "Blots")
    page.click("#teach-advanced > button")
    put(page, "teach-steps", STEPS)
    put(page, "teach-batch", 2)
    page.locator("#teach-keep input").uncheck()
    page.click("#teach-start")
    expect(page.locator("#teach-stop")).to_be_visible()
    expect(page.locator("#teach-stage .stage figcaption").first).to_have_text("Blots")
    expect(page.locator(".teach-way figcaption").first).to_contain_text("step ")
    look_at(page, "while it learns, in the dark")
    page.click("#teach-stop")
    expect(page.locator("#teach-go-on")).to_be_visible()
    expect(page.locator("#teach-status")).to_contain_text("Stopped")
    stopped = step(page)
    assert 0 < stopped < STEPS

    page.emulate_media(color_scheme="light")
    visit(page, page.url)  # ?tab=teach
    page.locator("#teach-run input").click()
    page.get_by_role("option", name="taught-blots").click()
    page.click("#teach-go-on")
    expect(page.locator("#teach-status")).to_contain_text("Learning")
    page.wait_for_function(
        "(before) => Number(/step ([\\d,]+) of/.exec(document.querySelector('#teach-status').innerText)?.[1]"
        ".replace(',', '')) > before",
        arg=stopped,
    )
    look_at(page, "while it learns, in the light")
    page.click("#teach-watch")
    expect(page.locator(".runs-view .run")).to_contain_text("taught-blots")
    open_tab(page, "Teach")
    page.click("#teach-stop")
    expect(page.locator("#teach-status")).to_contain_text("Stopped")
    look_at(page, "when it was stopped")
    page.click("#teach-generate")
    expect(page.locator("#about")).to_contain_text("taught-blots @")
    expect(page.locator("#generate-classes")).to_contain_text("Blots")
    page.click("#generate-start")
    expect(page.locator("#generate-gallery .thumbnail-lg").first).to_contain_text("Blots")
