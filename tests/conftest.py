"""What every test shares: no telemetry, no hub, as many threads as cores, and how workers share the tests out."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported: before any test module
# A worker has a cache of its own: Gradio names a file by its content, and a test may delete what another one serves.
os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="gradio-tests-")

import torch

from mdt_core.acceleration.machine import usable_cores

atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)

threads = max(1, usable_cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", str(threads))))  # for the programs tested, too

BROWSER = Path(__file__).parent / "browser"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in a browser share one server, so one worker runs them all; of the others the slow ones come first."""
    for item in items:
        if BROWSER in item.path.parents:
            item.add_marker("browser")
            item.add_marker(pytest.mark.xdist_group("browser"))
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """What the imports made stays: no collection of garbage goes through it again, which took a second each."""
    gc.collect()
    gc.freeze()
