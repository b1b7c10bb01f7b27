"""The stand-in pipeline with inpainting: real crop, grow and paste; one flat colour per seed in place of a model."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from mdt_core.pipeline.canvas import fit_canvas
from tests.helpers.stand_in import StandInPipeline


@dataclass
class InpaintStep:
    index: int
    total: int
    skipped: int
    x_0: torch.Tensor  # (N, 3) colours
    images: list[Image.Image] | None = field(repr=False)


class InpaintingStandIn(StandInPipeline):
    """`asked`: the settings of every run."""

    def __init__(self, **options: object):
        super().__init__(**options)
        self.asked: list[dict] = []

    def stream_inpaint(
        self, image: Image.Image, mask: np.ndarray, *, seeds: list[int], num_inference_steps: int, **settings: object
    ) -> Iterator[InpaintStep]:
        self.asked.append({"seeds": seeds, "num_inference_steps": num_inference_steps} | settings)
        edges = {name: settings[name] for name in ("area", "grow", "feather")}
        canvas = fit_canvas(np.asarray(image), mask, self.image_size, cell=4, **edges)
        colours = torch.tensor([[seed % 7 / 7, seed % 5 / 5, seed % 3 / 3] for seed in seeds])
        self.log.append("start")
        try:
            for index in range(num_inference_steps):
                time.sleep(self.seconds)
                self.log.append(f"step {index}")
                last = index + 1 == num_inference_steps
                new = [Image.fromarray(canvas.paste(flat(colour, self.image_size))) for colour in colours]
                yield InpaintStep(index, num_inference_steps, 0, colours, new if last else None)
        finally:
            self.log.append("closed")

    def preview_images(self, x_0: torch.Tensor) -> list[Image.Image]:
        squares = ((flat(colour, self.image_size) + 1) * 127.5 for colour in x_0)
        return [Image.fromarray(square.byte().permute(1, 2, 0).numpy()) for square in squares]


def flat(colour: torch.Tensor, side: int) -> torch.Tensor:
    """(3,) -> (3, side, side)."""
    return colour[:, None, None].expand(3, side, side)
