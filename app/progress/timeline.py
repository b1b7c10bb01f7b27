"""A timeline: pictures of one or two runs over the steps of training, to be kept as an animation or as one grid.

The pictures are the runs' samples, of all classes, or those of a strip, of one class and seed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from app.common.images import open_image
from app.engine.frames import evenly_spaced
from app.engine.runs import RunSnapshot
from app.engine.sheets import SampleSheet
from app.progress.steps import all_steps, at_or_below
from app.progress.strip import Sample, Strip
from app.progress.view import classes_of, columns_for
from mdt_core.pipeline.labelled_grid import FAINT, NOTE, PAPER, Cell, LabelledGrid, largest

SAMPLE = (64, 128)  # pixels that a sample has, at least and at most
PICTURE = (256, 512)  # the same of a strip's picture
LABEL, GAP = 18, 4  # pixels of a class's name below its samples, and between samples


@dataclass(frozen=True)
class Timeline:
    """Pictures over the steps. They need not be of one size: a place has room for the largest."""

    runs: tuple[str, ...]
    cells: tuple[Mapping[int, Cell], ...]  # of each run: step -> its picture, or why there is none
    title: str = ""
    footer: tuple[str, ...] = ()
    down: bool = False  # whether the grid has the steps below each other

    @property
    def size(self) -> tuple[int, int]:
        """Width and height that hold any of the pictures."""
        return largest([list(cells.values()) for cells in self.cells])

    @property
    def steps(self) -> list[int]:
        """Those at which there is anything."""
        return sorted({step for cells in self.cells for step in cells})

    def frames(self) -> Iterator[Image.Image]:
        """One per step that has a picture; a run without one shows its nearest before, and says so. All of one size."""
        footer = (self.title, *self.footer) if self.title else self.footer
        pictures = [{s: cell for s, cell in cells.items() if isinstance(cell, Image.Image)} for cells in self.cells]
        for step in sorted(set().union(*pictures)):
            row, labels = [], []
            for name, of_run in zip(self.runs, pictures, strict=True):
                shown = at_or_below(of_run, step)
                row.append(of_run.get(shown))
                labels.append(name if shown in (step, None) else f"{name} · step {shown:,}")
            yield LabelledGrid([row], self.size, column_labels=labels, title=f"Step {step:,}", footer=footer).image

    def grid(self) -> Image.Image:
        """Everything at once: the steps along one side, the runs along the other."""
        cells = [[cells.get(step) for step in self.steps] for cells in self.cells]
        labels = {"row_labels": self.runs, "column_labels": [f"step {step:,}" for step in self.steps]}
        if self.down:
            cells = [*zip(*cells, strict=True)]
            labels = {"row_labels": labels["column_labels"], "column_labels": self.runs}
        return LabelledGrid(cells, self.size, **labels, title=self.title, footer=self.footer).image


def samples_timeline(runs: Sequence[RunSnapshot], most: int) -> Timeline:
    """The samples of some runs, at no more than so many steps. ValueError where there are none."""
    steps = all_steps(runs)
    chosen = {steps[i] for i in evenly_spaced(len(steps), most)}
    pictures = {}
    for run in runs:
        laid_out = {step: lay_out(run, sheet) for step, sheet in run.sheets.items() if step in chosen}
        if readable := {step: picture for step, picture in laid_out.items() if picture}:
            pictures[run.name] = readable
    if not pictures:
        problems = [run.problem for run in runs if run.problem]
        raise ValueError(problems[0] if problems else "There are no samples yet to make an animation of.")
    return Timeline(tuple(pictures), tuple(pictures.values()), down=True)


def strip_timeline(strip: Strip) -> Timeline:
    """The pictures of a strip as far as it was drawn. ValueError where it has none any more."""
    samples = {key: sample for key, sample in strip.samples.items() if key not in strip.pictures | strip.problems}
    try:
        pictures = {key: open_image(file, ("PNG",)) for key, file in strip.pictures.items()}
        pictures |= {key: cut_out(sample) for key, sample in samples.items()}
    except ValueError as error:
        raise ValueError("The strip's pictures were deleted meanwhile: draw it again.") from error
    if not pictures:
        raise ValueError("The strip has no picture yet.")
    cells = {key: enlarged(picture) for key, picture in pictures.items()} | strip.problems
    of_runs = tuple({s: cells[run, s] for s in strip.steps if (run, s) in cells} for run in strip.runs)
    title, footer = strip.subject, []
    if strip.cells:
        request = strip.request
        title += f" · seed {request.seeds[0]}"
        settings = f"{request.sampler}, {request.num_inference_steps} steps"
        footer.append(f"{settings} · scale {request.guidance_scale:g}, power {request.guidance_power:g}")
    if samples:
        steps = ", ".join(f"{step:,}" for step in sorted({step for _, step in samples}))
        footer.append(f"drawn during training, with a seed and settings of its own: step {steps}")
    return Timeline(strip.runs, of_runs, title, tuple(footer))


def enlarged(picture: Image.Image) -> Image.Image:
    """A square picture of a size to look at."""
    side = min(max(picture.width, PICTURE[0]), PICTURE[1])
    return picture.resize((side, side), Image.Resampling.BICUBIC)


def cut_out(sample: Sample) -> Image.Image:
    """A sample out of its sheet. ValueError where the file is gone or damaged."""
    return sample.sheet.cut_out(open_image(sample.sheet.path, ("PNG",)), sample.column)


def lay_out(run: RunSnapshot, sheet: SampleSheet) -> Image.Image | None:
    """A sheet as on the page, each class's samples above its name. None where the file is gone or damaged."""
    try:
        picture = open_image(sheet.path, ("PNG",))
    except ValueError:
        return None
    names, rows = classes_of(run, sheet), sheet.rows
    side = min(max(round(picture.width / len(names)), SAMPLE[0]), SAMPLE[1])
    columns = columns_for(len(names), rows)
    band = rows * (side + GAP) + LABEL
    bands = math.ceil(len(names) / columns)
    paper = Image.new("RGB", (columns * (side + GAP) - GAP, bands * (band + GAP) - GAP), PAPER)
    pen = ImageDraw.Draw(paper)
    for c, name in enumerate(names):
        x, y = c % columns * (side + GAP), c // columns * (band + GAP)
        for row in range(rows):
            sample = sheet.cut_out(picture, c, row).resize((side, side), Image.Resampling.BICUBIC)
            paper.paste(sample, (x, y + row * (side + GAP)))
        NOTE.draw(pen, x + side / 2, y + band - LABEL, NOTE.cut(name, side), FAINT, "ma")
    return paper
