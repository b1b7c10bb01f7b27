"""A pipeline's steps -> frames: what a page is told of a run, step by step, and when it gets a preview."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

PREVIEW_SECONDS = 0.2  # between two previews: each takes the browser 30 ms of a core that draws, too
PREVIEW_SHARE = 0.2  # of a run's time at most, for previews that nobody looks through afterwards
MAX_STORED = 50  # steps of a run that get a preview however fast they pass

Pictures = list[Image.Image]


@dataclass(frozen=True)
class Frame:
    """One step of a run: PIL images and numbers only, so that it can come from another process."""

    request_index: int  # among the requests of the run
    index: int  # of the step, from 0
    total: int  # steps of this request, repeated ones counted
    position: int  # of the step on its trajectory, from 0: what is repeated comes back to it
    num_steps: int  # of the whole trajectory, as was asked for
    seconds_per_step: float
    seconds_left: float  # of this request
    evaluations: int  # of the model for one image, so far
    skipped: int  # steps so far that needed no unconditional evaluation
    stored: bool  # can be looked at again afterwards
    x_0: Pictures | None = None  # previews of the predicted image; None on a step that passed too quickly
    x_t: Pictures | None = None  # previews of the noisy state
    images: Pictures | None = None  # the result, on the last step

    @property
    def seconds(self) -> float:
        """Since the start of this request."""
        return self.seconds_per_step * (self.index + 1)


def frames_of(
    steps: Iterator[Any],
    draw: Callable[[Any], dict[str, Pictures]],
    request_index: int = 0,
    costs: Sequence[int] | None = None,
    stored: Collection[int] = (),
    positions: Sequence[int] | None = None,
    num_steps: int | None = None,
) -> Iterator[Frame]:
    """The steps of a stream as frames.

    Previews come on the first step, on the stored ones, and else no more often than a browser can show.

    Args:
        steps: of the pipeline.
        draw: a step -> its previews, as a frame's `x_0` and `x_t`.
        costs: model evaluations of every step; all alike by default.
        stored: indices of the steps that can be looked at again afterwards.
        positions: of every step on the trajectory; by default each step is one further.
        num_steps: of the whole trajectory; by default as many as are run.
    """
    start = time.perf_counter()
    latest, cost = -math.inf, 0.0  # when the last preview was drawn, and the seconds that it took
    for step in steps:
        now = time.perf_counter()
        index, total = step.index, step.total
        costs = costs or [1] * total
        done, left = sum(costs[: index + 1]), sum(costs[index + 1 :])
        frame = Frame(
            request_index=request_index,
            index=index,
            total=total,
            position=index if positions is None else positions[index],
            num_steps=num_steps or total,
            seconds_per_step=(now - start) / (index + 1),
            seconds_left=(now - start) / done * left,
            evaluations=done,
            skipped=step.skipped,
            stored=index in stored,
            images=step.images,
        )
        if frame.stored or now - latest >= max(PREVIEW_SECONDS, cost * (1 / PREVIEW_SHARE - 1)):
            frame = replace(frame, **draw(step))
            latest = time.perf_counter()
            cost = latest - now
        yield frame


def evenly_spaced(total: int, most: int = MAX_STORED) -> frozenset[int]:
    """At most `most` of the numbers 0..total-1, evenly spaced, the first and the last among them."""
    if total <= most:
        return frozenset(range(total))
    return frozenset(round(i * (total - 1) / (most - 1)) for i in range(most))
