"""The Training progress tab in a real browser: two runs side by side, one that is being trained, and broken ones."""

import colorsys
import io
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Request, expect

from app.common import recipes
from mdt_core.runs import Run
from tests.browser.conftest import make_tiny_pipeline, put, visit
from tests.browser.test_studio import STOP_AT

CLASSES = ["cat", "dog", "owl"]
SIDE = 16  # pixels of a sample


def colour(run: str, step: int, column: int, row: int) -> np.ndarray:
    """The one colour of a sample: its own for every run, step, class and seed."""
    hue = sum(map(ord, run)) * 0.31 + step * 0.017 + column * 0.29 + row * 0.13
    return np.array(colorsys.hsv_to_rgb(hue % 1, 0.7, 0.9)) * 255


def sheet(run: str, step: int) -> Image.Image:
    pixels = np.array([[colour(run, step, column, row) for column in range(3)] for row in range(2)])
    return Image.fromarray(pixels.repeat(SIDE, 0).repeat(SIDE, 1).astype(np.uint8))


def add_step(run: Run, step: int) -> None:
    run.log({"step": step, "loss": 1 / step, "images_per_second": 10.0})
    run.write_sample(step, sheet(run.name, step))


def start_run(folder: Path, *steps: int, total: int = 100) -> Run:
    run = Run(folder)
    training = {"steps": total, "batch_size": 8}
    run.write_config({"model": "MDTv2-S/2", "training": training, "samples_per_class": 2, "classes": CLASSES})
    for step in steps:
        add_step(run, step)
    return run


@pytest.fixture
def folder(runs: Path) -> Path:
    """The folder of runs that the app looks at, with two of them."""
    shutil.rmtree(runs, ignore_errors=True)
    start_run(runs / "second", 10, 100)
    run = start_run(runs / "first", 10, 40, 100)
    make_tiny_pipeline(run.folder / "pipeline")
    source = run.folder / "pipeline" / "transformer"
    run.write_checkpoint(40, lambda partial: shutil.copytree(source, partial / "transformer"))
    run.write_checkpoint(100, lambda partial: shutil.copytree(source, partial / "transformer"))
    return runs


def choose(page: Page, picker: str, name: str) -> None:
    page.mouse.move(0, 0)  # a tile under the mouse covers what is beside it
    page.click(f"#training-{picker} input")
    page.locator(f"#training-{picker}").get_by_role("option", name=name, exact=True).click()


def open_tab(page: Page, first: str, second: str = "none") -> None:
    page.get_by_role("tab", name="Training progress").click()
    expect(page.locator(".runs-view")).to_be_visible()
    choose(page, "first", first)
    choose(page, "second", second)
    expect(page.locator(".runs-view .run").first).to_contain_text(first)
    expect(page.locator(".runs-view .run")).to_have_count(1 if second == "none" else 2)


def slide(page: Page, *keys: str) -> None:
    page.locator("#training-slider input[type=range]").focus()
    for key in keys:
        page.keyboard.press(key)


def at(page: Page, run: int) -> Locator:
    """The words that say which step a run shows."""
    return page.locator(f"[data-words=at-{run}]")


def wait_for(page: Page, true: Callable[[], bool]) -> None:
    for _ in range(300):
        if true():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it did not happen within 30 seconds")


def shows(page: Page, run: str, panel: int, step: int) -> bool:
    """Whether the middles of a panel's six tiles have the colours of a step."""
    page.mouse.move(0, 0)
    tiles = page.locator(".runs-view .run").nth(panel).locator("i:not(.live)")
    boxes = tiles.evaluate_all("tiles => tiles.map((tile) => tile.getBoundingClientRect())")
    assert len(boxes) == 6
    screen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    middles = [screen.getpixel((int(box["x"] + box["width"] / 2), int(box["y"] + box["height"] / 2))) for box in boxes]
    places = [(column, row) for column in range(3) for row in range(2)]  # a class's two samples under each other
    wanted = [colour(run, step, *place) for place in places]
    return np.abs(np.subtract(middles, wanted)).max() <= 4


def test_two_runs_from_step_to_step(page: Page, folder: Path) -> None:
    """Catches panels that show another step than they say, cuttings of another class, and a play button that hangs."""
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url) if "/step_" in request.url else None)
    open_tab(page, "first", "second")
    expect(at(page, 0)).to_have_text("step 100")
    wait_for(page, lambda: shows(page, "first", 0, 100) and shows(page, "second", 1, 100))
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    slide(page, "ArrowLeft")
    expect(at(page, 0)).to_have_text("step 40")
    expect(at(page, 1)).to_have_text("step 10, the last drawn up to 40")
    wait_for(page, lambda: shows(page, "first", 0, 40) and shows(page, "second", 1, 10))
    expect(page.locator("[data-words=loss-0]")).to_have_text("0.0250")
    expect(page.locator("#training-checkpoint input")).to_have_value("first · step 40")

    slide(page, "End")
    expect(at(page, 0)).to_have_text("step 100")
    page.evaluate("""() => {
      const words = document.querySelector("[data-words=at-0]");
      window.seen = [];
      new MutationObserver(() => window.seen.push(words.textContent)).observe(words, {childList: true});
    }""")
    page.click("#training-play")
    expect(page.locator("#training-play")).to_contain_text("Pause")
    page.wait_for_function("window.seen.at(-1) === 'step 100' && window.seen.includes('step 10')")
    expect(page.locator("#training-play")).to_contain_text("Play")
    assert [*dict.fromkeys(page.evaluate("window.seen"))] == ["step 10", "step 40", "step 100"]
    assert len(fetched) == len(set(fetched)) >= 5  # each picture once; the tab opens with the shipped runs


def test_a_checkpoint_opens_in_generate(page: Page, folder: Path) -> None:
    """Catches a button that opens another step's checkpoint, and one that leaves the model as it was."""
    weights = folder / "first" / "checkpoints" / "step_00000100" / "transformer"
    file = next(weights.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    open_tab(page, "first")
    expect(page.locator("#training-checkpoint input")).to_have_value("first · step 100 · unreadable")
    expect(page.locator("#training-note")).to_contain_text("is damaged or cut short")
    expect(page.locator("#training-generate")).to_be_disabled()
    slide(page, "ArrowLeft")
    expect(page.locator("#training-generate")).to_be_enabled()
    page.click("#training-generate")
    expect(page.locator("#about")).to_contain_text("first @ 40")
    expect(page.locator("#generate-start")).to_be_visible()


def test_the_shipped_runs_from_step_to_step(page: Page) -> None:
    """Catches a strip of two pictures, one of another class than the list says, and keys and clicks that move nothing
    or leave the samples behind."""
    page.get_by_role("tab", name="Training progress").click()
    strip = page.locator(".checkpoint-strip")
    expect(strip.locator(".cells")).to_have_count(2)
    expect(strip.locator(".sample")).to_have_count(14)
    steps = ["50", "100", "200", "400", "800", "1,600", "3,200"]
    expect(strip.locator(".cells").first.locator("figcaption")).to_have_text(steps)
    expect(strip.locator(".at figcaption")).to_have_text(["3,200"] * 2)
    expect(page.locator(".graph h2")).to_have_text(["Loss", "KID (lower is better)"])
    expect(page.locator(".graph .wide .spike title")).to_have_text("14.77 at step 3,000")
    strip.focus()
    for key, step in (("ArrowLeft", "1,600"), ("Home", "50"), ("ArrowRight", "100")):
        page.keyboard.press(key)
        expect(strip.locator(".at figcaption")).to_have_text([step] * 2)
        expect(at(page, 1)).to_have_text(f"step {step}")
    strip.locator("figure").nth(4).click()
    expect(at(page, 0)).to_have_text("step 800")
    expect(page.get_by_role("slider", name="Training step")).to_have_attribute("aria-valuetext", "Step 800")
    page.fill("#training-class input", "thumbs")
    page.get_by_role("option", name="thumbs").click()
    expect(strip).to_contain_text("thumbs, as training drew it on its way")
    place = strip.locator(".sample").first.evaluate("node => node.style.backgroundPosition")
    assert place == f"{100 * 14 / 15:.4g}% 0%"  # the fifteenth of sixteen columns
    for control in page.locator("#training :is(input, button)").all():
        assert control.evaluate("node => node.ariaLabel || node.innerText || node.labels?.[0]?.innerText") not in (
            "",
            "Dropdown",
        )


def test_a_strip_of_my_class_and_seed(page: Page, folder: Path, tmp_path: Path) -> None:
    """Catches pictures of another class, seed or step than asked, a film that lacks some, and a button that hangs."""

    def render(steps: int) -> None:
        put(page, "training-steps", steps)
        page.click("#render-start")

    long = start_run(folder / "long", 1000)  # to draw with all its checkpoints takes a while
    shutil.copytree(folder / "first" / "pipeline", long.folder / "pipeline")
    source = folder / "first" / "checkpoints" / "step_00000040"
    for step in range(1000, 1020):
        long.write_checkpoint(step, lambda partial: shutil.copytree(source, partial, dirs_exist_ok=True))
    open_tab(page, "first", "second")
    expect(page.locator("#training-offer")).to_contain_text(
        "drawn with each of 2 checkpoints: models saved on the way; second kept none."
    )
    page.fill("#training-class input", "goldf")
    page.get_by_role("option", name="goldfish · 1", exact=True).click()
    page.fill("#training-seed input", "5")
    render(3)
    expect(page.locator("#render-status")).to_contain_text("goldfish, seed 5 · 2 pictures in")
    expect(page.locator(".checkpoint-strip figcaption")).to_have_text(["40", "100"])
    pictures = page.locator(".checkpoint-strip img")
    for picture, step in zip(pictures.all(), (40, 100), strict=True):
        wait_for(page, lambda picture=picture: picture.evaluate("picture => picture.naturalWidth") == 32)
        (tmp_path / "picture.png").write_bytes(page.request.get(picture.evaluate("picture => picture.src")).body())
        recipe = recipes.read(tmp_path / "picture.png")
        said = [recipe[key] for key in ("model", "class_name", "seed", "num_inference_steps")]
        assert said == [f"first @ {step}", "goldfish", 5, 3]
    slide(page, "ArrowLeft")
    expect(page.locator(".checkpoint-strip .at figcaption")).to_have_text("40")

    kept = ("training-strip", "Download strip", 2), ("training", "Download all classes", 3)
    for prefix, ready, frames in kept:
        with page.expect_download() as download:
            page.click(f"#{prefix}-download")
        opened = Image.open(download.value.path())
        assert (opened.format, opened.n_frames) == ("GIF", frames)
        expect(page.locator(f"#{prefix}-download")).to_have_text(ready)

    choose(page, "second", "long")
    expect(page.locator("#training-offer")).to_contain_text("drawn with 16 of 22 checkpoints, evenly chosen")
    page.evaluate(STOP_AT, ["render", "of 16 · "])
    render(100)
    expect(page.locator("#render-status")).to_contain_text("Stopped after")
    choose(page, "second", "second")
    expect(page.locator("#training-offer")).to_contain_text("second kept none")
    weights = folder / "first" / "checkpoints" / "step_00000100" / "transformer"
    file = next(weights.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    render(3)
    expect(page.locator("#render-status")).to_contain_text("1 drawn before · 1 cannot be read")
    expect(page.locator(".checkpoint-strip figure").last).to_contain_text("is damaged or cut short")
    expect(pictures).to_have_count(1)
    choose(page, "first", "second")
    expect(page.locator("#render-start")).to_be_disabled()


def test_the_disk_is_looked_at_for_the_tab_in_view_alone(page: Page, folder: Path) -> None:
    """Catches a change of tabs that asks the server for what nobody sees, a clock that goes on behind another tab, and
    one that stands still in its own."""
    asked: list[str] = []

    def note(request: Request) -> None:
        if request.method == "POST":
            asked.append(request.url)

    def rest(milliseconds: int) -> None:
        """Wait until nothing was asked for so long."""
        for _ in range(50):
            before = len(asked)
            page.wait_for_timeout(milliseconds)
            if len(asked) == before:
                return
        raise AssertionError("the page goes on asking")

    def go_to(tab: str) -> None:
        page.get_by_role("tab", name=tab).click()

    page.on("request", note)
    rest(1000)
    asked.clear()
    for tab in ("Inpaint", "Compare", "Walk", "Generate"):
        go_to(tab)
        page.wait_for_timeout(300)
    assert asked == []
    go_to("Training progress")
    wait_for(page, lambda: len(asked) > 2)  # its own look, and ticks
    page.click("#training-generate")
    page.locator("#generate-start").wait_for()
    rest(2500)  # longer than from tick to tick
    page.remove_listener("request", note)


def test_a_run_is_followed_while_it_is_trained(page: Page, folder: Path) -> None:
    """Catches a page that needs a reload, a slider that runs away from one, and an error when the run is gone."""
    run = start_run(folder / "growing", 1)
    go_on = threading.Event()

    def train() -> None:
        for step in (2, 4):
            add_step(run, step)
        go_on.wait(60)
        for step in (8, 16):
            add_step(run, step)

    training = threading.Thread(target=train)
    open_tab(page, "growing")
    expect(page.locator(".runs-view .state")).to_contain_text("training: 1 of 100 · 79 s left")
    training.start()
    expect(at(page, 0)).to_have_text("step 4")
    slide(page, "ArrowLeft")
    expect(at(page, 0)).to_have_text("step 2")
    go_on.set()
    training.join()
    expect(page.locator(".runs-view .state")).to_contain_text("training: 16 of 100")
    expect(at(page, 0)).to_have_text("step 2")
    slide(page, "End")
    expect(at(page, 0)).to_have_text("step 16")
    wait_for(page, lambda: shows(page, "growing", 0, 16))
    shutil.rmtree(folder / "growing")
    expect(page.locator(".runs-view .problem")).to_contain_text("There is no run of this name any more")
    choose(page, "first", "first")
    expect(at(page, 0)).to_have_text("step 100")


def test_broken_runs_and_runs_that_are_gone(page: Page, folder: Path) -> None:
    """Catches an empty page where a reason belongs, and one that does not come back to the runs there are."""
    (folder / "broken" / "samples").mkdir(parents=True)
    (folder / "broken" / "config.json").write_text('{"model": ')
    open_tab(page, "first", "broken")
    expect(page.locator(".runs-view .problem")).to_contain_text("config.json is damaged or half written")
    expect(at(page, 0)).to_have_text("step 100")
    shutil.rmtree(folder)
    expect(page.locator(".runs-view .problem")).to_have_count(2)
    assert page.evaluate("window.trainingProgress.next(2).slice(0, 1)") == [0]  # what the clock of Play does
    visit(page, page.url)
    page.get_by_role("tab", name="Training progress").click()
    expect(page.locator("#training-first input")).to_have_value("avatars-dit")  # the shipped ones are left
    expect(page.locator("#training-second input")).to_have_value("avatars-mdtv2")
    expect(page.locator("#training-empty")).not_to_be_visible()
