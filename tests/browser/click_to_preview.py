"""How long a visitor waits for the first preview: the app on the shipped model, in headless Chromium.

    python -m tests.browser.click_to_preview --clicks 12

A run of the page's own settings (four images, 25 steps) for each click; the clock runs in the page, from the click to
the first new picture in the stage, and to the frame in which it is painted.
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

from playwright.sync_api import Page, sync_playwright

from tests.browser.conftest import CHROMIUM, FLAGS, ROOT, WAIT

CLICK = """() => new Promise((done) => {
  const images = () => [...document.querySelectorAll("#generate-stage img")];
  const before = new Set(images().map((img) => img.src));
  const start = performance.now();
  const watch = new MutationObserver(() => {
    const fresh = images().find((img) => img.src && !before.has(img.src));
    if (!fresh) return;
    watch.disconnect();
    const changed = performance.now() - start;
    fresh.decode().catch(() => {}).then(() => requestAnimationFrame(() => done([changed, performance.now() - start])));
  });
  watch.observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ["src"]});
  document.querySelector("#generate-start").click();
})"""


def measure(page: Page, clicks: int) -> list[tuple[float, float, float]]:
    """(first new preview, painted, whole run) of each click, in milliseconds."""
    found = []
    for _ in range(clicks):
        start = time.perf_counter()
        changed, painted = page.evaluate(CLICK)
        page.wait_for_selector("#generate-start", state="visible", timeout=WAIT)
        page.wait_for_function("document.querySelector('#generate-status').innerText.includes('steps in')")
        found.append((changed, painted, 1000 * (time.perf_counter() - start)))
        page.wait_for_timeout(1000)
    return found


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
            found = measure(page, clicks + 2)[2:]  # the first fill caches
            browser.close()
    finally:
        server.terminate()
        server.wait(20)
    rows = {}
    for name, values in zip(("changed", "painted", "run"), zip(*found, strict=True), strict=True):
        rows[name] = [round(x) for x in (statistics.median(values), min(values), max(values))]
        print(f"{name}: {rows[name][0]} ms ({rows[name][1]} to {rows[name][2]})")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
