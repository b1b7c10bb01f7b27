"""What the page shows of a run, as HTML: the stage, where its pictures appear, and the status line above it."""

import html
from collections.abc import Sequence

from PIL import Image

from app.common.images import jpeg_uri
from app.engine.frames import Frame
from app.engine.request import Label
from mdt_core.pipeline.labels import label_text

STAGE_SIDE = 640  # pixels that the tiles of one frame share
STAGE_ASPECT = 1.5  # width / height of the place they have on the page


def caption(label: Label, labels: dict[int, str]) -> str:
    """A class, or a mix of classes, as people read it."""
    return label_text(dict(label) if isinstance(label, tuple) else label, labels)


def columns_for(count: int) -> int:
    """The number of columns that makes `count` square tiles largest in the place they have."""
    return max(range(1, count + 1), key=lambda columns: min(STAGE_ASPECT / columns, 1 / -(-count // columns)))


def figure(content: str, caption: str, **attributes: object) -> str:
    """A picture (HTML, as of `image`), or what stands in its place, above its caption; `data_x=1` becomes data-x."""
    said = "".join(f' {name.replace("_", "-")}="{html.escape(str(value))}"' for name, value in attributes.items())
    return f"<figure{said}>{content}<figcaption>{html.escape(caption)}</figcaption></figure>"


def image(source: str, alt: str) -> str:
    """A picture at an address or in a data URI, as HTML. It replaces another one without a flash."""
    return f'<img src="{html.escape(source)}" alt="{html.escape(alt)}" decoding="sync">'


def pictures(tiles: Sequence[Image.Image], captions: Sequence[str]) -> str:
    """Pictures with captions on the stage, as HTML."""
    columns = columns_for(len(tiles))
    side = max(64, STAGE_SIDE // columns)
    figures = [figure(image(jpeg_uri(tile, side), text), text) for tile, text in zip(tiles, captions, strict=True)]
    rows = -(-len(tiles) // columns)
    return f'<div class="stage" style="--columns: {columns}; --rows: {rows}">{"".join(figures)}</div>'


def message(text: str) -> str:
    """A sentence on an empty stage, as HTML."""
    return f'<div class="stage empty"><p>{html.escape(text)}</p></div>'


def status_line(fraction: float, text: str) -> str:
    """A bar filled to `fraction`, 0 to 1, and a text (HTML): of a run, its first and last are read aloud."""
    bar = f'<div class="bar"><i style="width: {100 * fraction:.1f}%"></i></div>'
    return f'<div class="status">{bar}<span>{text}</span></div>'


WAITING = status_line(0, "Waiting for the model …")  # until a run's first step


def waiting_line(before: int) -> str:
    """The status line of a run that waits until so many others are over."""
    return status_line(0, f"Waiting: {before} run{'s' * (before != 1)} before this one …") if before else WAITING


def describe_step(frame: Frame) -> str:
    """Where a run is: step, speed, time left."""
    return (
        f"Step <b>{frame.position + 1}</b> of {frame.num_steps} · {frame.seconds_per_step:.2f} s per step"
        f" · {duration(frame.seconds_left)} left"
    )


def duration(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
