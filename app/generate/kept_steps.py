"""A run as the page keeps it: its previews step by step on disk, and the files of its result.

The previews of a run of 16 large images take megabytes, so the session holds this object and the pictures lie in a
temporary folder that disappears together with it.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from app.common.stage import caption, columns_for, pictures
from app.engine.frames import Frame
from app.engine.request import Request

VIEWS = {"x_0": "Predicted image", "x_t": "Noisy state"}


@dataclass
class View:
    """What a session looks at, a key of VIEWS. Changed while its runs wait and go on, which all see it."""

    key: str = "x_0"


class Trajectory:
    """The kept steps of one run, of which the pictures in the session's current view are given out."""

    def __init__(self, request: Request, labels: dict[int, str], view: View):
        self.request = request
        self.view = view
        self.captions = [
            f"seed {seed} · {caption(label, labels)}"
            for seed, label in zip(request.seeds, request.class_labels, strict=True)
        ]
        self.columns = columns_for(len(self.captions))
        self.rows = -(-len(self.captions) // self.columns)
        self.total = request.num_inference_steps
        self.seen = 0  # steps done
        self.seconds = 0.0  # that they took
        self.skipped = 0  # unconditional passes saved in them
        self.kept: list[int] = []
        self.files: list[str] = []  # of the result; empty when the run was stopped
        self._folder = TemporaryDirectory(prefix="mdt-studio-")

    def add(self, frame: Frame) -> str | None:
        """Take in a frame; its picture as HTML in the current view, or None where it has none."""
        self.seen = frame.index + 1
        self.seconds = frame.seconds_per_step * self.seen
        self.skipped = frame.skipped
        if frame.x_0 is None:
            return None
        drawn = {view: pictures(getattr(frame, view), self.captions) for view in VIEWS}
        if frame.kept:
            for view, picture in drawn.items():
                self._file(frame.index, view).write_text(picture, encoding="utf-8")
            self.kept.append(frame.index)
        return drawn[self.view.key]

    def at(self, index: int) -> str:
        """The kept step nearest to a step, as HTML in the current view. Empty where nothing was kept."""
        if not self.kept:
            return ""
        nearest = min(self.kept, key=lambda step: abs(step - index))
        return self._file(nearest, self.view.key).read_text(encoding="utf-8")

    def _file(self, index: int, view: str) -> Path:
        return Path(self._folder.name) / f"{index:04d}.{view}.html"
