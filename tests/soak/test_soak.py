"""Visitors who generate, inpaint, cancel, vanish, reload and send nonsense: afterwards everything is as it was.

Memory, threads, open files and temporary files are what they were before, and a picture comes within its usual time.
CI does so for a minute, and `make soak` for an hour.
"""

import gc
import io
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gradio.utils import get_upload_folder
from PIL import Image

from app.engine.engine import Engine
from app.hosting import serving
from app.ui import build, launch
from tests.helpers.stand_in_inpaint import InpaintingStandIn

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
VISITORS = 12
API = "gradio_api"


class Visitor:
    """Somebody with an address of their own."""

    def __init__(self, url: str, number: int):
        self.url, self.dice = url, random.Random(number)
        self.http = httpx.Client(timeout=60, headers={"X-Forwarded-For": f"203.0.113.{number}"})

    def ask(self, name: str, **values: object) -> str:
        answer = self.http.post(f"{self.url}{API}/call/v2/{name}", json=values)
        answer.raise_for_status()
        return answer.json()["event_id"]

    def follow(self, name: str, event: str) -> Iterator[str]:
        with self.http.stream("GET", f"{self.url}{API}/call/{name}/{event}") as answer:
            yield from answer.iter_lines()

    def finish(self, name: str, event: str) -> list:
        """The files of a run."""
        lines = list(self.follow(name, event))
        assert "event: complete" in lines, lines
        return json.loads(lines[lines.index("event: complete") + 1].removeprefix("data: "))[0]

    def generate(self) -> None:
        seed = self.dice.randrange(4)
        (file,) = self.finish("generate", self.ask("generate", class_label="square", seed=seed, num_inference_steps=3))
        assert self.http.get(f"{self.url}{API}/file={file['path']}").headers["content-type"] == "image/png"

    def inpaint(self) -> None:
        picture, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64))
        mask.paste(255, (16, 16, 48, 48))
        pictures, files = [picture, mask], []
        for picture in pictures:
            data = io.BytesIO()
            picture.save(data, "PNG")
            sent = self.http.post(f"{self.url}{API}/upload", files={"files": ("a.png", data.getvalue())})
            files.append({"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}})
        asked = {"image": files[0], "mask": files[1], "method": "repaint", "num_inference_steps": 2}
        assert len(self.finish("inpaint", self.ask("inpaint", **asked))) == 1

    def vanish(self) -> None:
        event = self.ask("generate", class_label="square", num_inference_steps=1000, sampler="ddpm", num_images=8)
        next(self.follow("generate", event))  # closed here, with its connection

    def cancel(self) -> None:
        event = self.ask("generate", class_label="square", num_inference_steps=1000, sampler="ddpm")
        for line in self.follow("generate", event):
            if line.startswith("event: complete"):
                return
            asked = {"session_hash": event, "fn_index": generate_index(self.http, self.url), "event_id": event}
            self.http.post(f"{self.url}{API}/cancel", json=asked)

    def reload(self) -> None:
        assert self.http.get(self.url).status_code == self.http.get(f"{self.url}config").status_code == 200

    def nonsense(self) -> None:
        for data in ([], [1] * 99, {"path": "/etc/passwd"}, "x" * 100_000, None):
            answer = self.http.post(f"{self.url}{API}/queue/join", json={"data": data, "fn_index": 999})
            assert answer.status_code >= 400 and len(answer.content) < 2000

    def act(self) -> None:
        actions: list[Callable] = [self.generate, self.inpaint, self.vanish, self.cancel, self.reload, self.nonsense]
        self.dice.choice(actions)()


def generate_index(http: httpx.Client, url: str) -> int:
    """Of the endpoint among the page's events."""
    events = http.get(f"{url}config").json()["dependencies"]
    return next(event["id"] for event in events if event["api_name"] == "generate")


def measure(engine: Engine) -> dict[str, float]:
    """What must not grow: MB of memory, threads, open files, and temporary files; once nobody waits any more."""
    end = time.monotonic() + 30
    while engine.turns.busy and time.monotonic() < end:
        time.sleep(0.05)
    assert not engine.turns.busy
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "threads": threading.active_count(),
        "open files": len(os.listdir("/proc/self/fd")),
        "temporary files": sum(len(names) for *_, names in os.walk(get_upload_folder())),
    }


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures by /proc")
def test_after_many_visitors_everything_is_as_it_was() -> None:
    """Catches a leak of whatever kind, and a queue that somebody who left still stands in.

    The first crowd fills what is kept for good (sessions, pools of threads, the heap); the second may add nothing.
    """
    engine = Engine({"a": "A"}, device="cpu", load=lambda _: InpaintingStandIn(seconds=0.01))
    demo = build(engine, Path("runs"))
    _, url, _ = launch(demo, serving.Serving(), prevent_thread_lock=True, quiet=True)
    try:
        first = Visitor(url, 99)
        for seed in range(4):  # every file that the visitors will make
            first.finish("generate", first.ask("generate", class_label="square", seed=seed, num_inference_steps=3))
        first.inpaint()
        usual = quickest(first.generate)
        visit(url, SECONDS / 2)
        before = measure(engine)
        visit(url, SECONDS / 2)
        after = measure(engine)
        at_last = quickest(first.generate)
        print(f"before {before}, after {after}; a picture took {usual:.2f} s at first, {at_last:.2f} s at last")
        assert at_last < 3 * usual + 1
        assert after["memory"] < before["memory"] + 80 + SECONDS / 60, (before, after)
        assert after["threads"] <= before["threads"] + 4, (before, after)
        assert after["open files"] <= before["open files"] + 8, (before, after)
        assert after["temporary files"] == before["temporary files"], (before, after)
    finally:
        demo.close()


def visit(url: str, seconds: float) -> None:
    """Visitors do what visitors do for so long. Raises what went wrong for one of them."""
    end = time.monotonic() + seconds

    def act(number: int) -> None:
        visitor = Visitor(url, number)
        while time.monotonic() < end:
            visitor.act()
        visitor.http.close()

    with ThreadPoolExecutor(VISITORS) as crowd:
        for each in [crowd.submit(act, number) for number in range(VISITORS)]:
            each.result()


def quickest(call: Callable[[], object]) -> float:
    """Seconds, of three calls: what else the machine does counts little."""
    taken = []
    for _ in range(3):
        start = time.monotonic()
        call()
        taken.append(time.monotonic() - start)
    return min(taken)
