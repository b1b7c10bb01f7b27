"""A run as the page keeps it: the previews of its steps on disk, and the files of its result.

The previews of a run of 16 large images take megabytes, so the session holds this object and the pictures lie in a
temporary folder that disappears together with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from gradio.components import Component
from PIL import Image

from app.common.images import publish_picture
from app.common.recipes import of_image
from app.common.run_tab import Job
from app.common.stage import caption, columns_for, pictures
from app.engine.frames import Frame
from app.engine.model_info import ModelInfo
from app.engine.request import Request

PREVIEWS = {"x_0": "What it will become", "x_t": "What it sees"}


@dataclass
class PreviewChoice:
    """Which preview a session looks at, a key of PREVIEWS. All runs of the session see it change."""

    key: str = "x_0"


class Look(Job):
    """A run of which nothing is kept."""

    def __init__(self, request: Request, info: ModelInfo):
        super().__init__((request,), total=request.num_inference_steps)
        self.request, self.info = request, info
        self.captions = [
            f"seed {seed} · {caption(label, info.labels)}"
            for seed, label in zip(request.seeds, request.class_labels, strict=True)
        ]


class StepHistory(Look):
    """A run and the previews of its steps, of which the session's chosen kind is given out."""

    def __init__(self, request: Request, info: ModelInfo, choice: PreviewChoice):
        super().__init__(request, info)
        self.choice = choice
        self.columns = columns_for(len(self.captions))
        self.rows = -(-len(self.captions) // self.columns)
        self.skipped = 0  # unconditional passes saved so far
        self.latest = ""  # the latest preview, as HTML
        self.stored: list[int] = []  # indices of the steps that can be looked at again
        self.files: list[str] = []  # of the result; empty when the run was stopped
        self._folder = TemporaryDirectory(prefix="mdt-studio-")

    def add(self, step: Frame) -> bool:
        """Take in a frame; whether it brings a new preview."""
        self.skipped = step.skipped
        if step.x_0 is not None:
            previews = {key: pictures(getattr(step, key), self.captions) for key in PREVIEWS}
            self.latest = previews[self.choice.key]
            if step.stored:
                for key, preview in previews.items():
                    self._file(step.index, key).write_text(preview, encoding="utf-8")
                self.stored.append(step.index)
        return super().add(step)

    def publish(self, images: Sequence[Image.Image], at: Component) -> None:
        """The result as files."""
        self.files = publish_pictures(self.request, images, self.info, at)

    def at(self, index: int) -> str:
        """The stored step nearest to a step, as HTML. Empty where none was stored."""
        if not self.stored:
            return ""
        nearest = min(self.stored, key=lambda step: abs(step - index))
        return self._file(nearest, self.choice.key).read_text(encoding="utf-8")

    def _file(self, index: int, key: str) -> Path:
        return Path(self._folder.name) / f"{index:04d}.{key}.html"


def publish_pictures(request: Request, images: Sequence[Image.Image], info: ModelInfo, at: Component) -> list[str]:
    """The images as PNG files with their recipes, where `at` serves its files from. `info`: of what drew them."""
    return [
        publish_picture(image, f"{caption(label, info.labels)}-{seed}", at, of_image(request, i, info))
        for i, (image, label, seed) in enumerate(zip(images, request.class_labels, request.seeds, strict=True))
    ]
