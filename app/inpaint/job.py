"""An inpainting run as the session keeps it, and the files of its results."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradio.components import Component
from PIL import Image

from app.common.images import publish_picture
from app.common.run_tab import Job
from app.common.stage import caption
from app.engine.model_info import ModelInfo
from app.inpaint.masks import mask_png, read_mask
from app.inpaint.painter import Painted
from app.inpaint.request import InpaintRequest, recipe_of
from app.inpaint.source_image import SourceImage


@dataclass
class Results:
    """The files of a finished run."""

    files: list[str]  # PNG of the picture's own size, with recipe
    display_files: list[str]  # the same, small enough for a browser
    before: str  # what they were made from, of the size of `display_files`
    captions: list[str]
    chosen: int = 0


class InpaintJob(Job):
    """A run; between its turns it holds picture and mask as files, for they may take hundreds of megabytes."""

    def __init__(self, request: InpaintRequest, source: SourceImage, painted: Painted = None):
        super().__init__(())
        self.request = replace(request, image=None, mask=None)
        self.source = source
        self.painted = painted  # what the painter showed
        self.mask = mask_png(request.mask)  # what is painted from now on is not for this run
        self.captions = [f"seed {seed}" for seed in request.seeds]
        self.running = True
        self.results: Results | None = None

    def start(self, info: ModelInfo) -> None:
        """Its turn has come. `info`: of the weights that draw it."""
        self.info = info
        self.requests = (replace(self.request, image=self.source.image(), mask=read_mask(self.mask)),)

    def publish(self, images: Sequence[Image.Image], at: Component) -> None:
        """The results as files, and copies small enough for a browser."""
        source = self.source
        before = source.publish_display(at)
        files = display_files = publish_variants(self.requests[0], images, self.info, source.name, at)
        if source.display_size != source.size:
            display_files = [publish_picture(image.resize(source.display_size), "variant", at) for image in images]
        self.results = Results(files, display_files, before, self.captions)

    def end(self) -> None:
        """However it ended."""
        self.running, self.requests = False, ()


def publish_variants(
    request: InpaintRequest, images: Sequence[Image.Image], info: ModelInfo, name: str, at: Component
) -> list[str]:
    """The variants as PNG files with their recipes, where `at` serves its files from."""
    label = caption(request.class_labels[0], info.labels)
    recipe = recipe_of(request, 0, info)  # but for the seed the same for all: picture and mask are read once
    return [
        publish_picture(image, f"{name}-{label}-{seed}", at, recipe | {"seed": seed})
        for image, seed in zip(images, request.seeds, strict=True)
    ]
