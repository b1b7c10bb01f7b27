"""Live on the Inpaint tab: the quick result lies in the painter, inside the mask, and the next stroke goes on."""

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from app.common.images import jpeg_uri
from app.common.live import Latest, first_images
from app.common.stage import describe_step, duration, status_line
from app.common.studio import GLUE, Update
from app.engine.frames import Frame
from app.inpaint.job import InpaintJob
from app.inpaint.page import PAINTING, Page
from app.inpaint.painter import Painted

LOOK_SIDE = 1024  # pixels of the picture that is drawn live


class LivePainting(Page):
    """What is drawn at once stays on the canvas: it is taken from nobody's hand, and no file is kept."""

    def wire_live(self, asked: Sequence[Component], page: Sequence[Component], js: str | None = None) -> Dependency:
        drawn = super().wire_live(asked, page, js)
        self.live.look_at(self.painter.stroke)
        self.live.drop_at(self.painter.touch)
        self.live.switch.input(self.hide_look, [self.live.switch, self.painter], self.painter, **GLUE)
        return drawn

    def look_job(self, job: InpaintJob) -> InpaintJob:
        """Few steps of one variant."""
        job.request = self.look_of(first_images(job.request))
        return job

    def draw_whole(self, job: InpaintJob, latest: Latest, count: int) -> Iterator[Update]:
        """All steps of one variant, in the same place."""
        job.request = first_images(job.request)
        return self.draw(job, latest, count)

    def look(self, job: InpaintJob, step: Frame) -> Update:
        """The picture so far, under the mask that it is for."""
        text = describe_step(step)
        if step.images:
            text = f"A quick look: {job.total} steps in {duration(job.seconds)}. Press Inpaint to draw and keep it."
        picture = (step.images or step.x_0)[0]
        value = with_look(job.painted, jpeg_uri(picture, LOOK_SIDE))
        return self.switch_to(PAINTING) | {
            self.painter: gr.update(value=value, visible=True),
            self.status: status_line(job.done / job.total, text),
        }

    def hide_look(self, on: bool, painted: Painted) -> Any:
        """Live was turned off: the picture as it is."""
        return gr.skip() if on or not painted else with_look(painted, None)


def with_look(painted: Painted, look: str | None) -> dict[str, Any]:
    """The value that shows a look (a data URI) inside the mask that it was drawn for, and leaves the overlay alone."""
    return {key: value for key, value in (painted or {}).items() if key != "overlay"} | {"look": look}
