"""How long a visitor waits: for the first preview, for the finished pictures, for a look at a slider or a stroke.

    python -m tests.browser.click_to_preview --clicks 12

The app on the shipped model, in headless Chromium, with the page's own settings: four images, the default preset. For
each click the clock runs in the page, to the first new picture in the stage, to the frame in which it is painted, and
to the frame in which all four finished pictures are. Then with Live on, from a move of a slider to its first preview
and to its last step; and on the Inpaint tab, with the first example and the preset "Fast", from the end of a stroke.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence

from playwright.sync_api import Page, sync_playwright

from tests.browser.conftest import CHROMIUM, FLAGS, ROOT, WAIT

CLOCK = """(begin) => new Promise((done) => {
  const shown = (where) => [...document.querySelectorAll(where)].filter((image) => image.offsetParent && image.src);
  const painted = (images) => Promise.all(images.map((image) => image.decode().catch(() => {})))
    .then(() => new Promise(requestAnimationFrame)).then(() => performance.now() - start);
  const before = new Set(shown("#generate-result img").map((image) => image.src));
  const fresh = (where) => shown(where).filter((image) => !before.has(image.src));
  const times = {};
  const watch = new MutationObserver(() => {
    const [stage, gallery] = [fresh("#generate-stage img"), fresh("#generate-gallery .grid-container img")];
    if (stage.length && !times.changed) {
      times.changed = performance.now() - start;
      times.painted = painted(stage);
    }
    const status = document.querySelector("#generate-status").innerText;
    times.begun ||= status.includes("Step 1 ");
    if (begin === "click" ? gallery.length < 4 : !times.begun || !status.includes("A quick look")) return;
    watch.disconnect();
    Promise.all([times.painted, painted(gallery)]).then(([first, last]) => done([times.changed, first, last]));
  });
  watch.observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true});
  const start = performance.now();
  if (begin === "click") document.querySelector("#generate-start").click();
  else {
    const slider = document.querySelector("#generate-scale input[type=range]");
    slider.value = Number(slider.value) + (Number(slider.value) < 5 ? 0.5 : -0.5);
    slider.dispatchEvent(new Event("input", {bubbles: true}));
  }
})"""

# From the end of the next stroke, to the first preview of it and to its last step, both painted.
STROKE = """() => {
  window.looked = new Promise((done) => {
    let start, first;
    const painted = async () => {
      await window.mdtPainter.settled();
      await new Promise(requestAnimationFrame);
      return performance.now() - start;
    };
    const watch = new MutationObserver(() => {
      const status = document.querySelector("#inpaint-status").innerText;
      if (status.includes("Step ")) first ||= painted();
      if (!first || !status.includes("A quick look")) return;
      watch.disconnect();
      Promise.all([first, painted()]).then(done);
    });
    window.addEventListener("pointerup", () => {
      start = performance.now();
      watch.observe(document.body, {subtree: true, childList: true, characterData: true});
    }, {once: true});
  });
}"""


def measure(page: Page, begin: str, times: int) -> list[tuple[float, float, float]]:
    """(first new preview, painted, all of it painted) of each beginning, "click" or "move", in milliseconds."""
    found = []
    for _ in range(times):
        found.append(page.evaluate(CLOCK, begin))
        page.wait_for_selector("#generate-start", state="visible", timeout=WAIT)
        page.wait_for_timeout(1000)
    return found


def measure_strokes(page: Page, times: int) -> list[tuple[float, float]]:
    """(first preview, last step) after each stroke over a hole that grows, in milliseconds."""
    page.get_by_role("tab", name="Inpaint").click()
    page.locator("#inpaint-examples button.thumbnail-item").first.click()
    page.locator("#inpaint-preset").get_by_label("Fast").click()
    page.locator("#inpaint-live input").check()
    page.wait_for_timeout(5000)
    box = page.locator("#inpaint-painter canvas").bounding_box()
    found = []
    for i in range(times):
        page.evaluate(STROKE)
        x, y = box["x"] + box["width"] * (0.4 + 0.2 * i / times), box["y"] + box["height"] / 2
        page.mouse.move(x, y - 20)
        page.mouse.down()
        page.mouse.move(x, y + 20, steps=8)
        page.mouse.up()
        found.append(page.evaluate("() => window.looked"))
        page.wait_for_timeout(1000)
    return found


def tell(name: str, found: Sequence[Sequence[float]], columns: Sequence[str]) -> dict[str, list[int]]:
    """Median, least and most of each column, printed."""
    rows = {}
    for column, values in zip(columns, zip(*found, strict=True), strict=True):
        row = rows[f"{name}: {column}"] = [round(x) for x in (statistics.median(values), min(values), max(values))]
        print(f"{name}: {column} {row[0]} ms ({row[1]} to {row[2]})")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.click_to_preview", description=__doc__)
    parser.add_argument("--clicks", type=int, default=12)
    clicks = parser.parse_args().clicks
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "app.py", "--device", "cpu", "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ.copy())
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
            page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            page.goto(url)
            page.wait_for_selector("#generate-start")
            page.wait_for_timeout(10_000)  # the model is warm by then
            page.locator("#generate-live input").uncheck()
            columns = ("first preview", "painted", "finished")
            rows = tell("click", measure(page, "click", clicks + 2)[2:], columns)  # the first fill caches
            page.locator("#generate-live input").check()
            rows |= tell("Live", measure(page, "move", clicks + 2)[2:], columns)
            rows |= tell("stroke", measure_strokes(page, clicks + 2)[2:], ("first preview", "finished"))
            browser.close()
    finally:
        server.terminate()
        server.wait(20)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
