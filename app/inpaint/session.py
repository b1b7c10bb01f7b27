"""What a session keeps of an inpainting run, its results as files, and how its pictures are drawn on the page."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gradio.components import Component
from PIL import Image

from app.common import recipes
from app.common.run_tab import Job
from app.common.stage import caption
from app.engine.engine import ModelInfo
from app.inpaint.easel import Easel, read_mask
from app.inpaint.request import Inpainting, Settings, recipe_of


@dataclass
class Outcome:
    """The files of a finished run."""

    files: list[str]  # PNG of the picture's own size, with recipe
    shown: list[str]  # the same, small enough for a browser
    before: str  # what they were made from, of the size of `shown`
    captions: list[str]
    chosen: int = 0


@dataclass
class InpaintJob(Job):
    """A run."""

    settings: Settings
    easel: Easel
    mask: bytes = field(repr=False)  # PNG of the picture's size: what is painted from now on is not for this run
    running: bool = True
    outcome: Outcome | None = field(default=None, repr=False)

    def start(self, info: ModelInfo) -> None:
        """Its turn has come: open what the engine is asked for. `info`: of the weights that draw it."""
        self.info = info
        self.requests = (Inpainting(self.settings, self.easel.picture(), read_mask(self.mask)),)

    def captions(self) -> list[str]:
        """One per variant."""
        return [f"seed {seed}" for seed in self.settings.seeds]


def publish_results(
    request: Inpainting, images: Sequence[Image.Image], info: ModelInfo, name: str, at: Component
) -> list[str]:
    """The variants as PNG files with their recipes, where `at` serves its files from."""
    label = caption(request.settings.class_label, info.labels)
    recipe = recipe_of(request, 0, info)  # but for the seed the same for all: picture and mask are read once
    return [
        recipes.publish_picture(image, f"{name}-{label}-{seed}", at, recipe | {"seed": seed})
        for image, seed in zip(images, request.settings.seeds, strict=True)
    ]


def publish_outcome(job: InpaintJob, images: Sequence[Image.Image], at: Component) -> Outcome:
    """The results of a run, and copies small enough for a browser."""
    (request,), easel = job.requests, job.easel
    files = shown = publish_results(request, images, job.info, easel.name, at)
    if easel.shown != easel.size:
        shown = [recipes.publish_picture(image.resize(easel.shown), "variant", at) for image in images]
    return Outcome(files, shown, recipes.publish_picture(easel.display(), "before", at), job.captions())
