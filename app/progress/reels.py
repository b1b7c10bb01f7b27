"""A reel: the pictures of one or two runs over the steps of training, as the frames of a film or on one sheet.

It is made of the runs' samples, all classes at once, or of a strip, one class and seed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from app.common.images import open_image
from app.engine.frames import evenly_spaced
from app.engine.runs import RunSnapshot, SampleSheet
from app.progress.film import classes_of, columns_for
from app.progress.steps import all_steps, at_or_below
from app.progress.strips import Strip
from mdt_core.pipeline.labelled_grid import FAINT, NOTE, PAPER, Cell, LabelledGrid

TILE = (64, 128)  # pixels, at least and at most, of a sample on a film
PICTURE = (256, 512)  # of a strip's picture
LABEL, GAP = 18, 4  # of a class's name below its samples, and between samples


@dataclass(frozen=True)
class Reel:
    """Pictures over the steps; all are of one size, or smaller."""

    runs: tuple[str, ...]
    cells: tuple[Mapping[int, Cell], ...]  # of each run: step -> its picture, or why there is none
    title: str = ""
    footer: tuple[str, ...] = ()
    down: bool = False  # whether a sheet has the steps below each other

    @property
    def size(self) -> tuple[int, int]:
        """Width and height that hold any of the pictures."""
        sizes = [cell.size for cells in self.cells for cell in cells.values() if isinstance(cell, Image.Image)]
        return max(width for width, _ in sizes), max(height for _, height in sizes)

    @property
    def steps(self) -> list[int]:
        """Those at which there is anything."""
        return sorted({step for cells in self.cells for step in cells})

    def frames(self) -> Iterator[Image.Image]:
        """One per step that has a picture; a run without one shows its nearest before, and says so. All of one size."""
        size = self.size
        pictures = [{s: cell for s, cell in cells.items() if isinstance(cell, Image.Image)} for cells in self.cells]
        for step in sorted(set().union(*pictures)):
            shown = [at_or_below(run, step) for run in pictures]
            row = [None if s is None else run[s] for run, s in zip(pictures, shown, strict=True)]
            names = [
                name if s in (step, None) else f"{name} · step {s:,}" for name, s in zip(self.runs, shown, strict=True)
            ]
            footer = (self.title, *self.footer) if self.title else self.footer
            yield LabelledGrid([row], size, column_labels=names, title=f"Step {step:,}", footer=footer).image

    def sheet(self) -> Image.Image:
        """Everything at once: the steps along one side, the runs along the other."""
        steps = [f"step {step:,}" for step in self.steps]
        cells = [[cells.get(step) for step in self.steps] for cells in self.cells]
        rows, columns = self.runs, steps
        if self.down:
            cells, rows, columns = [*zip(*cells, strict=True)], steps, self.runs
        return LabelledGrid(
            cells, self.size, row_labels=rows, column_labels=columns, title=self.title, footer=self.footer
        ).image


def of_samples(runs: Sequence[RunSnapshot], most: int) -> Reel:
    """The samples of some runs, at no more than so many steps. ValueError where there are none."""
    steps = all_steps(runs)
    chosen = {steps[i] for i in evenly_spaced(len(steps), most)}
    cells = [{step: tiles(run, sheet) for step, sheet in run.sheets.items() if step in chosen} for run in runs]
    there = [(run.name, {s: cell for s, cell in row.items() if cell}) for run, row in zip(runs, cells, strict=True)]
    there = [(name, row) for name, row in there if row]
    if not there:
        problems = [run.problem for run in runs if run.problem]
        raise ValueError(problems[0] if problems else "There are no samples yet to make a film of.")
    names, cells = zip(*there, strict=True)
    return Reel(names, cells, down=True)


def of_strip(strip: Strip) -> Reel:
    """The pictures of a strip as far as it was drawn. ValueError where it has none any more."""
    request = strip.request
    pictures = {}
    for key, file in strip.pictures.items():
        try:
            picture = open_image(file, ("PNG",))
        except ValueError as error:
            raise ValueError("The strip's pictures were deleted meanwhile: draw it again.") from error
        side = min(max(picture.width, PICTURE[0]), PICTURE[1])
        pictures[key] = picture.resize((side, side), Image.Resampling.BICUBIC)
    if not pictures:
        raise ValueError("The strip has no picture yet.")
    found = pictures | strip.problems
    cells = tuple({s: found[run, s] for s in strip.steps if (run, s) in found} for run in strip.runs)
    settings = (
        f"{request.sampler}, {request.num_inference_steps} steps · "
        f"scale {request.guidance_scale:g}, power {request.guidance_power:g}"
    )
    return Reel(strip.runs, cells, f"{strip.subject} · seed {request.seeds[0]}", (settings,))


def tiles(run: RunSnapshot, sheet: SampleSheet) -> Image.Image | None:
    """A sheet as the page lays it out: a class's samples above its name. None where the file is gone or damaged."""
    try:
        picture = open_image(sheet.path, ("PNG",))
    except ValueError:
        return None
    names = classes_of(run, picture.size)
    wide, high = picture.width / len(names), picture.height / run.rows
    side = min(max(round(wide), TILE[0]), TILE[1])
    columns = columns_for(len(names), run.rows)
    band = run.rows * (side + GAP) + LABEL
    bands = math.ceil(len(names) / columns)
    paper = Image.new("RGB", (columns * (side + GAP) - GAP, bands * (band + GAP) - GAP), PAPER)
    pen = ImageDraw.Draw(paper)
    for c, name in enumerate(names):
        x, y = c % columns * (side + GAP), c // columns * (band + GAP)
        for row in range(run.rows):
            box = (round(c * wide), round(row * high), round((c + 1) * wide), round((row + 1) * high))
            tile = picture.resize((side, side), Image.Resampling.BICUBIC, box)
            paper.paste(tile, (x, y + row * (side + GAP)))
        NOTE.draw(pen, x + side / 2, y + band - LABEL, NOTE.cut(name, side), FAINT, "ma")
    return paper
