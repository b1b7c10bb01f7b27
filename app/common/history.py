"""What a visitor has made on a tab: small pictures, the newest first. A click brings back how one was made.

Every picture's file holds its own recipe, so that nothing but the files is kept: by the browser, for as long as the
server has them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency

from app.common.images import jpeg, open_image, publish, uploaded
from app.common.studio import GLUE, Studio, Update

MOST = 24  # pictures
SIDE = 124  # pixels of a small one: twice as many as it is shown with


def picture_strip(elem_id: str, pictures: Sequence[str] | None = None, **options: Any) -> gr.Gallery:
    """Small pictures in a row that are clicked, not looked at. `options`: as of a gallery."""
    plain = {"rows": 1, "show_label": False, "allow_preview": False, "interactive": False, "buttons": []}
    return gr.Gallery(pictures, elem_id=elem_id, **plain, **{"elem_classes": "strip"} | options)


class History:
    """The strip, in a fold that is there once something was made."""

    def __init__(self, fold: gr.Accordion, tab: str):
        fold.visible = False
        self.fold = fold
        with fold:
            gr.HTML('<p class="note">Click a picture to bring back the settings that made it.</p>')
            self.strip = picture_strip(f"{tab}-history", columns=MOST, elem_classes="strip history")
        self.made = gr.JSON([], visible=False)  # {"file": path, "small": path}, the newest first
        self.name = f"{tab}-made"  # in the browser's memory

    def wire(
        self, studio: Studio, runs: Sequence[Dependency], job: gr.State, files_of: Callable[[Any], Sequence[str]]
    ) -> None:
        """Add what a run has made. `files_of`: a job -> its files, none where it was stopped."""
        shown = [self.made, self.strip, self.fold]
        for run in runs:
            run.then(lambda job, made: self.add(files_of(job) if job else [], made), [job, self.made], shown, **GLUE)
        studio.keep(self.made.change, self.name, [self.made], "v[0]")
        studio.page.load(self.bring_back, studio.kept, shown, **GLUE)

    def add(self, files: Sequence[str], made: Any) -> Any:
        """Show new files before the others."""
        before = self.usable(made)
        known = {row["file"] for row in before}
        new = [{"file": file, "small": self.shrink(file)} for file in files if file not in known]
        return self.show([*new, *before]) if new else gr.skip()

    def bring_back(self, kept: Any) -> Any:
        """The page was loaded again: what the browser kept, as far as the server still has it."""
        made = self.usable(kept.get(self.name) if isinstance(kept, dict) else None)
        if not made:
            return gr.skip()
        return self.show(made) | {self.fold: gr.update(visible=True, open=kept.get(self.fold.elem_id) is True)}

    def show(self, made: list[dict[str, str]]) -> Update:
        """The newest ones."""
        made = made[:MOST]
        return {self.made: made, self.strip: [row["small"] for row in made], self.fold: gr.update(visible=True)}

    def shrink(self, file: str) -> str:
        """A small copy of a picture, as a file that the browser can fetch."""
        return publish(jpeg(open_image(file), SIDE), "small", self.strip, ".jpg")

    def usable(self, made: Any) -> list[dict[str, str]]:
        """Of what a browser sends, the rows whose files are here and were made for browsers."""
        rows = []
        for row in made if isinstance(made, list) else []:
            try:
                paths = {name: uploaded({"path": row[name]}) for name in ("file", "small")}
            except (KeyError, TypeError, ValueError):
                continue
            if all(Path(path).is_file() for path in paths.values()):  # they are deleted after a day
                rows.append(paths)
        return rows
