"""The sheets of a training run: what its samples looked like at a step, in one picture."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

MOST_PIXELS, MOST_SAMPLES = 1 << 26, 1024  # of a sheet
SMALLEST_SIDE = 4  # pixels of a sample


@dataclass(frozen=True)
class SampleSheet:
    """The picture of a step's samples: a column per class, a row per seed."""

    path: Path
    version: int  # changes with the file
    size: tuple[int, int]  # pixels
    columns: int
    rows: int

    def cut_out(self, picture: Image.Image, column: int, row: int = 0) -> Image.Image:
        """One sample out of the sheet's picture."""
        wide, high = picture.width / self.columns, picture.height / self.rows
        box = (column * wide, row * high, (column + 1) * wide, (row + 1) * high)
        return picture.crop(tuple(map(round, box)))


@lru_cache(maxsize=1024)
def read_sheet(path: Path, rows: int, version: int) -> SampleSheet:
    """A sheet whose bytes are whole; no pixel is decoded. ValueError says what is wrong."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            width, height = image.size
            image.verify()
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise all kinds of exceptions on broken data
        raise ValueError("this picture is damaged or cut short") from error
    columns = round(width * rows / height)
    fits = rows > 0 and 0 < columns <= MOST_SAMPLES // rows and min(width / columns, height / rows) >= SMALLEST_SIDE
    if not fits or width * height > MOST_PIXELS:
        raise ValueError(f"a picture of {width} x {height} pixels is no sheet with {rows:,} samples of each class")
    return SampleSheet(path, version, (width, height), columns, rows)
