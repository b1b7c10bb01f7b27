"""What every test shares: no telemetry, no hub, nothing compiled, few threads, and how workers share the tests out."""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported: before any test module
# Each process would spend seconds on compiling an optimizer; a test of what is compiled asks for `compiling`.
os.environ["TORCH_COMPILE_DISABLE"] = "1"
# A worker has a cache of its own: Gradio names a file by its content, and a test may delete what another one serves.
os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="gradio-tests-")

atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)


@pytest.fixture
def compiling() -> Iterator[None]:
    """`torch.compile` compiles in this test, and must."""
    import torch
    from torch._dynamo.utils import counters

    from mdt_core.training.optimizers import compiled_pass

    torch._dynamo.reset()
    counters.clear()
    compiled_pass.cache_clear()  # of a test before, in which nothing was compiled
    with torch._dynamo.config.patch(disable=False):
        yield
    assert counters["stats"]["unique_graphs"] > 0
    compiled_pass.cache_clear()


BROWSER = Path(__file__).parent / "browser"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker runs those that fork a server, and each file of browser tests, which share one and a browser.

    The longest come first.
    """
    for item in items:
        if item.get_closest_marker("forked"):
            item.add_marker("slow")
            item.add_marker(pytest.mark.xdist_group("forked"))
        if BROWSER in item.path.parents:
            item.add_marker("browser")
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: [item.get_closest_marker(mark) is None for mark in ("browser", "slow")])


def pytest_collection_finish() -> None:
    """Once all is imported, in each worker (and not in what shares out the tests, which need not wait for torch)."""
    import torch

    from mdt_core.acceleration.machine import usable_cores

    threads = max(1, usable_cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", str(threads))))  # for the programs tested, too
    # What the imports made stays: no collection of garbage goes through it again, which took a second each.
    gc.collect()
    gc.freeze()
