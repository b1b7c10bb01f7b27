"""A real Chromium on the real app: one server for all browser tests, with a tiny model and the shipped one."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from playwright.sync_api import Browser, Page, expect, sync_playwright

from mdt_core.pipeline.parts import IMAGENET_CLASSES
from mdt_core.pipeline.pipeline import MDTPipeline
from mdt_core.transformer import MDTv2

ROOT = Path(__file__).parents[2]
WAIT = 120_000  # milliseconds; a busy machine is slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-gpu",  # no drawing of OpenGL in software either
    "--disable-software-rasterizer",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


LAPTOP = {"viewport": {"width": 1280, "height": 800}}

expect.set_options(timeout=WAIT)


def make_tiny_pipeline(folder: Path) -> None:
    """An untrained MDTv2 with ImageNet's thousand classes and 32 px pictures; a step takes milliseconds."""
    torch.manual_seed(0)
    transformer = MDTv2(
        sample_size=8,
        in_channels=4,
        num_classes=1000,
        patch_size=2,
        hidden_size=32,
        depth=4,
        num_heads=2,
        decoder_layers=2,
    )
    for parameter in transformer.parameters():  # a fresh model puts out zeros: let it do something
        if parameter.requires_grad and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    vae = AutoencoderKL(
        latent_channels=4,
        block_out_channels=(16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
    )
    pipe = MDTPipeline(transformer, vae, id2label=json.loads(IMAGENET_CLASSES.read_text()))
    pipe.fit_preview()
    pipe.save_pretrained(folder)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of training runs that the app looks at; empty unless a test writes one."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server has its temporary files, and the lock of what it teaches."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory, runs: Path, temporary: Path) -> Iterator[str]:
    """The address of `python app.py --no-live --model tiny --runs RUNS`: a quick machine would draw at every change."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_pipeline(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder.parent / "log").open("w+")
    options = {"--model": folder, "--runs": runs, "--port": port, "--device": "cpu"}
    command = [sys.executable, "app.py", "--no-live", *(str(word) for option in options.items() for word in option)]
    env = os.environ | {"TMPDIR": str(temporary)}
    server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=env)
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(360):
            assert server.poll() is None, Path(log.name).read_text()
            try:
                urllib.request.urlopen(address, timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(f"the app did not start: {Path(log.name).read_text()}")
        yield address
    finally:
        server.terminate()
        time.sleep(0.3)
        server.terminate()  # `make app` passes on what its whole group was sent
        server.wait(20)
    assert "Traceback" not in Path(log.name).read_text(), Path(log.name).read_text()


@pytest.fixture(scope="session")
def browser(url: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


def watch(page: Page) -> Page:
    """Errors of the page's scripts are kept in `page.errors`."""
    page.set_default_timeout(WAIT)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    return page


def visit(page: Page, url: str) -> None:
    """Load the page; of a visitor who was never here nothing is kept, and no tab is open yet."""
    page.goto(url)
    page.wait_for_selector("#generate-start", state="attached")  # the address may open another tab


def open_page(browser: Browser, url: str, device: dict[str, Any] = LAPTOP) -> Page:
    """A visitor on a device of their own."""
    page = watch(browser.new_context(**device, accept_downloads=True).new_page())
    visit(page, url)
    return page


def put(page: Page, control: str, value: float) -> None:
    """Type a number into a slider's or number's field. In a fold that was just opened the field stands for two frames
    before Gradio sets it, which would undo what is typed meanwhile."""
    field = page.locator(f"#{control} input[type=number]")
    field.wait_for()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    field.fill(str(value))
    page.keyboard.press("Tab")


@pytest.fixture(scope="session")
def window(browser: Browser) -> Page:
    """The laptop's window that tests share: to load the page again takes a third of what it takes in a new one."""
    return watch(browser.new_context(**LAPTOP, accept_downloads=True).new_page())


@pytest.fixture
def page(window: Page, url: str) -> Iterator[Page]:
    """A fresh visit on a laptop."""
    visit(window, url)
    yield window
    errors, window.errors = window.errors, []
    window.evaluate("sessionStorage.clear()")
    window.goto("about:blank")  # the visit ends, and with it what runs for it and would keep its settings once more
    window.context.new_cdp_session(window).send("Storage.clearDataForOrigin", {"origin": url, "storageTypes": "all"})
    assert errors == []


@pytest.fixture
def another(browser: Browser, url: str) -> Iterator[Page]:
    """A second visitor."""
    page = open_page(browser, url)
    yield page
    page.context.close()
