"""Pictures of a model's classes, the frames of one file that may lie in the model's folder, and how they are shown.

python -m app.common.classes.pictures MODEL_FOLDER [--seed 0]    # drawn by the model, with its own settings
"""

import html
import io
from collections.abc import Mapping
from pathlib import Path

import gradio as gr
from gradio.events import Dependency
from PIL import Image, ImageSequence

from app.common.images import jpeg_uri, open_header, window
from app.common.studio import GLUE, Studio
from app.engine.engine import Engine
from app.engine.model_info import ModelInfo
from app.engine.request import counting
from app.engine.settings import MAX_SEED
from mdt_core.command.parser import Parser, number
from mdt_core.pipeline.open import open_pipeline
from mdt_core.weights.hub import expand

FILE = "class_pictures.webp"
SIDE = 128  # pixels at most
SHOWN_SIDE, COLUMNS = 96, 32  # of a picture on the page, and pictures side by side on its sheet

# A click on a picture selects its class
PICK = """element.addEventListener("click", (event) => {
  const picture = event.target.closest("[data-label]");
  if (picture) trigger("select", {index: Number(picture.dataset.label), value: picture.innerText});
});"""


def pictures_of(engine: Engine, info: ModelInfo) -> dict[int, Image.Image]:
    """The picture of each class of a model of the engine."""
    return class_pictures(engine.models.get(info.name, ""), info.labels)  # none of one that is gone meanwhile


def class_pictures(location: str, labels: Mapping[int, str]) -> dict[int, Image.Image]:
    """The picture of each class of the model that lies there; none where it carries none, or those of other classes."""
    path = expand(location) / FILE
    if not location or not path.is_file():
        return {}
    try:
        file = open_header(path, formats=("WEBP",))
        if file.n_frames != len(labels):
            return {}
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(file)]
    except Exception:  # decoders raise all kinds of exceptions on a damaged file
        return {}
    return dict(zip(labels, frames, strict=True))


def picture_sheet(engine: Engine, info: ModelInfo) -> str:
    """The pictures of all classes as one, row by row, under a name of CSS: all buttons show parts of it."""
    pictures = [*pictures_of(engine, info).values()]
    columns, rows = grid(len(pictures))
    sheet = Image.new("RGB", (columns * SHOWN_SIDE, rows * SHOWN_SIDE))
    for i, picture in enumerate(pictures):
        sheet.paste(picture.resize((SHOWN_SIDE, SHOWN_SIDE)), (i % columns * SHOWN_SIDE, i // columns * SHOWN_SIDE))
    return f"<style>:root {{ --kinds: url({jpeg_uri(sheet, max(sheet.size))}) }}</style>" if pictures else ""


def grid(count: int) -> tuple[int, int]:
    """(columns, rows) of a sheet of so many pictures."""
    return min(count, COLUMNS), -(-count // COLUMNS)


def picture_buttons(labels: Mapping[int, str]) -> str:
    """A button for each class of a model that carries their pictures: the picture above the name, as HTML."""
    columns, rows = grid(len(labels))
    buttons = (
        f'<button type="button" data-label="{label}"><i style="{window(i % columns, i // columns, columns, rows)}"></i>'
        f"<span>{html.escape(name)}</span></button>"
        for i, (label, name) in enumerate(labels.items())
    )
    return f'<div class="kinds" style="--columns: {columns}; --rows: {rows}">{"".join(buttons)}</div>'


def welcome(engine: Engine, info: ModelInfo) -> str:
    """What a model draws, on a stage that is still empty, as HTML."""
    pictures = pictures_of(engine, info)
    todo = "Click one to have another drawn" if pictures else "Pick what to draw and press Generate"
    kinds = f"{len(info.labels)} kind{'s' * (len(info.labels) != 1)}"
    text = f"{info.name} draws pictures of {kinds}, each out of nothing but noise. {todo}."
    buttons = picture_buttons(info.labels) if pictures else ""
    return f'<div class="stage empty"><p>{html.escape(text)}</p>{buttons}</div>'


class ClassPictures:
    """The classes in pictures, in a fold beside their picker; it is there where the model in use carries them."""

    def __init__(self, studio: Studio, fold: gr.Accordion, tab: str):
        self.engine, self.fold = studio.engine, fold
        fold.visible = bool(pictures_of(self.engine, studio.info))
        with fold:
            buttons = picture_buttons(studio.info.labels) if fold.visible else ""
            self.buttons = gr.HTML(buttons, js_on_load=PICK, elem_id=f"{tab}-pictures")

    def wire(self, studio: Studio, picker: gr.Dropdown) -> Dependency:
        """A click picks the class, which is the event that is returned; another model brings its own pictures."""
        studio.model_opened.success(self.show, studio.model, [self.buttons, self.fold], **GLUE)
        return self.buttons.select(picked_classes if picker.multiselect else picked_class, outputs=picker, **GLUE)

    def show(self, model: str) -> tuple[str, dict]:
        """Another model was chosen."""
        info = self.engine.describe(model)
        there = bool(pictures_of(self.engine, info))
        return picture_buttons(info.labels) if there else "", gr.update(visible=there)


def picked_class(event: gr.SelectData) -> int:
    """The class whose picture was clicked."""
    return event.index


def picked_classes(event: gr.SelectData) -> list[int]:
    """The same for a picker of several."""
    return [event.index]


def draw(location: str, seed: int) -> Path:
    """Draw a picture of each class, their seeds counting up -> the file. ValueError where the model is no folder."""
    folder = expand(location)
    if not folder.is_dir():
        raise ValueError(f"{location} is no model's folder: the pictures are kept in it.")
    pipe = open_pipeline(location)
    pictures = pipe(list(pipe.id2label), seeds=counting(seed, len(pipe.id2label))).images
    side = min(SIDE, pipe.image_size)
    first, *others = [picture.resize((side, side), Image.Resampling.LANCZOS) for picture in pictures]
    data = io.BytesIO()
    # each frame by itself: kmax=1
    first.save(data, "WEBP", save_all=True, append_images=others, duration=1000, quality=85, method=6, kmax=1)
    (folder / FILE).write_bytes(data.getvalue())
    return folder / FILE


def main() -> None:
    parser = Parser(
        prog="python -m app.common.classes.pictures", description="Draw a picture of each class of a model."
    )
    parser.add_argument("model", help="pipeline folder")
    parser.add_argument("--seed", type=number(int, 0, MAX_SEED), default=0)
    parser.run(lambda options: print(draw(options.model, options.seed)))


if __name__ == "__main__":
    main()
