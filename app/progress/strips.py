"""A strip: one class and seed drawn with the weights of every checkpoint of one or two runs, in the order of steps.

What was drawn for a checkpoint, class, seed and settings is kept as a file and not drawn again. A checkpoint that
cannot be read has its reason in its place, and the others are drawn all the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

from PIL import Image

from app.common import recipes
from app.common.comparison import Comparison, to_recipe
from app.common.stage import caption
from app.engine.engine import Engine
from app.engine.frames import evenly_spaced
from app.engine.models import checkpoint_name
from app.engine.request import Request
from app.engine.runs import RunSnapshot, reason

MOST = 16  # steps of a strip: of more checkpoints, so many are evenly chosen


@dataclass(frozen=True)
class Place:
    """One picture of a strip: a checkpoint, and what is asked of it."""

    run: str
    step: int
    request: Request  # of one image; its model is the checkpoint
    version: int  # changes with the checkpoint's files
    problem: str  # why the checkpoint cannot be read, or ""

    @property
    def key(self) -> tuple[str, int]:
        return self.run, self.step


@dataclass
class Strip:
    """What is to be drawn, and how far it has come; kept by the session."""

    runs: tuple[str, ...]
    steps: tuple[int, ...]  # of all runs
    places: tuple[Place, ...]  # step by step
    subject: str  # the class's name
    pictures: dict[tuple[str, int], str] = field(default_factory=dict)  # (run, step) -> PNG file
    problems: dict[tuple[str, int], str] = field(default_factory=dict)  # (run, step) -> why there is no picture
    drawn: int = 0  # of the pictures; the others had been drawn before
    seconds: float = 0.0  # that it took

    @property
    def done(self) -> int:
        """Places that have a picture or a reason."""
        return len(self.pictures) + len(self.problems)

    @property
    def request(self) -> Request:
        """The class, seed and settings that all places share."""
        return self.places[0].request


@dataclass(frozen=True)
class Moment:
    """While a strip is drawn."""

    place: Place
    number: int  # of the place, from 1
    preview: Image.Image | None  # of its picture, unless it is done or nothing new is to be seen
    done: bool  # the place is
    seconds_left: float | None  # of the strip; None before anything was drawn


class Album:
    """Files of pictures, by what was asked of which weights. The server deletes its files in time: the album forgets
    those, and the oldest where it holds too many."""

    def __init__(self, most: int = 4096):
        self.most = most
        self._files: dict[tuple[Request, int], str] = {}

    def find(self, place: Place) -> str | None:
        """The file of a place's picture, if it was drawn before."""
        file = self._files.get((place.request, place.version))
        return file if file and Path(file).exists() else None

    def keep(self, place: Place, file: str) -> None:
        """Remember the file of a place's picture."""
        self._files[place.request, place.version] = file
        while len(self._files) > self.most:
            del self._files[next(iter(self._files))]


def chosen_steps(runs: Sequence[RunSnapshot]) -> list[int]:
    """The steps at which a strip has pictures: of all checkpoints, at most MOST, the first and the last among them."""
    steps = sorted({step for run in runs for step in run.checkpoints})
    return [steps[i] for i in sorted(evenly_spaced(len(steps), MOST))]


def shared_labels(runs: Sequence[RunSnapshot]) -> dict[int, str]:
    """The classes that all of these runs know, as the first one numbers them."""
    known = [set(run.labels.values()) for run in runs]
    labels = runs[0].labels if runs else {}
    return {index: name for index, name in labels.items() if all(name in names for names in known)}


def plan(runs: Sequence[RunSnapshot], request: Request) -> Strip:
    """The strip of some runs for a request of one image, whose class is one of the first run that has checkpoints; its
    model is not used. ValueError where a run cannot be read or has no such class, or none has a checkpoint."""
    for run in runs:
        if run.problem:
            raise ValueError(f"{run.name}: {run.problem}")
    able = [run for run in runs if run.checkpoints]
    if not able:
        names = " and ".join(run.name for run in runs) or "Nothing"
        raise ValueError(f"{names} kept no checkpoint to draw with.")
    (label,) = request.class_labels
    if label is not None and label not in able[0].labels:
        raise ValueError(f"{able[0].name} has no class {label}.")
    name = None if label is None else able[0].labels[label]
    numbers = {run.name: class_in(run, label, name) for run in able}
    steps = chosen_steps(able)
    places = [
        Place(
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
    subject = caption(label, able[0].labels)
    return Strip(tuple(run.name for run in able), tuple(steps), tuple(places), subject)


def class_in(run: RunSnapshot, label: int | None, name: str | None) -> int | None:
    """A class of another run in this one. ValueError where it has none of that name."""
    notes: list[str] = []
    found = recipes.find_classes([label], [name], run, notes)
    if notes:
        raise ValueError(f"{notes[0]}.")
    return found[0]


def draw(engine: Engine, strip: Strip, album: Album, publish: Callable[[bytes, str], str]) -> Iterator[Moment]:
    """Fill a strip, checkpoint after checkpoint; stopped by being closed, after the sampling step in hand at most.

    Args:
        engine: opens each checkpoint by its name.
        publish: puts PNG bytes where the page can fetch them, under a name; the path.
    """
    todo = sum(not place.problem and album.find(place) is None for place in strip.places)
    tried, start = 0, perf_counter()  # checkpoints opened so far
    for number, place in enumerate(strip.places, 1):
        problem, file = place.problem, album.find(place)
        if not problem and file is None:
            try:
                info = engine.describe(place.request.model)
                with closing(engine.run((place.request,))) as frames:
                    for frame in frames:
                        share = tried + (frame.index + 1) / frame.total
                        strip.seconds = perf_counter() - start
                        left = strip.seconds * max(todo - share, 0) / share
                        yield Moment(place, number, frame.x_0 and frame.x_0[0], False, left)
                png = recipes.to_png(frame.images[0], recipes.of_image(place.request, 0, info))
                file = publish(png, f"{place.run}-{place.step}-{strip.subject}-{place.request.seeds[0]}")
                album.keep(place, file)
                strip.drawn += 1
            except (ValueError, OSError, KeyError) as error:  # damaged, or deleted meanwhile
                problem = reason(error)
            tried += 1
        if problem:
            strip.problems[place.key] = problem
        else:
            strip.pictures[place.key] = file
        strip.seconds = perf_counter() - start
        yield Moment(place, number, None, True, strip.seconds * (todo - tried) / tried if tried else None)


def recipe_of(strip: Strip, engine: Engine) -> dict | None:
    """What makes a strip again: a comparison over its checkpoints. None where it has no picture, or its runs number
    the class differently, which a comparison cannot say."""
    drawn = [place for run in strip.runs for place in strip.places if place.run == run and place.key in strip.pictures]
    labels = {place.request.class_labels for place in drawn}
    if len(labels) != 1:
        return None
    base, models = drawn[0].request, tuple(place.request.model for place in drawn)
    return to_recipe(Comparison(base, *labels, "model", models), engine.describe(base.model))
