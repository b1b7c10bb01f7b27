"""Small run folders, written as training writes them, for tests of the app."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from app.engine.runs import RunSnapshot, find_runs, look_at
from mdt_core.runs import Run

CLASSES = ["cat", "dog", "owl"]


def picture(columns: int = 3, rows: int = 2, side: int = 8) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (rows * side, columns * side, 3))
    return Image.fromarray(noise.astype(np.uint8))


def write_checkpoint(folder: Path, shards: int = 1) -> None:
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text("{}")
    for i in range(shards):
        end = f"-{i + 1:05}-of-{shards:05}" if shards > 1 else ""
        save_file({"w": np.ones(100)}, folder / "transformer" / f"diffusion_pytorch_model{end}.safetensors")


def write_run(folder: Path, steps: tuple[int, ...] = (10, 100, 1000), total: int = 1000) -> Run:
    run = Run(folder)
    training = {"steps": total, "batch_size": 16}
    run.write_config({"model": "MDTv2-S/2", "training": training, "samples_per_class": 2, "classes": CLASSES})
    for step in steps:
        run.log({"step": step, "loss": 1 / step, "images_per_second": 8.0})
        run.write_sample(step, picture())
        run.write_evaluation({"step": step, "kid_efflite0": 0.5 / step, "kid_error": 0.01})
    run.write_checkpoint(steps[-1], write_checkpoint)
    (folder / "pipeline").mkdir()
    (folder / "pipeline" / "model_index.json").write_text(json.dumps({"id2label": dict(enumerate(CLASSES))}))
    return run


def write_two_runs(folder: Path) -> Path:
    """A folder of two runs whose steps differ."""
    write_run(folder / "mdt")
    write_run(folder / "dit", steps=(50, 100, 700))
    return folder


def see(runs: Path, name: str = "mdt") -> RunSnapshot:
    """A run of a folder as the page reads it."""
    return look_at(name, find_runs([runs]))
