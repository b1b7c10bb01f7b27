"""A strip: one class and seed drawn with the weights of every checkpoint of one or two runs, in the order of steps.

Where the weights of a step were not kept, a strip shows what training itself drew of the class there. What was drawn
for a checkpoint, class, seed and settings is kept as a file and not drawn again. A checkpoint that cannot be read
leaves its reason in its cell, and the others are drawn all the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from PIL import Image

from app.common import recipes
from app.common.comparison import Comparison, Side, to_recipe
from app.common.stage import caption
from app.engine.engine import Engine
from app.engine.frames import evenly_spaced
from app.engine.models import checkpoint_name
from app.engine.request import Request
from app.engine.runs import RunSnapshot, reason
from app.engine.sheets import SampleSheet

MOST_STEPS = 16  # of a strip: of more checkpoints, so many are evenly chosen


@dataclass(frozen=True)
class StripCell:
    """One picture of a strip: a checkpoint, and what is asked of it."""

    run: str
    step: int
    request: Request  # of one image; its model is the checkpoint
    version: int  # changes with the checkpoint's files
    problem: str  # why the checkpoint cannot be read, or ""

    @property
    def key(self) -> tuple[str, int]:
        return self.run, self.step


@dataclass(frozen=True)
class Sample:
    """What training drew of a class at a step, with a seed and settings of its own: the first row of its sheet."""

    sheet: SampleSheet
    column: int


@dataclass
class Strip:
    """What is to be drawn, and how far it has come; kept by the session."""

    runs: tuple[str, ...]
    steps: tuple[int, ...]  # of all runs
    cells: tuple[StripCell, ...]  # step by step; none where nothing was asked for
    subject: str  # the class's name
    samples: dict[tuple[str, int], Sample]  # (run, step) -> what stands where nothing is drawn
    pictures: dict[tuple[str, int], str] = field(default_factory=dict)  # (run, step) -> PNG file
    problems: dict[tuple[str, int], str] = field(default_factory=dict)  # (run, step) -> why there is no picture
    drawn: int = 0  # of the pictures; the others had been drawn before
    seconds: float = 0.0  # that it took

    @property
    def done(self) -> int:
        """How many cells have a picture or a reason."""
        return len(self.pictures) + len(self.problems)

    @property
    def request(self) -> Request:
        """The class, seed and settings that all cells share."""
        return self.cells[0].request


@dataclass(frozen=True)
class StripUpdate:
    """Where the drawing of a strip is."""

    cell: StripCell
    preview: Image.Image | None  # of its picture, unless it is done or nothing new is to be seen
    done: bool  # whether the cell has its picture or its reason
    seconds_left: float | None  # of the strip; None before anything was drawn


class PictureCache:
    """Files of pictures, by what was asked of which weights. Forgets those that the server has deleted meanwhile, and
    the oldest where it holds more than `max_files`."""

    def __init__(self, max_files: int = 4096):
        self.max_files = max_files
        self._files: dict[tuple[Request, int], str] = {}

    def find(self, cell: StripCell) -> str | None:
        """The file of a cell's picture, if it was drawn before."""
        file = self._files.get((cell.request, cell.version))
        return file if file and Path(file).exists() else None

    def keep(self, cell: StripCell, file: str) -> None:
        """Remember the file of a cell's picture."""
        self._files[cell.request, cell.version] = file
        while len(self._files) > self.max_files:
            del self._files[next(iter(self._files))]


def chosen_steps(runs: Sequence[RunSnapshot]) -> list[int]:
    """The steps of a strip: at most MOST_STEPS of those with a checkpoint, the first and the last among them."""
    steps = sorted({step for run in runs for step in run.checkpoints})
    return [steps[i] for i in sorted(evenly_spaced(len(steps), MOST_STEPS))]


def samples_of(
    runs: Sequence[RunSnapshot], name: str | None, drawn: Sequence[int] = ()
) -> dict[tuple[str, int], Sample]:
    """What training drew of a class, where it can be found by its name: at the steps that are `drawn`, and at as many
    others as a strip has room for."""
    samples = {
        (run.name, step): Sample(sheet, run.classes.index(name))
        for run in runs
        for step, sheet in run.sheets.items()
        if name in run.classes and len(run.classes) == sheet.columns
    }
    others, room = sorted({step for _, step in samples} - set(drawn)), MOST_STEPS - len(drawn)
    chosen = {others[i] for i in (evenly_spaced(len(others), room) if room > 1 else ())}
    return {key: sample for key, sample in samples.items() if key[1] in chosen or key[1] in drawn}


def at_rest(runs: Sequence[RunSnapshot], label: int | None) -> Strip:
    """The strip of what training drew of a class, numbered as by `offered_labels`, before anything else is drawn."""
    name = offered_labels(runs).get(label)
    samples = samples_of(runs, name)
    steps = tuple(sorted({step for _, step in samples}))
    shown = tuple(run.name for run in runs if any(key[0] == run.name for key in samples))
    return Strip(shown, steps, (), name or "no class", samples)


def offered_labels(runs: Sequence[RunSnapshot]) -> dict[int, str]:
    """The classes to choose from: of the runs with checkpoints, or of the sheets where there is none."""
    able = [run for run in runs if run.checkpoints]
    return shared_labels(able or [replace(run, labels=dict(enumerate(run.classes))) for run in runs])


def shared_labels(runs: Sequence[RunSnapshot]) -> dict[int, str]:
    """The classes that all of these runs know, as the first one numbers them."""
    known = [set(run.labels.values()) for run in runs]
    labels = runs[0].labels if runs else {}
    return {index: name for index, name in labels.items() if all(name in names for names in known)}


def shared_settings(runs: Sequence[RunSnapshot]) -> dict[str, Any]:
    """What a strip of these runs begins with, by keys of SAMPLING: what suits the first that has checkpoints, guided by
    the class unless all are guided otherwise. The weights of a student are no checkpoint's."""
    able = [run for run in runs if run.checkpoints and run.sampling_defaults]
    if not able:
        return {}
    kinds = {run.sampling_defaults["guidance_kind"] for run in able}
    kind = kinds.pop() if len(kinds) == 1 else "class"
    return able[0].sampling_defaults | {"guidance_kind": kind, "distilled": False}


def plan(runs: Sequence[RunSnapshot], request: Request) -> Strip:
    """The strip of some runs for a request of one image, whose model is not used.

    The class is numbered as in the first run that has checkpoints, and found in the others by its name.

    Raises:
        ValueError: a run cannot be read or has no such class, or none has a checkpoint.
    """
    able = runs_with_checkpoints(runs)
    (label,) = request.class_labels
    if label is not None and label not in able[0].labels:
        raise ValueError(f"{able[0].name} has no class {label}.")
    name = None if label is None else able[0].labels[label]
    numbers = {run.name: class_in(run, label, name) for run in able}
    steps = chosen_steps(able)
    cells = [
        StripCell(
            run=run.name,
            step=step,
            request=replace(request, model=checkpoint_name(run.name, step), class_labels=(numbers[run.name],)),
            version=run.weights_versions[step],
            problem=run.checkpoints[step],
        )
        for step in steps
        for run in able
        if step in run.checkpoints
    ]
    samples, subject = samples_of(able, name, steps), caption(label, able[0].labels)
    columns = tuple(sorted({*steps, *(step for _, step in samples)}))
    return Strip(tuple(run.name for run in able), columns, tuple(cells), subject, samples)


def runs_with_checkpoints(runs: Sequence[RunSnapshot]) -> list[RunSnapshot]:
    """Those of the runs that a strip has pictures of. ValueError where one cannot be read, or none has a checkpoint."""
    for run in runs:
        if run.problem:
            raise ValueError(f"{run.name}: {run.problem}")
    able = [run for run in runs if run.checkpoints]
    if not able:
        names = " and ".join(run.name for run in runs) or "Nothing"
        raise ValueError(f"{names} kept no checkpoint to draw with.")
    return able


def class_in(run: RunSnapshot, label: int | None, name: str | None) -> int | None:
    """A class of another run in this one. ValueError where it has none of that name."""
    notes: list[str] = []
    found = recipes.find_classes([label], [name], run, notes)
    if notes:
        raise ValueError(f"{notes[0]}.")
    return found[0]


def draw(engine: Engine, strip: Strip, cache: PictureCache, publish: Callable[..., str]) -> Iterator[StripUpdate]:
    """Fill a strip, checkpoint after checkpoint. Closing the iterator ends it after the sampling step in hand.

    Args:
        engine: opens each checkpoint by its name.
        publish: (picture, name, recipe=) -> the path of a PNG file that the page can fetch.
    """
    todo = sum(not cell.problem and cache.find(cell) is None for cell in strip.cells)
    tried, start = 0, perf_counter()  # checkpoints opened so far

    def seconds_left(checkpoints: float) -> float | None:
        """If those to come take as long as these did."""
        strip.seconds = perf_counter() - start
        return strip.seconds * max(todo - checkpoints, 0) / checkpoints if checkpoints else None

    for cell in strip.cells:
        problem, file = cell.problem, cache.find(cell)
        if not problem and file is None:
            try:
                info = engine.describe(cell.request.model)
                with closing(engine.run((cell.request,))) as frames:
                    for frame in frames:
                        left = seconds_left(tried + (frame.index + 1) / frame.total)
                        yield StripUpdate(cell, frame.x_0 and frame.x_0[0], False, left)
                name = f"{cell.run}-{cell.step}-{strip.subject}-{cell.request.seeds[0]}"
                file = publish(frame.images[0], name, recipe=recipes.of_image(cell.request, 0, info))
                cache.keep(cell, file)
                strip.drawn += 1
            except (ValueError, OSError, KeyError) as error:  # damaged, or deleted meanwhile
                problem = reason(error)
            tried += 1
        if problem:
            strip.problems[cell.key] = problem
        else:
            strip.pictures[cell.key] = file
        yield StripUpdate(cell, None, True, seconds_left(tried))


def recipe_of(strip: Strip, engine: Engine) -> dict | None:
    """The recipe that makes a strip again: a comparison over its checkpoints. None where there is no picture, or where
    its runs number the class differently, which a comparison cannot say."""
    drawn = [cell for run in strip.runs for cell in strip.cells if cell.run == run and cell.key in strip.pictures]
    labels = {cell.request.class_labels for cell in drawn}
    if len(labels) != 1:
        return None
    base, models = drawn[0].request, tuple(cell.request.model for cell in drawn)
    columns, rows = Side("model", models), Side("class", *labels)
    return to_recipe(Comparison(base, columns, rows), engine.describe(base.model))
