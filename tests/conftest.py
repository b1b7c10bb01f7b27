"""What every test shares: no telemetry, no hub, and as many threads as cores, however many workers run."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported: before any test module

import torch

from mdt_core.acceleration.machine import usable_cores

threads = max(1, usable_cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", str(threads))))  # for the programs tested, too
